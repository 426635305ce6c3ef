//! Codes above a minimum, as [`crate::reference::affine`] has them, one group a lane.

use super::tile::Tile;
use crate::lanes::{F32Lanes, I32Lanes, Mask};
use crate::reference::affine::{Cost, Grid};

/// Magnitudes below this are rounded without wrapping.
const NO_WRAP: f32 = 4_194_303.0;

/// What the search found for each group.
pub(crate) struct Fit<F, const T: usize> {
    /// Scale.
    pub(crate) scale: [F; T],
    /// Minimum, sign turned.
    pub(crate) min: [F; T],
    /// The codes are those of `inverse * (x - origin)`; kept in this form because they are hardly ever needed.
    pub(crate) inverse: [F; T],
    /// See `inverse`.
    pub(crate) origin: [F; T],
    /// Whether all of this is what the reference finds. If not, some value may have wrapped.
    pub(crate) exact: bool,
}

/// The search. `x` is finite, and so are the weights, which are not negative.
///
/// Candidates are tried in the order of the reference and in lockstep, because each starts from the minimum that the
/// best one so far left.
#[inline(always)]
pub(crate) fn search<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    weights: &Tile<F, G, T>,
    max_code: i32,
    grid: Grid,
    cost: Cost,
) -> Fit<F, T> {
    let (zero, top) = (F::splat(0.0), max_code as f32);
    let (mut low, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w;
    for t in 0..T {
        sum_x[t] = sum_w[t] * x[0][t];
    }
    for i in 1..G {
        for t in 0..T {
            low[t] = x[i][t].lesser(low[t]);
            max[t] = x[i][t].greater(max[t]);
            sum_w[t] = sum_w[t] + weights[i][t];
            sum_x[t] = sum_x[t] + weights[i][t] * x[i][t];
        }
    }
    // A group without a range keeps scale 0. It takes part with a range of 1, in which its weights all fall on code 0.
    let mut flat = [zero.lt(zero); T];
    let mut min = low;
    let mut fit = Fit { scale: [zero; T], min: [zero; T], inverse: [zero; T], origin: [zero; T], exact: true };
    let mut best = [zero; T];
    let mut codes = [[zero; T]; G];
    for t in 0..T {
        min[t] = zero.lesser(min[t]);
        flat[t] = max[t].eq(min[t]);
        let range = F::select(flat[t], F::splat(1.0), max[t] - min[t]);
        fit.inverse[t] = F::splat(top) / range;
        fit.origin[t] = min[t];
        fit.scale[t] = F::splat(1.0) / fit.inverse[t];
    }
    let mut exact = !flat[0] | flat[0];
    for t in 0..T {
        exact = exact & within(low[t], max[t], min[t], fit.inverse[t]);
    }
    for i in 0..G {
        for t in 0..T {
            let code = (fit.inverse[t] * (x[i][t] - min[t])).nearest_code(0.0, top);
            best[t] = best[t] + weights[i][t] * deviation(fit.scale[t] * code + min[t] - x[i][t], cost);
        }
    }
    for step in 0..=grid.last {
        let factor = F::splat(grid.first + grid.step * step as f32 + top);
        let mut inverse = [zero; T];
        for t in 0..T {
            inverse[t] = factor / F::select(flat[t], F::splat(1.0), max[t] - min[t]);
            exact = exact & within(low[t], max[t], min[t], inverse[t]);
        }
        let (mut sum_l, mut sum_l2, mut sum_xl) = ([zero; T], [zero; T], [zero; T]);
        for i in 0..G {
            for t in 0..T {
                let code = (inverse[t] * (x[i][t] - min[t])).nearest_code(0.0, top);
                codes[i][t] = code;
                let wl = weights[i][t] * code;
                sum_l[t] = sum_l[t] + wl;
                sum_l2[t] = sum_l2[t] + wl * code;
                sum_xl[t] = sum_xl[t] + wl * x[i][t];
            }
        }
        let (mut scale, mut origin, mut usable) = ([zero; T], [zero; T], flat);
        for t in 0..T {
            let determinant = sum_w[t] * sum_l2[t] - sum_l[t] * sum_l[t];
            usable[t] = determinant.gt(zero) & !flat[t];
            scale[t] = (sum_w[t] * sum_xl[t] - sum_x[t] * sum_l[t]) / determinant;
            origin[t] = (sum_l2[t] * sum_x[t] - sum_l[t] * sum_xl[t]) / determinant;
            let above = origin[t].gt(zero);
            if above.any() {
                origin[t] = F::select(above, zero, origin[t]);
                scale[t] = F::select(above, sum_xl[t] / sum_l2[t], scale[t]);
            }
        }
        let mut error = [zero; T];
        for i in 0..G {
            for t in 0..T {
                let off = scale[t] * codes[i][t] + origin[t] - x[i][t];
                error[t] = error[t] + weights[i][t] * deviation(off, cost);
            }
        }
        for t in 0..T {
            let better = error[t].lt(best[t]) & usable[t];
            best[t] = F::select(better, error[t], best[t]);
            fit.inverse[t] = F::select(better, inverse[t], fit.inverse[t]);
            fit.origin[t] = F::select(better, min[t], fit.origin[t]);
            fit.scale[t] = F::select(better, scale[t], fit.scale[t]);
            min[t] = F::select(better, origin[t], min[t]);
        }
    }
    for t in 0..T {
        fit.scale[t] = F::select(flat[t], zero, fit.scale[t]);
        fit.min[t] = min[t].neg();
    }
    fit.exact = !(!exact).any();
    fit
}

/// Lanes where no weight wraps when it is rounded. Subtraction and multiplication round monotonically, so the smallest and
/// the largest weight bound the others.
#[inline(always)]
fn within<F: F32Lanes>(low: F, high: F, min: F, inverse: F) -> F::Mask {
    let limit = F::splat(NO_WRAP);
    (inverse * (low - min)).abs().lt(limit) & (inverse * (high - min)).abs().lt(limit)
}

#[inline(always)]
fn deviation<F: F32Lanes>(off: F, cost: Cost) -> F {
    match cost {
        Cost::Absolute => off.abs(),
        Cost::Square => off * off,
    }
}

/// Codes under the scale and minimum that are stored; where the scale is zero, those that the search left.
#[inline(always)]
pub(crate) fn recode<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    scale: [F; T],
    min: [F; T],
    max_code: i32,
    (inverse, origin): ([F; T], [F; T]),
) -> [[F::Int; T]; G] {
    let mut codes = [[F::Int::splat(0); T]; G];
    for t in 0..T {
        let keep = scale[t].eq(F::splat(0.0));
        for i in 0..G {
            codes[i][t] = ((x[i][t] + min[t]) / scale[t]).nearest_int().clamp(0, max_code);
        }
        if keep.any() {
            for i in 0..G {
                let kept = (inverse[t] * (x[i][t] - origin[t])).nearest_int().clamp(0, max_code);
                codes[i][t] = F::Int::select(keep, kept, codes[i][t]);
            }
        }
    }
    codes
}

/// The codes that [`search`] left.
#[inline(always)]
pub(crate) fn codes<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    (inverse, origin): ([F; T], [F; T]),
    max_code: i32,
) -> [[F::Int; T]; G] {
    let mut codes = [[F::Int::splat(0); T]; G];
    for i in 0..G {
        for t in 0..T {
            codes[i][t] = (inverse[t] * (x[i][t] - origin[t])).nearest_int().clamp(0, max_code);
        }
    }
    codes
}
