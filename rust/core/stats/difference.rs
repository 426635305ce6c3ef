//! How far the weights of two tensors are from each other.

use std::sync::Mutex;

use super::WIDTH;
use crate::arch::isa;
use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::nn::per_isa;

/// Weights in a task, as far as whole rows allow.
const TASK_WEIGHTS: usize = 1 << 16;

/// Importance of columns, for errors weighted by it.
#[derive(Debug, Clone, Copy)]
pub struct Importance<'a> {
    /// One row of importances, or one for each expert.
    pub values: &'a [f32],
    /// Rows of the tensor that share one row of importances.
    pub rows_per_expert: usize,
    /// Row of the tensor that the first row given is.
    pub first_row: usize,
}

/// Sums over the weights a and b of two tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    /// Squares of a.
    pub aa: f64,
    /// Squares of b.
    pub bb: f64,
    /// Products.
    pub ab: f64,
    /// Squares of a - b.
    pub dd: f64,
    /// Squares of a, weighted by importance.
    pub weighted_aa: f64,
    /// Squares of a - b, weighted by importance.
    pub weighted_dd: f64,
    /// The largest |a - b|.
    pub largest: f64,
}

impl Difference {
    fn join(self, other: Self) -> Self {
        Self {
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            ab: self.ab + other.ab,
            dd: self.dd + other.dd,
            weighted_aa: self.weighted_aa + other.weighted_aa,
            weighted_dd: self.weighted_dd + other.weighted_dd,
            largest: self.largest.max(other.largest),
        }
    }
}

/// Compares rows of `row_len` weights.
///
/// # Errors
/// `Shape` if the lengths do not fit each other, `Interrupted`.
pub fn difference(
    a: &[f32],
    b: &[f32],
    row_len: usize,
    importance: Option<Importance<'_>>,
    run: Run<'_>,
) -> Result<Difference> {
    let wrong = |what: String| Err(Error::Shape { at: At::default(), what });
    if a.len() != b.len() || row_len == 0 || !a.len().is_multiple_of(row_len) {
        return wrong(format!("{} and {} weights are not the same rows of {row_len}", a.len(), b.len()));
    }
    if let Some(importance) = importance {
        let last = importance.first_row + a.len() / row_len;
        if importance.rows_per_expert == 0
            || last.div_ceil(importance.rows_per_expert).saturating_mul(row_len) > importance.values.len()
        {
            return wrong(format!("{} importances do not cover {last} rows of {row_len}", importance.values.len()));
        }
    }
    let isa = isa()?;
    let rows = (TASK_WEIGHTS / row_len).max(1);
    let tasks: Vec<_> = a.chunks(rows * row_len).zip(b.chunks(rows * row_len)).collect();
    // Joined in their order, whichever is done first.
    let parts: Vec<_> = tasks.iter().map(|_| Mutex::new(Difference::default())).collect();
    run.for_each(tasks, |_, task, (a, b): (&[f32], &[f32])| {
        let mut sum = Difference::default();
        for (row, (a, b)) in a.chunks(row_len).zip(b.chunks(row_len)).enumerate() {
            let weights = importance.map(|importance| {
                let expert = (importance.first_row + task * rows + row) / importance.rows_per_expert;
                &importance.values[expert * row_len..][..row_len]
            });
            sum = sum.join(row_difference(isa, a, b));
            if let Some(weights) = weights {
                let (aa, dd) = weighted(isa, a, b, weights);
                (sum.weighted_aa, sum.weighted_dd) = (sum.weighted_aa + aa, sum.weighted_dd + dd);
            }
        }
        *parts[task].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = sum;
        Ok(())
    })?;
    let part = |part: Mutex<Difference>| part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(parts.into_iter().map(part).fold(Difference::default(), Difference::join))
}

per_isa! {
    fn row_difference(a: &[f32], b: &[f32]) -> Difference = row_generic;
    fn weighted(a: &[f32], b: &[f32], weights: &[f32]) -> (f64, f64) = weighted_generic;
}

