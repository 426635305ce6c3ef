//! The point nearest to a vector: all points of a list at once, one a lane, each distance summed in source order.

use super::{List, MAX_LIST, look_up, next_level};
use crate::lanes::{F32Lanes, Mask};

/// Room for the distances to a list of points.
pub(crate) type Distances = [f32; MAX_LIST];

/// A point that was chosen.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// Its word.
    pub(crate) word: u16,
    /// Whether every other point of the list is farther by more than the margin.
    pub(crate) clear: bool,
}

/// The point of `list` with the smallest distance `sum(root * (scale * point - x)^2)`, the first one on ties.
///
/// A point's distance is a sum of one term a coordinate, and a term depends on the level alone: the few terms that are
/// possible are computed once, exactly as the reference does, and looked up. `values` is what levels are worth, as a table.
/// Distances must be finite.
#[inline(always)]
pub(crate) fn nearest<F: F32Lanes, const N: usize>(
    list: List<'_>,
    x: &[f32; N],
    root: &[f32; N],
    scale: f32,
    values: F,
    margin: f32,
    distances: &mut Distances,
) -> Choice {
    let scaled = F::splat(scale) * values;
    let mut terms = [scaled; N];
    for i in 0..N {
        let diff = scaled - F::splat(x[i]);
        terms[i] = F::splat(root[i]) * diff * diff;
    }
    let distances = &mut distances[..list.words.len()];
    let mut least = F::splat(f32::INFINITY);
    for (words, to) in list.words.chunks_exact(F::LEN).zip(distances.chunks_exact_mut(F::LEN)) {
        let mut words = <F::Int as crate::lanes::I32Lanes>::load_u16(words);
        let mut sum = look_up::<F, N>(terms[0], words);
        for i in 1..N {
            words = next_level::<F::Int, N>(words);
            sum = sum + look_up::<F, N>(terms[i], words);
        }
        sum.store(to);
        least = sum.lesser(least);
    }
    let least = least.least();
    // Positions within the margin; almost always there is one.
    let limit = F::splat(least + margin);
    let (mut near, mut first) = (0, 0);
    for (group, distances) in distances.chunks_exact(F::LEN).enumerate() {
        let within = (!limit.lt(F::load(distances))).bits();
        let left = list.count - group * F::LEN;
        let within = if left < F::LEN { within & ((1 << left) - 1) } else { within };
        if within != 0 {
            near += within.count_ones();
            first = group * F::LEN + within.trailing_zeros() as usize;
        }
    }
    if near != 1 {
        first = distances.iter().position(|&d| d <= least).unwrap_or(0);
    }
    Choice { word: list.words[first], clear: near == 1 }
}
