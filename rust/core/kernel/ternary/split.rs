//! The best split of sorted weights into three runs, for as many sub-blocks as there are lanes.
//!
//! The reference goes through all splits and keeps one that beats the one kept before, `q_x^2 > score * q_2`, where `score`
//! is the rounded `q_x^2 / q_2` of the latter. All of this together rounds by less than `5 * u` of the quotients, `u = 2^-24`.
//! So if the quotient of one split exceeds that of every other by more than `16 * u` of itself, that split is kept in the end:
//! it beats whatever was kept before, and is not beaten by what comes after. Quotients are computed here from the same sums
//! as there. Where the lead is smaller, or so small that underflow matters, only the reference can tell.

use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};
use crate::reference::ternary::{DOWN, UP};

/// From here on weights might make sums overflow.
pub(super) const HUGE: f32 = 1e5;
/// From here on importances might.
const HUGE_IMPORTANCE: f32 = 1e10;
/// Below this sum of importances products might underflow.
const LEAST_IMPORTANCE: f32 = 1e-14;
/// Below this quotient they might as well.
const LEAST_QUOTIENT: f32 = 1e-20;
/// The lead that a split needs: a little over `16 * u` below 1.
const LEAD: f32 = 1.0 - 1.0 / 524_288.0;

/// Positions between sorted weights, at most.
const POSITIONS: usize = 33;

/// Values of all lanes in memory.
type Stored = [f32; MAX_LANES];

/// Memory that is used again for each group of sub-blocks.
pub(super) struct Scratch<F> {
    /// Sums of importance times weight, and of importances, up to each position; in two halves if both have shifts.
    x: [[Stored; POSITIONS]; 2],
    w: [[Stored; POSITIONS]; 2],
    /// Terms of `q_x` and `q_2` that depend on the second boundary alone.
    x_terms: [[F; POSITIONS]; 2],
    w_terms: [[F; POSITIONS]; 4],
    ranks: [F; POSITIONS],
}

impl<F: F32Lanes> Scratch<F> {
    /// All zeros.
    #[inline(always)]
    pub(super) fn new() -> Self {
        let zero = F::splat(0.0);
        Self {
            x: [[[0.0; MAX_LANES]; POSITIONS]; 2],
            w: [[[0.0; MAX_LANES]; POSITIONS]; 2],
            x_terms: [[zero; POSITIONS]; 2],
            w_terms: [[zero; POSITIONS]; 4],
            ranks: [zero; POSITIONS],
        }
    }
}

/// The best splits.
pub(super) struct Splits<F: F32Lanes> {
    /// Least-squares scales, with their sign taken out.
    pub(super) scale: F,
    /// Lanes, as bits, in which levels are shifted down: for the sub-block (twice), or for either half.
    pub(super) down: [u32; 2],
    /// Lanes in which the split is certain.
    pub(super) clear: F::Mask,
    levels: [F; POSITIONS],
}

impl<F: F32Lanes> Splits<F> {
    /// Levels of weight `i`.
    #[inline(always)]
    pub(super) fn level(&self, i: usize) -> F {
        self.levels[i]
    }
}

/// A mask from one bit a lane.
#[inline(always)]
pub(super) fn lanes_of_bits<F: F32Lanes>(bits: u32) -> F::Mask {
    let mut lanes = [0.0; MAX_LANES];
    for (lane, value) in lanes.iter_mut().enumerate() {
        *value = (bits >> lane & 1) as f32;
    }
    F::splat(0.0).lt(F::load(&lanes))
}

/// The largest quotient, the next one, and a number for the former.
struct Best<F: F32Lanes> {
    quotient: F,
    next: F,
    number: F::Int,
    /// What a quotient must exceed to be the largest, or too close to it.
    floor: F,
}

