//! Block formats: one file each, and the registry, which is the only list of them.
//!
//! A block format cuts a row of weights into blocks of [`FormatInfo::block_len`] weights and stores each in
//! [`FormatInfo::block_bytes`] bytes. Formats are fixed-rate, so the size of an encoded tensor depends on its shape alone.

#![allow(non_camel_case_types)] // Format names are the field's own.

use std::fmt;
use std::str::FromStr;

pub(crate) mod bits;
pub(crate) mod fp4;
pub(crate) mod layout;
pub mod scalar;
pub(crate) mod scale_min;
pub(crate) mod signs;
pub mod vector;

/// How a format's encoder treats an importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImatrixUse {
    /// The weighted and the plain encoder are the same.
    Ignored,
    /// There is a weighted encoder and a plain one.
    Optional,
    /// There is no plain encoder.
    Required,
}

/// The facts of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatInfo {
    /// Name as ggml spells it in capitals, for example `Q4_K`.
    pub name: &'static str,
    /// `ggml_type` id as stored in GGUF files.
    pub ggml_type: u32,
    /// Weights in a block.
    pub block_len: usize,
    /// Bytes in a block.
    pub block_bytes: usize,
    /// What the encoder does with an importance matrix.
    pub imatrix: ImatrixUse,
    /// Whether blocks can be encoded by users (false for the activation formats `Q8_1` and `Q8_K`).
    pub storage: bool,
    /// One line for tables: what the format stores.
    pub summary: &'static str,
}

impl FormatInfo {
    /// Bits stored per weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_bytes as f64 * 8.0 / self.block_len as f64
    }

    /// Bytes of a row of `len` weights, or `None` if `len` is not a whole number of blocks or the product overflows.
    pub fn row_bytes(&self, len: usize) -> Option<usize> {
        len.is_multiple_of(self.block_len).then(|| len / self.block_len)?.checked_mul(self.block_bytes)
    }
}

/// Why a block is not valid: its index in the row, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFault {
    /// Block within the data handed in, counted from 0.
    pub block: usize,
    /// What is wrong, for example `scale d is inf`.
    pub what: String,
}

/// A block format. One type, one file; listed once in the registry below.
///
/// All three functions work on one row (or any whole number of blocks, for decoding and validation) and never allocate
/// in proportion to more than the row. They are the scalar reference: strict IEEE `f32` in source order.
pub trait BlockFormat {
    /// The facts of the format.
    const INFO: FormatInfo;

    /// Encodes one row.
    ///
    /// `x` is one whole row of finite weights, a multiple of `INFO.block_len` long; `imatrix`, if given, has the same
    /// length and holds one non-negative importance per column; `out` has exactly `INFO.row_bytes(x.len())` bytes.
    /// A format whose `INFO.imatrix` is `Required` is never called without one.
    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]);

    /// Decodes whole blocks: `data` is a multiple of `INFO.block_bytes` long, `out` holds as many weights.
    fn decode_row(data: &[u8], out: &mut [f32]);

    /// Checks what can be checked in encoded data without the weights: finite scales, codes inside their tables.
    /// The checks are those of `ggml_validate_row_data`.
    fn validate_row(data: &[u8]) -> Result<(), BlockFault>;
}

/// The functions of one format, looked up at run time.
#[derive(Clone, Copy)]
pub struct Codec {
    /// See [`BlockFormat::encode_row`].
    pub encode_row: fn(&[f32], Option<&[f32]>, &mut [u8]),
    /// See [`BlockFormat::decode_row`].
    pub decode_row: fn(&[u8], &mut [f32]),
    /// See [`BlockFormat::validate_row`].
    pub validate_row: fn(&[u8]) -> Result<(), BlockFault>,
}

/// Hands the registry, the list of formats and their modules, to a macro.
macro_rules! all_formats {
    ($then:ident) => {
        $then! {
            F32 => f32,
            F16 => f16,
            BF16 => bf16,
            Q4_0 => q4_0,
            Q4_1 => q4_1,
            Q5_0 => q5_0,
            Q5_1 => q5_1,
            Q8_0 => q8_0,
            Q8_1 => q8_1,
            Q2_K => q2_k,
            Q3_K => q3_k,
            Q4_K => q4_k,
            Q5_K => q5_k,
            Q6_K => q6_k,
            Q8_K => q8_k,
            IQ1_S => iq1_s,
            IQ1_M => iq1_m,
            IQ2_XXS => iq2_xxs,
            IQ2_XS => iq2_xs,
            IQ2_S => iq2_s,
            IQ3_XXS => iq3_xxs,
            IQ3_S => iq3_s,
            IQ4_NL => iq4_nl,
            IQ4_XS => iq4_xs,
            TQ1_0 => tq1_0,
            TQ2_0 => tq2_0,
            MXFP4 => mxfp4,
            NVFP4 => nvfp4,
            Q1_0 => q1_0,
            Q2_0 => q2_0,
        }
    };
}
pub(crate) use all_formats;

macro_rules! formats {
    ($($variant:ident => $module:ident),+ $(,)?) => {
        $(pub mod $module;)+

        /// Every block format, plain floats included.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Format {
            $(#[doc = concat!("See [`", stringify!($module), "`].")] $variant,)+
        }

        impl Format {
            /// All formats, in the order of the registry.
            pub const ALL: &'static [Format] = &[$(Format::$variant),+];

            /// The facts of the format.
            pub const fn info(self) -> &'static FormatInfo {
                match self { $(Format::$variant => &<$module::$variant as BlockFormat>::INFO),+ }
            }

            /// The scalar reference functions of the format.
            pub const fn reference(self) -> Codec {
                match self {
                    $(Format::$variant => Codec {
                        encode_row: <$module::$variant as BlockFormat>::encode_row,
                        decode_row: <$module::$variant as BlockFormat>::decode_row,
                        validate_row: <$module::$variant as BlockFormat>::validate_row,
                    }),+
                }
            }
        }
    };
}

all_formats!(formats);

impl Format {
    /// The format with this `ggml_type` id.
    pub fn from_ggml_type(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.info().ggml_type == id)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.info().name)
    }
}

impl FromStr for Format {
    type Err = String;

    /// Case does not matter.
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|f| f.info().name.eq_ignore_ascii_case(s)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|f| f.info().name).collect();
            format!("unknown block format '{s}'; known formats: {}", names.join(", "))
        })
    }
}
