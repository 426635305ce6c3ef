//! Distances to the points of a list as functions of the scale.
//!
//! `sum(root * (s * q - x)^2)` is `s * (s * slope - offset)` plus a term without `q`, where `slope = sum(root * q^2)` and
//! `offset = sum(2 * root * x * q)`. So points compare as the *heights* `s * slope - offset` do, which are linear in `s`: a
//! point that lies below another one at both ends of a stretch of scales does so in between, too. Slopes and offsets are
//! summed once for all scales.
//!
//! Heights do not round as distances do. Let `u = 2^-24` and `S = sum(root * (top * s + |x|)^2)` for the largest scale of a
//! search, which exceeds the others by a factor of 1.5 at most. A distance as the reference sums it is off by at most
//! `14 * u * S`; a height, 12 roundings of terms whose sum is `S / s` at most, by `18 * u * S / s`, where `s` is the largest
//! scale. A lead of more than `(2 * 14 * 1.5 + 2 * 18) * u * S / s = 78 * u * S / s` in computed heights at both ends of a
//! stretch therefore proves that the reference finds the same point for all scales of the stretch. [`margin`] is `2^-17 * S / s`
//! (`128 * u`), or infinite where underflow might matter.

use super::scores::Vector;
use super::{CHUNK, Few, List, look_up, next_level};
use crate::lanes::{F32Lanes, I32Lanes, Mask, head};

/// Points of a list, at most, rounded up to whole vectors.
const MOST: usize = 320;
/// Leads in distance below this prove nothing.
const LEAST_MARGIN: f32 = 1e-30;

/// Slopes and offsets of a list's points.
pub(crate) struct Lines {
    slopes: [f32; MOST],
    offsets: [f32; MOST],
    /// Vectors that hold points.
    vectors: usize,
    /// Lanes of the last vector that do, as bits.
    valid: u32,
}

/// What points are measured with: for each coordinate what every level adds to slopes and offsets, as tables.
#[derive(Clone, Copy)]
pub(crate) struct Terms<F, const N: usize> {
    slopes: [F; N],
    offsets: [F; N],
}

impl<F: F32Lanes, const N: usize> Terms<F, N> {
    /// For coordinates with `roots`, and products of those with what is to be approximated.
    #[inline(always)]
    pub(crate) fn new(roots: &[f32; N], products: &[f32; N], values: F) -> Self {
        let (squares, doubled) = (values * values, values + values);
        let mut terms = Self { slopes: [values; N], offsets: [values; N] };
        for i in 0..N {
            terms.slopes[i] = F::splat(roots[i]) * squares;
            terms.offsets[i] = F::splat(products[i]) * doubled;
        }
        terms
    }
}

/// By how much the lowest height must lie below all others, lane by lane. `sum` is `S`.
#[inline(always)]
pub(crate) fn margin<F: F32Lanes>(sum: F, largest_scale: F) -> F {
    let lead = sum * F::splat(1.0 / 131_072.0);
    let weak = lead.lt(F::splat(LEAST_MARGIN));
    F::select(weak, F::splat(f32::INFINITY), lead / largest_scale)
}

/// Adds up slopes and offsets of as many points as there are lanes.
#[inline(always)]
fn lines<F: F32Lanes, const N: usize>(words: &[u16], terms: &Terms<F, N>) -> (F, F) {
    let mut words = F::Int::load_u16(words);
    let mut slope = look_up::<F, N>(terms.slopes[0], words);
    let mut offset = look_up::<F, N>(terms.offsets[0], words);
    for i in 1..N {
        words = next_level::<F::Int, N>(words);
        slope = slope + look_up::<F, N>(terms.slopes[i], words);
        offset = offset + look_up::<F, N>(terms.offsets[i], words);
    }
    (slope, offset)
}

/// The lowest points at both ends of a stretch.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// Their words.
    pub(crate) words: [u16; 2],
    /// Whether both are lower than all others by more than the margin; otherwise words are meaningless.
    pub(crate) clear: bool,
}

impl Ends {
    /// Whether one point is the nearest all along the stretch.
    #[inline(always)]
    pub(crate) fn even(&self) -> bool {
        self.clear & (self.words[0] == self.words[1])
    }
}

