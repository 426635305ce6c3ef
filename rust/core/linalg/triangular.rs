//! Cholesky factors, and solutions with them, in `f64`.
//!
//! Everything follows the textbook's order: an element starts from what it was, its products are subtracted one after the
//! other by fused multiply-adds, with the inner index rising (falling, where substitution runs backwards), and last it is divided or
//! its root is taken. Work is cut into blocks whose partial results are stored in between as they are, in `f64`, so blocks
//! change nothing.

use super::wide::{Block, Kernels, LANES, MAX_TILE, Panel, TOGETHER, kernels};
use super::wrong_shape;
use crate::arch::{Isa, isa};
use crate::encode::Run;
use crate::error::{At, Error, Result};

/// Rows of a factor that are worked with at a time.
const STEP: usize = 128;
/// Rows of the matrix in a task, a multiple of every height of tile.
const BAND: usize = 48;
/// Right-hand sides in a task.
const GROUP: usize = TOGETHER * LANES;

/// Replaces the upper triangle of a symmetric positive definite matrix by `R` with `A = R^T R`, and tells whether it was one.
///
/// `a` is a square of `len` rows, row by row. What lies below its diagonal is neither read nor written. Where a pivot is not
/// above zero or not finite, the answer is `false` and `a` is of no use any more.
///
/// # Errors
/// `Shape` for another size; `Interrupted`.
pub fn cholesky(a: &mut [f64], len: usize, run: Run<'_>) -> Result<bool> {
    cholesky_on(isa()?, a, len, run)
}

/// As [`cholesky`], on an instruction set of choice, to compare or to measure.
///
/// # Errors
/// As [`cholesky`], and `Unsupported` if this machine lacks it.
pub fn cholesky_on(isa: Isa, a: &mut [f64], len: usize, run: Run<'_>) -> Result<bool> {
    let kernels = checked(isa, a, len)?;
    for first in (0..len).step_by(STEP) {
        let width = STEP.min(len - first);
        let (above, below) = a.split_at_mut((first + width) * len);
        let rows = &mut above[first * len..];
        if !factor_diagonal(rows, len, first, width) {
            return Ok(false);
        }
        let base = first + width;
        if base == len {
            break;
        }
        // The rest of these rows, in panels of eight columns.
        let lower = lower_of(width, |m, k| rows[m * len + first + k]);
        let mut panels = vec![[0.0; LANES]; (len - base).div_ceil(GROUP) * TOGETHER * width];
        let taken = &*rows;
        run.for_each(panels.chunks_mut(TOGETHER * width).collect(), |_, number, panels: &mut Panel| {
            for (p, panel) in panels.chunks_exact_mut(width).enumerate() {
                let from = base + (number * TOGETHER + p) * LANES;
                for (to, row) in panel.iter_mut().zip(taken.chunks_exact(len)) {
                    let row = row.get(from..len.min(from + LANES)).unwrap_or_default();
                    to[..row.len()].copy_from_slice(row);
                }
            }
            kernels.substitute(&lower, width, &mut apart(panels, width));
            Ok(())
        })?;
        for (k, row) in rows.chunks_exact_mut(len).enumerate() {
            for (to, panel) in row[base..].chunks_mut(LANES).zip(panels.chunks_exact(width)) {
                to.copy_from_slice(&panel[k][..to.len()]);
            }
        }
        let left = tiles(len - base, width, kernels.height, |k, i| -rows[k * len + base + i]);
        run.for_each(below.chunks_mut(BAND * len).collect(), |_, number, band: &mut [f64]| {
            subtract(kernels, &left, &panels, width, number * BAND, base, band, len);
            Ok(())
        })?;
    }
    Ok(true)
}

/// Solves `X A = B` for `A = R^T R`, that is for each row `b` of `B` the equation `A x = b`, in place.
///
/// `factor` is what [`cholesky`] made: `R` in the upper triangle of a square of `len` rows. `b` has rows of `len`.
///
/// # Errors
/// `Shape` where sizes contradict each other; `Interrupted`, with `b` as it was.
pub fn solve(factor: &[f64], len: usize, b: &mut [f64], run: Run<'_>) -> Result<()> {
    solve_on(isa()?, factor, len, b, true, run)
}

/// Solves `Y R = B` for an upper triangular `R` alone: the first half of [`solve`].
///
/// # Errors
/// As [`solve`].
pub fn solve_triangular(factor: &[f64], len: usize, b: &mut [f64], run: Run<'_>) -> Result<()> {
    solve_on(isa()?, factor, len, b, false, run)
}

