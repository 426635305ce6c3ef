//! Sign patterns of 8 weights, as the codebook formats store them.

/// All 8 signs of a stored 7-bit pattern: the last one makes the number of minus signs even.
#[inline]
pub(crate) fn with_parity(pattern: u32) -> u8 {
    let pattern = (pattern & 127) as u8;
    pattern | ((pattern.count_ones() as u8 & 1) << 7)
}

/// `value` with the sign at bit `j`.
#[inline]
pub(crate) fn signed(value: f32, signs: u8, j: usize) -> f32 {
    value * if signs >> j & 1 == 1 { -1.0 } else { 1.0 }
}
