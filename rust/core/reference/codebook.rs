//! The search shared by the formats that store magnitudes as codebook points: `IQ2_XXS`, `IQ2_XS`, `IQ2_S`, `IQ3_XXS`
//! and `IQ3_S`.
//!
//! A sub-block of 16 or 32 weights is stored as `scale * sign * (2 * level + 1)`. Signs are taken out first; then a row
//! of candidate scales is tried, each rounding the magnitudes to levels and moving the vectors that are not in the
//! codebook to their best neighbour; the scale is refitted by weighted least squares for each, and the best one kept.

use super::grid::{Grid, Place};
use super::rounding::nearest_int;

/// Codebook vectors in a sub-block, at most: 32 weights in vectors of 4.
const MAX_VECTORS: usize = 8;

/// The larger of two, the second if either is NaN or both are zero.
#[inline]
pub fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Which sign patterns of 8 weights a format can store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signs {
    /// All 256.
    Any,
    /// Those with an even number of minus signs, so that 7 bits suffice.
    Even,
}

/// A sub-block ready for the search.
#[derive(Debug, Clone)]
pub struct SubBlock<const W: usize> {
    /// Magnitudes. With [`Signs::Even`] one of each 8 may be negative.
    pub x: [f32; W],
    /// Importance of each weight.
    pub weight: [f32; W],
    /// Square roots of `weight`: what distances to neighbours are weighted with.
    root: [f32; W],
    /// A set bit is a minus sign.
    signs: [u8; 4],
    allowed: Signs,
}

impl<const W: usize> SubBlock<W> {
    /// Takes the signs out of `x`.
    ///
    /// Where the number of minus signs must be even and is not, the weight that costs least (importance times square,
    /// first one on ties) gets the wrong sign, and its magnitude is kept as a negative number.
    pub fn new(x: &[f32; W], weight: [f32; W], allowed: Signs) -> Self {
        let mut block = Self { x: [0.0; W], weight, root: weight.map(f32::sqrt), signs: [0; 4], allowed };
        for k in 0..W / 8 {
            let mut signs = 0u8;
            for i in 0..8 {
                let value = x[8 * k + i];
                if value >= 0.0 {
                    block.x[8 * k + i] = value;
                } else {
                    block.x[8 * k + i] = -value;
                    signs |= 1 << i;
                }
            }
            if allowed == Signs::Even && signs.count_ones() % 2 == 1 {
                let cost = |i: usize| weight[8 * k + i] * x[8 * k + i] * x[8 * k + i];
                let mut cheapest = 0;
                let mut least = cost(0);
                for i in 1..8 {
                    if cost(i) < least {
                        least = cost(i);
                        cheapest = i;
                    }
                }
                block.x[8 * k + cheapest] = -block.x[8 * k + cheapest];
                signs ^= 1 << cheapest;
            }
            block.signs[k] = signs;
        }
        block
    }

    /// The largest magnitude.
    pub fn max(&self) -> f32 {
        self.x[1..].iter().fold(self.x[0], |largest, &v| max(largest, v))
    }

    /// Signs of the 8 weights from `8 * k`, as stored: 8 bits, or the low 7 of them if the last one follows from parity.
    pub fn signs(&self, k: usize) -> u8 {
        match self.allowed {
            Signs::Any => self.signs[k],
            Signs::Even => self.signs[k] & 127,
        }
    }
}

/// What a search found for a sub-block.
#[derive(Debug, Clone)]
pub struct Fit {
    /// Value of a level's unit; not negative once [`Search::settle`] has run.
    pub scale: f32,
    /// Codebook index of each vector.
    pub points: [u16; MAX_VECTORS],
    /// Whether rounding alone led to the point.
    on_grid: [bool; MAX_VECTORS],
}

/// Which vectors are looked up again under the final scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revisit {
    /// All of them.
    Always,
    /// All of them, if one was off the grid.
    AllIfAnyOffGrid,
    /// Those off the grid.
    OffGrid,
}

/// The candidates and the codebook of a format.
pub struct Search<'g, const N: usize> {
    /// The codebook.
    pub grid: &'g Grid<N>,
    /// Candidates run from `-reach` to `reach`.
    pub reach: i32,
    /// Candidate `i` makes the largest magnitude `2 * max_level + 1 + i * step` units.
    pub step: f32,
    /// What happens under the final scale.
    pub revisit: Revisit,
}

