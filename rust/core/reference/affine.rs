//! Codes above a minimum: `x = d * q - m` with `q` in `0..=max_code` and `m >= 0`.
//!
//! The minimum is never above zero, so that zero weights stay close to zero; it is kept with its sign turned.

use super::rounding::{nearest_int, truncate};
use super::symmetric::reciprocal;

/// Which scales to try: `(first + step * i + max_code) / range` for `i` in `0..=last`, as reciprocals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Added to `max_code` for the first candidate.
    pub first: f32,
    /// Added for each further candidate.
    pub step: f32,
    /// Index of the last candidate.
    pub last: i32,
}

/// The grid of every encoder that is given an importance matrix.
pub const WEIGHTED_GRID: Grid = Grid { first: -0.9, step: 0.05, last: 36 };

/// What a deviation costs, before its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Its magnitude.
    Absolute,
    /// Its square.
    Square,
}

impl Cost {
    #[inline]
    fn of(self, deviation: f32) -> f32 {
        match self {
            Self::Absolute => deviation.abs(),
            Self::Square => deviation * deviation,
        }
    }
}

/// A group's scale, its minimum with the sign turned, and its codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit<const N: usize> {
    /// `d`: the step between codes.
    pub scale: f32,
    /// `m`: minus the value of code 0.
    pub min: f32,
    /// One code a weight, in `0..=max_code`.
    pub codes: [u8; N],
}

/// Without a search: the smallest weight maps to code 0 and the largest to `max_code`; here the minimum may be positive.
#[inline]
pub fn by_range<const N: usize>(x: &[f32; N], max_code: i32) -> Fit<N> {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &v in x {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
    }
    let scale = (max - min) / max_code as f32;
    let inverse = reciprocal(scale);
    let codes = x.map(|v| truncate((v - min) * inverse + 0.5).min(max_code) as u8);
    Fit { scale, min: -min, codes }
}

#[inline]
fn codes_above<const N: usize>(x: &[f32; N], min: f32, inverse_scale: f32, max_code: i32) -> [u8; N] {
    std::array::from_fn(|i| nearest_int(inverse_scale * (x[i] - min)).clamp(0, max_code) as u8)
}

#[inline]
fn error<const N: usize>(x: &[f32; N], weights: &[f32; N], codes: &[u8; N], scale: f32, min: f32, cost: Cost) -> f32 {
    let mut sum = 0.0;
    for i in 0..N {
        sum += weights[i] * cost.of(scale * f32::from(codes[i]) + min - x[i]);
    }
    sum
}

/// Codes the group with each scale of the grid, solves for the scale and minimum that suit those codes best by weighted
/// least squares, and keeps what costs least.
#[inline]
pub fn search<const N: usize>(x: &[f32; N], weights: &[f32; N], max_code: i32, grid: Grid, cost: Cost) -> Fit<N> {
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for i in 1..N {
        if x[i] < min {
            min = x[i];
        }
        if x[i] > max {
            max = x[i];
        }
        sum_w += weights[i];
        sum_x += weights[i] * x[i];
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        return Fit { scale: 0.0, min: -min, codes: [0; N] };
    }
    let inverse_scale = max_code as f32 / (max - min);
    let mut codes = codes_above(x, min, inverse_scale, max_code);
    let mut scale = 1.0 / inverse_scale;
    let mut best = error(x, weights, &codes, scale, min, cost);
    for step in 0..=grid.last {
        // Later candidates start from the best minimum so far, not from the smallest weight.
        let inverse_scale = (grid.first + grid.step * step as f32 + max_code as f32) / (max - min);
        let tried = codes_above(x, min, inverse_scale, max_code);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for i in 0..N {
            let (w, l) = (weights[i], f32::from(tried[i]));
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x[i];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut tried_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut tried_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if tried_min > 0.0 {
                tried_min = 0.0;
                tried_scale = sum_xl / sum_l2;
            }
            let tried_error = error(x, weights, &tried, tried_scale, tried_min, cost);
            if tried_error < best {
                codes = tried;
                best = tried_error;
                scale = tried_scale;
                min = tried_min;
            }
        }
    }
    Fit { scale, min: -min, codes }
}

/// Codes for a scale and minimum already rounded to what is stored, replacing those of the search. A scale of zero leaves
/// them be.
#[inline]
pub fn recode<const N: usize>(x: &[f32; N], scale: f32, min: f32, max_code: i32, codes: &mut [u8; N]) {
    if scale != 0.0 {
        for i in 0..N {
            codes[i] = nearest_int((x[i] + min) / scale).clamp(0, max_code) as u8;
        }
    }
}
