//! The search of the formats with levels -1, 0, 1 and a shift by an eighth: `IQ1_S` and `IQ1_M`.
//!
//! With three levels the best unconstrained assignment can be found exactly: sorted by value, the weights split into
//! three runs. All pairs of boundaries are scored through prefix sums, for either shift; then the vectors that are not in
//! the codebook move to their best neighbour.

use super::grid::{Grid, Place};

/// Values of the three levels shifted up.
pub const UP: [f32; 3] = [-0.875, 0.125, 1.125];
/// Values of the three levels shifted down.
pub const DOWN: [f32; 3] = [-1.125, -0.125, 0.875];

/// Positions of `x` in ascending order of value; equal values (the two zeros included) stay in order of position.
pub fn ascending<const W: usize>(x: &[f32; W]) -> [u8; W] {
    let mut order: [u8; W] = std::array::from_fn(|i| i as u8);
    // Weights are finite, so every pair compares.
    order.sort_by(|&a, &b| x[usize::from(a)].partial_cmp(&x[usize::from(b)]).unwrap_or(std::cmp::Ordering::Equal));
    order
}

/// A split of the sorted weights into three runs, the scale that fits it, and the shift (for `IQ1_M`, shifts of both
/// halves) it was scored with.
#[derive(Debug, Clone, Copy)]
pub struct Split<S> {
    /// Weights before this position of the sorted order have level 0.
    pub first: usize,
    /// Weights from `first` to before this one have level 1, the rest level 2.
    pub second: usize,
    /// Least-squares scale; negative if the levels are the wrong way round.
    pub scale: f32,
    /// The shift.
    pub shift: S,
}

/// Keeps the best split seen.
pub struct BestSplit<S> {
    score: f32,
    best: Option<Split<S>>,
}

impl<S> Default for BestSplit<S> {
    /// Nothing seen yet.
    fn default() -> Self {
        Self { score: -f32::MAX, best: None }
    }
}

impl<S> BestSplit<S> {
    /// Offers a split; it must beat what was kept, so that the first one wins on ties.
    #[inline]
    pub fn offer(&mut self, first: usize, second: usize, shift: S, sumqx: f32, sumq2: f32) {
        if sumq2 > 0.0 && sumqx * sumqx > self.score * sumq2 {
            let scale = sumqx / sumq2;
            self.score = scale * sumqx;
            self.best = Some(Split { first, second, scale, shift });
        }
    }

    /// The best split, if any had a positive denominator.
    pub fn finish(self) -> Option<Split<S>> {
        self.best
    }
}

impl<S> Split<S> {
    /// Level of each weight, turned round if the scale is negative.
    pub fn levels<const W: usize>(&self, order: &[u8; W]) -> [u8; W] {
        let mut levels = [0; W];
        for (position, &i) in order.iter().enumerate() {
            let level = u8::from(position >= self.first) + u8::from(position >= self.second);
            levels[usize::from(i)] = if self.scale < 0.0 { 2 - level } else { level };
        }
        levels
    }
}

/// Finds the codebook point for 8 levels; the flag tells whether they are one.
///
/// `row` is the rest of the row from the first of the 8 weights on, `values` what the levels are worth.
pub fn snap(
    grid: &Grid<8>,
    levels: &[u8; 8],
    row: &[f32],
    weight: &[f32; 8],
    scale: f32,
    values: &[f32; 3],
) -> (u16, bool) {
    match grid.place(levels) {
        Place::OnGrid(point) => (point, true),
        Place::Near(list) => (best_neighbour(grid, list, row, weight, scale, values), false),
    }
}

/// The neighbour with the smallest weighted distance, the first one on ties.
///
/// If all those distances overflow, every point of the codebook is tried, and here the definition is odd: point `i` is
/// measured against weight `i` of the rest of the row in all its coordinates. (The reference reads on past the end of
/// the row; this stops there.) If those overflow too it is the first neighbour, where the reference gives up.
fn best_neighbour(grid: &Grid<8>, list: &[u16], row: &[f32], weight: &[f32; 8], scale: f32, values: &[f32; 3]) -> u16 {
    let distance = |candidate: u16, x: &[f32]| {
        let point = grid.point(candidate);
        let mut sum = 0.0;
        for i in 0..8 {
            let diff = scale * values[usize::from(point[i])] - x[i];
            sum += weight[i] * diff * diff;
        }
        sum
    };
    let mut best = None;
    let mut least = f32::MAX;
    for &candidate in list {
        let d = distance(candidate, row);
        if d < least {
            least = d;
            best = Some(candidate);
        }
    }
    if best.is_none() {
        for (candidate, &x) in grid.indices().zip(row) {
            let d = distance(candidate, &[x; 8]);
            if d < least {
                least = d;
                best = Some(candidate);
            }
        }
    }
    best.unwrap_or(list[0])
}

/// Adds `sum(w * q * x)` and `sum(w * q * q)` of one codebook point to two running sums.
pub fn add_sums(point: &[u8; 8], x: &[f32; 8], weight: &[f32; 8], value: impl Fn(u8) -> f32, sums: &mut (f32, f32)) {
    for i in 0..8 {
        let q = value(point[i]);
        sums.0 += weight[i] * q * x[i];
        sums.1 += weight[i] * q * q;
    }
}
