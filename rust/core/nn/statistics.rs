//! Sums over activations and logits.

use super::function::exp;
use super::{WIDTH, check_len, check_rows, for_rows, per_isa, wrong_shape};
use crate::arch::isa;
use crate::encode::Run;
use crate::error::Result;

/// Rows whose squares are added in float32 before the sum is taken over into float64.
const BLOCK_ROWS: usize = 256;

/// The sum of the squares in each of the `columns` columns of `x`: float32 over blocks of 256 rows, float64 over blocks.
///
/// # Errors
/// `Shape` if `x` is not whole rows; `Interrupted`.
pub fn column_squares(x: &[f32], columns: usize, run: Run) -> Result<Vec<f64>> {
    check_rows("column_squares", x.len(), columns)?;
    let isa = isa()?;
    let blocks = x.chunks(BLOCK_ROWS * columns);
    let mut sums = vec![0.0_f32; blocks.len() * columns];
    let tasks = sums.chunks_mut(columns).zip(blocks).collect();
    run.for_each(tasks, |_, _, (sums, rows): (&mut [f32], &[f32])| {
        add_squares(isa, rows, sums);
        Ok(())
    })?;
    let mut total = vec![0.0; columns];
    for block in sums.chunks(columns) {
        for (total, &sum) in total.iter_mut().zip(block) {
            *total += f64::from(sum);
        }
    }
    Ok(total)
}

/// For each row of `logits`, minus the logarithm of the probability that softmax gives to the row's target.
///
/// # Errors
/// `Shape` if there is not one target a row, or a target is no column; `Interrupted`.
pub fn negative_log_likelihood(logits: &[f32], columns: usize, targets: &[u32], run: Run) -> Result<Vec<f64>> {
    let rows = check_rows("logits", logits.len(), columns)?;
    check_len("targets", targets.len(), rows)?;
    if let Some(target) = targets.iter().find(|&&target| target as usize >= columns) {
        return Err(wrong_shape(format!("token {target} is outside of the vocabulary of {columns}")));
    }
    let isa = isa()?;
    let mut out = vec![0.0_f64; rows];
    let tasks = out.iter_mut().zip(logits.chunks(columns)).zip(targets).collect();
    run.for_each(tasks, |_, _, ((out, row), &target): ((&mut f64, &[f32]), &u32)| {
        let (largest, sum) = log_sum(isa, row);
        *out = f64::from(largest) + sum.ln() - f64::from(row[target as usize]);
        Ok(())
    })?;
    Ok(out)
}

/// Replaces each row of `columns` values by its softmax. Values of minus infinity become 0; a row of nothing else becomes NaN.
///
/// # Errors
/// `Shape` if `x` is not whole rows; `Interrupted`.
pub fn softmax(x: &mut [f32], columns: usize, run: Run) -> Result<()> {
    check_rows("softmax", x.len(), columns)?;
    let isa = isa()?;
    for_rows(run, columns, x, |_, rows| shares(isa, rows, columns))
}

per_isa! {
    fn shares(rows: &mut [f32], columns: usize) = shares_generic;
    fn add_squares(rows: &[f32], sums: &mut [f32]) = add_squares_generic;
    pub(crate) fn log_sum(row: &[f32]) -> (f32, f64) = log_sum_generic;
}

#[inline(always)]
fn add_squares_generic(rows: &[f32], sums: &mut [f32]) {
    for row in rows.chunks_exact(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value * value;
        }
    }
}

#[inline(always)]
fn shares_generic(rows: &mut [f32], columns: usize) {
    for row in rows.chunks_exact_mut(columns) {
        let (largest, sum) = log_sum_generic(row);
        let sum = sum as f32;
        for value in row {
            *value = exp(*value - largest) / sum;
        }
    }
}

/// The largest value, and the sum of e^(x - largest).
#[inline(always)]
pub(crate) fn log_sum_generic(row: &[f32]) -> (f32, f64) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut total = 0.0;
    for part in row.chunks(64 * WIDTH) {
        let mut lanes = [0.0_f32; WIDTH];
        for values in part.chunks(WIDTH) {
            for (lane, &value) in lanes.iter_mut().zip(values) {
                *lane += exp(value - largest);
            }
        }
        total += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    (largest, total)
}