impl<F: F32Lanes> Best<F> {
    /// Offers the sums of some splits, numbered from `number` on.
    ///
    /// Almost no split comes near the best one of any lane, and a product tells without a division: what it rounds away is
    /// little beside the lead that is asked for.
    #[inline(always)]
    fn offer<const S: usize>(&mut self, sums: &[(F, F); S], number: usize) {
        let mut squares = [self.floor; S];
        let mut near = self.floor.lt(self.floor);
        for s in 0..S {
            squares[s] = sums[s].0 * sums[s].0;
            near = near | (self.floor * sums[s].1).lt(squares[s]);
        }
        if !near.any() {
            return;
        }
        for s in 0..S {
            let quotient = squares[s] / sums[s].1;
            let better = self.quotient.lt(quotient);
            self.number = F::Int::select(better, F::Int::splat((number + s) as i32), self.number);
            self.next = self.next.greater(self.quotient.lesser(quotient));
            self.quotient = self.quotient.greater(quotient);
        }
        self.floor = self.quotient * F::splat(LEAD);
    }
}

/// Finds the best splits of sub-blocks of 32 with one shift, or of 16 with a shift for each half.
#[inline(always)]
pub(super) fn best<F: F32Lanes, const W: usize>(
    x: &[[F; 1]; W],
    weights: &[[F; 1]; W],
    scratch: &mut Scratch<F>,
) -> Splits<F> {
    sort::<F, W>(x, weights, scratch);
    let least = F::splat(-1.0);
    let mut best = Best { quotient: least, next: least, number: F::Int::splat(0), floor: least };
    if W == 32 {
        score_whole(scratch, &mut best)
    } else {
        score_halves(scratch, &mut best)
    }
    let mut moderate = weights[0][0].lt(F::splat(HUGE_IMPORTANCE));
    for i in 1..W {
        moderate = moderate & weights[i][0].lt(F::splat(HUGE_IMPORTANCE));
    }
    let total = F::load(&scratch.w[0][W]) + F::load(&scratch.w[1][W]);
    let clear = moderate
        & total.gt(F::splat(LEAST_IMPORTANCE))
        & best.quotient.gt(F::splat(LEAST_QUOTIENT))
        & best.next.lt(best.quotient * F::splat(LEAD));
    let mut numbers = [0; MAX_LANES];
    best.number.store(&mut numbers);
    let (mut firsts, mut seconds, mut scales) = ([0.0; MAX_LANES], [0.0; MAX_LANES], [0.0; MAX_LANES]);
    let mut down = [0u32; 2];
    for lane in 0..F::LEN {
        let number = numbers[lane] as usize;
        let (first, second) = (number / 4 / POSITIONS, number / 4 % POSITIONS);
        // One shift is there twice.
        let shifts = if W == 32 { [number % 2; 2] } else { [number / 2 % 2, number % 2] };
        let at = |sums: &[Stored; POSITIONS]| [sums[0][lane], sums[first][lane], sums[second][lane], sums[W][lane]];
        let (sum_qx, sum_q2) = if W == 32 {
            whole(at(&scratch.x[0]), at(&scratch.w[0]), values(shifts[0]))
        } else {
            let low = half(at(&scratch.x[0]), at(&scratch.w[0]), values(shifts[0]));
            let high = half(at(&scratch.x[1]), at(&scratch.w[1]), values(shifts[1]));
            (low.0 + high.0, low.1 + high.1)
        };
        (firsts[lane], seconds[lane], scales[lane]) = (first as f32, second as f32, sum_qx / sum_q2);
        for k in 0..2 {
            down[k] |= ((shifts[k] ^ usize::from(scales[lane] < 0.0)) as u32) << lane;
        }
    }
    let (zero, one, two) = (F::splat(0.0), F::splat(1.0), F::splat(2.0));
    let (first, second, scale) = (F::load(&firsts), F::load(&seconds), F::load(&scales));
    let turned = scale.lt(zero);
    let mut levels = [zero; POSITIONS];
    for i in 0..W {
        let rank = scratch.ranks[i];
        let level = F::select(rank.lt(first), zero, one) + F::select(rank.lt(second), zero, one);
        levels[i] = F::select(turned, two - level, level);
    }
    Splits { scale: F::select(turned, scale.neg(), scale), down, clear, levels }
}

