//! The header of one safetensors file.
//!
//! Layout (<https://github.com/huggingface/safetensors>): an 8-byte little-endian header length, a JSON object from
//! tensor name to type, shape and byte range, then the data. Ranges cover the data without holes or overlaps.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::MapAccess;

use super::json::{Entries, Entry};
use super::{CheckpointTensor, MAX_DIMS, MAX_HEADER};
use crate::error::{Error, Result};

/// The one key of a header that is not a tensor.
const METADATA_KEY: &str = "__metadata__";

/// What a header says under one key.
enum HeaderEntry {
    Tensor(TensorInfo),
    Metadata(HashMap<String, String>),
}

impl<'de> Entry<'de> for HeaderEntry {
    fn read<A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error> {
        if key == METADATA_KEY { map.next_value().map(Self::Metadata) } else { map.next_value().map(Self::Tensor) }
    }
}

/// Header of one file: its tensors in file order, and its free-form metadata.
pub(super) struct Header {
    pub(super) tensors: Vec<CheckpointTensor>,
    pub(super) metadata: HashMap<String, String>,
}

/// Reads and checks the header of `path`.
///
/// # Errors
/// `Io`; `Malformed` with what is wrong.
pub(super) fn read_header(path: &Path) -> Result<Header> {
    let malformed = |what: String| Error::malformed(path, what);
    let mut file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
    let file_len = file.metadata().map_err(|error| Error::io(path, "read the size", error))?.len();
    let header_len = read_header_len(&mut file, path, file_len)?;

    let mut json = vec![0; header_len];
    file.read_exact(&mut json).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => malformed("was truncated while its header was read".into()),
        _ => Error::io(path, "read the header", error),
    })?;
    super::json::check(&json, 4).map_err(|what| malformed(format!("the header is not usable JSON: {what}")))?;
    let Entries(entries) = serde_json::from_slice::<Entries<HeaderEntry>>(&json)
        .map_err(|error| malformed(format!("the header is not a safetensors header: {error}")))?;
    drop(json);

    let mut metadata = HashMap::new();
    let mut infos = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        match entry {
            HeaderEntry::Tensor(info) => infos.push((name, info)),
            HeaderEntry::Metadata(values) => metadata = values,
        }
    }
    // File order; empty tensors share an offset with their neighbour and come first.
    infos.sort_by_key(|(_, info)| info.data_offsets);
    if let Some((name, info)) = infos.iter().find(|(_, info)| info.shape.len() > MAX_DIMS) {
        let what = format!("has {} dimensions; at most {MAX_DIMS} are read", info.shape.len());
        return Err(malformed(what).in_tensor(name));
    }
    let checked = Metadata::new(None, infos.clone()).map_err(|error| malformed(format!("bad header: {error}")))?;
    let data_start = 8 + header_len as u64;
    if data_start.checked_add(checked.data_len() as u64) != Some(file_len) {
        return Err(malformed(format!(
            "holds {} bytes of tensor data, but its header describes {}; the file is {}",
            file_len - data_start,
            checked.data_len(),
            if file_len - data_start < checked.data_len() as u64 { "truncated" } else { "damaged" }
        )));
    }
    let tensors = infos
        .into_iter()
        .map(|(name, info)| CheckpointTensor {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            file: path.to_owned(),
            offset: data_start + info.data_offsets.0 as u64,
            nbytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        })
        .collect();
    Ok(Header { tensors, metadata })
}

fn read_header_len(file: &mut File, path: &Path, file_len: u64) -> Result<usize> {
    let malformed = |what: String| Err(Error::malformed(path, what));
    let mut prefix = [0; 8];
    if let Err(error) = file.read_exact(&mut prefix) {
        return match error.kind() {
            ErrorKind::UnexpectedEof => malformed(format!("is {file_len} bytes long: not a safetensors file")),
            _ => Err(Error::io(path, "read the header", error)),
        };
    }
    let header_len = u64::from_le_bytes(prefix);
    if header_len > file_len.saturating_sub(8) {
        return malformed(format!(
            "claims a header of {header_len} bytes but is {file_len} bytes long: truncated, or not a safetensors file"
        ));
    }
    if header_len > MAX_HEADER {
        return malformed(format!("has a header of {header_len} bytes; at most {MAX_HEADER} are read"));
    }
    // MAX_HEADER fits any usize.
    Ok(header_len as usize)
}
