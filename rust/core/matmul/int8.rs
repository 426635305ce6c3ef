//! Products of integers: weights as they are stored, activations rounded to 8 bits.
//!
//! Within 256 columns, or within a group where scales are floats, the sum of products is a whole number and exact. Each
//! such sum is converted to `f32`, multiplied by the product of both scales, and added to the result in order of columns
//! with one rounding; then the minima's part likewise. So the error against exact arithmetic on the same rounded
//! activations is that of a sum of `2 * K / 256` terms (`K / 16` at most where scales are floats), each off by two
//! roundings more.

use std::ops::Range;

use super::activation::{self, Rounded};
use super::dot::{self, Dot, ROWS};
use super::gemv::{self, MultiplyRow};
use super::slab::{Facts, SLAB, Slab};
use super::tile::{self, COLUMNS, GROUP, Kernels, PANEL, Quad, Row, SIZES, Side, fetch_share};
use super::unpack::Unpacker;
use super::{Matrix, Output};
use crate::arch::Isa;
use crate::encode::Run;
use crate::error::Result;
use crate::prefetch::prefetch;

/// Rows of activations that are multiplied at a time: their sums and a panel of weights fit a core's own cache.
const BATCH: usize = 512;
/// Rows of activations at a time where weights are unpacked a few rows at a time.
const STREAMED: usize = 8;
/// Slabs of a row that are unpacked at a time for a small batch.
const AT_ONCE: usize = 4;
/// Weights in a task of a small batch, as far as whole rows allow.
const TASK_WEIGHTS: usize = 128 * 1024;
/// Bytes ahead of the slabs in hand that are prefetched, in each of the rows in hand.
const AHEAD: usize = 1152;

pub(super) fn matmul(
    isa: Isa,
    unpacker: Unpacker,
    weights: Matrix<'_>,
    x: &[f32],
    n: usize,
    out: &mut [f32],
    run: Run<'_>,
) -> Result<()> {
    let output = Output::new(out, n, weights.rows);
    let tiled = tile::kernels(&unpacker.facts, isa);
    let few = tiled.map_or(usize::MAX, |kernels| kernels.few);
    let direct = if n <= few { gemv::kernels(weights.format, isa) } else { None };
    match (tiled, direct) {
        (_, Some(kernels)) => {
            let rounded = round(isa, x, weights.cols, &unpacker.facts, run)?;
            Direct { kernels, weights, output }.batch(&rounded, run)
        }
        (Some(kernels), None) if n > STREAMED.min(few) => {
            let job = Tiled { unpacker, kernels, weights, output };
            for first in (0..n).step_by(BATCH) {
                let count = BATCH.min(n - first);
                job.batch(&x[first * weights.cols..][..count * weights.cols], first, count, run)?;
            }
            Ok(())
        }
        _ => {
            let rounded = round(isa, x, weights.cols, &unpacker.facts, run)?;
            Streamed { unpacker, dot: dot::dot(&unpacker.facts, isa), weights, output }.batch(&rounded, run)
        }
    }
}

struct Tiled<'a> {
    unpacker: Unpacker,
    kernels: Kernels,
    weights: Matrix<'a>,
    output: Output,
}

