//! Codebooks spelled out: the codes of a whole point in one word, the first coordinate lowest.

use crate::reference::grid::codewords;
use crate::reference::grid::level;

/// Points of 8 coordinates, with this code for each level.
const fn spell8<const N: usize>(words: &[u16; N], codes: [u64; 4]) -> [u64; N] {
    let mut points = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 8 {
            points[i] |= codes[level::<8>(words[i], j)] << (8 * j);
            j += 1;
        }
        i += 1;
    }
    points
}

/// Points of 4 coordinates, with this code for each level.
const fn spell4<const N: usize>(words: &[u16; N], codes: [u32; 8]) -> [u32; N] {
    let mut points = [0; N];
    let mut i = 0;
    while i < N {
        let mut j = 0;
        while j < 4 {
            points[i] |= codes[level::<4>(words[i], j)] << (8 * j);
            j += 1;
        }
        i += 1;
    }
    points
}

/// For each byte of sign bits the same signs as a mask of bytes.
const fn masks() -> [u64; 256] {
    let mut masks = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut j = 0;
        while j < 8 {
            if i >> j & 1 == 1 {
                masks[i] |= 0xff << (8 * j);
            }
            j += 1;
        }
        i += 1;
    }
    masks
}

/// As [`masks`], for the 7-bit patterns whose eighth sign makes the number of minus signs even.
const fn even_masks() -> [u64; 128] {
    let mut even = [0; 128];
    let mut i = 0;
    while i < 128 {
        even[i] = SIGNS[i | ((i as u32).count_ones() as usize & 1) << 7];
        i += 1;
    }
    even
}

const IQ2_CODES: [u64; 4] = [8, 25, 43, 0];
const IQ3_XXS_CODES: [u32; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

pub(in crate::matmul) static SIGNS: [u64; 256] = masks();
pub(in crate::matmul) static EVEN_SIGNS: [u64; 128] = even_masks();
pub(in crate::matmul) static IQ2_XXS: [u64; 256] = spell8(&codewords::IQ2_XXS, IQ2_CODES);
pub(in crate::matmul) static IQ2_XS: [u64; 512] = spell8(&codewords::IQ2_XS, IQ2_CODES);
pub(in crate::matmul) static IQ2_S: [u64; 1024] = spell8(&codewords::IQ2_S, IQ2_CODES);
pub(in crate::matmul) static IQ3_XXS: [u32; 256] = spell4(&codewords::IQ3_XXS, IQ3_XXS_CODES);
pub(in crate::matmul) static IQ3_S: [u32; 512] = spell4(&codewords::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Eight times level, which is 9 more than the code if the shift is down, and 7 more if it is up.
pub(in crate::matmul) static IQ1: [u64; 2048] = spell8(&codewords::IQ1, [0, 8, 16, 0]);

/// Turns the sign of the bytes under `mask`. No byte of `codes` is zero, so no carry leaves one.
#[inline(always)]
pub(super) fn negate(codes: u64, mask: u64) -> u64 {
    (codes ^ mask).wrapping_add(mask & 0x0101_0101_0101_0101)
}
