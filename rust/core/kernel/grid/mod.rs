//! Codebooks for kernels: from a rounded vector to the points near it, in tables that fit a core's own cache.
//!
//! A *word* packs the levels of a vector as the codebooks have them: 2 bits a level in vectors of 8, 3 bits in vectors of 4.
//! A *key* numbers all vectors of levels that occur: in base 3 for vectors of 8, in base 8 for vectors of 4, where it is the
//! word itself.
//!
//! - [`nearest`]: the best of some points under a scale;
//! - [`candidates`]: the points of a sub-block under a row of scales, and the best scale.

pub(crate) mod candidates;
pub(crate) mod nearest;

use std::sync::LazyLock;

use crate::lanes::F32Lanes;
use crate::reference::grid::{self, Grid, Place};

/// The most neighbours a vector has in any codebook, filled up to whole vectors.
pub(crate) const MAX_LIST: usize = 304;

/// Bits of a level in a word.
pub(crate) const fn bits<const N: usize>() -> u32 {
    if N == 8 { 2 } else { 3 }
}

/// The base of keys.
const fn base<const N: usize>() -> usize {
    if N == 8 { 3 } else { 8 }
}

/// The key of a word.
#[inline(always)]
pub(crate) fn key_of_word<const N: usize>(word: u16) -> usize {
    let word = u32::from(word);
    if N == 4 {
        return word as usize;
    }
    // Two levels a nibble in base 9, then four a byte in base 81.
    let pairs = word - ((word >> 2) & 0x3333);
    let fours = pairs - 7 * ((pairs >> 4) & 0x0f0f);
    ((fours & 255) + 81 * (fours >> 8)) as usize
}

/// Adds level `i` of vectors to their keys, from the last coordinate to the first.
#[inline(always)]
pub(crate) fn extend_key<F: F32Lanes, const N: usize>(key: F, level: F) -> F {
    key * F::splat(base::<N>() as f32) + level
}

/// Entries of a table with one entry a level, by the lowest level of each word.
#[inline(always)]
pub(crate) fn look_up<F: F32Lanes, const N: usize>(table: F, words: F::Int) -> F {
    if N == 8 { table.look_up_4(words) } else { table.look_up_8(words) }
}

/// Words without their lowest level.
#[inline(always)]
pub(crate) fn next_level<I: crate::lanes::I32Lanes, const N: usize>(words: I) -> I {
    if N == 8 { words.shr::<2>() } else { words.shr::<3>() }
}

/// What each level is worth, as a table.
#[inline(always)]
pub(crate) fn odd_numbers<F: F32Lanes, const N: usize>() -> F {
    let levels = 1 << bits::<N>();
    let table: [f32; crate::lanes::MAX_LANES] = std::array::from_fn(|i| (2 * (i % levels) + 1) as f32);
    F::load(&table)
}

/// Where a rounded vector leads.
#[derive(Clone, Copy)]
pub(crate) enum Spot<'n> {
    /// It is the point with this word.
    OnGrid(u16),
    /// It is not in the codebook.
    Near(List<'n>),
}

/// The neighbours of a vector.
#[derive(Clone, Copy)]
pub(crate) struct List<'n> {
    /// Their words in order, and then more of them until the number is one of whole vectors.
    pub(crate) words: &'n [u16],
    /// How many there are.
    pub(crate) count: usize,
}

/// A codebook's points and neighbour lists by key.
pub(crate) struct Neighbours<const N: usize> {
    /// For each key, the number of neighbours in the lower half and the group at which they start in the upper; for points
    /// of the codebook 0 and their word.
    slots: Vec<u32>,
    /// Index of the point with this key.
    indices: Vec<u16>,
    words: Vec<u16>,
    lanes: usize,
}

