//! Encoders and decoders of the i-quants against ggml's bytes, and what must hold for any input.

#[path = "common/golden.rs"]
mod golden;
#[path = "common/rows.rs"]
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ggquant::{Format, ImatrixUse};
use golden::{Digest, Golden};
use proptest::prelude::*;

/// Seed and rows of each kind as in `tests/data/golden/adversarial.py`.
const SEED: u64 = 20_240_229;
const ROUNDS: u64 = 24;

const FORMATS: [Format; 9] = [
    Format::IQ1_S,
    Format::IQ1_M,
    Format::IQ2_XXS,
    Format::IQ2_XS,
    Format::IQ2_S,
    Format::IQ3_XXS,
    Format::IQ3_S,
    Format::IQ4_NL,
    Format::IQ4_XS,
];

/// What ggml gave for the rows of one kind.
struct Expected {
    digest: u64,
    /// Bit `r` is set if ggml gave nothing for round `r`.
    skipped: u32,
}

/// Reads `adversarial_iq.txt`: by format, `plain`, `imatrix` or `decode`, and kind of row.
fn expectations() -> BTreeMap<(String, String, u64), Expected> {
    let text = fs::read_to_string("tests/data/golden/adversarial_iq.txt").expect("the file is in the repository");
    let parse = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let key = (fields[0].to_owned(), fields[1].to_owned(), fields[2].parse().unwrap());
        let digest = u64::from_str_radix(fields[3], 16).unwrap();
        (key, Expected { digest, skipped: u32::from_str_radix(fields[4], 16).unwrap() })
    };
    text.lines().map(parse).collect()
}

/// Large weights whose sums cancel but whose squares overflow, among small ones: kind 24, for the ternary formats alone.
fn balanced_row(round: u64) -> Vec<f32> {
    let large = 2f32.powi(36 + round as i32 / 2);
    let value = |i: u64| match (i / 16 + round) % 3 {
        0 => (i * 7 % 13) as f32,
        _ if i.is_multiple_of(2) => large,
        _ => -large,
    };
    (0..512).map(value).collect()
}

fn row_len(format: Format, index: u64) -> usize {
    let turn = (index / rows::KINDS) as usize;
    match format.info().block_len {
        256 => 256 * (1 + turn % 3),
        block => block * (1 + turn % 7),
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

/// The importance matrices to encode with: none where the format needs one, and the one given.
fn imatrices(format: Format, imatrix: &[f32]) -> Vec<Option<&[f32]>> {
    match format.info().imatrix {
        ImatrixUse::Required => vec![Some(imatrix)],
        _ => vec![None, Some(imatrix)],
    }
}

#[test]
fn golden_rows_encode_to_ggmls_bytes() {
    let golden = Golden::read();
    let mut compared = 0;
    for format in FORMATS {
        for imatrix in imatrices(format, &golden.imatrix) {
            let suffix = if imatrix.is_some() { "/imatrix" } else { "" };
            let expected = &golden.blocks[&format!("{format}{suffix}")];
            let rows = expected.chunks_exact(expected.len() / golden.rows.len());
            for ((x, name), expected) in golden.rows.iter().zip(&golden.names).zip(rows) {
                assert!(encode(format, x, imatrix) == expected, "{format}{suffix}: row '{name}' differs");
                compared += 1;
            }
        }
    }
    // Three of the formats need an importance matrix.
    assert_eq!(compared, (9 + 6) * 28);
}

/// Rows of every kind, plain and weighted. ggml aborts on some whose sums overflow; those must not panic here.
fn check_adversarial_rows(format: Format) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for ((name, what, kind), expected) in expectations() {
        if name != format.info().name || what == "decode" {
            continue;
        }
        let mut digest = Digest::new();
        for round in 0..ROUNDS {
            let index = round * rows::KINDS + kind;
            let len = row_len(format, index);
            let (row, imatrix) = if kind == rows::KINDS {
                (balanced_row(round), vec![1.0; 512])
            } else {
                (rows::row(SEED, index, len), rows::weights(SEED, index, len))
            };
            let data = encode(format, &row, (what == "imatrix").then_some(&imatrix));
            if expected.skipped >> round & 1 == 0 {
                digest.update(data.into_iter().map(u64::from));
                compared += 1;
            }
        }
        if digest.0 != expected.digest {
            failures.push(format!("{what} kind {kind}"));
        }
    }
    assert!(failures.is_empty(), "{format}: bytes differ: {failures:?}");
    let variants = imatrices(format, &[]).len() as u64;
    assert!(compared > rows::KINDS * ROUNDS * variants * 3 / 4, "{format}: {compared} rows are too few");
}

macro_rules! adversarial_rows_encode_to_ggmls_bytes {
    ($($name:ident: $format:ident),+ $(,)?) => {
        mod adversarial_rows_encode_to_ggmls_bytes {
            $(#[test] fn $name() { super::check_adversarial_rows(ggquant::Format::$format); })+
        }
    };
}

adversarial_rows_encode_to_ggmls_bytes! {
    iq1_s: IQ1_S,
    iq1_m: IQ1_M,
    iq2_xxs: IQ2_XXS,
    iq2_xs: IQ2_XS,
    iq2_s: IQ2_S,
    iq3_xxs: IQ3_XXS,
    iq3_s: IQ3_S,
    iq4_nl: IQ4_NL,
    iq4_xs: IQ4_XS,
}

#[test]
fn random_bytes_decode_to_ggmls_bits() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for ((name, what, kind), expected) in expectations() {
        if what != "decode" {
            continue;
        }
        let format: Format = name.parse().unwrap();
        let mut digest = Digest::new();
        for index in (0..ROUNDS).map(|round| round * rows::KINDS + kind) {
            let bytes = format.info().row_bytes(row_len(format, index)).unwrap();
            let weights = decode(format, &rows::random_bytes(SEED + 1, index, bytes));
            digest.update(weights.into_iter().map(|v| u64::from(if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() })));
        }
        compared += 1;
        if digest.0 != expected.digest {
            failures.push(format!("{name} kind {kind}"));
        }
    }
    assert!(failures.is_empty(), "bits differ: {failures:?}");
    assert_eq!(compared, FORMATS.len() as u64 * rows::KINDS);
}

