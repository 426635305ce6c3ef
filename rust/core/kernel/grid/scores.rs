//! The best candidate of a sub-block.
//!
//! A candidate's score is `q_x^2 / q_2`, `q_x = sum(w * x * q)` and `q_2 = sum(w * q^2)`. Candidates are lanes, so that both sums
//! are those of the reference. It goes through all candidates and takes one if `q_x * q_x > best * q_2`, where `best` is
//! `(q_x / q_2) * q_x` of the one taken before. That comparison rounds four times: of two candidates whose scores are a factor of
//! more than `1 + 8 * u` apart, `u = 2^-24`, the one with the higher score beats the other one, whichever comes first.
//!
//! So among at most 32 candidates there is a gap of that size between the best score `m` and `(1 - 32 * 8 * u) * m`. Those above the
//! gap beat all those below it, which never beat them: the reference ends with what it would have found among those above alone.
//! *Contenders* are all candidates with scores above `(1 - t) * m`, `t = 2^-14 = 1024 * u`, as they come out of divisions; the
//! gap lies among them.

use super::candidates::{ROOM, Words};
use super::{look_up, next_level, odd_numbers};
use crate::lanes::{F32Lanes, I32Lanes, Mask};

/// `t`.
const SHARE: f32 = 1.0 / 16_384.0;
/// Where `m * q_2` leaves this range, products might underflow or overflow.
const MODERATE: std::ops::Range<f32> = 1e-25..1e32;

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Best {
    /// Its number.
    pub(crate) candidate: usize,
    /// `q_x / q_2`.
    pub(crate) scale: f32,
}

/// The best of `count` candidates for a sub-block of `W` weights, `None` if none improves on nothing.
///
/// `words` are those of its vectors, `product` is `w * x`.
#[inline(always)]
pub(crate) fn best<F: F32Lanes, const N: usize, const W: usize>(
    words: &[Words],
    product: &[f32; W],
    weight: &[f32; W],
    count: usize,
) -> Option<Best> {
    let mut sums = Sums { qx: [0.0; ROOM], q2: [0.0; ROOM] };
    match count.div_ceil(F::LEN) {
        1 => sums.fill::<F, N, W, 1>(words, product, weight),
        2 => sums.fill::<F, N, W, 2>(words, product, weight),
        3 => sums.fill::<F, N, W, 3>(words, product, weight),
        _ => sums.fill::<F, N, W, 4>(words, product, weight),
    }
    let mut scores = [0.0; ROOM];
    let (mut highest, mut least_q2) = (F::splat(0.0), F::splat(f32::INFINITY));
    for at in (0..count).step_by(F::LEN) {
        let (qx, q2) = (F::load(&sums.qx[at..]), F::load(&sums.q2[at..]));
        // Behind the last candidate stands anything.
        let score = F::select(F::first(count - at), qx * qx / q2, F::splat(0.0));
        score.store(&mut scores[at..]);
        highest = score.greater(highest);
        least_q2 = least_q2.lesser(q2);
    }
    let (highest, mut contenders) = (highest.largest(), 0);
    // NaN is in no range; levels are worth 1 to 15, so that no sum of squares is above 225 times another one.
    if MODERATE.contains(&(highest * least_q2.least())) {
        for at in (0..count).step_by(F::LEN) {
            contenders |= F::splat(highest * (1.0 - SHARE)).lt(F::load(&scores[at..])).bits() << at;
        }
    } else {
        contenders = u32::MAX >> (32 - count);
    }
    let (mut best, mut found) = (0.0, None);
    while contenders != 0 {
        let candidate = contenders.trailing_zeros() as usize % 32;
        contenders &= contenders - 1;
        let (qx, q2) = (sums.qx[candidate], sums.q2[candidate]);
        if q2 > 0.0 && qx * qx > best * q2 {
            let scale = qx / q2;
            best = scale * qx;
            found = Some(Best { candidate, scale });
        }
    }
    found
}

/// Both sums by candidate.
struct Sums {
    qx: [f32; ROOM],
    q2: [f32; ROOM],
}

