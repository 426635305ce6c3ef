//! Super-blocks with codes in bit fields: k-quants, and IQ4_XS with its table of values.

use std::arch::x86_64::*;

use super::super_blocks::{SuperBlock, each_block};
use super::{AT_ONCE, Blocks, first_halves, last_halves, load, load_half, lower, nibbles, upper, word};
use crate::reference::nonlinear::VALUES;

/// `bytes & mask`, shifted from bit `from` to bit `to`; the mask keeps bits from crossing into neighbours.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn field(bytes: __m256i, mask: u8, from: i32, to: i32) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let kept = _mm256_and_si256(bytes, _mm256_set1_epi8((mask << from) as i8));
        match to - from {
            0 => kept,
            left @ 1.. => _mm256_sll_epi16(kept, _mm_cvtsi32_si128(left)),
            right => _mm256_srl_epi16(kept, _mm_cvtsi32_si128(-right)),
        }
    }
}

/// Numbers of 6 bits in Q4_K and Q5_K, eight for each of four blocks: scales, or minima.
///
/// # Safety
/// 16 bytes at each of `blocks`, AVX2.
#[inline(always)]
unsafe fn six_bits<const MINS: bool>(blocks: Blocks) -> [__m256i; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let [_, first, second, third] = transposed([0, 1, 2, 3].map(|r| load_half(blocks[r])));
        let (own, rest) = if MINS { (second, _mm_srli_epi32::<4>(third)) } else { (first, third) };
        let upper = _mm_and_si128(_mm_srli_epi32::<2>(own), _mm_set1_epi8(0x30));
        let last = _mm_or_si128(_mm_and_si128(rest, _mm_set1_epi8(15)), upper);
        let own = _mm_and_si128(own, _mm_set1_epi8(63));
        // Of two blocks each.
        let [low, high] = [_mm_unpacklo_epi32(own, last), _mm_unpackhi_epi32(own, last)];
        [_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)]
    }
}

/// Rows of words as columns.
#[inline(always)]
fn transposed([a, b, c, d]: [__m128i; 4]) -> [__m128i; 4] {
    // SAFETY: SSE2 is part of x86-64.
    unsafe {
        let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
        let (last_ab, last_cd) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
        [
            _mm_unpacklo_epi64(ab, cd),
            _mm_unpackhi_epi64(ab, cd),
            _mm_unpacklo_epi64(last_ab, last_cd),
            _mm_unpackhi_epi64(last_ab, last_cd),
        ]
    }
}

/// Numbers with their signs turned.
#[inline(always)]
fn negated(numbers: __m128) -> __m128 {
    // SAFETY: SSE is part of x86-64.
    unsafe { _mm_xor_ps(numbers, _mm_set1_ps(-0.0)) }
}

/// Parts lie apart as they are.
macro_rules! plain {
    () => {
        type Open = ();

        #[inline(always)]
        unsafe fn open(_block: *const u8, _to: &mut ()) {}
    };
}

macro_rules! q4_k_scales {
    () => {
        const GROUP: usize = 32;
        const MINS: bool = true;

        #[inline(always)]
        unsafe fn scales(blocks: Blocks) -> [__m256i; AT_ONCE] {
            // SAFETY: whole blocks, and AVX2, by the trait's contract.
            unsafe {
                let [low, high] = six_bits::<false>(blocks);
                let swapped = [_mm256_permute2x128_si256::<1>(low, low), _mm256_permute2x128_si256::<1>(high, high)];
                [low, swapped[0], high, swapped[1]]
            }
        }

        #[inline(always)]
        unsafe fn mins(blocks: Blocks) -> [__m256i; AT_ONCE] {
            // SAFETY: as above.
            unsafe {
                let [low, high] = six_bits::<true>(blocks);
                [low, high, _mm256_setzero_si256(), _mm256_setzero_si256()]
            }
        }

        #[inline(always)]
        unsafe fn d(blocks: Blocks) -> __m128 {
            // SAFETY: as above.
            unsafe { lower(first_halves(blocks)) }
        }

        #[inline(always)]
        unsafe fn dmin(blocks: Blocks) -> __m128 {
            // SAFETY: as above.
            unsafe { negated(upper(first_halves(blocks))) }
        }
    };
}

pub(super) struct Q4_K;

impl SuperBlock for Q4_K {
    plain!();
    const BYTES: usize = 144;
    q4_k_scales!();

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        // SAFETY: a whole block, and AVX2, by the trait's contract.
        unsafe { field(load(block.add(16 + 32 * (part / 2))), 15, 4 * (part % 2) as i32, 0) }
    }
}

pub(super) struct Q5_K;

impl SuperBlock for Q5_K {
    plain!();
    const BYTES: usize = 176;
    q4_k_scales!();

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        // SAFETY: a whole block, and AVX2, by the trait's contract.
        unsafe {
            let lower = field(load(block.add(48 + 32 * (part / 2))), 15, 4 * (part % 2) as i32, 0);
            _mm256_or_si256(lower, field(load(block.add(16)), 1, part as i32, 4))
        }
    }
}

pub(super) struct Q6_K;

