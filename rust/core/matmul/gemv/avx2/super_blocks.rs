//! Formats of super-blocks: integers up to the whole block, and one scale each then.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{AHEAD, AT_ONCE, Blocks, PARTS, Rounded, floats, load16, products, totals};
use crate::matmul::slab::Slab;
use crate::prefetch::prefetch;

/// A format of super-blocks. All functions need AVX2 and F16C, and whole blocks.
pub(super) trait SuperBlock {
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
    unsafe fn scales(blocks: Blocks) -> [__m256i; AT_ONCE];

    /// What every activation is multiplied by because codes are not yet the weights, for each 16 columns.
    #[inline(always)]
    unsafe fn shifts(_block: *const u8, scales: __m256i) -> __m256i {
        // SAFETY: AVX2 by the trait's contract.
        unsafe {
            let wide = if Self::GROUP == 16 { scales } else { each_twice(scales) };
            _mm256_mullo_epi16(wide, _mm256_set1_epi16(-Self::OFFSET))
        }
    }

    /// Integer minima: of each 16 columns of a block, or of each 32 of two blocks.
    #[inline(always)]
    unsafe fn mins(_blocks: Blocks) -> [__m256i; AT_ONCE] {
        // SAFETY: AVX2 by the trait's contract.
        unsafe { [_mm256_setzero_si256(); AT_ONCE] }
    }

    /// The scales of the scales.
    unsafe fn d(blocks: Blocks) -> __m128;

    /// The scales of the minima, with their signs turned.
    #[inline(always)]
    unsafe fn dmin(_blocks: Blocks) -> __m128 {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_setzero_ps() }
    }
}

/// Defines a function of four blocks by what it does with one.
macro_rules! each_block {
    ($function:ident |$block:ident| $value:expr) => {
        #[inline(always)]
        unsafe fn $function(blocks: Blocks) -> [__m256i; AT_ONCE] {
            // SAFETY: whole blocks, and AVX2, by the trait's contract.
            unsafe {
                let mut own = [_mm256_setzero_si256(); AT_ONCE];
                for s in 0..AT_ONCE {
                    let $block = blocks[s];
                    own[s] = $value;
                }
                own
            }
        }
    };
}
pub(super) use each_block;

/// Eight numbers of 16 bits in the lower half, each twice.
#[inline(always)]
pub(super) fn each_twice(numbers: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let low = _mm256_castsi256_si128(numbers);
        _mm256_set_m128i(_mm_unpackhi_epi16(low, low), _mm_unpacklo_epi16(low, low))
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

/// What the minima of four blocks contribute, before their scales.
#[inline(always)]
fn min_totals<F: SuperBlock>(mins: &[__m256i; AT_ONCE], x: &[&Rounded; AT_ONCE]) -> __m128i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        if F::GROUP == 16 {
            let mut own = [_mm256_setzero_si256(); AT_ONCE];
            for s in 0..AT_ONCE {
                own[s] = _mm256_madd_epi16(mins[s], load16(&x[s].sums));
            }
            return totals(&own);
        }
        let mut pairs = [_mm256_setzero_si256(); 2];
        for i in 0..2 {
            // Sums of 32 codes fit 16 bits: `32 * 127 < 2^15`. Of two blocks each, four at a time.
            let sums = _mm256_hadd_epi16(load16(&x[2 * i].sums), load16(&x[2 * i + 1].sums));
            let sums = _mm256_permute4x64_epi64::<0xd8>(sums);
            pairs[i] = _mm256_madd_epi16(mins[i], sums);
        }
        let both = _mm256_hadd_epi32(pairs[0], pairs[1]);
        // Blocks 0 and 2 in the lower half, 1 and 3 in the upper.
        let rows = _mm256_hadd_epi32(both, both);
        _mm_unpacklo_epi32(_mm256_castsi256_si128(rows), _mm256_extracti128_si256::<1>(rows))
    }
}

