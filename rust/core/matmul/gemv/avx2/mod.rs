//! The kernels for AVX2. Columns are lanes, in integers, where the order of additions is free; the sums of four
//! super-blocks, or of eight blocks, are added up together.
//!
//! Intrinsics stand in loops and not in closures, which are compiled on their own, without AVX2.

#![allow(non_camel_case_types)] // Format names are the field's own.

mod codebook;
mod kquants;
mod small;

use std::arch::asm;
use std::arch::x86_64::*;

use super::{AHEAD, MultiplyRow, PIECES, Rounded};
use crate::arch::prefetch;
use crate::block::Format;
use crate::matmul::slab::SLAB;

/// Registers that 256 codes take.
const PARTS: usize = SLAB / 32;
/// Super-blocks whose sums are added up together.
const AT_ONCE: usize = 4;

/// A format of super-blocks. All functions need AVX2 and F16C, and a whole block at `block`.
trait SuperBlock {
    /// What is taken out of a block as a whole, before its parts.
    type Open: Default;
    /// Bytes of a block.
    const BYTES: usize;
    /// Columns that share a scale, 16 or 32.
    const GROUP: usize;
    /// Whether there are minima.
    const MINS: bool = false;
    /// Subtracted from a code to give the weight.
    const OFFSET: i16 = 0;
    /// Whether codes are signed.
    const SIGNED: bool = false;
    /// Whether what `codes` gives are the magnitudes of signed codes.
    const MAGNITUDES: bool = false;

    /// Whether codes are looked up in memory.
    const LOOKS_UP: bool = false;

    /// Takes out what concerns all parts.
    unsafe fn open(block: *const u8, to: &mut Self::Open);

    /// Codes of 32 columns.
    unsafe fn codes(block: *const u8, open: &Self::Open, part: usize) -> __m256i;

    /// Where codes are signed, bytes with their signs; none is zero unless its code is.
    #[inline(always)]
    unsafe fn signs(_block: *const u8, _open: &Self::Open, _part: usize, codes: __m256i) -> __m256i {
        codes
    }

    /// Integer scales of each 16 columns, or, in the lower half, of each 32.
    unsafe fn scales(block: *const u8) -> __m256i;

    /// What every activation is multiplied by because codes are not yet the weights, for each 16 columns.
    #[inline(always)]
    unsafe fn shifts(_block: *const u8, scales: __m256i) -> __m256i {
        // SAFETY: AVX2 by the trait's contract.
        unsafe {
            let wide = if Self::GROUP == 16 { scales } else { each_twice(scales) };
            _mm256_mullo_epi16(wide, _mm256_set1_epi16(-Self::OFFSET))
        }
    }

    /// Integer minima of each 16 columns.
    #[inline(always)]
    unsafe fn mins(_block: *const u8) -> __m256i {
        // SAFETY: AVX2 by the trait's contract.
        unsafe { _mm256_setzero_si256() }
    }

    /// The scale of the scales is a half times this power of two.
    const FACTOR: f32 = 1.0;

    /// The half, in bits.
    unsafe fn d(block: *const u8) -> u16;

    /// The scale of the minima, a half in bits.
    #[inline(always)]
    unsafe fn dmin(_block: *const u8) -> u16 {
        0
    }
}

/// A format of blocks of 32 with a float scale each. All functions need AVX2 and F16C, and eight whole blocks.
trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether there are minima.
    const MINS: bool = false;
    /// Subtracted from a code to give the weight, as a power of two; 0 if nothing is.
    const OFFSET_BITS: i32 = 0;
    /// Whether codes are signed.
    const SIGNED: bool = false;

    /// Codes of one block.
    unsafe fn codes(block: *const u8) -> __m256i;

    /// Scales of eight blocks.
    #[inline(always)]
    unsafe fn scales(blocks: *const u8) -> __m256 {
        // SAFETY: AVX2, F16C and eight blocks by the trait's contract; a scale comes first in every block.
        unsafe { halves::<0>(blocks, Self::BYTES) }
    }

    /// Minima of eight blocks.
    #[inline(always)]
    unsafe fn mins(blocks: *const u8) -> __m256 {
        // SAFETY: as above; a minimum comes second where there is one.
        unsafe { halves::<2>(blocks, Self::BYTES) }
    }
}

