//! Formats whose codes are points of a codebook, with signs. Scale codes `s` stand for `2 * s + 1`, as in
//! [`crate::matmul::unpack`], whose tables these are.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super_blocks::{SuperBlock, each_block, each_twice};
use super::{AT_ONCE, Blocks, first_halves, load, load_half, lower, word};
use crate::matmul::unpack::tables::{IQ1, IQ2_S as IQ2_S_POINTS, IQ2_XS as IQ2_XS_POINTS};
use crate::matmul::unpack::tables::{IQ2_XXS as IQ2_XXS_POINTS, IQ3_S as IQ3_S_POINTS, IQ3_XXS as IQ3_XXS_POINTS};

/// Numbers of a block's points, and a bit for each sign. Both are made for a whole block at a time, in registers, and
/// go through memory: taking single numbers out of registers costs more than to load them.
pub(super) struct Open<const POINTS: usize> {
    points: [u16; POINTS],
    signs: [u8; 32],
}

/// Numbers of points that the block has as bytes need no making.
pub(super) type Signs = Open<0>;

impl<const POINTS: usize> Default for Open<POINTS> {
    fn default() -> Self {
        Self { points: [0; POINTS], signs: [0; 32] }
    }
}

impl<const POINTS: usize> Open<POINTS> {
    /// Points in a register of numbers of 16 bits.
    const AT_ONCE: usize = 16;

    /// Puts 16 numbers of points where they belong.
    #[inline(always)]
    fn put(&mut self, i: usize, points: __m256i) {
        let to = self.points[i * Self::AT_ONCE..][..Self::AT_ONCE].as_mut_ptr();
        // SAFETY: every caller has AVX2 enabled; 16 numbers are one register.
        unsafe { _mm256_storeu_si256(to.cast(), points) }
    }

    #[inline(always)]
    fn put_signs(&mut self, signs: __m256i) {
        // SAFETY: every caller has AVX2 enabled; 32 bytes are one register.
        unsafe { _mm256_storeu_si256(self.signs.as_mut_ptr().cast(), signs) }
    }

    /// Keeps in memory what was put here: the compiler would take numbers out of registers one by one.
    #[inline(always)]
    fn keep(&mut self) {
        // SAFETY: nothing is done.
        unsafe { asm!("/* {} */", in(reg) std::ptr::from_mut(self), options(nostack, preserves_flags)) };
    }

    /// Numbers of points `4 * i` to `4 * i + 3`.
    #[inline(always)]
    fn four(&self, i: usize) -> [usize; 4] {
        // One load for four: this machine's loads, two a cycle, are what looking up has too few of.
        let points = &self.points.as_chunks::<4>().0[i];
        // SAFETY: four numbers of 16 bits are one of 64.
        let word = unsafe { points.as_ptr().cast::<u64>().read_unaligned() };
        [word & 0xffff, word >> 16 & 0xffff, word >> 32 & 0xffff, word >> 48].map(|number| number as usize)
    }

    /// Bytes with the signs of a part.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn signs(&self, part: usize) -> __m256i {
        // SAFETY: four of 32 bytes; AVX2 by this function's contract.
        unsafe { signs(self.signs.as_ptr().add(4 * part)) }
    }
}

/// Numbers of points that are the bytes of a word.
#[inline(always)]
fn bytes(word: u32) -> [usize; 4] {
    [word & 255, word >> 8 & 255, word >> 16 & 255, word >> 24].map(|number| number as usize)
}

/// Four points of 8 coordinates.
///
/// # Safety
/// `points` has all these numbers; AVX2.
#[inline(always)]
unsafe fn join<const N: usize>(points: &[u64; N], numbers: [usize; 4]) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let at = |k: usize| points.as_ptr().add(numbers[k]).cast();
        let mut pairs = [_mm_setzero_pd(); 2];
        for i in 0..2 {
            pairs[i] = _mm_loadh_pd(_mm_load_sd(at(2 * i)), at(2 * i + 1));
        }
        _mm256_castpd_si256(_mm256_set_m128d(pairs[1], pairs[0]))
    }
}

