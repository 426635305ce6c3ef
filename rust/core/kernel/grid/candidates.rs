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

use super::nearest::{Choice, Target, nearest, nearest_of_few};
use super::{Neighbours, Slot, bits, extend_key, odd_numbers};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, ROUNDER, head};

/// Candidates of a search, at most.
pub(crate) const MAX_CANDIDATES: usize = 31;
/// Room for one word a candidate, written by whole vectors.
const WORDS: usize = 48;
/// Margins below this prove nothing.
const LEAST_MARGIN: f32 = 1e-30;

/// Vectors of a tile, at most.
const VECTORS: usize = 2 * MAX_LANES;
/// Runs of a tile, at most.
const RUNS: usize = VECTORS * MAX_CANDIDATES;

/// Points of the vectors of a tile under each candidate.
pub(crate) struct Points {
    /// Words by vector and candidate.
    pub(crate) words: [[i32; WORDS]; VECTORS],
    /// Candidates, as bits, for which rounding alone led to the point.
    pub(crate) on_grid: [u32; VECTORS],
    /// Candidates, as bits, from which on the word may be another one, or on the grid where the one before was not.
    pub(crate) changes: [u32; VECTORS],
}

/// Which list of runs a list of neighbours leads to, by its length in eights.
const LENGTHS: [usize; 6] = [0, 0, 1, 2, 2, 3];

/// Candidates with equal levels.
#[derive(Clone, Copy)]
struct Run {
    vector: u8,
    /// The first candidate.
    from: u8,
    /// The one behind the last.
    to: u8,
    slot: Slot,
}

impl Run {
    /// The octet of its vector.
    #[inline(always)]
    fn lane<const N: usize>(&self) -> usize {
        usize::from(self.vector) / (8 / N)
    }

    /// Which vector of the octet it is.
    #[inline(always)]
    fn half<const N: usize>(&self) -> usize {
        usize::from(self.vector) % (8 / N)
    }
}

/// Memory for [`find`], and its result.
pub(crate) struct Workspace {
    /// The result.
    pub(crate) points: Points,
    /// Keys by candidate, half of the octet and octet.
    keys: [[[i32; MAX_LANES]; 2]; MAX_CANDIDATES],
    /// Scales by candidate and octet.
    scales: [[f32; MAX_LANES]; MAX_CANDIDATES],
    runs: [Run; RUNS],
    /// Points at both ends of each run.
    ends: [[Choice; 2]; RUNS],
    /// Numbers of the runs off the grid, by the length of their lists: up to 8, 16, 32 points, and longer.
    by_length: [[u16; RUNS]; 4],
    /// Numbers of the runs with different points at their ends.
    uneven: [u16; RUNS + 1],
    /// For those, two candidates between which the point is likely to change, and the points there.
    middles: [(u8, [Choice; 2]); RUNS],
}