impl SuperBlock for Q6_K {
    plain!();
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: i16 = 32;

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        let (half, part) = (part / 4, part % 4);
        // SAFETY: a whole block, and AVX2, by the trait's contract.
        unsafe {
            let lower = field(load(block.add(64 * half + 32 * (part % 2))), 15, 4 * (part / 2) as i32, 0);
            let upper = field(load(block.add(128 + 32 * half)), 3, 2 * part as i32, 4);
            _mm256_or_si256(lower, upper)
        }
    }

    each_block!(scales | block | _mm256_cvtepi8_epi16(load_half(block.add(192))));

    #[inline(always)]
    unsafe fn d(blocks: Blocks) -> __m128 {
        // SAFETY: as above.
        unsafe { upper(last_halves(blocks, Self::BYTES)) }
    }
}

pub(super) struct Q3_K;

impl SuperBlock for Q3_K {
    plain!();
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const OFFSET: i16 = 4;

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        // SAFETY: a whole block, and AVX2, by the trait's contract.
        unsafe {
            let lower = field(load(block.add(32 + 32 * (part / 4))), 3, 2 * (part % 4) as i32, 0);
            _mm256_or_si256(lower, field(load(block), 1, part as i32, 2))
        }
    }

    #[inline(always)]
    unsafe fn scales(blocks: Blocks) -> [__m256i; AT_ONCE] {
        // SAFETY: as above.
        unsafe {
            // What lies from byte 96 on: three words, and half of one.
            let words = [0, 1, 2, 3].map(|r| _mm_srli_si128::<2>(load_half(blocks[r].add(94))));
            let [a, b, c, _] = transposed(words);
            let lower = |word: __m128i| _mm_and_si128(word, _mm_set1_epi8(15));
            let upper = |word: __m128i| _mm_and_si128(word, _mm_set1_epi8(48));
            let packed = transposed([
                _mm_or_si128(lower(a), upper(_mm_slli_epi32::<4>(c))),
                _mm_or_si128(lower(b), upper(_mm_slli_epi32::<2>(c))),
                _mm_or_si128(lower(_mm_srli_epi32::<4>(a)), upper(c)),
                _mm_or_si128(lower(_mm_srli_epi32::<4>(b)), upper(_mm_srli_epi32::<2>(c))),
            ]);
            let mut scales = [_mm256_setzero_si256(); AT_ONCE];
            for r in 0..AT_ONCE {
                scales[r] = _mm256_cvtepi8_epi16(_mm_sub_epi8(packed[r], _mm_set1_epi8(32)));
            }
            scales
        }
    }

    #[inline(always)]
    unsafe fn d(blocks: Blocks) -> __m128 {
        // SAFETY: as above.
        unsafe { upper(last_halves(blocks, Self::BYTES)) }
    }
}

pub(super) struct Q2_K;

impl SuperBlock for Q2_K {
    plain!();
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const MINS: bool = true;

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        // SAFETY: a whole block, and AVX2, by the trait's contract.
        unsafe { field(load(block.add(16 + 32 * (part / 4))), 3, 2 * (part % 4) as i32, 0) }
    }

    each_block!(scales | block | _mm256_cvtepu8_epi16(_mm_and_si128(load_half(block), _mm_set1_epi8(15))));
    each_block!(
        mins | block | {
            _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(load_half(block)), _mm_set1_epi8(15)))
        }
    );

    #[inline(always)]
    unsafe fn d(blocks: Blocks) -> __m128 {
        // SAFETY: as above.
        unsafe { lower(last_halves(blocks, Self::BYTES)) }
    }

    #[inline(always)]
    unsafe fn dmin(blocks: Blocks) -> __m128 {
        // SAFETY: as above.
        unsafe { negated(upper(last_halves(blocks, Self::BYTES))) }
    }
}

pub(super) struct IQ4_XS;

impl SuperBlock for IQ4_XS {
    plain!();
    const BYTES: usize = 136;
    const GROUP: usize = 32;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn codes(block: *const u8, _open: &(), part: usize) -> __m256i {
        // SAFETY: a whole block, and AVX2, by the trait's contract; the table is one register.
        unsafe {
            let table = _mm256_broadcastsi128_si256(load_half(VALUES.as_ptr().cast()));
            _mm256_shuffle_epi8(table, nibbles(block.add(8 + 16 * part)))
        }
    }

    each_block!(
        scales | block | {
            let low = _mm_cvtsi32_si128(word(block.add(4)) as i32);
            let low = _mm_and_si128(_mm_unpacklo_epi8(low, _mm_srli_epi16::<4>(low)), _mm_set1_epi8(15));
            // Two bits of each of eight copies are shifted to the top, and from there to bits 4 and 5.
            let high = _mm_set1_epi16((word(block) >> 16) as i16);
            let top = _mm_mullo_epi16(high, _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 4, 1));
            let high = _mm_and_si128(_mm_srli_epi16::<10>(top), _mm_set1_epi16(0x30));
            let scales = _mm_or_si128(_mm_cvtepu8_epi16(low), high);
            _mm256_castsi128_si256(_mm_sub_epi16(scales, _mm_set1_epi16(32)))
        }
    );

    #[inline(always)]
    unsafe fn d(blocks: Blocks) -> __m128 {
        // SAFETY: as above.
        unsafe { lower(first_halves(blocks)) }
    }
}
