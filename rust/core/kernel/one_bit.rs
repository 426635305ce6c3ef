//! Q1_0: signs, and the mean magnitude, whose sum is taken in order, one block a lane.

use super::BatchEncoder;
use crate::block::q1_0;
use crate::lanes::{F32Lanes, MAX_LANES, Mask};

/// Weights in a block.
const N: usize = 128;
/// Blocks in a batch.
const B: usize = MAX_LANES;

/// Encodes the format.
pub(crate) struct Encoder;

impl BatchEncoder<N, B> for Encoder {
    type Block = q1_0::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(x: &[&[f32; N]; B], _imatrix: Option<&[&[f32; N]; B]>) -> [q1_0::Block; B] {
        let mut sums = [0.0; B];
        for first in (0..B).step_by(F::LEN) {
            let mut sum = F::splat(0.0);
            for i in (0..N).step_by(F::LEN) {
                let mut square = [F::splat(0.0); MAX_LANES];
                for lane in 0..F::LEN {
                    square[lane] = F::load(&x[first + lane][i..]);
                }
                F::transpose(&mut square[..F::LEN]);
                for x in square.iter().take(F::LEN) {
                    sum = sum + x.abs();
                }
            }
            sum.store(&mut sums[first..]);
        }
        let mut blocks = [q1_0::Block { d: F::to_half(0.0), qs: [0; 16] }; B];
        for (b, block) in blocks.iter_mut().enumerate() {
            block.d = F::to_half(sums[b] / 128.0);
            let mut bits = 0u128;
            for i in (0..N).step_by(F::LEN) {
                // Zeros of either sign are not below zero.
                bits |= u128::from(F::load(&x[b][i..]).lt(F::splat(0.0)).bits()) << i;
            }
            block.qs = (!bits).to_le_bytes();
        }
        blocks
    }
}
