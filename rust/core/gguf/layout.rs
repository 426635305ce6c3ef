//! From metadata and tensor shapes to the bytes of a header and the offset of every tensor, before any weight is read.

use std::collections::HashSet;

use super::metadata::{Array, Metadata, Value};
use super::types::GgmlType;
use crate::error::{At, Error, Result};

/// Alignment of tensor data unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that sets the alignment.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Dimensions a tensor can have.
pub const MAX_DIMS: usize = 4;

/// Tensor names must be shorter than this for ggml to load the file.
pub const MAX_NAME_LEN: usize = 64;

/// Largest alignment this crate writes: the header is padded to it in memory.
const MAX_WRITE_ALIGNMENT: u64 = 1 << 24;

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
        data_bytes(&self.name, &self.shape, self.ty)
    }
}

/// Bytes of a tensor's data, without padding; see [`TensorSpec::nbytes`].
pub(super) fn data_bytes(name: &str, shape: &[u64], ty: GgmlType) -> Result<u64> {
    let at = || At::tensor(name);
    let Some((block_len, block_bytes)) = ty.block() else {
        return Err(Error::Unsupported { at: at(), what: format!("the size of {ty} is not known") });
    };
    let (block_len, block_bytes) = (block_len as u64, block_bytes as u64);
    let row_len = shape.first().copied().unwrap_or(1);
    if !row_len.is_multiple_of(block_len) {
        return Err(match (ty.format(), usize::try_from(row_len)) {
            (Some(format), Ok(len)) => Error::RowLength { at: at(), format, len },
            _ => Error::Shape { at: at(), what: format!("rows of {row_len} do not divide into blocks of {ty}") },
        });
    }
    // ggml counts elements in a signed 64-bit integer, so that is the bound on their number as well.
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= i64::MAX as u64);
    elements.and_then(|n| (n / block_len).checked_mul(block_bytes)).ok_or_else(|| Error::Shape {
        at: at(),
        what: format!("the size of shape {:?} does not fit in 64 bits", shape),
    })
}

/// Drops trailing dimensions of size 1, as ggml does when it writes a tensor: `[64, 1]` becomes `[64]`.
///
/// Files written by `llama-quantize` and `llama-gguf-split` have such shapes; those written by the Python converter
/// keep the dimensions of the array.
pub fn trim_shape(shape: &[u64]) -> &[u64] {
    let dims = shape.iter().rposition(|&d| d > 1).map_or(1, |last| last + 1);
    // A zero-sized trailing dimension counts as 1 there too, so only the first dimension survives it.
    &shape[..dims.min(shape.len())]
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
    pub fn new(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self> {
        let align = alignment(metadata)?;
        if align > MAX_WRITE_ALIGNMENT {
            let what = format!("{ALIGNMENT_KEY} is {align}; at most {MAX_WRITE_ALIGNMENT} can be written");
            return Err(Error::Malformed { at: At::default(), what });
        }
        let mut header = Vec::with_capacity(4096 + 128 * tensors.len());
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if key.is_empty() {
                return Err(Error::Malformed { at: At::default(), what: "a metadata key is empty".to_owned() });
            }
            put_string(&mut header, key.as_bytes());
            put_value(&mut header, value);
        }

        let mut names = HashSet::with_capacity(tensors.len());
        let mut nbytes = Vec::with_capacity(tensors.len());
        let mut relative = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        for tensor in tensors {
            check_spec(tensor)?;
            if !names.insert(tensor.name.as_str()) {
                let what = "a tensor of this name is in the file already".to_owned();
                return Err(Error::Malformed { at: At::tensor(&tensor.name), what });
            }
            let size = tensor.nbytes()?;
            put_string(&mut header, tensor.name.as_bytes());
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for &dim in &tensor.shape {
                header.extend_from_slice(&dim.to_le_bytes());
            }
            header.extend_from_slice(&tensor.ty.0.to_le_bytes());
            header.extend_from_slice(&end.to_le_bytes());
            relative.push(end);
            nbytes.push(size);
            end = size.checked_next_multiple_of(align).and_then(|padded| end.checked_add(padded)).ok_or_else(|| {
                Error::Shape { at: At::tensor(&tensor.name), what: "the file would exceed 64-bit offsets".to_owned() }
            })?;
        }
        header.resize(header.len().next_multiple_of(align as usize), 0);

        let start = header.len() as u64;
        let file_len = start.checked_add(end).filter(|&len| len <= i64::MAX as u64).ok_or_else(|| Error::Shape {
            at: At::default(),
            what: "the file would exceed 64-bit offsets".to_owned(),
        })?;
        Ok(Self { header, offsets: relative.into_iter().map(|offset| start + offset).collect(), nbytes, file_len })
    }
}

/// The alignment that `metadata` asks for.
///
/// # Errors
/// `Malformed` if `general.alignment` is not a `u32` power of two.
pub fn alignment(metadata: &Metadata) -> Result<u64> {
    let wrong = |what: String| Err(Error::Malformed { at: At::default(), what });
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(align)) if align.is_power_of_two() => Ok(u64::from(align)),
        Some(&Value::U32(align)) => wrong(format!("{ALIGNMENT_KEY} is {align}, which is not a power of two")),
        Some(other) => wrong(format!("{ALIGNMENT_KEY} must be of type u32, not {}", other.type_name())),
    }
}

fn check_spec(tensor: &TensorSpec) -> Result<()> {
    let at = || At::tensor(&tensor.name);
    if tensor.name.len() >= MAX_NAME_LEN {
        let what = format!("the name has {} bytes; ggml reads at most {}", tensor.name.len(), MAX_NAME_LEN - 1);
        return Err(Error::Malformed { at: at(), what });
    }
    if tensor.shape.is_empty() || tensor.shape.len() > MAX_DIMS {
        let what = format!("{} dimensions; a tensor has 1 to {MAX_DIMS}", tensor.shape.len());
        return Err(Error::Shape { at: at(), what });
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(&value.type_id().to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_string(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

/// Element type, count, elements. Nested arrays repeat the three for each element.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type_id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    macro_rules! put {
        ($values:expr) => {
            $values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()))
        };
    }
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => put!(v),
        Array::U16(v) => put!(v),
        Array::I16(v) => put!(v),
        Array::U32(v) => put!(v),
        Array::I32(v) => put!(v),
        Array::F32(v) => put!(v),
        Array::Bool(v) => v.iter().for_each(|&b| out.push(u8::from(b))),
        Array::String(v) => v.iter().for_each(|s| put_string(out, s)),
        Array::Array(v) => v.iter().for_each(|a| put_array(out, a)),
        Array::U64(v) => put!(v),
        Array::I64(v) => put!(v),
        Array::F64(v) => put!(v),
    }
}
