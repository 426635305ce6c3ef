//! Coordinate descent on the levels of a window, and refits of its scales, under a quadratic objective.
//!
//! The error of a window is measured as `u^T S u` with `u` the weights less what is stored. All that is carried along is the
//! gradient `g = S u`: a change of the stored values by `delta` lowers the objective by `2 delta^T g - delta^T S delta`.

use super::dense::Dense;
use super::factor::{GROUP, Square, WINDOW};
use super::form::{Factors, Form, Parts, Quad};
use super::refit::{Slopes, refit};
use crate::arch::Isa;
use crate::linalg::Tiles;

/// Columns whose levels are looked at together: sub-blocks are a multiple of it.
const LOOK: usize = 16;

/// What is the same for all rows of a window: its quadratic form, by column, and what follows from it.
pub(super) struct Place<'a> {
    /// The operations.
    pub(super) dense: &'static Dense,
    pub(super) tiles: Tiles,
    wanted: Wanted,
    /// Columns of the window.
    pub(super) width: usize,
    pub(super) form: &'a Square,
    /// Reciprocals of the diagonal.
    inverse: [f32; WINDOW],
    /// Weights of a sub-block.
    pub(super) sub: usize,
    /// For each sub-block the sum of its rows of the quadratic form; empty where there are no minima.
    pub(super) sums: Vec<f32>,
    /// For each two sub-blocks the sum of the quadratic form between them; likewise empty.
    squares: Vec<f32>,
}

impl<'a> Place<'a> {
    pub(super) fn new<F: Form>(isa: Isa, width: usize, form: &'a Square) -> Self {
        let dense = Dense::of(isa);
        let mut inverse = [0.0; WINDOW];
        for (column, to) in inverse[..width].iter_mut().enumerate() {
            *to = 1.0 / form.rows[column * width + column];
        }
        let (tiles, wanted) = (Tiles::of(isa), wanted_on::<F>(isa));
        let mut own =
            Self { dense, tiles, wanted, width, form, inverse, sub: F::SUB, sums: Vec::new(), squares: Vec::new() };
        if F::MINS != Factors::Absent {
            own.sums = vec![0.0; own.subs() * width];
            for (j, sum) in own.sums.chunks_exact_mut(width).enumerate() {
                for column in j * F::SUB..(j + 1) * F::SUB {
                    (dense.add_scaled)(sum, 1.0, &form.rows[column * width..][..width]);
                }
            }
            let sum_of = |i: usize| own.sums[i / own.subs() * width..][own.of(i % own.subs())].iter().sum();
            own.squares = (0..own.subs() * own.subs()).map(sum_of).collect();
        }
        own
    }

    pub(super) fn subs(&self) -> usize {
        self.width / self.sub
    }

    /// Where a sub-block lies.
    pub(super) fn of(&self, sub: usize) -> std::ops::Range<usize> {
        sub * self.sub..(sub + 1) * self.sub
    }

    /// Sum of the quadratic form between two sub-blocks.
    pub(super) fn sum_of(&self, i: usize, j: usize) -> f32 {
        self.squares[j * self.subs() + i]
    }

    fn row(&self, column: usize) -> &'a [f32] {
        &self.form.rows[column * self.width..][..self.width]
    }
}

/// Lowers the objective for a few rows: `rounds` times a descent over levels and a refit of the scales, then a last descent.
/// `gradients` are those of `parts` before and after, by column, row after row.
pub(super) fn improve<F: Form>(place: &Place<'_>, parts: &mut [Parts], gradients: &mut [f32], rounds: u32) {
    let width = place.width;
    let mut moving: Vec<usize> = (0..parts.len()).collect();
    let mut slopes = Slopes::default();
    for _ in 0..rounds {
        let moved: Vec<bool> = moving
            .iter()
            .map(|&row| descend::<F>(place, &mut parts[row], &mut gradients[row * width..][..width]))
            .collect();
        slopes.fill(place, parts, &moving);
        let mut left = Vec::with_capacity(moving.len());
        for ((number, row), moved) in moving.into_iter().enumerate().zip(moved) {
            let gradient = &mut gradients[row * width..][..width];
            if refit::<F>(place, &mut parts[row], gradient, &|j| slopes.of(place, number, j)) || moved {
                left.push(row);
            }
        }
        moving = left;
        if moving.is_empty() {
            return;
        }
    }
    for row in moving {
        descend::<F>(place, &mut parts[row], &mut gradients[row * width..][..width]);
    }
}