/// Eight points of 4 coordinates.
///
/// # Safety
/// As [`join`].
#[inline(always)]
unsafe fn join_short<const N: usize>(points: &[u32; N], numbers: [[usize; 4]; 2]) -> __m256i {
    let mut found = [0; 8];
    for k in 0..8 {
        // SAFETY: by this function's contract.
        found[k] = unsafe { *points.get_unchecked(numbers[k / 4][k % 4]) }.cast_signed();
    }
    let [a, b, c, d, e, f, g, h] = found;
    // SAFETY: by this function's contract.
    unsafe { _mm256_setr_epi32(a, b, c, d, e, f, g, h) }
}

/// For each of 32 bits a byte, negative where it is set and positive where not.
///
/// # Safety
/// Four bytes at `at`, AVX2.
#[inline(always)]
unsafe fn signs(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let ones = 0x0101_0101_0101_0101;
        let bytes = _mm256_set_epi64x(3 * ones, 2 * ones, ones, 0);
        let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(word(at) as i32), bytes);
        let bit = _mm256_and_si256(spread, _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64));
        // Makes 128 of the bit, and what is above zero without it.
        _mm256_add_epi8(bit, _mm256_set1_epi64x(0x0140_6070_787c_7e7f))
    }
}

/// For each half byte the top bit if it has an odd number of ones.
const ODD: [u8; 16] = {
    let mut odd = [0; 16];
    let mut i = 0;
    while i < 16 {
        odd[i] = ((i.count_ones() & 1) << 7) as u8;
        i += 1;
    }
    odd
};

/// Signs of points in 7 bits each, with the eighth that makes the number of minus signs even.
#[inline(always)]
fn even(packed: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let folded = _mm256_xor_si256(packed, _mm256_srli_epi16::<4>(packed));
        let folded = _mm256_and_si256(folded, _mm256_set1_epi8(15));
        let odd = _mm256_broadcastsi128_si256(load_half(ODD.as_ptr()));
        _mm256_or_si256(packed, _mm256_shuffle_epi8(odd, folded))
    }
}

/// Signs of four points in the lower 28 bits of each word, as [`even`] gives them.
#[inline(always)]
fn even_of_words(words: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let only = |word: __m256i, byte: u32| _mm256_and_si256(word, _mm256_set1_epi32(0x7f << (8 * byte)));
        let low = _mm256_or_si256(only(words, 0), only(_mm256_slli_epi32::<1>(words), 1));
        let high = _mm256_or_si256(only(_mm256_slli_epi32::<2>(words), 2), only(_mm256_slli_epi32::<3>(words), 3));
        even(_mm256_or_si256(low, high))
    }
}

/// Sixteen bytes in the lower halves of 16 bits each.
///
/// # Safety
/// They must be at `at`, AVX2.
#[inline(always)]
unsafe fn widen(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe { _mm256_cvtepu8_epi16(load_half(at)) }
}

/// `2 * s + 1` for eight scale codes of 32 bits, in 16 bits in the lower half.
#[inline(always)]
fn odd(codes: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let odd = _mm256_or_si256(_mm256_slli_epi32::<1>(codes), _mm256_set1_epi32(1));
        _mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(odd, odd))
    }
}

/// `2 * s + 1` for 16 scale codes in half bytes.
///
/// # Safety
/// 8 bytes at `at`, AVX2.
#[inline(always)]
unsafe fn odd_nibbles(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let bytes = _mm_loadl_epi64(at.cast());
        let codes = _mm_and_si128(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)), _mm_set1_epi8(15));
        let odd = _mm_or_si128(_mm_add_epi8(codes, codes), _mm_set1_epi8(1));
        _mm256_cvtepu8_epi16(odd)
    }
}