impl Workspace {
    /// All zeros.
    pub(crate) fn new() -> Self {
        let run = Run { vector: 0, from: 0, to: 0, slot: Slot(0) };
        Self {
            points: Points { words: [[0; WORDS]; VECTORS], on_grid: [0; VECTORS], changes: [0; VECTORS] },
            keys: [[[0; MAX_LANES]; 2]; MAX_CANDIDATES],
            scales: [[0.0; MAX_LANES]; MAX_CANDIDATES],
            runs: [run; RUNS],
            ends: [[Choice::default(); 2]; RUNS],
            by_length: [[0; RUNS]; 4],
            uneven: [0; RUNS + 1],
            middles: [(0, [Choice::default(); 2]); RUNS],
        }
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
///
/// Every step goes through all runs before the next begins, so that what to do with a run is decided once and the
/// processor need not guess.
#[inline(always)]
pub(crate) fn find<F: F32Lanes, const N: usize>(
    neighbours: &Neighbours<N>,
    octets: &Octets<'_, F>,
    tops: &[f32],
    top: f32,
    workspace: &mut Workspace,
) {
    let Workspace { points, keys, scales, runs, ends, by_length, uneven, middles } = workspace;
    let values = odd_numbers::<F, N>();
    let mut starts = [[0i32; MAX_LANES]; 2];
    let mut margins = [[0f32; MAX_LANES]; 2];
    round::<F, N>(octets, tops, (top - 1.0) * 0.5, keys, scales, &mut starts);
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
    let (mut count, mut counts) = (0, [0; 4]);
    for lane in 0..F::LEN {
        if octets.skipped >> lane & 1 == 1 {
            continue;
        }
        for h in 0..8 / N {
            let vector = lane * (8 / N) + h;
            let mut on_grid = 0u32;
            let mut left = starts[h][lane] as u32;
            points.changes[vector] = left;
            while left != 0 {
                let from = left.trailing_zeros();
                left &= left - 1;
                let to = left.trailing_zeros().min(tops.len() as u32);
                let slot = neighbours.slot(keys[from as usize][h][lane] as usize);
                let is_point = slot.count() == 0;
                on_grid |= ((1 << to) - (1 << from)) * u32::from(is_point);
                runs[count] = Run { vector: vector as u8, from: from as u8, to: to as u8, slot };
                ends[count] = [Choice { word: slot.word(), clear: true }; 2];
                // Points of the codebook are put in the first list, and taken out again.
                let length = LENGTHS[slot.count().div_ceil(8).min(5)];
                by_length[length][counts[length]] = count as u16;
                counts[length] += usize::from(!is_point);
                count += 1;
            }
            points.on_grid[vector] = on_grid;
        }
    }
    for length in 0..4 {
        for &number in &by_length[length][..counts[length]] {
            let run = &runs[usize::from(number)];
            let (list, target) = (neighbours.list(run.slot), target::<F, N>(octets, run, values));
            let (lane, margin) = (run.lane::<N>(), margins[run.half::<N>()][run.lane::<N>()]);
            let at_ends = [scales[usize::from(run.from)][lane], scales[usize::from(run.to) - 1][lane]];
            ends[usize::from(number)] = match length {
                0 => nearest_of_few::<F, N, 2, 8>(list, &target, at_ends, margin),
                1 => nearest_of_few::<F, N, 2, 16>(list, &target, at_ends, margin),
                2 => nearest_of_few::<F, N, 2, 32>(list, &target, at_ends, margin),
                _ => {
                    let first = nearest(list, &target, at_ends[0], margin);
                    [first, nearest(list, &target, at_ends[1], margin)]
                }
            };
        }
    }
    let mut uneven_count = 0;
    for number in 0..count {
        uneven[uneven_count] = number as u16;
        let [first, last] = ends[number];
        let is_even = first.clear & last.clear & (first.word == last.word);
        uneven_count += usize::from(!is_even & (runs[number].from + 2 < runs[number].to));
    }
    let mut widths = [0.0; MAX_LANES];
    octets.width.store(&mut widths);
    for (&number, middle) in uneven[..uneven_count].iter().zip(middles.iter_mut()) {
        let run = &runs[usize::from(number)];
        let (list, target) = (neighbours.list(run.slot), target::<F, N>(octets, run, values));
        let (lane, margin) = (run.lane::<N>(), margins[run.half::<N>()][run.lane::<N>()]);
        let behind = crossing(&target, ends[usize::from(number)], widths[lane], tops);
        let behind = behind.clamp(usize::from(run.from) + 1, usize::from(run.to) - 1);
        let around = [scales[behind - 1][lane], scales[behind][lane]];
        *middle = (
            behind as u8,
            match list.words {
                [_] => nearest_of_few::<F, N, 2, 16>(list, &target, around, margin),
                _ => {
                    let first = nearest(list, &target, around[0], margin);
                    [first, nearest(list, &target, around[1], margin)]
                }
            },
        );
    }
    let mut next_uneven = 0;
    uneven[uneven_count] = count as u16;
    for (number, (run, &ends)) in runs[..count].iter().zip(ends.iter()).enumerate() {
        let (from, to) = (usize::from(run.from), usize::from(run.to));
        let words = &mut points.words[usize::from(run.vector)];
        fill::<F>(words, from, to, ends[0].word);
        let is_uneven = usize::from(uneven[next_uneven]) == number;
        if !is_uneven && (ends[0].word == ends[1].word || from + 1 == to) {
            continue;
        }
        let mut pending = [(to - 1, ends[1]); 8];
        let mut depth = 0;
        if is_uneven {
            let (behind, [before, after]) = middles[next_uneven];
            let behind = usize::from(behind);
            next_uneven += 1;
            pending[1] = (behind, after);
            pending[2] = (behind - 1, before);
            depth = 2;
        }
        // From the first end to the last; stretches that are still uneven are halved.
        let (mut at, mut left) = (from, ends[0]);
        loop {
            let (end, right) = pending[depth];
            let is_even = left.clear & right.clear & (left.word == right.word);
            if !is_even && at + 1 < end {
                let middle = (at + end) / 2;
                depth += 1;
                let (list, target) = (neighbours.list(run.slot), target::<F, N>(octets, run, values));
                let margin = margins[run.half::<N>()][run.lane::<N>()];
                pending[depth] = (middle, nearest(list, &target, scales[middle][run.lane::<N>()], margin));
                continue;
            }
            if left.word != right.word {
                fill::<F>(words, end, to, right.word);
                points.changes[usize::from(run.vector)] |= 1 << end;
            }
            if depth == 0 {
                break;
            }
            depth -= 1;
            (at, left) = (end, right);
        }
    }
}

/// The first candidate under which, of the two points at the ends of a run, that at the last end is the nearer: an
/// estimate. Distances differ by `s^2 * a - 2 * s * b`, `a` and `b` being sums over the differences of squares and products.
#[inline(always)]
fn crossing<F, const N: usize>(target: &Target<'_, F, N>, ends: [Choice; 2], width: f32, tops: &[f32]) -> usize {
    let level = |word: u16, i: usize| ((word >> (bits::<N>() as usize * i)) & ((1 << bits::<N>()) - 1)) as f32;
    let (mut a, mut b) = (0.0, 0.0);
    for i in 0..N {
        let (first, last) = (2.0 * level(ends[0].word, i) + 1.0, 2.0 * level(ends[1].word, i) + 1.0);
        let term = target.weight[i] * (first - last);
        a += term * (first + last);
        b += term * target.x[i];
    }
    // The numerator of the candidate whose scale is `2 * b / a`; casts saturate.
    (((0.5 * width * a / b - tops[0]) / (tops[1] - tops[0])) as usize).saturating_add(1)
}

/// The vector of a run as a target.
#[inline(always)]
fn target<'a, F: F32Lanes, const N: usize>(octets: &Octets<'a, F>, run: &Run, values: F) -> Target<'a, F, N> {
    let at = N * usize::from(run.vector);
    Target { x: head(&octets.x[at..]), weight: head(&octets.root[at..]), values }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::nearest::tests::spelled_out;
    use super::super::{self as grid, Spot};
    use super::*;
    use crate::lanes::portable::Floats;
    use crate::reference::rounding::nearest_int;

