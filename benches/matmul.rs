//! Multiplications a second by format, kind of activations, size of the batch and instruction set, on one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ggquant::Format;
use ggquant::arch::Isa;
use ggquant::encode::{Imatrix, Run, Weights, encode};
use ggquant::matmul::{Activations, Matrix, matmul_on};

const ROWS: usize = 512;
const COLS: usize = 4096;
const BATCHES: [usize; 5] = [1, 2, 4, 32, 512];
const ONE_THREAD: Run<'static> = Run { threads: Some(1), interrupt: None };

/// Bell-shaped numbers.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..len).map(|_| (0..4).map(|_| uniform()).sum()).collect()
}

fn matmul(criterion: &mut Criterion) {
    let imatrix = vec![1.0; COLS];
    let imatrix = Some(Imatrix { values: &imatrix, rows_per_expert: ROWS });
    for &format in Format::ALL.iter().filter(|format| format.info().storage) {
        let mut data = vec![0; ROWS * format.info().row_bytes(COLS).unwrap_or(0)];
        let run = Run { threads: None, interrupt: None };
        if encode(format, Weights::F32(&numbers(ROWS * COLS)), COLS, imatrix, &mut data, run).is_err() {
            continue;
        }
        let Ok(weights) = Matrix::new(format, ROWS, COLS, &data) else { continue };
        for activations in [Activations::Int8, Activations::Float32] {
            let mut group = criterion.benchmark_group(format!("{format}/{activations:?}"));
            for n in BATCHES {
                let x = numbers(n * COLS);
                let mut out = vec![0.0; n * ROWS];
                group.throughput(Throughput::Elements((n * ROWS * COLS) as u64));
                for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                    group.bench_with_input(BenchmarkId::new(isa.name(), n), &x, |bencher, x| {
                        bencher.iter(|| matmul_on(isa, weights, x, activations, &mut out, ONE_THREAD));
                    });
                }
            }
        }
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
