//! `IQ2_XXS`, `IQ2_XS`, `IQ2_S`, `IQ3_XXS` and `IQ3_S`: magnitudes from a codebook, signs apart, as
//! [`crate::reference::codebook`] has them.

mod magnitudes;
mod search;

use std::marker::PhantomData;

use super::grid::Neighbours;
use super::{BATCH, BatchEncoder};
use crate::block::layout::Layout;
use crate::lanes::F32Lanes;
use crate::reference::codebook::{Fit, Search, Signs, SubBlock};
use search::Workspace;

/// What is stored for a sub-block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Value of a level's unit.
    pub(crate) scale: f32,
    /// Codebook index of each vector.
    pub(crate) points: [u16; 8],
    /// Signs of each 8 weights, as stored.
    pub(crate) signs: [u8; 4],
}

impl Found {
    /// What the scalar search found.
    pub(crate) fn new<const W: usize>(fit: &Fit, block: &SubBlock<W>) -> Self {
        let signs = std::array::from_fn(|k| if k < W / 8 { block.signs(k) } else { 0 });
        Self { scale: fit.scale, points: fit.points, signs }
    }
}

/// What tells the formats apart: vectors of `N` weights in sub-blocks of `W`.
pub(crate) trait Codebook<const N: usize, const W: usize> {
    /// A block of the format.
    type Block: Layout;
    /// Sign patterns that can be stored.
    const SIGNS: Signs;
    /// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
    const EPSILON: f32;
    /// `sigma2` in mean squares of the super-block.
    const SIGMA: f32;
    /// Without an importance matrix the importance is this share of `sigma2` and the square of the weight.
    const PLAIN_SHARE: f32;
    /// Whether a search with codes 0 to 4 tells which magnitude candidates map to the largest level.
    const GUESSED: bool;

    /// Candidates and codebook.
    fn search() -> Search<'static, N>;
    /// The same codebook for kernels.
    fn book() -> &'static Neighbours<N>;
    /// Packs sub-blocks, `None` for those that are stored as zeros.
    fn pack(found: &[Option<Found>]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Self::Block;
}

/// Encodes a format.
pub(crate) struct Encoder<C, const N: usize, const W: usize>(PhantomData<C>);

impl<C: Codebook<N, W>, const N: usize, const W: usize> BatchEncoder<256> for Encoder<C, N, W> {
    type Block = C::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [C::Block; BATCH] {
        let squares = super::tile::sums_of_squares::<F, _, _>(x);
        let mut workspace = Workspace::new();
        let mut found = [[None; 16]; BATCH];
        let mut searched = [false; BATCH];
        for b in 0..BATCH {
            let imatrix = imatrix.map(|rows| rows[b]);
            let sigma2 = C::SIGMA * squares[b] / 256.0;
            searched[b] =
                search::super_block::<F, C, N, W>(x[b], imatrix, sigma2, &mut workspace, &mut found[b][..256 / W]);
        }
        std::array::from_fn(|b| {
            if searched[b] { C::pack(&found[b][..256 / W]) } else { C::reference(x[b], imatrix.map(|rows| rows[b])) }
        })
    }
}
