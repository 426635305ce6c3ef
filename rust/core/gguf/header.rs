//! Parsing of a GGUF header from a stream of known length.
//!
//! Everything here treats the bytes as hostile. A count is believed only as far as the bytes that are left could hold
//! its elements, lists grow as their elements are read, and all sums and products are checked, so that memory stays
//! within a small multiple of the file's length and no offset leads outside of it.

use std::io::Read;
use std::path::Path;

use super::index::NameIndex;
use super::layout::{self, MAX_DIMS, MAX_NAME_LEN, TensorSpec};
use super::metadata::{Array, Metadata, Value};
use super::types::GgmlType;
use crate::error::{Error, Result};

/// Arrays of arrays deeper than this are refused; no known file nests them at all.
const MAX_ARRAY_DEPTH: usize = 8;

/// Lists start with room for at most this many elements, whatever count the file claims.
const INITIAL_CAPACITY: usize = 1024;

/// Order of the bytes in a file's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endianness {
    /// Least significant byte first: nearly every file.
    Little,
    /// Most significant byte first.
    Big,
}

/// A tensor as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the model.
    pub name: String,
    /// Dimensions in ggml's order: `shape[0]` is the row length. One to four of them.
    pub shape: Vec<u64>,
    /// Stored type.
    pub ty: GgmlType,
    /// Which of the reader's shards holds the data.
    pub shard: usize,
    /// Offset of the data in that shard's file, in bytes.
    pub offset: u64,
    /// Bytes of data. For a type whose layout is not known: the bytes up to the next tensor, or to the end of the file.
    pub nbytes: u64,
}

impl TensorInfo {
    /// Weights in a row.
    pub fn row_len(&self) -> u64 {
        self.shape[0]
    }

    /// Rows, over all the other dimensions.
    pub fn rows(&self) -> u64 {
        // Only a tensor without weights, of row length 0, can have dimensions whose product overflows.
        self.shape[1..].iter().fold(1, |rows, &dim| rows.saturating_mul(dim))
    }

    /// The tensor as a writer takes it.
    pub fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), shape: self.shape.clone(), ty: self.ty }
    }
}

/// A parsed header. Offsets in `tensors` are absolute and lie within the file, as does the data they point to.
#[derive(Debug, Clone)]
pub struct Header {
    /// Version of the container, 2 or 3.
    pub version: u32,
    /// Byte order of all numbers in the file.
    pub endianness: Endianness,
    /// Alignment of tensor data, in bytes.
    pub alignment: u64,
    /// Offset of the first tensor's data.
    pub data_start: u64,
    /// All key-value pairs.
    pub metadata: Metadata,
    /// All tensors in file order; `shard` is 0.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Parses the header of a file of `len` bytes that `input` reads from its start. `path` is for messages only.
    ///
    /// # Errors
    /// `Malformed` for a file that breaks the format, `Unsupported` for a version other than 2 and 3, `Io`.
    pub fn parse(input: impl Read, len: u64, path: &Path) -> Result<Self> {
        let mut parser = Parser { input, path, len, left: len, endianness: Endianness::Little };
        let version = parser.version()?;
        let tensor_count = parser.u64("number of tensors")?;
        let entry_count = parser.u64("number of metadata entries")?;
        // An entry takes at least a key of one byte with its length, a type, and one byte of value.
        parser.check_count("metadata entries", entry_count, 8 + 1 + 4 + 1)?;
        parser.check_count("tensors", tensor_count, 8 + 4 + 4 + 8)?;

        let metadata = parser.metadata(entry_count)?;
        let alignment = layout::alignment(&metadata).map_err(|e| e.in_file(path))?;
        let mut tensors = parser.tensor_infos(tensor_count)?;
        let header_len = len - parser.left;
        let data_start = match tensors.is_empty() {
            true => header_len,
            false => header_len
                .checked_next_multiple_of(alignment)
                .filter(|&start| start <= len)
                .ok_or_else(|| parser.malformed(format!("the file ends before its data, aligned to {alignment}")))?,
        };
        place_tensors(&mut tensors, data_start, alignment, len).map_err(|e| e.in_file(path))?;
        Ok(Self { version, endianness: parser.endianness, alignment, data_start, metadata, tensors })
    }
}

