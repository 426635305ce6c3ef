//! The table of kernels: formats that have one, compiled for each instruction set.

use crate::block::{Format, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, q2_k, q3_k, q4_k, q5_k, q6_k};
use crate::kernel::{self, EncodeRows, codebook, scale_min, signed};

/// Defines a look-up for one instruction set: the lanes, and the features they need.
macro_rules! table {
    ($(#[$meta:meta])* $isa:ident, $lanes:ty, $features:literal: $($format:ident => $encoder:ty),+ $(,)?) => {
        $(#[$meta])*
        pub(super) fn $isa(format: Format) -> Option<EncodeRows> {
            match format {
                $(Format::$format => {
                    #[target_feature(enable = $features)]
                    fn compiled(x: &[f32], row_len: usize, imatrix: Option<&[f32]>, out: &mut [u8]) {
                        kernel::encode_rows::<$lanes, $encoder, _>(x, row_len, imatrix, out);
                    }
                    // SAFETY: the table is consulted only where these features were detected.
                    Some(|x, row_len, imatrix, out| unsafe { compiled(x, row_len, imatrix, out) })
                })+
                _ => None,
            }
        }
    };
}

/// Defines the look-ups for all instruction sets of x86-64.
macro_rules! kernels {
    ($($format:ident => $encoder:ty),+ $(,)?) => {
        #[cfg(target_arch = "x86_64")]
        table! {
            /// Kernels for AVX2.
            avx2, super::avx2::F32, "avx2": $($format => $encoder),+
        }
        #[cfg(target_arch = "x86_64")]
        table! {
            /// Kernels for AVX-512.
            avx512, super::avx512::F32, "avx512f,avx512bw,avx512dq,avx512vl": $($format => $encoder),+
        }
    };
}

kernels! {
    Q2_K => scale_min::Encoder<q2_k::Q2_K, 16, 16>,
    Q3_K => signed::Encoder<q3_k::Q3_K>,
    Q4_K => scale_min::Encoder<q4_k::Q4_K, 8, 32>,
    Q5_K => scale_min::Encoder<q5_k::Q5_K, 8, 32>,
    Q6_K => signed::Encoder<q6_k::Q6_K>,
    IQ2_XXS => codebook::Encoder<iq2_xxs::IQ2_XXS, 8, 32>,
    IQ2_XS => codebook::Encoder<iq2_xs::IQ2_XS, 8, 16>,
    IQ2_S => codebook::Encoder<iq2_s::IQ2_S, 8, 16>,
    IQ3_XXS => codebook::Encoder<iq3_xxs::IQ3_XXS, 4, 32>,
    IQ3_S => codebook::Encoder<iq3_s::IQ3_S, 4, 32>,
}
