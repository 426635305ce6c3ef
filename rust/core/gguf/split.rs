//! Splitting a model into shards, and merging shards, as `llama-gguf-split` does both: the same shards, names and bytes.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::atomic::SealedFile;
use super::header::TensorInfo;
use super::layout::{DEFAULT_ALIGNMENT, TensorSpec, trim_shape};
use super::metadata::{Metadata, Value};
use super::path::{is_same_file, shard_path};
use super::reader::{Reader, SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_COUNT_KEY, Shard};
use super::writer::Writer;
use crate::error::{At, Error, Result};

/// Bytes copied at a time.
const CHUNK: usize = 8 << 20;

/// Where one shard ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitBy {
    /// This many tensors in a shard (`--split-max-tensors`).
    Tensors(u64),
    /// At most this many bytes of tensor data, header not counted (`--split-max-size`). A tensor that is larger gets a
    /// shard of its own, unless it is the first.
    Bytes(u64),
}

/// How to split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitOptions {
    /// Where to cut.
    pub by: SplitBy,
    /// Leaves the first shard without tensors (`--no-tensor-first-split`), so that metadata can change cheaply.
    pub no_tensor_first: bool,
}

/// One shard of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardPlan {
    /// Its metadata: everything in the first shard, only the `split.*` keys in the others.
    pub metadata: Metadata,
    /// Its tensors, as positions in the model's list.
    pub tensors: Range<usize>,
}

/// Callbacks of a long copy.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Set by another thread to stop the work.
    pub interrupt: Option<&'a AtomicBool>,
    /// Called with the bytes of tensor data written since the last call.
    pub progress: Option<&'a dyn Fn(u64)>,
}

/// Reads a size as `--split-max-size` takes it: a whole number and `M` (10^6 bytes) or `G` (10^9).
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a size; write a whole number and M or G, for example 512M or 4G");
    let unit = match text.chars().last() {
        Some('M') => 1_000_000,
        Some('G') => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = number.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).filter(|&bytes| bytes > 0).ok_or_else(wrong)
}

/// Decides which tensors go into which shard, and the metadata of each shard.
///
/// # Errors
/// `Unsupported` if the limit is zero or too small for the first tensor, or there would be more than 65535 shards.
pub fn plan(metadata: &Metadata, tensors: &[TensorSpec], options: SplitOptions) -> Result<Vec<ShardPlan>> {
    let unsupported = |what: String| Error::Unsupported { at: At::default(), what };
    if matches!(options.by, SplitBy::Tensors(0) | SplitBy::Bytes(0)) {
        return Err(unsupported("a shard must be allowed at least one tensor or byte".to_owned()));
    }
    let total = i32::try_from(tensors.len()).map_err(|_| unsupported("too many tensors to split".to_owned()))?;

    let mut ranges = Vec::new();
    if options.no_tensor_first {
        ranges.push(0..0);
    }
    let mut start = 0;
    let mut size = 0u64;
    for (i, tensor) in tensors.iter().enumerate() {
        let nbytes = tensor.nbytes()?;
        // Padded to the default alignment, whatever the file's own: that is how the limit is counted upstream.
        let padded = nbytes.checked_next_multiple_of(DEFAULT_ALIGNMENT).unwrap_or(u64::MAX);
        size = size.saturating_add(padded);
        let full = match options.by {
            SplitBy::Bytes(limit) => size > limit,
            SplitBy::Tensors(limit) => i > 0 && (i as u64).is_multiple_of(limit),
        };
        if full {
            if start == i {
                let what = format!("its {nbytes} bytes exceed the limit of a shard; allow larger shards");
                return Err(unsupported(what).in_tensor(&tensor.name));
            }
            ranges.push(start..i);
            start = i;
            size = padded;
        }
    }
    ranges.push(start..tensors.len());

    let count = u16::try_from(ranges.len())
        .map_err(|_| unsupported(format!("{} shards are too many; allow larger shards", ranges.len())))?;
    let shards = ranges.into_iter().enumerate().map(|(number, tensors)| {
        let mut own = Metadata::default();
        if number == 0 {
            own.copy_from(metadata)?;
        }
        own.set_last(SPLIT_NO_KEY, Value::U16(number as u16));
        own.set_last(SPLIT_TENSORS_COUNT_KEY, Value::I32(total));
        // Upstream knows the count last, and a key that is set again moves to the end.
        own.set_last(SPLIT_COUNT_KEY, Value::U16(count));
        Ok(ShardPlan { metadata: own, tensors })
    });
    shards.collect()
}

