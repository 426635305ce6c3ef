//! From metadata and tensor shapes to the bytes of a header and the offset of every tensor, before any weight is read.

use super::metadata::Metadata;
use super::types::GgmlType;
use crate::error::Result;

/// Alignment of tensor data unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor to be laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, at most 63 bytes for ggml to read it.
    pub name: String,
    /// Dimensions in ggml's order: `shape[0]` is the row length. One to four of them.
    pub shape: Vec<u64>,
    /// Stored type.
    pub ty: GgmlType,
}

impl TensorSpec {
    /// Bytes of the encoded tensor, without padding.
    ///
    /// # Errors
    /// `Shape` or `RowLength` if the row length is not a whole number of blocks or a product overflows;
    /// `Unsupported` if the type's layout is not known.
    pub fn nbytes(&self) -> Result<u64> {
        todo!()
    }
}

/// A laid-out file: everything but the tensor data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Magic, version 3, counts, metadata, tensor infos, padded to the alignment. Tensor data follows.
    pub header: Vec<u8>,
    /// Absolute file offset of each tensor's data.
    pub offsets: Vec<u64>,
    /// Bytes of each tensor's data, without padding.
    pub nbytes: Vec<u64>,
    /// Length of the file, padding after the last tensor included.
    pub file_len: u64,
}

impl Layout {
    /// Lays out a little-endian version 3 file with tensors in the given order.
    ///
    /// # Errors
    /// `Shape`, `RowLength`, `Unsupported` from the tensors; `Malformed` for duplicate names or a bad alignment.
    pub fn new(_metadata: &Metadata, _tensors: &[TensorSpec]) -> Result<Self> {
        todo!()
    }
}
