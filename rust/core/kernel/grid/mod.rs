//! Codebooks for kernels: from a rounded vector to the points near it, in tables that fit a core's own cache.
//!
//! A *word* packs the levels of a vector as the codebooks have them: 2 bits a level in vectors of 8, 3 bits in vectors of 4.
//! A *key* numbers all vectors of levels that occur: in base 3 for vectors of 8, in base 8 for vectors of 4, where it is the
//! word itself.
//!
//! - [`cell`]: which points of a list can be left out;
//! - [`nearest`]: the best of some points under a scale;
//! - [`lines`]: the same under a row of scales, one a lane;
//! - [`candidates`]: the points of a super-block under all scales of a search;
//! - [`scores`]: which of these scales is the best.

pub(crate) mod candidates;
pub(crate) mod cell;
pub(crate) mod lines;
pub(crate) mod nearest;
pub(crate) mod scores;

use std::sync::LazyLock;

use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES};
use crate::prefetch::prefetch;
use crate::reference::grid::{self, Grid, Place};

/// Lists of neighbours are filled up to whole chunks: the widest vectors, or two narrower ones.
pub(crate) const CHUNK: usize = MAX_LANES;

/// What is added to a word if rounding alone led to it.
pub(crate) const ON_GRID: i32 = 1 << 16;

/// More than there are keys, and a power of two: a mask takes the place of a check.
const KEYS: usize = 8192;

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
pub(crate) fn next_level<I: I32Lanes, const N: usize>(words: I) -> I {
    if N == 8 { words.shr::<2>() } else { words.shr::<3>() }
}

/// What each level is worth, as a table.
#[inline(always)]
pub(crate) fn odd_numbers<F: F32Lanes, const N: usize>() -> F {
    let levels = 1 << bits::<N>();
    let table: [f32; MAX_LANES] = std::array::from_fn(|i| (2 * (i % levels) + 1) as f32);
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
    /// Their words in order, the last one repeated until the number is one of whole chunks.
    pub(crate) words: &'n [[u16; CHUNK]],
    /// How many there are.
    pub(crate) count: usize,
}