fn values(shift: usize) -> &'static [f32; 3] {
    if shift == 1 { &DOWN } else { &UP }
}

/// The sums of a split from the prefix sums at 0, both boundaries and the end.
fn whole(x: [f32; 4], w: [f32; 4], v: &[f32; 3]) -> (f32, f32) {
    let (x, w) = ([x[1] - x[0], x[2] - x[1], x[3] - x[2]], [w[1] - w[0], w[2] - w[1], w[3] - w[2]]);
    let sum_qx = x[0] * v[0] + x[1] * v[1] + x[2] * v[2];
    (sum_qx, w[0] * v[0] * v[0] + w[1] * v[1] * v[1] + w[2] * v[2] * v[2])
}

/// The same for one half, whose sums follow from its totals.
fn half(x: [f32; 4], w: [f32; 4], v: &[f32; 3]) -> (f32, f32) {
    let sum_qx = x[3] * v[2] - (x[1] + x[2]);
    (sum_qx, w[3] * v[2] * v[2] + w[1] * (v[0] * v[0] - v[1] * v[1]) + w[2] * (v[1] * v[1] - v[2] * v[2]))
}

/// Positions of the first boundary, beginning where it usually is.
#[inline(always)]
fn outwards<const W: usize>(step: usize) -> usize {
    let usual = 5 * W / 16;
    let offset = step.div_ceil(2);
    if step.is_multiple_of(2) { (usual + offset) % (W + 1) } else { (usual + W + 1 - offset) % (W + 1) }
}

/// Ranks of weights, equal ones in order of position, and sums over the sorted weights.
#[inline(always)]
fn sort<F: F32Lanes, const W: usize>(x: &[[F; 1]; W], weights: &[[F; 1]; W], scratch: &mut Scratch<F>) {
    let (zero, one) = (F::splat(0.0), F::splat(1.0));
    let ranks = &mut scratch.ranks;
    for i in 0..W {
        ranks[i] = F::splat(i as f32);
    }
    for i in 0..W {
        // Of two, the first goes behind the second only if it is greater.
        let mut rank = ranks[i];
        for j in i + 1..W {
            let behind = F::select(x[j][0].lt(x[i][0]), one, zero);
            rank = rank + behind;
            ranks[j] = ranks[j] - behind;
        }
        ranks[i] = rank;
    }
    for i in 0..W {
        let (mut positions, mut products, mut importances) = ([0; MAX_LANES], [0.0; MAX_LANES], [0.0; MAX_LANES]);
        ranks[i].nearest_int().store(&mut positions);
        (weights[i][0] * x[i][0]).store(&mut products);
        weights[i][0].store(&mut importances);
        let own = if W == 32 { 0 } else { i / 8 };
        for lane in 0..F::LEN {
            // Sums up to a position come after it.
            let to = positions[lane] as usize + 1;
            scratch.x[own][to][lane] = products[lane];
            scratch.w[own][to][lane] = importances[lane];
            if W == 16 {
                scratch.x[1 - own][to][lane] = 0.0;
                scratch.w[1 - own][to][lane] = 0.0;
            }
        }
    }
    for h in 0..32 / W {
        let (mut sum_x, mut sum_w) = (zero, zero);
        for position in 1..=W {
            sum_x = sum_x + F::load(&scratch.x[h][position]);
            sum_w = sum_w + F::load(&scratch.w[h][position]);
            sum_x.store(&mut scratch.x[h][position]);
            sum_w.store(&mut scratch.w[h][position]);
        }
    }
}