#[test]
fn every_format_has_adversarial_digests() {
    let mut names: BTreeSet<_> = golden::adversarial().into_keys().map(|(name, what, _)| (name, what)).collect();
    names.extend(expectations().into_keys().map(|(name, what, _)| (name, what)));
    for format in Format::ALL {
        let plain = format.info().imatrix != ImatrixUse::Required;
        assert_eq!(names.contains(&(format.to_string(), "plain".to_owned())), plain, "{format}");
        assert!(names.contains(&(format.to_string(), "imatrix".to_owned())), "{format}");
    }
}

#[test]
fn error_falls_with_bits() {
    // Root mean square error over that of the weights, for bell-shaped weights: at most this, and at least half of it.
    let bounds = [
        (Format::IQ1_S, 0.65),
        (Format::IQ1_M, 0.62),
        (Format::IQ2_XXS, 0.45),
        (Format::IQ2_XS, 0.40),
        (Format::IQ2_S, 0.38),
        (Format::IQ3_XXS, 0.25),
        (Format::IQ3_S, 0.22),
        (Format::IQ4_XS, 0.10),
        (Format::IQ4_NL, 0.10),
    ];
    for (format, bound) in bounds {
        let ones = [1.0; 512];
        let (mut error, mut total) = (0.0, 0.0);
        for round in 0..16 {
            let x = rows::row(SEED, round * rows::KINDS, 512);
            let decoded = decode(format, &encode(format, &x, Some(&ones)));
            error += x.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            total += x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        }
        let relative = (error / total).sqrt();
        assert!((bound / 2.0..bound).contains(&relative), "{format}: {relative}");
    }
}

#[test]
fn validation_names_the_first_bad_block() {
    let inf = 0x7c00u16.to_le_bytes();
    let nan = 0xfe00u16.to_le_bytes();
    for format in FORMATS {
        let size = format.info().block_bytes;
        let mut data = vec![0; 4 * size];
        assert_eq!(validate(format, &data), Ok(()), "{format}");
        for (block, bytes, what) in [(3, inf, "inf"), (2, nan, "NaN")] {
            let block_data = &mut data[block * size..][..size];
            if format == Format::IQ1_M {
                // The scale is spread over the top 4 bits of the last four words.
                let bits = u16::from_le_bytes(bytes);
                for i in 0..4 {
                    block_data[49 + 2 * i] = ((bits >> (4 * i) & 15) << 4) as u8;
                }
            } else {
                block_data[..2].copy_from_slice(&bytes);
            }
            assert_eq!(validate(format, &data), Err(format!("block {block}: scale d is {what}")), "{format}");
        }
        // Nothing else in a block can be wrong: the exponent of the scale is small, all other bits are set.
        let mut data = vec![0xff; size];
        data[if format == Format::IQ1_M { 55 } else { 1 }] = 0;
        assert_eq!(validate(format, &data), Ok(()), "{format}");
    }
}

