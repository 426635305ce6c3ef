//! The candidates of a codebook search, for a super-block.
//!
//! With rising candidates the levels of a vector change a few times only, so that a vector is looked up once for each *run*
//! of candidates with equal levels. Within a run the list of neighbours is the same, and only the scale changes: candidates
//! are lanes, and each point of the list is a [line](super::lines) over their scales. Where the lowest one leads by too little,
//! distances are summed as the reference does.

use super::cell::{from_middle, is_inside};
use super::lines::{self, Terms};
use super::nearest::{Target, nearest};
use super::{Neighbours, ON_GRID, Slot, extend_key, odd_numbers};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask, head};

/// Candidates of a search, at most.
pub(crate) const MAX_CANDIDATES: usize = 31;

/// Sub-blocks of a super-block, at most.
pub(crate) const SUB_BLOCKS: usize = 16;

/// Vectors of a super-block, at most.
const VECTORS: usize = 64;

/// Octets, 8 weights each, of a super-block.
const OCTETS: usize = 32;

/// Room for one value a candidate, written by whole vectors from any candidate on.
pub(crate) const ROOM: usize = 32 + 2 * MAX_LANES;

/// The words of a vector under each candidate, with [`ON_GRID`] where rounding alone led there.
pub(crate) type Words = [i32; ROOM];

/// One value a weight, with room for the last vector to be read by all lanes.
pub(crate) type Weights = [f32; WEIGHTS];

/// See [`Weights`].
pub(crate) const WEIGHTS: usize = 256 + MAX_LANES;

/// Pieces of runs, at most, and one more, rounded up to a power of two: a mask then takes the place of a check.
const PIECES: usize = (VECTORS * MAX_CANDIDATES + 1).next_power_of_two();

/// Candidates with equal levels, or as many of them as there are lanes. From the lowest bit: the vector (6 bits), the first
/// candidate (5 bits), the one behind the last of the run (6 bits), and from bit 32 on the [`Slot`].
#[derive(Clone, Copy)]
struct Piece(u64);

impl Piece {
    #[inline(always)]
    fn new(vector: usize, from: usize, to: usize, slot: Slot) -> Self {
        Self((vector | from << 6 | to << 11) as u64 | u64::from(slot.0) << 32)
    }

    /// The piece, so many candidates further on; there has to be one.
    #[inline(always)]
    fn moved(self, by: usize) -> Self {
        Self(self.0 + (by << 6) as u64)
    }

    #[inline(always)]
    fn vector(self) -> usize {
        (self.0 & 63) as usize
    }

    #[inline(always)]
    fn from(self) -> usize {
        (self.0 >> 6 & 31) as usize
    }

    #[inline(always)]
    fn to(self) -> usize {
        (self.0 >> 11 & 63) as usize
    }

    #[inline(always)]
    fn slot(self) -> Slot {
        Slot((self.0 >> 32) as u32)
    }
}

/// Memory for [`find`], and its result.
pub(crate) struct Workspace {
    /// The result, by vector.
    pub(crate) words: [Words; VECTORS],
    /// Keys by candidate, half of the octet and octet.
    keys: [[[i32; OCTETS]; 2]; 32],
    /// For each half of an octet and octet, as bits, the candidates at which the key changes.
    starts: [[i32; OCTETS]; 2],
    /// By how much a point has to lead.
    margins: [[f32; OCTETS]; 2],
    /// Scales by sub-block and candidate.
    scales: [[f32; ROOM]; SUB_BLOCKS],
    /// For each half of octets, as bits, those well inside their cells under all candidates.
    inside: [u32; 2],
    /// Roots of importances times magnitudes.
    products: Weights,
    pieces: [Piece; PIECES],
    /// Numbers of pieces, those with lists of equal length side by side.
    order: [u16; PIECES],
}

impl Workspace {
    /// All zeros.
    pub(crate) fn new() -> Self {
        Self {
            words: [[0; ROOM]; VECTORS],
            keys: [[[0; OCTETS]; 2]; 32],
            starts: [[0; OCTETS]; 2],
            margins: [[0.0; OCTETS]; 2],
            scales: [[0.0; ROOM]; SUB_BLOCKS],
            inside: [0; 2],
            products: [0.0; WEIGHTS],
            pieces: [Piece(0); PIECES],
            order: [0; PIECES],
        }
    }
}

