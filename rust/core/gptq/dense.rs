//! The few dense operations of the solver, in an order of additions that no instruction set changes.
//!
//! Everything here is elementwise over columns, or sums in [`LANES`] partial sums that are added up in a fixed tree, and
//! never fuses a multiplication with an addition. [`Dense`] holds each function as it was compiled for an instruction set;
//! the results are the same with any.

use crate::arch::Isa;

/// Partial sums of a dot product: a virtual width, the same on every machine.
const LANES: usize = 16;

/// Columns that a step of [`add_product`] keeps in registers.
const COLUMNS: usize = 16;

/// Inner indices that a step of [`add_product`] lays out: 16 KB.
const DEPTH: usize = 256;

/// Rows that a step of [`add_product`] keeps in registers.
const ROWS: usize = 4;

/// `y += a * x`.
#[inline(always)]
fn add_scaled(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `sum(x * y)`.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
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
fn add_product(
    y: &mut [f32],
    y_stride: usize,
    y_left: usize,
    x: Matrix<'_>,
    m: Matrix<'_>,
    (top, left): (usize, usize),
    (rows, inner, width): (usize, usize, usize),
) {
    // Rows of `m` lie a power of two apart as often as not, and then displace each other in caches: 16 columns are
    // laid side by side once for all rows of `y`.
    let mut panel = [[0.0f32; COLUMNS]; DEPTH];
    for first in (0..inner).step_by(DEPTH) {
        let panel = &mut panel[..DEPTH.min(inner - first)];
        let whole = width / COLUMNS * COLUMNS;
        for column in (0..whole).step_by(COLUMNS) {
            for (k, terms) in panel.iter_mut().enumerate() {
                terms.copy_from_slice(m.row(top + first + k, left + column, COLUMNS));
            }
            let mut row = 0;
            while row + ROWS <= rows {
                let mut sums = [[0.0f32; COLUMNS]; ROWS];
                for r in 0..ROWS {
                    sums[r].copy_from_slice(&y[(row + r) * y_stride + y_left + column..][..COLUMNS]);
                }
                let factors: [&[f32]; ROWS] = std::array::from_fn(|r| x.row(row + r, first, panel.len()));
                for (k, terms) in panel.iter().enumerate() {
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
                row += ROWS;
            }
            for r in row..rows {
                let out = &mut y[r * y_stride + y_left + column..][..COLUMNS];
                for (terms, &factor) in panel.iter().zip(x.row(r, first, panel.len())) {
                    add_scaled(out, factor, terms);
                }
            }
        }
        if whole < width {
            for r in 0..rows {
                let out = &mut y[r * y_stride + y_left + whole..][..width - whole];
                for (k, &factor) in x.row(r, first, panel.len()).iter().enumerate() {
                    add_scaled(out, factor, m.row(top + first + k, left + whole, width - whole));
                }
            }
        }
    }
}

/// `costs[p] = sum_i q_i * (a_i - m_ip)^2`, with `m` coordinate by coordinate.
#[inline(always)]
fn point_costs(costs: &mut [f32], magnitudes: &[f32], a: &[f32], q: &[f32]) {
    costs.fill(0.0);
    for (i, coordinate) in magnitudes.chunks_exact(costs.len()).enumerate() {
        let (target, weight) = (a[i], q[i]);
        for (cost, &magnitude) in costs.iter_mut().zip(coordinate) {
            let diff = target - magnitude;
            *cost += weight * diff * diff;
        }
    }
}

/// Rows, inner index and columns of a product.
type Extent = (usize, usize, usize);

/// See [`add_product`].
type AddProduct = fn(&mut [f32], usize, usize, Matrix<'_>, Matrix<'_>, (usize, usize), Extent);

/// See [`point_costs`].
type PointCosts = fn(&mut [f32], &[f32], &[f32], &[f32]);

/// The operations as compiled for one instruction set.
pub(crate) struct Dense {
    /// See [`add_scaled`].
    pub(super) add_scaled: fn(&mut [f32], f32, &[f32]),
    /// See [`dot`].
    pub(super) dot: fn(&[f32], &[f32]) -> f32,
    /// See [`add_product`].
    pub(super) add_product: AddProduct,
    /// See [`point_costs`].
    pub(super) point_costs: PointCosts,
}

/// Compiles the operations with features that hold wherever the table is handed out.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ($features:literal) => {{
        #[target_feature(enable = $features)]
        fn scaled(y: &mut [f32], a: f32, x: &[f32]) {
            add_scaled(y, a, x);
        }
        #[target_feature(enable = $features)]
        fn inner(x: &[f32], y: &[f32]) -> f32 {
            dot(x, y)
        }
        #[target_feature(enable = $features)]
        fn product(
            y: &mut [f32],
            stride: usize,
            left: usize,
            x: Matrix<'_>,
            m: Matrix<'_>,
            at: (usize, usize),
            n: Extent,
        ) {
            add_product(y, stride, left, x, m, at, n);
        }
        #[target_feature(enable = $features)]
        fn costs(costs: &mut [f32], magnitudes: &[f32], a: &[f32], q: &[f32]) {
            point_costs(costs, magnitudes, a, q);
        }
        Dense {
            // SAFETY: the table is handed out only where these features were detected; so for the other three.
            add_scaled: |y, a, x| unsafe { scaled(y, a, x) },
            // SAFETY: as above.
            dot: |x, y| unsafe { inner(x, y) },
            // SAFETY: as above.
            add_product: |y, stride, left, x, m, at, n| unsafe { product(y, stride, left, x, m, at, n) },
            // SAFETY: as above.
            point_costs: |c, m, a, q| unsafe { costs(c, m, a, q) },
        }
    }};
}

static PORTABLE: Dense = Dense { add_scaled, dot, add_product, point_costs };
#[cfg(target_arch = "x86_64")]
static AVX2: Dense = compiled!("avx2");
#[cfg(target_arch = "x86_64")]
static AVX512: Dense = compiled!("avx512f,avx512bw,avx512dq,avx512vl");

impl Dense {
    /// The operations for an instruction set that this machine has.
    pub(super) fn of(isa: Isa) -> &'static Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            _ => &PORTABLE,
        }
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
