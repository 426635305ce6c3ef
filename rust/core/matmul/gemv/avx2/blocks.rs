//! Formats of blocks of 32 with a float scale each.

use std::arch::x86_64::*;

use super::{
    AHEAD, AT_ONCE, Blocks, PARTS, Rounded, first_halves, floats, halves_added, lower, products, totals, upper,
};
use crate::prefetch::prefetch;

/// A format of blocks of 32 with a float scale each. All functions need AVX2 and F16C, and whole blocks.
pub(super) trait Block {
    /// Bytes of a block.
    const BYTES: usize;
    /// Whether there are minima.
    const MINS: bool = false;
    /// Subtracted from a code to give the weight, as a power of two; 0 if nothing is.
    const OFFSET_BITS: i32 = 0;
    /// Whether codes are signed.
    const SIGNED: bool = false;
    /// The largest magnitude of a code.
    const MAX: i32;

    /// Codes of one block.
    unsafe fn codes(block: *const u8) -> __m256i;

    /// Scales of four blocks, and what comes after them.
    #[inline(always)]
    unsafe fn scales(blocks: Blocks) -> __m256 {
        // SAFETY: AVX2, F16C and blocks by the trait's contract; a scale comes first in every block, a minimum second.
        unsafe { first_halves(blocks) }
    }
}

/// Largest magnitude of an activation's code.
const CODE: i32 = 127;

/// For each of four blocks the sum of its products, which come as pairs in 16 bits.
#[inline(always)]
fn block_totals<F: Block>(products: [__m256i; AT_ONCE]) -> __m128i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut fours = [_mm256_setzero_si256(); AT_ONCE];
        for r in 0..AT_ONCE {
            fours[r] = _mm256_madd_epi16(products[r], ones);
        }
        if 8 * F::MAX * CODE > i32::from(i16::MAX) {
            return totals(&fours);
        }
        // Sums of four products, and of eight, fit 16 bits. Narrowed, they lie side by side for the next addition, with
        // fewer instructions than adding up within lanes takes.
        let low = _mm256_madd_epi16(_mm256_packs_epi32(fours[0], fours[1]), ones);
        let high = _mm256_madd_epi16(_mm256_packs_epi32(fours[2], fours[3]), ones);
        halves_added(_mm256_madd_epi16(_mm256_packs_epi32(low, high), ones))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn blocks<F: Block, const N: usize>(row: &[u8], x: &[Rounded], slabs: usize, sums: &mut [f32]) {
    /// Bytes of eight blocks of any format.
    const LARGEST: usize = 8 * 34;
    // A copy, so that sums stay in registers.
    let (to, mut sums) = (sums, [0.0; N]);
    let slab_bytes = PARTS * F::BYTES;
    assert!(x.len() == N * slabs && row.len() <= slabs * slab_bytes && slab_bytes <= LARGEST);
    let (whole, rest) = row.split_at(row.len() / slab_bytes * slab_bytes);
    // Blocks that are missing to a slab are zero, as are the activations that they meet.
    let mut last = [0; LARGEST];
    last[..rest.len()].copy_from_slice(rest);
    for i in 0..slabs {
        let at = i * slab_bytes;
        let start = if at < whole.len() { whole[at..].as_ptr() } else { last.as_ptr() };
        prefetch(start.wrapping_add(AHEAD), slab_bytes);
        for first in (0..PARTS).step_by(AT_ONCE) {
            let blocks = [0, 1, 2, 3].map(|s| start.wrapping_add((first + s) * F::BYTES));
            // SAFETY: eight whole blocks at `start`, and AVX2, FMA and F16C are enabled; a slab has eight of what is read
            // four at a time.
            unsafe {
                let scales = F::scales(blocks);
                if N == 4 {
                    sums = four_columns::<F, N>(blocks, scales, &x[i..], slabs, first, sums);
                    continue;
                }
                let mut codes = [_mm256_setzero_si256(); AT_ONCE];
                for s in 0..AT_ONCE {
                    codes[s] = F::codes(blocks[s]);
                }
                for n in 0..N {
                    let x = &x[n * slabs + i];
                    let mut pairs = [_mm256_setzero_si256(); AT_ONCE];
                    for s in 0..AT_ONCE {
                        let magnitudes = if F::SIGNED { _mm256_abs_epi8(codes[s]) } else { codes[s] };
                        pairs[s] = products(magnitudes, codes[s], F::SIGNED, x, first + s);
                    }
                    let mut whole = block_totals::<F>(pairs);
                    if F::OFFSET_BITS > 0 {
                        let sums = _mm_loadu_si128(x.sums.as_ptr().add(2 * first).cast());
                        let sums = _mm_madd_epi16(sums, _mm_set1_epi16(1 << F::OFFSET_BITS));
                        whole = _mm_sub_epi32(whole, sums);
                    }
                    let whole = floats(_mm_cvtepi32_ps(whole));
                    let x_d = _mm_loadu_ps(x.d.as_ptr().add(first));
                    let (factors, mins) = (floats(_mm_mul_ps(lower(scales), x_d)), floats(upper(scales)));
                    for s in 0..AT_ONCE {
                        sums[n] = factors[s].mul_add(whole[s], sums[n]);
                        if F::MINS {
                            sums[n] = mins[s].mul_add(x.s[first + s], sums[n]);
                        }
                    }
                }
            }
        }
    }
    to.copy_from_slice(&sums);
}

