//! What a conversion is asked to do: which bytes of which files become which tensors of which outputs.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::dtype::SourceType;
use crate::gguf::{GgmlType, Layout};

/// A whole conversion. Its outputs appear together or not at all.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The files to write: one, or the parts of a split.
    pub outputs: Vec<OutputFile>,
}

/// One GGUF file to write.
#[derive(Debug, Clone)]
pub struct OutputFile {
    /// Where it goes.
    pub path: PathBuf,
    /// Header, offsets and sizes; one entry for each of `tensors`, in the same order.
    pub layout: Layout,
    /// The tensors.
    pub tensors: Vec<TensorPlan>,
}

/// One tensor to write.
#[derive(Debug, Clone)]
pub struct TensorPlan {
    /// Name in the output.
    pub name: String,
    /// Dimensions, slowest first (numpy's order); the last is the row length.
    pub shape: Vec<u64>,
    /// Stored type.
    pub ty: GgmlType,
    /// The type the tensor would have in the file that `llama-quantize` reads. Values are rounded to it before they are
    /// encoded. For a quantized source this is the source's own type.
    pub intermediate: GgmlType,
    /// Where the values come from.
    pub source: Source,
    /// Importance of columns, if there is any.
    pub imatrix: Option<ImatrixPlan>,
}

/// Where a tensor's values come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The bytes themselves, in the stored type.
    Inline(Arc<[u8]>),
    /// Pieces of files.
    Views {
        /// Concatenated along the slowest dimension. All of one type.
        views: Vec<View>,
        /// Applied to every value, in order, in `f32`.
        ops: Vec<Op>,
    },
    /// MXFP4 blocks whose codes (16 bytes a block, neighbours in one byte) and scales (1 byte) lie apart, both `U8`.
    PackedMxfp4 {
        /// The codes.
        codes: View,
        /// The scales.
        scales: View,
    },
}

/// A strided view of a tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The file.
    pub file: PathBuf,
    /// Byte offset of the tensor's data in the file.
    pub offset: u64,
    /// Type of the tensor.
    pub dtype: SourceType,
    /// Dimensions of the view, slowest first.
    pub shape: Vec<u64>,
    /// Distance between neighbours in each dimension, in elements. For quantized types the view must keep whole blocks.
    pub strides: Vec<u64>,
    /// Position of the view's first element in the tensor, in elements.
    pub start: u64,
}

impl View {
    /// A view of a whole tensor as it lies.
    pub fn whole(file: impl Into<PathBuf>, offset: u64, dtype: SourceType, shape: &[u64]) -> Self {
        let mut strides = vec![1; shape.len()];
        for dim in (1..shape.len()).rev() {
            // Wraps only for shapes that are refused later, when the number of elements is counted.
            strides[dim - 1] = shape[dim].wrapping_mul(strides[dim]);
        }
        Self { file: file.into(), offset, dtype, shape: shape.to_vec(), strides, start: 0 }
    }
}

/// An elementwise operation in `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// `x + c`.
    Add(f32),
    /// `x * c`.
    Mul(f32),
    /// `-exp(x)`, correctly rounded but for ties too close for `f64` to tell.
    NegExp,
    /// Rounds to the nearest `f16`, as arithmetic on a half-precision tensor does.
    RoundF16,
}

impl Op {
    /// Looks up an operation by name; `value` is ignored by those without an operand.
    ///
    /// # Errors
    /// The names that exist.
    pub fn named(name: &str, value: f32) -> Result<Self, String> {
        match name {
            "add" => Ok(Self::Add(value)),
            "mul" => Ok(Self::Mul(value)),
            "neg_exp" => Ok(Self::NegExp),
            "round_f16" => Ok(Self::RoundF16),
            _ => Err(format!("unknown operation '{name}'; there are add, mul, neg_exp and round_f16")),
        }
    }

    pub(super) fn apply(self, x: &mut [f32]) {
        match self {
            Self::Add(c) => x.iter_mut().for_each(|v| *v += c),
            Self::Mul(c) => x.iter_mut().for_each(|v| *v *= c),
            Self::NegExp => x.iter_mut().for_each(|v| *v = -f64::from(*v).exp() as f32),
            Self::RoundF16 => x.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
        }
    }
}

/// Importance of columns, as [`crate::encode::Imatrix`], kept alive by the plan.
#[derive(Debug, Clone)]
pub struct ImatrixPlan {
    /// One row of importances, or one per expert.
    pub values: Arc<[f32]>,
    /// Rows that share one row of `values`.
    pub rows_per_expert: u64,
}

/// Parses a stored type by name: a block format, or an integer type.
///
/// # Errors
/// What is wrong with the name.
pub fn ggml_type(name: &str) -> Result<GgmlType, String> {
    let source = SourceType::from_str(name)?;
    source.ggml_type().ok_or_else(|| format!("GGUF files cannot store {name}"))
}