impl Sums {
    /// Those of the first `V` vectors of candidates, side by side, so that no addition waits for the one before.
    #[inline(always)]
    fn fill<F: F32Lanes, const N: usize, const W: usize, const V: usize>(
        &mut self,
        words: &[Words],
        product: &[f32; W],
        weight: &[f32; W],
    ) {
        let values = odd_numbers::<F, N>();
        let (mut qx, mut q2) = ([F::splat(0.0); V], [F::splat(0.0); V]);
        for k in 0..W / N {
            let mut current = [F::Int::splat(0); V];
            for v in 0..V {
                current[v] = F::Int::load(&words[k][v * F::LEN..]);
            }
            for i in N * k..N * (k + 1) {
                let (product, weight) = (F::splat(product[i]), F::splat(weight[i]));
                for v in 0..V {
                    let q = look_up::<F, N>(values, current[v]);
                    current[v] = next_level::<F::Int, N>(current[v]);
                    qx[v] = qx[v] + product * q;
                    q2[v] = q2[v] + weight * q * q;
                }
            }
        }
        for v in 0..V {
            qx[v].store(&mut self.qx[v * F::LEN..]);
            q2[v].store(&mut self.q2[v * F::LEN..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::grid::nearest::tests::levels;
    use crate::lanes::portable::Floats;

    const COUNT: usize = 19;

    /// The reference's search over 4 vectors of 4.
    fn search(words: &[[u16; COUNT]; 4], x: &[f32; 16], weight: &[f32; 16]) -> Option<Best> {
        let (mut best, mut found) = (0.0, None);
        for candidate in 0..COUNT {
            let (mut qx, mut q2) = (0.0, 0.0);
            for i in 0..16 {
                let q = 2.0 * levels::<4>(words[i / 4][candidate])[i % 4] + 1.0;
                qx += weight[i] * x[i] * q;
                q2 += weight[i] * q * q;
            }
            if q2 > 0.0 && qx * qx > best * q2 {
                best = qx / q2 * qx;
                found = Some(Best { candidate, scale: qx / q2 });
            }
        }
        found
    }

    fn check<F: F32Lanes>(words: &[[u16; COUNT]; 4], x: &[f32; 16], weight: &[f32; 16]) {
        let product: [f32; 16] = std::array::from_fn(|i| weight[i] * x[i]);
        // Behind the last candidate stands anything.
        let padded = words.map(|words| std::array::from_fn(|c| words.get(c).map_or(0o7070, |&word| i32::from(word))));
        assert_eq!(best::<F, 4, 16>(&padded, &product, weight, COUNT), search(words, x, weight));
    }

    proptest! {
        /// Words near each other, so that many scores are near each other, and weights among which scores are even equal.
        #[test]
        fn the_best_is_that_of_the_reference(
            words in prop::collection::vec(0u16..4096, 4),
            changes in prop::collection::vec((0usize..4, 0u16..4096), COUNT),
            noise in prop::collection::vec(-0.4f32..0.4, 16),
            weight in prop::collection::vec(0f32..1.0, 16),
            scale in -50i32..50,
            few: bool,
            zeros: bool,
        ) {
            let x: [f32; 16] = std::array::from_fn(|i| {
                (levels::<4>(words[i / 4])[i % 4] * 2.0 + 1.0 + noise[i]) * (scale as f32).exp2()
            });
            let weight: [f32; 16] = std::array::from_fn(|i| if zeros && weight[i] < 0.5 { 0.0 } else { weight[i] });
            let mut by_candidate = [[0; COUNT]; 4];
            let mut current: Vec<u16> = words.clone();
            for c in 0..COUNT {
                let (k, bits) = changes[c];
                current[k] ^= if few { bits & 0o111 & (bits >> 3) } else { bits & 0o1111 };
                for k in 0..4 {
                    by_candidate[k][c] = current[k];
                }
            }
            check::<Floats<8>>(&by_candidate, &x, &weight);
            check::<Floats<16>>(&by_candidate, &x, &weight);
        }
    }
}