/// As [`solve`], or without `both` as [`solve_triangular`], on an instruction set of choice, to compare or to measure.
///
/// # Errors
/// As [`solve`], and `Unsupported` if this machine lacks it.
pub fn solve_on(isa: Isa, factor: &[f64], len: usize, b: &mut [f64], both: bool, run: Run<'_>) -> Result<()> {
    let kernels = checked(isa, factor, len)?;
    if len == 0 || !b.len().is_multiple_of(len) {
        return if b.is_empty() { Ok(()) } else { wrong_shape(format!("{} numbers in rows of {len}", b.len())) };
    }
    // Rows of `b` become columns of panels: right-hand sides lie side by side.
    let mut sides = vec![[0.0; LANES]; (b.len() / len).div_ceil(GROUP) * TOGETHER * len];
    let tasks = sides.chunks_mut(TOGETHER * len).zip(b.chunks(GROUP * len)).collect();
    run.for_each(tasks, |_, _, (sides, b): (&mut Panel, &[f64])| {
        for (number, row) in b.chunks_exact(len).enumerate() {
            let panel = &mut sides[number / LANES * len..][..len];
            for (to, &value) in panel.iter_mut().zip(row) {
                to[number % LANES] = value;
            }
        }
        Ok(())
    })?;
    substitute(kernels, len, &mut sides, |m, k| factor[m * len + k], run)?;
    if both {
        // Backwards is forwards with all indices turned around.
        sides.chunks_exact_mut(len).for_each(<[_]>::reverse);
        substitute(kernels, len, &mut sides, |m, k| factor[(len - 1 - k) * len + len - 1 - m], run)?;
        sides.chunks_exact_mut(len).for_each(<[_]>::reverse);
    }
    let tasks = sides.chunks(TOGETHER * len).zip(b.chunks_mut(GROUP * len)).collect();
    run.for_each(tasks, |_, _, (sides, b): (&Panel, &mut [f64])| {
        for (number, row) in b.chunks_exact_mut(len).enumerate() {
            for (to, from) in row.iter_mut().zip(&sides[number / LANES * len..]) {
                *to = from[number % LANES];
            }
        }
        Ok(())
    })
}

/// `T^T T` of a few rows of `width`, each sum one chain of fused multiply-adds from zero on, in the order of the rows.
///
/// # Errors
/// `Unsupported` if no instruction set can be chosen.
pub(crate) fn square_of(t: &[f64], width: usize) -> Result<Vec<f64>> {
    let (kernels, rows) = (kernels(isa()?), t.len() / width);
    let left = tiles(width, rows, kernels.height, |k, i| t[k * width + i]);
    let mut out = vec![0.0; width * width];
    for from in (0..width).step_by(LANES) {
        let columns = LANES.min(width - from);
        let mut right = vec![[0.0; LANES]; rows];
        for (to, row) in right.iter_mut().zip(t.chunks_exact(width)) {
            to[..columns].copy_from_slice(&row[from..from + columns]);
        }
        for (left, out) in left.chunks_exact(kernels.height * rows).zip(out.chunks_mut(kernels.height * width)) {
            let mut block: Block = [[0.0; LANES]; MAX_TILE];
            kernels.add_tile(left, &right, &mut block);
            for (row, sums) in out.chunks_exact_mut(width).zip(&block) {
                row[from..from + columns].copy_from_slice(&sums[..columns]);
            }
        }
    }
    Ok(out)
}

fn checked(isa: Isa, square: &[f64], len: usize) -> Result<Kernels> {
    if !isa.is_available() {
        return Err(Error::Unsupported { at: At::default(), what: format!("this machine cannot run {isa}") });
    }
    if len.checked_mul(len) != Some(square.len()) {
        return wrong_shape(format!("{} numbers are not a square of {len}", square.len()));
    }
    Ok(kernels(isa))
}

/// Factors the square at column `first` of as many rows; `false` if a pivot is of no use.
fn factor_diagonal(rows: &mut [f64], len: usize, first: usize, width: usize) -> bool {
    for k in 0..width {
        let (above, below) = rows.split_at_mut((k + 1) * len);
        let own = &mut above[k * len + first..][..width];
        let pivot = own[k].sqrt();
        if !(own[k] > 0.0 && pivot.is_finite()) {
            return false;
        }
        own[k] = pivot;
        own[k + 1..].iter_mut().for_each(|x| *x /= pivot);
        for (i, row) in (k + 1..width).zip(below.chunks_exact_mut(len)) {
            let factor = -own[i];
            for (to, &x) in row[first + i..first + width].iter_mut().zip(&own[i..]) {
                *to = factor.mul_add(x, *to);
            }
        }
    }
    true
}

