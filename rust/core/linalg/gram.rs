//! Second moments: sums over rows of the products of columns, `X^T Y`, as Hessians are made of.
//!
//! Rows are taken 256 at a time. Within such a stretch a sum is one chain of fused multiply-adds in `f32` from zero on, in the
//! order of the rows; stretches are added up in `f64`, in order. Nothing else enters: neither the tile that a result lies
//! in, nor the instruction set, nor the number of threads.
//!
//! A chain of 256 has at most 256 roundings, so that a result is off by at most `256 * 2^-24` times the sum of the
//! magnitudes of its products, to first order, however many rows there are.
//!
//! Both factors are laid out in panels: some columns side by side, row after row. A tile of results is then a loop over rows
//! that broadcasts numbers of the one panel and multiplies them with 16 of the other.

use super::tile::{MAX_TILE, Tiles};
use super::wrong_shape;
use crate::arch::{Isa, isa};
use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::matmul::wide::LANES;

/// Rows that are summed in `f32`.
const STRETCH: usize = 256;
/// Rows of results in a task. A multiple of every height of tile.
const BAND: usize = 96;
/// Rows of results in a task where there are few, so that all threads have some.
const NARROW_BAND: usize = 24;
/// Columns from which on bands are wide.
const MANY_COLUMNS: usize = 1024;
/// Columns of results whose sums are kept at hand while all stretches are gone through, a multiple of [`LANES`].
const BLOCK: usize = 96;
/// Rows that are laid out at a time: what is laid out of 4096 columns takes 32 MB.
const ROUND: usize = 8 * STRETCH;

/// Adds `X^T X` to the upper triangle of `out`, `columns x columns`, row by row. Below the diagonal nothing changes: see
/// [`mirror`].
///
/// `x` has rows of `columns`. With `weighted`, the rows of `x` times a weight each, it is `X^T diag(w) X` that is added.
///
/// # Errors
/// `Shape` where lengths contradict each other; `Interrupted`, with `out` changed in part.
pub fn add_gram(x: &[f32], weighted: Option<&[f32]>, columns: usize, out: &mut [f64], run: Run<'_>) -> Result<()> {
    add_gram_on(isa()?, x, weighted, columns, out, run)
}

/// As [`add_gram`], on an instruction set of choice, to compare or to measure.
///
/// # Errors
/// As [`add_gram`], and `Unsupported` if this machine lacks it.
pub fn add_gram_on(
    isa: Isa,
    x: &[f32],
    weighted: Option<&[f32]>,
    columns: usize,
    out: &mut [f64],
    run: Run<'_>,
) -> Result<()> {
    add(isa, (x, columns), (weighted.unwrap_or(x), columns), true, out, run)
}

/// Adds `X^T Y` to `out`, `x_columns x y_columns`, row by row. `x` and `y` have as many rows.
///
/// # Errors
/// As [`add_gram`].
pub fn add_products(
    x: &[f32],
    x_columns: usize,
    y: &[f32],
    y_columns: usize,
    out: &mut [f64],
    run: Run<'_>,
) -> Result<()> {
    add_products_on(isa()?, x, x_columns, y, y_columns, out, run)
}

/// As [`add_products`], on an instruction set of choice, to compare or to measure.
///
/// # Errors
/// As [`add_gram_on`].
pub fn add_products_on(
    isa: Isa,
    x: &[f32],
    x_columns: usize,
    y: &[f32],
    y_columns: usize,
    out: &mut [f64],
    run: Run<'_>,
) -> Result<()> {
    add(isa, (x, x_columns), (y, y_columns), false, out, run)
}

/// Copies what lies above the diagonal of a square of `len` rows to below it.
///
/// # Errors
/// `Shape` for another size.
pub fn mirror(square: &mut [f64], len: usize) -> Result<()> {
    /// Rows and columns that are copied together, so that lines of cache are used whole.
    const SIDE: usize = 32;
    if len.checked_mul(len) != Some(square.len()) {
        return wrong_shape(format!("{} numbers are not a square of {len}", square.len()));
    }
    for top in (0..len).step_by(SIDE) {
        for left in (0..=top).step_by(SIDE) {
            for i in top..len.min(top + SIDE) {
                for j in left..i.min(left + SIDE) {
                    square[i * len + j] = square[j * len + i];
                }
            }
        }
    }
    Ok(())
}

/// Number of rows of two factors with as many.
fn row_count(x: (&[f32], usize), y: (&[f32], usize), out: usize) -> Result<usize> {
    let rows = x.0.len().checked_div(x.1).or(y.0.len().checked_div(y.1)).unwrap_or(0);
    let fits = |(values, columns): (&[f32], usize)| rows.checked_mul(columns) == Some(values.len());
    if fits(x) && fits(y) && x.1.checked_mul(y.1) == Some(out) {
        return Ok(rows);
    }
    let sizes = format!("{} and {} numbers in {} and {} columns", x.0.len(), y.0.len(), x.1, y.1);
    wrong_shape(format!("{sizes} do not have {out} products"))
}

