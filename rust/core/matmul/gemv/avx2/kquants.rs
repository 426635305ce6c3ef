//! Super-blocks with codes in bit fields: k-quants, and IQ4_XS with its table of values.

use std::arch::x86_64::*;

use super::{SuperBlock, half, load, load_half, nibbles, word};
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

/// Scales and minima of Q4_K and Q5_K, 8 of 6 bits each.
///
/// # Safety
/// 12 bytes at `packed`.
#[inline(always)]
unsafe fn six_bits(packed: *const u8) -> [u64; 2] {
    // SAFETY: by this function's contract.
    let words = unsafe { [word(packed), word(packed.add(4)), word(packed.add(8))] };
    let upper = |word: u32| (word >> 2) & 0x3030_3030;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [
        join(words[0] & 0x3f3f_3f3f, (words[2] & 0x0f0f_0f0f) | upper(words[0])),
        join(words[1] & 0x3f3f_3f3f, ((words[2] >> 4) & 0x0f0f_0f0f) | upper(words[1])),
    ]
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
        unsafe fn scales(block: *const u8) -> __m256i {
            // SAFETY: a whole block, and AVX2, by the trait's contract.
            unsafe { _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(six_bits(block.add(4))[0] as i64))) }
        }

        #[inline(always)]
        unsafe fn mins(block: *const u8) -> __m256i {
            // SAFETY: as above.
            unsafe {
                let mins = _mm_cvtsi64_si128(six_bits(block.add(4))[1] as i64);
                _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins))
            }
        }

        #[inline(always)]
        unsafe fn d(block: *const u8) -> u16 {
            // SAFETY: as above.
            unsafe { half(block) }
        }

        #[inline(always)]
        unsafe fn dmin(block: *const u8) -> u16 {
            // SAFETY: as above.
            unsafe { half(block.add(2)) }
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

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi16(load_half(block.add(192))) }
    }

    #[inline(always)]
    unsafe fn d(block: *const u8) -> u16 {
        // SAFETY: as above.
        unsafe { half(block.add(208)) }
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
    unsafe fn scales(block: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let [a, b, c] = [word(block.add(96)), word(block.add(100)), word(block.add(104))];
            let join = |word: u32, shift: u32, upper: u32| {
                ((word >> shift) & 0x0f0f_0f0f | ((c >> upper) & 0x0303_0303) << 4) as i32
            };
            let packed = _mm_setr_epi32(join(a, 0, 0), join(b, 0, 2), join(a, 4, 4), join(b, 4, 6));
            _mm256_sub_epi16(_mm256_cvtepu8_epi16(packed), _mm256_set1_epi16(32))
        }
    }

    #[inline(always)]
    unsafe fn d(block: *const u8) -> u16 {
        // SAFETY: as above.
        unsafe { half(block.add(108)) }
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

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepu8_epi16(_mm_and_si128(load_half(block), _mm_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn mins(block: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16::<4>(load_half(block)), _mm_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn d(block: *const u8) -> u16 {
        // SAFETY: as above.
        unsafe { half(block.add(80)) }
    }

    #[inline(always)]
    unsafe fn dmin(block: *const u8) -> u16 {
        // SAFETY: as above.
        unsafe { half(block.add(82)) }
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

    #[inline(always)]
    unsafe fn scales(block: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let low = _mm_cvtsi32_si128(word(block.add(4)) as i32);
            let low = _mm_and_si128(_mm_unpacklo_epi8(low, _mm_srli_epi16::<4>(low)), _mm_set1_epi8(15));
            // Two bits of each of eight copies are shifted to the top, and from there to bits 4 and 5.
            let high = _mm_set1_epi16((word(block) >> 16) as i16);
            let top = _mm_mullo_epi16(high, _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 4, 1));
            let high = _mm_and_si128(_mm_srli_epi16::<10>(top), _mm_set1_epi16(0x30));
            let scales = _mm_or_si128(_mm_cvtepu8_epi16(low), high);
            _mm256_castsi128_si256(_mm_sub_epi16(scales, _mm_set1_epi16(32)))
        }
    }

    #[inline(always)]
    unsafe fn d(block: *const u8) -> u16 {
        // SAFETY: as above.
        unsafe { half(block) }
    }
}
