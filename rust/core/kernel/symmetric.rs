//! Symmetric codes, as [`crate::reference::symmetric`] has them, one group a lane.
//!
//! Rounding never wraps here: candidates map the largest magnitude to at most `half + 1`, and all values are finite.

use super::tile::Tile;
use crate::lanes::{F32Lanes, I32Lanes, Mask};
use crate::reference::GROUP_EPSILON;

/// What a search found for each group.
#[derive(Clone, Copy)]
pub(crate) struct Fit<F, const T: usize> {
    /// Scale.
    pub(crate) scale: [F; T],
    /// The codes are those of `inverse * x`; 0 for groups that count as zero.
    pub(crate) inverse: [F; T],
}

/// The weight largest in magnitude, the first of equals, and whether the group counts as zero.
#[inline(always)]
pub(super) fn extreme<F: F32Lanes, const G: usize, const T: usize>(x: &Tile<F, G, T>, t: usize) -> (F, F::Mask) {
    let (mut max, mut amax) = (F::splat(0.0), F::splat(0.0));
    for i in 0..G {
        let larger = x[i][t].abs().gt(amax);
        max = F::select(larger, x[i][t], max);
        amax = F::select(larger, x[i][t].abs(), amax);
    }
    (max, amax.lt(F::splat(GROUP_EPSILON)))
}

/// What the candidates of a search share.
struct Groups<'a, F, const G: usize, const T: usize> {
    x: &'a Tile<F, G, T>,
    wx: &'a Tile<F, G, T>,
    weights: &'a Tile<F, G, T>,
    /// The weights largest in magnitude.
    max: &'a [F; T],
    half: i32,
}

impl<F: F32Lanes, const G: usize, const T: usize> Groups<'_, F, G, T> {
    /// The reciprocal scale of a candidate, and the sums of `w * x * l` and `w * l^2` over its codes `l`. `LOW` and `HIGH`
    /// say whether codes may have to be limited from below and above.
    #[inline(always)]
    fn sums<const LOW: bool, const HIGH: bool>(&self, step: i32) -> ([F; T], [F; T], [F; T]) {
        let zero = F::splat(0.0);
        let factor = F::splat(-(self.half as f32 + 0.1 * step as f32));
        let (mut inverse, mut sum_lx, mut sum_l2) = ([zero; T], [zero; T], [zero; T]);
        for t in 0..T {
            inverse[t] = factor / self.max[t];
        }
        for i in 0..G {
            for t in 0..T {
                // A negative zero does not show: sums start from a positive one, and so never become negative zeros.
                let mut code = (inverse[t] * self.x[i][t]).round();
                if LOW {
                    code = code.at_least(-self.half as f32);
                }
                if HIGH {
                    code = code.at_most((self.half - 1) as f32);
                }
                sum_lx[t] = sum_lx[t] + self.wx[i][t] * code;
                sum_l2[t] = sum_l2[t] + self.weights[i][t] * code * code;
            }
        }
        (inverse, sum_lx, sum_l2)
    }
}

/// Takes a candidate where it is better than the best one so far.
#[inline(always)]
fn keep_better<F: F32Lanes, const T: usize>(
    fit: &mut Fit<F, T>,
    best: &mut [F; T],
    (inverse, sum_lx, sum_l2): ([F; T], [F; T], [F; T]),
) {
    for t in 0..T {
        let better = sum_l2[t].gt(F::splat(0.0)) & (sum_lx[t] * sum_lx[t]).gt(best[t] * sum_l2[t]);
        // Without a branch: which candidates are better cannot be predicted.
        let scale = sum_lx[t] / sum_l2[t];
        fit.inverse[t] = F::select(better, inverse[t], fit.inverse[t]);
        fit.scale[t] = F::select(better, scale, fit.scale[t]);
        best[t] = F::select(better, scale * sum_lx[t], best[t]);
    }
}

