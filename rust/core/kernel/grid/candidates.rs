//! The candidates of a codebook search, for a tile of octets: 8 weights a lane.
//!
//! With rising candidates the levels of a vector change a few times only, so that a vector is looked up once for each *run*
//! of candidates with equal levels. Within a run the list of neighbours is the same, and only the scale changes: if one point
//! is [certainly](super::lines) the nearest at both ends of a stretch, it is so in between. Where that is not certain the
//! stretch is halved, and at a single candidate distances are summed as the reference does.

use super::cell::{is_inside, to_edge};
use super::lines::{self, Ends, Lines, Lowest, Terms};
use super::nearest::{Target, nearest};
use super::scores::{Scores, Vector};
use super::{Neighbours, Slot, extend_key, odd_numbers};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask, ROUNDER, head};

/// Candidates of a search, at most.
pub(crate) const MAX_CANDIDATES: usize = 31;

/// Vectors of a tile, at most.
pub(crate) const VECTORS: usize = 2 * MAX_LANES;

/// Points of the vectors of a tile under each candidate.
pub(crate) struct Points {
    /// Words, one for each stretch of candidates without a change, by vector.
    words: [[u16; MAX_CANDIDATES + 1]; VECTORS],
    /// Candidates, as bits, for which rounding alone led to the point.
    on_grid: [u32; VECTORS],
    /// Candidates, as bits, whose word is another one than that of the candidate before, or that are on the grid where the
    /// one before was not.
    pub(crate) changes: [u32; VECTORS],
    /// What the points are worth.
    pub(crate) scores: Scores,
}

impl Points {
    /// The word of a vector under a candidate.
    #[inline(always)]
    pub(crate) fn word(&self, vector: usize, candidate: usize) -> u16 {
        let so_far = self.changes[vector] & ((2 << candidate) - 1);
        self.words[vector][so_far.count_ones() as usize - 1]
    }

    /// Whether rounding alone led there.
    #[inline(always)]
    pub(crate) fn on_grid(&self, vector: usize, candidate: usize) -> bool {
        self.on_grid[vector] >> candidate & 1 == 1
    }
}

/// Runs of a tile, at most, rounded up to a power of two: a mask then takes the place of a check.
const RUNS: usize = (VECTORS * MAX_CANDIDATES).next_power_of_two();

/// Weights of a tile, at most, with room for the last vector to be read by all lanes.
const ROOM: usize = 8 * MAX_LANES + MAX_LANES;

/// Candidates with equal levels.
#[derive(Clone, Copy)]
struct Run {
    vector: u8,
    /// The first candidate.
    from: u8,
    /// The last one.
    last: u8,
    /// The one behind it; 32 for the last run of a vector.
    to: u8,
    slot: Slot,
}

/// Memory for [`find`], and its result.
pub(crate) struct Workspace {
    /// The result.
    pub(crate) points: Points,
    /// Keys by candidate, half of the octet and octet.
    keys: [[[i32; MAX_LANES]; 2]; MAX_CANDIDATES],
    /// Scales by candidate and octet.
    scales: [[f32; MAX_LANES]; 32],
    /// Halves of their inverses.
    inverses: [[f32; MAX_LANES]; 32],
    /// Roots of importances, and their products with magnitudes.
    roots: [f32; ROOM],
    products: [f32; ROOM],
    lines: Lines,
    runs: [Run; RUNS],
    /// Points at both ends of each run.
    ends: [Ends; RUNS],
    /// Numbers of the runs off the grid, by the length of their lists: up to 8, 16, 32 points, and longer.
    by_length: [[u16; RUNS]; 4],
    /// Numbers of the runs of one length with different points at their ends.
    uneven: [u16; RUNS],
    /// For those, a candidate at which the point is likely to change, and the points of the one before and of that one.
    middles: [(u8, Ends); RUNS],
    pending: [(usize, Lowest); MAX_CANDIDATES],
}

impl Workspace {
    /// All zeros.
    pub(crate) fn new() -> Self {
        let run = Run { vector: 0, from: 0, last: 0, to: 0, slot: Slot(0) };
        Self {
            points: Points {
                words: [[0; MAX_CANDIDATES + 1]; VECTORS],
                on_grid: [0; VECTORS],
                changes: [0; VECTORS],
                scores: Scores::new(),
            },
            keys: [[[0; MAX_LANES]; 2]; MAX_CANDIDATES],
            scales: [[0.0; MAX_LANES]; 32],
            inverses: [[0.0; MAX_LANES]; 32],
            roots: [0.0; ROOM],
            products: [0.0; ROOM],
            lines: Lines::new(),
            runs: [run; RUNS],
            ends: [Ends { words: [0; 2], clear: false }; RUNS],
            by_length: [[0; RUNS]; 4],
            uneven: [0; RUNS],
            middles: [(0, Ends { words: [0; 2], clear: false }); RUNS],
            pending: [(0, Lowest { word: 0, clear: false }); MAX_CANDIDATES],
        }
    }
}