/// Turns relative offsets into absolute ones and fills in sizes.
///
/// ggml loads a file only if each tensor starts where the one before it ends, padded to the alignment; that rule also
/// excludes overlaps and gaps, so it is the rule here.
fn place_tensors(tensors: &mut [TensorInfo], data_start: u64, alignment: u64, len: u64) -> Result<()> {
    let wrong = |name: &str, what: String| {
        Err(Error::Malformed { at: crate::At { file: None, tensor: Some(name.to_owned()) }, what })
    };
    let room = len - data_start;
    // The next tensor's offset, or `None` after a tensor of unknown size.
    let mut expected = Some(0u64);
    let mut floor = 0u64;
    for i in 0..tensors.len() {
        let next = tensors.get(i + 1).map_or(room, |t| t.offset);
        let tensor = &tensors[i];
        let offset = tensor.offset;
        match expected {
            Some(expected) if offset != expected => {
                return wrong(&tensor.name, format!("its data is at offset {offset} instead of {expected}"));
            }
            None if offset < floor || !offset.is_multiple_of(alignment) => {
                let what = format!("its data at offset {offset} overlaps the tensor before it or is not aligned");
                return wrong(&tensor.name, what);
            }
            _ => {}
        }
        let nbytes = match tensor.ty.block() {
            Some(_) => layout::data_bytes(&tensor.name, &tensor.shape, tensor.ty).map_err(|e| match e {
                Error::Shape { at, what } => Error::Malformed { at, what },
                other => other,
            })?,
            None => next.saturating_sub(offset),
        };
        let Some(end) = offset.checked_add(nbytes).filter(|&end| end <= room) else {
            let what = format!(
                "its {nbytes} bytes at offset {offset} do not fit into the {room} bytes of data that the file has; \
                 the file is truncated or damaged, download it again"
            );
            return wrong(&tensor.name, what);
        };
        expected = tensor.ty.block().and_then(|_| end.checked_next_multiple_of(alignment));
        floor = end;
        tensors[i].offset = data_start + offset;
        tensors[i].nbytes = nbytes;
    }
    Ok(())
}

struct Parser<'a, R> {
    input: R,
    path: &'a Path,
    len: u64,
    /// Bytes between the current position and the end of the file.
    left: u64,
    endianness: Endianness,
}

macro_rules! numbers {
    ($($name:ident: $ty:ty),+) => {
        $(fn $name(&mut self, what: &str) -> Result<$ty> {
            let bytes = self.bytes(what)?;
            Ok(match self.endianness {
                Endianness::Little => <$ty>::from_le_bytes(bytes),
                Endianness::Big => <$ty>::from_be_bytes(bytes),
            })
        })+
    };
}

