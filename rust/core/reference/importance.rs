//! What the error of a weight counts for, given an importance matrix.
//!
//! Weighted encoders minimise `sum(w * (x - x')^2)` with `w = imatrix * sqrt(sigma2 + x^2)`: the importance of the column,
//! raised for weights that are large against `sigma2`, a multiple of the mean square over a super-block or a row.

/// Sum of squares, first to last.
#[inline]
pub fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sum = 0.0;
    for &v in x {
        sum += v * v;
    }
    sum
}

/// `imatrix * sqrt(sigma2 + x^2)` for each weight of a group.
#[inline]
pub fn weigh<const N: usize>(x: &[f32; N], imatrix: &[f32; N], sigma2: f32) -> [f32; N] {
    std::array::from_fn(|i| imatrix[i] * (sigma2 + x[i] * x[i]).sqrt())
}

/// Sum of a group's weights, first to last: what the group's scale counts for in the search over the super-block.
#[inline]
pub fn total<const N: usize>(weights: &[f32; N]) -> f32 {
    let mut sum = 0.0;
    for &w in weights {
        sum += w;
    }
    sum
}
