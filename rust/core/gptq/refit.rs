//! Refits of a window's scales and minima under a quadratic objective, levels as they are.

use super::form::{Factors, Form, MAX_SUBS, Parts, Stored, half};
use super::improve::Place;
use super::product::{Part, Sides, add_product};

/// Rounds of the descent over scales, each of which is cheap.
const REFIT_SWEEPS: usize = 6;

/// Factors of a window, at most: scales and minima.
const MAX_FACTORS: usize = 2 * MAX_SUBS;

/// What gradients lose per unit of each scale, sub-block by sub-block, for some rows.
#[derive(Default)]
pub(super) struct Slopes {
    data: Vec<f32>,
    rows: usize,
    levels: Vec<f32>,
    sides: Sides,
}

impl Slopes {
    pub(super) fn fill(&mut self, place: &Place<'_>, parts: &[Parts], rows: &[usize]) {
        self.rows = rows.len();
        self.data.clear();
        self.data.resize(place.subs() * self.rows * place.width, 0.0);
        for (j, slopes) in self.data.chunks_exact_mut(self.rows * place.width).enumerate() {
            self.levels.clear();
            for &row in rows {
                self.levels.extend_from_slice(&parts[row].levels[place.of(j)]);
            }
            self.sides.lay_out(place.tiles, &self.levels, place.sub);
            let part = Part { top: j * place.sub, left: 0 };
            add_product(place.tiles, slopes, place.width, &self.sides, &place.form.panels, part);
        }
    }

    /// Those of a sub-block's scale in one of the rows.
    pub(super) fn of(&self, place: &Place<'_>, number: usize, sub: usize) -> &[f32] {
        &self.data[(sub * self.rows + number) * place.width..][..place.width]
    }
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
///
/// `slopes` are those of each sub-block's scale.
pub(super) fn refit<'a, F: Form>(
    place: &Place<'_>,
    parts: &mut Parts,
    gradient: &mut [f32],
    slopes: &dyn Fn(usize) -> &'a [f32],
) -> bool {
    let (width, subs, dot) = (place.width, place.subs(), place.dense.dot);
    let with_mins = F::MINS != Factors::Absent;
    let mut quadratic = Quadratic {
        len: if with_mins { 2 * subs } else { subs },
        pull: [0.0; MAX_FACTORS],
        curvature: [[0.0; MAX_FACTORS]; MAX_FACTORS],
    };
    for i in 0..subs {
        let levels = &parts.levels[place.of(i)];
        quadratic.pull[i] = dot(levels, &gradient[place.of(i)]);
        for j in 0..=i {
            quadratic.curvature[i][j] = dot(levels, &slopes(j)[place.of(i)]);
            quadratic.curvature[j][i] = quadratic.curvature[i][j];
        }
        if with_mins {
            quadratic.pull[subs + i] = -gradient[place.of(i)].iter().sum::<f32>();
            for j in 0..subs {
                let sums = &place.sums[j * width..][..width][place.of(i)];
                quadratic.curvature[i][subs + j] = -dot(levels, sums);
                quadratic.curvature[subs + j][i] = quadratic.curvature[i][subs + j];
                quadratic.curvature[subs + i][subs + j] = place.sum_of(i, j);
            }
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
            (place.dense.add_scaled)(gradient, -scale, slopes(j));
            if with_mins {
                let min = parts.mins.value(F::MINS, j) - mins.value(F::MINS, j);
                (place.dense.add_scaled)(gradient, min, &place.sums[j * width..][..width]);
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
