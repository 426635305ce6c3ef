//! Blocks of 32 with a float scale each.

use std::arch::x86_64::*;

use super::blocks::Block;
use super::{Blocks, bits, load, load_half, nibbles};
use crate::block::fp4;
use crate::reference::nonlinear::VALUES;

/// Fifth bits of 32 codes, in place.
///
/// # Safety
/// Four bytes at `at`, AVX2.
#[inline(always)]
unsafe fn fifth_bits(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe { _mm256_and_si256(bits(at), _mm256_set1_epi8(16)) }
}

/// Half bytes at `at` as values of a table.
///
/// # Safety
/// 16 bytes at `at`, AVX2.
#[inline(always)]
unsafe fn look_up(values: &[i8; 16], at: *const u8) -> __m256i {
    // SAFETY: by this function's contract; a table is one register.
    unsafe {
        let table = _mm256_broadcastsi128_si256(load_half(values.as_ptr().cast()));
        _mm256_shuffle_epi8(table, nibbles(at))
    }
}

/// Defines the kernels' view of a format: bytes, constants, and its codes.
macro_rules! block {
    ($name:ident, $bytes:literal, { $($constant:ident: $type:ty = $value:expr),* }, |$block:ident| $codes:expr $(, $($more:item)+)?) => {
        pub(super) struct $name;

        impl Block for $name {
            const BYTES: usize = $bytes;
            $(const $constant: $type = $value;)*

            #[inline(always)]
            unsafe fn codes($block: *const u8) -> __m256i {
                // SAFETY: a whole block, and AVX2, by the trait's contract.
                unsafe { $codes }
            }

            $($($more)+)?
        }
    };
}

block!(Q8_0, 34, { MAX: i32 = 128, SIGNED: bool = true }, |block| load(block.add(2)));
block!(Q4_0, 18, { MAX: i32 = 15, OFFSET_BITS: i32 = 3 }, |block| nibbles(block.add(2)));
block!(Q4_1, 20, { MAX: i32 = 15, MINS: bool = true }, |block| nibbles(block.add(4)));
block!(Q5_0, 22, { MAX: i32 = 31, OFFSET_BITS: i32 = 4 }, |block| {
    _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2)))
});
block!(Q5_1, 24, { MAX: i32 = 31, MINS: bool = true }, |block| {
    _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4)))
});
block!(IQ4_NL, 18, { MAX: i32 = 127, SIGNED: bool = true }, |block| look_up(&VALUES, block.add(2)));
block!(
    MXFP4,
    17,
    { MAX: i32 = 12, SIGNED: bool = true },
    |block| look_up(&fp4::DOUBLED, block.add(1)),
    #[inline(always)]
    unsafe fn scales(blocks: Blocks) -> __m256 {
        // SAFETY: blocks and AVX2 by the trait's contract.
        unsafe {
            let low = _mm_unpacklo_epi8(load_half(blocks[0]), load_half(blocks[1]));
            let high = _mm_unpacklo_epi8(load_half(blocks[2]), load_half(blocks[3]));
            let exponents = _mm_cvtepu8_epi32(_mm_unpacklo_epi16(low, high));
            // Half of `2^(e - 127)`; the two smallest are subnormal.
            let one = _mm_set1_epi32(1);
            let normal = _mm_slli_epi32::<23>(_mm_sub_epi32(exponents, one));
            let subnormal = _mm_sllv_epi32(_mm_set1_epi32(0x0020_0000), exponents);
            let small = _mm_cmpgt_epi32(_mm_set1_epi32(2), exponents);
            _mm256_castps128_ps256(_mm_castsi128_ps(_mm_blendv_epi8(normal, subnormal, small)))
        }
    }
);
