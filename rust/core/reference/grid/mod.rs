//! Codebooks of the i-quants and the way from a rounded vector to a point of its codebook.
//!
//! An i-quant cuts weights into vectors of `N` coordinates (8 or 4), rounds each coordinate to a level, and stores the
//! index of a codebook point. Most rounded vectors are not in the codebook; for those the encoder tries the points
//! nearest to them by plain lattice distance. That list is part of the format's definition as far as bytes go: its
//! length decides which points can be chosen, and its order decides between equal errors.

pub mod codewords;

use std::ops::Range;
use std::sync::LazyLock;

/// Where a rounded vector leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'g> {
    /// The vector is the point with this index.
    OnGrid(u16),
    /// The vector is not in the codebook; these are the points to try, in this order.
    Near(&'g [u16]),
}

/// Neighbour list of one rounded vector, or its own index.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// First neighbour, or the index of the point if `count` is 0.
    start: u32,
    count: u16,
}

/// A codebook of points with `N` coordinates, each a level from 0 to `max_level`, worth `2 * level + 1`.
#[derive(Debug)]
pub struct Grid<const N: usize> {
    max_level: u8,
    points: Vec<[u8; N]>,
    slots: Vec<Slot>,
    neighbours: Vec<u16>,
}

/// Grid of `IQ2_XXS`.
pub static IQ2_XXS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&codewords::IQ2_XXS, 2, 2));
/// Grid of `IQ2_XS`.
pub static IQ2_XS: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&codewords::IQ2_XS, 2, 2));
/// Grid of `IQ2_S`.
pub static IQ2_S: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&codewords::IQ2_S, 2, 1));
/// Grid of `IQ1_S` and `IQ1_M`.
pub static IQ1: LazyLock<Grid<8>> = LazyLock::new(|| Grid::new(&codewords::IQ1, 2, 3));
/// Grid of `IQ3_XXS`.
pub static IQ3_XXS: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&codewords::IQ3_XXS, 7, 2));
/// Grid of `IQ3_S`.
pub static IQ3_S: LazyLock<Grid<4>> = LazyLock::new(|| Grid::new(&codewords::IQ3_S, 7, 3));

/// Bits of one coordinate in a packed vector.
const fn level_bits<const N: usize>() -> usize {
    if N == 8 { 2 } else { 3 }
}

/// Level of coordinate `i` in a packed vector.
#[inline]
pub const fn level<const N: usize>(packed: u16, i: usize) -> usize {
    (packed as usize >> (level_bits::<N>() * i)) & ((1 << level_bits::<N>()) - 1)
}

fn pack<const N: usize>(levels: &[u8; N]) -> usize {
    levels.iter().enumerate().fold(0, |packed, (i, &l)| packed | usize::from(l) << (level_bits::<N>() * i))
}

impl<const N: usize> Grid<N> {
    /// Unpacks `codewords` and lists, for every vector of levels up to `max_level` that is not among them, the points
    /// at its `shells` smallest distances, nearest first and in order of index within one distance.
    ///
    /// Vectors with a level above `max_level` get no list: encoders clamp their levels and never ask for one.
    fn new(codewords: &[u16], max_level: u8, shells: usize) -> Self {
        let points: Vec<[u8; N]> =
            codewords.iter().map(|&word| std::array::from_fn(|i| level::<N>(word, i) as u8)).collect();
        let mut slots = vec![Slot::default(); 1 << (N * level_bits::<N>())];
        let mut on_grid = vec![false; slots.len()];
        for (index, &word) in codewords.iter().enumerate() {
            slots[usize::from(word)] = Slot { start: index as u32, count: 0 };
            on_grid[usize::from(word)] = true;
        }
        let mut neighbours = Vec::new();
        let mut distances = vec![0u16; points.len()];
        for packed in 0..slots.len() {
            let vector: [u8; N] = std::array::from_fn(|i| level::<N>(packed as u16, i) as u8);
            if on_grid[packed] || vector.iter().any(|&l| l > max_level) {
                continue;
            }
            for (distance, point) in distances.iter_mut().zip(&points) {
                *distance = squared_distance(point, &vector);
            }
            let start = neighbours.len();
            let mut nearest = None;
            for _ in 0..shells {
                // The smallest distance beyond the shells already listed, if any point is left.
                nearest = distances.iter().copied().filter(|&d| nearest.is_none_or(|n| d > n)).min();
                let Some(shell) = nearest else { break };
                neighbours.extend((0u16..).zip(&distances).filter(|&(_, &d)| d == shell).map(|(index, _)| index));
            }
            slots[packed] = Slot { start: start as u32, count: (neighbours.len() - start) as u16 };
        }
        Self { max_level, points, slots, neighbours }
    }

    /// The highest level a coordinate can have.
    pub fn max_level(&self) -> u8 {
        self.max_level
    }

    /// Indices of all points.
    pub fn indices(&self) -> Range<u16> {
        0..self.points.len() as u16
    }

    /// Levels of the point with this index.
    #[inline]
    pub fn point(&self, index: u16) -> &[u8; N] {
        &self.points[usize::from(index)]
    }

    /// Looks up a rounded vector, whose levels are at most `max_level`.
    #[inline]
    pub fn place(&self, levels: &[u8; N]) -> Place<'_> {
        let slot = self.slots[pack(levels)];
        if slot.count == 0 {
            Place::OnGrid(slot.start as u16)
        } else {
            Place::Near(&self.neighbours[slot.start as usize..][..usize::from(slot.count)])
        }
    }
}

fn squared_distance<const N: usize>(a: &[u8; N], b: &[u8; N]) -> u16 {
    a.iter().zip(b).map(|(&p, &q)| u16::from(p.abs_diff(q)).pow(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const N: usize>(grid: &Grid<N>, shells: usize) {
        let base = usize::from(grid.max_level()) + 1;
        for number in 0..base.pow(N as u32) {
            let vector: [u8; N] = std::array::from_fn(|i| (number / base.pow(i as u32) % base) as u8);
            // The definition, spelled out: sort all points by (distance, index), keep the first shells.
            let mut ranked: Vec<(u16, u16)> =
                grid.indices().map(|i| (squared_distance(grid.point(i), &vector), i)).collect();
            ranked.sort_unstable();
            match grid.place(&vector) {
                Place::OnGrid(index) => assert_eq!(grid.point(index), &vector),
                Place::Near(list) => {
                    assert!(ranked[0].0 > 0);
                    let mut kept: Vec<u16> = ranked.iter().map(|r| r.0).collect();
                    kept.dedup();
                    let limit = kept[shells.min(kept.len()) - 1];
                    let wanted: Vec<u16> = ranked.iter().filter(|r| r.0 <= limit).map(|r| r.1).collect();
                    assert_eq!(list, wanted);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_whole_shells_in_order() {
        check(&IQ2_XXS, 2);
        check(&IQ2_XS, 2);
        check(&IQ2_S, 1);
        check(&IQ1, 3);
        check(&IQ3_XXS, 2);
        check(&IQ3_S, 3);
    }

    #[test]
    fn every_codebook_is_sorted_and_starts_at_zero() {
        let books: [&[u16]; 6] = [
            &codewords::IQ2_XXS,
            &codewords::IQ2_XS,
            &codewords::IQ2_S,
            &codewords::IQ1,
            &codewords::IQ3_XXS,
            &codewords::IQ3_S,
        ];
        for book in books {
            assert_eq!(book[0], 0);
            assert!(book.is_sorted_by(|a, b| a < b));
        }
    }
}
