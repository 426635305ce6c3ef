//! Encoders and decoders of the block formats against ggml's bytes, and what must hold for any input.

#[path = "common/golden.rs"]
mod golden;
#[path = "common/rows.rs"]
mod rows;

use ggquant::{Format, ImatrixUse};
use golden::{Digest, Golden};
use proptest::prelude::*;

/// Seed, rows of each kind, and lengths of rows as in `tests/data/golden/adversarial.py`.
const SEED: u64 = 20_240_229;
const ROUNDS: u64 = 24;

/// Rows of [`NEGATIVE_SEED`] for which least squares under `rows::weights` ends, by cancellation, on a negative scale for some
/// sub-block: rare, and what happens to it then is a matter of casts.
const NEGATIVE: [u64; 28] = [
    5411, 14983, 41329, 41418, 44898, 48480, 50328, 52475, 56719, 59691, 64128, 71424, 75931, 77506, 77863, 80496,
    83053, 83651, 84091, 85043, 89922, 90034, 97797, 100842, 103512, 111658, 112723, 114621,
];
/// See [`NEGATIVE`].
const NEGATIVE_SEED: u64 = 5;

/// The formats of this file: all but those with codebooks.
const FORMATS: [Format; 21] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q8_1,
    Format::Q1_0,
    Format::Q2_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::Q8_K,
    Format::TQ1_0,
    Format::TQ2_0,
    Format::MXFP4,
    Format::NVFP4,
];

fn row_len(format: Format, index: u64) -> usize {
    let turn = (index / rows::KINDS) as usize;
    match format.info().block_len {
        1 => 64,
        256 => 256 * (1 + turn % 3),
        block => block * (1 + turn % 7),
    }
}

/// Seed, number and length of each row of a kind; the rows with negative scales are one more kind.
fn cases(format: Format, kind: u64) -> Vec<(u64, u64, usize)> {
    if kind == rows::KINDS {
        NEGATIVE.map(|index| (NEGATIVE_SEED, index, 256)).to_vec()
    } else {
        let indices = (0..ROUNDS).map(|round| round * rows::KINDS + kind);
        indices.map(|index| (SEED, index, row_len(format, index))).collect()
    }
}

fn encode(format: Format, x: &[f32], imatrix: Option<&[f32]>) -> Vec<u8> {
    // Filled, so that a byte left unwritten shows.
    let mut out = vec![0x5a; format.info().row_bytes(x.len()).unwrap()];
    (format.reference().encode_row)(x, imatrix, &mut out);
    out
}

fn decode(format: Format, data: &[u8]) -> Vec<f32> {
    let info = format.info();
    let mut out = vec![f32::NAN; data.len() / info.block_bytes * info.block_len];
    (format.reference().decode_row)(data, &mut out);
    out
}

fn validate(format: Format, data: &[u8]) -> Result<(), String> {
    (format.reference().validate_row)(data).map_err(|fault| format!("block {}: {}", fault.block, fault.what))
}

#[test]
fn golden_rows_encode_to_ggmls_bytes() {
    let golden = Golden::read();
    let mut compared = 0;
    for format in FORMATS {
        for (imatrix, suffix) in [(None, ""), (Some(golden.imatrix.as_slice()), "/imatrix")] {
            let Some(expected) = golden.blocks.get(&format!("{format}{suffix}")) else { continue };
            let rows = expected.chunks_exact(expected.len() / golden.rows.len());
            for ((x, name), expected) in golden.rows.iter().zip(&golden.names).zip(rows) {
                assert!(encode(format, x, imatrix) == expected, "{format}{suffix}: row '{name}' differs");
                compared += 1;
            }
        }
    }
    // F32 is not in the file, F16 and BF16 are there plain only, Q8_1 and Q8_K are not stored.
    assert_eq!(compared, (2 + 2 * 16) * 28);
}