/// The search through 19 scales. `x` is finite.
#[inline(always)]
pub(crate) fn search<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    weights: &Tile<F, G, T>,
    half: i32,
) -> Fit<F, T> {
    let zero = F::splat(0.0);
    let mut wx = *x;
    for i in 0..G {
        for t in 0..T {
            wx[i][t] = weights[i][t] * x[i][t];
        }
    }
    let mut fit = Fit { scale: [zero; T], inverse: [zero; T] };
    let (mut max, mut empty) = ([zero; T], [zero.lt(zero); T]);
    for t in 0..T {
        let (extreme, is_empty) = extreme(x, t);
        // Groups that count as zero take part with a harmless extreme.
        max[t] = F::select(is_empty, F::splat(1.0), extreme);
        empty[t] = is_empty;
    }
    let mut best = [zero; T];
    let groups = Groups { x, wx: &wx, weights, max: &max, half };
    // The first candidate is kept in any case.
    let (inverse, sum_lx, sum_l2) = groups.sums::<false, true>(0);
    for t in 0..T {
        fit.inverse[t] = inverse[t];
        fit.scale[t] = F::select(sum_l2[t].eq(zero), zero, sum_lx[t] / sum_l2[t]);
        best[t] = fit.scale[t] * sum_lx[t];
    }
    // The largest magnitude falls on `half + step / 10`, give or take a part in 2^22. So up to step -6 no weight is beyond
    // `half - 1/2`, and up to step 4 none is beyond `half + 1/2`: no code has to be limited, or only to `half - 1`.
    for step in -9..=-6 {
        let tried = groups.sums::<false, false>(step);
        keep_better(&mut fit, &mut best, tried);
    }
    for step in (-5..=4).filter(|&step| step != 0) {
        let tried = groups.sums::<false, true>(step);
        keep_better(&mut fit, &mut best, tried);
    }
    for step in 5..=9 {
        let tried = groups.sums::<true, true>(step);
        keep_better(&mut fit, &mut best, tried);
    }
    for t in 0..T {
        fit.scale[t] = F::select(empty[t], zero, fit.scale[t]);
        fit.inverse[t] = F::select(empty[t], zero, fit.inverse[t]);
    }
    fit
}

/// A weight's code, its part in the sums, and the quotients for which the code stays.
#[derive(Clone, Copy)]
pub(crate) struct Own<F> {
    code: F,
    /// `w * x * code` and `w * code^2`, with `w = x^2`.
    lx: F,
    l2: F,
    lowest: F,
    highest: F,
}

impl<F: F32Lanes> Own<F> {
    /// Room for the codes of a tile. Clearing it takes a while, so that it is best used for many.
    #[inline(always)]
    pub(crate) fn room<const G: usize, const T: usize>() -> Tile<Self, G, T> {
        let zero = F::splat(0.0);
        [[Self { code: zero, lx: zero, l2: zero, lowest: zero, highest: zero }; T]; G]
    }

    #[inline(always)]
    fn new(x: F, code: F, half: i32) -> Self {
        /// Less than any quotient that wraps when it is rounded.
        const FAR: f32 = 1e6;
        let w = x * x;
        let at_bottom = code.eq(F::splat(-half as f32));
        let at_top = code.eq(F::splat((half - 1) as f32));
        Self {
            code,
            lx: w * x * code,
            l2: w * code * code,
            lowest: F::select(at_bottom, F::splat(-FAR), code - F::splat(0.499)),
            highest: F::select(at_top, F::splat(FAR), code + F::splat(0.499)),
        }
    }

    /// Lanes where `nearest_int(a / b).clamp(-half, half - 1)` is known to be the code, without the division, for `b > 0`.
    ///
    /// Let `a < highest * b` as computed, with `highest = code + 0.499`. The product is off by at most a part in 2^24, and so
    /// is the quotient once it is rounded: it stays below `code + 0.499 * (1 + 2^-22) + |code| / 2^22`, which is less than
    /// `code + 1/2`. The other side is the same, and between the two lies nothing but the code. The lowest and the highest
    /// code take everything further out, up to where rounding would wrap. Tiny `b`, whose products may be subnormal and so
    /// less precise, prove nothing, and neither does what overflows: `a` that is infinite or NaN fails a comparison, and so
    /// does finite `a` against `b` that is infinite unless the code is 0, as the quotient is then.
    #[inline(always)]
    fn stays(self, a: F, b: F) -> F::Mask {
        (self.lowest * b).lt(a) & a.lt(self.highest * b) & b.gt(F::splat(1e-30))
    }

    #[inline(always)]
    fn select(mask: F::Mask, yes: Self, no: Self) -> Self {
        Self {
            code: F::select(mask, yes.code, no.code),
            lx: F::select(mask, yes.lx, no.lx),
            l2: F::select(mask, yes.l2, no.l2),
            lowest: F::select(mask, yes.lowest, no.lowest),
            highest: F::select(mask, yes.highest, no.highest),
        }
    }
}

