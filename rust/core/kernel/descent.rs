//! The search that moves one code at a time, as [`crate::reference::symmetric::descend`] has it, weights being `x^2`.
//!
//! Groups whose largest weight is positive start from a negative scale and are done with it: all their products `w * x * l`
//! are negative or zero, a rounded sum of such numbers is never above any of them, and only sums that stay positive without
//! a weight are improved. The others are packed into tiles, one group a lane. A step depends on two sums and on the code of
//! its own weight alone, so that all steps which leave everything as it is can be passed at once: a *sweep* finds for each
//! lane the next weight whose code may change, in the order of the reference, and only there the step is made in full, by
//! each lane at a place of its own. Groups without any such weight are done before they would be packed.

use super::symmetric::extreme;
use super::tile::{self, Tile, store_lanes};
use super::{BATCH, MAX_GROUPS};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};
use crate::reference::symmetric as reference;

/// Weights in a group, and groups in a block.
const G: usize = 16;
/// Vectors in a tile where the search starts. Groups that move lie in tiles of one.
const WIDTH: usize = 2;
/// Steps of all rounds.
const STEPS: i32 = 5 * G as i32;
/// Sums above this leave differences that are zero, negative, or above 2^-97: see [`stays`].
const MODERATE: f32 = 1e-22;

/// What holds for a weight as long as its code does not change, by weight and lane.
struct Weights {
    x: [[f32; MAX_LANES]; G],
    code: [[f32; MAX_LANES]; G],
    /// `w * x * code` and `w * code^2`.
    lx: [[f32; MAX_LANES]; G],
    l2: [[f32; MAX_LANES]; G],
    /// See [`limits`].
    lowest: [[f32; MAX_LANES]; G],
    highest: [[f32; MAX_LANES]; G],
}

/// The quotients between which [`stays`] knows that a code does not change.
#[inline(always)]
fn limits<F: F32Lanes>(code: F, half: i32) -> (F, F) {
    /// Less than any quotient that wraps when it is rounded.
    const FAR: f32 = 1e6;
    let at_bottom = code.eq(F::splat(-half as f32));
    let at_top = code.eq(F::splat((half - 1) as f32));
    (
        F::select(at_bottom, F::splat(-FAR), code - F::splat(0.499)),
        F::select(at_top, F::splat(FAR), code + F::splat(0.499)),
    )
}

/// Lanes where `nearest_int(a / b).clamp(-half, half - 1)` is known to be the code that the limits belong to, without the
/// division, for `b > 1e-30`.
///
/// Let `a < highest * b` as computed, with `highest = code + 0.499`. The product is off by at most a part in 2^24, and so is
/// the quotient once it is rounded: it stays below `code + 0.499 * (1 + 2^-22) + |code| / 2^22`, which is less than
/// `code + 1/2`. The other side is the same, and between the two lies nothing but the code. The lowest and the highest code
/// take everything further out, up to where rounding would wrap. Smaller `b`, whose products may be subnormal and so less
/// precise, do not occur: `b` is the difference of a sum above [`MODERATE`] and another number, which is above half of that
/// sum, or exact and a multiple of the last place of one of them. What overflows proves nothing: `a` that is infinite or NaN
/// fails a comparison, and so does finite `a` against `b` that is infinite unless the code is 0, as the quotient is then.
/// With `b <= 0` nothing is changed whatever is found here.
#[inline(always)]
fn stays<F: F32Lanes>(a: F, b: F, (lowest, highest): (F, F)) -> F::Mask {
    (lowest * b).lt(a) & a.lt(highest * b)
}

/// What all lanes of a vector know of their groups.
#[derive(Clone, Copy)]
struct Walk<F: F32Lanes> {
    sum_lx: F,
    sum_l2: F,
    /// Number of the next step, counted through all rounds.
    step: F::Int,
    /// Steps since a code changed. After as many as there are weights, no further one changes anything.
    idle: F::Int,
    /// Groups that are not done.
    open: F::Mask,
    /// Groups that are left to the reference.
    odd: F::Mask,
}