/// Defines a kernel's view of a codebook format: bytes, columns that share a scale, what is taken out of a block as a whole,
/// codes, signs, scales, and the power of two that goes with `d`.
macro_rules! codebook {
    (
        $name:ident, $bytes:literal, $group:literal, { $($constant:ident: $type:ty = $value:expr),* },
        open |$open_block:ident, $to:ident| -> $open:ty { $($opened:tt)* },
        codes |$block:ident, $opened_codes:ident, $part:ident| $codes:expr,
        $(signs |$signs_block:ident, $opened_signs:ident, $signs_part:ident| $signs:expr,)?
        $(shifts |$shifts_block:ident, $shifts_scales:ident| $shifts:expr,)?
        scales |$scales_block:ident| $scales:expr,
        d |$d_blocks:ident| $d:expr $(,)?
    ) => {
        pub(super) struct $name;

        impl SuperBlock for $name {
            type Open = $open;
            const BYTES: usize = $bytes;
            const GROUP: usize = $group;
            const LOOKS_UP: bool = true;
            $(const $constant: $type = $value;)*

            #[inline(always)]
            unsafe fn open($open_block: *const u8, $to: &mut $open) {
                // SAFETY: a whole block, and AVX2, by the trait's contract.
                unsafe { $($opened)* }
                $to.keep();
            }

            #[inline(always)]
            unsafe fn codes($block: *const u8, $opened_codes: &$open, $part: usize) -> __m256i {
                // SAFETY: as above.
                unsafe { $codes }
            }

            $(
                #[inline(always)]
                unsafe fn signs(
                    $signs_block: *const u8,
                    $opened_signs: &$open,
                    $signs_part: usize,
                    _codes: __m256i,
                ) -> __m256i {
                    // SAFETY: as above.
                    unsafe { $signs }
                }
            )?

            $(
                #[inline(always)]
                unsafe fn shifts($shifts_block: *const u8, $shifts_scales: __m256i) -> __m256i {
                    // SAFETY: as above.
                    unsafe { $shifts }
                }
            )?

            each_block!(scales |$scales_block| $scales);

            #[inline(always)]
            unsafe fn d($d_blocks: Blocks) -> __m128 {
                // SAFETY: as above.
                unsafe { $d }
            }
        }
    };
}

/// Half-precision numbers that come first in four blocks, times `factor`.
///
/// # Safety
/// Whole blocks at `blocks`, AVX2 and F16C.
#[inline(always)]
unsafe fn first(blocks: Blocks, factor: f32) -> __m128 {
    // SAFETY: by this function's contract.
    unsafe { _mm_mul_ps(lower(first_halves(blocks)), _mm_set1_ps(factor)) }
}

/// Words in which signs and a scale of IQ2_XXS are packed.
///
/// # Safety
/// A whole block, AVX2.
#[inline(always)]
unsafe fn iq2_xxs_words(block: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let [low, high] = [0, 32].map(|at| _mm256_castsi256_ps(load(block.add(2 + at))));
        _mm256_permute4x64_epi64::<0xd8>(_mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(low, high)))
    }
}

codebook!(
    IQ2_XXS, 66, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    open |block, open| -> Signs {
        open.put_signs(even_of_words(iq2_xxs_words(block)));
    },
    codes |block, _open, part| {
        join(&IQ2_XXS_POINTS, bytes(word(block.add(2 + 8 * part))))
    },
    signs |_block, open, part| open.signs(part),
    scales |block| odd(_mm256_srli_epi32::<28>(iq2_xxs_words(block))),
    d |blocks| first(blocks, 0.125),
);

codebook!(
    IQ2_XS, 74, 16, { SIGNED: bool = true, MAGNITUDES: bool = true },
    open |block, open| -> Open<32> {
        let codes = [load(block.add(2)), load(block.add(34))];
        for i in 0..2 {
            open.put(i, _mm256_and_si256(codes[i], _mm256_set1_epi16(511)));
        }
        let signs = _mm256_packus_epi16(_mm256_srli_epi16::<9>(codes[0]), _mm256_srli_epi16::<9>(codes[1]));
        open.put_signs(even(_mm256_permute4x64_epi64::<0xd8>(signs)));
    },
    codes |_block, open, part| join(&IQ2_XS_POINTS, open.four(part)),
    signs |_block, open, part| open.signs(part),
    scales |block| odd_nibbles(block.add(66)),
    d |blocks| first(blocks, 0.125),
);