/// What is searched.
pub(crate) struct Weighted<'a> {
    /// Magnitudes.
    pub(crate) x: &'a Weights,
    /// Square roots of importances.
    pub(crate) root: &'a Weights,
    /// For each sub-block the magnitude that candidates map to the largest level.
    pub(crate) widths: &'a [f32; SUB_BLOCKS],
    /// Sub-blocks that are not searched, as bits.
    pub(crate) skipped: u32,
}

/// Finds the points of all vectors of `N` weights in sub-blocks of `W`.
///
/// `tops` are the numerators of the candidates, in ascending order, `top` is what the largest level is worth. No quotient times
/// a magnitude exceeds 2^21, and no distance overflows.
///
/// Every step goes through all runs before the next begins, and runs with equally long lists follow each other, so that the
/// processor need not guess.
#[inline(always)]
pub(crate) fn find<F: F32Lanes, const N: usize, const W: usize>(
    neighbours: &Neighbours<N>,
    weighted: &Weighted<'_>,
    tops: &[f32],
    top: f32,
    workspace: &mut Workspace,
) {
    workspace.scale::<F, W>(weighted, tops);
    workspace.round::<F, N, W>(weighted, tops, top);
    let off_grid = workspace.list::<F, N, W>(neighbours, weighted, tops.len());
    let Workspace { words, margins, scales, products, pieces, order, .. } = workspace;
    let values = odd_numbers::<F, N>();
    for &number in &order[..off_grid.min(PIECES)] {
        let piece = pieces[usize::from(number) % PIECES];
        let (vector, from, slot) = (piece.vector(), piece.from(), piece.slot());
        let (octet, at) = (vector / (8 / N) % OCTETS, N * vector % 256);
        let terms = Terms::new(head(&weighted.root[at..]), head(&products[at..]), values);
        let scales = &scales[octet / (W / 8)][from..];
        let margin = margins[vector % (8 / N)][octet];
        let found = lines::lowest::<F, N>(neighbours.words(slot), slot.count(), &terms, F::load(scales), margin);
        let own = F::first(piece.to() - from);
        let words = &mut words[vector][from..];
        let old = F::Int::load(words);
        // Compilers make a masked store of a selection, which takes some processors a dozen cycles.
        (old ^ ((old ^ found.words) & F::Int::minus_one(own))).store(words);
        let mut unclear = (own & !found.clear).bits();
        while unclear != 0 {
            let lane = unclear.trailing_zeros() as usize;
            unclear &= unclear - 1;
            let (x, weight) = (head::<_, N>(&weighted.x[at..]), head(&weighted.root[at..]));
            words[lane] = i32::from(nearest(neighbours.list(slot), &Target { x, weight, values }, scales[lane]));
        }
    }
}

/// The octets of a super-block from octet `first` on, one a lane: coordinate by coordinate.
#[inline(always)]
pub(crate) fn octets<F: F32Lanes>(values: &Weights, first: usize) -> [F; 8] {
    let mut square = [F::splat(0.0); MAX_LANES];
    for lane in 0..F::LEN {
        square[lane] = F::load(&values[8 * (first + lane)..]);
    }
    F::transpose(&mut square[..F::LEN]);
    *head(&square)
}

impl Workspace {
    /// Fills in scales.
    #[inline(always)]
    fn scale<F: F32Lanes, const W: usize>(&mut self, weighted: &Weighted<'_>, tops: &[f32]) {
        // Whatever stands behind the last candidate is not used.
        let mut numerators = [1.0; 32 + MAX_LANES];
        numerators[..tops.len()].copy_from_slice(tops);
        for j in 0..256 / W {
            for at in (0..tops.len()).step_by(F::LEN) {
                let inverse = F::load(&numerators[at..]) / F::splat(weighted.widths[j]);
                (F::splat(1.0) / inverse).store(&mut self.scales[j][at..]);
            }
        }
    }

