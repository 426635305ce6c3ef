//! Rounding to 16-bit floats and back: what ggml does to activations beside such weights, and to its KV cache.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{check_len, for_rows};
use crate::encode::Run;
use crate::error::Result;

/// A 16-bit float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE 754's: 11 bits of precision, infinite above 65504.
    F16,
    /// The upper half of a float32: 8 bits of precision.
    Bf16,
}

/// Values converted at a time.
const PIECE: usize = 256;

/// Writes each value of `x`, rounded to the nearest number of the kind, ties to even, to its place in `out`.
///
/// # Errors
/// `Shape` if the lengths differ; `Interrupted`.
pub fn round_to(x: &[f32], kind: Half, out: &mut [f32], run: Run) -> Result<()> {
    check_len("rounding", out.len(), x.len())?;
    for_rows(run, 1, out, |first, out| round_part(&x[first..][..out.len()], kind, out))
}

fn round_part(x: &[f32], kind: Half, out: &mut [f32]) {
    match kind {
        Half::F16 => {
            let mut halves = [f16::ZERO; PIECE];
            for (x, out) in x.chunks(PIECE).zip(out.chunks_mut(PIECE)) {
                let halves = &mut halves[..x.len()];
                halves.convert_from_f32_slice(x);
                halves.convert_to_f32_slice(out);
            }
        }
        Half::Bf16 => {
            for (&x, out) in x.iter().zip(out) {
                *out = round_bf16(x);
            }
        }
    }
}

/// As [`half::bf16::from_f32`], without branches.
#[inline(always)]
fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { bits | 0x0040_0000 } else { nearest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    fn rounded(x: &[f32], kind: Half) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        round_to(x, kind, &mut out, Run::default()).unwrap();
        out
    }

    proptest! {
        #[test]
        fn values_are_those_of_the_types(bits in prop::collection::vec(any::<u32>(), 1..600)) {
            let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            for (kind, one) in [
                (Half::F16, (|x| f16::from_f32(x).to_f32()) as fn(f32) -> f32),
                (Half::Bf16, |x| bf16::from_f32(x).to_f32()),
            ] {
                for (&x, made) in x.iter().zip(rounded(&x, kind)) {
                    let wanted = one(x);
                    prop_assert!(made.to_bits() == wanted.to_bits() || made.is_nan() && wanted.is_nan(), "{x} {made}");
                }
            }
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(round_to(&[0.0; 3], Half::F16, &mut [0.0; 2], Run::default()).is_err());
    }
}
