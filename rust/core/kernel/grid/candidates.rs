//! The candidates of a codebook search, for a tile of octets: 8 weights a lane.
//!
//! With rising candidates the levels of a vector change a few times only, so that a vector is looked up once for each *run*
//! of candidates with equal levels. Within a run the list of neighbours is the same, and only the scale changes.
//!
//! If one point is the nearest at both ends of a stretch of scales, it is so in between: `(s * q - x)^2`, summed with
//! weights, is `s^2 * A - 2 * s * B + C`, so that the difference between two points' distances, divided by `s`, is linear in
//! `s`, and what is positive at both ends is positive between them. Distances are not computed exactly: with
//! `S = sum(root * (top * s + |x|)^2)` and `u = 2^-24` each is off by at most `14 * u * S`. Scales of one search differ by less
//! than a factor of 1.5, so a lead of `5 * 14 * u * S < 2^-17 * S` at both ends leaves one of more than the two errors in
//! between. Where the lead is smaller, or so small that underflow matters, the stretch is halved.

use super::nearest::{Choice, Distances, nearest};
use super::{List, Neighbours, Spot, extend_key, odd_numbers};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, ROUNDER, head};

/// Candidates of a search, at most.
pub(crate) const MAX_CANDIDATES: usize = 31;
/// Room for one word a candidate, written by whole vectors.
const WORDS: usize = 48;
/// Margins below this prove nothing.
const LEAST_MARGIN: f32 = 1e-30;

/// Points of the vectors of a tile under each candidate.
pub(crate) struct Points {
    /// Words by vector and candidate.
    pub(crate) words: [[i32; WORDS]; 2 * MAX_LANES],
    /// Candidates, as bits, for which rounding alone led to the point.
    pub(crate) on_grid: [u32; 2 * MAX_LANES],
    /// Candidates, as bits, from which on the word may be another one, or on the grid where the one before was not.
    pub(crate) changes: [u32; 2 * MAX_LANES],
}

impl Points {
    /// Room for the points of a tile.
    pub(crate) fn new() -> Self {
        Self { words: [[0; WORDS]; 2 * MAX_LANES], on_grid: [0; 2 * MAX_LANES], changes: [0; 2 * MAX_LANES] }
    }
}

/// The octets of a tile.
pub(crate) struct Octets<'a, F> {
    /// Magnitudes and square roots of importances, one octet a lane.
    pub(crate) columns: [F; 8],
    pub(crate) roots: [F; 8],
    /// The same, octet after octet.
    pub(crate) x: &'a [f32],
    pub(crate) root: &'a [f32],
    /// The magnitude that candidates map to the largest level.
    pub(crate) width: F,
    /// Octets that are not searched, as bits.
    pub(crate) skipped: u32,
}

/// Finds the points of all vectors of a tile, vector `h` of octet `lane` at `lane * 8 / N + h`.
///
/// `tops` are the numerators of the candidates, in ascending order. No quotient times a magnitude exceeds 2^21, and no
/// distance overflows.
#[inline(always)]
pub(crate) fn find<F: F32Lanes, const N: usize>(
    neighbours: &Neighbours<N>,
    octets: &Octets<'_, F>,
    tops: &[f32],
    top: f32,
    distances: &mut Distances,
    points: &mut Points,
) {
    let values = odd_numbers::<F, N>();
    let mut keys = [[[0i32; MAX_LANES]; 2]; MAX_CANDIDATES];
    let mut scales = [[0f32; MAX_LANES]; MAX_CANDIDATES];
    let mut starts = [[0i32; MAX_LANES]; 2];
    let mut margins = [[0f32; MAX_LANES]; 2];
    round::<F, N>(octets, tops, (top - 1.0) * 0.5, &mut keys, &mut scales, &mut starts);
    let widest = F::load(&scales[0]) * F::splat(top);
    for h in 0..8 / N {
        let mut sum = F::splat(0.0);
        for i in N * h..N * (h + 1) {
            let reach = widest + octets.columns[i].abs();
            sum = sum + octets.roots[i] * reach * reach;
        }
        let margin = sum * F::splat(1.0 / 131_072.0);
        let weak = margin.lt(F::splat(LEAST_MARGIN));
        F::select(weak, F::splat(f32::INFINITY), margin).store(&mut margins[h]);
    }
    for lane in 0..F::LEN {
        if octets.skipped >> lane & 1 == 1 {
            continue;
        }
        for h in 0..8 / N {
            let vector = lane * (8 / N) + h;
            let (words, mut on_grid, mut changes) = (&mut points.words[vector], 0u32, 0u32);
            let mut left = starts[h][lane] as u32;
            while left != 0 {
                let from = left.trailing_zeros() as usize;
                left &= left - 1;
                let to = if left == 0 { tops.len() } else { left.trailing_zeros() as usize };
                changes |= 1 << from;
                match neighbours.spot(keys[from][h][lane] as usize) {
                    Spot::OnGrid(word) => {
                        on_grid |= (1 << to) - (1 << from);
                        fill::<F>(words, from, to, word);
                    }
                    Spot::Near(list) => {
                        let at = 8 * lane + N * h;
                        let (x, root): (&[f32; N], &[f32; N]) = (head(&octets.x[at..]), head(&octets.root[at..]));
                        let run = Run { list, x, root, margin: margins[h][lane], lane, from, to };
                        changes |= resolve(&run, &scales, values, distances, words);
                    }
                }
            }
            points.on_grid[vector] = on_grid;
            points.changes[vector] = changes;
        }
    }
}

