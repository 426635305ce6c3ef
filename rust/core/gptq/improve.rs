//! Coordinate descent on the levels of a window, and refits of its scales, under a quadratic objective.
//!
//! The error of a window is measured as `u^T S u` with `u` the weights less what is stored. All that is carried along is the
//! gradient `g = S u`: a change of the stored values by `delta` lowers the objective by `2 delta^T g - delta^T S delta`.

use super::dense::{Dense, Matrix};
use super::factor::WINDOW;
use super::form::{Factors, Form, GROUP, MAX_SUBS, Parts, Quad, Stored, half};

/// Rounds of the descent over scales, each of which is cheap.
const REFIT_SWEEPS: usize = 6;

/// Factors of a window, at most: scales and minima.
const MAX_FACTORS: usize = 2 * MAX_SUBS;

/// What all rows of a window share: its quadratic form, and which position belongs to which sub-block.
pub(super) struct Place<'a> {
    /// The operations.
    pub(super) dense: &'static Dense,
    /// Columns of the window.
    pub(super) width: usize,
    /// The quadratic form: `width` rows from `(top, left)` on.
    pub(super) form: Matrix<'a>,
    /// See `form`.
    pub(super) corner: (usize, usize),
    /// Column within the window at each position.
    pub(super) columns: [u16; WINDOW],
    /// Positions, sub-block by sub-block.
    pub(super) members: [u16; WINDOW],
    /// Weights of a sub-block.
    sub: usize,
    /// For each sub-block the sum of its rows of the quadratic form.
    sums: Vec<f32>,
}

impl<'a> Place<'a> {
    pub(super) fn new<F: Form>(
        dense: &'static Dense,
        order: &[u32],
        first: usize,
        form: Matrix<'a>,
        corner: (usize, usize),
    ) -> Self {
        let width = order.len();
        let mut columns = [0; WINDOW];
        let mut members = [0; WINDOW];
        let mut filled = [0; MAX_SUBS];
        for (position, &column) in order.iter().enumerate() {
            let column = column as usize - first;
            columns[position] = column as u16;
            let sub = column / F::SUB;
            members[sub * F::SUB + filled[sub]] = position as u16;
            filled[sub] += 1;
        }
        let mut own = Self { dense, width, form, corner, columns, members, sub: F::SUB, sums: Vec::new() };
        if F::MINS != Factors::Absent {
            own.sums = vec![0.0; own.subs() * width];
            for j in 0..own.subs() {
                let mut sum = [0.0; WINDOW];
                for &position in own.members_of(j) {
                    (dense.add_scaled)(&mut sum[..width], 1.0, own.row(position.into()));
                }
                own.sums[j * width..][..width].copy_from_slice(&sum[..width]);
            }
        }
        own
    }

    fn subs(&self) -> usize {
        self.width / self.sub
    }

    fn members_of(&self, sub: usize) -> &[u16] {
        &self.members[sub * self.sub..][..self.sub]
    }

    pub(super) fn row(&self, position: usize) -> &'a [f32] {
        self.form.row(self.corner.0 + position, self.corner.1, self.width)
    }

    fn diagonal(&self, position: usize) -> f32 {
        self.form.data[(self.corner.0 + position) * self.form.stride + self.corner.1 + position]
    }
}

/// Lowers the objective: `rounds` times a descent over levels and a refit of the scales, then a last descent. `gradient` is
/// that of `parts` before and after.
pub(super) fn improve<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32; WINDOW], rounds: u32) {
    for _ in 0..rounds {
        let moved = descend::<F>(place, parts, gradient);
        let refitted = refit::<F>(place, parts, gradient);
        if !moved && !refitted {
            return;
        }
    }
    descend::<F>(place, parts, gradient);
}

/// One sweep over the levels, each moved to where the others want it. Tells whether any moved.
fn descend<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32; WINDOW]) -> bool {
    if F::JOINT {
        return descend_joint::<F>(place, parts, gradient);
    }
    let mut moved = false;
    for position in 0..place.width {
        let column = usize::from(place.columns[position]);
        let sub = column / F::SUB;
        let scale = parts.scales.value(F::SCALES, sub);
        if scale == 0.0 {
            continue;
        }
        let min = parts.mins.value(F::MINS, sub);
        let level = parts.levels[column];
        let curvature = place.diagonal(position);
        let stored = scale * level - min;
        let tried = F::nearest((stored + gradient[position] / curvature + min) / scale);
        if tried != level {
            let delta = scale * tried - min - stored;
            if delta * (2.0 * gradient[position] - delta * curvature) > 0.0 {
                parts.levels[column] = tried;
                (place.dense.add_scaled)(&mut gradient[..place.width], -delta, place.row(position));
                moved = true;
            }
        }
    }
    moved
}

