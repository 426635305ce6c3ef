//! Elementary functions of one float, without branches, so that loops over them vectorize.

/// `x` beyond which [`exp`] saturates: the exponent of two stays within that of a normal float.
const LARGEST: f32 = 88.37;
const SMALLEST: f32 = -87.33;

/// Adding it rounds a small float to a whole number, which the low bits then hold.
const ROUNDER: f32 = 12_582_912.0;

/// e^x to about two units in the last place; 0 below -87.33, about 2.4e38 above 88.37.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; the polynomial for e^r is that of the Cephes library's `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Comparisons are written so that NaN passes through.
    let bounded = if x > LARGEST { LARGEST } else { x };
    let bounded = if bounded < SMALLEST { SMALLEST } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = bounded - n * 0.693_359_375;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    let value = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits().wrapping_sub(ROUNDER.to_bits())).wrapping_add(127) << 23;
    let scaled = value * f32::from_bits(exponent);
    if x < SMALLEST { 0.0 } else { scaled }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, with an absolute error near 1e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exponential is within 3 units in the last place of the correctly rounded one, over its whole range.
    #[test]
    fn exp_is_accurate() {
        for i in -873_000..883_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3.0 * f64::from(f32::EPSILON), "{x}");
        }
    }

    #[test]
    fn exp_at_its_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e9) > 2e38 && exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_and_tanh_are_accurate() {
        for i in -20_000..20_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x);
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-exact).exp())).abs() < 2e-7, "{x}");
            assert!((f64::from(tanh(x)) - exact.tanh()).abs() < 2e-7, "{x}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }
}
