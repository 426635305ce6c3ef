//! Element types that tensors have in source files.

use std::fmt;
use std::str::FromStr;

use crate::arch::kernel;
use crate::block::Format;
use crate::error::Result;
use crate::gguf::GgmlType;

/// The type of a source tensor: a block format (plain floats included), or a type only checkpoints have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // The names of the safetensors format.
pub enum SourceType {
    /// `F32`, `F16`, `BF16`, or the blocks of a quantized GGUF.
    Block(Format),
    /// 64-bit float.
    F64,
    /// 8-bit float with 4 exponent bits, no infinities, NaN at all ones.
    F8_E4M3,
    /// 8-bit float with 5 exponent bits: the upper half of an IEEE half.
    F8_E5M2,
    /// Signed byte.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned byte.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// A byte that is 0 or 1.
    Bool,
}

/// The types that are not block formats.
const PLAIN: &[SourceType] = &[
    SourceType::F64,
    SourceType::F8_E4M3,
    SourceType::F8_E5M2,
    SourceType::I8,
    SourceType::I16,
    SourceType::I32,
    SourceType::I64,
    SourceType::U8,
    SourceType::U16,
    SourceType::U32,
    SourceType::U64,
    SourceType::Bool,
];

impl SourceType {
    /// Name as safetensors and GGUF spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block(format) => format.info().name,
            Self::F64 => "F64",
            Self::F8_E4M3 => "F8_E4M3",
            Self::F8_E5M2 => "F8_E5M2",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
            Self::U8 => "U8",
            Self::U16 => "U16",
            Self::U32 => "U32",
            Self::U64 => "U64",
            Self::Bool => "BOOL",
        }
    }

    /// Weights and bytes of the smallest piece that can be read: a block, or one element.
    pub const fn unit(self) -> (usize, usize) {
        match self {
            Self::Block(format) => (format.info().block_len, format.info().block_bytes),
            Self::F64 | Self::I64 | Self::U64 => (1, 8),
            Self::I32 | Self::U32 => (1, 4),
            Self::I16 | Self::U16 => (1, 2),
            Self::F8_E4M3 | Self::F8_E5M2 | Self::I8 | Self::U8 | Self::Bool => (1, 1),
        }
    }

    /// Bytes of so many elements, a whole number of units.
    pub(super) const fn bytes(self, elements: usize) -> usize {
        let (len, bytes) = self.unit();
        elements / len * bytes
    }

    /// Elements in so many bytes; what is left over does not count.
    pub(super) const fn elements(self, nbytes: usize) -> usize {
        let (len, bytes) = self.unit();
        nbytes / bytes * len
    }

    /// The GGUF type with the same bytes, if there is one.
    pub fn ggml_type(self) -> Option<GgmlType> {
        match self {
            Self::Block(format) => Some(format.into()),
            Self::I8 => Some(GgmlType(24)),
            Self::I16 => Some(GgmlType(25)),
            Self::I32 => Some(GgmlType(26)),
            Self::I64 => Some(GgmlType(27)),
            Self::F64 => Some(GgmlType(28)),
            _ => None,
        }
    }

    /// Converts whole units to `f32`, rounding to nearest even where a value does not fit (wide integers, `F64`).
    ///
    /// # Errors
    /// See [`crate::arch::isa`].
    pub(super) fn decode(self, data: &[u8], out: &mut [f32]) -> Result<()> {
        match self {
            Self::Block(format) => kernel(format)?.decode(data, out),
            Self::F64 => widen(data, out, |b| f64::from_le_bytes(b) as f32),
            Self::I64 => widen(data, out, |b| i64::from_le_bytes(b) as f32),
            Self::U64 => widen(data, out, |b| u64::from_le_bytes(b) as f32),
            Self::I32 => widen(data, out, |b| i32::from_le_bytes(b) as f32),
            Self::U32 => widen(data, out, |b| u32::from_le_bytes(b) as f32),
            Self::I16 => widen(data, out, |b| f32::from(i16::from_le_bytes(b))),
            Self::U16 => widen(data, out, |b| f32::from(u16::from_le_bytes(b))),
            Self::I8 => widen(data, out, |b| f32::from(i8::from_le_bytes(b))),
            Self::U8 => widen(data, out, |[b]| f32::from(b)),
            Self::Bool => widen(data, out, |[b]| f32::from(u8::from(b != 0))),
            Self::F8_E4M3 => widen(data, out, |[b]| E4M3[usize::from(b)]),
            Self::F8_E5M2 => widen(data, out, |[b]| half::f16::from_bits(u16::from(b) << 8).to_f32()),
        }
        Ok(())
    }
}

fn widen<const N: usize>(data: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (elements, _) = data.as_chunks::<N>();
    for (value, &bytes) in out.iter_mut().zip(elements) {
        *value = convert(bytes);
    }
}

/// Every `F8_E4M3` value.
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3(code as u8);
        code += 1;
    }
    table
};

/// Sign, four exponent bits with bias 7, three mantissa bits (arXiv:2209.05433, table 1).
const fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3) & 15, code & 7);
    let magnitude = if exponent == 15 && mantissa == 7 {
        f32::NAN
    } else if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        f32::from_bits((exponent as u32 + 120) << 23 | (mantissa as u32) << 20)
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

impl fmt::Display for SourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SourceType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some(plain) = PLAIN.iter().copied().find(|ty| ty.name() == name) {
            return Ok(plain);
        }
        name.parse().map(Self::Block).map_err(|_| format!("tensors of type {name} cannot be read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_values_of_the_paper() {
        let value = |code: u8| E4M3[usize::from(code)];
        assert_eq!(value(0b0111_1110), 448.0);
        assert_eq!(value(0b0000_0001), 2f32.powi(-9));
        assert_eq!(value(0b0000_1000), 2f32.powi(-6));
        assert_eq!(value(0b0011_1000), 1.0);
        assert_eq!(value(0b1100_0100), -3.0);
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
        assert_eq!(value(0x80).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn e5m2_is_the_upper_half_of_a_half() {
        let mut out = [0.0; 4];
        SourceType::F8_E5M2.decode(&[0b0111_1011, 0b0000_0100, 0b1011_1110, 0b0111_1100], &mut out).unwrap();
        assert_eq!(out, [57344.0, 2f32.powi(-14), -1.5, f32::INFINITY]);
    }

    #[test]
    fn names_round_trip() {
        for &ty in PLAIN {
            assert_eq!(ty.name().parse(), Ok(ty));
        }
        assert_eq!("Q4_K".parse(), Ok(SourceType::Block(Format::Q4_K)));
        assert!("F4".parse::<SourceType>().is_err());
    }
}