/// As [`descend`], for levels that are chosen [`GROUP`] at a time.
fn descend_joint<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32; WINDOW]) -> bool {
    let mut moved = false;
    for first in (0..place.width).step_by(GROUP) {
        let column = usize::from(place.columns[first]);
        let scale = parts.scales.value(F::SCALES, column / F::SUB);
        if scale == 0.0 {
            continue;
        }
        let quad: Quad = std::array::from_fn(|i| std::array::from_fn(|j| place.row(first + i)[first + j]));
        let pull: [f32; GROUP] = std::array::from_fn(|i| gradient[first + i]);
        let own: [f32; GROUP] = std::array::from_fn(|i| parts.levels[column + i]);
        // Where the group would go if its levels were free, all others as they are.
        let step = solve_group(&quad, &pull);
        let tried = F::choose(place.dense, &std::array::from_fn(|i| own[i] + step[i] / scale), &quad);
        if tried == own {
            continue;
        }
        let delta: [f32; GROUP] = std::array::from_fn(|i| scale * (tried[i] - own[i]));
        let mut gain = 0.0;
        for i in 0..GROUP {
            let mut bend = 0.0;
            for j in 0..GROUP {
                bend += quad[i][j] * delta[j];
            }
            gain += delta[i] * (2.0 * pull[i] - bend);
        }
        if gain > 0.0 {
            for i in 0..GROUP {
                parts.levels[column + i] = tried[i];
                (place.dense.add_scaled)(&mut gradient[..place.width], -delta[i], place.row(first + i));
            }
            moved = true;
        }
    }
    moved
}

/// `quad^-1 * pull` by elimination; `quad` is positive definite but for rounding.
fn solve_group(quad: &Quad, pull: &[f32; GROUP]) -> [f32; GROUP] {
    let (mut a, mut x) = (*quad, *pull);
    for i in 0..GROUP {
        let pivot = a[i][i].max(1e-6 * quad[i][i]).max(f32::MIN_POSITIVE);
        a[i][i] = pivot;
        for k in i + 1..GROUP {
            let factor = a[k][i] / pivot;
            for j in i..GROUP {
                a[k][j] -= factor * a[i][j];
            }
            x[k] -= factor * x[i];
        }
    }
    for i in (0..GROUP).rev() {
        for j in i + 1..GROUP {
            x[i] -= a[i][j] * x[j];
        }
        x[i] /= a[i][i];
    }
    x
}

/// The objective as a function of the factors of a window, levels fixed.
struct Quadratic {
    len: usize,
    /// Half the negative gradient.
    pull: [f32; MAX_FACTORS],
    /// Half the second derivatives.
    curvature: [[f32; MAX_FACTORS]; MAX_FACTORS],
}

impl Quadratic {
    /// Moves factor `p` by `delta` if that lowers the objective.
    fn accept(&mut self, p: usize, delta: f32) -> bool {
        if delta == 0.0 || delta * (2.0 * self.pull[p] - delta * self.curvature[p][p]) <= 0.0 {
            return false;
        }
        for i in 0..self.len {
            self.pull[i] -= delta * self.curvature[p][i];
        }
        true
    }

    /// Pull along, and curvature of, a direction in the factors from `first` on.
    fn along(&self, first: usize, direction: &[f32]) -> (f32, f32) {
        let (mut pull, mut curvature) = (0.0, 0.0);
        for (i, &x) in direction.iter().enumerate() {
            pull += x * self.pull[first + i];
            for (j, &y) in direction.iter().enumerate() {
                curvature += x * y * self.curvature[first + i][first + j];
            }
        }
        (pull, curvature)
    }

    fn shift(&mut self, first: usize, direction: &[f32], by: f32) {
        for (i, &x) in direction.iter().enumerate() {
            for p in 0..self.len {
                self.pull[p] -= by * x * self.curvature[first + i][p];
            }
        }
    }
}