/// Half-precision numbers at byte `AT` of each of eight blocks.
///
/// # Safety
/// Eight blocks of `bytes` bytes at `blocks`, F16C.
#[inline(always)]
unsafe fn halves<const AT: usize>(blocks: *const u8, bytes: usize) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let mut found = _mm_setzero_si128();
        macro_rules! insert {
            ($($i:literal)+) => {$(
                let half = blocks.add($i * bytes + AT).cast::<u16>().read_unaligned();
                found = _mm_insert_epi16::<$i>(found, i32::from(half));
            )+};
        }
        insert!(0 1 2 3 4 5 6 7);
        _mm256_cvtph_ps(found)
    }
}

/// A half-precision number's bits.
///
/// # Safety
/// Two bytes at `at`.
#[inline(always)]
unsafe fn half(at: *const u8) -> u16 {
    // SAFETY: by this function's contract.
    u16::from_le(unsafe { at.cast::<u16>().read_unaligned() })
}

/// Four half-precision numbers from their bits, times `factor`.
///
/// # Safety
/// F16C.
#[inline(always)]
unsafe fn widen_halves(bits: [u16; AT_ONCE], factor: f32) -> [f32; AT_ONCE] {
    let [a, b, c, d] = bits.map(u64::from);
    // SAFETY: by this function's contract; four numbers are one register.
    unsafe {
        let halves = _mm_cvtsi64_si128((a | b << 16 | c << 32 | d << 48) as i64);
        let mut widened = [0.0; AT_ONCE];
        _mm_storeu_ps(widened.as_mut_ptr(), _mm_mul_ps(_mm_cvtph_ps(halves), _mm_set1_ps(factor)));
        widened
    }
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
fn totals(parts: &[__m256i; AT_ONCE]) -> [f32; AT_ONCE] {
    // SAFETY: every caller has AVX2 enabled; four numbers are one register.
    unsafe {
        let (low, high) = (_mm256_hadd_epi32(parts[0], parts[1]), _mm256_hadd_epi32(parts[2], parts[3]));
        let both = _mm256_hadd_epi32(low, high);
        let all = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
        let mut totals = [0.0; AT_ONCE];
        _mm_storeu_ps(totals.as_mut_ptr(), _mm_cvtepi32_ps(all));
        totals
    }
}

/// Which bytes of four scales, each twice, go to the lanes of a part: one for all.
const LANES_32: [[u8; 32]; 4] = lanes(4, 1);
/// Which bytes of 8 scales go to the lanes of a part: one for each half of it.
const LANES_16: [[u8; 32]; 4] = lanes(2, 2);

/// Bytes of scales that take `bytes` each, of which each of four parts has `count`.
const fn lanes(bytes: usize, count: usize) -> [[u8; 32]; 4] {
    let mut lanes = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        let scale = count * (i / 32) + i % 32 * count / 32;
        lanes[i / 32][i % 32] = (bytes * scale + i % bytes) as u8;
        i += 1;
    }
    lanes
}

/// Scales as [`part`] takes them: those of the first four parts and of the others, both halves alike.
#[inline(always)]
fn spread<F: SuperBlock>(scales: __m256i) -> [__m256i; 2] {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let [low, high] = if F::GROUP == 16 {
            let low = _mm256_permute2x128_si256::<0x00>(scales, scales);
            [low, _mm256_permute2x128_si256::<0x11>(scales, scales)]
        } else {
            let both = _mm256_permute2x128_si256::<0x00>(scales, scales);
            [_mm256_unpacklo_epi16(both, both), _mm256_unpackhi_epi16(both, both)]
        };
        [hidden(low), hidden(high)]
    }
}

/// As it is, and the compiler does not know where from: of halves that it sees to be alike, it would take out single scales
/// one by one, with two instructions each.
#[inline]
#[target_feature(enable = "avx2")]
fn hidden(mut numbers: __m256i) -> __m256i {
    // SAFETY: nothing is done.
    unsafe { asm!("/* {} */", inout(ymm_reg) numbers, options(pure, nomem, nostack, preserves_flags)) };
    numbers
}