codebook!(
    IQ2_S, 82, 16, { SIGNED: bool = true, MAGNITUDES: bool = true },
    open |block, open| -> Open<32> {
        let high = _mm256_broadcastq_epi64(_mm_loadl_epi64(block.add(66).cast()));
        // Of each byte two bits for each of four points: moved to bits 8 and 9 of a number.
        let to_place = _mm256_set1_epi64x(0x0004_0010_0040_0100);
        for i in 0..2 {
            let bytes = _mm256_shuffle_epi8(high, load(EACH_FOUR_TIMES[i].as_ptr()));
            let high = _mm256_and_si256(_mm256_mullo_epi16(bytes, to_place), _mm256_set1_epi16(0x300));
            open.put(i, _mm256_or_si256(widen(block.add(2 + 16 * i)), high));
        }
    },
    codes |_block, open, part| join(&IQ2_S_POINTS, open.four(part)),
    signs |block, _open, part| signs(block.add(34 + 4 * part)),
    scales |block| odd_nibbles(block.add(74)),
    d |blocks| first(blocks, 0.125),
);

codebook!(
    IQ3_XXS, 98, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    open |block, open| -> Signs {
        open.put_signs(even_of_words(load(block.add(66))));
    },
    codes |block, _open, part| {
        join_short(&IQ3_XXS_POINTS, [0, 4].map(|at| bytes(word(block.add(2 + 8 * part + at)))))
    },
    signs |_block, open, part| open.signs(part),
    scales |block| odd(_mm256_srli_epi32::<28>(load(block.add(66)))),
    d |blocks| first(blocks, 0.25),
);

codebook!(
    IQ3_S, 110, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    open |block, open| -> Open<64> {
        let high = _mm256_broadcastq_epi64(_mm_loadl_epi64(block.add(66).cast()));
        // One bit of each byte for each of eight points, moved to bit 8 of a number.
        let to_place = _mm256_broadcastsi128_si256(_mm_setr_epi16(256, 128, 64, 32, 16, 8, 4, 2));
        for i in 0..4 {
            let bytes = _mm256_shuffle_epi8(high, load(EACH_EIGHT_TIMES[i].as_ptr()));
            let high = _mm256_and_si256(_mm256_mullo_epi16(bytes, to_place), _mm256_set1_epi16(0x100));
            open.put(i, _mm256_or_si256(widen(block.add(2 + 16 * i)), high));
        }
    },
    codes |_block, open, part| join_short(&IQ3_S_POINTS, [open.four(2 * part), open.four(2 * part + 1)]),
    signs |block, _open, part| signs(block.add(74 + 4 * part)),
    scales |block| {
        let bytes = _mm_cvtsi32_si128(word(block.add(106)) as i32);
        let codes = _mm_and_si128(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)), _mm_set1_epi8(15));
        let odd = _mm_or_si128(_mm_add_epi8(codes, codes), _mm_set1_epi8(1));
        _mm256_castsi128_si256(_mm_cvtepu8_epi16(odd))
    },
    d |blocks| lower(first_halves(blocks)),
);

/// Which of 8 bytes go to the lower halves of 16 numbers of 16 bits, if each of them goes to `TIMES` numbers; the upper
/// halves are zero. As many registers as the bytes fill.
const fn repeated<const N: usize, const TIMES: usize>() -> [[u8; 32]; N] {
    let mut lanes = [[0x80; 32]; N];
    let mut i = 0;
    while i < 16 * N {
        lanes[i / 16][2 * (i % 16)] = (i / TIMES) as u8;
        i += 1;
    }
    lanes
}

static EACH_FOUR_TIMES: [[u8; 32]; 2] = repeated::<2, 4>();
static EACH_EIGHT_TIMES: [[u8; 32]; 4] = repeated::<4, 8>();