    /// Fills in keys, where they change, margins and products: octets are lanes.
    #[inline(always)]
    fn round<F: F32Lanes, const N: usize, const W: usize>(&mut self, weighted: &Weighted<'_>, tops: &[f32], top: f32) {
        let (half, zero, highest) = (F::splat(0.5), F::splat(0.0), F::splat((top - 1.0) * 0.5));
        self.inside = [0; 2];
        for first in (0..OCTETS).step_by(F::LEN) {
            let (columns, roots) = (octets::<F>(weighted.x, first), octets::<F>(weighted.root, first));
            let (mut widths, mut largest) = ([1.0; MAX_LANES], [1.0; MAX_LANES]);
            for lane in 0..F::LEN {
                let j = (first + lane) / (W / 8);
                (widths[lane], largest[lane]) = (weighted.widths[j], self.scales[j][0]);
            }
            let (width, largest) = (F::load(&widths), F::load(&largest));
            for h in 0..8 / N {
                let mut sum = zero;
                for i in N * h..N * (h + 1) {
                    let reach = largest * F::splat(top) + columns[i].abs();
                    sum = sum + roots[i] * reach * reach;
                }
                lines::margin(sum, largest).store(&mut self.margins[h][first..]);
            }
            // Half the product rounds as the product does, so that halving comes first.
            let mut halves = columns;
            for i in 0..8 {
                halves[i] = half * columns[i];
            }
            let (mut last, mut changed, mut farthest) = ([F::splat(-1.0); 2], [F::Int::splat(0); 2], [zero; 2]);
            for (c, &top) in tops.iter().enumerate() {
                let inverse = F::splat(top) / width;
                for h in 0..8 / N {
                    let mut key = zero;
                    for i in (N * h..N * (h + 1)).rev() {
                        // Limits are whole numbers, so that they may come before rounding.
                        let limited = (inverse * halves[i] - half).greater(zero).lesser(highest);
                        let level = limited.round();
                        farthest[h] = farthest[h].greater(from_middle(limited, level));
                        key = extend_key::<F, N>(key, level);
                    }
                    let same = key.eq(last[h]);
                    changed[h] = changed[h] | F::Int::select(same, F::Int::splat(0), F::Int::splat(1 << c));
                    last[h] = key;
                    key.truncate().store(&mut self.keys[c % 32][h][first..]);
                }
            }
            for h in 0..8 / N {
                changed[h].store(&mut self.starts[h][first..]);
                self.inside[h] |= is_inside(farthest[h]).bits() << first;
            }
        }
        for i in (0..256).step_by(F::LEN) {
            (F::load(&weighted.root[i..]) * F::load(&weighted.x[i..])).store(&mut self.products[i..]);
        }
    }

