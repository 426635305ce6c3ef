//! Q1_0: signs, and the mean magnitude, whose sum is taken in order, one block a lane.

use half::f16;

use super::plain::{Plain, Source, prefetch_after};
use crate::block::layout::Layout;
use crate::block::q1_0::{Block, Q1_0};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};

/// Weights in a block.
const N: usize = 128;
/// Vectors of sums that are taken side by side.
const WIDTH: usize = 2;
/// Blocks in a batch, at most.
const B: usize = WIDTH * MAX_LANES;

impl Plain<N> for Q1_0 {
    #[inline(always)]
    fn encode_blocks<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        let mut largest = F::Int::splat(0);
        let batches = x.as_chunks::<N>().0.chunks(WIDTH * F::LEN).zip(out.chunks_mut(WIDTH * F::LEN * Block::BYTES));
        for (blocks, out) in batches {
            prefetch_after(blocks);
            let (sums, magnitudes) = sums::<F, E>(blocks);
            largest = largest.max(magnitudes);
            let mut d = [f16::ZERO; B];
            for t in 0..WIDTH {
                let mean = sums[t] / F::splat(N as f32);
                mean.store_half(&mut d[t * F::LEN..]);
            }
            for (b, (x, out)) in blocks.iter().zip(out.chunks_exact_mut(Block::BYTES)).enumerate() {
                // Zeros of either sign are not below zero.
                let mut words = [0u32; N / 32];
                for (word, x) in words.iter_mut().zip(x.as_chunks::<32>().0) {
                    for i in (0..32).step_by(F::LEN) {
                        *word |= E::load::<F>(&x[i..]).lt(F::splat(0.0)).bits() << i;
                    }
                }
                let mut qs = [0; 16];
                for (qs, word) in qs.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                    *qs = (!word).to_le_bytes();
                }
                Block { d: d[b], qs }.write(out);
            }
        }
        // Bits of magnitudes are ordered as integers, those of infinity and NaN above all others.
        !(!largest.as_float().lt(F::splat(f32::INFINITY))).any()
    }
}

/// Sums of the magnitudes of each block, and bits of the largest magnitudes, in any order. Lanes without a block repeat the
/// last one.
#[inline(always)]
fn sums<F: F32Lanes, E: Source>(blocks: &[[E; N]]) -> ([F; WIDTH], F::Int) {
    let (mut sums, mut largest) = ([F::splat(0.0); WIDTH], F::Int::splat(0));
    for i in (0..N).step_by(F::LEN) {
        let mut squares = [[F::splat(0.0); MAX_LANES]; WIDTH];
        for t in 0..WIDTH {
            for lane in 0..F::LEN {
                let x: F = E::load(&blocks[(t * F::LEN + lane).min(blocks.len() - 1)][i..]);
                squares[t][lane] = x.abs();
                largest = largest.max(squares[t][lane].as_int());
            }
            F::transpose(&mut squares[t][..F::LEN]);
        }
        for k in 0..F::LEN {
            for t in 0..WIDTH {
                sums[t] = sums[t] + squares[t][k];
            }
        }
    }
    (sums, largest)
}