impl Tiled<'_> {
    /// All results of `count` rows of activations, the first of which is row `first`.
    fn batch(&self, x: &[f32], first: usize, count: usize, run: Run<'_>) -> Result<()> {
        let (cols, facts) = (self.weights.cols, &self.unpacker.facts);
        let (slabs, tiles) = (cols.div_ceil(SLAB), count.div_ceil(COLUMNS));
        // All tiles of a slab one after another, as a panel meets them.
        let mut quads = vec![Quad::ZERO; slabs * tiles * self.kernels.quads];
        let mut sides = vec![Side::ZERO; slabs * tiles];
        let tasks = quads.chunks_mut(self.kernels.quads).zip(&mut sides).enumerate().collect();
        run.for_each(tasks, |_, _, (i, (quads, side)): (usize, (&mut [Quad], &mut Side))| {
            let (slab, tile) = (i / tiles, i % tiles);
            let x = &x[tile * COLUMNS * cols..count.min((tile + 1) * COLUMNS) * cols];
            let slab = slab * SLAB..cols.min((slab + 1) * SLAB);
            // SAFETY: the kernels are for this machine.
            unsafe { (self.kernels.pack)(x, cols, slab, facts, quads, side) };
            Ok(())
        })?;
        let tasks = (0..self.weights.rows.div_ceil(PANEL)).collect();
        run.for_each(tasks, |_, _, panel| {
            self.panel(&quads, &sides, first, count, panel * PANEL);
            Ok(())
        })
    }

    /// Results of up to [`PANEL`] rows of weights.
    fn panel(&self, quads: &[Quad], sides: &[Side], first: usize, count: usize, row: usize) {
        let Tiled { unpacker, kernels, weights, output } = self;
        let (rows, slabs) = (PANEL.min(weights.rows - row), weights.cols.div_ceil(SLAB));
        let mut slab = [Slab::ZERO];
        let mut panel = [Row::ZERO; PANEL];
        let mut sums = vec![[0.0; COLUMNS]; PANEL * count.div_ceil(COLUMNS)];
        let slab_bytes = unpacker.facts.format.info().row_bytes(SLAB).unwrap_or(0);
        let bytes: [&[u8]; PANEL] = std::array::from_fn(|r| weights.bytes(row + r.min(rows - 1), 0, weights.cols));
        let tiles = count.div_ceil(COLUMNS);
        let size = |tile: usize| SIZES.partition_point(|&size| size < COLUMNS.min(count - tile * COLUMNS));
        // Groups and slabs that are multiplied where they lie.
        let direct = |group: usize, i: usize| {
            let whole = (group + 1) * GROUP <= rows && (i + 1) * slab_bytes <= bytes[0].len();
            kernels.direct.filter(|_| whole).map(|direct| (direct, bytes[group * GROUP][i * slab_bytes..].as_ptr()))
        };
        if tiles == 1 {
            // A few rows from their beginnings to their ends, which memory gives faster than pieces of many.
            for (group, sums) in sums.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let quads = quads.chunks_exact(kernels.quads);
                for (i, (quads, side)) in quads.zip(sides).enumerate() {
                    if let Some((direct, start)) = direct(group, i) {
                        // SAFETY: the kernels are for this machine; rows and slab are whole.
                        unsafe { direct[size(0)](start, weights.row_bytes, quads, side, sums) };
                    }
                }
            }
        }
        for i in 0..slabs {
            let quads = quads[i * tiles * kernels.quads..].chunks_exact(kernels.quads);
            let all = quads.zip(&sides[i * tiles..]).zip(sums.chunks_exact_mut(PANEL));
            for (tile, ((quads, side), sums)) in all.enumerate() {
                // What the next tile will read is fetched, a share with each group of rows: it is a few kilobytes from a slower
                // cache, too short for the machine to fetch ahead by itself.
                let next_quads = quads.as_ptr_range().end;
                let next_side = std::ptr::from_ref(side).wrapping_add(1);
                let next_sums = sums.as_ptr_range().end;
                for (group, sums) in sums.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                    let direct = direct(group, i);
                    if tiles == 1 && direct.is_some() {
                        continue;
                    }
                    fetch_share(next_quads, quads.len(), group, PANEL / GROUP);
                    fetch_share(next_side, 1, group, PANEL / GROUP);
                    fetch_share(next_sums, PANEL, group, PANEL / GROUP);
                    if let Some((direct, start)) = direct {
                        // SAFETY: as above.
                        unsafe { direct[size(tile)](start, weights.row_bytes, quads, side, sums) };
                        continue;
                    }
                    // Rows that meet one tile alone need not be kept, and stay in the fastest cache.
                    let place = if tiles == 1 { 0 } else { group };
                    let laid_out = &mut panel.as_chunks_mut::<GROUP>().0[place];
                    if tile == 0 {
                        // Rows are laid out as they are needed, so that requests for the next slab are spread over all of the
                        // work.
                        for (row, laid_out) in bytes[rows.min(group * GROUP)..rows].iter().zip(&mut *laid_out) {
                            let (from, to) = (i * slab_bytes, row.len().min((i + 1) * slab_bytes));
                            // The next slab of the row, which lies too far from the next row's for the machine to guess; with
                            // the cache line in which it ends.
                            prefetch(row[to..].as_ptr(), slab_bytes + 63);
                            (unpacker.unpack)(&row[from..to], &mut slab);
                            // SAFETY: as above.
                            unsafe { (kernels.lay_out)(&slab[0], &unpacker.facts, laid_out) };
                        }
                    }
                    // SAFETY: as above.
                    unsafe { kernels.multiply[size(tile)](laid_out, quads, side, sums) };
                }
            }
        }
        let mut column = [0.0; PANEL];
        for i in 0..count {
            for (to, sums) in column.iter_mut().zip(&sums[i / COLUMNS * PANEL..]) {
                *to = sums[i % COLUMNS];
            }
            // SAFETY: this task alone has these rows.
            unsafe { output.write(first + i, row, &column[..rows]) };
        }
    }
}

