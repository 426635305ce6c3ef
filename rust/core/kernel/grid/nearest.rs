//! The point nearest to a vector: many points of a list at once, one a lane, each distance summed in source order.
//!
//! A point's distance is a sum of one term a coordinate, and a term depends on the level alone: the few terms that are
//! possible are computed once, exactly as the reference does, and looked up.

use super::{CHUNK, List, look_up, next_level};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};

/// A vector to be put on the grid, and what it is measured with.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a, F, const N: usize> {
    /// Coordinates.
    pub(crate) x: &'a [f32; N],
    /// What the squares of their errors are multiplied by.
    pub(crate) weight: &'a [f32; N],
    /// What levels are worth, as a table.
    pub(crate) values: F,
}

/// A point that was chosen.
#[derive(Clone, Copy, Default)]
pub(crate) struct Choice {
    /// Its word.
    pub(crate) word: u16,
    /// Whether every other point of the list is farther by more than the margin.
    pub(crate) clear: bool,
}

/// Terms of distances for each coordinate, as tables.
#[inline(always)]
fn terms<F: F32Lanes, const N: usize>(target: &Target<'_, F, N>, scale: f32) -> [F; N] {
    let scaled = F::splat(scale) * target.values;
    let mut terms = [scaled; N];
    for i in 0..N {
        let diff = scaled - F::splat(target.x[i]);
        terms[i] = F::splat(target.weight[i]) * diff * diff;
    }
    terms
}

/// Distances to as many points as there are lanes.
#[inline(always)]
fn distances<F: F32Lanes, const N: usize>(words: &[u16], terms: &[F; N]) -> F {
    let mut words = F::Int::load_u16(words);
    let mut sum = look_up::<F, N>(terms[0], words);
    for i in 1..N {
        words = next_level::<F::Int, N>(words);
        sum = sum + look_up::<F, N>(terms[i], words);
    }
    sum
}

/// The point of a list of at most `E` (8, 16 or 32) points with the smallest distance
/// `sum(weight * (scale * point - x)^2)`, the first one on ties, for several scales. Distances must not be NaN.
#[inline(always)]
pub(crate) fn nearest_of_few<F: F32Lanes, const N: usize, const S: usize, const E: usize>(
    list: List<'_>,
    target: &Target<'_, F, N>,
    scales: [f32; S],
    margin: f32,
) -> [Choice; S] {
    // The widest vectors may read on to the end of the chunk, which repeats the last point.
    let vectors = E.div_ceil(F::LEN);
    let words = &list.words.as_flattened()[..vectors * F::LEN];
    let mut sums = [[target.values; 4]; S];
    for s in 0..S {
        let terms = terms(target, scales[s]);
        for v in 0..vectors {
            sums[s][v] = distances(&words[v * F::LEN..], &terms);
        }
    }
    let valid = (1u64 << list.count) - 1;
    let mut choices = [Choice::default(); S];
    for s in 0..S {
        let mut least = sums[s][0];
        for v in 1..vectors {
            least = least.lesser(sums[s][v]);
        }
        let least = least.least();
        let limit = F::splat(least + margin);
        let mut near = 0;
        for v in 0..vectors {
            near |= u64::from(sums[s][v].lt(limit).bits()) << (v * F::LEN);
        }
        near &= valid;
        let clear = near.is_power_of_two();
        if !clear {
            near = 0;
            for v in 0..vectors {
                near |= u64::from(sums[s][v].eq(F::splat(least)).bits()) << (v * F::LEN);
            }
        }
        choices[s] = Choice { word: words[near.trailing_zeros() as usize % (vectors * F::LEN)], clear };
    }
    choices
}

