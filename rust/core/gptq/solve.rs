//! The solver itself, for a few rows at a time.

use super::factor::{Factor, WINDOW, Window};
use super::form::{Form, Parts};
use super::improve::{Place, improve};
use super::levels::{add_later, solve_levels};
use super::product::{Part, Sides, add_product};
use super::{Effort, RowLoss};
use crate::arch::{Isa, Kernel};
use crate::linalg::{MAX_TILE, Sums, Tiles};
use crate::matmul::wide::LANES;

/// Rows that are solved side by side at most, so that a stretch of the factor is read once for all of them.
const MAX_ROWS: usize = 96;

/// Rows to solve side by side, of so many in all: enough of them to use what is read, enough tasks to keep threads busy.
pub(super) fn tile_rows(rows: usize, threads: usize) -> usize {
    rows.div_ceil(4 * threads).next_multiple_of(MAX_TILE).min(MAX_ROWS)
}

/// What solving a tile takes besides its rows.
pub(super) struct Task<'a> {
    pub(super) factor: &'a Factor,
    pub(super) kernel: Kernel,
    pub(super) isa: Isa,
    pub(super) tiles: Tiles,
    pub(super) effort: Effort,
    /// Importance of columns in the searches for scales; the pivots where there is none.
    pub(super) importance: Option<&'a [f32]>,
}

/// Everything about the rows of a tile, positions in the order of solving: window by window, row by row.
struct Tile<'a> {
    task: &'a Task<'a>,
    rows: usize,
    /// Weights.
    weights: Vec<f32>,
    /// Weights less what is stored for them.
    errors: Vec<f32>,
    /// The errors of each window, laid out for products.
    sides: Vec<Sides>,
    /// What the errors so far ask of later positions: their combination by the factor.
    carried: Vec<f32>,
    /// What is stored.
    parts: Vec<Parts>,
    block_bytes: usize,
    block_len: usize,
}

/// Solves the rows in `x` and writes them to `out`; `losses` gets an entry a row. `None` if `stopped` said so.
pub(super) fn solve_tile<F: Form>(
    task: &Task<'_>,
    x: &[f32],
    out: &mut [u8],
    losses: &mut [RowLoss],
    stopped: &dyn Fn() -> bool,
) -> Option<()> {
    let len = task.factor.len;
    let rows = x.len() / len;
    let info = F::FORMAT.info();
    let mut tile = Tile {
        task,
        rows,
        weights: vec![0.0; rows * len],
        errors: vec![0.0; rows * len],
        sides: task.factor.windows.iter().map(|_| Sides::default()).collect(),
        carried: vec![0.0; rows * len],
        parts: Vec::new(),
        block_bytes: info.block_bytes,
        block_len: info.block_len,
    };
    tile.fill_weights(x);
    // The baseline: the format's own encoder with the importance matrix that goes with this Hessian.
    task.kernel.encode_rows(x, len, Some(&task.factor.diagonal), out);
    let baseline = tile.baseline_losses(x, out);
    let mut solved = vec![0.0; rows];
    for (number, window) in task.factor.windows.iter().enumerate() {
        if stopped() {
            return None;
        }
        tile.forward::<F>(number, window);
        tile.add_losses(number, window, &mut solved);
        tile.spread(number, window);
    }
    for _ in 0..task.effort.passes {
        for (number, window) in task.factor.windows.iter().enumerate().rev() {
            if stopped() {
                return None;
            }
            tile.revisit::<F>(number, window, &mut solved);
        }
    }
    let row_bytes = out.len() / rows;
    for row in 0..rows {
        losses[row] = RowLoss { rounded: baseline[row], solved: solved[row].min(baseline[row]) };
        if solved[row] < baseline[row] {
            tile.write::<F>(row, &mut out[row * row_bytes..][..row_bytes]);
        }
    }
    Some(())
}

