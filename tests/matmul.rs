//! Products with weights in blocks: the same bits on every instruction set, at every number of threads, for every batch.

use ggquant::arch::Isa;
use ggquant::block::ImatrixUse;
use ggquant::encode::{Imatrix, Run, Weights, encode};
use ggquant::matmul::{Activations, Matrix, matmul, matmul_id, matmul_on};
use ggquant::{Error, Format};

const BOTH: [Activations; 2] = [Activations::Int8, Activations::Float32];

fn run(threads: usize) -> Run<'static> {
    Run { threads: Some(threads), interrupt: None }
}

/// SplitMix64.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |i: u64| {
        let mut z = (seed << 32).wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Bell-shaped numbers.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let bell = |h: u64| (0..4).map(|k| ((h >> (16 * k)) & 0xffff) as f32 / 65536.0 - 0.5).sum();
    random(seed).map(bell).take(len).collect()
}

fn blocks(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let info = format.info();
    let imatrix = vec![1.0; cols];
    let imatrix = (info.imatrix == ImatrixUse::Required).then_some(Imatrix { values: &imatrix, rows_per_expert: rows });
    let mut data = vec![0; rows * info.row_bytes(cols).unwrap()];
    encode(format, Weights::F32(&numbers(1, rows * cols)), cols, imatrix, &mut data, run(1)).unwrap();
    data
}

/// Formats that weights are stored in.
fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|format| format.info().storage)
}

/// One slab and a part of another, or two for formats that come in no less.
fn columns(format: Format) -> usize {
    256 + format.info().block_len.max(32)
}

fn product(isa: Isa, weights: Matrix<'_>, x: &[f32], activations: Activations, threads: usize) -> Vec<u32> {
    let n = x.len() / weights.cols();
    let mut out = vec![f32::NAN; n * weights.rows()];
    matmul_on(isa, weights, x, activations, &mut out, run(threads)).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn instruction_sets_threads_and_batches_do_not_matter() {
    const ROWS: usize = 37;
    for format in formats() {
        let cols = columns(format);
        let data = blocks(format, ROWS, cols);
        let weights = Matrix::new(format, ROWS, cols, &data).unwrap();
        let x = numbers(2, 21 * cols);
        for activations in BOTH {
            let wanted = product(Isa::Scalar, weights, &x, activations, 1);
            for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                for n in [1, 2, 3, 4, 8, 9, 16, 21] {
                    let own = product(isa, weights, &x[..n * cols], activations, 1 + n % 3);
                    assert_eq!(own, wanted[..n * ROWS], "{format} {activations:?} {isa} batch of {n}");
                }
                for range in [0..1, 3..20, 36..37, 5..5] {
                    let own = product(isa, weights.slice(range.clone()).unwrap(), &x, activations, 2);
                    let cut = wanted.chunks(ROWS).flat_map(|row| row[range.clone()].iter().copied());
                    assert!(own.into_iter().eq(cut), "{format} {activations:?} {isa} rows {range:?}");
                }
            }
        }
    }
}

#[test]
fn extreme_blocks_and_activations_do_not_overflow() {
    // Blocks of all ones and of random bytes reach codes and scales that encoders avoid; activations that alternate
    // between both ends reach the largest sums.
    let end = |i: usize| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
    for format in formats().filter(|format| format.info().block_len > 1) {
        let cols = columns(format);
        let row_bytes = format.info().row_bytes(cols).unwrap();
        let bytes = random(3).map(|h| h as u8).take(8 * row_bytes);
        let data: Vec<u8> = bytes.chain(vec![0xff; row_bytes]).chain(vec![0x7f; row_bytes]).collect();
        let weights = Matrix::new(format, 10, cols, &data).unwrap();
        let mut x = vec![1.0; 3 * cols];
        x[cols..].iter_mut().enumerate().for_each(|(i, x)| *x = end(i));
        x[2 * cols..].iter_mut().for_each(|x| *x = -1.0);
        x.extend(numbers(4, 14 * cols));
        let wanted = product(Isa::Scalar, weights, &x, Activations::Int8, 1);
        // Which NaN an operation on two of them gives is open.
        let settled = |bits: &u32| if f32::from_bits(*bits).is_nan() { f32::NAN.to_bits() } else { *bits };
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            for n in [1, 2, 3, 4, 7, 9, 17] {
                let own = product(isa, weights, &x[..n * cols], Activations::Int8, 1);
                let (own, wanted) = (own.iter().map(settled), wanted[..n * 10].iter().map(settled));
                assert!(own.eq(wanted), "{format} {isa} batch of {n}");
            }
        }
    }
}

