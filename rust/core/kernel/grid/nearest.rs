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

/// Distances to the points of a chunk, in one or two vectors.
#[inline(always)]
fn chunk_distances<F: F32Lanes, const N: usize>(words: &[u16; CHUNK], terms: &[F; N]) -> [F; 2] {
    let mut sums = [terms[0]; 2];
    for g in 0..CHUNK / F::LEN {
        let mut words = F::Int::load_u16(&words[g * F::LEN..]);
        sums[g] = look_up::<F, N>(terms[0], words);
        for i in 1..N {
            words = next_level::<F::Int, N>(words);
            sums[g] = sums[g] + look_up::<F, N>(terms[i], words);
        }
    }
    if F::LEN == CHUNK {
        sums[1] = sums[0];
    }
    sums
}

/// Positions of chunks, as bits, at which a distance is at most `limit`.
#[inline(always)]
fn within<F: F32Lanes, const C: usize>(distances: &[[F; 2]; C], limit: f32) -> u64 {
    let limit = F::splat(limit);
    let mut bits = 0;
    for c in 0..C {
        for g in 0..CHUNK / F::LEN {
            bits |= u64::from((!limit.lt(distances[c][g])).bits()) << (CHUNK * c + g * F::LEN);
        }
    }
    bits
}

/// The point of a list of `C` chunks with the smallest distance `sum(weight * (scale * point - x)^2)`, the first one on
/// ties, for several scales. Distances must not be NaN.
#[inline(always)]
pub(crate) fn nearest_of_chunks<F: F32Lanes, const N: usize, const S: usize, const C: usize>(
    list: List<'_>,
    target: &Target<'_, F, N>,
    scales: [f32; S],
    margin: f32,
) -> [Choice; S] {
    let words: &[[u16; CHUNK]; C] = crate::lanes::head(list.words);
    let mut distances = [[[target.values; 2]; C]; S];
    for s in 0..S {
        let terms = terms(target, scales[s]);
        for c in 0..C {
            distances[s][c] = chunk_distances(&words[c], &terms);
        }
    }
    let mut choices = [Choice::default(); S];
    for s in 0..S {
        let mut least = distances[s][0][0].lesser(distances[s][0][1]);
        for c in 1..C {
            least = least.lesser(distances[s][c][0]).lesser(distances[s][c][1]);
        }
        let least = least.least();
        let near = within(&distances[s], least + margin) & ((1 << list.count) - 1);
        let clear = near & near.wrapping_sub(1) == 0;
        let first = if clear { near } else { within(&distances[s], least) };
        let position = first.trailing_zeros() as usize % (CHUNK * C);
        choices[s] = Choice { word: words.as_flattened()[position], clear };
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
        return nearest_of_chunks::<F, N, 1, 1>(list, target, [scale], margin)[0];
    }
    let terms = terms(target, scale);
    // For each lane the least distance, where it was, and the next one.
    let infinity = F::splat(f32::INFINITY);
    let (mut least, mut next, mut at) = (infinity, infinity, F::Int::splat(0));
    for (c, words) in list.words.iter().enumerate() {
        let distances = chunk_distances(words, &terms);
        for g in 0..CHUNK / F::LEN {
            let less = distances[g].lt(least);
            at = F::Int::select(less, F::Int::splat((CHUNK * c + g * F::LEN) as i32), at);
            next = next.lesser(least.greater(distances[g]));
            least = least.lesser(distances[g]);
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
