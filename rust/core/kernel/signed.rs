//! Q3_K and Q6_K: super-blocks of 16 sub-blocks of 16 weights with signed scales and codes around zero.

use std::marker::PhantomData;

use super::tile::{self, Tile, store_lanes};
use super::{BATCH, BatchEncoder, MAX_GROUPS, descent, symmetric};
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, MAX_LANES};
use crate::reference::symmetric as reference;

/// Weights in a sub-block, and sub-blocks in a super-block.
const G: usize = 16;
/// Vectors in a tile.
const WIDTH: usize = 2;

/// Where the scales of a super-block come from, given an importance matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weighting {
    /// The importances are the weights; scales are rounded as they are without.
    Direct,
    /// Weights as for the other formats, with `sigma2` twice the mean square; a search gives the scales.
    Search,
}

/// What tells the formats apart.
pub(crate) trait Signed {
    /// A block of the format.
    type Block: Layout + Copy;
    /// Scales of a block as they are stored.
    type Scales: Copy;
    /// A block of zeros.
    const EMPTY: Self::Block;
    /// Codes lie in `-HALF..HALF`.
    const HALF: i32;
    /// Whether codes are searched for one by one without an importance matrix.
    const PLAIN_DESCENDS: bool;
    /// What an importance matrix does.
    const WEIGHTING: Weighting;
    /// Codes of scales lie in `-HALF_SCALE..HALF_SCALE`.
    const HALF_SCALE: i32;

    /// Maps the scale largest in magnitude to the lowest code. `None` if the block is all zeros.
    fn by_largest(scales: &[f32; G]) -> Option<Self::Scales>;
    /// Scales from their common scale and their codes, offset by `HALF_SCALE`.
    fn by_codes(d: f32, codes: &[u8; G]) -> Self::Scales;
    /// Scales of the sub-blocks, as they decode.
    fn decode(scales: &Self::Scales) -> [f32; G];
    /// Packs scales and codes.
    fn pack(scales: &Self::Scales, codes: &[u8; 256]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Self::Block;
}

/// Encodes a format.
pub(crate) struct Encoder<S>(PhantomData<S>);

/// What the searches over the sub-blocks of a batch yield, sub-block `j` of block `b` at `16 * b + j`.
struct Fits {
    scales: [f32; MAX_GROUPS],
    totals: [f32; MAX_GROUPS],
    /// See [`symmetric::Fit`]; unused by the search that moves codes.
    inverses: [f32; MAX_GROUPS],
}

impl<S: Signed> BatchEncoder<256> for Encoder<S> {
    type Block = S::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [S::Block; BATCH] {
        let fits = fit::<F, S>(x, imatrix);
        let scales = match imatrix {
            Some(_) if S::WEIGHTING == Weighting::Search => by_search::<F, S>(&fits),
            _ => by_largest::<S>(&fits),
        };
        let codes = recode::<F, S>(x, imatrix.is_some(), &fits, &scales);
        let mut blocks = [S::EMPTY; BATCH];
        for b in 0..BATCH {
            blocks[b] = match &scales[b] {
                Some(scales) => S::pack(scales, &codes[b]),
                None => S::reference(x[b], imatrix.map(|rows| rows[b])),
            };
        }
        blocks
    }
}

#[inline(always)]
fn fit<F: F32Lanes, S: Signed>(x: &[&[f32; 256]; BATCH], imatrix: Option<&[&[f32; 256]; BATCH]>) -> Fits {
    let mut fits = Fits { scales: [0.0; MAX_GROUPS], totals: [0.0; MAX_GROUPS], inverses: [0.0; MAX_GROUPS] };
    let sigma2 = match imatrix {
        Some(_) if S::WEIGHTING == Weighting::Search => {
            tile::sums_of_squares::<F, _, _>(x).map(|sum| 2.0 * sum / 256.0)
        }
        _ => [0.0; BATCH],
    };
    if imatrix.is_none() && S::PLAIN_DESCENDS {
        fits.scales = descent::scales::<F>(x, S::HALF);
        return fits;
    }
    for first in (0..MAX_GROUPS).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, G, WIDTH> = tile::load(x, first);
        let weights = match imatrix {
            None => squares(&tile),
            Some(imatrix) if S::WEIGHTING == Weighting::Direct => tile::load(imatrix, first),
            Some(imatrix) => {
                let (weights, totals) = tile::weigh(&tile, imatrix, first, &sigma2);
                store_lanes(totals, &mut fits.totals[first..]);
                weights
            }
        };
        let found = symmetric::search(&tile, &weights, S::HALF);
        store_lanes(found.scale, &mut fits.scales[first..]);
        store_lanes(found.inverse, &mut fits.inverses[first..]);
    }
    fits
}