/// Keys and scales of all candidates, and for each vector, as bits, the candidates at which its key changes.
#[inline(always)]
fn round<F: F32Lanes, const N: usize>(
    octets: &Octets<'_, F>,
    tops: &[f32],
    max_level: f32,
    keys: &mut [[[i32; MAX_LANES]; 2]; MAX_CANDIDATES],
    scales: &mut [[f32; MAX_LANES]; MAX_CANDIDATES],
    starts: &mut [[i32; MAX_LANES]; 2],
) {
    let (half, lowest, highest) = (F::splat(0.5), F::splat(ROUNDER), F::splat(ROUNDER + max_level));
    // Half the product rounds as the product does, so that halving comes first.
    let mut halves = octets.columns;
    for i in 0..8 {
        halves[i] = half * octets.columns[i];
    }
    let mut last = [F::splat(-1.0); 2];
    let mut changed = [F::Int::splat(0); 2];
    for (c, &top) in tops.iter().enumerate() {
        let inverse = F::splat(top) / octets.width;
        (F::splat(1.0) / inverse).store(&mut scales[c]);
        for h in 0..8 / N {
            let mut key = F::splat(0.0);
            for i in (N * h..N * (h + 1)).rev() {
                let rounded = (inverse * halves[i] - half) + lowest;
                let level = rounded.greater(lowest).lesser(highest) - lowest;
                key = extend_key::<F, N>(key, level);
            }
            let same = key.eq(last[h]);
            changed[h] = changed[h] | F::Int::select(same, F::Int::splat(0), F::Int::splat(1 << c));
            last[h] = key;
            key.nearest_int().store(&mut keys[c][h]);
        }
    }
    for h in 0..8 / N {
        changed[h].store(&mut starts[h]);
    }
}

/// Writes one word for candidates `from..to`, and something else behind them.
#[inline(always)]
fn fill<F: F32Lanes>(words: &mut [i32; WORDS], from: usize, to: usize, word: u16) {
    for at in (from..to).step_by(F::LEN) {
        F::Int::splat(i32::from(word)).store(&mut words[at..]);
    }
}

/// Candidates `from..to` with equal levels, off the grid.
struct Run<'a, const N: usize> {
    list: List<'a>,
    x: &'a [f32; N],
    root: &'a [f32; N],
    margin: f32,
    lane: usize,
    from: usize,
    to: usize,
}

/// Finds the points of a run, from the outside in. Returns, as bits, the candidates whose point differs from the one before.
#[inline(always)]
fn resolve<F: F32Lanes, const N: usize>(
    run: &Run<'_, N>,
    scales: &[[f32; MAX_LANES]; MAX_CANDIDATES],
    values: F,
    distances: &mut Distances,
    words: &mut [i32; WORDS],
) -> u32 {
    let &Run { list, x, root, margin, lane, from, to } = run;
    let mut left: Choice = nearest(list, x, root, scales[from][lane], values, margin, distances);
    fill::<F>(words, from, to, left.word);
    if from + 1 == to {
        return 0;
    }
    let mut at = from;
    let mut changes = 0;
    // Stretches are halved at most five times.
    let mut ends = [(to - 1, nearest(list, x, root, scales[to - 1][lane], values, margin, distances)); 6];
    let mut depth = 0;
    loop {
        let (end, right) = ends[depth];
        let agreed = left.clear && right.clear && left.word == right.word;
        if !agreed && at + 1 < end {
            let middle = (at + end) / 2;
            depth += 1;
            ends[depth] = (middle, nearest(list, x, root, scales[middle][lane], values, margin, distances));
            continue;
        }
        if left.word != right.word {
            fill::<F>(words, end, to, right.word);
            changes |= 1 << end;
        }
        if depth == 0 {
            return changes;
        }
        depth -= 1;
        (at, left) = (end, right);
    }
}