impl<const N: usize> Search<'_, N> {
    /// Finds scale and points. `width` is the magnitude that candidates map to the largest level; `scale` is kept if no
    /// candidate improves on nothing, which leaves all points at index 0.
    ///
    /// `None` if arithmetic overflowed so far that there is no scale; callers then store the sub-block as zeros.
    pub fn run<const W: usize>(&self, block: &mut SubBlock<W>, width: f32, scale: f32) -> Option<Fit> {
        let on_grid = [self.revisit == Revisit::OffGrid; MAX_VECTORS];
        let mut fit = Fit { scale, points: [0; MAX_VECTORS], on_grid };
        let top = f32::from(2 * self.grid.max_level() + 1);
        let mut best = 0.0;
        for i in -self.reach..=self.reach {
            let inverse = (top + i as f32 * self.step) / width;
            let mut points = [0; MAX_VECTORS];
            let mut on_grid = [false; MAX_VECTORS];
            for k in 0..W / N {
                (points[k], on_grid[k]) = self.snap(block, k, inverse, 1.0 / inverse);
            }
            let (sumqx, sumq2) = self.sums(block, &points);
            if sumq2 > 0.0 && sumqx * sumqx > best * sumq2 {
                fit = Fit { scale: sumqx / sumq2, points, on_grid };
                best = fit.scale * sumqx;
            }
        }
        self.settle(block, fit)
    }

    /// Looks vectors up again under the scale found, refits it, and makes it non-negative by turning all signs round.
    fn settle<const W: usize>(&self, block: &mut SubBlock<W>, mut fit: Fit) -> Option<Fit> {
        let any_off_grid = fit.on_grid[..W / N].contains(&false);
        if fit.scale > 0.0 && (any_off_grid || self.revisit == Revisit::Always) {
            let inverse = 1.0 / fit.scale;
            for k in 0..W / N {
                if self.revisit != Revisit::OffGrid || !fit.on_grid[k] {
                    fit.points[k] = self.snap(block, k, inverse, fit.scale).0;
                }
            }
            let (sumqx, sumq2) = self.sums(block, &fit.points);
            if sumq2 > 0.0 {
                fit.scale = sumqx / sumq2;
            }
        }
        if fit.scale < 0.0 {
            fit.scale = -fit.scale;
            block.signs = block.signs.map(|s| !s);
        }
        (!fit.scale.is_nan()).then_some(fit)
    }

    /// Rounds vector `k` and finds its point; the flag tells whether rounding alone led there.
    fn snap<const W: usize>(&self, block: &SubBlock<W>, k: usize, inverse: f32, scale: f32) -> (u16, bool) {
        let x = &block.x[N * k..][..N];
        let top = i32::from(self.grid.max_level());
        let levels: [u8; N] = std::array::from_fn(|i| nearest_int(0.5 * (inverse * x[i] - 1.0)).clamp(0, top) as u8);
        match self.grid.place(&levels) {
            Place::OnGrid(point) => (point, true),
            Place::Near(list) => (self.best_neighbour(list, x, &block.root[N * k..][..N], scale), false),
        }
    }

    /// The neighbour with the smallest weighted distance to `x`, the first one on ties; the first of the list if every
    /// distance overflows.
    fn best_neighbour(&self, list: &[u16], x: &[f32], weight: &[f32], scale: f32) -> u16 {
        let mut best = list[0];
        let mut least = f32::MAX;
        for &candidate in list {
            let point = self.grid.point(candidate);
            let mut distance = 0.0;
            for i in 0..N {
                let diff = scale * f32::from(2 * point[i] + 1) - x[i];
                distance += weight[i] * diff * diff;
            }
            if distance < least {
                least = distance;
                best = candidate;
            }
        }
        best
    }

    /// `sum(w * x * q)` and `sum(w * q * q)`, whose quotient is the least-squares scale.
    fn sums<const W: usize>(&self, block: &SubBlock<W>, points: &[u16; MAX_VECTORS]) -> (f32, f32) {
        let mut sumqx = 0.0;
        let mut sumq2 = 0.0;
        for k in 0..W / N {
            let point = self.grid.point(points[k]);
            for i in 0..N {
                let w = block.weight[N * k + i];
                let q = f32::from(2 * point[i] + 1);
                sumqx += w * block.x[N * k + i] * q;
                sumq2 += w * q * q;
            }
        }
        (sumqx, sumq2)
    }
}

/// Codes of sub-block scales, which are stored as odd multiples `2 * code + 1` of `d`.
pub fn scale_codes<const M: usize>(scales: &[f32; M], d: f32, max_code: i32) -> [u8; M] {
    let inverse = 1.0 / d;
    scales.map(|scale| nearest_int(0.5 * (inverse * scale - 1.0)).clamp(0, max_code) as u8)
}
