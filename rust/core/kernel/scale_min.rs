//! Q2_K, Q4_K and Q5_K: super-blocks of 256 weights in sub-blocks with scales and minima.

use std::marker::PhantomData;

use super::tile::{self, Tile, load_lanes, store_lanes};
use super::{BATCH, BatchEncoder, MAX_GROUPS, affine, superblock};
use crate::block::layout::Layout;
use crate::lanes::F32Lanes;
use crate::reference::affine::{Cost, Grid, WEIGHTED_GRID};

/// Vectors in a tile.
const WIDTH: usize = 2;

/// What tells the formats apart. A super-block is `N` sub-blocks.
pub(crate) trait ScaleMin<const N: usize> {
    /// A block of the format.
    type Block: Layout + Copy;
    /// Scales and minima of a block as they are stored.
    type Scales;
    /// Largest code.
    const MAX_CODE: i32;
    /// Largest code of a scale.
    const MAX_SCALE: i32;
    /// Candidates of the plain search.
    const PLAIN_GRID: Grid;
    /// What a deviation costs in the plain search.
    const PLAIN_COST: Cost;
    /// Whether the weights of the plain search are `rms + |x|`, with the root mean square of the sub-block, or `|x|`.
    const PLAIN_RMS: bool;
    /// `sigma2` of the weighted search as a multiple of the mean square of the super-block.
    const SIGMA2: f32;

    /// Maps the largest scale to the largest code, and the largest minimum likewise.
    fn by_largest(scales: &[f32; N], mins: &[f32; N]) -> Self::Scales;
    /// Scales from the common scales of scales and minima, and the codes of both.
    fn by_codes(d: f32, dmin: f32, scales: &[u8; N], mins: &[u8; N]) -> Self::Scales;
    /// Scale and minimum of sub-block `j`, as they decode.
    fn decode(scales: &Self::Scales, j: usize) -> (f32, f32);
    /// Packs scales and codes.
    fn pack(scales: &Self::Scales, codes: &[u8; 256]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Self::Block;
}

/// Encodes a format with `N` sub-blocks of `G` weights.
pub(crate) struct Encoder<S, const N: usize, const G: usize>(PhantomData<S>);

/// What the searches over the sub-blocks of a batch yield, sub-block `j` of block `b` at `N * b + j`.
struct Fits {
    scales: [f32; MAX_GROUPS],
    mins: [f32; MAX_GROUPS],
    /// See [`affine::Fit`].
    inverses: [f32; MAX_GROUPS],
    origins: [f32; MAX_GROUPS],
    /// Sums of the weights' importances; zero without an importance matrix.
    totals: [f32; MAX_GROUPS],
    /// Whether the fits of a block are exact.
    exact: [bool; BATCH],
}

impl<S: ScaleMin<N>, const N: usize, const G: usize> BatchEncoder<256> for Encoder<S, N, G> {
    type Block = S::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [S::Block; BATCH] {
        let fits = fit::<F, S, N, G>(x, imatrix);
        let scales: [S::Scales; BATCH] = match imatrix {
            None => std::array::from_fn(|b| S::by_largest(&fits.scales.as_chunks().0[b], &fits.mins.as_chunks().0[b])),
            Some(_) => by_search::<F, S, N>(&fits),
        };
        let codes = recode::<F, S, N, G>(x, &fits, &scales);
        std::array::from_fn(|b| {
            if fits.exact[b] { S::pack(&scales[b], &codes[b]) } else { S::reference(x[b], imatrix.map(|rows| rows[b])) }
        })
    }
}

/// Weights of the plain search.
#[inline(always)]
fn plain_weights<F: F32Lanes, const G: usize, const T: usize>(x: &Tile<F, G, T>, rms: bool) -> Tile<F, G, T> {
    let mut weights = *x;
    for t in 0..T {
        let mut sum = F::splat(0.0);
        for i in 0..G {
            sum = sum + x[i][t] * x[i][t];
            weights[i][t] = x[i][t].abs();
        }
        if rms {
            let rms = (sum / F::splat(G as f32)).sqrt();
            for i in 0..G {
                weights[i][t] = rms + weights[i][t];
            }
        }
    }
    weights
}

#[inline(always)]
fn fit<F: F32Lanes, S: ScaleMin<N>, const N: usize, const G: usize>(
    x: &[&[f32; 256]; BATCH],
    imatrix: Option<&[&[f32; 256]; BATCH]>,
) -> Fits {
    let mut fits = Fits {
        scales: [0.0; MAX_GROUPS],
        mins: [0.0; MAX_GROUPS],
        inverses: [0.0; MAX_GROUPS],
        origins: [0.0; MAX_GROUPS],
        totals: [0.0; MAX_GROUPS],
        exact: [true; BATCH],
    };
    let sigma2 = match imatrix {
        None => [0.0; BATCH],
        Some(_) => tile::sums_of_squares::<F, _, _>(x).map(|sum| S::SIGMA2 * sum / 256.0),
    };
    for first in (0..BATCH * N).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, G, WIDTH> = tile::load(x, first);
        let found = match imatrix {
            None => {
                let weights = plain_weights(&tile, S::PLAIN_RMS);
                affine::search(&tile, &weights, S::MAX_CODE, S::PLAIN_GRID, S::PLAIN_COST)
            }
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
        fits.exact[first / N..(first + WIDTH * F::LEN).div_ceil(N)].iter_mut().for_each(|exact| *exact &= found.exact);
    }
    fits
}

/// Scales of all blocks with an importance matrix: two searches a block, all at once.
#[inline(always)]
fn by_search<F: F32Lanes, S: ScaleMin<N>, const N: usize>(fits: &Fits) -> [S::Scales; BATCH] {
    const MINS: usize = BATCH;
    let (mut values, mut weights) = ([[0.0; 2 * BATCH]; N], [[0.0; 2 * BATCH]; N]);
    for b in 0..BATCH {
        for j in 0..N {
            values[j][b] = fits.scales[N * b + j];
            values[j][MINS + b] = fits.mins[N * b + j];
            weights[j][b] = fits.totals[N * b + j];
            weights[j][MINS + b] = fits.totals[N * b + j];
        }
    }
    let (d, codes) = superblock::search_columns::<F, N, _>(&values, &weights, S::MAX_SCALE);
    std::array::from_fn(|b| {
        let column = |column: usize| codes.map(|codes| codes[column] as u8);
        S::by_codes(d[b], d[MINS + b], &column(b), &column(MINS + b))
    })
}

/// Final codes of all blocks.
#[inline(always)]
fn recode<F: F32Lanes, S: ScaleMin<N>, const N: usize, const G: usize>(
    x: &[&[f32; 256]; BATCH],
    fits: &Fits,
    scales: &[S::Scales; BATCH],
) -> [[u8; 256]; BATCH] {
    let (mut steps, mut mins) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
    for b in 0..BATCH {
        for j in 0..N {
            (steps[N * b + j], mins[N * b + j]) = S::decode(&scales[b], j);
        }
    }
    let mut codes = [[0; 256]; BATCH];
    for first in (0..BATCH * N).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, G, WIDTH> = tile::load(x, first);
        let kept = (load_lanes(&fits.inverses[first..]), load_lanes(&fits.origins[first..]));
        let (steps, mins) = (load_lanes(&steps[first..]), load_lanes(&mins[first..]));
        let tile_codes = affine::recode(&tile, steps, mins, S::MAX_CODE, kept);
        tile::store_codes(&tile_codes, &mut codes.as_flattened_mut()[G * first..]);
    }
    codes
}