/// Scores all splits of 32 weights under both shifts.
#[inline(always)]
fn score_whole<F: F32Lanes>(scratch: &mut Scratch<F>, best: &mut Best<F>) {
    let Scratch { x: [x, _], w: [w, _], x_terms, w_terms, .. } = scratch;
    let shifts = [UP, DOWN].map(|v| [F::splat(v[0]), F::splat(v[1]), F::splat(v[2])]);
    for second in 0..=32 {
        let (x2, w2) = (F::load(&x[32]) - F::load(&x[second]), F::load(&w[32]) - F::load(&w[second]));
        for shift in 0..2 {
            let v = shifts[shift][2];
            x_terms[shift][second] = x2 * v;
            w_terms[shift][second] = w2 * v * v;
        }
    }
    for step in 0..=32 {
        let first = outwards::<32>(step);
        let (x0, w0) = (F::load(&x[first]), F::load(&w[first]));
        let (mut x_first, mut w_first) = ([x0; 2], [w0; 2]);
        for shift in 0..2 {
            let v = shifts[shift][0];
            x_first[shift] = x0 * v;
            w_first[shift] = w0 * v * v;
        }
        for second in first..=32 {
            let (x1, w1) = (F::load(&x[second]) - x0, F::load(&w[second]) - w0);
            // The middle level is 1/8 or -1/8: its square is the same for both shifts.
            let w1 = w1 * shifts[0][1] * shifts[0][1];
            let mut sums = [(x1, w1); 2];
            for shift in 0..2 {
                sums[shift].0 = x_first[shift] + x1 * shifts[shift][1] + x_terms[shift][second];
                sums[shift].1 = w_first[shift] + w1 + w_terms[shift][second];
            }
            best.offer(&sums, (first * POSITIONS + second) * 4);
        }
    }
}

