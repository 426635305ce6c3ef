//! Reading of GGUF models, whole or split, of either byte order.
//!
//! Opening a model reads its headers only. Tensor data is read on demand, with positioned reads into buffers of the
//! caller: unlike a memory map, a file that is cut short by someone else meanwhile then gives an error and not a signal
//! that ends the process. Data always arrives in little-endian order.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::header::{Endianness, Header, TensorInfo};
use super::index::NameIndex;
use super::metadata::Metadata;
use super::path::{check_link, shard_path, shard_prefix};
use super::swap;
use crate::error::{At, Error, Result};

/// Key of a shard's number, counted from 0.
pub const SPLIT_NO_KEY: &str = "split.no";
/// Key of the number of shards.
pub const SPLIT_COUNT_KEY: &str = "split.count";
/// Key of the number of tensors in all shards together.
pub const SPLIT_TENSORS_COUNT_KEY: &str = "split.tensors.count";

/// One file of a model.
#[derive(Debug)]
pub struct Shard {
    /// Where the file is.
    pub path: PathBuf,
    /// Its length when it was opened, in bytes.
    pub len: u64,
    /// Version of the container, 2 or 3.
    pub version: u32,
    /// Byte order of its numbers.
    pub endianness: Endianness,
    /// Alignment of its tensor data, in bytes.
    pub alignment: u64,
    /// Offset of its first tensor's data.
    pub data_start: u64,
    source: Source,
}

/// Shards whose files stay open. Systems allow a process as few as 256 open files.
const OPEN_SHARDS: u16 = 128;

/// Where the bytes of a shard come from.
#[derive(Debug)]
enum Source {
    File(File),
    /// Opened again for each read: one of too many shards to keep open.
    Path(PathBuf),
    Memory(Vec<u8>),
}

impl Source {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => read_exact_at(file, buf, offset),
            Self::Path(path) => read_exact_at(&File::open(path)?, buf, offset),
            Self::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
                let found = rest.and_then(|rest| rest.get(..buf.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
                buf.copy_from_slice(found);
                Ok(())
            }
        }
    }
}

/// An open model: metadata, tensor infos, and access to the data of every tensor.
#[derive(Debug)]
pub struct Reader {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: NameIndex,
    shards: Vec<Shard>,
}

impl Reader {
    /// Opens a model. Of a split model any shard will do; the others are expected next to it under llama.cpp's names.
    ///
    /// # Errors
    /// `Io`, `Malformed`, `Unsupported`; the message names the file and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (shard, metadata, tensors) = open_shard(path)?;
        let count = split_number(&metadata, SPLIT_COUNT_KEY, path)?.unwrap_or(0);
        let mut reader = Self::empty();
        if count <= 1 {
            reader.metadata = metadata;
            reader.add(shard, tensors)?;
            return Ok(reader);
        }

