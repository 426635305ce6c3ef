//! The scales (or minima) of a super-block as small non-negative integers, as [`crate::reference::superblock`] has them,
//! one super-block a lane.

use crate::lanes::{F32Lanes, I32Lanes, Mask};
use crate::reference::GROUP_EPSILON;

/// The search: the common scale, and one code a value.
#[inline(always)]
pub(crate) fn search<F: F32Lanes, const N: usize>(x: &[F; N], weights: &[F; N], max_code: i32) -> (F, [F::Int; N]) {
    let (zero, top) = (F::splat(0.0), F::Int::splat(max_code));
    let mut max = zero;
    for i in 0..N {
        max = max.greater(x[i]);
    }
    let empty = max.lt(F::splat(GROUP_EPSILON));
    let mut inverse = F::splat(max_code as f32) / max;
    let scale = F::splat(1.0) / inverse;
    let mut best = zero;
    for i in 0..N {
        let code = (inverse * x[i]).nearest_int() & F::Int::splat(255);
        let off = x[i] - scale * code.to_float();
        best = best + weights[i] * off * off;
    }
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = F::splat(0.1 * step as f32 + max_code as f32) / max;
        let scale = F::splat(1.0) / tried;
        let mut error = zero;
        for i in 0..N {
            let off = x[i] - scale * (tried * x[i]).nearest_int().min(top).to_float();
            error = error + weights[i] * off * off;
        }
        let better = error.lt(best);
        best = F::select(better, error, best);
        inverse = F::select(better, tried, inverse);
    }
    let mut codes = [F::Int::splat(0); N];
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..N {
        let code = (inverse * x[i]).nearest_int().min(top);
        codes[i] = code & F::Int::splat(255);
        let l = code.to_float();
        sum_lx = sum_lx + weights[i] * x[i] * l;
        sum_l2 = sum_l2 + weights[i] * l * l;
    }
    for _ in 0..5 {
        // A lane without a change in one round has none in the next either.
        let mut changed = false;
        for i in 0..N {
            let (w, l) = (weights[i], codes[i].to_float());
            let rest_lx = sum_lx - w * x[i] * l;
            let rest_l2 = sum_l2 - w * l * l;
            let moved = (x[i] * rest_l2 / rest_lx).nearest_int().min(top);
            let open = rest_lx.gt(zero) & rest_l2.gt(zero) & !moved.eq(codes[i]);
            if open.any() {
                let l = moved.to_float();
                let (new_lx, new_l2) = (rest_lx + w * x[i] * l, rest_l2 + w * l * l);
                let better = open & (new_lx * new_lx * sum_l2).gt(sum_lx * sum_lx * new_l2);
                codes[i] = F::Int::select(better, moved & F::Int::splat(255), codes[i]);
                sum_lx = F::select(better, new_lx, sum_lx);
                sum_l2 = F::select(better, new_l2, sum_l2);
                changed |= better.any();
            }
        }
        if !changed {
            break;
        }
    }
    for code in &mut codes {
        *code = F::Int::select(empty, F::Int::splat(0), *code);
    }
    (F::select(sum_l2.gt(zero) & !empty, sum_lx / sum_l2, zero), codes)
}

/// Runs the search on as many super-blocks as there are columns: value `i` of column `c` is `x[i][c]`, and so on.
#[inline(always)]
pub(crate) fn search_columns<F: F32Lanes, const N: usize, const C: usize>(
    x: &[[f32; C]; N],
    weights: &[[f32; C]; N],
    max_code: i32,
) -> ([f32; C], [[i32; C]; N]) {
    let (mut scales, mut codes) = ([0.0; C], [[0; C]; N]);
    for c in (0..C).step_by(F::LEN) {
        let (mut columns, mut column_weights) = ([F::splat(0.0); N], [F::splat(0.0); N]);
        for i in 0..N {
            columns[i] = F::load(&x[i][c..]);
            column_weights[i] = F::load(&weights[i][c..]);
        }
        let (scale, column_codes) = search(&columns, &column_weights, max_code);
        scale.store(&mut scales[c..]);
        for i in 0..N {
            column_codes[i].store(&mut codes[i][c..]);
        }
    }
    (scales, codes)
}