impl<R: Read> Parser<'_, R> {
    numbers!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64, f32: f32, f64: f64);

    fn malformed(&self, what: impl Into<String>) -> Error {
        Error::malformed(self.path, what)
    }

    fn fill(&mut self, buf: &mut [u8], what: &str) -> Result<()> {
        let position = self.len - self.left;
        if buf.len() as u64 > self.left {
            return Err(self.malformed(format!(
                "the file ends within its header: {what} needs {} bytes at offset {position}, {} are left",
                buf.len(),
                self.left
            )));
        }
        self.input
            .read_exact(buf)
            .map_err(|e| Error::io(self.path, format!("read {} bytes at offset {position}", buf.len()), e))?;
        self.left -= buf.len() as u64;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.fill(&mut buf, what)?;
        Ok(buf)
    }

    /// Refuses a count of elements, of at least `min_bytes` each, that the rest of the file cannot hold.
    fn check_count(&self, what: &str, count: u64, min_bytes: u64) -> Result<usize> {
        if count > self.left / min_bytes {
            let left = self.left;
            return Err(self.malformed(format!("it claims {count} {what}, more than its remaining {left} bytes hold")));
        }
        usize::try_from(count).map_err(|_| self.malformed(format!("{count} {what} do not fit in memory")))
    }

    fn version(&mut self) -> Result<u32> {
        let magic: [u8; 4] = self.bytes("the magic")?;
        if magic != *b"GGUF" {
            return Err(self.malformed(format!("not a GGUF file: it starts with '{}'", magic.escape_ascii())));
        }
        let mut version = self.u32("the version")?;
        // Versions are small numbers, so low bytes of zero mean that the bytes are in the other order.
        if version & 0xffff == 0 && version != 0 {
            self.endianness = Endianness::Big;
            version = version.swap_bytes();
        }
        if version != 2 && version != 3 {
            let what = format!("GGUF version {version} is not supported, only 2 and 3 are; convert the model again");
            return Err(Error::Unsupported { at: crate::At::file(self.path), what });
        }
        Ok(version)
    }

    fn string(&mut self, what: &str) -> Result<Vec<u8>> {
        let len = self.u64(what)?;
        let len = self.check_count(&format!("bytes of {what}"), len, 1)?;
        let mut text = vec![0; len];
        self.fill(&mut text, what)?;
        Ok(text)
    }

    /// A key or a tensor name: UTF-8 without NUL, because ggml holds names as C strings.
    fn name(&mut self, what: &str) -> Result<String> {
        let bytes = self.string(what)?;
        match String::from_utf8(bytes) {
            Ok(name) if !name.contains('\0') => Ok(name),
            Ok(name) => Err(self.malformed(format!("{what} '{}' contains a NUL byte", name.escape_debug()))),
            Err(e) => Err(self.malformed(format!("{what} '{}' is not UTF-8", e.as_bytes().escape_ascii()))),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<Metadata> {
        let mut metadata = Metadata::default();
        for _ in 0..count {
            let key = self.name("a metadata key")?;
            if key.is_empty() {
                return Err(self.malformed("a metadata key is empty"));
            }
            if metadata.contains(&key) {
                return Err(self.malformed(format!("metadata key '{key}' is there twice")));
            }
            let ty = self.u32("a metadata type")?;
            let value = self.value(&key, ty)?;
            metadata.set(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, ty: u32) -> Result<Value> {
        let what = "a metadata value";
        Ok(match ty {
            0 => Value::U8(self.u8(what)?),
            1 => Value::I8(self.i8(what)?),
            2 => Value::U16(self.u16(what)?),
            3 => Value::I16(self.i16(what)?),
            4 => Value::U32(self.u32(what)?),
            5 => Value::I32(self.i32(what)?),
            6 => Value::F32(self.f32(what)?),
            7 => Value::Bool(self.u8(what)? != 0),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.array(key, 1)?),
            10 => Value::U64(self.u64(what)?),
            11 => Value::I64(self.i64(what)?),
            12 => Value::F64(self.f64(what)?),
            _ => return Err(self.malformed(format!("metadata '{key}' has type {ty}, which does not exist"))),
        })
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array> {
        if depth > MAX_ARRAY_DEPTH {
            return Err(self.malformed(format!("metadata '{key}' nests arrays deeper than {MAX_ARRAY_DEPTH}")));
        }
        let ty = self.u32("an array's type")?;
        let count = self.u64("an array's length")?;
        Ok(match ty {
            0 => Array::U8(self.elements(key, count, 1, Self::u8)?),
            1 => Array::I8(self.elements(key, count, 1, Self::i8)?),
            2 => Array::U16(self.elements(key, count, 2, Self::u16)?),
            3 => Array::I16(self.elements(key, count, 2, Self::i16)?),
            4 => Array::U32(self.elements(key, count, 4, Self::u32)?),
            5 => Array::I32(self.elements(key, count, 4, Self::i32)?),
            6 => Array::F32(self.elements(key, count, 4, Self::f32)?),
            7 => Array::Bool(self.elements(key, count, 1, |p, what| Ok(p.u8(what)? != 0))?),
            8 => Array::String(self.elements(key, count, 8, Self::string)?),
            9 => Array::Array(self.elements(key, count, 12, |p, _| p.array(key, depth + 1))?),
            10 => Array::U64(self.elements(key, count, 8, Self::u64)?),
            11 => Array::I64(self.elements(key, count, 8, Self::i64)?),
            12 => Array::F64(self.elements(key, count, 8, Self::f64)?),
            _ => return Err(self.malformed(format!("metadata '{key}' is an array of type {ty}, which does not exist"))),
        })
    }

    /// Reads `count` elements of at least `min_bytes` each.
    fn elements<T>(
        &mut self,
        key: &str,
        count: u64,
        min_bytes: u64,
        read: impl Fn(&mut Self, &str) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.check_count(&format!("elements in array '{key}'"), count, min_bytes)?;
        let mut elements = Vec::with_capacity(count.min(INITIAL_CAPACITY));
        for _ in 0..count {
            elements.push(read(self, "an array element")?);
        }
        Ok(elements)
    }

    /// Reads tensor infos; offsets are still relative to the start of the data, and sizes zero.
    fn tensor_infos(&mut self, count: u64) -> Result<Vec<TensorInfo>> {
        let count = self.check_count("tensors", count, 8 + 4 + 4 + 8)?;
        let mut tensors: Vec<TensorInfo> = Vec::with_capacity(count.min(INITIAL_CAPACITY));
        let mut index = NameIndex::default();
        for position in 0..count {
            let name = self.name("a tensor name")?;
            if name.len() >= MAX_NAME_LEN {
                let what = format!("tensor name '{name}' has {} bytes, more than {}", name.len(), MAX_NAME_LEN - 1);
                return Err(self.malformed(what));
            }
            let (shape, ty, offset) = self.shape_type_offset().map_err(|e| e.in_tensor(&name))?;
            let tensor = TensorInfo { name, shape, ty, shard: 0, offset, nbytes: 0 };
            // The new tensor's name is looked up by its position too, once the table grows.
            let name_at = |at: usize| tensors.get(at).unwrap_or(&tensor).name.as_str();
            if index.insert(&tensor.name, position, name_at).is_some() {
                return Err(self.malformed("a tensor of this name is there twice").in_tensor(&tensor.name));
            }
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    fn shape_type_offset(&mut self) -> Result<(Vec<u64>, GgmlType, u64)> {
        let dims = self.u32("a tensor's number of dimensions")?;
        if dims as usize > MAX_DIMS {
            return Err(self.malformed(format!("{dims} dimensions; a tensor has at most {MAX_DIMS}")));
        }
        let mut shape = Vec::with_capacity(dims.max(1) as usize);
        for _ in 0..dims {
            let dim = self.u64("a tensor's dimension")?;
            if dim > i64::MAX as u64 {
                return Err(self.malformed(format!("a dimension is {}, below zero", dim as i64)));
            }
            shape.push(dim);
        }
        // ggml takes a tensor without dimensions for a single weight.
        if shape.is_empty() {
            shape.push(1);
        }
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n <= i64::MAX as u64);
        if elements.is_none() {
            return Err(self.malformed(format!("shape {shape:?} has more weights than 63 bits can count")));
        }
        let ty = GgmlType(self.u32("a tensor's type")?);
        let offset = self.u64("a tensor's offset")?;
        Ok((shape, ty, offset))
    }
}