/// The search that moves one code at a time, weights being `x^2`. Returns scales, and leaves the codes in `own`, where groups
/// that count as zero have the lowest code. `x` is finite.
#[inline(always)]
pub(crate) fn descend<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    half: i32,
    own: &mut Tile<Own<F>, G, T>,
) -> [F; T] {
    let zero = F::splat(0.0);
    let (low, high) = (-half as f32, (half - 1) as f32);
    let (mut sum_lx, mut sum_l2) = ([zero; T], [zero; T]);
    let mut empty = [zero.lt(zero); T];
    for t in 0..T {
        let (extreme, is_empty) = extreme(x, t);
        empty[t] = is_empty;
        let inverse = F::splat(low) / F::select(is_empty, F::splat(1.0), extreme);
        for i in 0..G {
            own[i][t] = Own::new(x[i][t], (inverse * x[i][t]).nearest_code(low, high), half);
            sum_lx[t] = sum_lx[t] + own[i][t].lx;
            sum_l2[t] = sum_l2[t] + own[i][t].l2;
        }
    }
    // A step depends on the sums and on its own weight's code alone, so that after as many steps without a change as there
    // are weights, no further one changes anything.
    let mut idle = 0;
    'rounds: for _ in 0..5 {
        for i in 0..G {
            if idle == G {
                break 'rounds;
            }
            idle += 1;
            let (mut rest_lx, mut rest_l2, mut open) = ([zero; T], [zero; T], [zero.lt(zero); T]);
            let mut any = open[0];
            for t in 0..T {
                rest_lx[t] = sum_lx[t] - own[i][t].lx;
                rest_l2[t] = sum_l2[t] - own[i][t].l2;
                open[t] = rest_lx[t].gt(zero) & !own[i][t].stays(x[i][t] * rest_l2[t], rest_lx[t]);
                any = any | open[t];
            }
            if !any.any() {
                continue;
            }
            for t in 0..T {
                let x = x[i][t];
                let moved = (x * rest_l2[t] / rest_lx[t]).nearest_int().clamp(-half, half - 1).to_float();
                let new = Own::new(x, moved, half);
                let new_lx = rest_lx[t] + new.lx;
                let new_l2 = rest_l2[t] + new.l2;
                let better = open[t]
                    & !moved.eq(own[i][t].code)
                    & new_l2.gt(zero)
                    & (new_lx * new_lx * sum_l2[t]).gt(sum_lx[t] * sum_lx[t] * new_l2);
                if better.any() {
                    own[i][t] = Own::select(better, new, own[i][t]);
                    sum_lx[t] = F::select(better, new_lx, sum_lx[t]);
                    sum_l2[t] = F::select(better, new_l2, sum_l2[t]);
                    idle = 0;
                }
            }
        }
    }
    let mut scale = [zero; T];
    for t in 0..T {
        scale[t] = F::select(sum_l2[t].gt(zero) & !empty[t], sum_lx[t] / sum_l2[t], zero);
        for own in own.iter_mut() {
            own[t].code = F::select(empty[t], F::splat(low), own[t].code);
        }
    }
    scale
}

/// The codes that [`descend`] left, offset by `half`.
#[inline(always)]
pub(crate) fn own_codes<F: F32Lanes, const G: usize, const T: usize>(
    own: &Tile<Own<F>, G, T>,
    half: i32,
) -> [[F::Int; T]; G] {
    let mut codes = [[F::Int::splat(0); T]; G];
    for i in 0..G {
        for t in 0..T {
            codes[i][t] = own[i][t].code.nearest_int() + F::Int::splat(half);
        }
    }
    codes
}

/// Codes under the scale that is stored, offset by `half`; meaningless where the scale is zero.
#[inline(always)]
pub(crate) fn recode<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    scale: [F; T],
    half: i32,
) -> [[F::Int; T]; G] {
    let mut codes = [[F::Int::splat(0); T]; G];
    for t in 0..T {
        for i in 0..G {
            codes[i][t] = (x[i][t] / scale[t]).nearest_int().clamp(-half, half - 1) + F::Int::splat(half);
        }
    }
    codes
}

/// The codes that [`search`] left, offset by `half`.
#[inline(always)]
pub(crate) fn codes<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    inverse: [F; T],
    half: i32,
) -> [[F::Int; T]; G] {
    let mut codes = [[F::Int::splat(0); T]; G];
    for t in 0..T {
        let empty = inverse[t].eq(F::splat(0.0));
        for i in 0..G {
            let code = (inverse[t] * x[i][t]).nearest_int().clamp(-half, half - 1) + F::Int::splat(half);
            codes[i][t] = F::Int::select(empty, F::Int::splat(0), code);
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Own;
    use crate::lanes::portable::Floats;
    use crate::lanes::{F32Lanes, Mask};
    use crate::reference::rounding::nearest_int;

    /// A code that is said to stay is the one that division gives.
    fn check(a: f32, b: f32, half: i32) {
        for code in -half..half {
            let own = Own::new(Floats::<1>::splat(1.0), Floats::splat(code as f32), half);
            if b > 0.0 && own.stays(Floats::splat(a), Floats::splat(b)).any() {
                assert_eq!(nearest_int(a / b).clamp(-half, half - 1), code, "{a:e} / {b:e}");
            }
        }
    }

    proptest! {
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
            let own = Own::new(Floats::<1>::splat(1.0), Floats::splat(code as f32), 4);
            for off in [-0.49, 0.0, 0.49f32] {
                assert!(own.stays(Floats::splat((code as f32 + off) * 7.0), Floats::splat(7.0)).any());
            }
        }
    }
}
