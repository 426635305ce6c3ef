//! Bit packing that several formats share.
//!
//! Packing never masks: codes are in range already, and in the few places where they can be out of it (overflowing
//! scales), the stored bytes are defined by what the stray bits do.

/// Eight bytes as one word, so that one operation works on all of them.
#[inline(always)]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("blocks are whole words"))
}

/// A word of equal bytes.
pub(super) const fn splat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Shifts each byte of a word left; what leaves a byte is lost.
#[inline(always)]
fn shl(word: u64, by: usize) -> u64 {
    (word & splat(255 >> by)) << by
}

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

/// Undoes [`pack_nibbles`], all codes at once.
#[inline(always)]
pub(crate) fn nibbles<const HALF: usize, const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut codes = [0; N];
    for (bytes, codes) in bytes.chunks_exact(HALF).zip(codes.chunks_exact_mut(2 * HALF)) {
        for j in 0..HALF {
            codes[j] = bytes[j] & 15;
            codes[j + HALF] = bytes[j] >> 4;
        }
    }
    codes
}

/// Code `j` of codes of 4 bits, two neighbours to a byte, the first one below.
#[inline(always)]
pub(crate) fn nibble(bytes: &[u8], j: usize) -> u8 {
    bytes[j / 2] >> (j % 2 * 4) & 15
}

/// Two-bit codes of a super-block, four a byte within each half of 128: weight `j` lowest, then `j + 32`, `j + 64`,
/// `j + 96`.
#[inline(always)]
pub(crate) fn pack_pairs(codes: &[u8; 256]) -> [u8; 64] {
    let mut packed = [0; 64];
    for (i, packed) in packed.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let j = i / 4 * 128 + i % 4 * 8;
        let part = |k: usize| shl(word(codes, j + 32 * k), 2 * k);
        *packed = (part(0) | part(1) | part(2) | part(3)).to_le_bytes();
    }
    packed
}

/// Undoes [`pack_pairs`] for one weight.
#[inline]
pub(crate) fn pair(bytes: &[u8; 64], weight: usize) -> u8 {
    (bytes[weight / 128 * 32 + weight % 32] >> (weight % 128 / 32 * 2)) & 3
}

/// Undoes [`pack_pairs`], all codes at once.
///
/// Loops with constant bounds and without chunks: compilers make a few whole-vector shifts of these.
#[inline(always)]
pub(crate) fn pairs(bytes: &[u8; 64]) -> [u8; 256] {
    let mut codes = [0; 256];
    for half in 0..2 {
        for k in 0..4 {
            for j in 0..32 {
                codes[128 * half + 32 * k + j] = (bytes[32 * half + j] >> (2 * k)) & 3;
            }
        }
    }
    codes
}

/// `scale * (code - half)`, with a scale for each 16 codes.
///
/// Decoders unpack all codes of a super-block first: unpacked 16 at a time, they are widened one by one.
#[inline(always)]
pub(crate) fn scaled(codes: &[u8; 256], scales: &[f32; 16], half: i32, out: &mut [f32; 256]) {
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let codes = &codes.as_chunks::<16>().0[j];
        for i in 0..16 {
            out[i] = scales[j] * (i32::from(codes[i]) - half) as f32;
        }
    }
}

/// One bit of each code of a super-block, eight a byte: bit `FROM` of weight `j` at bit `j / 32` of byte `j % 32`.
#[inline(always)]
pub(crate) fn pack_planes<const FROM: u32>(codes: &[u8; 256]) -> [u8; 32] {
    let mut planes = [0; 32];
    for (j, planes) in planes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut bits = 0;
        for k in 0..8 {
            bits |= shl((word(codes, 32 * k + 8 * j) >> FROM) & splat(255 >> FROM), k);
        }
        *planes = bits.to_le_bytes();
    }
    planes
}

/// The bits from `shift` on, as many as `mask` has, of each of the first 32 bytes.
#[inline(always)]
pub(crate) fn field(bytes: &[u8], shift: usize, mask: u8) -> [u8; 32] {
    debug_assert!(mask <= 255 >> shift);
    let mut codes = [0; 32];
    for (j, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *codes = ((word(bytes, 8 * j) >> shift) & splat(mask)).to_le_bytes();
    }
    codes
}

/// Fifth bits of 32 codes, weight `j` at bit `j`.
#[inline(always)]
pub(crate) fn pack_fifth_bits(codes: &[u8; 32]) -> u32 {
    // The factor brings the lowest bit of byte `j` to bit `56 + j`: 8j + (56 - 7j). All other products of a bit of either
    // lie at other places below 56 or beyond 63, no two at the same one, so that nothing carries.
    const COLLECT: u64 = 0x0102_0408_1020_4080;
    let mut bits = 0;
    for (k, codes) in codes.as_chunks::<8>().0.iter().enumerate() {
        let fifth = (u64::from_le_bytes(*codes) >> 4) & 0x0101_0101_0101_0101;
        bits |= ((fifth.wrapping_mul(COLLECT) >> 56) as u32) << (8 * k);
    }
    bits
}

/// The fifth bit of weight `j`, in place (0 or 16).
#[inline]
pub(crate) fn fifth_bit(bits: u32, j: usize) -> u8 {
    (((bits >> j) & 1) << 4) as u8
}