/// The ends of a stretch with a list of at most `E` points: 8, 16, or 32 if there are more than 16.
#[inline(always)]
pub(crate) fn ends_of_few<F: F32Lanes, const N: usize, const E: usize>(
    few: &Few<'_>,
    terms: &Terms<F, N>,
    scales: [f32; 2],
    margin: f32,
) -> Ends {
    // The widest vectors may read on to the end of the chunk, which repeats the last point.
    let vectors = E.div_ceil(F::LEN);
    let words: &[u16; 2 * CHUNK] = head(few.words.as_flattened());
    let mut all = [(terms.slopes[0], terms.offsets[0]); 4];
    for v in 0..vectors {
        all[v] = lines(&words[v * F::LEN..], terms);
    }
    let valid = u32::MAX >> ((32 - few.count as u32) % 32);
    let mut ends = Ends { words: [0; 2], clear: true };
    for s in 0..2 {
        let scale = F::splat(scales[s]);
        let mut heights = [scale; 4];
        let mut least = scale * all[0].0 - all[0].1;
        heights[0] = least;
        for v in 1..vectors {
            heights[v] = scale * all[v].0 - all[v].1;
            least = least.lesser(heights[v]);
        }
        let limit = F::splat(least.least() + margin);
        let mut near = 0;
        for v in 0..vectors {
            near |= heights[v].lt(limit).bits() << (v * F::LEN);
        }
        near &= valid;
        ends.clear &= near.is_power_of_two();
        ends.words[s] = words[near.trailing_zeros() as usize % (2 * CHUNK)];
    }
    ends
}

/// The lowest point under a scale.
#[derive(Clone, Copy)]
pub(crate) struct Lowest {
    /// Its word; meaningless if it is not clear.
    pub(crate) word: u16,
    /// Whether all others are higher by more than the margin.
    pub(crate) clear: bool,
}

impl Lines {
    /// No lines.
    pub(crate) fn new() -> Self {
        Self { slopes: [0.0; MOST], offsets: [0.0; MOST], vectors: 0, valid: 0 }
    }

    /// Sums up the lines of a list.
    #[inline(always)]
    pub(crate) fn fill<F: F32Lanes, const N: usize>(&mut self, list: List<'_>, terms: &Terms<F, N>) {
        let flat = list.words.as_flattened();
        self.vectors = list.count.div_ceil(F::LEN);
        self.valid = u32::MAX >> (31 - (list.count - 1) % F::LEN);
        for v in 0..self.vectors {
            let (slope, offset) = lines(&flat[v * F::LEN..], terms);
            slope.store(&mut self.slopes[v * F::LEN..]);
            offset.store(&mut self.offsets[v * F::LEN..]);
        }
    }

    /// Heights of the points of a vector.
    #[inline(always)]
    fn heights<F: F32Lanes>(&self, v: usize, scale: F) -> F {
        scale * F::load(&self.slopes[v * F::LEN..]) - F::load(&self.offsets[v * F::LEN..])
    }

    /// The lowest point of the list under a scale. Vectors are filled up with the last point.
    #[inline(always)]
    pub(crate) fn lowest<F: F32Lanes>(&self, list: List<'_>, scale: f32, margin: f32) -> Lowest {
        let scale = F::splat(scale);
        let mut least = self.heights(0, scale);
        for v in 1..self.vectors {
            least = least.lesser(self.heights(v, scale));
        }
        let limit = F::splat(least.least() + margin);
        // One vector with one point below the limit.
        let (mut near, mut at, mut clear) = (0, 0, true);
        for v in 0..self.vectors {
            let valid = if v + 1 == self.vectors { self.valid } else { u32::MAX };
            let here = self.heights(v, scale).lt(limit).bits() & valid;
            if here != 0 {
                clear &= near == 0;
                (near, at) = (here, v * F::LEN);
            }
        }
        clear &= near.is_power_of_two();
        let position = at + near.trailing_zeros() as usize % F::LEN;
        Lowest { word: list.words.as_flattened()[position], clear }
    }

    /// The ends of a stretch of a list.
    #[inline(always)]
    pub(crate) fn ends<F: F32Lanes>(&self, list: List<'_>, scales: [f32; 2], margin: f32) -> Ends {
        let first = self.lowest::<F>(list, scales[0], margin);
        let last = self.lowest::<F>(list, scales[1], margin);
        Ends { words: [first.word, last.word], clear: first.clear & last.clear }
    }
}