/// Adds the products of one of [`PARTS`] to `own`.
///
/// # Safety
/// A whole block at `block`, AVX2 and F16C.
#[inline(always)]
unsafe fn part<F: SuperBlock, const N: usize>(
    block: *const u8,
    open: &F::Open,
    part: usize,
    scales: &[__m256i; 2],
    x: &[&Rounded; N],
    own: &mut [__m256i; N],
) {
    // SAFETY: by this function's contract; masks are one register each.
    unsafe {
        if F::LOOKS_UP {
            // One part after another: the compiler would look up points of all of them first, and run out of registers.
            asm!("", options(nostack, preserves_flags));
        }
        let lanes = if F::GROUP == 16 { &LANES_16 } else { &LANES_32 };
        let lanes = _mm256_loadu_si256(lanes[part % 4].as_ptr().cast());
        let scales = _mm256_shuffle_epi8(scales[part / 4], lanes);
        let codes = F::codes(block, open, part);
        let signs = F::signs(block, open, part, codes);
        let codes = if F::SIGNED && !F::MAGNITUDES { _mm256_abs_epi8(codes) } else { codes };
        for n in 0..N {
            let products = products(codes, signs, F::SIGNED, x[n], part);
            own[n] = _mm256_add_epi32(own[n], _mm256_madd_epi16(products, scales));
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn super_blocks<F: SuperBlock, const N: usize>(row: &[u8], x: &[Rounded], slabs: usize, sums: &mut [f32]) {
    // A copy, so that sums stay in registers.
    let (to, mut sums) = (sums, [0.0; N]);
    assert!(row.len() == slabs * F::BYTES && x.len() == N * slabs);
    let mut open: [F::Open; AT_ONCE] = Default::default();
    let (mut blocks, mut x) = (row.as_ptr(), x.as_ptr());
    for _ in 0..slabs / AT_ONCE {
        // SAFETY: as many blocks and slabs are left, and AVX2, FMA and F16C are enabled.
        unsafe {
            sums = some_blocks::<F, N, AT_ONCE>(blocks, x, slabs, &mut open, sums);
            (blocks, x) = (blocks.add(AT_ONCE * F::BYTES), x.add(AT_ONCE));
        }
    }
    for _ in 0..slabs % AT_ONCE {
        // SAFETY: as above.
        unsafe {
            sums = some_blocks::<F, N, 1>(blocks, x, slabs, &mut open, sums);
            (blocks, x) = (blocks.add(F::BYTES), x.add(1));
        }
    }
    to.copy_from_slice(&sums);
}

/// `sums` and the products of `COUNT` blocks with each of `N` rows of activations, `slabs` apart.
///
/// # Safety
/// There are `COUNT` blocks, and as many slabs of each row from `x` on; AVX2, FMA and F16C.
#[inline(always)]
unsafe fn some_blocks<F: SuperBlock, const N: usize, const COUNT: usize>(
    blocks: *const u8,
    x: *const Rounded,
    slabs: usize,
    open: &mut [F::Open; AT_ONCE],
    mut sums: [f32; N],
) -> [f32; N] {
    let x = |n: usize, s: usize| {
        // SAFETY: by this function's contract.
        unsafe { &*x.add(n * slabs + s) }
    };
    // SAFETY: by this function's contract.
    unsafe {
        let mut whole = [[_mm256_setzero_si256(); AT_ONCE]; N];
        let mut mins = [[_mm256_setzero_si256(); AT_ONCE]; N];
        let (mut d, mut dmin) = ([0; AT_ONCE], [0; AT_ONCE]);
        // All are opened first: what this leaves in memory is there by the time when it is read.
        for s in 0..COUNT {
            let block = blocks.add(s * F::BYTES);
            prefetch(block.wrapping_add(AHEAD), F::BYTES);
            F::open(block, &mut open[s]);
            (d[s], dmin[s]) = (F::d(block), F::dmin(block));
        }
        for s in 0..COUNT {
            let block = blocks.add(s * F::BYTES);
            let scales = F::scales(block);
            let mut own = [_mm256_setzero_si256(); N];
            if F::OFFSET != 0 {
                let shifts = F::shifts(block, scales);
                for n in 0..N {
                    own[n] = _mm256_madd_epi16(shifts, load16(&x(n, s).sums));
                }
            }
            let scales = spread::<F>(scales);
            let mut own_x = [x(0, s); N];
            for n in 1..N {
                own_x[n] = x(n, s);
            }
            macro_rules! parts {
                ($($part:literal)+) => { $(part::<F, N>(block, &open[s], $part, &scales, &own_x, &mut own);)+ };
            }
            parts!(0 1 2 3 4 5 6 7);
            for n in 0..N {
                whole[n][s] = own[n];
            }
            if F::MINS {
                let own = F::mins(block);
                for n in 0..N {
                    mins[n][s] = _mm256_madd_epi16(own, load16(&x(n, s).sums));
                }
            }
        }
        let (d, dmin) = (widen_halves(d, F::FACTOR), widen_halves(dmin, -1.0));
        for n in 0..N {
            let (whole, mins) = (totals(&whole[n]), if F::MINS { totals(&mins[n]) } else { [0.0; AT_ONCE] });
            for s in 0..COUNT {
                let x = x(n, s).d[0];
                sums[n] = (d[s] * x).mul_add(whole[s], sums[n]);
                if F::MINS {
                    sums[n] = (dmin[s] * x).mul_add(mins[s], sums[n]);
                }
            }
        }
    }
    sums
}

/// Eight numbers of 16 bits in the lower half, each twice.
#[inline(always)]
fn each_twice(numbers: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let low = _mm256_castsi256_si128(numbers);
        _mm256_set_m128i(_mm_unpackhi_epi16(low, low), _mm_unpacklo_epi16(low, low))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn blocks<F: Block, const N: usize>(row: &[u8], x: &[Rounded], slabs: usize, sums: &mut [f32]) {
    /// Bytes of eight blocks of any format.
    const LARGEST: usize = 8 * 34;
    // A copy, so that sums stay in registers.
    let (to, mut sums) = (sums, [0.0; N]);
    assert!(x.len() == N * slabs && row.len() <= slabs * PARTS * F::BYTES && F::BYTES * PARTS <= LARGEST);
    let (whole, rest) = row.split_at(row.len() / (PARTS * F::BYTES) * (PARTS * F::BYTES));
    // Blocks that are missing to a slab are zero, as are the activations that they meet.
    let mut last = [0; LARGEST];
    last[..rest.len()].copy_from_slice(rest);
    let ones = _mm256_set1_epi16(1);
    for i in 0..slabs {
        let at = i * PARTS * F::BYTES;
        let start = if at < whole.len() { whole[at..].as_ptr() } else { last.as_ptr() };
        prefetch(start.wrapping_add(AHEAD), PARTS * F::BYTES);
        // SAFETY: eight whole blocks, and AVX2 and F16C are enabled.
        let (scales, mins) = unsafe { (F::scales(start), if F::MINS { F::mins(start) } else { _mm256_setzero_ps() }) };
        let mut kept = [[_mm256_setzero_si256(); 2]; N];
        for half in 0..2 {
            let mut pairs = [[_mm256_setzero_si256(); 2]; N];
            for j in 0..2 {
                let part = 4 * half + 2 * j;
                // SAFETY: as above.
                let codes =
                    unsafe { [F::codes(start.add(part * F::BYTES)), F::codes(start.add((part + 1) * F::BYTES))] };
                for n in 0..N {
                    let x = &x[n * slabs + i];
                    let low = _mm256_madd_epi16(signed_products::<F>(codes[0], x, part), ones);
                    let high = _mm256_madd_epi16(signed_products::<F>(codes[1], x, part + 1), ones);
                    pairs[n][j] = _mm256_hadd_epi32(low, high);
                }
            }
            for n in 0..N {
                kept[n][half] = _mm256_hadd_epi32(pairs[n][0], pairs[n][1]);
            }
        }
        for n in 0..N {
            let x = &x[n * slabs + i];
            let [low, high] = kept[n];
            let mut whole = _mm256_add_epi32(
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            if F::OFFSET_BITS > 0 {
                let sums = _mm256_madd_epi16(load16(&x.sums), ones);
                whole = _mm256_sub_epi32(whole, _mm256_sll_epi32(sums, _mm_cvtsi32_si128(F::OFFSET_BITS)));
            }
            let (mut numbers, mut factors, mut shifts) = ([0.0; PARTS], [0.0; PARTS], [0.0; PARTS]);
            // SAFETY: eight numbers are one register.
            unsafe {
                _mm256_storeu_ps(numbers.as_mut_ptr(), _mm256_cvtepi32_ps(whole));
                _mm256_storeu_ps(factors.as_mut_ptr(), _mm256_mul_ps(scales, _mm256_loadu_ps(x.d.as_ptr())));
                if F::MINS {
                    _mm256_storeu_ps(shifts.as_mut_ptr(), mins);
                }
            }
            for part in 0..PARTS {
                sums[n] = factors[part].mul_add(numbers[part], sums[n]);
                if F::MINS {
                    sums[n] = shifts[part].mul_add(x.s[part], sums[n]);
                }
            }
        }
    }
    to.copy_from_slice(&sums);
}

/// Products of a block's codes, signed or not.
#[inline(always)]
fn signed_products<F: Block>(codes: __m256i, x: &Rounded, part: usize) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    let magnitudes = if F::SIGNED { unsafe { _mm256_abs_epi8(codes) } } else { codes };
    products(magnitudes, codes, F::SIGNED, x, part)
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
