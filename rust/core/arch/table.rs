//! The table of kernels: formats that have one, compiled for each instruction set.

use crate::block::*;
use crate::kernel::{self, scale_min, *};

/// An encoder, compiled for an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Encoder {
    pub(super) encode_rows: EncodeRows,
    /// Without a search, and so without importances; for formats that have none then.
    pub(super) plain: Option<Plain>,
}

/// An encoder without a search, for each kind of float.
#[derive(Clone, Copy)]
pub(super) struct Plain {
    pub(super) f32: EncodePlain<f32>,
    pub(super) f16: EncodePlain<half::f16>,
    pub(super) bf16: EncodePlain<half::bf16>,
}

/// Decodes any whole number of blocks.
pub(super) type DecodeRow = fn(&[u8], &mut [f32]);

/// Compiles every decoder for some features: the compiler finds the vectors in its loops. AVX-512 takes those for AVX2: with
/// scatters at hand, the compiler transposes loops over groups of 16 weights, byte by byte. In the decoder of Q3_K half of the
/// instructions move single bytes then, and all weights are scattered.
macro_rules! decoders {
    ($($format:ident => $module:ident),+ $(,)?) => {
        #[cfg(target_arch = "x86_64")]
        decoders! { @isa avx2_decoder "avx2,f16c": $($format => $module,)+ }
    };
    (@isa $isa:ident $features:literal: $($format:ident => $module:ident,)+) => {
        /// Decoders compiled for an instruction set.
        pub(super) fn $isa(format: Format) -> DecodeRow {
            match format {
                $(Format::$format => {
                    #[target_feature(enable = $features)]
                    fn compiled(data: &[u8], out: &mut [f32]) {
                        <$module::$format as BlockFormat>::decode_row(data, out);
                    }
                    // SAFETY: the table is consulted only where these features were detected.
                    |data, out| unsafe { compiled(data, out) }
                })+
            }
        }
    };
}
all_formats!(decoders);

/// Compiles an encoder without a search for some features.
macro_rules! compiled_plain {
    ($features:literal, $encoder:ty, $lanes:ty, $float:ty) => {{
        #[target_feature(enable = $features)]
        fn compiled(x: &[$float], out: &mut [u8]) -> bool {
            <$encoder as RowEncoder>::encode_plain::<$lanes, $float>(x, out)
        }
        // SAFETY: the table is consulted only where these features were detected.
        |x, out| unsafe { compiled(x, out) }
    }};
}

/// Compiles a function for some features.
macro_rules! compiled {
    ($features:literal, $encode_rows:expr) => {{
        #[target_feature(enable = $features)]
        fn compiled(x: &[f32], row_len: usize, imatrix: Option<&[f32]>, out: &mut [u8]) {
            $encode_rows(x, row_len, imatrix, out);
        }
        // SAFETY: the table is consulted only where these features were detected.
        |x, row_len, imatrix, out| unsafe { compiled(x, row_len, imatrix, out) }
    }};
}

/// Defines a look-up for one instruction set: the lanes, and the features they need.
macro_rules! table {
    (
        $(#[$meta:meta])* $isa:ident, $lanes:ty, $features:literal:
        batches { $($batch_format:ident => $batch_encoder:ty,)+ }
        rows { $($row_format:ident => $row_encoder:ty,)+ }
    ) => {
        $(#[$meta])*
        pub(super) fn $isa(format: Format) -> Option<Encoder> {
            match format {
                $(Format::$batch_format => {
                    let encode_rows: EncodeRows =
                        compiled!($features, kernel::encode_rows::<$lanes, $batch_encoder, _, _>);
                    Some(Encoder { encode_rows, plain: None })
                })+
                $(Format::$row_format => {
                    let encode_rows: EncodeRows =
                        compiled!($features, <$row_encoder as RowEncoder>::encode_rows::<$lanes>);
                    let plain = Plain {
                        f32: compiled_plain!($features, $row_encoder, $lanes, f32),
                        f16: compiled_plain!($features, $row_encoder, $lanes, half::f16),
                        bf16: compiled_plain!($features, $row_encoder, $lanes, half::bf16),
                    };
                    Some(Encoder { encode_rows, plain: Some(plain) })
                })+
                _ => None,
            }
        }
    };
}

/// Defines the look-ups for all instruction sets.
macro_rules! kernels {
    ($($kernels:tt)+) => {
        #[cfg(target_arch = "x86_64")]
        table! {
            /// Kernels for AVX2.
            avx2, super::avx2::F32, "avx2,f16c,bmi1,bmi2,lzcnt,popcnt": $($kernels)+
        }
        #[cfg(target_arch = "x86_64")]
        table! {
            /// Kernels for AVX-512.
            avx512, super::avx512::F32,
            "avx512f,avx512bw,avx512dq,avx512vl,f16c,bmi1,bmi2,lzcnt,popcnt": $($kernels)+
        }
        #[cfg(target_arch = "aarch64")]
        table! {
            /// Kernels for NEON.
            neon, super::neon::F32, "neon": $($kernels)+
        }
    };
}

kernels! {
    batches {
        Q2_K => scale_min::Encoder<q2_k::Q2_K, 16, 16>,
        Q3_K => signed::Encoder<q3_k::Q3_K>,
        Q4_K => scale_min::Encoder<q4_k::Q4_K, 8, 32>,
        Q5_K => scale_min::Encoder<q5_k::Q5_K, 8, 32>,
        Q6_K => signed::Encoder<q6_k::Q6_K>,
        IQ4_NL => nonlinear::Encoder<iq4_nl::IQ4_NL, 1, 32, 16>,
        IQ4_XS => nonlinear::Encoder<iq4_xs::IQ4_XS, 8, 256, 8>,
        IQ1_S => ternary::Encoder<iq1_s::IQ1_S, 32>,
        IQ1_M => ternary::Encoder<iq1_m::IQ1_M, 16>,
        IQ2_XXS => codebook::Encoder<iq2_xxs::IQ2_XXS, 8, 32>,
        IQ2_XS => codebook::Encoder<iq2_xs::IQ2_XS, 8, 16>,
        IQ2_S => codebook::Encoder<iq2_s::IQ2_S, 8, 16>,
        IQ3_XXS => codebook::Encoder<iq3_xxs::IQ3_XXS, 4, 32>,
        IQ3_S => codebook::Encoder<iq3_s::IQ3_S, 4, 32>,
    }
    rows {
        Q4_0 => legacy::Encoder<q4_0::Q4_0>,
        Q4_1 => legacy::Encoder<q4_1::Q4_1>,
        Q5_0 => legacy::Encoder<q5_0::Q5_0>,
        Q5_1 => legacy::Encoder<q5_1::Q5_1>,
        Q8_0 => plain::Encoder<q8_0::Q8_0, 32>,
        Q2_0 => plain::Encoder<q2_0::Q2_0, 64>,
        TQ1_0 => plain::Encoder<tq1_0::TQ1_0, 256>,
        TQ2_0 => plain::Encoder<tq2_0::TQ2_0, 256>,
        MXFP4 => plain::Encoder<mxfp4::MXFP4, 32>,
        NVFP4 => plain::Encoder<nvfp4::NVFP4, 64>,
        Q1_0 => plain::Encoder<q1_0::Q1_0, 128>,
    }
}
