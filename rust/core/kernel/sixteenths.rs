//! Q6_K, and Q3_K with an importance matrix: super-blocks of 16 sub-blocks of 16 weights around zero.

use super::tile::{self, Tile, load_lanes, store_lanes};
use super::{BATCH, BatchEncoder, symmetric};
use crate::block::layout::Layout;
use crate::lanes::F32Lanes;

/// Sub-blocks in a super-block.
const SUBS: usize = 16;
/// Weights in a sub-block.
const SUB: usize = 16;
/// Sub-blocks in a batch.
const GROUPS: usize = BATCH * SUBS;
/// Vectors in a tile.
const WIDTH: usize = 2;

/// What a format makes of the scales that its sub-blocks ask for.
pub(crate) struct Scaled<S> {
    /// The scales as stored.
    pub(crate) stored: S,
    /// What each sub-block's codes are multiplied by.
    pub(crate) steps: [f32; SUBS],
}

/// A format of sixteen symmetric sub-blocks.
pub(crate) trait Sixteenths {
    /// A block of the format.
    type Block: Layout + Copy;
    /// Scales as the block stores them.
    type Scales;
    /// Codes lie in `-HALF..HALF` and are stored with this added.
    const HALF: i32;
    /// Whether importances are taken as `imatrix * sqrt(sigma2 + x^2)`; otherwise as they are.
    const WEIGHED: bool;
    /// Whether there is a kernel without an importance matrix.
    const PLAIN: bool;
    /// Rounds the scales of a block; `totals` are the sums of the sub-blocks' weights.
    fn scales(scales: &[f32; SUBS], totals: &[f32; SUBS]) -> Scaled<Self::Scales>;
    /// Packs scales and codes.
    fn pack(scales: Self::Scales, codes: &[u8; 256]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Self::Block;
}

/// Encodes a batch of `S`.
pub(crate) struct Encoder<S>(std::marker::PhantomData<S>);

impl<S: Sixteenths> BatchEncoder<256> for Encoder<S> {
    type Block = S::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [S::Block; BATCH] {
        if !S::PLAIN && imatrix.is_none() {
            return x.map(|x| S::reference(x, None));
        }
        let (mut scales, mut inverses, mut totals) = ([0.0; GROUPS], [0.0; GROUPS], [0.0; GROUPS]);
        let sigma2 = if S::WEIGHED { tile::sums_of_squares(x).map(|sum| 2.0 * sum / 256.0) } else { [0.0; BATCH] };
        for first in (0..GROUPS).step_by(WIDTH * F::LEN) {
            let tile: Tile<F, SUB, WIDTH> = tile::load(x, first);
            let fit = match imatrix {
                None => symmetric::search(&tile, None, S::HALF),
                Some(imatrix) if S::WEIGHED => {
                    let (weights, sums) = tile::weigh(&tile, imatrix, first, &sigma2);
                    store_lanes(sums, &mut totals[first..]);
                    symmetric::search(&tile, Some(&weights), S::HALF)
                }
                Some(imatrix) => symmetric::search(&tile, Some(&tile::load(imatrix, first)), S::HALF),
            };
            store_lanes(fit.scale, &mut scales[first..]);
            store_lanes(fit.inverse, &mut inverses[first..]);
        }
        let (scales, totals) = (scales.as_chunks().0, totals.as_chunks().0);
        let scaled: [_; BATCH] = std::array::from_fn(|b| S::scales(&scales[b], &totals[b]));
        let mut steps = [0.0; GROUPS];
        for (b, steps) in steps.as_chunks_mut().0.iter_mut().enumerate() {
            *steps = scaled[b].steps;
        }
        let mut codes = [[0; 256]; BATCH];
        for first in (0..GROUPS).step_by(WIDTH * F::LEN) {
            let tile: Tile<F, SUB, WIDTH> = tile::load(x, first);
            let (step, inverse) = (load_lanes(&steps[first..]), load_lanes(&inverses[first..]));
            let tile_codes = symmetric::recode(&tile, step, S::HALF, inverse);
            tile::store_codes(&tile_codes, &mut codes.as_flattened_mut()[SUB * first..]);
        }
        let mut codes = codes.iter();
        scaled.map(|scaled| S::pack(scaled.stored, codes.next().expect("one for each block")))
    }
}
