//! Tiles: groups of weights side by side, one a lane.

use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES};
use crate::prefetch::prefetch;

/// Groups of `G` weights in `T` vectors: element `[i][t]` holds weight `i` of groups `t * LEN` to `(t + 1) * LEN - 1`.
///
/// Two vectors side by side (`T` = 2) give the processor two independent chains of additions to work on.
pub(crate) type Tile<F, const G: usize, const T: usize> = [[F; T]; G];

/// Weights ahead of those in hand that are asked for, a batch of super-blocks: the processor itself stops at the end of a page.
const AHEAD: usize = 2048;

/// Groups of `G` in `blocks` that a tile of `T` vectors holds, starting with group `first`.
#[inline(always)]
pub(crate) fn load<F: F32Lanes, const N: usize, const G: usize, const T: usize>(
    blocks: &[&[f32; N]],
    first: usize,
) -> Tile<F, G, T> {
    let mut tile = [[F::splat(0.0); T]; G];
    for t in 0..T {
        for i in (0..G).step_by(F::LEN) {
            let mut square = [F::splat(0.0); MAX_LANES];
            for lane in 0..F::LEN {
                let group = first + t * F::LEN + lane;
                let from = &blocks[group / (N / G)][group % (N / G) * G + i..];
                if i % 16 == 0 {
                    prefetch(from.as_ptr().wrapping_add(AHEAD), 1);
                }
                square[lane] = F::load(from);
            }
            F::transpose(&mut square[..F::LEN]);
            for k in 0..F::LEN {
                tile[i + k][t] = square[k];
            }
        }
    }
    tile
}

/// `T` vectors from `values`.
#[inline(always)]
pub(crate) fn load_lanes<F: F32Lanes, const T: usize>(values: &[f32]) -> [F; T] {
    let mut lanes = [F::splat(0.0); T];
    for t in 0..T {
        lanes[t] = F::load(&values[t * F::LEN..]);
    }
    lanes
}

/// Writes `T` vectors one after the other.
#[inline(always)]
pub(crate) fn store_lanes<F: F32Lanes, const T: usize>(lanes: [F; T], to: &mut [f32]) {
    for t in 0..T {
        lanes[t].store(&mut to[t * F::LEN..]);
    }
}

/// Sum of squares of each block, first to last, one block a lane.
#[inline(always)]
pub(crate) fn sums_of_squares<F: F32Lanes, const N: usize, const B: usize>(x: &[&[f32; N]; B]) -> [f32; B] {
    let mut sums = [0.0; B];
    for first in (0..B).step_by(F::LEN) {
        let mut sum = F::splat(0.0);
        for i in (0..N).step_by(F::LEN) {
            let mut square = [F::splat(0.0); MAX_LANES];
            for lane in 0..F::LEN {
                // There may be fewer blocks than lanes.
                square[lane] = F::load(&x[(first + lane).min(B - 1)][i..]);
            }
            F::transpose(&mut square[..F::LEN]);
            for x in square.iter().take(F::LEN) {
                sum = sum + *x * *x;
            }
        }
        let mut lanes = [0.0; MAX_LANES];
        sum.store(&mut lanes);
        let count = F::LEN.min(B - first);
        sums[first..first + count].copy_from_slice(&lanes[..count]);
    }
    sums
}

/// The weights `imatrix * sqrt(sigma2 + x^2)` of a tile that starts with group `first`, and each group's sum of them.
/// `sigma2` is that of each block.
#[inline(always)]
pub(crate) fn weigh<F: F32Lanes, const N: usize, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    imatrix: &[&[f32; N]],
    first: usize,
    sigma2: &[f32],
) -> (Tile<F, G, T>, [F; T]) {
    let mut weights: Tile<F, G, T> = load(imatrix, first);
    let mut totals = [F::splat(0.0); T];
    for t in 0..T {
        let mut sigmas = [0.0; MAX_LANES];
        for lane in 0..F::LEN {
            sigmas[lane] = sigma2[(first + t * F::LEN + lane) / (N / G)];
        }
        let sigma2 = F::load(&sigmas);
        for i in 0..G {
            weights[i][t] = weights[i][t] * (sigma2 + x[i][t] * x[i][t]).sqrt();
            totals[t] = totals[t] + weights[i][t];
        }
    }
    (weights, totals)
}

/// Writes the lowest bytes of a tile of codes, group after group. `G` is a multiple of 4.
#[inline(always)]
pub(crate) fn store_codes<I: I32Lanes, const G: usize, const T: usize>(codes: &[[I; T]; G], to: &mut [u8]) {
    let byte = I::splat(255);
    for i in (0..G).step_by(4) {
        for t in 0..T {
            let low = (codes[i][t] & byte) | (codes[i + 1][t] & byte).shl::<8>();
            let high = (codes[i + 2][t] & byte).shl::<16>() | codes[i + 3][t].shl::<24>();
            let mut words = [0; MAX_LANES];
            (low | high).store(&mut words);
            for lane in 0..<I::Float as F32Lanes>::LEN {
                let group = t * <I::Float as F32Lanes>::LEN + lane;
                to[group * G + i..][..4].copy_from_slice(&words[lane].to_le_bytes());
            }
        }
    }
}
