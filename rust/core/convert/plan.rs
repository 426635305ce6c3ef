//! What a conversion is asked to do: which bytes of which files become which tensors of which outputs.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::dtype::SourceType;
use crate::gguf::{GgmlType, Layout};
use crate::packed::bits::Width;
use crate::packed::blocks::Target;

/// A whole conversion. Its outputs appear together or not at all.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The files to write: one, or the parts of a split.
    pub outputs: Vec<OutputFile<'a>>,
}

/// One GGUF file to write.
#[derive(Debug, Clone)]
pub struct OutputFile<'a> {
    /// Where it goes.
    pub path: PathBuf,
    /// Header, offsets and sizes; one entry for each of `tensors`, in the same order.
    pub layout: Layout,
    /// The tensors.
    pub tensors: Vec<TensorPlan<'a>>,
}

/// One tensor to write.
#[derive(Debug, Clone)]
pub struct TensorPlan<'a> {
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
    pub imatrix: Option<ImatrixPlan<'a>>,
    /// Whether blocks that are on the format's grid already get their own codes back.
    pub lattice: Lattice,
}

/// What happens to blocks whose weights are values of the format they are to be encoded in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lattice {
    /// They are encoded like all others.
    #[default]
    Off,
    /// They get the very codes of these values; all others are encoded.
    Auto,
    /// They get the very codes of these values; any other block is an error.
    Only,
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
    /// Weights whose codes, scales and zero points lie apart, as GPTQ, AWQ, compressed-tensors and FP8 checkpoints store
    /// them.
    Packed {
        /// Concatenated along the slowest dimension.
        parts: Vec<PackedWeights>,
        /// The format that takes codes and scales as they are; without it, they become `f32`.
        target: Option<Target>,
        /// Applied to every value, in order, in `f32`. There are none with a target.
        ops: Vec<Op>,
    },
}

/// A matrix of packed weights, each `scale * (code - zero)`, and the rows of it that are wanted.
///
/// The views present the parts with one row an output, whichever way they lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedWeights {
    /// Outputs.
    pub rows: u64,
    /// Inputs.
    pub columns: u64,
    /// How codes are stored.
    pub coding: Coding,
    /// `[rows, words]` of `I32`; for AWQ `[rows / 8, columns]`; for codes of whole bytes `[rows, columns]`.
    pub codes: View,
    /// `[rows / rows_per_scale, groups]` floats.
    pub scales: View,
    /// Neighbouring rows that share their scales.
    pub rows_per_scale: u64,
    /// The zero points.
    pub zeros: Zeros,
    /// Inputs that share a scale.
    pub groups: Grouping,
    /// The wanted rows: a walk over the unpacked matrix, as of a [`View`] of it.
    pub shape: Vec<u64>,
    /// Strides of the walk, in elements of the unpacked matrix.
    pub strides: Vec<u64>,
    /// Start of the walk, in elements of the unpacked matrix.
    pub start: u64,
    /// Which stored row stands in the place of each, where rows change places.
    pub row_order: Option<Arc<[u32]>>,
    /// Which stored column stands in the place of each, where columns change places: inputs in act-order become neighbours
    /// again in this way.
    pub column_order: Option<Arc<[u32]>>,
}

impl PackedWeights {
    /// The pieces of files it is made of.
    pub(super) fn views(&self) -> impl Iterator<Item = &View> {
        let zeros = match &self.zeros {
            Zeros::All(_) => None,
            Zeros::Stored { view, .. } => Some(view),
        };
        let groups = match &self.groups {
            Grouping::Even(_) => None,
            Grouping::Listed(view) => Some(view),
        };
        [&self.codes, &self.scales].into_iter().chain(zeros).chain(groups)
    }

    /// Everything else that decides its values.
    pub(super) fn facts(&self) -> impl std::fmt::Debug {
        let zeros = match self.zeros {
            Zeros::All(zero) => (Some(zero), None, false),
            Zeros::Stored { coding, less_one, .. } => (None, Some(coding), less_one),
        };
        let groups = match self.groups {
            Grouping::Even(len) => len,
            Grouping::Listed(_) => 0,
        };
        let orders = (self.row_order.clone(), self.column_order.clone());
        let walk = (self.shape.clone(), self.strides.clone(), self.start, orders);
        (self.rows, self.columns, self.coding, self.rows_per_scale, zeros, groups, walk)
    }
}

/// How the codes of packed weights, or their zero points, are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Back to back.
    Dense(Width),
    /// As many as fit a word.
    Aligned(Width),
    /// Four bits, eight outputs a word in AWQ's order.
    Awq,
    /// Signed bytes, which count from -128: a zero point of 128 leaves them as they are.
    Signed,
    /// Bytes that are floats, `F8_E4M3` or `F8_E5M2`: the value is `scale * code`.
    Float,
}

/// Zero points of packed weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zeros {
    /// The same everywhere.
    All(i32),
    /// Stored: `[words, groups]` of `I32` that pack outputs, or `[rows, groups]` of `I8`.
    Stored {
        /// How.
        coding: Coding,
        /// Where.
        view: View,
        /// What is stored is one less than the zero point.
        less_one: bool,
    },
}

/// Which inputs share a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// So many neighbours.
    Even(u64),
    /// The group of each input: `[columns]` of `I32`.
    Listed(View),
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

/// Importance of columns, as [`crate::encode::Imatrix`]. Borrowed where it can be: for a model of many experts it is large.
#[derive(Debug, Clone)]
pub struct ImatrixPlan<'a> {
    /// One row of importances, or one per expert.
    pub values: Cow<'a, [f32]>,
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
