//! E2M1, the 4-bit float of MXFP4 and NVFP4: sign, two exponent bits, one mantissa bit.

/// Twice the value of each code, so that all are integers; scales carry the other half.
pub(crate) const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Entry `code` of [`DOUBLED`], computed, which works on many codes at once.
#[inline(always)]
pub(crate) fn doubled(code: u8) -> i8 {
    let magnitude = code & 7;
    let value = magnitude + magnitude.saturating_sub(4) + (u8::from(magnitude == 7) << 1);
    if code & 8 == 0 { value as i8 } else { -(value as i8) }
}

/// The values of [`DOUBLED`], rising, zero once.
pub(crate) const RISING: [i8; 15] = [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12];

/// The code of a place in [`RISING`].
#[inline]
pub(crate) fn code_of_rank(rank: u8) -> u8 {
    if rank < 7 { 15 - rank } else { rank - 7 }
}

/// The code whose value times `scale` (half the block's scale) is nearest to `x`, the first of equals. Code 8, negative
/// zero, is never chosen.
#[inline]
pub(crate) fn nearest(x: f32, scale: f32) -> u8 {
    let mut best = 0;
    let mut best_error = (f32::from(DOUBLED[0]) * scale - x).abs();
    for code in 1..16 {
        let error = (f32::from(DOUBLED[code]) * scale - x).abs();
        if error < best_error {
            best = code;
            best_error = error;
        }
    }
    best as u8
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_those_of_the_table() {
        assert_eq!(std::array::from_fn(|code| super::doubled(code as u8)), super::DOUBLED);
    }
}
