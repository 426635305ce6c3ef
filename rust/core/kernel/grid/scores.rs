//! What candidates are worth, nearly: enough to leave out all but the best of them.
//!
//! A candidate's score is `q_x^2 / q_2`, `q_x = sum(w * x * q)` and `q_2 = sum(w * q^2)` over a sub-block. The reference goes
//! through all candidates and keeps one that beats the one kept before; as in [`crate::kernel::ternary`], the rounding of
//! that comparison is below `5 * u` of the score, `u = 2^-24`. Here sums are taken once for each stretch of candidates that
//! leave a vector alone, and in any order.
//!
//! *Error.* Sums of the reference round 34 times at most, sums here 12 times, so that they differ by `46 * u` of
//! `sum(w * |x| * q)` and `q_2`. The former is at most `sqrt(p * q_2)`, `p = sum(w * x^2)` (Cauchy and Schwarz). With `m` the
//! best score and `p <= 4 * m` no score differs by more than `(2 * 46 * 2 + 46 + 4) * u * m < 240 * u * m`.
//!
//! *Use.* Let `t = 2^-14 = 1024 * u`. If no score lies between `(1 - 2 * t) * m` and `(1 - t) * m`, those above (the
//! *contenders*) beat all those below in the reference, whichever comes first: their distance is above `(1024 - 2 * 240) * u * m`.
//! So the first contender is always taken, after it nothing but contenders is, and the reference ends with what it would
//! have found among the contenders alone.

use super::{bits, look_up, odd_numbers};
use crate::kernel::grid::candidates::VECTORS;
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};

/// Room for one value a candidate, written by whole vectors.
const ROOM: usize = 32 + MAX_LANES;
/// `t`.
const SHARE: f32 = 1.0 / 16_384.0;
/// Where `m * q_2` leaves this range, products might underflow or overflow.
const MODERATE: std::ops::Range<f32> = 1e-25..1e32;

/// Sums by vector and candidate.
pub(crate) struct Scores {
    sums_qx: [[f32; ROOM]; VECTORS],
    sums_q2: [[f32; ROOM]; VECTORS],
}

/// A vector, one coordinate a lane and zeros behind the last one.
#[derive(Clone, Copy)]
pub(crate) struct Vector<F: F32Lanes, const N: usize> {
    /// Its number in the tile.
    pub(crate) number: usize,
    pub(crate) weight: F,
    pub(crate) product: F,
    /// Where the level of each coordinate is in a word.
    shifts: F::Int,
}

impl<F: F32Lanes, const N: usize> Vector<F, N> {
    /// From importances, and products of those with magnitudes; both slices are as long as a vector of lanes.
    #[inline(always)]
    pub(crate) fn new(number: usize, weight: &[f32], product: &[f32]) -> Self {
        let lanes: [f32; MAX_LANES] = std::array::from_fn(|i| i as f32);
        let there = F::load(&lanes).lt(F::splat(N as f32));
        let zero = F::splat(0.0);
        let shifts: [i32; MAX_LANES] = std::array::from_fn(|i| (i % N) as i32 * bits::<N>() as i32);
        Self {
            number,
            weight: F::select(there, F::load(weight), zero),
            product: F::select(there, F::load(product), zero),
            shifts: F::Int::load(&shifts),
        }
    }

    /// What the levels of a word are worth; anything behind the last coordinate.
    #[inline(always)]
    pub(crate) fn point(&self, word: u16) -> F {
        look_up::<F, N>(odd_numbers::<F, N>(), F::Int::splat(i32::from(word)).shr_each(self.shifts))
    }
}

impl Scores {
    /// All zeros.
    pub(crate) fn new() -> Self {
        Self { sums_qx: [[0.0; ROOM]; VECTORS], sums_q2: [[0.0; ROOM]; VECTORS] }
    }

    /// Candidates `from..to` have this word, and those behind them another one, which is still to come.
    #[inline(always)]
    pub(crate) fn fill<F: F32Lanes, const N: usize>(
        &mut self,
        vector: &Vector<F, N>,
        from: usize,
        to: usize,
        word: u16,
    ) {
        let q = vector.point(word);
        let (qx, q2) = (vector.product * q).sums(vector.weight * q * q);
        let (sums_qx, sums_q2) = (&mut self.sums_qx[vector.number], &mut self.sums_q2[vector.number]);
        let (qx, q2) = (F::splat(qx), F::splat(q2));
        let mut at = from;
        // Seldom more than once.
        loop {
            qx.store(&mut sums_qx[at..]);
            q2.store(&mut sums_q2[at..]);
            at += F::LEN;
            if at >= to {
                break;
            }
        }
    }