/// An entry of a codebook's table. From the lowest bit: the number of neighbours (16 bits), and the chunk at which they start;
/// for points of the codebook 0 and their word.
#[derive(Clone, Copy)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Lengths of lists.
    pub(crate) const LENGTHS: usize = 32;

    /// How many neighbours there are; 0 for a point of the codebook.
    #[inline(always)]
    pub(crate) fn count(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// How many neighbours there are, or the last length if there are more.
    #[inline(always)]
    pub(crate) fn length(self) -> usize {
        self.count().min(Self::LENGTHS - 1)
    }

    /// The word of a point of the codebook.
    #[inline(always)]
    pub(crate) fn word(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// A codebook's points and neighbour lists by key.
pub(crate) struct Neighbours<const N: usize> {
    /// For vectors anywhere, and for those well inside their cells, which are most: apart, so that the latter lie together.
    slots: Box<[[Slot; KEYS]; 2]>,
    /// Index of the point with this key.
    indices: Vec<u16>,
    words: Vec<[u16; CHUNK]>,
}

impl<const N: usize> Neighbours<N> {
    fn new(grid: &Grid<N>) -> Self {
        let keys = base::<N>().pow(N as u32);
        let mut all = Self { slots: Box::new([[Slot(0); KEYS]; 2]), indices: vec![0; keys], words: Vec::new() };
        let pack =
            |levels: &[u8; N]| (0..N).fold(0, |word, i| word | u16::from(levels[i]) << (bits::<N>() as usize * i));
        // Lists that are read often lie together.
        for in_cell in [true, false] {
            for key in 0..keys {
                let levels: [u8; N] = std::array::from_fn(|i| (key / base::<N>().pow(i as u32) % base::<N>()) as u8);
                all.slots[usize::from(in_cell)][key] = match grid.place(&levels) {
                    Place::OnGrid(index) => {
                        all.indices[key] = index;
                        Slot(u32::from(pack(&levels)) << 16)
                    }
                    Place::Near(list) => {
                        let points: Vec<[u8; N]> = list.iter().map(|&index| *grid.point(index)).collect();
                        let points = if in_cell { cell::undominated(&levels, &points) } else { points };
                        all.push(points.iter().map(pack).collect())
                    }
                };
            }
        }
        all
    }

    /// Adds a list of words.
    fn push(&mut self, list: Vec<u16>) -> Slot {
        let start = self.words.len() as u32;
        for words in list.chunks(CHUNK) {
            self.words.push(std::array::from_fn(|i| *words.get(i).unwrap_or(&list[list.len() - 1])));
        }
        assert!(start < 1 << 16 && list.len() < 1 << 16, "codebooks are as they are");
        Slot(start << 16 | list.len() as u32)
    }

    /// The entry of a rounded vector, which may be well inside its [`cell`].
    #[inline(always)]
    pub(crate) fn slot(&self, key: usize, in_cell: bool) -> Slot {
        self.slots[usize::from(in_cell)][key % KEYS]
    }

    /// The neighbours that an entry stands for.
    #[inline(always)]
    pub(crate) fn list(&self, slot: Slot) -> List<'_> {
        let chunks = &self.words[usize::from(slot.word())..][..slot.count().div_ceil(CHUNK)];
        List { words: chunks, count: slot.count() }
    }

    /// Asks for the first chunk of words, if there are any.
    #[inline(always)]
    pub(crate) fn ask_for(&self, slot: Slot) {
        let chunk = if slot.count() == 0 { 0 } else { usize::from(slot.word()) };
        prefetch(self.words.as_ptr().wrapping_add(chunk), 2 * CHUNK);
    }

    /// The words of neighbours, and of lists behind.
    #[inline(always)]
    pub(crate) fn words(&self, slot: Slot) -> &[u16] {
        self.words[usize::from(slot.word())..].as_flattened()
    }

    /// Looks up a rounded vector, which may be well inside its [`cell`].
    #[inline(always)]
    pub(crate) fn spot(&self, key: usize, in_cell: bool) -> Spot<'_> {
        let slot = self.slot(key, in_cell);
        if slot.count() == 0 { Spot::OnGrid(slot.word()) } else { Spot::Near(self.list(slot)) }
    }

    /// Index of the point with this word.
    #[inline(always)]
    pub(crate) fn index(&self, word: u16) -> u16 {
        self.indices[key_of_word::<N>(word)]
    }
}

macro_rules! books {
    ($($name:ident: $n:literal),+) => {$(
        #[doc = concat!("The codebook of `", stringify!($name), "`.")]
        pub(crate) static $name: LazyLock<Neighbours<$n>> = LazyLock::new(|| Neighbours::new(&grid::$name));
    )+};
}

books!(IQ2_XXS: 8, IQ2_XS: 8, IQ2_S: 8, IQ1: 8, IQ3_XXS: 4, IQ3_S: 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const N: usize>(grid: &Grid<N>, neighbours: &Neighbours<N>) {
        for key in 0..base::<N>().pow(N as u32) {
            let levels: [u8; N] = std::array::from_fn(|i| (key / base::<N>().pow(i as u32) % base::<N>()) as u8);
            match (grid.place(&levels), neighbours.spot(key, false)) {
                (Place::OnGrid(index), Spot::OnGrid(word)) => {
                    assert_eq!(key_of_word::<N>(word), key);
                    assert_eq!(neighbours.index(word), index);
                }
                (Place::Near(expected), Spot::Near(list)) => {
                    let indices = list.words.as_flattened().iter().map(|&word| neighbours.index(word));
                    assert!(indices.take(list.count).eq(expected.iter().copied()));
                    assert_eq!(list.words.len(), expected.len().div_ceil(CHUNK));
                }
                _ => panic!("{levels:?} is on one grid only"),
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
