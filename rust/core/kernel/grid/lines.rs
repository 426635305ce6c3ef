//! Distances to the points of a list as functions of the scale.
//!
//! `sum(root * (s * q - x)^2)` is `s * (s * slope - offset)` plus a term without `q`, where `slope = sum(root * q^2)` and
//! `offset = sum(2 * root * x * q)`. So points compare as the *heights* `s * slope - offset` do. Slopes and offsets are summed
//! once for all scales.
//!
//! Heights do not round as distances do. Let `u = 2^-24` and `S = sum(root * (top * s + |x|)^2)` for the largest scale of a
//! search, which exceeds the others by a factor of 1.5 at most. A distance as the reference sums it is off by at most
//! `14 * u * S`; a height, 12 roundings of terms whose sum is `S / s` at most, by `18 * u * S / s`, where `s` is the largest
//! scale. A lead of more than `(2 * 14 * 1.5 + 2 * 18) * u * S / s = 78 * u * S / s` in computed heights therefore proves that the
//! reference finds the same point. [`margin`] is `2^-17 * S / s` (`128 * u`), or infinite where underflow might matter.

use super::{look_up, next_level};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, head};

/// Leads in distance below this prove nothing.
const LEAST_MARGIN: f32 = 1e-30;

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

/// The lowest points under as many scales as there are lanes.
pub(crate) struct Lowest<F: F32Lanes> {
    /// Their words.
    pub(crate) words: F::Int,
    /// Lanes in which it is lower than all others by more than the margin; in others words are meaningless.
    pub(crate) clear: F::Mask,
}

/// The lowest of the first `count` words, one scale a lane. They are read by whole vectors.
#[inline(always)]
pub(crate) fn lowest<F: F32Lanes, const N: usize>(
    words: &[u16],
    count: usize,
    terms: &Terms<F, N>,
    scales: F,
    margin: f32,
) -> Lowest<F> {
    let infinite = F::splat(f32::INFINITY);
    let mut search = Search { scales, least: infinite, second: infinite, words: F::Int::splat(0) };
    let mut left = count;
    'points: for words in words.chunks_exact(F::LEN) {
        let (slope, offset) = lines(words, terms);
        let (mut slopes, mut offsets, mut points) = ([0.0; MAX_LANES], [0.0; MAX_LANES], [0; MAX_LANES]);
        slope.store(&mut slopes);
        offset.store(&mut offsets);
        F::Int::load_u16(words).store(&mut points);
        for at in (0..F::LEN).step_by(8) {
            let (slopes, offsets, points) = (head(&slopes[at..]), head(&offsets[at..]), head(&points[at..]));
            match left {
                1 => search.among::<1>(slopes, offsets, points),
                2 => search.among::<2>(slopes, offsets, points),
                3 => search.among::<3>(slopes, offsets, points),
                4 => search.among::<4>(slopes, offsets, points),
                5 => search.among::<5>(slopes, offsets, points),
                6 => search.among::<6>(slopes, offsets, points),
                7 => search.among::<7>(slopes, offsets, points),
                _ => search.among::<8>(slopes, offsets, points),
            }
            if left <= 8 {
                break 'points;
            }
            left -= 8;
        }
    }
    Lowest { words: search.words, clear: (search.least + F::splat(margin)).lt(search.second) }
}

/// The two lowest heights so far, and the word of the lowest.
struct Search<F: F32Lanes> {
    scales: F,
    least: F,
    second: F,
    words: F::Int,
}

impl<F: F32Lanes> Search<F> {
    /// Goes on with the first `K` of some points.
    #[inline(always)]
    fn among<const K: usize>(&mut self, slopes: &[f32; 8], offsets: &[f32; 8], words: &[i32; 8]) {
        for i in 0..K {
            let height = self.scales * F::splat(slopes[i]) - F::splat(offsets[i]);
            let lower = height.lt(self.least);
            self.second = self.second.lesser(self.least.greater(height));
            self.words = F::Int::select(lower, F::Int::splat(words[i]), self.words);
            self.least = self.least.lesser(height);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::super::nearest::tests::{nearest_spelled_out, spelled_out};
    use super::*;
    use crate::kernel::grid::{self, Neighbours, Spot, odd_numbers};
    use crate::lanes::Mask;
    use crate::lanes::portable::Floats;

    /// Where a point is clear, the distances as the reference sums them say the same. Returns how many scales were clear, and how
    /// many there were.
    fn check<F: F32Lanes, const N: usize>(
        neighbours: &Neighbours<N>,
        keys: &[usize],
        x: &[f32; N],
        root: &[f32; N],
        top: f32,
    ) -> (u32, u32) {
        let (mut clear, mut all) = (0, 0);
        for key in keys {
            let key = key % 3usize.pow(8).min(8usize.pow(N as u32));
            let slot = neighbours.slot(key, false);
            let Spot::Near(list) = neighbours.spot(key, false) else { continue };
            let widest = x.iter().fold(1e-20f32, |a, b| a.max(b.abs())) / (0.8 * top);
            let sum = (0..N).fold(0.0, |sum, i| sum + root[i] * (widest * top + x[i].abs()).powi(2));
            let mut margins = [0.0; MAX_LANES];
            margin(F::splat(sum), F::splat(widest)).store(&mut margins);
            let products: [f32; N] = std::array::from_fn(|i| root[i] * x[i]);
            let terms = Terms::<F, N>::new(root, &products, odd_numbers::<F, N>());
            let scales: [f32; MAX_LANES] = std::array::from_fn(|i| widest / (1.0 + i as f32 / 31.0));
            let found = lowest::<F, N>(neighbours.words(slot), slot.count(), &terms, F::load(&scales), margins[0]);
            let mut words = [0; MAX_LANES];
            found.words.store(&mut words);
            for lane in 0..F::LEN {
                all += 1;
                if found.clear.bits() >> lane & 1 == 0 {
                    continue;
                }
                clear += 1;
                let distances = spelled_out(list, x, root, scales[lane]);
                let nearest = list.words.as_flattened()[nearest_spelled_out(&distances)];
                assert_eq!(words[lane], i32::from(nearest), "{lane}");
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
        fn what_is_clear_is_nearest(
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

    /// Were nothing clear, the test above would say nothing; and kernels would be slow.
    #[test]
    fn nearly_all_is_clear() {
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
            assert!(100 * clear > 99 * all && clear < all, "{totals:?}");
        }
    }
}