/// The octets of a tile.
pub(crate) struct Octets<'a, F> {
    /// Magnitudes and square roots of importances, one octet a lane.
    pub(crate) columns: [F; 8],
    pub(crate) roots: [F; 8],
    /// The same, octet after octet, importances, and products of those with magnitudes; a vector longer than the tile.
    pub(crate) x: &'a [f32],
    pub(crate) root: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) product: &'a [f32],
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
    let Workspace {
        points,
        keys,
        scales,
        inverses,
        roots,
        products,
        lines,
        runs,
        ends,
        by_length,
        uneven,
        middles,
        pending,
    } = workspace;
    let values = odd_numbers::<F, N>();
    let mut starts = [[0i32; MAX_LANES]; 2];
    let mut margins = [0f32; VECTORS];
    round::<F, N>(octets, tops, (top - 1.0) * 0.5, keys, scales, inverses, &mut starts);
    let largest_scale = F::load(&scales[0]);
    for h in 0..8 / N {
        let mut sum = F::splat(0.0);
        for i in N * h..N * (h + 1) {
            let reach = largest_scale * F::splat(top) + octets.columns[i].abs();
            sum = sum + octets.roots[i] * reach * reach;
        }
        let mut lanes = [0.0; MAX_LANES];
        lines::margin(sum, largest_scale).store(&mut lanes);
        for lane in 0..F::LEN {
            margins[lane * (8 / N) + h] = lanes[lane];
        }
    }
    for i in 0..8 {
        let at = i * F::LEN;
        let root = F::load(&octets.root[at..]);
        root.store(&mut roots[at..]);
        (root * F::load(&octets.x[at..])).store(&mut products[at..]);
    }
    let (mut count, mut counts) = (0, [0; 4]);
    let mut first_runs = [0; VECTORS + 1];
    for lane in 0..F::LEN {
        for h in 0..8 / N {
            let vector = lane * (8 / N) + h;
            first_runs[vector] = count;
            let x = F::load(&octets.x[N * vector..]);
            let mut left = if octets.skipped >> lane & 1 == 1 { 0 } else { starts[h][lane] as u32 };
            while left != 0 {
                let from = left.trailing_zeros();
                left &= left - 1;
                let to = left.trailing_zeros();
                let last = to.min(tops.len() as u32) - 1;
                // What is inside its cell at both ends of a run is so in between.
                let at_ends = [from, last].map(|candidate| inverses[candidate as usize % 32][lane]);
                let nearer = to_edge(F::splat(at_ends[0]) * x).lesser(to_edge(F::splat(at_ends[1]) * x));
                let inside = is_inside(nearer).bits();
                let in_cell = inside & ((1 << N) - 1) == (1 << N) - 1;
                let slot = neighbours.slot(keys[from as usize][h][lane] as usize, in_cell);
                runs[count % RUNS] =
                    Run { vector: vector as u8, from: from as u8, last: last as u8, to: to as u8, slot };
                ends[count % RUNS] = Ends { words: [slot.word(); 2], clear: true };
                // Points of the codebook are put in the first list, and taken out again.
                let length = slot.length();
                by_length[length][counts[length] % RUNS] = count as u16;
                counts[length] += usize::from(slot.count() != 0);
                count += 1;
            }
        }
    }
    first_runs[F::LEN * (8 / N)] = count;
    let mut widths = [0.0; MAX_LANES];
    octets.width.store(&mut widths);
    let measure = Measure::<F, N> {
        neighbours,
        octets,
        roots,
        products,
        values,
        margins: &margins,
        scales,
        tops,
        widths: &widths,
    };
    for length in 0..4 {
        let mut uneven_count = 0;
        for &number in &by_length[length][..counts[length]] {
            let number = usize::from(number) % RUNS;
            let run = &runs[number];
            let found = measure.ends(length, run, [run.from, run.last], lines);
            ends[number] = found;
            uneven[uneven_count % RUNS] = number as u16;
            uneven_count += usize::from(!found.even());
        }
        for &number in &uneven[..uneven_count] {
            let number = usize::from(number) % RUNS;
            let run = &runs[number];
            // Runs of one candidate that are not clear gain nothing here.
            let next = usize::from(run.from) + 1;
            let behind = measure.crossing(run, ends[number].words).clamp(next, usize::from(run.last).max(next)) as u8;
            middles[number] = (behind, measure.ends(length, run, [behind - 1, behind.min(run.last)], lines));
        }
    }
    for vector in 0..F::LEN * (8 / N) {
        let at = N * vector;
        let scored = Vector::<F, N>::new(vector, &octets.weight[at..], &octets.product[at..]);
        let mut track = Track::new(points, scored);
        for number in first_runs[vector]..first_runs[vector + 1] {
            let (run, ends) = (&runs[number], &ends[number]);
            let (behind, around) = &middles[number];
            if ends.even() {
                track.push(run.from, run.to, ends.words[0], run.slot.count() == 0);
            } else if ends.clear & around.clear & (ends.words == around.words) {
                track.push(run.from, *behind, ends.words[0], false);
                track.push(*behind, run.to, ends.words[1], false);
            } else {
                measure.divide(run, ends, lines, pending, &mut track);
            }
        }
        track.finish();
    }
}

