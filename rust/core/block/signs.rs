//! Sign patterns of 8 weights, as the codebook formats store them.

/// All 8 signs of a stored 7-bit pattern: the last one makes the number of minus signs even.
#[inline(always)]
pub(crate) fn with_parity(pattern: u32) -> u8 {
    let pattern = (pattern & 127) as u8;
    pattern | ((pattern.count_ones() as u8 & 1) << 7)
}

/// `value` with the sign at bit `j`.
#[inline(always)]
pub(crate) fn signed(value: f32, signs: u8, j: usize) -> f32 {
    value * f32::from_bits(1f32.to_bits() | (u32::from(signs) >> j) << 31)
}

/// Levels of a codeword of 8 coordinates.
#[inline(always)]
pub(crate) fn levels8(point: u16) -> [i32; 8] {
    std::array::from_fn(|j| i32::from(point) >> (2 * j) & 3)
}

/// Levels of a codeword of 4 coordinates.
#[inline(always)]
pub(crate) fn levels4(point: u16) -> [i32; 4] {
    std::array::from_fn(|j| i32::from(point) >> (3 * j) & 7)
}

/// Magnitude of a level in the 2-bit codebooks, computed, which works on many at once.
#[inline(always)]
pub(crate) fn iq2_magnitude(level: i32) -> f32 {
    (8 + 17 * level + (level >> 1)) as f32
}

/// Magnitude of a level in the codebook of `IQ3_XXS`.
#[inline(always)]
pub(crate) fn iq3_xxs_magnitude(level: i32) -> f32 {
    (4 + 8 * level + ((level + 1) >> 3 << 1)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::grid::codewords::{IQ2_MAGNITUDES, IQ3_XXS_MAGNITUDES};

    #[test]
    fn magnitudes_are_those_of_the_tables() {
        assert_eq!([0, 1, 2].map(iq2_magnitude), IQ2_MAGNITUDES);
        assert_eq!(std::array::from_fn(|level| iq3_xxs_magnitude(level as i32)), IQ3_XXS_MAGNITUDES);
    }
}
