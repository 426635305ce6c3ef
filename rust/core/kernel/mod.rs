//! Kernels: the encoders once more, written over [lanes](crate::lanes).
//!
//! Each gives the bytes of its scalar reference for every input; tests hold it to that. A kernel takes a batch of blocks,
//! transposes them into [tiles](tile) in which each lane holds a group of weights, and runs the searches on all groups at
//! once, with branches as masks. Where an intermediate value leaves the range in which a shorter computation agrees with
//! the reference (rare, and never with ordinary weights), the search says so and the block goes through the reference.
//!
//! - [`tile`]: groups of weights into lanes, codes out of them;
//! - [`affine`]: the search over a group with a minimum;
//! - [`superblock`]: the scales of a super-block as small integers;
//! - [`scale_min`]: Q2_K, Q4_K and Q5_K;
//! - [`symmetric`]: the searches over a group without a minimum;
//! - [`signed`]: Q3_K and Q6_K.

pub(crate) mod affine;
pub(crate) mod scale_min;
pub(crate) mod signed;
pub(crate) mod superblock;
pub(crate) mod symmetric;
pub(crate) mod tile;

use crate::block::layout::Layout;
use crate::lanes::F32Lanes;

/// Blocks in a batch.
pub(crate) const BATCH: usize = 8;

/// Groups in a batch of super-blocks, at most: groups of 16 weights.
pub(crate) const MAX_GROUPS: usize = BATCH * 16;

/// Encodes whole rows: weights, their number in a row, one importance a column, bytes.
pub(crate) type EncodeRows = fn(&[f32], usize, Option<&[f32]>, &mut [u8]);

/// A format that encodes blocks of `N` weights by batches.
pub(crate) trait BatchEncoder<const N: usize> {
    /// A block of the format.
    type Block: Layout;

    /// Encodes a batch, with the importances of each block if there are any.
    fn encode_batch<F: F32Lanes>(x: &[&[f32; N]; BATCH], imatrix: Option<&[&[f32; N]; BATCH]>) -> [Self::Block; BATCH];
}

/// Encodes whole rows of `row_len` weights by batches of blocks, without regard to where rows end.
///
/// The last batch is filled up with its last block.
#[inline(always)]
pub(crate) fn encode_rows<F: F32Lanes, E: BatchEncoder<N>, const N: usize>(
    x: &[f32],
    row_len: usize,
    imatrix: Option<&[f32]>,
    out: &mut [u8],
) {
    let blocks = x.as_chunks::<N>().0;
    let importances = imatrix.map(|imatrix| imatrix[..row_len].as_chunks::<N>().0);
    for (batch, out) in out.chunks_mut(BATCH * E::Block::BYTES).enumerate() {
        let last = out.len() / E::Block::BYTES - 1;
        let numbers: [usize; BATCH] = std::array::from_fn(|i| batch * BATCH + i.min(last));
        let x = numbers.map(|number| &blocks[number]);
        let importances = importances.map(|rows| numbers.map(|number| &rows[number % rows.len()]));
        let encoded = E::encode_batch::<F>(&x, importances.as_ref());
        for (block, out) in encoded.iter().zip(out.chunks_exact_mut(E::Block::BYTES)) {
            block.write(out);
        }
    }
}