/// Unpacks blocks whose codes are magnitudes and signs, as [`crate::matmul::unpack`] defines it.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack<F: SuperBlock>(bytes: &[u8], slabs: &mut [Slab]) {
    const { assert!(F::SIGNED && F::MAGNITUDES && !F::MINS) };
    let mut open = F::Open::default();
    for (block, slab) in bytes.chunks_exact(F::BYTES).zip(slabs) {
        let blocks = [block.as_ptr(); AT_ONCE];
        // SAFETY: a whole block, and AVX2 and F16C are enabled; codes are [`PARTS`] registers, and scales one.
        unsafe {
            F::open(blocks[0], &mut open);
            let to = slab.codes.as_mut_ptr().cast::<__m256i>();
            for part in 0..PARTS {
                let codes = F::codes(blocks[0], &open, part);
                let signs = F::signs(blocks[0], &open, part, codes);
                _mm256_storeu_si256(to.add(part), _mm256_sign_epi8(codes, signs));
            }
            let scales = F::scales(blocks)[0];
            let scales = if F::GROUP == 16 { scales } else { each_twice(scales) };
            _mm256_storeu_si256(slab.scales.as_mut_ptr().cast(), scales);
            slab.d[0] = floats(F::d(blocks))[0];
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn super_blocks<F: SuperBlock, const N: usize>(row: &[u8], x: &[Rounded], slabs: usize, sums: &mut [f32]) {
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
    start: *const u8,
    x: *const Rounded,
    slabs: usize,
    open: &mut [F::Open; AT_ONCE],
    mut sums: [f32; N],
) -> [f32; N] {
    // SAFETY: by this function's contract.
    unsafe {
        // Where there are fewer, one counts several times, and is not added.
        let mut blocks = [start; AT_ONCE];
        let mut slab = [[&*x; AT_ONCE]; N];
        for s in 0..COUNT {
            blocks[s] = start.add(s * F::BYTES);
            for n in 0..N {
                slab[n][s] = &*x.add(n * slabs + s);
            }
        }
        prefetch(start.wrapping_add(AHEAD), COUNT * F::BYTES);
        // All are opened first: what this leaves in memory is there by the time when it is read.
        for s in 0..COUNT {
            F::open(blocks[s], &mut open[s]);
        }
        let scales = F::scales(blocks);
        let mut whole = [[_mm256_setzero_si256(); AT_ONCE]; N];
        for s in 0..COUNT {
            let mut own_x = [slab[0][s]; N];
            for n in 1..N {
                own_x[n] = slab[n][s];
            }
            let mut own = [_mm256_setzero_si256(); N];
            if F::OFFSET != 0 {
                let shifts = F::shifts(blocks[s], scales[s]);
                for n in 0..N {
                    own[n] = _mm256_madd_epi16(shifts, load16(&own_x[n].sums));
                }
            }
            let scales = spread::<F>(scales[s]);
            macro_rules! parts {
                ($($part:literal)+) => {
                    $(part::<F, N>(blocks[s], &open[s], $part, &scales, &own_x, &mut own);)+
                };
            }
            parts!(0 1 2 3 4 5 6 7);
            for n in 0..N {
                whole[n][s] = own[n];
            }
        }
        let (d, mins, dmin) = (F::d(blocks), F::mins(blocks), F::dmin(blocks));
        for n in 0..N {
            let x = &slab[n];
            let x_d = _mm_setr_ps(x[0].d[0], x[1].d[0], x[2].d[0], x[3].d[0]);
            let factors = floats(_mm_mul_ps(d, x_d));
            let whole = floats(_mm_cvtepi32_ps(totals(&whole[n])));
            if F::MINS {
                let min_factors = floats(_mm_mul_ps(dmin, x_d));
                let mins = floats(_mm_cvtepi32_ps(min_totals::<F>(&mins, x)));
                for s in 0..COUNT {
                    sums[n] = factors[s].mul_add(whole[s], sums[n]);
                    sums[n] = min_factors[s].mul_add(mins[s], sums[n]);
                }
            } else {
                for s in 0..COUNT {
                    sums[n] = factors[s].mul_add(whole[s], sums[n]);
                }
            }
        }
    }
    sums
}
