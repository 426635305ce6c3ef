//! Codes around zero, as [`crate::reference::symmetric`] has them, one group a lane.

use super::tile::Tile;
use crate::lanes::{F32Lanes, I32Lanes, Mask};
use crate::reference::GROUP_EPSILON;

/// What the search found for each group.
pub(crate) struct Fit<F, const T: usize> {
    /// Scale.
    pub(crate) scale: [F; T],
    /// The codes are those of `inverse * x`; kept in this form because they are hardly ever needed. 0 for a group that
    /// counts as zero, whose codes are 0 without the offset.
    pub(crate) inverse: [F; T],
}

/// The search. `x` is finite; `weights` of `None` stands for `x^2`.
///
/// No rounded value wraps: the weights' magnitudes are at most that of the extreme one, which the largest candidate maps
/// to `half + 0.9`.
#[inline(always)]
pub(crate) fn search<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    weights: Option<&Tile<F, G, T>>,
    half: i32,
) -> Fit<F, T> {
    let zero = F::splat(0.0);
    let (mut max, mut amax) = ([zero; T], [zero; T]);
    // Products that all candidates share.
    let mut w = weights.copied().unwrap_or(*x);
    let mut wx = *x;
    for i in 0..G {
        for t in 0..T {
            let larger = amax[t].lt(x[i][t].abs());
            amax[t] = F::select(larger, x[i][t].abs(), amax[t]);
            max[t] = F::select(larger, x[i][t], max[t]);
            if weights.is_none() {
                w[i][t] = x[i][t] * x[i][t];
            }
            wx[i][t] = w[i][t] * x[i][t];
        }
    }
    let mut empty = [zero.lt(zero); T];
    for t in 0..T {
        empty[t] = amax[t].lt(F::splat(GROUP_EPSILON));
        // Takes part with an extreme that nothing overflows with; the result is thrown away.
        max[t] = F::select(empty[t], F::splat(1.0), max[t]);
    }
    let mut fit = Fit { scale: [zero; T], inverse: [zero; T] };
    let mut best = [zero; T];
    let (sum_lx, sum_l2) = sums(x, &w, &wx, half as f32, &max, half, &mut fit.inverse);
    for t in 0..T {
        fit.scale[t] = F::select(sum_l2[t].eq(zero), zero, sum_lx[t] / sum_l2[t]);
        best[t] = fit.scale[t] * sum_lx[t];
    }
    for step in (-9..=9).filter(|&step| step != 0) {
        let mut inverse = [zero; T];
        let (sum_lx, sum_l2) = sums(x, &w, &wx, half as f32 + 0.1 * step as f32, &max, half, &mut inverse);
        for t in 0..T {
            let better = sum_l2[t].gt(zero) & (sum_lx[t] * sum_lx[t]).gt(best[t] * sum_l2[t]);
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

/// The sums of one candidate, which maps the extreme to `-extreme`; `inverse` is set to its inverse scale.
#[inline(always)]
fn sums<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    w: &Tile<F, G, T>,
    wx: &Tile<F, G, T>,
    extreme: f32,
    max: &[F; T],
    half: i32,
    inverse: &mut [F; T],
) -> ([F; T], [F; T]) {
    let (mut sum_lx, mut sum_l2) = ([F::splat(0.0); T], [F::splat(0.0); T]);
    for t in 0..T {
        inverse[t] = F::splat(-extreme) / max[t];
    }
    for i in 0..G {
        for t in 0..T {
            let code = (inverse[t] * x[i][t]).nearest_code(-half as f32, (half - 1) as f32);
            sum_lx[t] = sum_lx[t] + wx[i][t] * code;
            sum_l2[t] = sum_l2[t] + w[i][t] * code * code;
        }
    }
    (sum_lx, sum_l2)
}

/// Codes, offset by `half`, under the scale that is stored; where it is zero, those that the search left.
#[inline(always)]
pub(crate) fn recode<F: F32Lanes, const G: usize, const T: usize>(
    x: &Tile<F, G, T>,
    scale: [F; T],
    half: i32,
    inverse: [F; T],
) -> [[F::Int; T]; G] {
    let offset = F::Int::splat(half);
    let mut codes = [[offset; T]; G];
    for t in 0..T {
        let keep = scale[t].eq(F::splat(0.0));
        for i in 0..G {
            codes[i][t] = (x[i][t] / scale[t]).nearest_int().clamp(-half, half - 1) + offset;
        }
        if keep.any() {
            let empty = inverse[t].eq(F::splat(0.0));
            for i in 0..G {
                let kept = (inverse[t] * x[i][t]).nearest_int().clamp(-half, half - 1) + offset;
                let kept = F::Int::select(empty, F::Int::splat(0), kept);
                codes[i][t] = F::Int::select(keep, kept, codes[i][t]);
            }
        }
    }
    codes
}
