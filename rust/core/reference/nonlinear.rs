//! The search of the formats with a fixed non-linear table of 16 values: `IQ4_NL` and `IQ4_XS`.

use super::GROUP_EPSILON;

/// The table, common to both formats.
pub const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Candidates on each side of the scale that maps the largest weight to the first table entry.
const REACH: i32 = 7;

/// Index of the table entry nearest to `x`; the upper one half-way between two, the last one for NaN.
pub fn nearest_entry(x: f32) -> u8 {
    let value = |i: usize| f32::from(VALUES[i]);
    if x <= value(0) {
        return 0;
    }
    if x >= value(15) {
        return 15;
    }
    let (mut below, mut above) = (0, 15);
    while above - below > 1 {
        let middle = (below + above) / 2;
        if x < value(middle) {
            above = middle;
        } else {
            below = middle;
        }
    }
    if x - value(above - 1) < value(above) - x { above as u8 - 1 } else { above as u8 }
}

/// Best scale of 32 weights; 0 where they are negligible. The sign is free: it is negative where the largest weight is
/// negative, because the table reaches further down than up.
pub fn best_scale(x: &[f32; 32], weight: &[f32; 32]) -> f32 {
    let mut largest = 0.0;
    let mut extreme = 0.0;
    for &v in x {
        if v.abs() > largest {
            largest = v.abs();
            extreme = v;
        }
    }
    if largest < GROUP_EPSILON {
        return 0.0;
    }
    let first = f32::from(VALUES[0]);
    // The first candidate maps the extreme weight to the other end of the table than the rest do.
    let (sumqx, sumq2) = sums(x, weight, 1.0 / (-extreme / first));
    let mut scale = if sumq2 > 0.0 { sumqx / sumq2 } else { 0.0 };
    let mut best = scale * sumqx;
    for i in -REACH..=REACH {
        let (sumqx, sumq2) = sums(x, weight, (i + i32::from(VALUES[0])) as f32 / extreme);
        if sumq2 > 0.0 && sumqx * sumqx > best * sumq2 {
            scale = sumqx / sumq2;
            best = scale * sumqx;
        }
    }
    scale
}

/// `sum(w * q * x)` and `sum(w * q * q)` where `q` is the entry nearest to `inverse * x`.
fn sums(x: &[f32; 32], weight: &[f32; 32], inverse: f32) -> (f32, f32) {
    let mut sumqx = 0.0;
    let mut sumq2 = 0.0;
    for i in 0..32 {
        let q = f32::from(VALUES[usize::from(nearest_entry(inverse * x[i]))]);
        sumqx += weight[i] * q * x[i];
        sumq2 += weight[i] * q * q;
    }
    (sumqx, sumq2)
}

/// Codes of 32 weights under a scale.
pub fn codes(x: &[f32; 32], scale: f32) -> [u8; 32] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    x.map(|v| nearest_entry(inverse * v))
}
