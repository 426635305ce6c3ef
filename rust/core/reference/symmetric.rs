//! Symmetric codes: `x = d * q` with `q` in `-half..half`.
//!
//! The scale's sign is that of the weight largest in magnitude, negated, so that this weight falls on the code `-half`,
//! the one that has no positive counterpart.

use super::GROUP_EPSILON;
use super::rounding::{nearest_int, round_half_away, round_half_away_long, truncate};

/// The weight largest in magnitude (the first of equals), or `None` where the group counts as zero.
#[inline]
fn extreme(x: &[f32]) -> Option<f32> {
    let (mut max, mut amax) = (0.0, 0.0);
    for &v in x {
        if v.abs() > amax {
            amax = v.abs();
            max = v;
        }
    }
    // A NaN never exceeds the running maximum, so `amax` is a number.
    if amax < GROUP_EPSILON { None } else { Some(max) }
}

/// Without a search: the extreme weight maps to `-half`, every other code is the nearest, halves rounded up.
///
/// Returns the scale and the codes, offset by `half`. They lie in `0..2 * half`, except that a scale so small that its
/// reciprocal is infinite makes every code what 8 bits keep of `i32::MIN`, which is 0.
#[inline]
pub fn by_extreme<const N: usize>(x: &[f32; N], half: i32) -> (f32, [u8; N]) {
    let (mut max, mut amax) = (0.0, 0.0);
    for &v in x {
        if amax < v.abs() {
            amax = v.abs();
            max = v;
        }
    }
    let scale = max / -half as f32;
    let inverse = reciprocal(scale);
    let offset = half as f32 + 0.5;
    (scale, x.map(|v| truncate(v * inverse + offset).min(2 * half - 1) as u8))
}

/// Largest magnitude of a group.
#[inline]
pub fn largest(x: &[f32]) -> f32 {
    let mut amax = 0.0;
    for &v in x {
        amax = if amax > v.abs() { amax } else { v.abs() };
    }
    amax
}

/// The reciprocal, with 0 for 0.
#[inline]
pub fn reciprocal(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// Eight-bit codes without a search: the largest magnitude maps to 127, halves are rounded away from zero.
#[inline]
pub fn to_bytes<const N: usize>(x: &[f32; N]) -> (f32, [i8; N]) {
    let scale = largest(x) / 127.0;
    let inverse = reciprocal(scale);
    (scale, x.map(|v| round_half_away(v * inverse) as i8))
}

/// Ternary codes 0, 1, 2 for -1, 0, 1 times the largest magnitude.
///
/// A magnitude so small that its reciprocal is infinite makes every code 1.
#[inline]
pub fn to_trits<const N: usize>(x: &[f32; N]) -> (f32, [u8; N]) {
    let scale = largest(x);
    let inverse = reciprocal(scale);
    (scale, x.map(|v| (round_half_away_long(v * inverse) + 1) as u8))
}

#[inline]
fn code(x: f32, inverse_scale: f32, half: i32) -> i32 {
    nearest_int(inverse_scale * x).clamp(-half, half - 1)
}

/// The codes of `inverse_scale * x`, offset by `half`.
#[inline]
fn encode<const N: usize>(x: &[f32; N], inverse_scale: f32, half: i32) -> [i8; N] {
    std::array::from_fn(|i| (code(x[i], inverse_scale, half) + half) as i8)
}

/// The codes of `inverse_scale * x`, offset by `half`, of finite `x`; 0 for an inverse of 0, which stands for a group that counts
/// as zero. ([`search`] makes a difference there: scales of sub-blocks may be infinite, and then their inverse is 0.)
#[inline]
pub fn codes<const N: usize>(x: &[f32; N], inverse_scale: f32, half: i32) -> [i8; N] {
    if inverse_scale == 0.0 { [0; N] } else { encode(x, inverse_scale, half) }
}

/// Tries 19 scales around the one that maps the extreme weight to `-half` and keeps the codes whose best scale leaves the
/// least weighted square error. `weights` of `None` stands for `x^2`.
///
/// Returns the scale and the codes, offset by `half` so that they lie in `0..2 * half`. A group that counts as zero gives
/// scale 0 and codes 0 (not `half`).
#[inline]
pub fn search<const N: usize>(x: &[f32; N], weights: Option<&[f32; N]>, half: i32) -> (f32, [i8; N]) {
    let mut codes = [0; N];
    let Some(max) = extreme(x) else { return (0.0, codes) };
    let sums = |inverse_scale: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
        for i in 0..N {
            let l = code(x[i], inverse_scale, half) as f32;
            let w = weights.map_or_else(|| x[i] * x[i], |w| w[i]);
            sum_lx += w * x[i] * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };
    let inverse_scale = -half as f32 / max;
    let (sum_lx, sum_l2) = sums(inverse_scale);
    codes = encode(x, inverse_scale, half);
    // With the best scale for given codes, the error is a constant less sum_lx^2 / sum_l2.
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse_scale = -(half as f32 + 0.1 * step as f32) / max;
        let (sum_lx, sum_l2) = sums(inverse_scale);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            codes = encode(x, inverse_scale, half);
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    (scale, codes)
}

/// Starts from the scale that maps the extreme weight to `-half`, then moves one code at a time, for five rounds at most,
/// where that lowers the square error weighted by `x^2`.
///
/// Returns as [`search`] does.
#[inline]
pub fn descend<const N: usize>(x: &[f32; N], half: i32) -> (f32, [i8; N]) {
    let Some(max) = extreme(x) else { return (0.0, [0; N]) };
    let inverse_scale = -half as f32 / max;
    let mut codes: [i32; N] = std::array::from_fn(|i| code(x[i], inverse_scale, half));
    let (mut sum_lx, mut sum_l2) = (0.0f32, 0.0f32);
    for i in 0..N {
        let (w, l) = (x[i] * x[i], codes[i] as f32);
        sum_lx += w * x[i] * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (w, l) = (x[i] * x[i], codes[i] as f32);
            // Both sums without this weight give the scale that the others ask for.
            let mut rest_lx = sum_lx - w * x[i] * l;
            if rest_lx > 0.0 {
                let mut rest_l2 = sum_l2 - w * l * l;
                let moved = nearest_int(x[i] * rest_l2 / rest_lx).clamp(-half, half - 1);
                if moved != codes[i] {
                    let l = moved as f32;
                    rest_lx += w * x[i] * l;
                    rest_l2 += w * l * l;
                    if rest_l2 > 0.0 && rest_lx * rest_lx * sum_l2 > sum_lx * sum_lx * rest_l2 {
                        codes[i] = moved;
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
    let scale = if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 };
    (scale, codes.map(|l| (l + half) as i8))
}

/// Codes for a scale already rounded to what is stored, replacing those of the search. A scale of zero leaves them be.
#[inline]
pub fn recode<const N: usize>(x: &[f32; N], scale: f32, half: i32, codes: &mut [i8; N]) {
    if scale != 0.0 {
        for i in 0..N {
            codes[i] = (nearest_int(x[i] / scale).clamp(-half, half - 1) + half) as i8;
        }
    }
}
