//! IQ4_NL and IQ4_XS: codes into a table of 16 values, as [`crate::reference::nonlinear`] has them, one group of 32 a lane.

use std::marker::PhantomData;

use super::tile::{self, Tile};
use super::{BatchEncoder, MAX_GROUPS, symmetric};
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES};
use crate::reference::nonlinear::VALUES;

/// Weights in a group.
const G: usize = 32;

/// What tells the formats apart. A block is `J` groups.
pub(crate) trait NonLinear<const J: usize> {
    /// A block of the format.
    type Block: Layout + Copy;

    /// A block without codes, from the scales that the search found, and the scales to find its codes with.
    fn round_scales(scales: &[f32; J]) -> (Self::Block, [f32; J]);
    /// The block with its codes, packed.
    fn with_codes(block: Self::Block, qs: &[[u8; 16]; J]) -> Self::Block;
}

/// Encodes a format with `J` groups a block, which makes `N` weights, by batches of `B` blocks.
pub(crate) struct Encoder<S, const J: usize, const N: usize, const B: usize>(PhantomData<S>);

impl<S: NonLinear<J>, const J: usize, const N: usize, const B: usize> BatchEncoder<N, B> for Encoder<S, J, N, B> {
    type Block = S::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(x: &[&[f32; N]; B], imatrix: Option<&[&[f32; N]; B]>) -> [S::Block; B] {
        const { assert!(N == J * G && B * J <= MAX_GROUPS) }
        let sigma2 = match imatrix {
            None => [0.0; B],
            Some(_) => tile::sums_of_squares::<F, _, _>(x).map(|sum| sum * (2.0 / N as f32)),
        };
        let mut scales = [0.0; MAX_GROUPS];
        for first in (0..B * J).step_by(F::LEN) {
            let tile: Tile<F, G, 1> = tile::load(x, first);
            let weights = match imatrix {
                None => squares(&tile),
                Some(imatrix) => tile::weigh(&tile, imatrix, first, &sigma2).0,
            };
            best_scale(&tile, &weights).store(&mut scales[first..]);
        }
        let rounded: [(S::Block, [f32; J]); B] =
            std::array::from_fn(|b| S::round_scales(&scales.as_chunks::<J>().0[b]));
        let mut inverses = [0.0; MAX_GROUPS];
        for (inverses, (_, scales)) in inverses.as_chunks_mut::<J>().0.iter_mut().zip(&rounded) {
            *inverses = scales.map(|scale| if scale == 0.0 { 0.0 } else { 1.0 / scale });
        }
        let mut qs = [[0; 16]; MAX_GROUPS];
        for first in (0..B * J).step_by(F::LEN) {
            let tile: Tile<F, G, 1> = tile::load(x, first);
            let inverse = F::load(&inverses[first..]);
            let mut pairs = [[F::Int::splat(0)]; G / 2];
            for i in 0..G / 2 {
                let (low, high) = (nearest_entry(inverse * tile[i][0]), nearest_entry(inverse * tile[i + G / 2][0]));
                pairs[i][0] = low | high.shl::<4>();
            }
            tile::store_codes(&pairs, &mut qs.as_flattened_mut()[16 * first..]);
        }
        std::array::from_fn(|b| S::with_codes(rounded[b].0, &qs.as_chunks::<J>().0[b]))
    }
}

#[inline(always)]
fn squares<F: F32Lanes>(x: &Tile<F, G, 1>) -> Tile<F, G, 1> {
    let mut squares = *x;
    for i in 0..G {
        squares[i][0] = x[i][0] * x[i][0];
    }
    squares
}