    /// The contenders of a sub-block of `K` vectors, as bits; `None` if only the reference's own sums can tell.
    ///
    /// `energy` is `p`. There are `count` candidates, and the last one is there up to the 32nd.
    #[inline(always)]
    pub(crate) fn contenders<F: F32Lanes, const K: usize>(
        &self,
        first: usize,
        count: usize,
        energy: f32,
    ) -> Option<u32> {
        let mut scores = [0.0; 32];
        let (mut best, mut least_q2) = (F::splat(0.0), F::splat(f32::INFINITY));
        for at in (0..count).step_by(F::LEN) {
            let (mut qx, mut q2) = (F::load(&self.sums_qx[first][at..]), F::load(&self.sums_q2[first][at..]));
            for k in first + 1..first + K {
                qx = qx + F::load(&self.sums_qx[k][at..]);
                q2 = q2 + F::load(&self.sums_q2[k][at..]);
            }
            let score = qx * qx / q2;
            best = score.greater(best);
            least_q2 = least_q2.lesser(q2);
            score.store(&mut scores[at..]);
        }
        let (best, least_q2) = (best.largest(), least_q2.least());
        // NaN is in no range; levels are worth 1 to 15, so that no sum of squares is above 225 times another one.
        if !(MODERATE.contains(&(best * least_q2)) && energy <= 4.0 * best) {
            return None;
        }
        let (mut above, mut above_gap) = (0, 0);
        for at in (0..count).step_by(F::LEN) {
            let score = F::load(&scores[at..]);
            above |= F::splat(best * (1.0 - SHARE)).lt(score).bits() << at;
            above_gap |= F::splat(best * (1.0 - 2.0 * SHARE)).lt(score).bits() << at;
        }
        (above == above_gap).then_some(above)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::grid::nearest::tests::levels;
    use crate::lanes::portable::Floats;

    const COUNT: usize = 19;

    /// The reference's search over 4 vectors of 4, among some candidates.
    fn search(words: &[[u16; COUNT]; 4], x: &[f32], weight: &[f32], among: u32) -> Option<usize> {
        let (mut best, mut chosen) = (0.0, None);
        for candidate in (0..COUNT).filter(|c| among >> c & 1 == 1) {
            let (mut qx, mut q2) = (0.0, 0.0);
            for i in 0..16 {
                let q = 2.0 * levels::<4>(words[i / 4][candidate])[i % 4] + 1.0;
                qx += weight[i] * x[i] * q;
                q2 += weight[i] * q * q;
            }
            if q2 > 0.0 && qx * qx > best * q2 {
                best = qx / q2 * qx;
                chosen = Some(candidate);
            }
        }
        chosen
    }

    fn check<F: F32Lanes>(words: &[[u16; COUNT]; 4], x: &[f32], weight: &[f32]) -> Option<u32> {
        let mut scores = Scores::new();
        let pad = |values: Vec<f32>| [values, vec![9.0; MAX_LANES]].concat();
        let product = pad(x.iter().zip(weight).map(|(x, w)| x * w).collect());
        let padded = pad(weight.to_vec());
        for k in 0..4 {
            let vector = Vector::<F, 4>::new(3 + k, &padded[4 * k..], &product[4 * k..]);
            for c in 0..COUNT {
                scores.fill(&vector, c, if c + 1 == COUNT { 32 } else { c + 1 }, words[k][c]);
            }
        }
        let energy = x.iter().zip(weight).map(|(x, w)| w * x * x).sum();
        let contenders = scores.contenders::<F, 4>(3, COUNT, energy)?;
        assert_eq!(search(words, x, weight, contenders), search(words, x, weight, u32::MAX));
        Some(contenders)
    }

    proptest! {
        /// Words near each other, so that many scores are near each other, and weights among which scores are even equal.
        #[test]
        fn the_best_is_among_the_contenders(
            words in prop::collection::vec(0u16..4096, 4),
            changes in prop::collection::vec((0usize..4, 0u16..4096), COUNT),
            noise in prop::collection::vec(-0.4f32..0.4, 16),
            weight in prop::collection::vec(0f32..1.0, 16),
            scale in -20i32..20,
            few: bool,
            zeros: bool,
        ) {
            let x: Vec<f32> = (0..16)
                .map(|i| levels::<4>(words[i / 4])[i % 4] * 2.0 + 1.0 + noise[i])
                .map(|v| v * (scale as f32).exp2())
                .collect();
            let weight: Vec<f32> = weight.iter().map(|&w| if zeros && w < 0.5 { 0.0 } else { w }).collect();
            let mut by_candidate = [[0; COUNT]; 4];
            let mut current: Vec<u16> = words.clone();
            for c in 0..COUNT {
                let (k, bits) = changes[c];
                current[k] ^= if few { bits & 0o111 & (bits >> 3) } else { bits & 0o1111 };
                for k in 0..4 {
                    by_candidate[k][c] = current[k];
                }
            }
            let found = check::<Floats<8>>(&by_candidate, &x, &weight);
            check::<Floats<16>>(&by_candidate, &x, &weight);
            // Ordinary weights leave candidates out.
            prop_assert!(few || zeros || found.is_none_or(|bits| bits.count_ones() < COUNT as u32));
        }
    }
}
