//! Symmetric codes, as [`crate::reference::symmetric`] has them, one group a lane.
//!
//! Rounding never wraps here: candidates map the largest magnitude to at most `half + 1`, and all values are finite.

use super::tile::Tile;
use crate::lanes::{F32Lanes, I32Lanes};
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

/// The same for one group, whose weights lie side by side. `N` is a multiple of 32.
#[inline(always)]
pub(crate) fn codes_in_order<F: F32Lanes, const N: usize>(x: &[f32; N], inverse: f32, half: i32) -> [u8; N] {
    let mut codes = [0; N];
    if inverse == 0.0 {
        return codes;
    }
    for (x, to) in x.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<32>().0) {
        let mut steps = [F::splat(0.0); 8];
        for k in 0..32 / F::LEN {
            steps[k] = F::load(&x[k * F::LEN..]) * F::splat(inverse);
        }
        store_codes(&steps, half, to);
    }
    codes
}

/// Codes of 32 weights in steps of their scale, offset by `half`.
#[inline(always)]
pub(crate) fn store_codes<F: F32Lanes>(steps: &[F; 8], half: i32, to: &mut [u8; 32]) {
    let mut vectors = [F::Int::splat(0); 8];
    for k in 0..32 / F::LEN {
        vectors[k] = steps[k].nearest_int() + F::Int::splat(half);
    }
    F::Int::store_limited(&vectors[..32 / F::LEN], to);
    for code in to {
        *code = (*code).min(2 * half as u8 - 1);
    }
}
