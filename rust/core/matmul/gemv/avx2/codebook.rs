//! Formats whose codes are points of a codebook, with signs. Scale codes `s` stand for `2 * s + 1`, as in
//! [`crate::matmul::unpack`], whose tables these are.

use std::arch::x86_64::*;

use super::{SuperBlock, bits, half, half_of, load, load_half, word};
use crate::matmul::unpack::tables::{EVEN_SIGNS, IQ1, IQ2_S as IQ2_S_POINTS, IQ2_XS as IQ2_XS_POINTS};
use crate::matmul::unpack::tables::{IQ2_XXS as IQ2_XXS_POINTS, IQ3_S as IQ3_S_POINTS, IQ3_XXS as IQ3_XXS_POINTS};

/// Four points of 8 coordinates.
#[inline(always)]
fn join(points: [u64; 4]) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_set_epi64x(points[3] as i64, points[2] as i64, points[1] as i64, points[0] as i64) }
}

/// Eight points of 4 coordinates.
#[inline(always)]
fn join_short(points: [u32; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = points.map(u32::cast_signed);
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_setr_epi32(a, b, c, d, e, f, g, h) }
}

/// Masks of bytes as signs, 1 or -1.
#[inline(always)]
fn signs(masks: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_or_si256(masks, _mm256_set1_epi8(1)) }
}

/// Signs of four points in 7 bits each, the eighth of which makes the number of minus signs even.
#[inline(always)]
fn even_signs(packed: u32) -> __m256i {
    let mask = |k: u32| EVEN_SIGNS[(packed >> (7 * k)) as usize & 127];
    signs(join([mask(0), mask(1), mask(2), mask(3)]))
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

/// Defines a kernel's view of a codebook format: bytes, columns that share a scale, codes, scales, `d`.
macro_rules! codebook {
    (
        $name:ident, $bytes:literal, $group:literal, { $($constant:ident: $type:ty = $value:expr),* },
        codes |$block:ident, $part:ident| $codes:expr,
        $(signs |$signs_block:ident, $signs_part:ident| $signs:expr,)?
        scales |$scales_block:ident| $scales:expr,
        d |$d_block:ident| $d:expr $(,)?
    ) => {
        pub(super) struct $name;

        impl SuperBlock for $name {
            const BYTES: usize = $bytes;
            const GROUP: usize = $group;
            $(const $constant: $type = $value;)*

            #[inline(always)]
            unsafe fn codes($block: *const u8, $part: usize) -> __m256i {
                // SAFETY: a whole block, and AVX2, by the trait's contract.
                unsafe { $codes }
            }

            $(
                #[inline(always)]
                unsafe fn signs($signs_block: *const u8, $signs_part: usize, _codes: __m256i) -> __m256i {
                    // SAFETY: as above.
                    unsafe { $signs }
                }
            )?

            #[inline(always)]
            unsafe fn scales($scales_block: *const u8) -> __m256i {
                // SAFETY: as above.
                unsafe { $scales }
            }

            #[inline(always)]
            unsafe fn d($d_block: *const u8) -> f32 {
                // SAFETY: as above.
                unsafe { $d }
            }
        }
    };
}

codebook!(
    IQ2_XXS, 66, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    codes |block, part| {
        let points = word(block.add(2 + 8 * part));
        join([0, 8, 16, 24].map(|shift| IQ2_XXS_POINTS[(points >> shift) as usize & 255]))
    },
    signs |block, part| even_signs(word(block.add(6 + 8 * part))),
    scales |block| {
        let [low, high] = [0, 32].map(|at| _mm256_castsi256_ps(load(block.add(2 + at))));
        let words = _mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(low, high));
        odd(_mm256_srli_epi32::<28>(_mm256_permute4x64_epi64::<0xd8>(words)))
    },
    d |block| half(block) * 0.125,
);

codebook!(
    IQ2_XS, 74, 16, { SIGNED: bool = true, MAGNITUDES: bool = true },
    codes |block, part| {
        let codes = [word(block.add(2 + 8 * part)), word(block.add(6 + 8 * part))];
        let point = |k: usize| IQ2_XS_POINTS[(codes[k / 2] >> (16 * (k % 2))) as usize & 511];
        join([point(0), point(1), point(2), point(3)])
    },
    signs |block, part| {
        let codes = [word(block.add(2 + 8 * part)), word(block.add(6 + 8 * part))];
        let mask = |k: usize| EVEN_SIGNS[(codes[k / 2] >> (16 * (k % 2) + 9)) as usize & 127];
        signs(join([mask(0), mask(1), mask(2), mask(3)]))
    },
    scales |block| odd_nibbles(block.add(66)),
    d |block| half(block) * 0.125,
);

