//! Levels of a window, one position (or one group) after the other, each making up for the errors before it.

use super::factor::{GROUP, Window};
use super::form::{Form, Parts, Quad};
use super::improve::Place;
use crate::linalg::{MAX_TILE, Sums};
use crate::matmul::wide::LANES;

/// Adds to the sums of a panel's later positions what a number gives them, by its row of `U`, which is zero up to itself.
#[inline(always)]
pub(super) fn add_later(sums: &mut [f32; LANES], number: f32, row: &[f32; LANES]) {
    for (sum, &factor) in sums.iter_mut().zip(row) {
        *sum += number * factor;
    }
}

/// Chooses levels position by position, each making up for the errors before it, in as many rows as a tile has at most.
/// `residuals` gets targets less stored values, by column.
pub(super) fn solve_levels<F: Form>(
    place: &Place<'_>,
    window: &Window,
    parts: &mut [Parts],
    targets: &[f32],
    residuals: &mut [f32],
    pivots: &[f32],
) {
    let (width, tiles) = (window.width, place.tiles);
    let height = tiles.height;
    // Residuals so far, row beside row, as products want them.
    let mut side = vec![0.0; height * width];
    let mut quad: Quad = [[0.0; GROUP]; GROUP];
    for first in (0..width).step_by(LANES) {
        let mut sums: Sums = [[0.0; LANES]; MAX_TILE];
        let upper = window.spread.panel(first / LANES);
        tiles.sum_up(&side[..first * height], &upper[..first], &mut sums);
        for i in 0..LANES {
            let position = first + i;
            let column = window.columns[position];
            if F::JOINT && i % GROUP == 0 {
                quad = group_form(window, position, pivots);
            }
            // Rows side by side, so that one does not wait for what it has just computed.
            for (row, (parts, carried)) in parts.iter_mut().zip(&mut sums).enumerate() {
                let targets = &targets[row * width + position..];
                if F::JOINT && i % GROUP == 0 {
                    choose_group::<F>(place, window, parts, position, targets, &carried[i..], &quad);
                }
                let scale = parts.scales.value(F::SCALES, column / F::SUB);
                let min = parts.mins.value(F::MINS, column / F::SUB);
                if !F::JOINT && scale != 0.0 {
                    parts.levels[column] = F::nearest((targets[0] + carried[i] + min) / scale);
                }
                let residual = targets[0] - (scale * parts.levels[column] - min);
                residuals[row * width + column] = residual;
                side[position * height + row] = residual;
                add_later(carried, residual, &upper[position]);
            }
        }
    }
}

/// `U` of a group, one on its diagonal.
fn unit(window: &Window, start: usize, i: usize, j: usize) -> f32 {
    match i.cmp(&j) {
        std::cmp::Ordering::Less => window.spread.panel(start / LANES)[start + i][start % LANES + j],
        std::cmp::Ordering::Equal => 1.0,
        std::cmp::Ordering::Greater => 0.0,
    }
}

/// The quadratic form of the [`GROUP`] positions from `start` on, with all later ones free: `U diag(D) U^T`.
fn group_form(window: &Window, start: usize, pivots: &[f32]) -> Quad {
    let mut quad: Quad = [[0.0; GROUP]; GROUP];
    for i in 0..GROUP {
        for j in 0..GROUP {
            for k in i.max(j)..GROUP {
                quad[i][j] += unit(window, start, i, k) * unit(window, start, j, k) * pivots[start + k];
            }
        }
    }
    quad
}

/// Chooses the levels of [`GROUP`] positions together, given what the residuals before them carry into them.
fn choose_group<F: Form>(
    place: &Place<'_>,
    window: &Window,
    parts: &mut Parts,
    start: usize,
    targets: &[f32],
    carried: &[f32],
    quad: &Quad,
) {
    let column = window.columns[start];
    let scale = parts.scales.value(F::SCALES, column / F::SUB);
    if scale == 0.0 {
        return;
    }
    // The shift is delta with U^T delta = carried, as for windows.
    let mut delta = [0.0; GROUP];
    for i in 0..GROUP {
        delta[i] = carried[i];
        for k in 0..i {
            delta[i] -= unit(window, start, k, i) * delta[k];
        }
    }
    let y = std::array::from_fn(|i| (targets[i] + delta[i]) / scale);
    parts.levels[column..column + GROUP].copy_from_slice(&F::choose(place.dense, &y, quad));
}