/// Scales of all groups of a batch. `x` is finite; groups that count as zero get 0.
#[inline(always)]
pub(crate) fn scales<F: F32Lanes>(x: &[&[f32; 256]; BATCH], half: i32) -> [f32; MAX_GROUPS] {
    let (mut scales, mut inverses) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
    let (mut sums_lx, mut sums_l2) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
    let (mut moving, mut count) = ([0; MAX_GROUPS], 0);
    for first in (0..MAX_GROUPS).step_by(WIDTH * F::LEN) {
        let start = start(&tile::load::<F, 256, G, WIDTH>(x, first), half);
        store_lanes(start.scale, &mut scales[first..]);
        store_lanes(start.inverse, &mut inverses[first..]);
        store_lanes(start.sum_lx, &mut sums_lx[first..]);
        store_lanes(start.sum_l2, &mut sums_l2[first..]);
        for t in 0..WIDTH {
            let mut bits = start.moves[t].bits();
            while bits != 0 {
                moving[count] = first + t * F::LEN + bits.trailing_zeros() as usize;
                count += 1;
                bits &= bits - 1;
            }
        }
    }
    let nothing = [[0.0; MAX_LANES]; G];
    let mut weights =
        Weights { x: nothing, code: nothing, lx: nothing, l2: nothing, lowest: nothing, highest: nothing };
    for groups in moving[..count].chunks(F::LEN) {
        let mut rows = [&x[0].as_chunks().0[0]; MAX_LANES];
        let (mut inverse, mut lx, mut l2) = ([0.0; MAX_LANES], [0.0; MAX_LANES], [0.0; MAX_LANES]);
        for lane in 0..F::LEN {
            // The last tile is filled up with its last group.
            let group = groups[lane.min(groups.len() - 1)];
            rows[lane] = &x[group / G].as_chunks::<G>().0[group % G];
            (inverse[lane], lx[lane], l2[lane]) = (inverses[group], sums_lx[group], sums_l2[group]);
        }
        weights.fill::<F>(&tile::load(&rows, 0), F::load(&inverse), half);
        let (found, odd) = weights.descend(F::load(&lx), F::load(&l2), half);
        let mut lanes = [0.0; MAX_LANES];
        found.store(&mut lanes);
        for (lane, &group) in groups.iter().enumerate() {
            let is_odd = (odd.bits() >> lane) & 1 == 1;
            scales[group] = if is_odd { reference::descend(rows[lane], half).0 } else { lanes[lane] };
        }
    }
    scales
}

/// Where the search starts from.
struct Start<F: F32Lanes> {
    scale: [F; WIDTH],
    inverse: [F; WIDTH],
    sum_lx: [F; WIDTH],
    sum_l2: [F; WIDTH],
    /// Groups in which some code may be changed.
    moves: [F::Mask; WIDTH],
}

#[inline(always)]
fn start<F: F32Lanes>(x: &Tile<F, G, WIDTH>, half: i32) -> Start<F> {
    let zero = F::splat(0.0);
    let none = [zero; WIDTH];
    let mut start = Start { scale: none, inverse: none, sum_lx: none, sum_l2: none, moves: [zero.lt(zero); WIDTH] };
    let (mut inverse, mut moves) = (none, start.moves);
    for t in 0..WIDTH {
        let (extreme, empty) = extreme(x, t);
        moves[t] = extreme.lt(zero) & !empty;
        inverse[t] = F::splat(-half as f32) / F::select(empty, F::splat(1.0), extreme);
        // Nothing else has a sum of zero.
        start.inverse[t] = F::select(empty, zero, inverse[t]);
    }
    let (mut codes, mut lx, mut l2) = ([none; G], [none; G], [none; G]);
    let (mut sum_lx, mut sum_l2) = (none, none);
    for i in 0..G {
        for t in 0..WIDTH {
            let x = x[i][t];
            let w = x * x;
            codes[i][t] = code(x, inverse[t], half);
            lx[i][t] = w * x * codes[i][t];
            l2[i][t] = w * codes[i][t] * codes[i][t];
            sum_lx[t] = sum_lx[t] + lx[i][t];
            sum_l2[t] = sum_l2[t] + l2[i][t];
        }
    }
    let mut stay = [F::splat(MODERATE).lt(zero); WIDTH];
    for t in 0..WIDTH {
        stay[t] = F::splat(MODERATE).lt(sum_lx[t]);
    }
    for i in 0..G {
        for t in 0..WIDTH {
            let limits = limits(codes[i][t], half);
            stay[t] = stay[t] & stays(x[i][t] * (sum_l2[t] - l2[i][t]), sum_lx[t] - lx[i][t], limits);
        }
    }
    for t in 0..WIDTH {
        let empty = start.inverse[t].eq(zero);
        start.scale[t] = F::select(sum_l2[t].gt(zero) & !empty, sum_lx[t] / sum_l2[t], zero);
        start.moves[t] = moves[t] & !stay[t];
        (start.inverse[t], start.sum_lx[t], start.sum_l2[t]) = (inverse[t], sum_lx[t], sum_l2[t]);
    }
    start
}

#[inline(always)]
fn code<F: F32Lanes>(x: F, inverse: F, half: i32) -> F {
    (inverse * x).nearest_code(-half as f32, (half - 1) as f32)
}