/// Splits a model into `prefix-00001-of-0000N.gguf` and so on, and returns the paths. All files appear, or none.
///
/// # Errors
/// Those of [`plan`], of reading and of writing; `Interrupted`.
pub fn split(
    reader: &Reader,
    prefix: &Path,
    options: SplitOptions,
    overwrite: bool,
    watch: Watch<'_>,
) -> Result<Vec<PathBuf>> {
    let specs = trimmed_specs(reader)?;
    let source = &reader.shards()[0].path;
    let shards = plan(reader.metadata(), &specs, options).map_err(|e| e.in_file(source))?;
    let count = shards.len() as u16;
    (0..count).try_for_each(|number| refuse_source(reader, &shard_path(prefix, number, count)))?;
    let mut paths = Vec::with_capacity(shards.len());
    let mut sealed = Vec::with_capacity(shards.len());
    for (number, shard) in shards.into_iter().enumerate() {
        let path = shard_path(prefix, number as u16, count);
        let writer = Writer::create(&path, &shard.metadata, &specs[shard.tensors.clone()], overwrite)?;
        copy(reader, &reader.tensors()[shard.tensors], &writer, watch)?;
        paths.push(path);
        sealed.push(writer.seal()?);
    }
    SealedFile::commit_all(sealed)?;
    Ok(paths)
}

/// Merges the shards of a model into one file.
///
/// # Errors
/// `Unsupported` if the model is not split, those of reading and of writing, `Interrupted`.
pub fn merge(reader: &Reader, target: &Path, overwrite: bool, watch: Watch<'_>) -> Result<()> {
    let source = &reader.shards()[0].path;
    if reader.metadata().get_uint(SPLIT_COUNT_KEY).map_err(|e| e.in_file(source))?.unwrap_or(0) == 0 {
        let what = "it is not a shard of a split model; there is nothing to merge".to_owned();
        return Err(Error::Unsupported { at: At::file(source), what });
    }
    let mut shards = reader.metadata().clone();
    refuse_source(reader, target)?;
    // A count of 0 says that the file is whole. The other split keys stay, as they do upstream.
    shards.set_last(SPLIT_COUNT_KEY, Value::U16(0));
    let mut metadata = Metadata::default();
    metadata.copy_from(&shards).map_err(|e| e.in_file(source))?;
    let writer = Writer::create(target, &metadata, &trimmed_specs(reader)?, overwrite)?;
    copy(reader, reader.tensors(), &writer, watch)?;
    writer.finish()
}

/// An output must not take the place of what it is made from, under whatever name.
fn refuse_source(reader: &Reader, output: &Path) -> Result<()> {
    let Ok(found) = output.metadata() else { return Ok(()) };
    let same = |shard: &&Shard| shard.path.metadata().is_ok_and(|m| is_same_file(&m, &shard.path, &found, output));
    match reader.shards().iter().find(same) {
        None => Ok(()),
        Some(shard) => {
            let what = format!("is also read from (as {}); write to another file", shard.path.display());
            Err(Error::Unsupported { at: At::file(output), what })
        }
    }
}

/// All tensors with their shapes as ggml writes them.
fn trimmed_specs(reader: &Reader) -> Result<Vec<TensorSpec>> {
    let spec = |tensor: &TensorInfo| {
        if tensor.ty.block().is_none() {
            let file = Some(reader.shards()[tensor.shard].path.clone());
            let what = format!("{} cannot be copied, because its layout is not known", tensor.ty);
            return Err(Error::Unsupported { at: At { file, tensor: Some(tensor.name.clone()) }, what });
        }
        Ok(TensorSpec { name: tensor.name.clone(), shape: trim_shape(&tensor.shape).to_vec(), ty: tensor.ty })
    };
    reader.tensors().iter().map(spec).collect()
}

/// Copies the data of `tensors`, which are those of `writer` in the same order.
fn copy(reader: &Reader, tensors: &[TensorInfo], writer: &Writer, watch: Watch<'_>) -> Result<()> {
    let mut buf = Vec::new();
    for (position, tensor) in tensors.iter().enumerate() {
        let block = tensor.ty.block().map_or(1, |(_, bytes)| bytes);
        let chunk = (CHUNK - CHUNK % block) as u64;
        let mut offset = 0;
        while offset < tensor.nbytes {
            if watch.interrupt.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(Error::Interrupted);
            }
            let len = chunk.min(tensor.nbytes - offset);
            buf.resize(len as usize, 0);
            reader.read_at(tensor, offset, &mut buf)?;
            writer.write_at(position, offset, &buf)?;
            offset += len;
            if let Some(progress) = watch.progress {
                progress(len);
            }
        }
    }
    Ok(())
}
