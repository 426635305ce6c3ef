//! GPTQ into groups of plain integers with a scale and a zero point: what checkpoints of the GPTQ family store.
//!
//! The textbook algorithm in double precision (Frantar et al. 2022, arXiv 2210.17323, algorithm 1): with `R` the upper
//! Cholesky factor of the inverse of the damped Hessian, columns are rounded one after the other, and
//! `w_j -= (w_i - q_i) / R_ii * R_ij` for every later column `j`. A group's scale and zero point follow from the range of its
//! weights when its first column is reached.

use crate::encode::{Run, check_finite};
use crate::error::{At, Error, Result};
use crate::linalg::{cholesky, solve_triangular};
use crate::packed::rtn::ScaleType;

/// Rows that are solved together, so that a row of the factor is read once for all of them.
const TILE: usize = 16;

/// Rows of weights, and where their codes, scales and zero points go.
type Rows<'a> = (((&'a [f32], &'a mut [u8]), &'a mut [f32]), &'a mut [u8]);

/// How to quantize.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Bits of a code, from 2 to 8.
    pub bits: u32,
    /// Columns in a group.
    pub group_size: usize,
    /// Whether the zero point is the middle code.
    pub symmetric: bool,
    /// Whether columns are solved, and grouped, by falling diagonal of the Hessian.
    pub act_order: bool,
    /// What to add to the Hessian's diagonal, relative to its mean.
    pub damp: f64,
    /// Type of the scales. Codes are found with the stored scale.
    pub scale: ScaleType,
    /// The smallest zero point that can be stored, 0 or 1.
    pub least_zero: u8,
}

/// Codes with what it takes to read them: `w = scale * (code - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// A code for each weight, row by row.
    pub codes: Vec<u8>,
    /// A scale for each row and group.
    pub scales: Vec<f32>,
    /// A zero point for each row and group.
    pub zeros: Vec<u8>,
    /// Group of each column.
    pub group_of: Vec<u32>,
}