codebook!(
    IQ2_S, 82, 16, { SIGNED: bool = true, MAGNITUDES: bool = true },
    codes |block, part| {
        let (low, high) = (word(block.add(2 + 4 * part)), u32::from(block.add(66 + part).read()));
        let point = |k: u32| {
            IQ2_S_POINTS[((low >> (8 * k)) & 255 | ((high << (8 - 2 * k)) & 0x300)) as usize]
        };
        join([point(0), point(1), point(2), point(3)])
    },
    signs |block, part| signs(bits(block.add(34 + 4 * part))),
    scales |block| odd_nibbles(block.add(74)),
    d |block| half(block) * 0.125,
);

codebook!(
    IQ3_XXS, 98, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    codes |block, part| {
        let codes = block.add(2 + 8 * part).cast::<[u8; 8]>().read();
        join_short(codes.map(|code| IQ3_XXS_POINTS[usize::from(code)]))
    },
    signs |block, part| even_signs(word(block.add(66 + 4 * part))),
    scales |block| odd(_mm256_srli_epi32::<28>(load(block.add(66)))),
    d |block| half(block) * 0.25,
);

codebook!(
    IQ3_S, 110, 32, { SIGNED: bool = true, MAGNITUDES: bool = true },
    codes |block, part| {
        let low = _mm_cvtepu8_epi16(_mm_loadl_epi64(block.add(2 + 8 * part).cast()));
        let bit = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
        let high = _mm_and_si128(_mm_set1_epi16(i16::from(block.add(66 + part).read())), bit);
        let ninth = _mm_and_si128(_mm_cmpeq_epi16(high, bit), _mm_set1_epi16(256));
        let mut codes = [0_u16; 8];
        _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm_or_si128(low, ninth));
        join_short(codes.map(|code| IQ3_S_POINTS[usize::from(code & 511)]))
    },
    signs |block, part| signs(bits(block.add(74 + 4 * part))),
    scales |block| {
        let bytes = _mm_cvtsi32_si128(word(block.add(106)) as i32);
        let codes = _mm_and_si128(_mm_unpacklo_epi8(bytes, _mm_srli_epi16::<4>(bytes)), _mm_set1_epi8(15));
        let odd = _mm_or_si128(_mm_add_epi8(codes, codes), _mm_set1_epi8(1));
        _mm256_castsi128_si256(_mm_cvtepu8_epi16(odd))
    },
    d |block| half(block),
);

codebook!(
    IQ1_S, 50, 32, { OFFSET: i16 = 9 },
    codes |block, part| {
        let low = word(block.add(2 + 4 * part));
        let high = u32::from(block.add(34 + 2 * part).cast::<u16>().read_unaligned());
        let point = |k: u32| IQ1[((low >> (8 * k)) & 255 | ((high >> (3 * k)) & 7) << 8) as usize];
        // Codes are 2 more where the shift is up.
        let up = _mm256_set1_epi8(((!high >> 14) & 2) as i8);
        _mm256_add_epi8(join([point(0), point(1), point(2), point(3)]), up)
    },
    scales |block| {
        let codes = _mm_and_si128(_mm_srli_epi16::<12>(load_half(block.add(34))), _mm_set1_epi16(7));
        _mm256_castsi128_si256(_mm_or_si128(_mm_add_epi16(codes, codes), _mm_set1_epi16(1)))
    },
    d |block| half(block) * 0.125,
);

codebook!(
    IQ1_M, 56, 16, { OFFSET: i16 = 9 },
    codes |block, part| {
        let low = word(block.add(4 * part));
        let high = u32::from(block.add(32 + 2 * part).cast::<u16>().read_unaligned());
        let point = |k: u32| {
            let high = high >> (4 * k);
            let up = (u64::from(high >> 3 & 1) ^ 1) * 0x0202_0202_0202_0202;
            IQ1[((low >> (8 * k)) & 255 | (high & 7) << 8) as usize] + up
        };
        join([point(0), point(1), point(2), point(3)])
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
    d |block| {
        let words = block.add(48).cast::<u64>().read_unaligned();
        let bits = (words >> 12) & 0xf | (words >> 24) & 0xf0 | (words >> 36) & 0xf00 | (words >> 48) & 0xf000;
        half_of(bits as u16) * 0.125
    },
);
