//! Weights encoded and decoded a second, by format, instruction set and row length, on one thread, and the same machine's
//! speed at copying and filling memory.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ggquant::arch::{Isa, kernel_for};
use ggquant::{Format, ImatrixUse};

/// Row lengths of language models.
const ROW_LENS: [usize; 3] = [2048, 4096, 14336];
/// Weights in a measurement: more than a core's own cache holds.
const WEIGHTS: usize = 1 << 20;

/// Bell-shaped weights of standard deviation 0.01, one in a hundred of them eight times as large.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 88_172_645_463_325_252u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count)
        .map(|_| {
            let bell = (uniform() + uniform() + uniform() + uniform()) * 0.0173;
            if uniform() < -0.49 { 8.0 * bell } else { bell }
        })
        .collect()
}

fn encode(criterion: &mut Criterion) {
    for &format in Format::ALL.iter().filter(|format| format.info().storage) {
        for weighted in [false, true] {
            let excluded = if weighted { ImatrixUse::Ignored } else { ImatrixUse::Required };
            if format.info().imatrix == excluded {
                continue;
            }
            let mut group = criterion.benchmark_group(format!("{format}{}", if weighted { "/imatrix" } else { "" }));
            for row_len in ROW_LENS {
                let x = weights(WEIGHTS / row_len * row_len);
                let imatrix: Vec<f32> = weights(row_len).iter().map(|v| v * v + 1e-6).collect();
                let imatrix = weighted.then_some(imatrix.as_slice());
                let mut out = vec![0; x.len() / format.info().block_len * format.info().block_bytes];
                group.throughput(Throughput::Elements(x.len() as u64));
                for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                    let Ok(kernel) = kernel_for(format, isa) else { continue };
                    group.bench_with_input(BenchmarkId::new(isa.name(), row_len), &x, |bencher, x| {
                        bencher.iter(|| kernel.encode_rows(x, row_len, imatrix, &mut out));
                    });
                }
            }
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let x = weights(WEIGHTS);
    for &format in Format::ALL {
        let mut group = criterion.benchmark_group(format!("{format}/decode"));
        let info = format.info();
        // Any bytes are blocks; these are small codes with ordinary scales.
        let data: Vec<u8> = x
            .iter()
            .map(|v| v.to_bits() as u8 & 0x3f)
            .cycle()
            .take(WEIGHTS / info.block_len * info.block_bytes)
            .collect();
        let mut out = vec![0.0; WEIGHTS];
        group.throughput(Throughput::Bytes(4 * WEIGHTS as u64));
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            let Ok(kernel) = kernel_for(format, isa) else { continue };
            group.bench_function(isa.name(), |bencher| bencher.iter(|| kernel.decode(&data, &mut out)));
        }
    }
}

/// What encoders (bytes read and written) and decoders (bytes written) that need no time themselves would reach.
fn memory(criterion: &mut Criterion) {
    let (x, mut out) = (weights(WEIGHTS), vec![0.0; WEIGHTS]);
    let mut group = criterion.benchmark_group("memory");
    group.throughput(Throughput::Bytes(8 * WEIGHTS as u64));
    group.bench_function("copy", |bencher| bencher.iter(|| out.copy_from_slice(&x)));
    group.throughput(Throughput::Bytes(4 * WEIGHTS as u64));
    group.bench_function("fill", |bencher| bencher.iter(|| out.fill(std::hint::black_box(1.5))));
}

criterion_group!(benches, encode, decode, memory);
criterion_main!(benches);