/// Activations of each row, rounded, a slab at a time.
fn round(isa: Isa, x: &[f32], cols: usize, facts: &Facts, run: Run<'_>) -> Result<Vec<Rounded>> {
    let (slabs, round) = (cols.div_ceil(SLAB), activation::round_row(isa));
    let mut rounded = vec![Rounded::ZERO; x.len() / cols * slabs];
    let tasks = rounded.chunks_mut(slabs).zip(x.chunks(cols)).collect();
    run.for_each(tasks, |_, _, (to, x): (&mut [Rounded], &[f32])| {
        // SAFETY: the function is for this machine.
        unsafe { round(facts, x, to) };
        Ok(())
    })?;
    Ok(rounded)
}

/// Small batches: rows of weights straight from memory.
struct Direct<'a> {
    kernels: [MultiplyRow; gemv::PIECES.len()],
    weights: Matrix<'a>,
    output: Output,
}

impl Direct<'_> {
    fn batch(&self, rounded: &[Rounded], run: Run<'_>) -> Result<()> {
        let (rows, cols) = (self.weights.rows, self.weights.cols);
        let rows_per_task = (TASK_WEIGHTS / cols).max(1);
        let tasks = (0..rows.div_ceil(rows_per_task)).collect();
        run.for_each(tasks, |_, _, task| {
            let first = task * rows_per_task;
            self.rows(rounded, first..rows.min(first + rows_per_task));
            Ok(())
        })
    }

    /// Results of some rows of weights, which come from memory for the first piece of the batch and from a cache for others.
    fn rows(&self, rounded: &[Rounded], rows: Range<usize>) {
        let Self { kernels, weights, output, .. } = self;
        let slabs = weights.cols.div_ceil(SLAB);
        let mut first = 0;
        for (&piece, multiply) in gemv::PIECES.iter().zip(kernels) {
            while output.n - first >= piece {
                let x = &rounded[first * slabs..(first + piece) * slabs];
                for row in rows.clone() {
                    let mut sums = [0.0; gemv::PIECES[0]];
                    // SAFETY: the function is for this machine, and a row is whole blocks.
                    unsafe { multiply(weights.bytes(row, 0, weights.cols), x, slabs, &mut sums[..piece]) };
                    for (i, sum) in sums[..piece].iter().enumerate() {
                        // SAFETY: this task alone has this row.
                        unsafe { output.write(first + i, row, &[*sum]) };
                    }
                }
                first += piece;
            }
        }
    }
}

/// Small batches of formats without kernels of their own, and machines without any.
struct Streamed<'a> {
    unpacker: Unpacker,
    dot: Dot,
    weights: Matrix<'a>,
    output: Output,
}

impl Streamed<'_> {
    fn batch(&self, rounded: &[Rounded], run: Run<'_>) -> Result<()> {
        let cols = self.weights.cols;
        let rows_per_task = (TASK_WEIGHTS / cols / ROWS).max(1) * ROWS;
        let tasks = (0..self.weights.rows.div_ceil(rows_per_task)).collect();
        run.for_each(tasks, |_, _, task| {
            let last = self.weights.rows.min((task + 1) * rows_per_task);
            let mut unpacked = [[Slab::ZERO; AT_ONCE]; ROWS];
            for row in (task * rows_per_task..last).step_by(ROWS) {
                self.rows(rounded, row, ROWS.min(last - row), &mut unpacked);
            }
            Ok(())
        })
    }

    /// Results of up to [`ROWS`] rows of weights.
    fn rows(&self, rounded: &[Rounded], row: usize, rows: usize, unpacked: &mut [[Slab; AT_ONCE]; ROWS]) {
        let Self { unpacker, weights, output, .. } = self;
        let slabs = weights.cols.div_ceil(SLAB);
        for first in (0..output.n).step_by(STREAMED) {
            let count = STREAMED.min(output.n - first);
            let mut sums = [[0.0; ROWS]; STREAMED];
            for i in (0..slabs).step_by(AT_ONCE) {
                let own = AT_ONCE.min(slabs - i);
                let (from, to) = (i * SLAB, weights.cols.min((i + own) * SLAB));
                for (r, unpacked) in unpacked[..rows].iter_mut().enumerate() {
                    let ahead = weights.ahead(row + r, from, to, AHEAD, ROWS);
                    prefetch(ahead.as_ptr(), ahead.len());
                    (unpacker.unpack)(weights.bytes(row + r, from, to), unpacked);
                }
                let slabs_of_rows = [0, 1, 2, 3].map(|r| &unpacked[r][..own]);
                for (sums, x) in sums[..count].iter_mut().zip(rounded[first * slabs..].chunks(slabs)) {
                    // SAFETY: the function is for this machine.
                    unsafe { (self.dot)(&unpacker.facts, slabs_of_rows, &x[i..i + own], sums) };
                }
            }
            for (i, sums) in sums[..count].iter().enumerate() {
                // SAFETY: this task alone has these rows.
                unsafe { output.write(first + i, row, &sums[..rows]) };
            }
        }
    }
}
