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

/// The search through 19 scales. `x` is finite.
#[inline(always)]
pub(crate) fn search<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    weights: &Tile<F, G, T>,
    half: i32,
) -> Fit<F, T> {
    let zero = F::splat(0.0);
    let (low, high) = (-half as f32, (half - 1) as f32);
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
    // Step 0 is the first candidate, which is kept in any case.
    let others = (-9..=9).filter(|&step| step != 0);
    for step in std::iter::once(0).chain(others) {
        let factor = F::splat(-(half as f32 + 0.1 * step as f32));
        let mut inverse = [zero; T];
        for t in 0..T {
            inverse[t] = factor / max[t];
        }
        let (mut sum_lx, mut sum_l2) = ([zero; T], [zero; T]);
        for i in 0..G {
            for t in 0..T {
                let code = (inverse[t] * x[i][t]).nearest_code(low, high);
                sum_lx[t] = sum_lx[t] + wx[i][t] * code;
                sum_l2[t] = sum_l2[t] + weights[i][t] * code * code;
            }
        }
        for t in 0..T {
            if step == 0 {
                fit.inverse[t] = inverse[t];
                fit.scale[t] = F::select(sum_l2[t].eq(zero), zero, sum_lx[t] / sum_l2[t]);
                best[t] = fit.scale[t] * sum_lx[t];
                continue;
            }
            let better = sum_l2[t].gt(zero) & (sum_lx[t] * sum_lx[t]).gt(best[t] * sum_l2[t]);
            // Without a branch: which candidates are better cannot be predicted.
            let scale = sum_lx[t] / sum_l2[t];
            fit.inverse[t] = F::select(better, inverse[t], fit.inverse[t]);
            fit.scale[t] = F::select(better, scale, fit.scale[t]);
            best[t] = F::select(better, scale * sum_lx[t], best[t]);
        }
    }
    for t in 0..T {
        fit.scale[t] = F::select(empty[t], zero, fit.scale[t]);
        fit.inverse[t] = F::select(empty[t], zero, fit.inverse[t]);
    }
    fit
}

/// The search that moves one code at a time, weights being `x^2`. Returns scales and codes, offset by `half`, or 0 for
/// groups that count as zero. `x` is finite.
#[inline(always)]
pub(crate) fn descend<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    half: i32,
) -> ([F; T], [[F::Int; T]; G]) {
    let zero = F::splat(0.0);
    let (low, high) = (-half as f32, (half - 1) as f32);
    let mut codes = [[zero; T]; G];
    let (mut sum_lx, mut sum_l2) = ([zero; T], [zero; T]);
    let mut empty = [zero.lt(zero); T];
    for t in 0..T {
        let (extreme, is_empty) = extreme(x, t);
        empty[t] = is_empty;
        let inverse = F::splat(low) / F::select(is_empty, F::splat(1.0), extreme);
        for i in 0..G {
            let code = (inverse * x[i][t]).nearest_code(low, high);
            codes[i][t] = code;
            let w = x[i][t] * x[i][t];
            sum_lx[t] = sum_lx[t] + w * x[i][t] * code;
            sum_l2[t] = sum_l2[t] + w * code * code;
        }
    }
    for _ in 0..5 {
        // A lane without a change in one round has none in the next either.
        let mut changed = false;
        for i in 0..G {
            for t in 0..T {
                let (x, code) = (x[i][t], codes[i][t]);
                let w = x * x;
                let rest_lx = sum_lx[t] - w * x * code;
                let rest_l2 = sum_l2[t] - w * code * code;
                let product = x * rest_l2;
                let open = rest_lx.gt(zero) & !unchanged(product, rest_lx, code, half);
                if open.any() {
                    let moved = (product / rest_lx).nearest_int().clamp(-half, half - 1).to_float();
                    let new_lx = rest_lx + w * x * moved;
                    let new_l2 = rest_l2 + w * moved * moved;
                    let better = open
                        & !moved.eq(code)
                        & new_l2.gt(zero)
                        & (new_lx * new_lx * sum_l2[t]).gt(sum_lx[t] * sum_lx[t] * new_l2);
                    codes[i][t] = F::select(better, moved, code);
                    sum_lx[t] = F::select(better, new_lx, sum_lx[t]);
                    sum_l2[t] = F::select(better, new_l2, sum_l2[t]);
                    changed |= better.any();
                }
            }
        }
        if !changed {
            break;
        }
    }
    let mut scale = [zero; T];
    let mut offset = [[F::Int::splat(0); T]; G];
    for t in 0..T {
        scale[t] = F::select(sum_l2[t].gt(zero) & !empty[t], sum_lx[t] / sum_l2[t], zero);
        for i in 0..G {
            let code = codes[i][t].nearest_int() + F::Int::splat(half);
            offset[i][t] = F::Int::select(empty[t], F::Int::splat(0), code);
        }
    }
    (scale, offset)
}

/// Lanes where `nearest_int(a / b).clamp(-half, half - 1)` is known to be `code`, without the division.
///
/// With `d = a - code * b`, `|d| < 0.499 * b` puts the quotient within 0.499 of the code; the three roundings on the way
/// are worth less than `half * b / 2^22`, and that of the quotient itself as little, so that the nearest integer is the
/// code. At either end of the range one side is enough, as long as the quotient is small enough not to wrap. Tiny `b`, for
/// which products round to subnormals, prove nothing, and neither does NaN.
#[inline(always)]
fn unchanged<F: F32Lanes>(a: F, b: F, code: F, half: i32) -> F::Mask {
    let d = a - code * b;
    let margin = F::splat(0.499) * b;
    let below = d.lt(margin);
    let above = margin.neg().lt(d);
    let small = a.abs().lt(F::splat(1e6) * b);
    let at_top = code.eq(F::splat((half - 1) as f32)) & above;
    let at_bottom = code.eq(F::splat(-half as f32)) & below;
    b.gt(F::splat(1e-30)) & small & ((below & above) | at_top | at_bottom)
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