impl Weights {
    /// Weights of a tile, with the codes that the search starts from.
    #[inline(always)]
    fn fill<F: F32Lanes>(&mut self, x: &Tile<F, G, 1>, inverse: F, half: i32) {
        for i in 0..G {
            let x = x[i][0];
            let (code, w) = (code(x, inverse, half), x * x);
            let (lowest, highest) = limits(code, half);
            x.store(&mut self.x[i]);
            code.store(&mut self.code[i]);
            (w * x * code).store(&mut self.lx[i]);
            (w * code * code).store(&mut self.l2[i]);
            lowest.store(&mut self.lowest[i]);
            highest.store(&mut self.highest[i]);
        }
    }

    /// Moves codes, given the sums to begin with. Returns the scales, and which of them are left to the reference.
    #[inline(always)]
    fn descend<F: F32Lanes>(&mut self, sum_lx: F, sum_l2: F, half: i32) -> (F, F::Mask) {
        let (zero, none) = (F::splat(0.0), F::Int::splat(0));
        let never = zero.lt(zero);
        let mut walk = Walk { sum_lx, sum_l2, step: none, idle: none, open: !never, odd: never };
        loop {
            walk = self.sweep(walk);
            if !walk.open.any() {
                return (F::select(walk.sum_l2.gt(zero), walk.sum_lx / walk.sum_l2, zero), walk.odd);
            }
            walk = self.step(walk, half);
        }
    }

    /// Takes each lane to the next step that may change a code.
    #[inline(always)]
    fn sweep<F: F32Lanes>(&self, mut walk: Walk<F>) -> Walk<F> {
        let last = F::Int::splat(G as i32 - 1);
        // Twice the distance from the next weight, unsigned: weights before it come last, in their order, and what is odd
        // stands for no weight at all.
        let next = (walk.step & last).shl::<1>();
        let mut nearest = F::Int::splat(-1);
        for i in 0..G {
            let rest_lx = walk.sum_lx - F::load(&self.lx[i]);
            let rest_l2 = walk.sum_l2 - F::load(&self.l2[i]);
            let limits = (F::load(&self.lowest[i]), F::load(&self.highest[i]));
            let stays = stays(F::load(&self.x[i]) * rest_l2, rest_lx, limits);
            let distance = F::Int::splat(2 * i as i32) - next;
            nearest = nearest.unsigned_min(distance | F::Int::minus_one(stays));
        }
        let distance = nearest.shr::<1>() & last;
        walk.step = walk.step + distance;
        walk.idle = walk.idle + distance;
        walk.odd = walk.odd | !walk.sum_lx.gt(F::splat(MODERATE));
        walk.open = walk.open
            & !nearest.eq(F::Int::splat(-1))
            & at_most(walk.step, STEPS - 1)
            & at_most(walk.idle, G as i32 - 1);
        walk
    }

    /// Makes a step in each lane that is open.
    #[inline(always)]
    fn step<F: F32Lanes>(&mut self, mut walk: Walk<F>, half: i32) -> Walk<F> {
        let (zero, one) = (F::splat(0.0), F::Int::splat(1));
        let index = walk.step & F::Int::splat(G as i32 - 1);
        let [x, code] = pick::<F>([&self.x, &self.code], index);
        let w = x * x;
        let rest_lx = walk.sum_lx - w * x * code;
        let rest_l2 = walk.sum_l2 - w * code * code;
        let moved = (x * rest_l2 / rest_lx).nearest_int().clamp(-half, half - 1).to_float();
        let (lx, l2) = (w * x * moved, w * moved * moved);
        let (new_lx, new_l2) = (rest_lx + lx, rest_l2 + l2);
        let better = walk.open
            & rest_lx.gt(zero)
            & !moved.eq(code)
            & new_l2.gt(zero)
            & (new_lx * new_lx * walk.sum_l2).gt(walk.sum_lx * walk.sum_lx * new_l2);
        walk.sum_lx = F::select(better, new_lx, walk.sum_lx);
        walk.sum_l2 = F::select(better, new_l2, walk.sum_l2);
        walk.idle = F::Int::select(better, F::Int::splat(0), walk.idle + one);
        walk.step = walk.step + one;
        let (lowest, highest) = limits(moved, half);
        let mut lanes = [[0.0; MAX_LANES]; 5];
        for (lanes, value) in lanes.iter_mut().zip([moved, lx, l2, lowest, highest]) {
            value.store(lanes);
        }
        let mut indices = [0; MAX_LANES];
        index.store(&mut indices);
        let mut bits = better.bits();
        while bits != 0 {
            let lane = bits.trailing_zeros() as usize % MAX_LANES;
            let i = indices[lane] as usize % G;
            let rows = [&mut self.code, &mut self.lx, &mut self.l2, &mut self.lowest, &mut self.highest];
            for (row, lanes) in rows.into_iter().zip(&lanes) {
                row[i][lane] = lanes[lane];
            }
            bits &= bits - 1;
        }
        walk
    }
}

