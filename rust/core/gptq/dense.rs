//! The few dense operations of the solver, in an order of additions that no instruction set changes.
//!
//! Everything here is elementwise over columns, or sums in [`LANES`] partial sums that are added up in a fixed tree, and
//! never fuses a multiplication with an addition. The functions are `#[inline(always)]`, so that they are compiled for the
//! instruction set of the shim they end up in; the results are the same with any.

/// Partial sums of a dot product: a virtual width, the same on every machine.
pub(super) const LANES: usize = 16;

/// Columns that a step of [`add_product`] keeps in registers.
const COLUMNS: usize = 16;

/// Rows that a step of [`add_product`] keeps in registers.
const ROWS: usize = 4;

/// `y += a * x`.
#[inline(always)]
pub(super) fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `sum(x * y)`.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            sums[i] += x[i] * y[i];
        }
    }
    for (i, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        sums[i] += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// A matrix in memory: the elements, and how many lie between the starts of two rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> Matrix<'a> {
    /// `len` elements of row `row` from column `first` on.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, first: usize, len: usize) -> &'a [f32] {
        &self.data[row * self.stride + first..][..len]
    }
}

/// `y += x * m` for `rows` rows: `x` has `inner` columns, `m` has `inner` rows from `(top, left)` on, `y` has `width` columns
/// from `y_left` on. Each element of `y` adds its terms in the order of the inner index.
#[inline(always)]
pub(super) fn add_product(
    y: &mut [f32],
    y_stride: usize,
    y_left: usize,
    x: Matrix<'_>,
    m: Matrix<'_>,
    (top, left): (usize, usize),
    (rows, inner, width): (usize, usize, usize),
) {
    let mut row = 0;
    while row < rows {
        let here = (rows - row).min(ROWS);
        let mut column = 0;
        while column + COLUMNS <= width && here == ROWS {
            let mut sums = [[0.0f32; COLUMNS]; ROWS];
            for r in 0..ROWS {
                sums[r].copy_from_slice(&y[(row + r) * y_stride + y_left + column..][..COLUMNS]);
            }
            let factors: [&[f32]; ROWS] = std::array::from_fn(|r| x.row(row + r, 0, inner));
            for k in 0..inner {
                let terms: &[f32; COLUMNS] =
                    m.data[(top + k) * m.stride + left + column..].first_chunk().expect("whole");
                for r in 0..ROWS {
                    let factor = factors[r][k];
                    for c in 0..COLUMNS {
                        sums[r][c] += factor * terms[c];
                    }
                }
            }
            for r in 0..ROWS {
                y[(row + r) * y_stride + y_left + column..][..COLUMNS].copy_from_slice(&sums[r]);
            }
            column += COLUMNS;
        }
        if column < width {
            for r in row..row + here {
                let out = &mut y[r * y_stride + y_left + column..][..width - column];
                for k in 0..inner {
                    add_scaled(out, x.row(r, 0, inner)[k], m.row(top + k, left + column, width - column));
                }
            }
        }
        row += here;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_definition() {
        // Small integers, so that every sum is exact whatever its order.
        let value = |i: usize| ((i * 7919 + 13) % 17) as f32 - 8.0;
        for (rows, inner, width) in [(1, 3, 5), (4, 16, 16), (5, 9, 35), (9, 33, 48)] {
            let (top, left, y_left) = (2, 3, 1);
            let (x_stride, m_stride, y_stride) = (inner + 2, left + width + 4, y_left + width + 2);
            let x: Vec<f32> = (0..rows * x_stride).map(value).collect();
            let m: Vec<f32> = (0..(top + inner) * m_stride).map(|i| value(i + 5)).collect();
            let mut y: Vec<f32> = (0..rows * y_stride).map(|i| value(i + 9)).collect();
            let mut expected = y.clone();
            for r in 0..rows {
                for c in 0..width {
                    for k in 0..inner {
                        expected[r * y_stride + y_left + c] += x[r * x_stride + k] * m[(top + k) * m_stride + left + c];
                    }
                }
            }
            let (x, m) = (Matrix { data: &x, stride: x_stride }, Matrix { data: &m, stride: m_stride });
            add_product(&mut y, y_stride, y_left, x, m, (top, left), (rows, inner, width));
            assert_eq!(y, expected);
        }
    }

    #[test]
    fn dot_takes_every_element_once() {
        for len in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32 - 3.0).collect();
            let y: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let expected: f32 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            assert_eq!(dot(&x, &y), expected);
        }
    }
}