/// Scores all splits of 16 weights under all shifts of either half.
#[inline(always)]
fn score_halves<F: F32Lanes>(scratch: &mut Scratch<F>, best: &mut Best<F>) {
    let Scratch { x, w, w_terms, .. } = scratch;
    let shifts = [UP, DOWN];
    let (mut x_total, mut w_total) = ([F::splat(0.0); 4], [F::splat(0.0); 4]);
    for h in 0..2 {
        for shift in 0..2 {
            let v = shifts[shift];
            x_total[2 * h + shift] = F::load(&x[h][16]) * F::splat(v[2]);
            w_total[2 * h + shift] = F::load(&w[h][16]) * F::splat(v[2]) * F::splat(v[2]);
            for second in 0..=16 {
                w_terms[2 * h + shift][second] = F::load(&w[h][second]) * F::splat(v[1] * v[1] - v[2] * v[2]);
            }
        }
    }
    for step in 0..=16 {
        let first = outwards::<16>(step);
        let mut w_first = w_total;
        for h in 0..2 {
            for shift in 0..2 {
                let v = shifts[shift];
                let term = F::load(&w[h][first]) * F::splat(v[0] * v[0] - v[1] * v[1]);
                w_first[2 * h + shift] = w_total[2 * h + shift] + term;
            }
        }
        for second in first..=16 {
            let (mut sum_qx, mut sum_q2) = (x_total, w_first);
            for h in 0..2 {
                let runs = F::load(&x[h][first]) + F::load(&x[h][second]);
                for shift in 0..2 {
                    let at = 2 * h + shift;
                    sum_qx[at] = x_total[at] - runs;
                    sum_q2[at] = w_first[at] + w_terms[at][second];
                }
            }
            let mut sums = [(sum_qx[0], sum_q2[0]); 4];
            for low in 0..2 {
                for high in 0..2 {
                    sums[2 * low + high] = (sum_qx[low] + sum_qx[2 + high], sum_q2[low] + sum_q2[2 + high]);
                }
            }
            best.offer(&sums, (first * POSITIONS + second) * 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lanes::portable::Floats;
    use crate::reference::ternary::{BestSplit, ascending};

    /// All splits in the order of the reference, by the same sums.
    fn in_order<const W: usize>(x: &[f32; W], weights: &[f32; W]) -> Option<(f32, [bool; 2], [u8; W])> {
        let order = ascending(x);
        let mut sums = [[[0.0f32; POSITIONS]; 2]; 2];
        for (j, &i) in order.iter().enumerate() {
            let i = usize::from(i);
            for h in 0..2 {
                let own = W == 32 && h == 0 || W == 16 && i / 8 == h;
                let (w, product) = if own { (weights[i], weights[i] * x[i]) } else { (0.0, 0.0) };
                sums[0][h][j + 1] = sums[0][h][j] + product;
                sums[1][h][j + 1] = sums[1][h][j] + w;
            }
        }
        let mut best = BestSplit::default();
        for first in 0..=W {
            for second in first..=W {
                let at = |sums: &[f32; POSITIONS]| [sums[0], sums[first], sums[second], sums[W]];
                for shifts in if W == 32 { vec![[0, 0], [1, 1]] } else { vec![[0, 0], [0, 1], [1, 0], [1, 1]] } {
                    let (qx, q2) = if W == 32 {
                        whole(at(&sums[0][0]), at(&sums[1][0]), values(shifts[0]))
                    } else {
                        let low = half(at(&sums[0][0]), at(&sums[1][0]), values(shifts[0]));
                        let high = half(at(&sums[0][1]), at(&sums[1][1]), values(shifts[1]));
                        (low.0 + high.0, low.1 + high.1)
                    };
                    best.offer(first, second, shifts, qx, q2);
                }
            }
        }
        let split = best.finish()?;
        let down = split.shift.map(|shift| (shift == 1) != (split.scale < 0.0));
        Some((split.scale.abs(), down, split.levels(&order)))
    }

    /// Returns the number of lanes that were clear.
    fn check<F: F32Lanes, const W: usize>(x: &[f32], weights: &[f32]) -> u32 {
        let column = |values: &[f32], i: usize| {
            F::load(&std::array::from_fn::<_, MAX_LANES, _>(|lane| values[(W * lane + i) % values.len()]))
        };
        let columns = |values: &[f32]| std::array::from_fn::<_, W, _>(|i| [column(values, i)]);
        let splits = best::<F, W>(&columns(x), &columns(weights), &mut Scratch::new());
        let mut scales = [0.0; MAX_LANES];
        splits.scale.store(&mut scales);
        for lane in (0..F::LEN).filter(|lane| splits.clear.bits() >> lane & 1 == 1) {
            let at = |values: &[f32]| std::array::from_fn::<_, W, _>(|i| values[(W * lane + i) % values.len()]);
            let (scale, down, levels) = in_order(&at(x), &at(weights)).expect("a clear split is one");
            assert_eq!(scales[lane].to_bits(), scale.to_bits());
            assert_eq!(splits.down.map(|bits| bits >> lane & 1 == 1), down);
            for (i, level) in levels.into_iter().enumerate() {
                let mut lanes = [0.0; MAX_LANES];
                splits.level(i).store(&mut lanes);
                assert_eq!(lanes[lane], f32::from(level));
            }
        }
        splits.clear.bits().count_ones()
    }

    #[test]
    fn every_first_boundary_has_its_turn() {
        let mut all: Vec<_> = (0..=32).map(outwards::<32>).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..=32));
        let mut all: Vec<_> = (0..=16).map(outwards::<16>).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..=16));
    }

    proptest! {
        #[test]
        fn clear_splits_are_those_of_the_reference(
            values in prop::collection::vec(-1f32..1.0, 256),
            weights in prop::collection::vec(0f32..1.0, 256),
            scale in -12i32..8,
            coarse: bool,
        ) {
            let round = |v: f32| if coarse { (v * 4.0).round() / 4.0 } else { v };
            let x: Vec<f32> = values.iter().map(|&v| round(v) * (scale as f32).exp2()).collect();
            let weights: Vec<f32> = weights.iter().map(|&v| round(v)).collect();
            let clear = check::<Floats<8>, 32>(&x, &weights) + check::<Floats<8>, 16>(&x, &weights);
            prop_assert!(coarse || clear > 8);
            check::<Floats<16>, 32>(&x, &weights);
            check::<Floats<16>, 16>(&x, &weights);
        }
    }
}