codebook!(
    IQ1_S, 50, 32, { OFFSET: i16 = 9 },
    open |block, open| -> Open<32> {
        let high = load_half(block.add(34));
        // Three bits for each of four points, moved to bits 13 to 15 of a number, and from there to bits 8 to 10.
        let to_top = _mm256_set1_epi64x(0x0010_0080_0400_2000);
        for i in 0..2 {
            // Four words, each four times.
            let words = if i == 0 { _mm_unpacklo_epi16(high, high) } else { _mm_unpackhi_epi16(high, high) };
            let words = _mm256_set_m128i(_mm_unpackhi_epi32(words, words), _mm_unpacklo_epi32(words, words));
            let high = _mm256_srli_epi16::<5>(_mm256_mullo_epi16(words, to_top));
            let high = _mm256_and_si256(high, _mm256_set1_epi16(0x700));
            open.put(i, _mm256_or_si256(widen(block.add(2 + 16 * i)), high));
        }
    },
    codes |_block, open, part| join(&IQ1, open.four(part)),
    shifts |block, scales| {
        // Codes of a part whose shift is down are 9 more than the weights, others 7.
        let down = _mm_srai_epi16::<15>(load_half(block.add(34)));
        let more = _mm_sub_epi16(_mm_add_epi16(down, down), _mm_set1_epi16(7));
        each_twice(_mm256_castsi128_si256(_mm_mullo_epi16(_mm256_castsi256_si128(scales), more)))
    },
    scales |block| {
        let codes = _mm_and_si128(_mm_srli_epi16::<12>(load_half(block.add(34))), _mm_set1_epi16(7));
        _mm256_castsi128_si256(_mm_or_si128(_mm_add_epi16(codes, codes), _mm_set1_epi16(1)))
    },
    d |blocks| first(blocks, 0.125),
);

codebook!(
    IQ1_M, 56, 16, { OFFSET: i16 = 9 },
    open |block, open| -> Open<32> {
        for i in 0..2 {
            // Half bytes: three bits more of a number, and the shift.
            let bytes = _mm_loadl_epi64(block.add(32 + 8 * i).cast());
            let half_bytes = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)));
            let high = _mm256_slli_epi16::<8>(_mm256_and_si256(half_bytes, _mm256_set1_epi16(7)));
            open.put(i, _mm256_or_si256(widen(block.add(16 * i)), high));
        }
    },
    codes |block, open, part| {
        // Codes are 2 more where the shift is up.
        let high = _mm256_set1_epi16(block.add(32 + 2 * part).cast::<i16>().read_unaligned());
        let ones = 0x0101_0101_0101_0101;
        let bytes = _mm256_shuffle_epi8(high, _mm256_set_epi64x(ones, ones, 0, 0));
        let bit = _mm256_set_epi64x(ones << 7, 8 * ones, ones << 7, 8 * ones);
        let up = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), _mm256_setzero_si256());
        _mm256_sub_epi8(join(&IQ1, open.four(part)), _mm256_add_epi8(up, up))
    },
    scales |block| {
        // Four scale codes a word: each to the top of its lane, and down from there.
        let words = _mm256_permute4x64_epi64::<0x00>(_mm256_castsi128_si256(_mm_loadl_epi64(block.add(48).cast())));
        let lanes = _mm256_setr_epi8(
            0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7,
        );
        let to_top = _mm256_set1_epi64x(0x0010_0080_0400_2000);
        let codes = _mm256_srli_epi16::<13>(_mm256_mullo_epi16(_mm256_shuffle_epi8(words, lanes), to_top));
        _mm256_or_si256(_mm256_add_epi16(codes, codes), _mm256_set1_epi16(1))
    },
    d |blocks| {
        let mut halves = [0; AT_ONCE];
        for r in 0..AT_ONCE {
            let words = blocks[r].add(48).cast::<u64>().read_unaligned();
            let bits = (words >> 12) & 0xf | (words >> 24) & 0xf0 | (words >> 36) & 0xf00 | (words >> 48) & 0xf000;
            halves[r] = bits as i16;
        }
        let halves = _mm_setr_epi16(halves[0], halves[1], halves[2], halves[3], 0, 0, 0, 0);
        _mm_mul_ps(_mm_cvtph_ps(halves), _mm_set1_ps(0.125))
    },
);