#[test]
fn adversarial_rows_encode_to_ggmls_bytes() {
    let mut failures = Vec::new();
    let mut digests = golden::adversarial();
    digests.retain(|(_, what, _), _| what != "decode");
    assert_eq!(digests.len() as u64, FORMATS.len() as u64 * 2 * (rows::KINDS + 1));
    for ((name, what, kind), expected) in digests {
        let format: Format = name.parse().unwrap();
        let mut digest = Digest::new();
        for (seed, index, len) in cases(format, kind) {
            let imatrix = (what == "imatrix").then(|| rows::weights(seed, index, len));
            let data = encode(format, &rows::row(seed, index, len), imatrix.as_deref());
            digest.update(data.into_iter().map(u64::from));
        }
        if digest.0 != expected {
            failures.push(format!("{name} {what} kind {kind}"));
        }
    }
    assert!(failures.is_empty(), "bytes differ: {failures:?}");
}

#[test]
fn random_bytes_decode_to_ggmls_bits() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for ((name, what, kind), expected) in golden::adversarial() {
        if what != "decode" {
            continue;
        }
        let format: Format = name.parse().unwrap();
        let mut digest = Digest::new();
        for (_, index, len) in cases(format, kind) {
            let bytes = format.info().row_bytes(len).unwrap();
            let weights = decode(format, &rows::random_bytes(SEED + 1, index, bytes));
            digest.update(weights.into_iter().map(|v| u64::from(if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() })));
        }
        compared += 1;
        if digest.0 != expected {
            failures.push(format!("{name} kind {kind}"));
        }
    }
    assert!(failures.is_empty(), "bits differ: {failures:?}");
    // ggml has no decoder for Q8_1, and F32 is decoded by copying.
    assert_eq!(compared, (FORMATS.len() as u64 - 2) * (rows::KINDS + 1));
}

#[test]
fn formats_that_ignore_the_imatrix_are_marked_so() {
    let x = rows::row(SEED, 0, 512);
    let imatrix: Vec<f32> = (0..512).map(|i| 1.0 + (i % 7) as f32).collect();
    for format in FORMATS {
        let changes = encode(format, &x, None) != encode(format, &x, Some(&imatrix));
        let expected = match format.info().imatrix {
            ImatrixUse::Ignored => false,
            ImatrixUse::Optional => true,
            ImatrixUse::Required => panic!("{format} has a plain encoder"),
        };
        assert_eq!(changes, expected, "{format}");
    }
}

