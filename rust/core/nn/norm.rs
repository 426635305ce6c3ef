//! Normalization of rows.

use super::{WIDTH, check_len, check_rows, for_rows, per_isa};
use crate::arch::isa;
use crate::encode::Run;
use crate::error::Result;

/// Divides each row of `x` by its root mean square and multiplies it by `weight`:
/// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019).
///
/// # Errors
/// `Shape` if `x` is not whole rows of `weight.len()`; `Interrupted`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, run: Run) -> Result<Vec<f32>> {
    let n = weight.len();
    check_rows("rms_norm", x.len(), n)?;
    let isa = isa()?;
    let mut out = vec![0.0; x.len()];
    for_rows(run, n, &mut out, |first, out| rms_rows(isa, &x[first * n..][..out.len()], weight, eps, out))?;
    Ok(out)
}

/// Gives each row of `x` mean 0 and variance 1, then applies `weight` and `bias` (Ba et al., 2016).
///
/// # Errors
/// `Shape` if `x` is not whole rows of `weight.len()`, or `bias` has another length; `Interrupted`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, run: Run) -> Result<Vec<f32>> {
    let n = weight.len();
    check_rows("layer_norm", x.len(), n)?;
    if let Some(bias) = bias {
        check_len("layer_norm: bias", bias.len(), n)?;
    }
    let isa = isa()?;
    let mut out = vec![0.0; x.len()];
    for_rows(run, n, &mut out, |first, out| layer_rows(isa, &x[first * n..][..out.len()], weight, bias, eps, out))?;
    Ok(out)
}

per_isa! {
    fn rms_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_rows_generic;
    fn layer_rows(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) = layer_rows_generic;
}

/// The sum of `f` over a row: a sum for each of 16 lanes, then those one after another.
#[inline(always)]
fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; WIDTH];
    let (whole, rest) = row.as_chunks::<WIDTH>();
    for part in whole {
        for i in 0..WIDTH {
            lanes[i] += f(part[i]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn rms_rows_generic(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (row, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mean = lane_sum(row, |v| v * v) / n as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for i in 0..n {
            out[i] = row[i] * scale * weight[i];
        }
    }
}

#[inline(always)]
fn layer_rows_generic(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (row, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let mean = lane_sum(row, |v| v) / n as f32;
        let variance = lane_sum(row, |v| (v - mean) * (v - mean)) / n as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..n {
            out[i] = (row[i] - mean) * scale * weight[i];
        }
        if let Some(bias) = bias {
            for i in 0..n {
                out[i] += bias[i];
            }
        }
    }
}
