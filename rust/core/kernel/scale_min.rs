//! Q4_K and Q5_K: super-blocks of 8 sub-blocks of 32 weights with scales and minima.

use half::f16;

use super::tile::{self, Tile, load_lanes, store_lanes};
use super::{BATCH, BatchEncoder, affine, superblock};
use crate::block::layout::Layout;
use crate::block::scale_min::{self, Scales};
use crate::lanes::F32Lanes;
use crate::reference::affine::{Cost, Grid, WEIGHTED_GRID};
use crate::reference::rounding::to_half;

/// Sub-blocks in a super-block.
const SUBS: usize = 8;
/// Weights in a sub-block.
const SUB: usize = 32;
/// Sub-blocks in a batch.
const GROUPS: usize = BATCH * SUBS;
/// Vectors in a tile.
const WIDTH: usize = 2;

/// What tells the two formats apart.
pub(crate) trait ScaleMin {
    /// A block of the format.
    type Block: Layout + Copy;
    /// Largest code.
    const MAX_CODE: i32;
    /// Candidates of the plain search.
    const PLAIN_GRID: Grid;
    /// Largest scale code of the weighted encoder; matters for what a negative scale wraps to.
    const SCALE_LIMIT: u8;
    /// Packs scales and codes.
    fn pack(scales: &Scales, codes: &[u8; 256]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Self::Block;
}

/// What the searches over the sub-blocks of a batch yield, sub-block `j` of block `b` at `8 * b + j`.
struct Fits {
    scales: [f32; GROUPS],
    mins: [f32; GROUPS],
    /// See [`affine::Fit`].
    inverses: [f32; GROUPS],
    origins: [f32; GROUPS],
    /// Sums of the weights' importances; zero without an importance matrix.
    totals: [f32; GROUPS],
    /// Whether the fits of a block are exact.
    exact: [bool; BATCH],
}

impl<S: ScaleMin> BatchEncoder<256> for S {
    type Block = S::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [S::Block; BATCH] {
        let fits = fit::<F, S>(x, imatrix);
        let scales = match imatrix {
            None => std::array::from_fn(|b| {
                let (scales, mins) = (&fits.scales.as_chunks().0[b], &fits.mins.as_chunks().0[b]);
                Scales::by_largest(scales, mins)
            }),
            Some(_) => by_search::<F, S>(&fits),
        };
        let codes = recode::<F, S>(x, &fits, &scales);
        std::array::from_fn(|b| {
            if fits.exact[b] { S::pack(&scales[b], &codes[b]) } else { S::reference(x[b], imatrix.map(|rows| rows[b])) }
        })
    }
}

/// Weights of the plain search: `rms + |x|`, where `rms` is that of the sub-block.
#[inline(always)]
fn plain_weights<F: F32Lanes, const T: usize>(x: &Tile<F, SUB, T>) -> Tile<F, SUB, T> {
    let mut weights = *x;
    for t in 0..T {
        let mut sum = F::splat(0.0);
        for i in 0..SUB {
            sum = sum + x[i][t] * x[i][t];
        }
        let rms = (sum / F::splat(SUB as f32)).sqrt();
        for i in 0..SUB {
            weights[i][t] = rms + x[i][t].abs();
        }
    }
    weights
}

#[inline(always)]
fn fit<F: F32Lanes, S: ScaleMin>(x: &[&[f32; 256]; BATCH], imatrix: Option<&[&[f32; 256]; BATCH]>) -> Fits {
    let mut fits = Fits {
        scales: [0.0; GROUPS],
        mins: [0.0; GROUPS],
        inverses: [0.0; GROUPS],
        origins: [0.0; GROUPS],
        totals: [0.0; GROUPS],
        exact: [true; BATCH],
    };
    let sigma2 = if imatrix.is_some() { tile::sums_of_squares(x).map(|sum| 2.0 * sum / 256.0) } else { [0.0; BATCH] };
    for first in (0..GROUPS).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, SUB, WIDTH> = tile::load(x, first);
        let found = match imatrix {
            None => affine::search(&tile, &plain_weights(&tile), S::MAX_CODE, S::PLAIN_GRID, Cost::Square),
            Some(imatrix) => {
                let (weights, totals) = tile::weigh(&tile, imatrix, first, &sigma2);
                store_lanes(totals, &mut fits.totals[first..]);
                affine::search(&tile, &weights, S::MAX_CODE, WEIGHTED_GRID, Cost::Square)
            }
        };
        store_lanes(found.scale, &mut fits.scales[first..]);
        store_lanes(found.min, &mut fits.mins[first..]);
        store_lanes(found.inverse, &mut fits.inverses[first..]);
        store_lanes(found.origin, &mut fits.origins[first..]);
        fits.exact[first / SUBS..][..WIDTH * F::LEN / SUBS].fill(found.exact);
    }
    fits
}

/// Scales of all blocks with an importance matrix: two searches a block, all at once.
#[inline(always)]
fn by_search<F: F32Lanes, S: ScaleMin>(fits: &Fits) -> [Scales; BATCH] {
    const MINS: usize = BATCH;
    let (mut values, mut weights) = ([[0.0; 2 * BATCH]; SUBS], [[0.0; 2 * BATCH]; SUBS]);
    for b in 0..BATCH {
        for j in 0..SUBS {
            values[j][b] = fits.scales[SUBS * b + j];
            values[j][MINS + b] = fits.mins[SUBS * b + j];
            weights[j][b] = fits.totals[SUBS * b + j];
            weights[j][MINS + b] = fits.totals[SUBS * b + j];
        }
    }
    let (d, codes) = superblock::search_columns::<F, SUBS, _>(&values, &weights, 63);
    std::array::from_fn(|b| {
        let limited = |column: usize| codes.map(|codes| (codes[column] as u8).min(S::SCALE_LIMIT));
        let packed = scale_min::pack(&limited(b), &limited(MINS + b));
        Scales { d: to_half(d[b]), dmin: to_half(d[MINS + b]), packed }
    })
}

/// Final codes of all blocks.
#[inline(always)]
fn recode<F: F32Lanes, S: ScaleMin>(
    x: &[&[f32; 256]; BATCH],
    fits: &Fits,
    scales: &[Scales; BATCH],
) -> [[u8; 256]; BATCH] {
    let (mut steps, mut mins) = ([0.0; GROUPS], [0.0; GROUPS]);
    for b in 0..BATCH {
        let (d, dmin) = (f16::to_f32(scales[b].d), f16::to_f32(scales[b].dmin));
        for j in 0..SUBS {
            let (scale, min) = scale_min::unpack(&scales[b].packed, j);
            steps[SUBS * b + j] = d * f32::from(scale);
            mins[SUBS * b + j] = dmin * f32::from(min);
        }
    }
    let mut codes = [[0; 256]; BATCH];
    for first in (0..GROUPS).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, SUB, WIDTH> = tile::load(x, first);
        let lanes = |values: &[f32; GROUPS]| load_lanes::<F, WIDTH>(&values[first..]);
        let kept = (lanes(&fits.inverses), lanes(&fits.origins));
        let tile_codes = affine::recode(&tile, lanes(&steps), lanes(&mins), S::MAX_CODE, kept);
        tile::store_codes(&tile_codes, &mut codes.as_flattened_mut()[SUB * first..]);
    }
    codes
}
