//! Points and signs can be replaced while scales stay, blocks then decode to `scale * (sign * point + shift)`, bit for bit, and
//! the nearest ones are.

use ggquant::Format;
use ggquant::block::vector;
use ggquant::encode::{Run, nearest_codes};
use ggquant::reference::codebook::Signs;
use proptest::prelude::*;

/// Formats with codebooks, as the GGUF documentation describes them: points, weights of a vector.
const VECTORS: [(Format, usize, usize); 7] = [
    (Format::IQ1_S, 2048, 8),
    (Format::IQ1_M, 2048, 8),
    (Format::IQ2_XXS, 256, 8),
    (Format::IQ2_XS, 512, 8),
    (Format::IQ2_S, 1024, 8),
    (Format::IQ3_XXS, 256, 4),
    (Format::IQ3_S, 512, 4),
];

const BLOCKS: usize = 3;

fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed | 1;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// Points and signs that a format can have.
fn codes(format: Format, seed: u64) -> (Vec<u16>, Vec<u8>) {
    let codec = format.vector_codes().unwrap();
    let weights = BLOCKS * format.info().block_len;
    let known = (codec.points)().len() / codec.dims;
    let mut next = random(seed);
    let points = (0..weights / codec.dims).map(|_| next(known as u64) as u16).collect();
    let signs = (0..codec.sign_bytes(weights)).map(|_| {
        let signs = next(256) as u8;
        if codec.signs == Some(Signs::Even) { signs ^ ((signs.count_ones() % 2) as u8) << 7 } else { signs }
    });
    (points, signs.collect())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn these_formats_and_no_others_have_codebooks() {
    let found: Vec<_> = Format::ALL.iter().copied().filter(|f| f.vector_codes().is_some()).collect();
    let mut wanted = VECTORS.map(|(format, ..)| format).to_vec();
    wanted.sort_by_key(|f| Format::ALL.iter().position(|g| g == f));
    assert_eq!(found, wanted);
    for (format, points, dims) in VECTORS {
        let codec = format.vector_codes().unwrap();
        assert_eq!(((codec.points)().len(), codec.dims), (points * dims, dims), "{format}");
    }
    assert!(vector::grid(Format::Q4_K, &[]).is_none());
    assert!(nearest_codes(Format::Q4_K, &[0; 144], &[0.0; 256], 256, Run::default()).is_err());
}

#[test]
fn what_a_codebook_does_not_have_is_refused() {
    for (format, known, _) in VECTORS {
        let data = vec![0; BLOCKS * format.info().block_bytes];
        let (mut points, mut signs) = codes(format, 3);
        assert!(vector::with_codes(format, &data, &points, &signs).is_some(), "{format}");
        if format.vector_codes().unwrap().signs == Some(Signs::Even) {
            signs[5] ^= 1;
            assert!(vector::with_codes(format, &data, &points, &signs).is_none(), "{format}");
            signs[5] ^= 1;
        }
        points[7] = known as u16;
        assert!(vector::with_codes(format, &data, &points, &signs).is_none(), "{format}");
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut x = vec![0.0; 512 * 40];
    x[512 * 33 + 7] = f32::NAN;
    let error = nearest_codes(Format::IQ2_XS, &[0; 74 * 80], &x, 512, Run::default()).unwrap_err();
    assert!(error.to_string().contains("row 33"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any bytes are blocks whose scales decode somehow; the reference decoder says what codes mean.
    #[test]
    fn decoding_is_the_grid(which in 0..VECTORS.len(), bytes in prop::collection::vec(any::<u8>(), BLOCKS * 110), seed in any::<u64>()) {
        let format = VECTORS[which].0;
        let info = format.info();
        let codec = format.vector_codes().unwrap();
        let data = &bytes[..BLOCKS * info.block_bytes];
        let (points, signs) = codes(format, seed);
        let grid = vector::grid(format, data).unwrap();
        let changed = vector::with_codes(format, data, &points, &signs).unwrap();
        let kept = vector::grid(format, &changed).unwrap();
        prop_assert_eq!(bits(&kept.scale), bits(&grid.scale));
        prop_assert_eq!(bits(&kept.shift), bits(&grid.shift));
        let (block_points, block_signs) = (info.block_len / codec.dims, codec.sign_bytes(info.block_len));
        for (b, block) in changed.chunks_exact(info.block_bytes).enumerate() {
            let (mut own, mut own_signs) = (vec![0; block_points], vec![0; block_signs]);
            (codec.codes)(block, &mut own, &mut own_signs);
            prop_assert_eq!(&own, &points[b * block_points..][..block_points]);
            prop_assert_eq!(&own_signs, &signs[b * block_signs..][..block_signs]);
        }
        let coordinates = (codec.points)();
        let mut decoded = vec![0.0; BLOCKS * info.block_len];
        (format.reference().decode_row)(&changed, &mut decoded);
        for (i, &value) in decoded.iter().enumerate() {
            let point = coordinates[usize::from(points[i / codec.dims]) * codec.dims + i % codec.dims];
            let minus = signs.get(i / 8).is_some_and(|bits| bits >> (i % 8) & 1 == 1);
            let level = if minus { -point } else { point } + grid.shift.get(i / codec.dims).copied().unwrap_or(0.0);
            let wanted = grid.scale[i / codec.sub_len] * level;
            // The payload of a NaN (a scale that is one) is not defined.
            prop_assert!(value.to_bits() == wanted.to_bits() || value.is_nan() && wanted.is_nan(), "{} {i}: {value} {wanted}", format);
        }
    }

    /// What blocks decode to is nearest to itself, and no point is nearer to weights than the one that they get.
    #[test]
    fn the_nearest_codes_are(which in 0..VECTORS.len(), seed in any::<u64>(), spread in 0.01f32..3.0) {
        let format = VECTORS[which].0;
        let info = format.info();
        let codec = format.vector_codes().unwrap();
        let (points, signs) = codes(format, seed);
        let mut next = random(!seed);
        let base: Vec<f32> = (0..BLOCKS * info.block_len).map(|_| next(2000) as f32 / 1000.0 - 1.0).collect();
        let ones = vec![1.0; info.block_len];
        let mut data = vec![0; BLOCKS * info.block_bytes];
        for (x, out) in base.chunks_exact(info.block_len).zip(data.chunks_exact_mut(info.block_bytes)) {
            (format.reference().encode_row)(x, Some(&ones), out);
        }
        let data = vector::with_codes(format, &data, &points, &signs).unwrap();
        let mut values = vec![0.0; base.len()];
        (format.reference().decode_row)(&data, &mut values);
        for threads in [1, 2] {
            let run = Run { threads: Some(threads), interrupt: None };
            prop_assert_eq!(&nearest_codes(format, &data, &values, info.block_len, run).unwrap(), &data);
        }

        let moved: Vec<f32> = values.iter().zip(&base).map(|(v, b)| v + spread * b).collect();
        let found = nearest_codes(format, &data, &moved, info.block_len, Run::default()).unwrap();
        let mut near = vec![0.0; base.len()];
        (format.reference().decode_row)(&found, &mut near);
        let coordinates = (codec.points)();
        let grid = vector::grid(format, &data).unwrap();
        for (v, (x, own)) in moved.chunks_exact(codec.dims).zip(near.chunks_exact(codec.dims)).enumerate() {
            let scale = f64::from(grid.scale[v * codec.dims / codec.sub_len]);
            let shift = f64::from(grid.shift.get(v).copied().unwrap_or(0.0));
            let distance = |level: &dyn Fn(usize) -> f64| {
                (0..codec.dims).map(|i| (f64::from(x[i]) - scale * (level(i) + shift)).powi(2)).sum::<f64>()
            };
            let mine = distance(&|i| f64::from(own[i]) / scale - shift);
            for point in coordinates.chunks_exact(codec.dims) {
                // With the signs that were chosen: those of the weights but for one, where they must be even.
                let other = distance(&|i| if own[i] < 0.0 && shift == 0.0 { -f64::from(point[i]) } else { f64::from(point[i]) });
                // Distances are added up in f32: 8 roundings of 2^-24 each, and those of the quotients.
                prop_assert!(mine <= other * (1.0 + 1e-5) + 1e-12, "{format} {v}: {mine} {other}");
            }
            if codec.signs == Some(Signs::Any) {
                prop_assert!((0..codec.dims).all(|i| x[i] == 0.0 || (x[i] < 0.0) == (own[i] < 0.0)), "{format} {v}");
            }
        }
    }
}