/// The points of one vector, from the first candidate to the last.
struct Track<'p, F: F32Lanes, const N: usize> {
    points: &'p mut Points,
    vector: Vector<F, N>,
    on_grid: u32,
    changes: u32,
    count: usize,
    /// The last word, and whether it was on the grid.
    last: u32,
}

impl<'p, F: F32Lanes, const N: usize> Track<'p, F, N> {
    #[inline(always)]
    fn new(points: &'p mut Points, vector: Vector<F, N>) -> Self {
        Self { points, vector, on_grid: 0, changes: 0, count: 0, last: u32::MAX }
    }

    /// Candidates `from..to` have this point; the last ones go up to 32.
    #[inline(always)]
    fn push(&mut self, from: u8, to: u8, word: u16, on_grid: bool) {
        let current = u32::from(word) << 1 | u32::from(on_grid);
        let changed = current != self.last;
        self.last = current;
        self.points.words[self.vector.number][self.count] = word;
        self.count += usize::from(changed);
        self.changes |= u32::from(changed) << from;
        // What comes later is put right later.
        let before = (1 << from) - 1;
        self.on_grid = (self.on_grid & before) | (!before * u32::from(on_grid));
        self.points.scores.fill(&self.vector, usize::from(from), usize::from(to), word);
    }

    #[inline(always)]
    fn finish(self) {
        self.points.on_grid[self.vector.number] = self.on_grid;
        self.points.changes[self.vector.number] = self.changes;
    }
}

/// What the vectors of a tile are measured with.
struct Measure<'a, F, const N: usize> {
    neighbours: &'a Neighbours<N>,
    octets: &'a Octets<'a, F>,
    roots: &'a [f32; ROOM],
    products: &'a [f32; ROOM],
    values: F,
    margins: &'a [f32; VECTORS],
    scales: &'a [[f32; MAX_LANES]; 32],
    tops: &'a [f32],
    widths: &'a [f32; MAX_LANES],
}