/// `sums` and the products of four blocks, of which `first` is the number of the first in its slab, with four rows of
/// activations, `slabs` apart: these are lanes, from the sums of a block's products on.
///
/// # Safety
/// There are four blocks and rows; AVX2, FMA and F16C.
#[inline(always)]
unsafe fn four_columns<F: Block, const N: usize>(
    blocks: Blocks,
    scales: __m256,
    x: &[Rounded],
    slabs: usize,
    first: usize,
    sums: [f32; N],
) -> [f32; N] {
    let x = [&x[0], &x[slabs], &x[2 * slabs], &x[3 * slabs]];
    // SAFETY: by this function's contract; a slab has eight of what is read four at a time, and there are four sums.
    unsafe {
        let d = transposed(x.map(|x| x.d.as_ptr().add(first)));
        let (mut codes_sums, mut s) = (d, d);
        if F::OFFSET_BITS > 0 {
            // Two sums of 16 codes each are as large as a float.
            codes_sums = transposed(x.map(|x| x.sums.as_ptr().add(2 * first).cast()));
        }
        if F::MINS {
            s = transposed(x.map(|x| x.s.as_ptr().add(first)));
        }
        let (factors, mins) = (floats(lower(scales)), floats(upper(scales)));
        let mut own = _mm_loadu_ps(sums.as_ptr());
        for k in 0..AT_ONCE {
            let codes = F::codes(blocks[k]);
            let magnitudes = if F::SIGNED { _mm256_abs_epi8(codes) } else { codes };
            let mut pairs = [_mm256_setzero_si256(); AT_ONCE];
            for n in 0..AT_ONCE {
                pairs[n] = products(magnitudes, codes, F::SIGNED, x[n], first + k);
            }
            let mut whole = block_totals::<F>(pairs);
            if F::OFFSET_BITS > 0 {
                let sums = _mm_madd_epi16(_mm_castps_si128(codes_sums[k]), _mm_set1_epi16(1 << F::OFFSET_BITS));
                whole = _mm_sub_epi32(whole, sums);
            }
            own = _mm_fmadd_ps(_mm_mul_ps(_mm_set1_ps(factors[k]), d[k]), _mm_cvtepi32_ps(whole), own);
            if F::MINS {
                own = _mm_fmadd_ps(_mm_set1_ps(mins[k]), s[k], own);
            }
        }
        let mut sums = sums;
        _mm_storeu_ps(sums.as_mut_ptr(), own);
        sums
    }
}

/// Four numbers of 32 bits at each of four places: the first of all, the second of all, and so on.
///
/// # Safety
/// They must be there.
#[inline(always)]
unsafe fn transposed(from: [*const f32; 4]) -> [__m128; 4] {
    // SAFETY: by this function's contract; SSE is part of x86-64.
    unsafe {
        let (mut a, mut b) = (_mm_loadu_ps(from[0]), _mm_loadu_ps(from[1]));
        let (mut c, mut d) = (_mm_loadu_ps(from[2]), _mm_loadu_ps(from[3]));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d]
    }
}