/// Descends over scales and minima as they are stored. Tells whether any changed.
fn refit<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32; WINDOW]) -> bool {
    let (width, subs) = (place.width, place.subs());
    let with_mins = F::MINS != Factors::Absent;
    // Row j: what the gradient loses per unit of scale j.
    let mut slopes = [0.0f32; MAX_SUBS * WINDOW];
    for j in 0..subs {
        let mut sum = [0.0; WINDOW];
        for &position in place.members_of(j) {
            let level = parts.levels[usize::from(place.columns[usize::from(position)])];
            if level != 0.0 {
                (place.dense.add_scaled)(&mut sum[..width], level, place.row(position.into()));
            }
        }
        slopes[j * width..][..width].copy_from_slice(&sum[..width]);
    }
    let mut quadratic = Quadratic {
        len: if with_mins { 2 * subs } else { subs },
        pull: [0.0; MAX_FACTORS],
        curvature: [[0.0; MAX_FACTORS]; MAX_FACTORS],
    };
    for i in 0..subs {
        for &position in place.members_of(i) {
            let position = usize::from(position);
            let level = parts.levels[usize::from(place.columns[position])];
            quadratic.pull[i] += level * gradient[position];
            for j in 0..subs {
                quadratic.curvature[i][j] += level * slopes[j * width + position];
            }
            if with_mins {
                quadratic.pull[subs + i] -= gradient[position];
                for j in 0..subs {
                    quadratic.curvature[i][subs + j] -= level * place.sums[j * width + position];
                    quadratic.curvature[subs + i][subs + j] += place.sums[j * width + position];
                }
            }
        }
    }
    for i in 0..subs {
        for j in 0..subs {
            quadratic.curvature[subs + j][i] = quadratic.curvature[i][subs + j];
        }
    }
    let (scales, mins) = (parts.scales, parts.mins);
    let mut changed = false;
    for _ in 0..REFIT_SWEEPS {
        let mut moved = step(&mut quadratic, 0, subs, F::SCALES, &mut parts.scales);
        if with_mins {
            moved |= step(&mut quadratic, subs, subs, F::MINS, &mut parts.mins);
        }
        changed |= moved;
        if !moved {
            break;
        }
    }
    if changed {
        for j in 0..subs {
            let scale = parts.scales.value(F::SCALES, j) - scales.value(F::SCALES, j);
            (place.dense.add_scaled)(&mut gradient[..width], -scale, &slopes[j * width..][..width]);
            if with_mins {
                let min = parts.mins.value(F::MINS, j) - mins.value(F::MINS, j);
                (place.dense.add_scaled)(&mut gradient[..width], min, &place.sums[j * width..][..width]);
            }
        }
    }
    changed
}

/// One sweep over factors `first..first + subs`, which are stored as `factors` says.
fn step(quadratic: &mut Quadratic, first: usize, subs: usize, factors: Factors, stored: &mut Stored) -> bool {
    let mut moved = false;
    match factors {
        Factors::Absent => {}
        Factors::Own => {
            for j in 0..subs {
                let p = first + j;
                if quadratic.curvature[p][p] > 0.0 {
                    let tried = half(stored.d[j] + quadratic.pull[p] / quadratic.curvature[p][p]);
                    if quadratic.accept(p, tried - stored.d[j]) {
                        stored.d[j] = tried;
                        moved = true;
                    }
                }
            }
        }
        Factors::Shared { low, high, step, unit } => {
            let unit_step = unit * stored.d[0];
            for j in 0..subs {
                let p = first + j;
                let curvature = quadratic.curvature[p][p] * unit_step;
                if curvature != 0.0 && curvature.is_finite() {
                    let steps = (quadratic.pull[p] / curvature / f32::from(step)).round_ties_even();
                    let tried =
                        (f32::from(stored.n[j]) + f32::from(step) * steps).clamp(low.into(), high.into()) as i16;
                    if quadratic.accept(p, unit_step * f32::from(tried - stored.n[j])) {
                        stored.n[j] = tried;
                        moved = true;
                    }
                }
            }
            let direction: [f32; MAX_SUBS] = std::array::from_fn(|j| unit * f32::from(stored.n[j]));
            let (pull, curvature) = quadratic.along(first, &direction[..subs]);
            if curvature > 0.0 {
                let mut tried = half(stored.d[0] + pull / curvature);
                if low >= 0 {
                    tried = tried.max(0.0); // encoders never write a negative one
                }
                let by = tried - stored.d[0];
                if by != 0.0 && by * (2.0 * pull - by * curvature) > 0.0 {
                    quadratic.shift(first, &direction[..subs], by);
                    stored.d[0] = tried;
                    moved = true;
                }
            }
        }
    }
    moved
}
