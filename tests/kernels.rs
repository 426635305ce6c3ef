//! Every kernel of every instruction set that this machine has, against the scalar reference.

#[path = "common/rows.rs"]
mod rows;

use ggquant::arch::{Isa, kernel_for};
use ggquant::{Format, ImatrixUse};

/// Seed of the rows; other tests have others.
const SEED: u64 = 77;

/// Lengths of rows in blocks: fewer than a batch, one more, and several batches.
const BLOCKS: [usize; 4] = [1, 3, 9, 17];

/// Rows of each kind.
const ROUNDS: u64 = 6;

fn instruction_sets() -> Vec<Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_available()).collect()
}

/// Encodes rows of several kinds, one after another, by the kernel and by the reference.
fn compare(format: Format, isa: Isa, weighted: bool) {
    let info = format.info();
    let kernel = kernel_for(format, isa).expect("the machine has it");
    for (case, blocks) in BLOCKS.into_iter().enumerate() {
        let len = blocks * info.block_len;
        let row_bytes = info.row_bytes(len).expect("whole blocks");
        // Importances belong to a call: rows of all kinds under each kind of importances.
        for index in 0..ROUNDS * rows::WEIGHT_KINDS {
            let first = (case as u64 * ROUNDS * rows::WEIGHT_KINDS + index) * 7;
            let weights: Vec<f32> = (first..first + 7).flat_map(|row| rows::row(SEED, row, len)).collect();
            let imatrix = weighted.then(|| rows::weights(SEED, index, len));
            let mut expected = vec![0; 7 * row_bytes];
            for (row, out) in weights.chunks_exact(len).zip(expected.chunks_exact_mut(row_bytes)) {
                (format.reference().encode_row)(row, imatrix.as_deref(), out);
            }
            let mut found = vec![0; expected.len()];
            kernel.encode_rows(&weights, len, imatrix.as_deref(), &mut found);
            if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
                let (row, kind) = (at / row_bytes, (first + (at / row_bytes) as u64) % rows::KINDS);
                panic!(
                    "{format} on {isa}, weighted: {weighted}: byte {} of a row of {blocks} blocks differs (row {}, kind {kind})",
                    at % row_bytes,
                    first + row as u64
                );
            }
        }
    }
}

#[test]
fn kernels_write_the_bytes_of_the_reference() {
    for isa in instruction_sets() {
        let compiled = |format: &Format| kernel_for(*format, isa).is_ok_and(|kernel| kernel.is_compiled());
        let formats: Vec<Format> = Format::ALL.iter().copied().filter(compiled).collect();
        assert_eq!(formats.is_empty(), isa == Isa::Scalar, "{isa} has kernels");
        for format in formats {
            if format.info().imatrix != ImatrixUse::Required {
                compare(format, isa, false);
            }
            if format.info().imatrix != ImatrixUse::Ignored {
                compare(format, isa, true);
            }
        }
    }
}