#[test]
fn long_rows_at_any_address() {
    // More super-blocks than any kernel takes at once, and a rest; blocks of bytes have no alignment to count on.
    const ROWS: usize = 3;
    for format in formats().filter(|format| format.info().block_len > 1) {
        let cols = 5 * 256 + format.info().block_len.max(32);
        let mut data = vec![0];
        data.extend(blocks(format, ROWS, cols));
        let weights = Matrix::new(format, ROWS, cols, &data[1..]).unwrap();
        let x = numbers(7, 17 * cols);
        let wanted = product(Isa::Scalar, weights, &x, Activations::Int8, 1);
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            for n in [1, 2, 3, 4, 17] {
                let own = product(isa, weights, &x[..n * cols], Activations::Int8, 2);
                assert_eq!(own, wanted[..n * ROWS], "{format} {isa} batch of {n}");
            }
        }
    }
}

#[test]
fn experts_are_products_of_their_own() {
    const EXPERTS: usize = 3;
    const ROWS: usize = 5;
    let (format, cols) = (Format::Q4_K, 256);
    let data = blocks(format, EXPERTS * ROWS, cols);
    let weights = Matrix::new(format, EXPERTS * ROWS, cols, &data).unwrap();
    let ids = [2, 0, 1, 1, 0, 2, 2, 2];
    let x = numbers(5, ids.len() * cols);
    for activations in BOTH {
        for (shared, x) in [(false, x.as_slice()), (true, &x[..ids.len() / 2 * cols])] {
            let mut out = vec![f32::NAN; ids.len() * ROWS];
            matmul_id(weights, EXPERTS, x, &ids, 2, activations, &mut out, run(2)).unwrap();
            for (i, (&id, out)) in ids.iter().zip(out.chunks(ROWS)).enumerate() {
                let own = weights.slice(id as usize * ROWS..(id as usize + 1) * ROWS).unwrap();
                let row = if shared { i / 2 } else { i };
                let mut wanted = [0.0; ROWS];
                matmul(own, &x[row * cols..][..cols], activations, &mut wanted, run(1)).unwrap();
                assert_eq!(out, wanted);
            }
        }
    }
    let mut out = vec![0.0; ids.len() * ROWS];
    let wrong = matmul_id(weights, EXPERTS, &x, &[3; 8], 2, Activations::Int8, &mut out, run(1));
    assert!(matches!(wrong, Err(Error::Shape { .. })), "{wrong:?}");
}

#[test]
fn nothing_to_multiply() {
    let mut out = [f32::NAN; 6];
    let no_columns = Matrix::new(Format::Q4_K, 3, 0, &[]).unwrap();
    matmul(no_columns, &[], Activations::Int8, &mut out, run(1)).unwrap();
    assert_eq!(out, [0.0; 6]);
    let no_rows = Matrix::new(Format::Q4_K, 0, 256, &[]).unwrap();
    matmul(no_rows, &[1.0; 512], Activations::Int8, &mut [], run(1)).unwrap();
    let data = blocks(Format::Q4_K, 2, 256);
    let weights = Matrix::new(Format::Q4_K, 2, 256, &data).unwrap();
    matmul(weights, &[], Activations::Float32, &mut [], run(1)).unwrap();
}

#[test]
fn what_does_not_fit_is_an_error() {
    let data = blocks(Format::Q8_0, 2, 64);
    assert!(matches!(Matrix::new(Format::Q8_0, 2, 65, &data), Err(Error::RowLength { .. })));
    assert!(matches!(Matrix::new(Format::Q8_0, 3, 64, &data), Err(Error::Shape { .. })));
    assert!(matches!(Matrix::new(Format::Q8_0, usize::MAX, 64, &data), Err(Error::Shape { .. })));
    let weights = Matrix::new(Format::Q8_0, 2, 64, &data).unwrap();
    assert!(weights.slice(1..3).is_err());
    for (x, out) in [(63, 2), (64, 3), (128, 2), (0, 2)] {
        let wrong = matmul(weights, &vec![0.0; x], Activations::Int8, &mut vec![0.0; out], run(1));
        assert!(matches!(wrong, Err(Error::Shape { .. })), "{x} {out}: {wrong:?}");
    }
    let activations = vec![0; 292];
    let weights = Matrix::new(Format::Q8_K, 1, 256, &activations).unwrap();
    let wrong = matmul(weights, &[0.0; 256], Activations::Int8, &mut [0.0], run(1));
    assert!(matches!(wrong, Err(Error::Unsupported { .. })), "{wrong:?}");
    matmul(weights, &[0.0; 256], Activations::Float32, &mut [0.0], run(1)).unwrap();
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    let (format, cols, n) = (Format::Q4_K, 512, 12);
    let data = blocks(format, 3, cols);
    let weights = Matrix::new(format, 3, cols, &data).unwrap();
    let mut x = numbers(6, n * cols);
    x[4 * cols + 300] = f32::INFINITY;
    x[10 * cols] = f32::NAN;
    let mut out = vec![0.0; 3 * n];
    for activations in BOTH {
        matmul(weights, &x, activations, &mut out, run(1)).unwrap();
        for (i, out) in out.chunks(3).enumerate() {
            let touched = i == 4 || i == 10;
            assert!(out.iter().all(|y| y.is_finite() != touched), "{activations:?} row {i}: {out:?}");
        }
    }
}