impl<F: F32Lanes, const N: usize> Measure<'_, F, N> {
    /// Where the vector of a run begins.
    #[inline(always)]
    fn at(run: &Run) -> usize {
        N * usize::from(run.vector) % (8 * MAX_LANES)
    }

    /// The octet of a run.
    #[inline(always)]
    fn lane(run: &Run) -> usize {
        usize::from(run.vector) / (8 / N) % MAX_LANES
    }

    #[inline(always)]
    fn terms(&self, run: &Run) -> Terms<F, N> {
        let at = Self::at(run);
        Terms::new(head(&self.roots[at..]), head(&self.products[at..]), self.values)
    }

    /// The vector of a run.
    #[inline(always)]
    fn target(&self, run: &Run) -> Target<'_, F, N> {
        let at = Self::at(run);
        Target { x: head(&self.octets.x[at..]), weight: head(&self.roots[at..]), values: self.values }
    }

    #[inline(always)]
    fn scale(&self, run: &Run, candidate: u8) -> f32 {
        self.scales[usize::from(candidate) % 32][Self::lane(run)]
    }

    /// The points of two candidates of a run.
    #[inline(always)]
    fn ends(&self, length: usize, run: &Run, candidates: [u8; 2], lines: &mut Lines) -> Ends {
        let (terms, margin) = (&self.terms(run), self.margins[usize::from(run.vector) % VECTORS]);
        let scales = [self.scale(run, candidates[0]), self.scale(run, candidates[1])];
        let few = self.neighbours.few(run.slot);
        match length {
            0 => lines::ends_of_few::<F, N, 8>(&few, terms, scales, margin),
            1 => lines::ends_of_few::<F, N, 16>(&few, terms, scales, margin),
            2 => lines::ends_of_few::<F, N, 32>(&few, terms, scales, margin),
            _ => {
                let list = self.neighbours.list(run.slot);
                lines.fill(list, terms);
                lines.ends::<F>(list, scales, margin)
            }
        }
    }

    /// The first candidate whose scale lies below that under which two points are equally high: an estimate.
    #[inline(always)]
    fn crossing(&self, run: &Run, words: [u16; 2]) -> usize {
        let at = Self::at(run);
        let vector = Vector::<F, N>::new(0, &self.roots[at..], &self.products[at..]);
        let numerator = self.widths[Self::lane(run)] / lines::crossing(&vector, words);
        // Casts saturate.
        (((numerator - self.tops[0]) / (self.tops[1] - self.tops[0])) as usize).saturating_add(1)
    }

    /// Finds the points of a run with the points at its ends.
    #[inline(always)]
    fn divide(
        &self,
        run: &Run,
        ends: &Ends,
        lines: &mut Lines,
        pending: &mut [(usize, Lowest); MAX_CANDIDATES],
        track: &mut Track<'_, F, N>,
    ) {
        let (first, last) = (usize::from(run.from), usize::from(run.last));
        let list = self.neighbours.list(run.slot);
        lines.fill(list, &self.terms(run));
        // Candidates that are yet to be reached, the next one on top.
        pending[0] = (last, Lowest { word: ends.words[1], clear: ends.clear });
        let (mut depth, mut at, mut left) = (0, first, Lowest { word: ends.words[0], clear: ends.clear });
        // Ends that are not clear have to be looked at again, one after the other.
        let mut known = if ends.clear { 2 } else { 0 };
        let mut from = run.from;
        loop {
            let (end, right) = pending[depth];
            let certain = left.clear & right.clear;
            let candidate = match known {
                0 => first,
                1 => last,
                _ if at + 1 < end && !(certain && left.word == right.word) => {
                    let middle = if certain { self.crossing(run, [left.word, right.word]) } else { (at + end) / 2 };
                    middle.clamp(at + 1, end - 1)
                }
                _ => {
                    if left.word != right.word {
                        track.push(from, end as u8, left.word, false);
                        from = end as u8;
                    }
                    (at, left) = (end, right);
                    if depth == 0 {
                        break;
                    }
                    depth -= 1;
                    continue;
                }
            };
            let scale = self.scale(run, candidate as u8);
            let mut lowest = lines.lowest::<F>(list, scale, self.margins[usize::from(run.vector)]);
            if !lowest.clear {
                lowest.word = nearest(list, &self.target(run), scale);
            }
            match known {
                0 => (left, known) = (lowest, 1),
                1 => (pending[0].1, known) = (lowest, 2),
                _ => {
                    depth += 1;
                    pending[depth] = (candidate, lowest);
                }
            }
        }
        track.push(from, run.to, left.word, false);
    }
}

/// Keys and scales of all candidates, and for each vector, as bits, the candidates at which its key changes.
#[inline(always)]
fn round<F: F32Lanes, const N: usize>(
    octets: &Octets<'_, F>,
    tops: &[f32],
    max_level: f32,
    keys: &mut [[[i32; MAX_LANES]; 2]; MAX_CANDIDATES],
    scales: &mut [[f32; MAX_LANES]; 32],
    inverses: &mut [[f32; MAX_LANES]; 32],
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
        (half * inverse).store(&mut inverses[c]);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::nearest::tests::{nearest_spelled_out, spelled_out};
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
        let padded = |values: &[f32]| [values, &[0.0; MAX_LANES]].concat();
        let weight: Vec<f32> = root.iter().map(|v| v * v).collect();
        let product: Vec<f32> = weight.iter().zip(x).map(|(w, x)| w * x).collect();
        let octets = Octets {
            columns: columns(x),
            roots: columns(root),
            x: &padded(x),
            root: &padded(root),
            weight: &padded(&weight),
            product: &padded(&product),
            width: F::splat(widest),
            skipped: 4,
        };
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
                let (word, on_grid) = match neighbours.spot(key, false) {
                    Spot::OnGrid(word) => (word, true),
                    Spot::Near(list) => {
                        let distances = spelled_out(list, x, root, 1.0 / inverse);
                        (list.words.as_flattened()[nearest_spelled_out(&distances)], false)
                    }
                };
                assert_eq!(workspace.points.word(vector, c), word, "vector {vector}, candidate {c}");
                assert_eq!(workspace.points.on_grid(vector, c), on_grid);
                assert_eq!(workspace.points.changes[vector] >> c & 1 == 1, last != Some((word, on_grid)));
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
