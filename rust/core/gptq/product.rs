//! Products of a few rows with a matrix, laid out for [`Tiles`]: rows side by side, and columns side by side.
//!
//! A matrix is laid out once for all rows that are multiplied with it. What a product adds to a result is one sum of its own, so
//! that neither the height of a tile nor the number of rows beside it matters.

use crate::linalg::{MAX_TILE, Sums, Tiles};
use crate::matmul::wide::LANES;

/// Columns of a matrix, [`LANES`] side by side in a panel, row by row; the last panel is filled up with zeros.
pub(super) struct Panels {
    data: Vec<[f32; LANES]>,
    depth: usize,
    width: usize,
}

impl Panels {
    /// Lays out `depth` rows and `width` columns of `at(row, column)`.
    pub(super) fn new(depth: usize, width: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut data = vec![[0.0; LANES]; width.div_ceil(LANES) * depth];
        for (first, panel) in (0..width).step_by(LANES).zip(data.chunks_exact_mut(depth)) {
            for column in first..width.min(first + LANES) {
                for (row, to) in panel.iter_mut().enumerate() {
                    to[column - first] = at(row, column);
                }
            }
        }
        Self { data, depth, width }
    }

    /// All rows of a panel.
    pub(super) fn panel(&self, number: usize) -> &[[f32; LANES]] {
        &self.data[number * self.depth..][..self.depth]
    }
}

/// Rows of a product's left factor, as many side by side as a tile is high; what fills the last does not matter.
#[derive(Default)]
pub(super) struct Sides {
    data: Vec<f32>,
    depth: usize,
}

impl Sides {
    /// Lays out rows of `depth`.
    pub(super) fn lay_out(&mut self, tiles: Tiles, from: &[f32], depth: usize) {
        let (height, rows) = (tiles.height, from.len() / depth);
        self.depth = depth;
        self.data.resize(rows.next_multiple_of(height) * depth, 0.0);
        for (row, values) in from.chunks_exact(depth).enumerate() {
            let group = &mut self.data[row / height * height * depth..][..height * depth];
            for (to, &value) in group.chunks_exact_mut(height).zip(values) {
                to[row % height] = value;
            }
        }
    }
}

/// Part of the rows of [`Panels`], and part of its columns: whole panels, but for the last.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// First row; there are as many as the left factor is deep.
    pub(super) top: usize,
    /// First column, a multiple of [`LANES`].
    pub(super) left: usize,
}

/// `y += x * m` for rows of `width`, with `m` what lies in `panels` from `part` on.
pub(super) fn add_product(tiles: Tiles, y: &mut [f32], width: usize, x: &Sides, panels: &Panels, part: Part) {
    let mut sums: Sums = [[0.0; LANES]; MAX_TILE];
    for column in (0..width.min(panels.width - part.left)).step_by(LANES) {
        let panel = &panels.panel((part.left + column) / LANES)[part.top..][..x.depth];
        let rows = y.chunks_mut(tiles.height * width);
        for (left, rows) in x.data.chunks_exact(tiles.height * x.depth).zip(rows) {
            tiles.sum_up(left, panel, &mut sums);
            for (row, sums) in rows.chunks_exact_mut(width).zip(&sums) {
                for (to, &sum) in row[column..].iter_mut().zip(sums) {
                    *to += sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Isa;

    #[test]
    fn products_are_those_of_the_definition() {
        // Small integers, so that every sum is exact whatever its order.
        let value = |i: usize| ((i * 7919 + 13) % 17) as f32 - 8.0;
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
            for (rows, inner, width) in [(1, 3, 5), (4, 16, 16), (13, 9, 35), (9, 33, 48)] {
                let (top, left) = (2, LANES);
                let m = |k: usize, c: usize| value(k * 101 + c);
                let panels = Panels::new(top + inner + 1, left + width, m);
                let x: Vec<f32> = (0..rows * inner).map(|i| value(i + 5)).collect();
                let mut y: Vec<f32> = (0..rows * width).map(|i| value(i + 9)).collect();
                let mut expected = y.clone();
                for r in 0..rows {
                    for c in 0..width {
                        for k in 0..inner {
                            expected[r * width + c] += x[r * inner + k] * m(top + k, left + c);
                        }
                    }
                }
                let (tiles, mut sides) = (Tiles::of(isa), Sides::default());
                sides.lay_out(tiles, &x, inner);
                add_product(tiles, &mut y, width, &sides, &panels, Part { top, left });
                assert_eq!(y, expected);
            }
        }
    }
}