/// Quantizes `weights`, rows of `len`, under a `len x len` Hessian.
///
/// Columns whose input is always zero are set to zero. All groups but the last have `group_size` columns.
///
/// # Errors
/// `Shape`, `NonFinite`, `Unsupported` (options out of range, a Hessian that is not positive definite), `Interrupted`.
pub fn solve(weights: &[f32], hessian: &[f64], len: usize, options: &Options, run: Run<'_>) -> Result<Groups> {
    check(weights, hessian, len, options)?;
    let mut order: Vec<u32> = (0..len as u32).collect();
    let diagonal = |j: u32| hessian[j as usize * len + j as usize];
    if options.act_order {
        order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
    }
    let factor = inverse_factor(hessian, &order, options.damp, run)?;
    let groups = len.div_ceil(options.group_size);
    let rows = weights.len() / len;
    let mut out = Groups {
        codes: vec![0; rows * len],
        scales: vec![0.0; rows * groups],
        zeros: vec![0; rows * groups],
        group_of: vec![0; len],
    };
    for (position, &column) in order.iter().enumerate() {
        out.group_of[column as usize] = (position / options.group_size) as u32;
    }
    let tasks = weights
        .chunks(TILE * len)
        .zip(out.codes.chunks_mut(TILE * len))
        .zip(out.scales.chunks_mut(TILE * groups))
        .zip(out.zeros.chunks_mut(TILE * groups));
    run.for_each(tasks.collect(), |_, tile, (((rows, codes), scales), zeros): Rows<'_>| {
        let live =
            |row: &[f32], column: u32| if diagonal(column) == 0.0 { 0.0 } else { f64::from(row[column as usize]) };
        let mut w: Vec<f64> = rows.chunks(len).flat_map(|row| order.iter().map(|&column| live(row, column))).collect();
        let top = f64::from((1u32 << options.bits) - 1);
        for i in 0..len {
            let (group, starts) = (i / options.group_size, i.is_multiple_of(options.group_size));
            let after = &factor[i * len..][..len];
            for (number, w) in w.chunks_mut(len).enumerate() {
                let at = number * groups + group;
                if starts {
                    let members = &w[i..len.min(i + options.group_size)];
                    let found = range(members, top, options).ok_or_else(|| too_large(tile * TILE + number, group))?;
                    (scales[at], zeros[at]) = found;
                }
                let (scale, zero) = (f64::from(scales[at]), f64::from(zeros[at]));
                let code = ((w[i] / scale).round_ties_even() + zero).clamp(0.0, top);
                codes[number * len + order[i] as usize] = code as u8;
                let error = (w[i] - scale * (code - zero)) / after[i];
                for (w, factor) in w[i + 1..].iter_mut().zip(&after[i + 1..]) {
                    *w -= error * factor;
                }
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// Scale, as it is stored, and zero point that cover the range of a group, zero included; `None` where the scale is too
/// large for its type.
fn range(group: &[f64], top: f64, options: &Options) -> Option<(f32, u8)> {
    let (mut low, mut high) = group.iter().fold((0.0f64, 0.0f64), |(low, high), &v| (low.min(v), high.max(v)));
    if options.symmetric {
        high = high.max(-low);
        low = -high;
    }
    if low == high {
        (low, high) = (-1.0, 1.0);
    }
    // No scale that a single-precision file would read as zero.
    let store = |scale: f64| options.scale.store(scale.max(f64::from(f32::MIN_POSITIVE)) as f32);
    let scale = store((high - low) / top)?;
    let middle = (top + 1.0) / 2.0;
    let zero = if options.symmetric { middle } else { (-low / f64::from(scale)).round_ties_even().clamp(0.0, top) };
    if zero < f64::from(options.least_zero) {
        // Less than half a step lies below zero. From 1 on, the codes reach as far up with a slightly wider step.
        return Some((store(high / (top - 1.0))?, options.least_zero));
    }
    Some((scale, zero as u8))
}

fn too_large(row: usize, group: usize) -> Error {
    let what = format!("row {row}, group {group}: the scale is too large for the type of the scales");
    Error::Unsupported { at: At::default(), what }
}

fn inverse_factor(hessian: &[f64], order: &[u32], damp: f64, run: Run<'_>) -> Result<Vec<f64>> {
    let len = order.len();
    let at = |p: usize, q: usize| {
        let (i, j) = (order[p] as usize, order[q] as usize);
        0.5 * (hessian[i * len + j] + hessian[j * len + i])
    };
    // A column that was never used counts one, as in the reference implementations.
    let diagonal = |p: usize| if at(p, p) == 0.0 { 1.0 } else { at(p, p) };
    let added = damp * (0..len).map(diagonal).sum::<f64>() / len as f64;
    // H = M M^T with M upper triangular: the matrix turned around is R^T R, and M is R^T turned around.
    let mut turned = vec![0.0; len * len];
    for (p, row) in turned.chunks_exact_mut(len).enumerate() {
        row[p] = diagonal(len - 1 - p) + added;
        for (q, to) in row.iter_mut().enumerate().skip(p + 1) {
            *to = at(len - 1 - p, len - 1 - q);
        }
    }
    if !cholesky(&mut turned, len, run)? {
        let what =
            format!("the Hessian is not positive definite with {damp} of its mean diagonal added; raise the damping");
        return Err(Error::Unsupported { at: At::default(), what });
    }
    let mut inverse = vec![0.0; len * len];
    inverse.iter_mut().step_by(len + 1).for_each(|one| *one = 1.0);
    solve_triangular(&turned, len, &mut inverse, run)?;
    // Row by row this is R^-1. Turned around and transposed it is M^-1.
    Ok((0..len * len).map(|i| inverse[(len - 1 - i % len) * len + len - 1 - i / len]).collect())
}

fn check(weights: &[f32], hessian: &[f64], len: usize, options: &Options) -> Result<()> {
    let shape = |what: String| Err(Error::Shape { at: At::default(), what });
    let unsupported = |what: String| Err(Error::Unsupported { at: At::default(), what });
    if len == 0 || len.checked_mul(len) != Some(hessian.len()) {
        return shape(format!("the Hessian has {} values where {len} x {len} are needed", hessian.len()));
    }
    if !weights.len().is_multiple_of(len) {
        return shape(format!("{} weights are not a whole number of rows of {len}", weights.len()));
    }
    if !(2..=8).contains(&options.bits) {
        return unsupported(format!("codes of {} bits are not supported; choose 2 to 8", options.bits));
    }
    if options.group_size == 0 {
        return unsupported("groups must have at least one column".into());
    }
    if !(options.damp >= 0.0 && options.damp.is_finite()) {
        return unsupported(format!("damping of {} is not a finite number of at least 0", options.damp));
    }
    if let Some(at) = hessian.iter().position(|v| !v.is_finite()) {
        return unsupported(format!("the Hessian holds {} at row {}, column {}", hessian[at], at / len, at % len));
    }
    check_finite(weights, 0, len)
}
