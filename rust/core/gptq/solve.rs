//! The solver itself, for a few rows at a time.

use super::dense::{Dense, Matrix};
use super::factor::{Factor, WINDOW};
use super::form::{Form, GROUP, Parts, Quad};
use super::improve::{Place, improve};
use super::{Effort, RowLoss};
use crate::arch::Kernel;

/// Rows that are solved side by side, so that a stretch of the factor is read once for all of them.
pub(super) const TILE: usize = 32;

/// What solving a tile takes besides its rows.
pub(super) struct Task<'a> {
    pub(super) factor: &'a Factor,
    pub(super) kernel: Kernel,
    pub(super) dense: &'static Dense,
    pub(super) effort: Effort,
    /// Importance of columns in the searches for scales; the pivots where there is none.
    pub(super) importance: Option<&'a [f32]>,
}

/// Everything about the rows of a tile, positions in the order of solving.
struct Tile<'a> {
    task: &'a Task<'a>,
    rows: usize,
    len: usize,
    /// Weights.
    weights: Vec<f32>,
    /// Weights less what is stored for them.
    errors: Vec<f32>,
    /// What the errors so far ask of later positions: their combination by the factor.
    carried: Vec<f32>,
    /// What is stored, window by window, row by row.
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
        len,
        weights: vec![0.0; rows * len],
        errors: vec![0.0; rows * len],
        carried: vec![0.0; rows * len],
        parts: Vec::new(),
        block_bytes: info.block_bytes,
        block_len: info.block_len,
    };
    for row in 0..rows {
        for (position, &column) in task.factor.order.iter().enumerate() {
            tile.weights[row * len + position] = x[row * len + column as usize];
        }
    }
    // The baseline: the format's own encoder with the importance matrix that goes with this Hessian.
    task.kernel.encode_rows(x, len, Some(&task.factor.diagonal), out);
    let baseline = tile.baseline_losses(x, out);
    for number in 0..task.factor.windows() {
        if stopped() {
            return None;
        }
        tile.forward::<F>(number);
    }
    for _ in 0..task.effort.passes {
        for number in (0..task.factor.windows()).rev() {
            if stopped() {
                return None;
            }
            tile.revisit::<F>(number);
        }
    }
    let solved = tile.losses();
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
    /// Solves a window: scales from the compensated weights, then levels one by one, then both improved.
    fn forward<F: Form>(&mut self, number: usize) {
        let factor = self.task.factor;
        let (first, width) = factor.window(number);
        let upper = Matrix { data: &factor.upper, stride: self.len };
        let schur = Matrix { data: &factor.schur[number], stride: width };
        let place = Place::new::<F>(self.task.dense, &factor.order[first..first + width], first, schur, (0, 0));
        let targets = self.targets(first, width, upper);
        let fitted = self.fit(first, width, &targets, &place);
        let blocks = width / self.block_len;
        // Twice as many rows: levels rounded to the nearest, and levels solved one after the other.
        let mut tried = Vec::with_capacity(2 * self.rows);
        let mut residuals = vec![0.0; 2 * self.rows * width];
        for row in 0..self.rows {
            let mut parts = Parts::ZERO;
            let bytes = &fitted[row * blocks * self.block_bytes..][..blocks * self.block_bytes];
            for (block, bytes) in bytes.chunks_exact(self.block_bytes).enumerate() {
                F::read(bytes, block, &mut parts);
            }
            let target = &targets[row * width..][..width];
            let (nearest, solved) = residuals[2 * row * width..][..2 * width].split_at_mut(width);
            for position in 0..width {
                nearest[position] = target[position] - stored::<F>(&parts, place.columns[position].into());
            }
            let mut other = parts.clone();
            solve_levels::<F>(&place, &mut other, target, solved, upper, first, &factor.pivots);
            tried.push([parts, other]);
        }
        let mut gradients = vec![0.0; 2 * self.rows * width];
        let x = Matrix { data: &residuals, stride: width };
        (self.task.dense.add_product)(&mut gradients, width, 0, x, schur, (0, 0), (2 * self.rows, width, width));
        for (row, [nearest, solved]) in tried.into_iter().enumerate() {
            let (nearest_at, solved_at) = (2 * row * width, (2 * row + 1) * width);
            let objective = |at: usize| (self.task.dense.dot)(&residuals[at..][..width], &gradients[at..][..width]);
            let (mut parts, at) =
                if objective(nearest_at) < objective(solved_at) { (nearest, nearest_at) } else { (solved, solved_at) };
            let mut gradient = [0.0; WINDOW];
            gradient[..width].copy_from_slice(&gradients[at..][..width]);
            improve::<F>(&place, &mut parts, &mut gradient, self.task.effort.rounds);
            self.take_errors::<F>(row, first, &place, &parts);
            self.parts.push(parts);
        }
        let (later, rest) = (first + width, self.len - first - width);
        let errors = Matrix { data: &self.errors[first..], stride: self.len };
        (self.task.dense.add_product)(
            &mut self.carried,
            self.len,
            later,
            errors,
            upper,
            (first, later),
            (self.rows, width, rest),
        );
    }

    /// Improves a window once more, with the errors of all others as they are by now.
    fn revisit<F: Form>(&mut self, number: usize) {
        let factor = self.task.factor;
        let (first, width) = factor.window(number);
        let hessian = Matrix { data: &factor.hessian, stride: self.len };
        let place =
            Place::new::<F>(self.task.dense, &factor.order[first..first + width], first, hessian, (first, first));
        let mut gradients = vec![0.0; self.rows * width];
        let errors = Matrix { data: &self.errors, stride: self.len };
        (self.task.dense.add_product)(
            &mut gradients,
            width,
            0,
            errors,
            hessian,
            (0, first),
            (self.rows, self.len, width),
        );
        for row in 0..self.rows {
            let mut gradient = [0.0; WINDOW];
            gradient[..width].copy_from_slice(&gradients[row * width..][..width]);
            let mut parts = self.parts[number * self.rows + row].clone();
            improve::<F>(&place, &mut parts, &mut gradient, self.task.effort.rounds);
            self.take_errors::<F>(row, first, &place, &parts);
            self.parts[number * self.rows + row] = parts;
        }
    }

    /// What the weights of a window should be, given the errors before them, if later columns may make up for the rest.
    ///
    /// The objective asks that `carried + U^T e` vanish within the window; with `e = weights - stored` that is
    /// `stored = weights + delta`, where `U^T delta = carried`.
    fn targets(&self, first: usize, width: usize, upper: Matrix<'_>) -> Vec<f32> {
        let mut targets = vec![0.0; self.rows * width];
        for (row, target) in targets.chunks_exact_mut(width).enumerate() {
            target.copy_from_slice(&self.carried[row * self.len + first..][..width]);
            for position in 0..width {
                let (before, after) = target.split_at_mut(position + 1);
                (self.task.dense.add_scaled)(
                    after,
                    -before[position],
                    &upper.row(first + position, first, width)[position + 1..],
                );
            }
            (self.task.dense.add_scaled)(target, 1.0, &self.weights[row * self.len + first..][..width]);
        }
        targets
    }

    /// Blocks as the format's own encoder makes them of the targets.
    fn fit(&self, first: usize, width: usize, targets: &[f32], place: &Place<'_>) -> Vec<u8> {
        let mut x = vec![0.0; targets.len()];
        let mut importance = [0.0; WINDOW];
        for position in 0..width {
            let column = usize::from(place.columns[position]);
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

    fn take_errors<F: Form>(&mut self, row: usize, first: usize, place: &Place<'_>, parts: &Parts) {
        for position in 0..place.width {
            let at = row * self.len + first + position;
            self.errors[at] = self.weights[at] - stored::<F>(parts, place.columns[position].into());
        }
    }

    /// `e^T H e` of each row of errors.
    fn losses(&mut self) -> Vec<f64> {
        let factor = self.task.factor;
        let upper = Matrix { data: &factor.upper, stride: self.len };
        self.carried.copy_from_slice(&self.errors);
        for number in 0..factor.windows() {
            let (first, width) = factor.window(number);
            for row in 0..self.rows {
                for position in first..first + width {
                    let error = self.errors[row * self.len + position];
                    let after = position + 1..first + width;
                    let carried = &mut self.carried[row * self.len..][after.clone()];
                    (self.task.dense.add_scaled)(carried, error, upper.row(position, after.start, after.len()));
                }
            }
            let (later, rest) = (first + width, self.len - first - width);
            let errors = Matrix { data: &self.errors[first..], stride: self.len };
            (self.task.dense.add_product)(
                &mut self.carried,
                self.len,
                later,
                errors,
                upper,
                (first, later),
                (self.rows, width, rest),
            );
        }
        let loss = |row: &[f32]| {
            row.iter().zip(&factor.pivots).map(|(&v, &pivot)| f64::from(pivot) * f64::from(v) * f64::from(v)).sum()
        };
        self.carried.chunks_exact(self.len).map(loss).collect()
    }

    /// The losses of rows encoded as `bytes`.
    fn baseline_losses(&mut self, x: &[f32], bytes: &[u8]) -> Vec<f64> {
        let mut decoded = vec![0.0; x.len()];
        self.task.kernel.decode(bytes, &mut decoded);
        for row in 0..self.rows {
            for (position, &column) in self.task.factor.order.iter().enumerate() {
                let at = row * self.len + column as usize;
                self.errors[row * self.len + position] = x[at] - decoded[at];
            }
        }
        let losses = self.losses();
        self.errors.fill(0.0);
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

/// Chooses levels position by position, each making up for the errors before it. `residuals` gets targets less stored values.
fn solve_levels<F: Form>(
    place: &Place<'_>,
    parts: &mut Parts,
    targets: &[f32],
    residuals: &mut [f32],
    upper: Matrix<'_>,
    first: usize,
    pivots: &[f32],
) {
    let width = place.width;
    let mut carried = [0.0; WINDOW];
    if F::JOINT {
        return solve_groups::<F>(place, parts, targets, residuals, upper, first, pivots);
    }
    for position in 0..width {
        let column = usize::from(place.columns[position]);
        let sub = column / F::SUB;
        let scale = parts.scales.value(F::SCALES, sub);
        let min = parts.mins.value(F::MINS, sub);
        if scale != 0.0 {
            parts.levels[column] = F::nearest((targets[position] + carried[position] + min) / scale);
        }
        let residual = targets[position] - (scale * parts.levels[column] - min);
        residuals[position] = residual;
        let row = upper.row(first + position, first, width);
        (place.dense.add_scaled)(&mut carried[position + 1..width], residual, &row[position + 1..]);
    }
}

/// As [`solve_levels`], for levels that are chosen [`GROUP`] at a time.
fn solve_groups<F: Form>(
    place: &Place<'_>,
    parts: &mut Parts,
    targets: &[f32],
    residuals: &mut [f32],
    upper: Matrix<'_>,
    first: usize,
    pivots: &[f32],
) {
    let width = place.width;
    let mut carried = [0.0; WINDOW];
    for start in (0..width).step_by(GROUP) {
        let column = usize::from(place.columns[start]);
        let scale = parts.scales.value(F::SCALES, column / F::SUB);
        let own = |i: usize, j: usize| match i.cmp(&j) {
            std::cmp::Ordering::Less => upper.row(first + start + i, first + start, GROUP)[j],
            std::cmp::Ordering::Equal => 1.0,
            std::cmp::Ordering::Greater => 0.0,
        };
        if scale != 0.0 {
            // Within the group, U diag(D) U^T is the quadratic form, and U^T delta = carried the shift, as for windows.
            let mut quad: Quad = [[0.0; GROUP]; GROUP];
            let mut delta = [0.0; GROUP];
            for i in 0..GROUP {
                for j in 0..GROUP {
                    for k in i.max(j)..GROUP {
                        quad[i][j] += own(i, k) * own(j, k) * pivots[first + start + k];
                    }
                }
                delta[i] = carried[start + i];
                for k in 0..i {
                    delta[i] -= own(k, i) * delta[k];
                }
            }
            let y = std::array::from_fn(|i| (targets[start + i] + delta[i]) / scale);
            parts.levels[column..column + GROUP].copy_from_slice(&F::choose(place.dense, &y, &quad));
        }
        for i in 0..GROUP {
            let position = start + i;
            residuals[position] = targets[position] - scale * parts.levels[column + i];
            let row = upper.row(first + position, first, width);
            (place.dense.add_scaled)(&mut carried[position + 1..width], residuals[position], &row[position + 1..]);
        }
    }
}
