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

/// The word of the point of a list with the smallest distance `sum(weight * (scale * point - x)^2)`, the first one on ties.
/// Distances must not be NaN.
#[inline(always)]
pub(crate) fn nearest<F: F32Lanes, const N: usize>(list: List<'_>, target: &Target<'_, F, N>, scale: f32) -> u16 {
    let terms = terms(target, scale);
    let flat = list.words.as_flattened();
    // Words that fill up the list repeat its last one, and never come first.
    if list.count <= CHUNK {
        let mut sums = [target.values; 2];
        let vectors = CHUNK / F::LEN;
        for v in 0..vectors {
            sums[v] = distances(&flat[v * F::LEN..], &terms);
        }
        let least = if vectors == 1 { sums[0] } else { sums[0].lesser(sums[1]) };
        let least = F::splat(least.least());
        let mut nearest = sums[0].eq(least).bits();
        if vectors > 1 {
            nearest |= sums[1].eq(least).bits() << F::LEN;
        }
        return flat[nearest.trailing_zeros() as usize];
    }
    // For each lane the least distance, and where it was.
    let (mut least, mut at) = (F::splat(f32::INFINITY), F::Int::splat(0));
    for first in (0..list.count).step_by(F::LEN) {
        let distances = distances(&flat[first..], &terms);
        at = F::Int::select(distances.lt(least), F::Int::splat(first as i32), at);
        least = least.lesser(distances);
    }
    let mut positions = [0; MAX_LANES];
    at.store(&mut positions);
    let mut lanes = least.eq(F::splat(least.least())).bits();
    let mut position = usize::MAX;
    while lanes != 0 {
        let lane = lanes.trailing_zeros() as usize;
        position = position.min(positions[lane] as usize + lane);
        lanes &= lanes - 1;
    }
    flat[position.min(list.count - 1)]
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

    /// The first of the least distances.
    pub(crate) fn nearest_spelled_out(distances: &[f32]) -> usize {
        let least = distances.iter().copied().fold(f32::INFINITY, f32::min);
        distances.iter().position(|&d| d == least).expect("distances are numbers")
    }

    fn check<F: F32Lanes, const N: usize>(neighbours: &Neighbours<N>, key: usize, x: [f32; N], weight: [f32; N]) {
        let Spot::Near(list) = neighbours.spot(key % 3usize.pow(8).min(8usize.pow(N as u32)), false) else { return };
        let target = Target { x: &x, weight: &weight, values: odd_numbers::<F, N>() };
        for scale in [0.1, 0.25, 0.5, 1.0] {
            let distances = spelled_out(list, &x, &weight, scale);
            let expected = list.words.as_flattened()[nearest_spelled_out(&distances)];
            assert_eq!(nearest::<F, N>(list, &target, scale), expected);
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