impl<const N: usize> Neighbours<N> {
    /// Lists for vectors of `lanes` lanes.
    fn new(grid: &Grid<N>, lanes: usize) -> Self {
        let keys = base::<N>().pow(N as u32);
        let mut all = Self { slots: Vec::with_capacity(keys), indices: vec![0; keys], words: Vec::new(), lanes };
        let pack =
            |levels: &[u8; N]| (0..N).fold(0, |word, i| word | u16::from(levels[i]) << (bits::<N>() as usize * i));
        for key in 0..keys {
            let levels: [u8; N] = std::array::from_fn(|i| (key / base::<N>().pow(i as u32) % base::<N>()) as u8);
            all.slots.push(match grid.place(&levels) {
                Place::OnGrid(index) => {
                    all.indices[key] = index;
                    u32::from(pack(&levels)) << 16
                }
                Place::Near(list) => {
                    let start = all.words.len() / lanes;
                    all.words.extend(list.iter().map(|&index| pack(grid.point(index))));
                    let filled = all.words.len().next_multiple_of(lanes);
                    all.words.resize(filled, pack(grid.point(list[0])));
                    (start as u32) << 16 | list.len() as u32
                }
            });
        }
        all
    }

    /// Looks up a rounded vector.
    #[inline(always)]
    pub(crate) fn spot(&self, key: usize) -> Spot<'_> {
        let slot = self.slots[key];
        let (start, count) = ((slot >> 16) as usize, (slot & 0xffff) as usize);
        if count == 0 {
            return Spot::OnGrid(start as u16);
        }
        Spot::Near(List { words: &self.words[start * self.lanes..][..count.next_multiple_of(self.lanes)], count })
    }

    /// Index of the point with this word.
    #[inline(always)]
    pub(crate) fn index(&self, word: u16) -> u16 {
        self.indices[key_of_word::<N>(word)]
    }
}

/// The lists of a codebook for each width of vectors, made when first needed.
pub(crate) struct Book<const N: usize>([LazyLock<Neighbours<N>>; 2]);

impl<const N: usize> Book<N> {
    /// The lists for vectors of `lanes` lanes, 8 or 16.
    pub(crate) fn for_lanes(&self, lanes: usize) -> &Neighbours<N> {
        &self.0[usize::from(lanes > 8)]
    }
}

macro_rules! books {
    ($($name:ident: $n:literal),+) => {$(
        #[doc = concat!("The codebook of `", stringify!($name), "`.")]
        pub(crate) static $name: Book<$n> = Book([
            LazyLock::new(|| Neighbours::new(&grid::$name, 8)),
            LazyLock::new(|| Neighbours::new(&grid::$name, 16)),
        ]);
    )+};
}

books!(IQ2_XXS: 8, IQ2_XS: 8, IQ2_S: 8, IQ1: 8, IQ3_XXS: 4, IQ3_S: 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const N: usize>(grid: &Grid<N>, book: &Book<N>) {
        for lanes in [8, 16] {
            let neighbours = book.for_lanes(lanes);
            for key in 0..base::<N>().pow(N as u32) {
                let levels: [u8; N] = std::array::from_fn(|i| (key / base::<N>().pow(i as u32) % base::<N>()) as u8);
                match (grid.place(&levels), neighbours.spot(key)) {
                    (Place::OnGrid(index), Spot::OnGrid(word)) => {
                        assert_eq!(key_of_word::<N>(word), key);
                        assert_eq!(neighbours.index(word), index);
                    }
                    (Place::Near(expected), Spot::Near(list)) => {
                        let indices = list.words.iter().map(|&word| neighbours.index(word));
                        assert!(indices.take(list.count).eq(expected.iter().copied()));
                        assert!(list.words.len().is_multiple_of(lanes) && list.words.len() <= MAX_LIST);
                    }
                    _ => panic!("{levels:?} is on one grid only"),
                }
            }
        }
    }

    #[test]
    fn lists_are_those_of_the_reference() {
        check(&grid::IQ2_XXS, &IQ2_XXS);
        check(&grid::IQ2_XS, &IQ2_XS);
        check(&grid::IQ2_S, &IQ2_S);
        check(&grid::IQ1, &IQ1);
        check(&grid::IQ3_XXS, &IQ3_XXS);
        check(&grid::IQ3_S, &IQ3_S);
    }
}