#[inline(always)]
fn squares<F: F32Lanes, const T: usize>(x: &Tile<F, G, T>) -> Tile<F, G, T> {
    let mut squares = *x;
    for i in 0..G {
        for t in 0..T {
            squares[i][t] = x[i][t] * x[i][t];
        }
    }
    squares
}

/// Scales of all blocks from the largest one of each. A loop, since closures are compiled without the instruction set.
#[inline(always)]
fn by_largest<S: Signed>(fits: &Fits) -> [Option<S::Scales>; BATCH] {
    let mut scales = [None; BATCH];
    for b in 0..BATCH {
        scales[b] = S::by_largest(&fits.scales.as_chunks().0[b]);
    }
    scales
}

/// Searches for the scales of all blocks at once, one a lane. Blocks whose scales are not all finite get none.
#[inline(always)]
fn by_search<F: F32Lanes, S: Signed>(fits: &Fits) -> [Option<S::Scales>; BATCH] {
    let (mut values, mut weights) = ([[0.0; MAX_LANES]; G], [[0.0; MAX_LANES]; G]);
    for b in 0..BATCH {
        for j in 0..G {
            values[j][b] = fits.scales[G * b + j];
            weights[j][b] = fits.totals[G * b + j];
        }
    }
    let (mut d, mut codes) = ([0.0; MAX_LANES], [0; MAX_LANES * G]);
    for first in (0..BATCH).step_by(F::LEN) {
        let (mut columns, mut column_weights) = ([[F::splat(0.0)]; G], [[F::splat(0.0)]; G]);
        for j in 0..G {
            columns[j][0] = F::load(&values[j][first..]);
            column_weights[j][0] = F::load(&weights[j][first..]);
        }
        let found = symmetric::search(&columns, &column_weights, S::HALF_SCALE);
        found.scale[0].store(&mut d[first..]);
        let left = symmetric::codes(&columns, found.inverse, S::HALF_SCALE);
        tile::store_codes(&left, &mut codes[G * first..]);
    }
    std::array::from_fn(|b| {
        let finite = fits.scales[G * b..][..G].iter().all(|scale| scale.is_finite());
        finite.then(|| S::by_codes(d[b], &codes.as_chunks().0[b]))
    })
}

/// Codes that suit the stored scales; where such a scale is zero, those that the search left.
#[inline(always)]
fn recode<F: F32Lanes, S: Signed>(
    x: &[&[f32; 256]; BATCH],
    weighted: bool,
    fits: &Fits,
    scales: &[Option<S::Scales>; BATCH],
) -> [[u8; 256]; BATCH] {
    let mut codes = [[0; 256]; BATCH];
    for b in 0..BATCH {
        let Some(scales) = &scales[b] else { continue };
        let steps = S::decode(scales);
        for (part, to) in codes[b].as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let mut quotients = [F::splat(0.0); 8];
            for k in 0..32 / F::LEN {
                let at = 32 * part + k * F::LEN;
                quotients[k] = F::load(&x[b][at..]) / F::splat(steps[at / G]);
            }
            symmetric::store_codes(&quotients, S::HALF, to);
        }
        // Rare with ordinary weights, so that the codes are made once more rather than kept.
        for j in (0..G).filter(|&j| steps[j] == 0.0) {
            let group = x[b].as_chunks::<G>().0;
            let left = if S::PLAIN_DESCENDS && !weighted {
                reference::descend(&group[j], S::HALF).1
            } else {
                reference::codes(&group[j], fits.inverses[G * b + j], S::HALF)
            };
            codes[b].as_chunks_mut::<G>().0[j] = left.map(|code| code as u8);
        }
    }
    codes
}