impl Tile<'_> {
    /// Where the numbers of a window lie.
    fn range(&self, window: &Window) -> std::ops::Range<usize> {
        window.first * self.rows..(window.first + window.width) * self.rows
    }

    /// Where the numbers of a row of a window lie.
    fn row(&self, window: &Window, row: usize) -> std::ops::Range<usize> {
        let start = window.first * self.rows + row * window.width;
        start..start + window.width
    }

    fn fill_weights(&mut self, x: &[f32]) {
        let factor = self.task.factor;
        for window in &factor.windows {
            for row in 0..self.rows {
                let own = self.row(window, row);
                for (to, &column) in self.weights[own].iter_mut().zip(&factor.order[window.first..]) {
                    *to = x[row * factor.len + column as usize];
                }
            }
        }
    }

    /// Solves a window: scales from the compensated weights, then levels one by one, then both improved.
    fn forward<F: Form>(&mut self, number: usize, window: &Window) {
        let (factor, tiles) = (self.task.factor, self.task.tiles);
        let (first, width, height) = (window.first, window.width, tiles.height);
        let place = Place::new::<F>(self.task.isa, width, &window.schur);
        let targets = self.targets(window);
        let fitted = self.fit(window, &targets);
        let blocks = width / self.block_len;
        let row_bytes = blocks * self.block_bytes;
        let mut parts = vec![Parts::ZERO; 2 * height];
        let mut residuals = vec![0.0; 2 * height * width];
        let mut gradients = vec![0.0; 2 * height * width];
        let mut sides = Sides::default();
        for from in (0..self.rows).step_by(height) {
            let rows = height.min(self.rows - from);
            // Twice as many rows: levels rounded to the nearest, and levels solved one after the other.
            let (parts, residuals, gradients) =
                (&mut parts[..2 * rows], &mut residuals[..2 * rows * width], &mut gradients[..2 * rows * width]);
            let (nearest, solved) = parts.split_at_mut(rows);
            let (nearest_residuals, solved_residuals) = residuals.split_at_mut(rows * width);
            let targets = &targets[from * width..][..rows * width];
            for (row, parts) in nearest.iter_mut().enumerate() {
                let bytes = &fitted[(from + row) * row_bytes..][..row_bytes];
                for (block, bytes) in bytes.chunks_exact(self.block_bytes).enumerate() {
                    F::read(bytes, block, parts);
                }
                let residuals = &mut nearest_residuals[row * width..][..width];
                for (position, &target) in targets[row * width..][..width].iter().enumerate() {
                    let column = window.columns[position];
                    residuals[column] = target - stored::<F>(parts, column);
                }
            }
            solved.clone_from_slice(nearest);
            let pivots = &factor.pivots[first..];
            solve_levels::<F>(&place, window, solved, targets, solved_residuals, pivots);
            sides.lay_out(tiles, residuals, width);
            gradients.fill(0.0);
            add_product(tiles, gradients, width, &sides, &window.schur.panels, Part { top: 0, left: 0 });
            for row in 0..rows {
                let objective = |row: usize| {
                    (place.dense.dot)(&residuals[row * width..][..width], &gradients[row * width..][..width])
                };
                if objective(row) < objective(rows + row) {
                    parts.swap(row, rows + row);
                    gradients.copy_within(row * width..(row + 1) * width, (rows + row) * width);
                }
            }
            let (parts, gradients) = (&mut parts[rows..], &mut gradients[rows * width..]);
            improve::<F>(&place, parts, gradients, self.task.effort.rounds);
            self.parts.extend_from_slice(parts);
        }
        self.take_errors::<F>(number, window);
    }

    /// Improves a window once more, with the errors of all others as they are by now.
    fn revisit<F: Form>(&mut self, number: usize, window: &Window, losses: &mut [f64]) {
        let width = window.width;
        let hessian = window.hessian.as_ref().expect("passes are refused where there is none");
        let place = Place::new::<F>(self.task.isa, width, &hessian.own);
        let mut gradients = vec![0.0; self.rows * width];
        for (sides, other) in self.sides.iter().zip(&self.task.factor.windows) {
            let part = Part { top: other.first, left: 0 };
            add_product(self.task.tiles, &mut gradients, width, sides, &hessian.all, part);
        }
        let before = (self.errors[self.range(window)].to_vec(), gradients.clone());
        let height = self.task.tiles.height;
        let own = &mut self.parts[number * self.rows..][..self.rows];
        for (parts, gradients) in own.chunks_mut(height).zip(gradients.chunks_mut(height * width)) {
            improve::<F>(&place, parts, gradients, self.task.effort.rounds);
        }
        self.take_errors::<F>(number, window);
        for row in 0..self.rows {
            // (e + d)^T H (e + d) - e^T H e = d^T (g + g'), with g = H e before and g' = H (e + d) after.
            let (errors, row) = (&self.errors[self.row(window, row)], row * width..(row + 1) * width);
            let (old, first, last) = (&before.0[row.clone()], &before.1[row.clone()], &gradients[row.clone()]);
            for (position, (&error, &old)) in errors.iter().zip(old).enumerate() {
                let column = window.columns[position];
                let slope = f64::from(first[column]) + f64::from(last[column]);
                losses[row.start / width] += f64::from(error - old) * slope;
            }
        }
    }

    /// Adds to `carried` of all later windows what the errors of this one ask of them.
    fn spread(&mut self, number: usize, window: &Window) {
        for later in &self.task.factor.windows[number + 1..] {
            let part = Part { top: 0, left: later.first - window.first };
            let carried = self.range(later);
            let sides = &self.sides[number];
            add_product(self.task.tiles, &mut self.carried[carried], later.width, sides, &window.spread, part);
        }
    }

    /// Lays the errors of a window out for products.
    fn lay_out(&mut self, number: usize, window: &Window) {
        let errors = &self.errors[self.range(window)];
        self.sides[number].lay_out(self.task.tiles, errors, window.width);
    }

    /// What the weights of a window should be, given the errors before them, if later columns may make up for the rest.
    ///
    /// The objective asks that `carried + U^T e` vanish within the window; with `e = weights - stored` that is
    /// `stored = weights + delta`, where `U^T delta = carried`.
    fn targets(&self, window: &Window) -> Vec<f32> {
        let (width, tiles) = (window.width, self.task.tiles);
        let (carried, weights) = (&self.carried[self.range(window)], &self.weights[self.range(window)]);
        let mut targets = vec![0.0; carried.len()];
        // Positions found so far, row beside row, as products want them.
        let mut side = vec![0.0; tiles.height * width];
        for first_row in (0..self.rows).step_by(tiles.height) {
            let rows = tiles.height.min(self.rows - first_row);
            for first in (0..width).step_by(LANES) {
                let mut sums: Sums = [[0.0; LANES]; MAX_TILE];
                let upper = window.spread.panel(first / LANES);
                tiles.sum_up(&side[..first * tiles.height], &upper[..first], &mut sums);
                for (row, sums) in sums[..rows].iter_mut().enumerate() {
                    let at = (first_row + row) * width + first;
                    for i in 0..LANES {
                        let delta = carried[at + i] - sums[i];
                        side[(first + i) * tiles.height + row] = delta;
                        targets[at + i] = weights[at + i] + delta;
                        add_later(sums, delta, &upper[first + i]);
                    }
                }
            }
        }
        targets
    }

    /// Blocks as the format's own encoder makes them of the targets.
    fn fit(&self, window: &Window, targets: &[f32]) -> Vec<u8> {
        let (first, width) = (window.first, window.width);
        let mut x = vec![0.0; targets.len()];
        let mut importance = [0.0; WINDOW];
        for position in 0..width {
            let column = window.columns[position];
            importance[column] = match self.task.importance {
                Some(given) => given[first + column],
                None => self.task.factor.pivots[first + position],
            };
            for row in 0..self.rows {
                x[row * width + column] = targets[row * width + position];
            }
        }
        let mut bytes = vec![0; self.rows * (width / self.block_len) * self.block_bytes];
        self.task.kernel.encode_rows(&x, width, Some(&importance[..width]), &mut bytes);
        bytes
    }

    /// The errors of a window, as its weights are stored by now.
    fn take_errors<F: Form>(&mut self, number: usize, window: &Window) {
        for row in 0..self.rows {
            let parts = &self.parts[number * self.rows + row];
            for (at, &column) in self.row(window, row).zip(&window.columns) {
                self.errors[at] = self.weights[at] - stored::<F>(parts, column);
            }
        }
        self.lay_out(number, window);
    }

    /// `e^T H e` of each row of errors.
    fn losses(&mut self) -> Vec<f64> {
        let mut losses = vec![0.0; self.rows];
        self.carried.fill(0.0);
        for (number, window) in self.task.factor.windows.iter().enumerate() {
            self.add_losses(number, window, &mut losses);
            self.spread(number, window);
        }
        losses
    }

    /// Adds the part of a window to the losses, given what the errors before it carry into it.
    fn add_losses(&self, number: usize, window: &Window, losses: &mut [f64]) {
        let pivots = &self.task.factor.pivots[window.first..][..window.width];
        let (errors, mut sums) = (&self.errors[self.range(window)], self.carried[self.range(window)].to_vec());
        let part = Part { top: 0, left: 0 };
        add_product(self.task.tiles, &mut sums, window.width, &self.sides[number], &window.spread, part);
        for (loss, (errors, sums)) in
            losses.iter_mut().zip(errors.chunks_exact(window.width).zip(sums.chunks_exact(window.width)))
        {
            for ((&error, &sum), &pivot) in errors.iter().zip(sums).zip(pivots) {
                let whole = f64::from(error + sum);
                *loss += f64::from(pivot) * whole * whole;
            }
        }
    }

    /// The losses of rows encoded as `bytes`.
    fn baseline_losses(&mut self, x: &[f32], bytes: &[u8]) -> Vec<f64> {
        let factor = self.task.factor;
        let mut decoded = vec![0.0; x.len()];
        self.task.kernel.decode(bytes, &mut decoded);
        for (number, window) in factor.windows.iter().enumerate() {
            for row in 0..self.rows {
                let own = self.row(window, row);
                for (at, &column) in own.zip(&factor.order[window.first..]) {
                    self.errors[at] = self.weights[at] - decoded[row * factor.len + column as usize];
                }
            }
            self.lay_out(number, window);
        }
        let losses = self.losses();
        self.carried.fill(0.0);
        losses
    }

    fn write<F: Form>(&self, row: usize, out: &mut [u8]) {
        let per_window = WINDOW / self.block_len;
        for (block, bytes) in out.chunks_exact_mut(self.block_bytes).enumerate() {
            F::write(&self.parts[block / per_window * self.rows + row], block % per_window, bytes);
        }
    }
}

/// The value stored for a column of a window.
pub(super) fn stored<F: Form>(parts: &Parts, column: usize) -> f32 {
    let sub = column / F::SUB;
    parts.scales.value(F::SCALES, sub) * parts.levels[column] - parts.mins.value(F::MINS, sub)
}