    /// Lists the pieces of all runs, and fills in the words of those on the grid. Returns the number of those off the grid.
    #[inline(always)]
    fn list<F: F32Lanes, const N: usize, const W: usize>(
        &mut self,
        neighbours: &Neighbours<N>,
        weighted: &Weighted<'_>,
        candidates: usize,
    ) -> usize {
        let Self { words, keys, starts, inside, pieces, order, .. } = self;
        let (mut count, mut counts) = (0, [0; Slot::LENGTHS]);
        for vector in 0..256 / N {
            let (octet, h) = (vector / (8 / N), vector % (8 / N));
            let j = octet / (W / 8);
            if weighted.skipped >> j & 1 == 1 {
                continue;
            }
            let inside = inside[h] >> octet & 1 == 1;
            // The candidate behind the last one ends the last run.
            let mut left = starts[h][octet] as u32 | 1 << candidates;
            loop {
                let from = left.trailing_zeros() as usize % 32;
                left &= left - 1;
                if left == 0 {
                    break;
                }
                let to = left.trailing_zeros() as usize % 32;
                let slot = neighbours.slot(keys[from][h][octet] as usize, inside);
                // The run's point if there is but one, up to the last candidate: runs behind it follow.
                let word = F::Int::splat(i32::from(slot.word()) | ON_GRID);
                for at in (0..candidates).step_by(F::LEN) {
                    word.store(&mut words[vector][from + at..]);
                }
                neighbours.ask_for(slot);
                let piece = Piece::new(vector, from, to, slot);
                pieces[count % PIECES] = piece;
                // Written in any case, and there if the next piece does not take its place.
                pieces[(count + 1) % PIECES] = piece.moved(F::LEN);
                let mut added = 1 + usize::from(to - from > F::LEN);
                while added * F::LEN < to - from {
                    pieces[(count + added) % PIECES] = piece.moved(added * F::LEN);
                    added += 1;
                }
                count += added;
                counts[slot.length()] += added;
            }
        }
        // From numbers to places. Points of the codebook come last.
        let mut off_grid = 0;
        for length in (1..Slot::LENGTHS).chain([0]) {
            let place = off_grid;
            off_grid += if length == 0 { 0 } else { counts[length] };
            counts[length] = place;
        }
        for number in 0..count {
            let place = &mut counts[pieces[number % PIECES].slot().length()];
            order[*place % PIECES] = number as u16;
            *place += 1;
        }
        off_grid
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
    fn check<const N: usize, const W: usize>(
        neighbours: &Neighbours<N>,
        top: f32,
        step: f32,
        reach: i32,
        x: &[f32],
        root: &[f32],
    ) {
        let tops: Vec<f32> = (-reach..=reach).map(|i| top + i as f32 * step).collect();
        let padded = |values: &[f32]| std::array::from_fn(|i| *values.get(i).unwrap_or(&0.0));
        let mut widths = [1.0; SUB_BLOCKS];
        for (width, x) in widths.iter_mut().zip(x.chunks(W)) {
            *width = x.iter().fold(f32::MIN_POSITIVE, |a, &b| if a > b { a } else { b });
        }
        let weighted = Weighted { x: &padded(x), root: &padded(root), widths: &widths, skipped: 4 };
        let mut workspace = Workspace::new();
        find::<F, N, W>(neighbours, &weighted, &tops, top, &mut workspace);
        for vector in (0..256 / N).filter(|v| N * v / W != 2) {
            let (x, root): (&[f32; N], &[f32; N]) = (head(&x[N * vector..]), head(&root[N * vector..]));
            for (c, &top_c) in tops.iter().enumerate() {
                let inverse = top_c / widths[N * vector / W];
                let level =
                    |v: f32| nearest_int(0.5 * (inverse * v - 1.0)).clamp(0, ((top - 1.0) / 2.0) as i32) as usize;
                let key = x.iter().rev().fold(0, |key, &v| key * if N == 8 { 3 } else { 8 } + level(v));
                let expected = match neighbours.spot(key, false) {
                    Spot::OnGrid(word) => i32::from(word) | ON_GRID,
                    Spot::Near(list) => {
                        let distances = spelled_out(list, x, root, 1.0 / inverse);
                        i32::from(list.words.as_flattened()[nearest_spelled_out(&distances)])
                    }
                };
                assert_eq!(workspace.words[vector][c], expected, "vector {vector}, candidate {c}");
            }
        }
    }

    proptest! {
        #[test]
        fn all_candidates_of_a_super_block(
            values in prop::collection::vec(-0.1f32..1.0, 256),
            roots in prop::collection::vec(0f32..1.0, 256),
            scale in -30i32..20,
            coarse: bool,
        ) {
            // Coarse values have many equal distances.
            let round = |v: f32| if coarse { (v * 8.0).round() / 8.0 } else { v };
            let x: Vec<f32> = values.iter().map(|&v| round(v) * (scale as f32).exp2()).collect();
            let roots: Vec<f32> = roots.iter().map(|&v| round(v)).collect();
            check::<4, 32>(&grid::IQ3_XXS, 15.0, 0.2, 15, &x, &roots);
            check::<4, 32>(&grid::IQ3_S, 15.0, 0.2, 9, &x, &roots);
            check::<8, 32>(&grid::IQ2_XXS, 5.0, 0.1, 6, &x, &roots);
            check::<8, 16>(&grid::IQ2_XS, 5.0, 0.1, 9, &x, &roots);
            check::<8, 16>(&grid::IQ2_S, 5.0, 0.1, 9, &x, &roots);
        }
    }
}