#[test]
fn error_falls_with_bits() {
    // Root mean square error over that of the weights, for bell-shaped weights: at most this, and at least half of it.
    let bounds = [
        (Format::Q1_0, 0.60),
        (Format::TQ1_0, 0.90),
        (Format::TQ2_0, 0.90),
        (Format::Q2_0, 0.90),
        (Format::Q2_K, 0.34),
        (Format::Q3_K, 0.17),
        (Format::MXFP4, 0.16),
        (Format::NVFP4, 0.12),
        (Format::Q4_0, 0.105),
        (Format::Q4_1, 0.085),
        (Format::Q4_K, 0.080),
        (Format::Q5_0, 0.052),
        (Format::Q5_1, 0.042),
        (Format::Q5_K, 0.040),
        (Format::Q6_K, 0.022),
        (Format::Q8_0, 0.0065),
        (Format::Q8_1, 0.0065),
        (Format::Q8_K, 0.0085),
        (Format::BF16, 0.0020),
        (Format::F16, 0.00025),
    ];
    for (format, bound) in bounds {
        let (mut error, mut total) = (0.0, 0.0);
        for round in 0..64 {
            let x = rows::row(SEED, round * rows::KINDS, 512);
            // NVFP4 scales reach from 2^-9 to 448.
            let x: Vec<f32> = x.iter().map(|v| v / x.iter().fold(0.0, |m: f32, v| m.max(v.abs()))).collect();
            let decoded = decode(format, &encode(format, &x, None));
            error += x.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            total += x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        let relative = (error / total).sqrt();
        assert!((bound / 2.0..bound).contains(&relative), "{format}: {relative}");
    }
}

#[test]
fn moderate_weights_give_valid_blocks() {
    for format in FORMATS {
        for round in 0..64 {
            let x = rows::row(SEED, round * rows::KINDS, 512);
            let imatrix = rows::weights(SEED, round, 512);
            assert_eq!(validate(format, &encode(format, &x, None)), Ok(()), "{format}");
            if imatrix.iter().all(|w| *w < 1e10) {
                assert_eq!(validate(format, &encode(format, &x, Some(&imatrix))), Ok(()), "{format}");
            }
        }
    }
}

#[test]
fn validation_names_the_first_bad_block() {
    // Format, offset of a scale in the block, what to put there, what is said.
    let inf = 0x7c00u16.to_le_bytes();
    let nan = 0xfe00u16.to_le_bytes();
    let cases: [(Format, usize, &[u8], &str); 27] = [
        (Format::F32, 0, &f32::NEG_INFINITY.to_le_bytes(), "value is -inf"),
        (Format::F16, 0, &nan, "value is NaN"),
        (Format::BF16, 0, &[0x80, 0x7f], "value is inf"),
        (Format::BF16, 0, &[0x81, 0xff], "value is NaN"),
        (Format::Q4_0, 0, &inf, "scale d is inf"),
        (Format::Q4_1, 0, &inf, "scale d is inf"),
        (Format::Q4_1, 2, &nan, "minimum m is NaN"),
        (Format::Q5_0, 0, &nan, "scale d is NaN"),
        (Format::Q5_1, 0, &inf, "scale d is inf"),
        (Format::Q5_1, 2, &inf, "minimum m is inf"),
        (Format::Q8_0, 0, &nan, "scale d is NaN"),
        (Format::Q8_1, 0, &inf, "scale d is inf"),
        (Format::Q8_1, 2, &inf, "scaled sum s is inf"),
        (Format::Q1_0, 0, &inf, "scale d is inf"),
        (Format::Q2_0, 0, &inf, "scale d is inf"),
        (Format::Q2_K, 80, &nan, "scale d is NaN"),
        (Format::Q2_K, 82, &inf, "scale dmin is inf"),
        (Format::Q3_K, 108, &inf, "scale d is inf"),
        (Format::Q4_K, 0, &inf, "scale d is inf"),
        (Format::Q4_K, 2, &nan, "scale dmin is NaN"),
        (Format::Q5_K, 0, &nan, "scale d is NaN"),
        (Format::Q5_K, 2, &inf, "scale dmin is inf"),
        (Format::Q6_K, 208, &inf, "scale d is inf"),
        (Format::Q8_K, 0, &f32::NAN.to_le_bytes(), "scale d is NaN"),
        (Format::TQ1_0, 52, &inf, "scale d is inf"),
        (Format::TQ2_0, 64, &nan, "scale d is NaN"),
        (Format::MXFP4, 0, &[255], "exponent e is 255, which stands for NaN"),
    ];
    for (format, offset, bytes, what) in cases {
        let size = format.info().block_bytes;
        let mut data = vec![0; 4 * size];
        assert_eq!(validate(format, &data), Ok(()), "{format}");
        for block in [3, 2] {
            data[block * size + offset..][..bytes.len()].copy_from_slice(bytes);
            assert_eq!(validate(format, &data), Err(format!("block {block}: {what}")), "{format}");
        }
    }
    // Every byte is a scale of NVFP4.
    assert_eq!(validate(Format::NVFP4, &[0xff; 36]), Ok(()));
}

/// Any finite floats of any magnitude, or of magnitudes close to each other.
fn finite_row(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let any = prop::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), len);
    let alike = (prop::collection::vec(-1.0f32..1.0, len), -40i32..38)
        .prop_map(|(v, e)| v.into_iter().map(|v| v * 10f32.powi(e)).collect());
    prop_oneof![any, alike]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics, every byte is written, and without row-wide sums each block stands for itself.
    #[test]
    fn any_finite_row_encodes_block_by_block(x in finite_row(512), w in finite_row(512)) {
        let w: Vec<f32> = w.iter().map(|v| v.abs()).collect();
        for format in FORMATS {
            let info = format.info();
            let whole = encode(format, &x, None);
            let parts: Vec<u8> = x.chunks_exact(info.block_len).flat_map(|x| encode(format, x, None)).collect();
            prop_assert_eq!(&whole, &parts, "{}", format);
            decode(format, &whole);
            encode(format, &x, Some(&w));
            if info.block_len == 256 {
                let whole = encode(format, &x, Some(&w));
                let parts: Vec<u8> =
                    x.chunks_exact(256).zip(w.chunks_exact(256)).flat_map(|(x, w)| encode(format, x, Some(w))).collect();
                prop_assert_eq!(whole, parts, "{} with an importance matrix", format);
            }
        }
    }

    /// The float formats give back what they can hold, and the nearest of it otherwise.
    #[test]
    fn floats_round_to_nearest(x in finite_row(64), bits in any::<[u16; 64]>()) {
        prop_assert_eq!(decode(Format::F32, &encode(Format::F32, &x, None)), x.clone());
        for format in [Format::F16, Format::BF16] {
            let held: Vec<u8> = bits.iter().flat_map(|b| (b & 0xbf7f).to_le_bytes()).collect();
            prop_assert_eq!(&encode(format, &decode(format, &held), None), &held);
            for (bytes, x) in encode(format, &x, None).as_chunks::<2>().0.iter().zip(&x) {
                let bits = u16::from_le_bytes(*bytes);
                let distance = |bits: u16| (f64::from(decode(format, &bits.to_le_bytes())[0]) - f64::from(*x)).abs();
                // Beyond the range there is no nearest; the neighbours of zero cross the sign.
                if distance(bits).is_finite() && bits & 0x7fff != 0 {
                    prop_assert!(distance(bits) <= distance(bits + 1) && distance(bits) <= distance(bits - 1));
                }
            }
        }
    }

    /// Blocks whose extreme code is used decode to weights that encode to the same weights again.
    #[test]
    fn decoded_weights_encode_to_themselves(bytes in prop::collection::vec(any::<u8>(), 292), exponent in 8u16..24) {
        // A scale that is neither subnormal nor near overflow, and a block in which the first weight has the extreme code.
        let scale = ((exponent << 10) | u16::from(bytes[291]) << 2).to_le_bytes();
        let block = |format: Format, at: usize, scale: &[u8]| {
            let mut block = bytes[..format.info().block_bytes].to_vec();
            block[at..at + scale.len()].copy_from_slice(scale);
            block
        };
        let mut q8_0 = block(Format::Q8_0, 0, &[scale[0], scale[1], 127]);
        q8_0[3..].iter_mut().filter(|q| **q == 128).for_each(|q| *q = 0);
        let mxfp4 = block(Format::MXFP4, 0, &[100 + bytes[290] % 50, 7]);
        let mut q2_0 = block(Format::Q2_0, 0, &scale);
        let mut tq2_0 = block(Format::TQ2_0, 64, &scale);
        for codes in [&mut q2_0[2..], &mut tq2_0[..64]] {
            // No code 3, and the first weight at the scale.
            codes.iter_mut().for_each(|b| *b &= !((*b & (*b >> 1) & 0x55) * 3));
            codes[0] = (codes[0] & !3) | 2;
        }
        let blocks = [
            (Format::Q8_0, q8_0),
            (Format::Q1_0, block(Format::Q1_0, 0, &scale)),
            (Format::Q2_0, q2_0),
            (Format::TQ2_0, tq2_0),
            (Format::MXFP4, mxfp4),
        ];
        for (format, block) in blocks {
            let weights = decode(format, &block);
            prop_assert_eq!(decode(format, &encode(format, &weights, None)), weights, "{}", format);
        }
    }
}