/// Any finite floats of any magnitude, or of magnitudes close to each other.
fn finite_row(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let any = prop::collection::vec(any::<f32>().prop_filter("finite", |v| v.is_finite()), len);
    let alike = (prop::collection::vec(-1.0f32..1.0, len), -40i32..38)
        .prop_map(|(v, e)| v.into_iter().map(|v| v * 10f32.powi(e)).collect());
    prop_oneof![any, alike]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing panics, every byte is written, and each block stands for itself.
    #[test]
    fn any_finite_row_encodes_block_by_block(x in finite_row(512), w in finite_row(512)) {
        let w: Vec<f32> = w.iter().map(|v| v.abs()).collect();
        for format in FORMATS {
            for imatrix in imatrices(format, &w) {
                let whole = encode(format, &x, imatrix);
                decode(format, &whole);
                // IQ1_S and IQ1_M look at the rest of the row where sums overflow.
                if matches!(format, Format::IQ1_S | Format::IQ1_M) {
                    continue;
                }
                let block_len = format.info().block_len;
                let part = |i: usize| {
                    let range = i * block_len..(i + 1) * block_len;
                    encode(format, &x[range.clone()], imatrix.map(|w| &w[range]))
                };
                let parts: Vec<u8> = (0..x.len() / block_len).flat_map(part).collect();
                prop_assert_eq!(&whole, &parts, "{}", format);
            }
        }
    }

    /// Weights whose scales are not subnormal halves never decode to something far outside their range.
    #[test]
    fn decoded_weights_stay_near_the_range(v in prop::collection::vec(-1.0f32..1.0, 256), e in -6i32..9) {
        let x: Vec<f32> = v.iter().map(|v| v * 2f32.powi(e)).collect();
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let w: Vec<f32> = v.iter().map(|v| 0.5 + v.abs()).collect();
        for format in FORMATS {
            for imatrix in imatrices(format, &w) {
                let data = encode(format, &x, imatrix);
                prop_assert_eq!(validate(format, &data), Ok(()));
                for y in decode(format, &data) {
                    prop_assert!(y.abs() <= 1.5 * largest, "{}: {} against {}", format, y, largest);
                }
            }
        }
    }

    /// Any bytes with a finite scale decode to finite weights within the format's range.
    #[test]
    fn any_valid_block_decodes_within_bounds(bytes in prop::collection::vec(any::<u8>(), 136)) {
        // The largest multiple of d a block can hold.
        let ranges = [
            (Format::IQ1_S, 15.0 * 1.125),
            (Format::IQ1_M, 15.0 * 1.125),
            (Format::IQ2_XXS, 15.5 * 0.25 * 43.0),
            (Format::IQ2_XS, 15.5 * 0.25 * 43.0),
            (Format::IQ2_S, 15.5 * 0.25 * 43.0),
            (Format::IQ3_XXS, 15.5 * 0.5 * 62.0),
            (Format::IQ3_S, 31.0 * 15.0),
            (Format::IQ4_NL, 127.0),
            (Format::IQ4_XS, 32.0 * 127.0),
        ];
        for (format, range) in ranges {
            let block = &bytes[..format.info().block_bytes];
            if validate(format, block).is_ok() {
                let d = match format {
                    Format::IQ1_M => {
                        let bits = (0..4).fold(0, |bits, i| bits | u16::from(block[49 + 2 * i] >> 4) << (4 * i));
                        half::f16::from_bits(bits)
                    }
                    _ => half::f16::from_le_bytes([block[0], block[1]]),
                };
                for y in decode(format, block) {
                    prop_assert!(y.abs() <= d.to_f32().abs() * range, "{}: {} at {}", format, y, d);
                }
            }
        }
    }
}
