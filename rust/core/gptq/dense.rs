//! The few dense operations of the solver, in an order of additions that no instruction set changes.
//!
//! Everything here is elementwise over columns, or sums in [`LANES`] partial sums that are added up in a fixed tree, and
//! never fuses a multiplication with an addition. [`Dense`] holds each function as it was compiled for an instruction set;
//! the results are the same with any.

use crate::arch::Isa;

/// Partial sums of a dot product: a virtual width, the same on every machine.
const LANES: usize = 16;

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

/// See [`point_costs`].
type PointCosts = fn(&mut [f32], &[f32], &[f32], &[f32]);

/// The operations as compiled for one instruction set.
pub(crate) struct Dense {
    /// See [`add_scaled`].
    pub(super) add_scaled: fn(&mut [f32], f32, &[f32]),
    /// See [`dot`].
    pub(super) dot: fn(&[f32], &[f32]) -> f32,
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
        fn costs(costs: &mut [f32], magnitudes: &[f32], a: &[f32], q: &[f32]) {
            point_costs(costs, magnitudes, a, q);
        }
        Dense {
            // SAFETY: the table is handed out only where these features were detected; so for the other two.
            add_scaled: |y, a, x| unsafe { scaled(y, a, x) },
            // SAFETY: as above.
            dot: |x, y| unsafe { inner(x, y) },
            // SAFETY: as above.
            point_costs: |c, m, a, q| unsafe { costs(c, m, a, q) },
        }
    }};
}

static PORTABLE: Dense = Dense { add_scaled, dot, point_costs };
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
    fn dot_takes_every_element_once() {
        for len in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32 - 3.0).collect();
            let y: Vec<f32> = (0..len).map(|i| (i % 5) as f32).collect();
            let expected: f32 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            assert_eq!(dot(&x, &y), expected);
        }
    }
}