/// One sweep over the levels, each moved to where the others want it. Tells whether any moved.
fn descend<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32]) -> bool {
    if F::JOINT {
        return descend_joint::<F>(place, parts, gradient);
    }
    let mut moved = false;
    for first in (0..place.width).step_by(LOOK) {
        let scale = parts.scales.value(F::SCALES, first / F::SUB);
        if scale == 0.0 {
            continue;
        }
        // Columns one after the other: once one has moved, those after it are looked at again.
        let mut left = u32::MAX;
        loop {
            let mut tried = [0.0; LOOK];
            let look = Look {
                levels: array(&parts.levels[first..]),
                gradient: array(&gradient[first..]),
                inverse: array(&place.inverse[first..]),
                scale,
            };
            let wanted = (place.wanted)(&look, &mut tried) & left;
            if wanted == 0 {
                break;
            }
            let number = wanted.trailing_zeros() as usize;
            let (column, level) = (first + number, tried[number]);
            (place.dense.add_scaled)(gradient, -scale * (level - parts.levels[column]), place.row(column));
            parts.levels[column] = level;
            moved = true;
            left = u32::MAX.checked_shl(number as u32 + 1).unwrap_or(0);
        }
    }
    moved
}

/// The first [`LOOK`] numbers.
fn array(of: &[f32]) -> &[f32; LOOK] {
    of.first_chunk().expect("windows are whole sub-blocks")
}

/// Some columns of a sub-block.
struct Look<'a> {
    levels: &'a [f32; LOOK],
    gradient: &'a [f32; LOOK],
    /// Reciprocals of the diagonal.
    inverse: &'a [f32; LOOK],
    scale: f32,
}

/// See [`wanted`].
type Wanted = fn(&Look<'_>, &mut [f32; LOOK]) -> u32;

/// Where each level should be, all others as they are, and a bit for each that lowers the objective by moving there.
#[inline(always)]
fn wanted<F: Form>(look: &Look<'_>, tried: &mut [f32; LOOK]) -> u32 {
    let reciprocal = 1.0 / look.scale;
    let mut gains = [0.0; LOOK];
    for i in 0..LOOK {
        let step = look.gradient[i] * look.inverse[i];
        tried[i] = F::nearest(look.levels[i] + step * reciprocal);
        // The objective falls by `delta * (2 * step - delta)` over the reciprocal of the diagonal, which is positive.
        let delta = look.scale * (tried[i] - look.levels[i]);
        gains[i] = delta * (2.0 * step - delta);
    }
    let mut bits = 0;
    for (i, &gain) in gains.iter().enumerate() {
        bits |= u32::from(gain > 0.0) << i;
    }
    bits
}

/// [`wanted`] as compiled for an instruction set that this machine has.
fn wanted_on<F: Form>(isa: Isa) -> Wanted {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2<F: Form>(look: &Look<'_>, tried: &mut [f32; LOOK]) -> u32 {
        wanted::<F>(look, tried)
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn avx512<F: Form>(look: &Look<'_>, tried: &mut [f32; LOOK]) -> u32 {
        wanted::<F>(look, tried)
    }
    match isa {
        // SAFETY: the instruction set was detected; so below.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => |look, tried| unsafe { avx2::<F>(look, tried) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => |look, tried| unsafe { avx512::<F>(look, tried) },
        _ => wanted::<F>,
    }
}

/// As [`descend`], for levels that are chosen [`GROUP`] at a time.
fn descend_joint<F: Form>(place: &Place<'_>, parts: &mut Parts, gradient: &mut [f32]) -> bool {
    let mut moved = false;
    for first in (0..place.width).step_by(GROUP) {
        let scale = parts.scales.value(F::SCALES, first / F::SUB);
        if scale == 0.0 {
            continue;
        }
        let quad: Quad = std::array::from_fn(|i| std::array::from_fn(|j| place.row(first + i)[first + j]));
        let pull: [f32; GROUP] = std::array::from_fn(|i| gradient[first + i]);
        let own: [f32; GROUP] = std::array::from_fn(|i| parts.levels[first + i]);
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
                parts.levels[first + i] = tried[i];
                (place.dense.add_scaled)(gradient, -delta[i], place.row(first + i));
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