/// Lanes that are at most `limit`.
#[inline(always)]
fn at_most<I: I32Lanes>(value: I, limit: i32) -> I::Mask {
    value.max(I::splat(limit)).eq(I::splat(limit))
}

/// The entries of both tables that each lane names in its own column.
#[inline(always)]
fn pick<F: F32Lanes>(tables: [&[[f32; MAX_LANES]; G]; 2], index: F::Int) -> [F; 2] {
    let one = F::Int::splat(1);
    let bits = [
        (index & one).eq(one),
        (index.shr::<1>() & one).eq(one),
        (index.shr::<2>() & one).eq(one),
        index.shr::<3>().eq(one),
    ];
    let mut picked = [F::splat(0.0); 2];
    for (picked, table) in picked.iter_mut().zip(tables) {
        let mut pairs = [F::splat(0.0); 8];
        for i in 0..8 {
            pairs[i] = F::select(bits[0], F::load(&table[2 * i + 1]), F::load(&table[2 * i]));
        }
        let mut fours = [F::splat(0.0); 4];
        for i in 0..4 {
            fours[i] = F::select(bits[1], pairs[2 * i + 1], pairs[2 * i]);
        }
        let eights = [F::select(bits[2], fours[1], fours[0]), F::select(bits[2], fours[3], fours[2])];
        *picked = F::select(bits[3], eights[1], eights[0]);
    }
    picked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BATCH, G, limits, scales, stays};
    use crate::lanes::portable::Floats;
    use crate::lanes::{F32Lanes, Mask};
    use crate::reference::rounding::nearest_int;
    use crate::reference::symmetric as reference;

    /// A code that is said to stay is the one that division gives.
    fn check(a: f32, b: f32, half: i32) {
        for code in -half..half {
            let limits = limits(Floats::<1>::splat(code as f32), half);
            if b > 1e-30 && stays(Floats::splat(a), Floats::splat(b), limits).any() {
                assert_eq!(nearest_int(a / b).clamp(-half, half - 1), code, "{a:e} / {b:e}");
            }
        }
    }

    fn check_scales<F: F32Lanes>(x: &[[f32; 256]; BATCH]) {
        let found = scales::<F>(&x.each_ref(), 4);
        for (group, scale) in x.as_flattened().as_chunks::<G>().0.iter().zip(found) {
            assert_eq!(scale.to_bits(), reference::descend(group, 4).0.to_bits(), "{group:?}");
        }
    }

    proptest! {
        /// Groups of many magnitudes, some of them on a grid, where quotients fall half-way between codes, some of zeros but
        /// for a few, some of numbers whose products overflow or vanish.
        #[test]
        fn scales_are_those_of_the_reference(
            seeds in prop::collection::vec((any::<u64>(), -45i32..40, 0u32..4), BATCH * G),
        ) {
            let mut x = [[0.0; 256]; BATCH];
            for (group, (seed, exponent, kind)) in x.as_flattened_mut().as_chunks_mut::<G>().0.iter_mut().zip(seeds) {
                let mut state = seed;
                for v in group {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let bits = state >> 33;
                    let uniform = bits as f32 / (1u64 << 30) as f32 - 1.0;
                    let value = match kind {
                        0 => uniform,
                        1 => (bits % 17) as f32 / 2.0 - 4.0,
                        2 => uniform * uniform * uniform,
                        _ => if bits % 8 == 0 { uniform } else { 0.0 },
                    };
                    *v = value * 10f32.powi(exponent / if kind == 0 { 1 } else { 9 });
                }
            }
            check_scales::<Floats<8>>(&x);
            check_scales::<Floats<16>>(&x);
        }

        #[test]
        fn codes_that_stay_are_those_of_the_division(
            b in any::<f32>(), quotient in -5.0f32..5.0, far in any::<f32>(), steps in -3i32..=3,
        ) {
            let half_way = (quotient * 2.0).round() / 2.0;
            let near = (half_way * b).to_bits().wrapping_add_signed(steps);
            for a in [quotient * b, f32::from_bits(near), far, far * b] {
                for b in [b, 0.0, f32::INFINITY, 1e-38, 1e-44, f32::MAX] {
                    check(a, b, 4);
                }
            }
        }
    }

    #[test]
    fn codes_of_ordinary_quotients_stay() {
        for code in -4..4 {
            let limits = limits(Floats::<1>::splat(code as f32), 4);
            for off in [-0.49, 0.0, 0.49f32] {
                assert!(stays(Floats::splat((code as f32 + off) * 7.0), Floats::splat(7.0), limits).any());
            }
        }
    }
}
