//! The scales (or minima) of a super-block as small non-negative integers times one common scale.

use super::GROUP_EPSILON;
use super::rounding::nearest_int;

/// Rounds the values with nine scales around the one that maps the largest to `max_code`, keeps the best by weighted
/// square error, then moves one code at a time, for five rounds at most, where that lowers the error left after the best
/// scale for the codes.
///
/// Returns the common scale and one code a value. Codes are at most `max_code`, except that a negative value, which
/// a search can end on when its sums cancel, wraps in 8 bits.
#[inline]
pub fn search<const N: usize>(x: &[f32; N], weights: &[f32; N], max_code: i32) -> (f32, [u8; N]) {
    let mut max = 0.0;
    for &v in x {
        // Written out, because `f32::max` leaves open which of two zeros it gives, and skips NaN.
        max = if max > v { max } else { v };
    }
    if max < GROUP_EPSILON {
        return (0.0, [0; N]);
    }
    let mut inverse_scale = max_code as f32 / max;
    let scale = 1.0 / inverse_scale;
    let mut best = 0.0f32;
    for i in 0..N {
        // Negative codes wrap in the 8 bits they are stored in here, but not for the candidates below.
        let diff = x[i] - scale * f32::from(nearest_int(inverse_scale * x[i]) as u8);
        best += weights[i] * diff * diff;
    }
    for step in (-4..=4).filter(|&step| step != 0) {
        let tried = (0.1 * step as f32 + max_code as f32) / max;
        let tried_scale = 1.0 / tried;
        let mut error = 0.0;
        for i in 0..N {
            let diff = x[i] - tried_scale * nearest_int(tried * x[i]).min(max_code) as f32;
            error += weights[i] * diff * diff;
        }
        if error < best {
            best = error;
            inverse_scale = tried;
        }
    }
    let mut codes = [0; N];
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        let l = nearest_int(inverse_scale * x[i]).min(max_code);
        codes[i] = l as u8;
        sum_lx += weights[i] * x[i] * l as f32;
        sum_l2 += weights[i] * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (w, l) = (weights[i], f32::from(codes[i]));
            let mut rest_lx = sum_lx - w * x[i] * l;
            let mut rest_l2 = sum_l2 - w * l * l;
            if rest_lx > 0.0 && rest_l2 > 0.0 {
                let moved = nearest_int(x[i] * rest_l2 / rest_lx).min(max_code);
                if moved != i32::from(codes[i]) {
                    let l = moved as f32;
                    rest_lx += w * x[i] * l;
                    rest_l2 += w * l * l;
                    if rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2 {
                        codes[i] = moved as u8;
                        sum_lx = rest_lx;
                        sum_l2 = rest_l2;
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, codes)
}
