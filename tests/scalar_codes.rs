//! Codes can be replaced while scales stay, and blocks then decode to `scale * table[code] + offset`, bit for bit.

use ggquant::Format;
use ggquant::block::scalar;
use proptest::prelude::*;

/// Formats whose weights have codes of their own, as the GGUF documentation describes them.
const SCALAR: [Format; 18] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
    Format::TQ1_0,
    Format::TQ2_0,
    Format::MXFP4,
    Format::NVFP4,
    Format::Q1_0,
    Format::Q2_0,
];

#[test]
fn these_formats_and_no_others_have_codes() {
    let found: Vec<_> = Format::ALL.iter().copied().filter(|f| f.scalar_codes().is_some()).collect();
    let mut wanted = SCALAR.to_vec();
    wanted.sort_by_key(|f| Format::ALL.iter().position(|g| g == f));
    assert_eq!(found, wanted);
    assert!(scalar::grid(Format::IQ2_XS, &[]).is_none());
}

#[test]
fn a_code_beyond_the_table_is_refused() {
    for format in SCALAR {
        let info = format.info();
        let levels = format.scalar_codes().unwrap().table.len();
        let (data, mut codes) = (vec![0; info.block_bytes], vec![0; info.block_len]);
        codes[3] = (levels - 1) as u8;
        assert!(scalar::with_codes(format, &data, &codes).is_some(), "{format}");
        if let Ok(code) = u8::try_from(levels) {
            codes[3] = code;
            assert!(scalar::with_codes(format, &data, &codes).is_none(), "{format}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes are blocks whose scales decode somehow; the reference decoder says what codes mean.
    #[test]
    fn decoding_is_the_grid(which in 0..SCALAR.len(), bytes in prop::collection::vec(any::<u8>(), 3 * 210), seed in any::<u64>()) {
        let format = SCALAR[which];
        let info = format.info();
        let codec = format.scalar_codes().unwrap();
        let data = &bytes[..3 * info.block_bytes];
        let mut state = seed | 1;
        let codes: Vec<u8> = (0..3 * info.block_len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % codec.table.len() as u64) as u8
        }).collect();
        let grid = scalar::grid(format, data).unwrap();
        let changed = scalar::with_codes(format, data, &codes).unwrap();
        let kept = scalar::grid(format, &changed).unwrap();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&kept.scale), bits(&grid.scale));
        prop_assert_eq!(bits(&kept.offset), bits(&grid.offset));
        let mut decoded = vec![0.0; codes.len()];
        (format.reference().decode_row)(&changed, &mut decoded);
        for (i, (&value, &code)) in decoded.iter().zip(&codes).enumerate() {
            let j = i / codec.sub_len;
            let mut wanted = grid.scale[j] * f32::from(codec.table[usize::from(code)]);
            if codec.has_offset {
                wanted += grid.offset[j];
            }
            // The payload of a NaN (a scale that is one) is not defined.
            prop_assert!(value.to_bits() == wanted.to_bits() || value.is_nan() && wanted.is_nan(), "{} {i}: {value} {wanted}", format);
        }
    }
}