    type F = Floats<8>;

    /// Every candidate of every vector, spelled out.
    fn check<const N: usize>(neighbours: &Neighbours<N>, top: f32, step: f32, reach: i32, x: &[f32], root: &[f32]) {
        let tops: Vec<f32> = (-reach..=reach).map(|i| top + i as f32 * step).collect();
        let widest = x.iter().fold(f32::MIN_POSITIVE, |a, &b| if a > b { a } else { b });
        let columns = |values: &[f32]| {
            std::array::from_fn(|i| F::load(&std::array::from_fn::<_, 8, _>(|lane| values[8 * lane + i])))
        };
        let octets = Octets { columns: columns(x), roots: columns(root), x, root, width: F::splat(widest), skipped: 4 };
        let mut workspace = Workspace::new();
        find::<F, N>(neighbours, &octets, &tops, top, &mut workspace);
        for vector in (0..64 / N).filter(|v| N * v / 8 != 2) {
            let (x, root): (&[f32; N], &[f32; N]) = (head(&x[N * vector..]), head(&root[N * vector..]));
            let mut last = None;
            for (c, &top_c) in tops.iter().enumerate() {
                let inverse = top_c / widest;
                let level =
                    |v: f32| nearest_int(0.5 * (inverse * v - 1.0)).clamp(0, ((top - 1.0) / 2.0) as i32) as usize;
                let key = x.iter().rev().fold(0, |key, &v| key * if N == 8 { 3 } else { 8 } + level(v));
                let (word, on_grid) = match neighbours.spot(key) {
                    Spot::OnGrid(word) => (word, true),
                    Spot::Near(list) => {
                        let distances = spelled_out(list, x, root, 1.0 / inverse);
                        let first = (0..list.count)
                            .rev()
                            .min_by(|&a, &b| distances[a].total_cmp(&distances[b]).then(a.cmp(&b)));
                        (list.words.as_flattened()[first.unwrap()], false)
                    }
                };
                assert_eq!(workspace.points.words[vector][c], i32::from(word), "vector {vector}, candidate {c}");
                assert_eq!(workspace.points.on_grid[vector] >> c & 1 == 1, on_grid);
                // What is not marked as a change is none.
                assert!(last == Some((word, on_grid)) || workspace.points.changes[vector] >> c & 1 == 1);
                last = Some((word, on_grid));
            }
        }
    }

    proptest! {
        #[test]
        fn all_candidates_of_a_tile(
            values in prop::collection::vec(-0.1f32..1.0, 64),
            roots in prop::collection::vec(0f32..1.0, 64),
            scale in -30i32..20,
            coarse: bool,
        ) {
            // Coarse values have many equal distances.
            let round = |v: f32| if coarse { (v * 8.0).round() / 8.0 } else { v };
            let x: Vec<f32> = values.iter().map(|&v| round(v) * (scale as f32).exp2()).collect();
            let roots: Vec<f32> = roots.iter().map(|&v| round(v)).collect();
            check(&*grid::IQ3_XXS, 15.0, 0.2, 15, &x, &roots);
            check(&*grid::IQ3_S, 15.0, 0.2, 9, &x, &roots);
            check(&*grid::IQ2_XXS, 5.0, 0.1, 6, &x, &roots);
            check(&*grid::IQ2_XS, 5.0, 0.1, 9, &x, &roots);
            check(&*grid::IQ2_S, 5.0, 0.1, 9, &x, &roots);
        }
    }
}