/// Half-way points between neighbours in the table, and infinity at the end.
const MIDDLES: [f32; 16] = {
    let mut middles = [f32::INFINITY; 16];
    let mut i = 0;
    while i < 15 {
        middles[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// Every fourth half-way point from `first` on, again and again.
const fn every_fourth(first: usize) -> [f32; MAX_LANES] {
    let mut points = [0.0; MAX_LANES];
    let mut i = 0;
    while i < MAX_LANES {
        points[i] = MIDDLES[first + 4 * (i % 4)];
        i += 1;
    }
    points
}

/// The table from entry `first` on; the last entry goes on.
const fn values_from(first: usize) -> [f32; 16] {
    let mut values = [VALUES[15] as f32; 16];
    let mut i = 0;
    while i + first < 16 {
        values[i] = VALUES[i + first] as f32;
        i += 1;
    }
    values
}

/// See [`crate::reference::nonlinear::nearest_entry`].
///
/// The reference compares `x - below` with `above - x` between two entries. Half-way between them both are exact and
/// equal, and the upper entry is taken. One float further down they are still told apart, because half the distance
/// between two entries is at most 11.5, and where it exceeds 8 the half-way point is at least 57 away from zero, where
/// floats are further apart than the differences round. Both differences are monotonous, so the code is the number of
/// half-way points that are not above `x`. NaN is below none of them, and gets the last entry there too.
#[inline(always)]
fn nearest_entry<F: F32Lanes>(x: F) -> F::Int {
    let three = F::Int::splat(3);
    let mut quarter = three;
    for middle in [MIDDLES[3], MIDDLES[7], MIDDLES[11]] {
        quarter = quarter + F::Int::minus_one(x.lt(F::splat(middle)));
    }
    let mut rest = three;
    for table in [const { every_fourth(0) }, const { every_fourth(1) }, const { every_fourth(2) }] {
        rest = rest + F::Int::minus_one(x.lt(F::load(&table).look_up_4(quarter)));
    }
    quarter.shl::<2>() + rest
}

/// Candidates whose sums are taken side by side; of 15.
const ABREAST: usize = 3;

/// See [`crate::reference::nonlinear::best_scale`]. `x` is finite.
///
/// All but the first candidate map the extreme weight to between -134 and -120. So each weight's `inverse * x` keeps its
/// sign, and its magnitude changes by a factor of at most 134/120 and two roundings, and never rises from one candidate
/// to the next. Neighbouring half-way points of the same sign are a factor of at least 115.5/93.5 apart. So there is at
/// most one half-way point that a weight may pass, the first one above the lesser of its values at both ends; the code is
/// one of its two neighbours, and the terms of the sums that belong to either can be worked out beforehand.
#[inline(always)]
fn best_scale<F: F32Lanes>(x: &Tile<F, G, 1>, weights: &Tile<F, G, 1>) -> F {
    let zero = F::splat(0.0);
    let first = f32::from(VALUES[0]);
    let (extreme, empty) = symmetric::extreme(x, 0);
    let outermost = F::splat(first - 7.0) / extreme;
    let innermost = F::splat(first + 7.0) / extreme;
    let opposite = F::splat(1.0) / (extreme.neg() / F::splat(first));
    // The first candidate's sums, and for each weight the half-way point and both terms of either sum.
    let (mut sumqx, mut sumq2) = (zero, zero);
    let mut middles = [zero; G];
    let (mut below_qx, mut below_q2, mut above_qx, mut above_q2) = ([zero; G], [zero; G], [zero; G], [zero; G]);
    for i in 0..G {
        let (x, w) = (x[i][0], weights[i][0]);
        let q = nearest_entry(opposite * x).look_up_16(&const { values_from(0) });
        sumqx = sumqx + w * q * x;
        sumq2 = sumq2 + w * q * q;
        let lowest = nearest_entry((outermost * x).lesser(innermost * x));
        let (below, above) =
            (lowest.look_up_16(&const { values_from(0) }), lowest.look_up_16(&const { values_from(1) }));
        middles[i] = lowest.look_up_16(&MIDDLES);
        below_qx[i] = w * below * x;
        below_q2[i] = w * below * below;
        above_qx[i] = w * above * x;
        above_q2[i] = w * above * above;
    }
    let mut scale = F::select(sumq2.gt(zero), sumqx / sumq2, zero);
    let mut best = scale * sumqx;
    for step in (-7..=7).step_by(ABREAST) {
        let mut inverse = [zero; ABREAST];
        for k in 0..ABREAST {
            inverse[k] = F::splat((step + k as i32) as f32 + first) / extreme;
        }
        let (mut sumqx, mut sumq2) = ([zero; ABREAST], [zero; ABREAST]);
        for i in 0..G {
            for k in 0..ABREAST {
                let is_below = (inverse[k] * x[i][0]).lt(middles[i]);
                sumqx[k] = sumqx[k] + F::select(is_below, below_qx[i], above_qx[i]);
                sumq2[k] = sumq2[k] + F::select(is_below, below_q2[i], above_q2[i]);
            }
        }
        for k in 0..ABREAST {
            let better = sumq2[k].gt(zero) & (sumqx[k] * sumqx[k]).gt(best * sumq2[k]);
            let candidate = sumqx[k] / sumq2[k];
            scale = F::select(better, candidate, scale);
            best = F::select(better, candidate * sumqx[k], best);
        }
    }
    F::select(empty, zero, scale)
}

#[cfg(test)]
mod tests {
    use super::{F32Lanes, I32Lanes, MIDDLES, nearest_entry};
    use crate::lanes::portable::Floats;
    use crate::reference::nonlinear;

    #[test]
    fn half_way_points_decide() {
        let around = MIDDLES.iter().flat_map(|m| [m.next_down().next_down(), m.next_down(), *m, m.next_up()]);
        let coarse = (-1200..=1200).map(|i| i as f32 / 8.0);
        let others = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1e-45];
        for x in around.chain(coarse).chain(others) {
            let mut code = [0; 4];
            nearest_entry(Floats::<4>::splat(x)).store(&mut code);
            assert_eq!(code, [i32::from(nonlinear::nearest_entry(x)); 4], "{x}");
        }
    }

    #[test]
    fn a_weight_passes_one_half_way_point_at_most() {
        for pair in MIDDLES[..15].windows(2).filter(|pair| pair[0] * pair[1] > 0.0) {
            let (near, far) = (pair[0].abs().min(pair[1].abs()), pair[0].abs().max(pair[1].abs()));
            assert!(far / near > 134.0 / 120.0 * 1.001, "{pair:?}");
        }
    }
}