fn add(isa: Isa, x: (&[f32], usize), y: (&[f32], usize), upper: bool, out: &mut [f64], run: Run<'_>) -> Result<()> {
    if !isa.is_available() {
        return Err(Error::Unsupported { at: At::default(), what: format!("this machine cannot run {isa}") });
    }
    row_count(x, y, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let tiles = Tiles::of(isa);
    let band = if x.1 < MANY_COLUMNS { NARROW_BAND } else { BAND };
    for (x_rows, y_rows) in x.0.chunks(ROUND * x.1).zip(y.0.chunks(ROUND * y.1)) {
        let left = Panels::lay_out(x_rows, x.1, tiles.height, run)?;
        let right = Panels::lay_out(y_rows, y.1, LANES, run)?;
        let job = Job { left, right, upper, tiles };
        run.for_each(out.chunks_mut(band * y.1).collect(), |_, number, out: &mut [f64]| {
            job.band(number * band, out);
            Ok(())
        })?;
    }
    Ok(())
}

/// Columns side by side in panels of `width`, the last filled up with zeros; stretch by stretch, panel by panel, row by row.
struct Panels {
    data: Vec<f32>,
    columns: usize,
    width: usize,
    rows: usize,
}

impl Panels {
    fn lay_out(from: &[f32], columns: usize, width: usize, run: Run<'_>) -> Result<Self> {
        /// Rows that are copied together: parts of a line of cache that go to different panels are then read while it is there.
        const TOGETHER: usize = 8;
        let (rows, padded) = (from.len() / columns, columns.next_multiple_of(width));
        let mut data = vec![0.0; rows * padded];
        let tasks = data.chunks_mut(STRETCH * padded).zip(from.chunks(STRETCH * columns)).collect();
        run.for_each(tasks, |_, _, (to, from): (&mut [f32], &[f32])| {
            let len = from.len() / columns;
            for (number, some) in from.chunks(TOGETHER * columns).enumerate() {
                for (first, panel) in (0..columns).step_by(width).zip(to.chunks_exact_mut(len * width)) {
                    let rows = panel[number * TOGETHER * width..].chunks_exact_mut(width);
                    for (to, row) in rows.zip(some.chunks_exact(columns)) {
                        let row = &row[first..columns.min(first + width)];
                        to[..row.len()].copy_from_slice(row);
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self { data, columns, width, rows })
    }

    /// The rows from `start` on, as many as make a stretch, of the panel that column `first` is the first of.
    fn panel(&self, start: usize, first: usize) -> &[f32] {
        let len = STRETCH.min(self.rows - start);
        let before = start * self.columns.next_multiple_of(self.width);
        &self.data[before + first * len..][..len * self.width]
    }
}

struct Job {
    left: Panels,
    right: Panels,
    upper: bool,
    tiles: Tiles,
}

impl Job {
    /// Adds to the rows of results from `top` on, which are `out`.
    fn band(&self, top: usize, out: &mut [f64]) {
        let columns = self.right.columns;
        let rows = out.len() / columns;
        let mut sums = [[0.0; LANES]; MAX_TILE];
        // Rows of results lie a power of two apart as often as not, which caches do not like.
        let mut block = vec![0.0; rows * BLOCK];
        let leftmost = if self.upper { top / LANES * LANES } else { 0 };
        for left in (leftmost..columns).step_by(BLOCK) {
            let width = BLOCK.min(columns - left);
            for (to, from) in block.chunks_exact_mut(BLOCK).zip(out.chunks_exact(columns)) {
                to[..width].copy_from_slice(&from[left..left + width]);
            }
            for start in (0..self.left.rows).step_by(STRETCH) {
                for j in (left..left + width).step_by(LANES) {
                    let right = self.right.panel(start, j).as_chunks().0;
                    for i in (top..top + rows).step_by(self.tiles.height) {
                        if self.upper && j + LANES <= i {
                            continue;
                        }
                        self.tiles.sum_up(self.left.panel(start, i), right, &mut sums);
                        let to = &mut block[(i - top) * BLOCK..];
                        for (to, sums) in to.chunks_exact_mut(BLOCK).zip(&sums[..self.tiles.height]) {
                            for (to, &sum) in to[j - left..].iter_mut().zip(sums) {
                                *to += f64::from(sum);
                            }
                        }
                    }
                }
            }
            for (i, (from, to)) in block.chunks_exact(BLOCK).zip(out.chunks_exact_mut(columns)).enumerate() {
                let skipped = if self.upper { (top + i).saturating_sub(left).min(width) } else { 0 };
                to[left + skipped..left + width].copy_from_slice(&from[skipped..width]);
            }
        }
    }
}
