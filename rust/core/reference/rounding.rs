//! Conversions between floats, halves and integers, with the results that x86-64 gives outside the useful range too.

use half::f16;

/// The nearest integer, ties to even, by adding 1.5 * 2^23 and reading the mantissa.
///
/// Exact for `|x| <= 4194303`. Beyond that the mantissa wraps, and the wrapped value is what gets clamped and stored, so
/// it is part of the encoders' definition. Infinity gives -4194304, NaN gives 0.
#[inline]
pub fn nearest_int(x: f32) -> i32 {
    let shifted = x + 12_582_912.0;
    (shifted.to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Truncation towards zero into 32 bits; what does not fit (NaN included) becomes `i32::MIN`, as `cvttss2si` has it.
/// Narrower integers are reached through this one, by dropping the upper bits.
#[inline]
pub fn truncate(x: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&x) { x as i32 } else { i32::MIN }
}

/// The nearest integer, ties away from zero, then [`truncate`].
#[inline]
pub fn round_half_away(x: f32) -> i32 {
    truncate(x.round())
}

/// The nearest integer, ties away from zero, by way of 64 bits: the lower half of what `lroundf` returns, so that NaN and
/// infinity give 0 and not `i32::MIN`.
#[inline]
pub fn round_half_away_long(x: f32) -> i32 {
    const LIMIT: f32 = 9_223_372_036_854_775_808.0;
    let rounded = x.round();
    if (-LIMIT..LIMIT).contains(&rounded) { rounded as i64 as i32 } else { 0 }
}

/// The nearest half, ties to even, overflowing to infinity.
///
/// Scales become NaN when sums overflow. x86-64 makes such a NaN negative and other machines make it positive; the bits
/// stored are those of x86-64 everywhere.
#[inline]
pub fn to_half(x: f32) -> f16 {
    if x.is_nan() { f16::from_bits(0xfe00) } else { f16::from_f32(x) }
}

/// The floor of the base-2 logarithm as single precision gives it: just below a power of two the logarithm rounds up to a
/// whole number, and so does the result.
///
/// Let `n` be that whole number and `x = 2^n * (1 - g / 2^24)`, so that `log2(x)` is `n - g / (2^24 * ln 2)` up to terms
/// far too small to matter. Floats of magnitude `2^k` to `2^(k + 1)` are `2^(k - 23)` apart, so the logarithm rounds to `n`
/// if it lies within `2^(k - 24)` of it, that is for `g <= 2^k * ln 2`. As no `2^k * ln 2` comes within 0.09 of a whole
/// number, every logarithm good to a hundredth of a step agrees; glibc's does, with and without FMA, on all of these floats.
///
/// `x` must be positive and finite.
#[inline]
pub fn floor_log2(x: f32) -> i32 {
    /// The floor of `2^k * ln 2`.
    const ROUNDED_UP: [u32; 8] = [0, 1, 2, 5, 11, 22, 44, 88];
    let bits = x.to_bits();
    // Subnormals are brought to 24 significant bits as well.
    let shift = if bits < 0x0080_0000 { bits.leading_zeros() - 8 } else { 0 };
    let exponent = if bits < 0x0080_0000 { -126 - shift as i32 } else { (bits >> 23) as i32 - 127 };
    let mantissa = if bits < 0x0080_0000 { bits << shift } else { (bits & 0x007f_ffff) | 0x0080_0000 };
    let next = exponent + 1;
    // Logarithms just below `next` have the magnitude of `next - 1` if positive, of `next` if negative.
    let k = match next {
        2.. => (next - 1).ilog2(),
        ..0 => (-next).ilog2(),
        0 | 1 => 0,
    };
    if (1 << 24) - mantissa <= ROUNDED_UP[k as usize] { next } else { exponent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_int_rounds_half_to_even_and_wraps() {
        for i in -8_388_606..=8_388_606 {
            let x = i as f32 / 2.0;
            assert_eq!(nearest_int(x), x.round_ties_even() as i32, "{x}");
        }
        assert_eq!(nearest_int(4_194_304.0), -4_194_304);
        assert_eq!(nearest_int(f32::INFINITY), -4_194_304);
        assert_eq!(nearest_int(f32::NEG_INFINITY), -4_194_304);
        assert_eq!(nearest_int(f32::NAN), 0);
    }

    #[test]
    fn conversions_out_of_range() {
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2_147_483_648.0, -2_147_483_904.0] {
            assert_eq!(truncate(x), i32::MIN, "{x}");
            assert_eq!(round_half_away(x), i32::MIN, "{x}");
        }
        assert_eq!(truncate(2_147_483_520.0), 2_147_483_520);
        assert_eq!(truncate(-1.9), -1);
        assert_eq!([2.5, -2.5, 0.499_999_97].map(round_half_away), [3, -3, 0]);
        assert_eq!([2.5, -2.5, 0.499_999_97].map(round_half_away_long), [3, -3, 0]);
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            assert_eq!(round_half_away_long(x), 0, "{x}");
        }
        assert_eq!(round_half_away_long(4_294_967_296.0 + 512.0), 512);
    }

    #[test]
    fn halves() {
        assert_eq!(to_half(65_519.996).to_bits(), 0x7bff);
        assert_eq!(to_half(-65_520.0).to_bits(), 0xfc00);
        assert_eq!(to_half(f32::NAN).to_bits(), 0xfe00);
        assert_eq!(to_half(-f32::NAN).to_bits(), 0xfe00);
        // Below every half, subnormals included, lies a point half-way to the next; it goes to the even one.
        for bits in 0..0x7bff {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let middle = (low + high) / 2.0;
            assert_eq!(to_half(middle).to_bits(), bits + (bits & 1));
            assert_eq!(to_half(middle.next_down()).to_bits(), bits);
            assert_eq!(to_half(middle.next_up()).to_bits(), bits + 1);
        }
    }

    /// Double precision is exact enough to say to which float a logarithm rounds.
    #[test]
    fn floor_log2_is_that_of_the_rounded_logarithm() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            let expected = (f64::from(x).log2() as f32).floor() as i32;
            assert_eq!(floor_log2(x), expected, "{x:e}");
        };
        for exponent in 1..=255u32 {
            (0..2048).for_each(|below| check((exponent << 23) - 1 - below));
            if exponent < 255 {
                (0..2048).for_each(|above| check((exponent << 23) + above));
            }
        }
        (1..1 << 23).step_by(7).for_each(check);
        (0..23).for_each(|shift| (0..64u32).for_each(|below| check((1 << shift) - below.min((1 << shift) - 1))));
    }
}
