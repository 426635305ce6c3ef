//! One function a format: blocks into integer codes and scales. Everything else about a product is shared.

#![allow(non_camel_case_types)] // Format names are the field's own.

mod codebook;
mod kquants;
mod look_up;
mod small;
pub(super) mod tables;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use look_up::Shuffle;
use look_up::{LookUp, Portable};

use super::gemv;
use super::slab::{Facts, SLAB, Slab, UnpackRow};
use crate::arch::Isa;
use crate::block::Format;
use crate::error::{At, Error, Result};

/// A format's blocks as integers.
trait Integers {
    /// What the driver has to know.
    const FACTS: Facts;

    /// Unpacks one slab, or the part of one that there are bytes for. What it does not write stays as it is.
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab);
}

/// Facts of a format, and its function for the instruction set in use.
#[derive(Clone, Copy)]
pub(crate) struct Unpacker {
    /// Facts of the format.
    pub(crate) facts: Facts,
    /// Unpacks slabs of a row.
    pub(crate) unpack: UnpackRow,
}

#[inline(always)]
fn unpack_row<F: Integers, L: LookUp>(bytes: &[u8], slabs: &mut [Slab]) {
    let info = F::FACTS.format.info();
    let slab_bytes = SLAB / info.block_len * info.block_bytes;
    for (bytes, slab) in bytes.chunks(slab_bytes).zip(slabs) {
        if bytes.len() < slab_bytes {
            *slab = Slab::ZERO;
        }
        F::unpack::<L>(bytes, slab);
    }
}

/// Defines the table of unpackers. The code is the same for every instruction set and is compiled for each.
macro_rules! table {
    ($($format:ident => $module:ident),+ $(,)?) => {
        fn unpacker(format: Format, isa: Isa) -> Option<Unpacker> {
            match format {
                $(Format::$format => {
                    use $module::$format as Own;
                    #[cfg(target_arch = "x86_64")]
                    #[target_feature(enable = "avx2,f16c,fma")]
                    fn wide(bytes: &[u8], slabs: &mut [Slab]) {
                        unpack_row::<Own, Shuffle>(bytes, slabs);
                    }
                    let unpack: UnpackRow = match isa {
                        #[cfg(target_arch = "x86_64")]
                        // SAFETY: `Isa::is_available` has found these features.
                        Isa::Avx2 | Isa::Avx512 => |bytes, slabs| unsafe { wide(bytes, slabs) },
                        #[cfg(target_arch = "aarch64")]
                        Isa::Neon => unpack_row::<Own, Shuffle>,
                        _ => unpack_row::<Own, Portable>,
                    };
                    Some(Unpacker { facts: Own::FACTS, unpack })
                })+
                _ => None,
            }
        }
    };
}

table! {
    Q4_0 => small,
    Q4_1 => small,
    Q5_0 => small,
    Q5_1 => small,
    Q8_0 => small,
    IQ4_NL => small,
    MXFP4 => small,
    NVFP4 => small,
    Q1_0 => small,
    Q2_0 => small,
    Q2_K => kquants,
    Q3_K => kquants,
    Q4_K => kquants,
    Q5_K => kquants,
    Q6_K => kquants,
    TQ1_0 => kquants,
    TQ2_0 => kquants,
    IQ4_XS => kquants,
    IQ1_S => codebook,
    IQ1_M => codebook,
    IQ2_XXS => codebook,
    IQ2_XS => codebook,
    IQ2_S => codebook,
    IQ3_XXS => codebook,
    IQ3_S => codebook,
}

/// The unpacker of `format`, or `None` if its weights are floats.
///
/// # Errors
/// `Unsupported` for the formats of activations.
pub(crate) fn integers(format: Format, isa: Isa) -> Result<Option<Unpacker>> {
    match (unpacker(format, isa), format) {
        (Some(unpacker), _) => {
            let unpack = gemv::unpack(format, isa).unwrap_or(unpacker.unpack);
            Ok(Some(Unpacker { unpack, ..unpacker }))
        }
        (None, Format::F32 | Format::F16 | Format::BF16) => Ok(None),
        (None, _) => {
            let what = format!("{format} is a format of activations; as weights it is multiplied in float32 only");
            Err(Error::Unsupported { at: At::default(), what })
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn slabs_decode_to_the_weights_of_the_reference() {
        for &format in Format::ALL {
            let info = format.info();
            let bytes = info.row_bytes(SLAB).unwrap();
            for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                let Ok(Some(unpacker)) = integers(format, isa) else { continue };
                let mut state = 1u64;
                for _ in 0..50 {
                    let mut data = vec![0; bytes];
                    for byte in &mut data {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        *byte = (state >> 56) as u8;
                    }
                    let (mut own, mut reference) = ([0.0; SLAB], [0.0; SLAB]);
                    (format.reference().decode_row)(&data, &mut reference);
                    let mut slab = [Slab::ZERO];
                    (unpacker.unpack)(&data, &mut slab);
                    slab[0].decode(&unpacker.facts, &mut own);
                    let same = |(a, b): (&f32, &f32)| a == b || a.is_nan() && b.is_nan();
                    assert!(own.iter().zip(&reference).all(same), "{format} {isa}");
                }
            }
        }
    }

    #[test]
    fn halves_widen_as_the_library_says() {
        let widen = Portable::widen;
        for half in (0..=u16::MAX).map(f16::from_bits).filter(|half| !half.is_nan()) {
            assert_eq!(widen(half).to_bits(), half.to_f32().to_bits());
        }
        assert!(widen(f16::NAN).is_nan());
    }
}
