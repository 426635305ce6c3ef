//! Every kernel of every instruction set this machine has, against the scalar reference.

#[path = "common/rows.rs"]
mod rows;

use ggquant::arch::{Isa, kernel_for};
use ggquant::{Format, ImatrixUse};
use proptest::prelude::*;

const SEED: u64 = 9_031;

/// Encodes rows with one instruction set. Filled first, so that a byte left unwritten shows.
fn encode(format: Format, isa: Isa, x: &[f32], row_len: usize, imatrix: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0x5a; format.info().row_bytes(x.len()).unwrap()];
    kernel_for(format, isa).unwrap().encode_rows(x, row_len, imatrix, &mut out);
    out
}

/// Compares all instruction sets on some rows, plain and weighted.
fn compare(format: Format, x: &[f32], row_len: usize, imatrix: &[f32], what: &str) {
    for imatrix in [None, Some(imatrix)] {
        if imatrix.is_none() && format.info().imatrix == ImatrixUse::Required {
            continue;
        }
        let expected = encode(format, Isa::Scalar, x, row_len, imatrix);
        for &isa in Isa::ALL.iter().filter(|isa| **isa != Isa::Scalar && isa.is_available()) {
            let got = encode(format, isa, x, row_len, imatrix);
            let at = got.iter().zip(&expected).position(|(a, b)| a != b);
            let weighted = if imatrix.is_some() { "weighted" } else { "plain" };
            assert!(at.is_none(), "{format} {weighted} on {isa}, {what}: byte {at:?} differs");
        }
    }
}

fn storage_formats() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|f| f.info().storage)
}

#[test]
fn adversarial_rows() {
    for format in storage_formats() {
        let row_len = format.info().block_len.max(32) * 3;
        for index in 0..rows::KINDS * 12 {
            let x: Vec<f32> = (0..3).flat_map(|k| rows::row(SEED + k, index, row_len)).collect();
            let imatrix = rows::weights(SEED, index, row_len);
            compare(format, &x, row_len, &imatrix, &format!("row {index}"));
        }
    }
}

#[test]
fn kinds_of_rows_side_by_side() {
    // Neighbouring blocks go through the searches together; what one needs must not change another.
    for format in storage_formats() {
        let row_len = format.info().block_len.max(32);
        for index in 0..20 {
            let x: Vec<f32> = (0..rows::KINDS).flat_map(|kind| rows::row(SEED + index, kind * 7, row_len)).collect();
            compare(format, &x, row_len, &rows::weights(SEED, index, row_len), &format!("round {index}"));
        }
    }
}

#[test]
fn halves_with_any_bits() {
    for format in storage_formats() {
        let row_len = format.info().block_len.max(32) * 2;
        for index in 0..40 {
            let bytes = rows::random_bytes(SEED, index, 8 * row_len);
            let halves = bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32());
            let x: Vec<f32> = halves.map(|v| if v.is_finite() { v } else { 0.0 }).collect();
            compare(format, &x, row_len, &rows::weights(SEED, index, row_len), &format!("round {index}"));
        }
    }
}

/// Bits of a decoded weight. Which NaN a broken scale leads to is left open.
fn bits(value: &f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

#[test]
fn random_bytes_decode_alike() {
    for &format in Format::ALL {
        let info = format.info();
        for index in 0..40 {
            let blocks = 1 + index as usize % 5;
            let mut data = rows::random_bytes(SEED, index, blocks * info.block_bytes);
            if index % 2 == 1 {
                // Most random halves are ordinary scales, but few of the codes are small.
                data.iter_mut().for_each(|byte| *byte &= 0x3f);
            }
            let mut expected = vec![0.0; blocks * info.block_len];
            (format.reference().decode_row)(&data, &mut expected);
            for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                let mut out = vec![7.0; expected.len()];
                kernel_for(format, isa).unwrap().decode(&data, &mut out);
                assert!(out.iter().map(bits).eq(expected.iter().map(bits)), "{format} on {isa}, round {index}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_rows_and_blocks(seed: u64, rows in 1usize..6, blocks in 1usize..6) {
        for format in storage_formats() {
            let row_len = format.info().block_len * blocks;
            let x: Vec<f32> = (0..rows as u64).flat_map(|r| rows::row(seed, seed % 1_000 + r, row_len)).collect();
            compare(format, &x, row_len, &rows::weights(seed, seed % 1_000, row_len), "any");
        }
    }
}