/// A lower triangle as substitution wants it: rows of `width`, negated left of the diagonal, from `upper(m, k)`.
fn lower_of(width: usize, upper: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut lower = vec![0.0; width * width];
    for (k, row) in lower.chunks_exact_mut(width).enumerate() {
        for (m, to) in row.iter_mut().enumerate().take(k) {
            *to = -upper(m, k);
        }
        row[k] = upper(k, k);
    }
    lower
}

/// `at(k, i)` for `rows` values of `i` and `width` of `k`, as tiles want them: tile by tile, `k` by `k`, zeros at the end.
fn tiles(rows: usize, width: usize, height: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut tiles = vec![0.0; rows.next_multiple_of(height) * width];
    for (first, tile) in (0..rows).step_by(height).zip(tiles.chunks_exact_mut(height * width)) {
        for (k, to) in tile.chunks_exact_mut(height).enumerate() {
            for (i, to) in (first..rows).zip(to) {
                *to = at(k, i);
            }
        }
    }
    tiles
}

/// Panels of `len` rows each.
fn apart(panels: &mut Panel, len: usize) -> [&mut Panel; TOGETHER] {
    let (left, right) = panels.split_at_mut(TOGETHER / 2 * len);
    let ((a, b), (c, d)) = (left.split_at_mut(len), right.split_at_mut(len));
    [a, b, c, d]
}

/// Subtracts from rows of the matrix, right of and on its diagonal. `top` is the first row's number, counted from `base`.
fn subtract(
    kernels: Kernels,
    left: &[f64],
    panels: &Panel,
    width: usize,
    top: usize,
    base: usize,
    band: &mut [f64],
    len: usize,
) {
    let rows = band.len() / len;
    let mut block: Block = [[0.0; LANES]; MAX_TILE];
    for (number, right) in panels.chunks_exact(width).enumerate().skip(top / LANES) {
        let from = number * LANES;
        let columns = LANES.min((len - base).saturating_sub(from));
        if columns == 0 {
            break;
        }
        for i in (top..(top + rows).min(from + LANES)).step_by(kernels.height) {
            let rows = kernels.height.min(top + rows - i);
            let place = |r: usize| (i - top + r) * len + base + from;
            for r in 0..rows {
                block[r][..columns].copy_from_slice(&band[place(r)..][..columns]);
            }
            kernels.add_tile(&left[i * width..][..kernels.height * width], right, &mut block);
            for r in 0..rows {
                let skipped = (i + r).saturating_sub(from).min(columns);
                band[place(r)..][skipped..columns].copy_from_slice(&block[r][skipped..columns]);
            }
        }
    }
}

/// Forward substitution for all panels of right-hand sides, with the upper triangular matrix `upper(m, k)`.
fn substitute(
    kernels: Kernels,
    len: usize,
    sides: &mut Panel,
    upper: impl Fn(usize, usize) -> f64 + Sync,
    run: Run<'_>,
) -> Result<()> {
    // Up to here right-hand sides are zero, and so are the solutions.
    let starts: Vec<usize> = sides
        .chunks_exact(TOGETHER * len)
        .map(|group| {
            let zero = |k: usize| (0..TOGETHER).all(|p| group[p * len + k] == [0.0; LANES]);
            (0..len).take_while(|&k| zero(k)).count()
        })
        .collect();
    for first in (0..len).step_by(STEP) {
        let width = STEP.min(len - first);
        let base = first + width;
        let lower = lower_of(width, |m, k| upper(first + m, first + k));
        let left = tiles(len - base, width, kernels.height, |k, i| -upper(first + k, base + i));
        run.for_each(sides.chunks_exact_mut(TOGETHER * len).collect(), |_, number, group: &mut Panel| {
            if base <= starts[number] {
                return Ok(());
            }
            let panels = apart(group, len);
            kernels.substitute(&lower, width, &mut panels.map(|panel| &mut panel[first..base]));
            let mut block: Block = [[0.0; LANES]; MAX_TILE];
            for panel in group.chunks_exact_mut(len) {
                let (solved, rest) = panel[first..].split_at_mut(width);
                for (left, rest) in left.chunks_exact(kernels.height * width).zip(rest.chunks_mut(kernels.height)) {
                    block[..rest.len()].copy_from_slice(rest);
                    kernels.add_tile(left, solved, &mut block);
                    rest.copy_from_slice(&block[..rest.len()]);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