/// The same for any list and one scale.
#[inline(always)]
pub(crate) fn nearest<F: F32Lanes, const N: usize>(
    list: List<'_>,
    target: &Target<'_, F, N>,
    scale: f32,
    margin: f32,
) -> Choice {
    if let [_] = list.words {
        return nearest_of_few::<F, N, 1, CHUNK>(list, target, [scale], margin)[0];
    }
    let terms = terms(target, scale);
    // For each lane the least distance, where it was, and the next one.
    let infinity = F::splat(f32::INFINITY);
    let (mut least, mut next, mut at) = (infinity, infinity, F::Int::splat(0));
    for (c, words) in list.words.iter().enumerate() {
        for at_word in (0..CHUNK).step_by(F::LEN) {
            let distances = distances(&words[at_word..], &terms);
            let less = distances.lt(least);
            at = F::Int::select(less, F::Int::splat((CHUNK * c + at_word) as i32), at);
            next = next.lesser(least.greater(distances));
            least = least.lesser(distances);
        }
    }
    let mut positions = [0; MAX_LANES];
    at.store(&mut positions);
    let nearest = least.least();
    let there = !F::splat(nearest).lt(least);
    let lanes = there.bits();
    // Words that fill up the list repeat its last one: they never come first, and at worst make it unclear.
    let rest = F::select(there, next, least).least();
    let mut position = usize::MAX;
    let mut left = lanes;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        position = position.min(positions[lane] as usize + lane);
        left &= left - 1;
    }
    let word = list.words.as_flattened()[position.min(list.count - 1)];
    Choice { word, clear: lanes & (lanes - 1) == 0 && rest > nearest + margin }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::grid::{self, Neighbours, Spot, bits, odd_numbers};
    use crate::lanes::portable::Floats;

    /// Levels of a word.
    pub(crate) fn levels<const N: usize>(word: u16) -> [f32; N] {
        std::array::from_fn(|i| f32::from(word >> (bits::<N>() as usize * i) & ((1 << bits::<N>()) - 1)))
    }

    /// Distances to the points of a list, spelled out.
    pub(crate) fn spelled_out<const N: usize>(list: List<'_>, x: &[f32; N], weight: &[f32; N], scale: f32) -> Vec<f32> {
        let words = &list.words.as_flattened()[..list.count];
        let distance = |&word: &u16| {
            let mut sum = 0.0;
            for (i, level) in levels::<N>(word).into_iter().enumerate() {
                let diff = scale * (2.0 * level + 1.0) - x[i];
                sum += weight[i] * diff * diff;
            }
            sum
        };
        words.iter().map(distance).collect()
    }

    fn check<F: F32Lanes, const N: usize>(neighbours: &Neighbours<N>, key: usize, x: [f32; N], weight: [f32; N]) {
        let Spot::Near(list) = neighbours.spot(key % 3usize.pow(8).min(8usize.pow(N as u32))) else { return };
        let target = Target { x: &x, weight: &weight, values: odd_numbers::<F, N>() };
        for (scale, margin) in [(0.5, 0.0), (0.25, 0.125), (1.0, f32::INFINITY)] {
            let distances = spelled_out(list, &x, &weight, scale);
            let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
            let first = distances.iter().position(|&d| d == least).unwrap();
            let check = |choice: Choice| {
                assert_eq!(choice.word, list.words.as_flattened()[first]);
                let others = distances.iter().enumerate().filter(|(i, _)| *i != first);
                assert!(!choice.clear || others.into_iter().all(|(_, &d)| d >= least + margin));
            };
            check(nearest::<F, N>(list, &target, scale, margin));
            if list.count <= 8 {
                check(nearest_of_few::<F, N, 1, 8>(list, &target, [scale], margin)[0]);
            }
            if list.count <= 32 && list.words.len() == 2 {
                check(nearest_of_few::<F, N, 2, 32>(list, &target, [0.1, scale], margin)[1]);
            }
        }
    }

    proptest! {
        /// Coordinates from a few values, so that many distances are equal.
        #[test]
        fn the_first_of_the_nearest(
            keys in prop::collection::vec(0usize..6561, 40),
            x in prop::array::uniform8(-1i8..12),
            weight in prop::array::uniform8(0u8..3),
            fine: bool,
        ) {
            let unit = if fine { 0.37 } else { 0.25 };
            let (x, weight) = (x.map(|v| f32::from(v) * unit), weight.map(f32::from));
            let (x4, weight4) = (*x.first_chunk().unwrap(), *weight.first_chunk().unwrap());
            for key in keys {
                check::<Floats<8>, 8>(&grid::IQ2_XS, key, x, weight);
                check::<Floats<16>, 8>(&grid::IQ1, key, x, weight);
                check::<Floats<8>, 4>(&grid::IQ3_S, key, x4, weight4);
                check::<Floats<16>, 4>(&grid::IQ3_XXS, key, x4, weight4);
            }
        }
    }
}
