//! Blocks whose weights lie on a format's own grid already: files that were dequantized, and models that were trained for
//! a format and published in full precision. Their codes are found again, where encoding them anew would lose them.
//!
//! A block is on the grid if there are codes and scales whose decoded values, rounded to the type that the weights were
//! stored in, are the weights bit for bit. So whatever a search proposes is decoded and compared before it counts.

mod affine;
mod interval;
mod legacy;
mod multiples;

use half::{bf16, f16};

use super::blocks::Target;
use crate::block::Format;
use crate::gptq::form::{Form, Parts};
use crate::gptq::{legacy as own_scale, superblock};

/// The type that weights were stored in, to which decoded values are rounded before they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As they are.
    F32,
    /// IEEE half.
    F16,
    /// Brain float.
    BF16,
}

impl Stored {
    #[inline]
    fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::BF16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// The formats whose blocks can be found.
pub const FORMATS: [Format; 12] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
];

/// Writes the block if `x`, a block of weights, is on the grid of `format`, and says whether it is. Blocks of formats that
/// are not among [`FORMATS`] never are.
pub fn encode(format: Format, x: &[f32], stored: Stored, out: &mut [u8]) -> bool {
    if x.len() != format.info().block_len || x.iter().any(|x| !x.is_finite()) {
        return false;
    }
    match format {
        Format::Q2_K => affine::encode::<superblock::Q2_K>(x, stored, out),
        Format::Q4_K => affine::encode::<superblock::Q4_K>(x, stored, out),
        Format::Q5_K => affine::encode::<superblock::Q5_K>(x, stored, out),
        Format::Q3_K => multiples::encode::<superblock::Q3_K>(x, stored, out),
        Format::Q6_K => multiples::encode::<superblock::Q6_K>(x, stored, out),
        Format::IQ4_XS => multiples::encode::<superblock::IQ4_XS>(x, stored, out),
        Format::IQ4_NL => multiples::encode::<own_scale::IQ4_NL>(x, stored, out),
        _ => match (Target::of(format), x.try_into()) {
            (Some(target), Ok(x)) => legacy::encode(target, x, stored, out),
            _ => false,
        },
    }
}

/// Writes a block made of `parts` if it decodes to `x`.
fn write_if_same<F: Form>(parts: &Parts, x: &[f32], stored: Stored, out: &mut [u8]) -> bool {
    let mut decoded = [0.0; 256];
    let decoded = &mut decoded[..x.len()];
    let mut block = vec![0; out.len()];
    F::write(parts, 0, &mut block);
    (F::FORMAT.reference().decode_row)(&block, decoded);
    // Zeros of either sign are equal: a sum or a product of codes may have either.
    let same = decoded.iter().zip(x).all(|(&decoded, &x)| stored.round(decoded) == x);
    if same {
        out.copy_from_slice(&block);
    }
    same
}
