//! The kernels for AVX2. Columns are lanes, in integers, where the order of additions is free; the sums of four
//! blocks are then added up across lanes together.
//!
//! Intrinsics stand in loops and not in closures, which are compiled on their own, without AVX2.

#![allow(non_camel_case_types)] // Format names are the field's own.

mod blocks;
mod codebook;
mod kquants;
mod small;
mod super_blocks;

use std::arch::x86_64::*;

use super::{AHEAD, MultiplyRow, PIECES, Rounded};
use crate::block::Format;
use crate::matmul::slab::{SLAB, UnpackRow};
use blocks::blocks;
use super_blocks::super_blocks;

/// Registers that 256 codes take.
const PARTS: usize = SLAB / 32;
/// Blocks whose sums are added up together.
const AT_ONCE: usize = 4;
/// Where such blocks are.
type Blocks = [*const u8; AT_ONCE];

/// The first two half-precision numbers of each of four blocks: the first of all, then the second of all.
///
/// # Safety
/// 16 bytes at each of `blocks`, AVX2, F16C.
#[inline(always)]
unsafe fn first_halves(blocks: Blocks) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let low = _mm_unpacklo_epi16(load_half(blocks[0]), load_half(blocks[1]));
        let high = _mm_unpacklo_epi16(load_half(blocks[2]), load_half(blocks[3]));
        _mm256_cvtph_ps(_mm_unpacklo_epi32(low, high))
    }
}

/// The last two half-precision numbers of each of four blocks of `bytes` bytes: the one before the last of all, then the
/// last of all.
///
/// # Safety
/// As many bytes at each of `blocks`, and at least 16; AVX2, F16C.
#[inline(always)]
unsafe fn last_halves(blocks: Blocks, bytes: usize) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let end = |r: usize| blocks[r].add(bytes - 16);
        let low = _mm_unpackhi_epi16(load_half(end(0)), load_half(end(1)));
        let high = _mm_unpackhi_epi16(load_half(end(2)), load_half(end(3)));
        _mm256_cvtph_ps(_mm_unpackhi_epi32(low, high))
    }
}

/// The lower half of a register.
#[inline(always)]
fn lower(numbers: __m256) -> __m128 {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_castps256_ps128(numbers) }
}

/// The upper half of a register.
#[inline(always)]
fn upper(numbers: __m256) -> __m128 {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_extractf128_ps::<1>(numbers) }
}

/// For each of 32 bits a byte, all ones where it is set.
///
/// # Safety
/// Four bytes at `at`, AVX2.
#[inline(always)]
unsafe fn bits(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let ones = 0x0101_0101_0101_0101;
        let bytes = _mm256_set_epi64x(3 * ones, 2 * ones, ones, 0);
        let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(word(at) as i32), bytes);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
    }
}

/// 32 bytes.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// 16 bytes.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn load_half(at: *const u8) -> __m128i {
    // SAFETY: by this function's contract.
    unsafe { _mm_loadu_si128(at.cast()) }
}

/// Four bytes as a number.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn word(at: *const u8) -> u32 {
    // SAFETY: by this function's contract.
    u32::from_le(unsafe { at.cast::<u32>().read_unaligned() })
}

/// 16 bytes of half bytes: the lower ones, then the upper ones.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let both = _mm256_broadcastsi128_si256(load_half(at));
        _mm256_and_si256(_mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4)), _mm256_set1_epi8(15))
    }
}

/// Pairs of products in 16 bits. Two products of codes of 8 bits fit: `2 * 128 * 127 < 2^15`.
#[inline(always)]
fn products(codes: __m256i, signs: __m256i, signed: bool, x: &Rounded, part: usize) -> __m256i {
    // SAFETY: every caller has AVX2 enabled; `x` holds 8 parts, aligned.
    unsafe {
        let x = _mm256_load_si256(x.codes.as_ptr().cast::<__m256i>().add(part));
        // The sign goes over to the activation, which is never -128.
        _mm256_maddubs_epi16(codes, if signed { _mm256_sign_epi8(x, signs) } else { x })
    }
}

#[inline(always)]
fn load16(numbers: &[i16; 16]) -> __m256i {
    // SAFETY: every caller has AVX2 enabled; 16 numbers are one register.
    unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
}

/// For each of four registers the sum of its lanes.
#[inline(always)]
fn totals(parts: &[__m256i; AT_ONCE]) -> __m128i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let (low, high) = (_mm256_hadd_epi32(parts[0], parts[1]), _mm256_hadd_epi32(parts[2], parts[3]));
        halves_added(_mm256_hadd_epi32(low, high))
    }
}

/// Sums of lanes that lie four apart.
#[inline(always)]
fn halves_added(lanes: __m256i) -> __m128i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes)) }
}

/// The numbers in a register.
#[inline(always)]
fn floats(numbers: __m128) -> [f32; AT_ONCE] {
    let mut own = [0.0; AT_ONCE];
    // SAFETY: four numbers are one register.
    unsafe { _mm_storeu_ps(own.as_mut_ptr(), numbers) };
    own
}

/// Defines the table of kernels.
macro_rules! kernels {
    ($($format:ident => $module:ident $function:ident,)+) => {
        pub(super) fn kernels(format: Format) -> Option<[MultiplyRow; PIECES.len()]> {
            match format {
                $(Format::$format => {
                    use $module::$format as Own;
                    Some([
                        $function::<Own, { PIECES[0] }>,
                        $function::<Own, { PIECES[1] }>,
                        $function::<Own, { PIECES[2] }>,
                    ])
                })+
                _ => None,
            }
        }
    };
}

/// Defines the table of functions that unpack as kernels take codes out of a block.
macro_rules! unpackers {
    ($($format:ident),+) => {
        pub(super) fn unpack(format: Format) -> Option<UnpackRow> {
            match format {
                // SAFETY: the caller has found the instruction set that these functions need.
                $(Format::$format => Some(|bytes, slabs| unsafe {
                    super_blocks::unpack::<codebook::$format>(bytes, slabs);
                }),)+
                _ => None,
            }
        }
    };
}

unpackers!(IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S);

kernels! {
    Q2_K => kquants super_blocks,
    Q3_K => kquants super_blocks,
    Q4_K => kquants super_blocks,
    Q5_K => kquants super_blocks,
    Q6_K => kquants super_blocks,
    IQ4_XS => kquants super_blocks,
    IQ1_S => codebook super_blocks,
    IQ1_M => codebook super_blocks,
    IQ2_XXS => codebook super_blocks,
    IQ2_XS => codebook super_blocks,
    IQ2_S => codebook super_blocks,
    IQ3_XXS => codebook super_blocks,
    IQ3_S => codebook super_blocks,
    Q8_0 => small blocks,
    Q4_0 => small blocks,
    Q4_1 => small blocks,
    Q5_0 => small blocks,
    Q5_1 => small blocks,
    IQ4_NL => small blocks,
    MXFP4 => small blocks,
}