/// The scale under which two points are equally high, nearly; anything if there is none. The vector has roots for weights.
#[inline(always)]
pub(crate) fn crossing<F: F32Lanes, const N: usize>(vector: &Vector<F, N>, words: [u16; 2]) -> f32 {
    let (first, last) = (vector.point(words[0]), vector.point(words[1]));
    let diff = first - last;
    let (offset, slope) = (vector.product * (diff + diff)).sums(vector.weight * diff * (first + last));
    offset / slope
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::super::nearest::tests::{nearest_spelled_out, spelled_out};
    use super::*;
    use crate::kernel::grid::{self, Neighbours, Spot, odd_numbers};
    use crate::lanes::MAX_LANES;
    use crate::lanes::portable::Floats;

    /// Where a point is clear at both ends, the distances as the reference sums them say the same of all scales between.
    /// Returns how many stretches were clear, and how many there were.
    fn check<F: F32Lanes, const N: usize>(
        neighbours: &Neighbours<N>,
        keys: &[usize],
        x: &[f32; N],
        root: &[f32; N],
        top: f32,
    ) -> (u32, u32) {
        let (mut clear, mut all) = (0, 0);
        let mut lines = Lines::new();
        for key in keys {
            let key = key % 3usize.pow(8).min(8usize.pow(N as u32));
            let Spot::Near(list) = neighbours.spot(key, false) else { continue };
            let widest = x.iter().fold(1e-20f32, |a, b| a.max(b.abs())) / (0.8 * top);
            let sum = (0..N).fold(0.0, |sum, i| sum + root[i] * (widest * top + x[i].abs()).powi(2));
            let mut margins = [0.0; MAX_LANES];
            margin(F::splat(sum), F::splat(widest)).store(&mut margins);
            let products: [f32; N] = std::array::from_fn(|i| root[i] * x[i]);
            let terms = Terms::<F, N>::new(root, &products, odd_numbers::<F, N>());
            lines.fill(list, &terms);
            for (from, to) in [(1.0, 1.5), (1.0, 1.02), (1.2, 1.3), (1.4, 1.5)] {
                all += 1;
                let scales = [widest / from, widest / to];
                let found = lines.ends::<F>(list, scales, margins[0]);
                if list.count <= 32 {
                    let few = neighbours.few(neighbours.slot(key, false));
                    // Beyond its own chunks, a list is followed by another one's points.
                    let same = match list.count {
                        0..=8 => ends_of_few::<F, N, 8>(&few, &terms, scales, margins[0]),
                        9..=16 => ends_of_few::<F, N, 16>(&few, &terms, scales, margins[0]),
                        _ => ends_of_few::<F, N, 32>(&few, &terms, scales, margins[0]),
                    };
                    assert_eq!(same.clear, found.clear);
                    assert!(!same.clear || same.words == found.words);
                }
                if !found.even() {
                    continue;
                }
                clear += 1;
                for step in 0..=10 {
                    let scale = widest / (from + (to - from) * step as f32 / 10.0);
                    let distances = spelled_out(list, x, root, scale);
                    assert_eq!(list.words.as_flattened()[nearest_spelled_out(&distances)], found.words[0], "{step}");
                }
            }
        }
        (clear, all)
    }

    /// [`check`] for every codebook. 4 coordinates are the first of 8.
    fn check_all(keys: &[usize], x: [f32; 8], root: [f32; 8]) -> [(u32, u32); 5] {
        let (x4, root4) = (*x.first_chunk().unwrap(), *root.first_chunk().unwrap());
        [
            check::<Floats<8>, 8>(&grid::IQ2_XS, keys, &x, &root, 5.0),
            check::<Floats<16>, 8>(&grid::IQ2_XXS, keys, &x, &root, 5.0),
            check::<Floats<16>, 8>(&grid::IQ2_S, keys, &x, &root, 5.0),
            check::<Floats<8>, 4>(&grid::IQ3_XXS, keys, &x4, &root4, 15.0),
            check::<Floats<16>, 4>(&grid::IQ3_S, keys, &x4, &root4, 15.0),
        ]
    }

    proptest! {
        #[test]
        fn clear_at_both_ends_is_nearest_between(
            keys in prop::collection::vec(0usize..6561, 24),
            x in prop::array::uniform8(-0.1f32..1.0),
            root in prop::array::uniform8(0f32..1.0),
            scale in -40i32..20,
            coarse: bool,
        ) {
            // Coarse values have many equal distances.
            let round = |v: f32| if coarse { (v * 8.0).round() / 8.0 } else { v };
            check_all(&keys, x.map(|v| round(v) * (scale as f32).exp2()), root.map(round));
        }
    }

    /// Were no stretch clear, or all of them, the test above would say nothing.
    #[test]
    fn most_stretches_are_clear_and_some_are_not() {
        let mut runner = TestRunner::deterministic();
        let vectors = (prop::array::uniform8(0f32..1.0), prop::array::uniform8(0.1f32..1.0));
        let cases = (prop::collection::vec(0usize..6561, 24), vectors);
        let mut totals = [(0, 0); 5];
        for _ in 0..64 {
            let (keys, (x, root)) = cases.new_tree(&mut runner).unwrap().current();
            for (total, (clear, all)) in totals.iter_mut().zip(check_all(&keys, x, root)) {
                *total = (total.0 + clear, total.1 + all);
            }
        }
        for (clear, all) in totals {
            assert!(2 * clear > all && clear < all, "{totals:?}");
        }
    }

    #[test]
    fn every_list_fits() {
        fn longest<const N: usize>(neighbours: &Neighbours<N>, keys: usize) -> usize {
            let counts = (0..keys).map(|key| neighbours.slot(key, false).count());
            counts.max().unwrap().next_multiple_of(MAX_LANES)
        }
        for book in [&*grid::IQ2_XXS, &*grid::IQ2_XS, &*grid::IQ2_S] {
            assert!(longest(book, 6561) <= MOST);
        }
        assert!(longest(&grid::IQ3_XXS, 4096).max(longest(&grid::IQ3_S, 4096)) <= MOST);
    }
}