#[inline(always)]
fn row_generic(a: &[f32], b: &[f32]) -> Difference {
    let (mut aa, mut bb, mut ab, mut dd) = ([0.0_f64; WIDTH], [0.0_f64; WIDTH], [0.0_f64; WIDTH], [0.0_f64; WIDTH]);
    let mut largest = [0.0_f64; WIDTH];
    for (a, b) in a.chunks(WIDTH).zip(b.chunks(WIDTH)) {
        for (lane, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            let d = a - b;
            aa[lane] += a * a;
            bb[lane] += b * b;
            ab[lane] += a * b;
            dd[lane] += d * d;
            largest[lane] = if d.abs() > largest[lane] { d.abs() } else { largest[lane] };
        }
    }
    let sum = |lanes: [f64; WIDTH]| lanes.iter().sum();
    let largest = largest.into_iter().fold(0.0, f64::max);
    Difference { aa: sum(aa), bb: sum(bb), ab: sum(ab), dd: sum(dd), largest, ..Difference::default() }
}

#[inline(always)]
fn weighted_generic(a: &[f32], b: &[f32], weights: &[f32]) -> (f64, f64) {
    let (mut aa, mut dd) = ([0.0_f64; WIDTH], [0.0_f64; WIDTH]);
    for ((a, b), weights) in a.chunks(WIDTH).zip(b.chunks(WIDTH)).zip(weights.chunks(WIDTH)) {
        for (lane, ((&a, &b), &weight)) in a.iter().zip(b).zip(weights).enumerate() {
            let (a, b, weight) = (f64::from(a), f64::from(b), f64::from(weight));
            aa[lane] += weight * a * a;
            dd[lane] += weight * (a - b) * (a - b);
        }
    }
    (aa.iter().sum(), dd.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(count: usize) -> Run<'static> {
        Run { threads: Some(count), interrupt: None }
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        let a: Vec<f32> = (0..20 * 50).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let b: Vec<f32> = a.iter().enumerate().map(|(i, x)| x + (i % 3) as f32).collect();
        let values: Vec<f32> = (0..2 * 50).map(|i| 1.0 + (i / 50) as f32).collect();
        // The second ten rows are the second expert's; these are rows 5 to 25 of a tensor of 10 rows an expert.
        let importance = Importance { values: &[values.clone(), values].concat(), rows_per_expert: 10, first_row: 5 };
        let made = difference(&a, &b, 50, Some(importance), run(1)).unwrap();
        let dot = |f: &dyn Fn(usize) -> f64| (0..a.len()).map(f).sum::<f64>();
        let d = |i: usize| f64::from(a[i]) - f64::from(b[i]);
        let weight = |i: usize| if matches!(i / 50, 0..5 | 15..20) { 1.0 } else { 2.0 };
        // Whole numbers below 2^53: the sums are exact in any order.
        assert_eq!(made.aa, dot(&|i| f64::from(a[i]).powi(2)));
        assert_eq!(made.ab, dot(&|i| f64::from(a[i]) * f64::from(b[i])));
        assert_eq!(made.bb, dot(&|i| f64::from(b[i]).powi(2)));
        assert_eq!(made.dd, dot(&|i| d(i).powi(2)));
        assert_eq!(made.weighted_dd, dot(&|i| weight(i) * d(i).powi(2)));
        assert_eq!(made.weighted_aa, dot(&|i| weight(i) * f64::from(a[i]).powi(2)));
        assert_eq!(made.largest, 2.0);
    }

    #[test]
    fn threads_change_nothing() {
        let a: Vec<f32> = (0..512 * 1024u64).map(|i| ((i * 7919) % 65_537) as f32 * 1e-3).collect();
        let b: Vec<f32> = a.iter().rev().copied().collect();
        let importance = Importance { values: &a[..1024], rows_per_expert: 512, first_row: 0 };
        let one = difference(&a, &b, 1024, Some(importance), run(1)).unwrap();
        assert_eq!(one, difference(&a, &b, 1024, Some(importance), run(8)).unwrap());
    }

    #[test]
    fn lengths_are_checked() {
        assert!(difference(&[0.0; 8], &[0.0; 4], 4, None, run(1)).is_err());
        assert!(difference(&[0.0; 8], &[0.0; 8], 3, None, run(1)).is_err());
        assert!(difference(&[], &[], 0, None, run(1)).is_err());
        let importance = Importance { values: &[1.0; 4], rows_per_expert: 1, first_row: 0 };
        assert!(difference(&[0.0; 8], &[0.0; 8], 4, Some(importance), run(1)).is_err());
        assert!(difference(&[0.0; 4], &[0.0; 4], 4, Some(importance), run(1)).is_ok());
    }
}