        let number = split_number(&metadata, SPLIT_NO_KEY, path)?.unwrap_or(0);
        let Some(prefix) = shard_prefix(path, number, count).filter(|_| number < count) else {
            let what = format!(
                "it says that it is shard {} of {count}, so its name must end in '{}'; give the shards the names \
                 they were published under",
                u32::from(number) + 1,
                shard_path(Path::new(""), number, count).display()
            );
            return Err(Error::malformed(path, what));
        };
        let total = metadata.get_uint(SPLIT_TENSORS_COUNT_KEY).map_err(|e| e.in_file(path))?;
        let mut opened = Some((shard, metadata, tensors));
        for i in 0..count {
            let (mut shard, metadata, tensors) = match opened.take_if(|_| i == number) {
                Some(opened) => opened,
                None => {
                    let next = shard_path(&prefix, i, count);
                    check_link(&next, next.parent().unwrap_or(Path::new("")), Some(path))?;
                    let (shard, metadata, tensors) = open_shard(&next)?;
                    check_shard(&metadata, &next, i, count, total)?;
                    (shard, metadata, tensors)
                }
            };
            if count > OPEN_SHARDS {
                shard.source = Source::Path(shard.path.clone());
            }
            if i == 0 {
                reader.metadata = metadata;
            }
            reader.add(shard, tensors)?;
        }
        match total {
            Some(total) if total != reader.tensors.len() as u64 => {
                let found = reader.tensors.len();
                Err(Error::malformed(path, format!("{SPLIT_TENSORS_COUNT_KEY} is {total}, the shards have {found}")))
            }
            _ => Ok(reader),
        }
    }

    /// Opens a model that is in memory, whole. `name` stands for the file's path in messages.
    ///
    /// # Errors
    /// `Malformed`, `Unsupported`; a shard of a split model is `Unsupported`.
    pub fn from_bytes(bytes: Vec<u8>, name: impl AsRef<Path>) -> Result<Self> {
        let path = name.as_ref();
        let header = Header::parse(bytes.as_slice(), bytes.len() as u64, path)?;
        if split_number(&header.metadata, SPLIT_COUNT_KEY, path)?.is_some_and(|count| count > 1) {
            let what = "it is one shard of a split model; open the model from its files".to_owned();
            return Err(Error::Unsupported { at: At::file(path), what });
        }
        let mut reader = Self::empty();
        let (shard, metadata, tensors) = shard(path, bytes.len() as u64, Source::Memory(bytes), header);
        reader.metadata = metadata;
        reader.add(shard, tensors)?;
        Ok(reader)
    }

    fn empty() -> Self {
        Self { metadata: Metadata::default(), tensors: Vec::new(), index: NameIndex::default(), shards: Vec::new() }
    }

    fn add(&mut self, shard: Shard, tensors: Vec<TensorInfo>) -> Result<()> {
        self.tensors.reserve(tensors.len());
        for mut tensor in tensors {
            tensor.shard = self.shards.len();
            let name_at = |at: usize| self.tensors.get(at).unwrap_or(&tensor).name.as_str();
            if let Some(before) = self.index.insert(&tensor.name, self.tensors.len(), name_at) {
                let other = self.shards[self.tensors[before].shard].path.display();
                return Err(
                    Error::malformed(&shard.path, format!("this tensor is in {other} too")).in_tensor(&tensor.name)
                );
            }
            self.tensors.push(tensor);
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Metadata of the model: that of the first shard.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Files of the model, one unless it is split.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// All tensors, in the order of the shards and of each file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.find(name, |at| &self.tensors[at].name).map(|at| &self.tensors[at])
    }

    /// Reads bytes `offset..offset + buf.len()` of a tensor's data, in little-endian order.
    ///
    /// In a big-endian file both ends of the range must lie between blocks.
    ///
    /// # Errors
    /// `Shape` if the range leaves the tensor, `Unsupported` if the layout of its type is not known, `Io` if the file
    /// has been cut short.
    pub fn read_at(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let shard = &self.shards[tensor.shard];
        let at = || At { file: Some(shard.path.clone()), tensor: Some(tensor.name.clone()) };
        let Some((_, block_bytes)) = tensor.ty.block() else {
            let what = format!("{} cannot be read; the file needs another version of this program", tensor.ty);
            return Err(Error::Unsupported { at: at(), what });
        };
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > tensor.nbytes) {
            let what = format!("{} bytes at offset {offset} are not within its {}", buf.len(), tensor.nbytes);
            return Err(Error::Shape { at: at(), what });
        }
        let swapped = shard.endianness == Endianness::Big;
        if swapped && !swap::is_supported(tensor.ty) {
            let what = format!("big-endian {} has no defined layout; get a little-endian file", tensor.ty);
            return Err(Error::Unsupported { at: at(), what });
        }
        let whole = offset.is_multiple_of(block_bytes as u64) && buf.len().is_multiple_of(block_bytes);
        if swapped && !whole {
            let what = format!("{} bytes at offset {offset} are not whole blocks of {}", buf.len(), tensor.ty);
            return Err(Error::Shape { at: at(), what });
        }
        shard.source.read_exact_at(buf, tensor.offset + offset).map_err(|source| {
            let action = match source.kind() {
                io::ErrorKind::UnexpectedEof => "read its data: the file was cut short after it was opened".to_owned(),
                _ => format!("read {} bytes at offset {}", buf.len(), tensor.offset + offset),
            };
            Error::Io { at: at(), action, source }
        })?;
        if swapped {
            swap::to_little_endian(tensor.ty, buf);
        }
        Ok(())
    }
}

fn open_shard(path: &Path) -> Result<(Shard, Metadata, Vec<TensorInfo>)> {
    let find = |e| Error::io(path, "open the file", e);
    // Checked before opening, since opening a pipe would wait for its other end.
    if !path.metadata().map_err(find)?.is_file() {
        return Err(Error::malformed(path, "it is not a regular file"));
    }
    let file = File::open(path).map_err(find)?;
    let len = file.metadata().map_err(find)?.len();
    let header = Header::parse(BufReader::with_capacity(1 << 16, &file), len, path)?;
    Ok(shard(path, len, Source::File(file), header))
}

fn shard(path: &Path, len: u64, source: Source, header: Header) -> (Shard, Metadata, Vec<TensorInfo>) {
    let Header { version, endianness, alignment, data_start, metadata, tensors } = header;
    (Shard { path: path.to_owned(), len, version, endianness, alignment, data_start, source }, metadata, tensors)
}

/// A `split.*` number that must fit in 16 bits.
fn split_number(metadata: &Metadata, key: &str, path: &Path) -> Result<Option<u16>> {
    let Some(number) = metadata.get_uint(key).map_err(|e| e.in_file(path))? else { return Ok(None) };
    u16::try_from(number).map(Some).map_err(|_| Error::malformed(path, format!("{key} is {number}, more than 65535")))
}

/// Checks that a shard agrees with the one that was opened first.
fn check_shard(metadata: &Metadata, path: &Path, number: u16, count: u16, total: Option<u64>) -> Result<()> {
    let disagrees = |key: &str, got: Option<u64>, wanted: u64| {
        let got = got.map_or("missing".to_owned(), |n| n.to_string());
        let what = format!("{key} is {got} where {wanted} is expected; it is not a shard of the same model");
        Err(Error::malformed(path, what))
    };
    let no = split_number(metadata, SPLIT_NO_KEY, path)?;
    if no != Some(number) {
        return disagrees(SPLIT_NO_KEY, no.map(u64::from), number.into());
    }
    let found = split_number(metadata, SPLIT_COUNT_KEY, path)?;
    if found != Some(count) {
        return disagrees(SPLIT_COUNT_KEY, found.map(u64::from), count.into());
    }
    let tensors = metadata.get_uint(SPLIT_TENSORS_COUNT_KEY).map_err(|e| e.in_file(path))?;
    match (tensors, total) {
        (found, Some(total)) if found != Some(total) => disagrees(SPLIT_TENSORS_COUNT_KEY, found, total),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
