//! Bit packing that several formats share.
//!
//! Packing never masks: codes are in range already, and in the few places where they can be out of it (overflowing
//! scales), the stored bytes are defined by what the stray bits do.

/// Two codes a byte within stretches of `2 * HALF` weights: weight `j` below, weight `j + HALF` above.
#[inline(always)]
pub(crate) fn pack_nibbles<const HALF: usize>(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.chunks_exact(2 * HALF).zip(out.chunks_exact_mut(HALF)) {
        for j in 0..HALF {
            out[j] = codes[j] | (codes[j + HALF] << 4);
        }
    }
}

/// Undoes [`pack_nibbles`]: `put(weight, code)` for every weight.
#[inline]
pub(crate) fn unpack_nibbles<const HALF: usize>(bytes: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, bytes) in bytes.chunks_exact(HALF).enumerate() {
        for j in 0..HALF {
            put(2 * HALF * i + j, bytes[j] & 15);
            put(2 * HALF * i + j + HALF, bytes[j] >> 4);
        }
    }
}

/// Two-bit codes of a super-block, four a byte within each half of 128: weight `j` lowest, then `j + 32`, `j + 64`,
/// `j + 96`.
#[inline(always)]
pub(crate) fn pack_pairs(codes: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let j = i / 32 * 128 + i % 32;
        codes[j] | (codes[j + 32] << 2) | (codes[j + 64] << 4) | (codes[j + 96] << 6)
    })
}

/// Undoes [`pack_pairs`] for one weight.
#[inline]
pub(crate) fn pair(bytes: &[u8; 64], weight: usize) -> u8 {
    (bytes[weight / 128 * 32 + weight % 32] >> (weight % 128 / 32 * 2)) & 3
}

/// One bit of each code of a super-block, eight a byte: bit `FROM` of weight `j` at bit `j / 32` of byte `j % 32`.
#[inline]
pub(crate) fn pack_planes<const FROM: u32>(codes: &[u8; 256]) -> [u8; 32] {
    let mut planes = [0; 32];
    for (k, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for j in 0..32 {
            planes[j] |= (codes[j] >> FROM) << k;
        }
    }
    planes
}

/// Fifth bits of 32 codes, weight `j` at bit `j`.
#[inline(always)]
pub(crate) fn pack_fifth_bits(codes: &[u8; 32]) -> u32 {
    let mut bits = 0;
    for (j, &code) in codes.iter().enumerate() {
        bits |= u32::from((code >> 4) & 1) << j;
    }
    bits
}

/// The fifth bit of weight `j`, in place (0 or 16).
#[inline]
pub(crate) fn fifth_bit(bits: u32, j: usize) -> u8 {
    (((bits >> j) & 1) << 4) as u8
}
