//! Importance matrices from files, both kinds that `llama-imatrix` has written: GGUF, and the older `.dat`.
//!
//! Either kind holds sums of squared activations for each column of each weight matrix. What comes out are the means
//! that `llama-quantize` hands to its encoders, computed with the same operations, and the facts that it records about
//! them in the model's metadata.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::block::Format;
use crate::error::{At, Error, Result};
use crate::gguf::{GgmlType, Reader, TensorInfo};

const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
const SUMS_SUFFIX: &str = ".in_sum2";
const COUNTS_SUFFIX: &str = ".counts";

/// The two kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sums and counts as tensors of a GGUF file.
    Gguf,
    /// The older binary format, without magic or version.
    Legacy,
}

/// An importance matrix for a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Imatrix {
    /// Which kind of file it came from.
    pub kind: Kind,
    /// Name of a weight tensor, and the importance of its columns: `row_len` values, times the number of experts for
    /// a tensor of experts. Sorted by name; finite and not negative.
    pub entries: Vec<(String, Vec<f32>)>,
    /// For each of `entries`, the activations that its statistics are of: one number, or one for each expert. None where
    /// the file does not say, as the older kind of file never does. An expert with a count of 0 has ones for importances.
    pub counts: Vec<Vec<f32>>,
    /// The texts that the statistics come from, as file names. Bytes, since nothing promises UTF-8.
    pub datasets: Vec<Vec<u8>>,
    /// Chunks of text that were evaluated; 0 if the file does not say.
    pub chunk_count: i64,
    /// Tokens in a chunk; 0 if the file does not say.
    pub chunk_size: u32,
}

/// Sums of one tensor and the counts to divide them by, one for each expert.
struct Sums<'c> {
    sums: Vec<f32>,
    counts: &'c [f32],
}

impl Imatrix {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// `Io`, `Malformed`, `Unsupported`, and `Imatrix` for values that no statistics could have given.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let find = |e| Error::io(path, "open the file", e);
        if !path.metadata().map_err(find)?.is_file() {
            return Err(Error::malformed(path, "it is not a regular file"));
        }
        let mut file = File::open(path).map_err(find)?;
        let len = file.metadata().map_err(find)?.len();
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic).map_err(|e| Error::io(path, "read the file", e))?;
        if magic == b"GGUF" {
            return Self::from_gguf(&Reader::open(path)?);
        }
        Self::parse_legacy(magic.chain(BufReader::new(file)), len, path)
    }

    /// The importance of the columns of tensor `name`.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        let at = self.entries.binary_search_by(|(entry, _)| entry.as_str().cmp(name)).ok()?;
        Some(&self.entries[at].1)
    }

    /// Takes an importance matrix out of an open GGUF file.
    ///
    /// # Errors
    /// `Malformed` if the file holds none, `Imatrix` for unusable values, `Io`.
    pub fn from_gguf(reader: &Reader) -> Result<Self> {
        let path = &reader.shards()[0].path;
        let metadata = reader.metadata();
        let number = |key| -> Result<u32> {
            let missing = || Error::malformed(path, format!("it has no {key}, so it is not an importance matrix"));
            metadata.get_u32(key).map_err(|e| e.in_file(path))?.ok_or_else(missing)
        };
        let chunk_count = number(CHUNK_COUNT_KEY)?;
        let chunk_size = number(CHUNK_SIZE_KEY)?;
        if !metadata.contains(DATASETS_KEY) {
            return Err(Error::malformed(path, format!("it has no {DATASETS_KEY}, so it is not an importance matrix")));
        }
        let datasets = metadata.get_strings(DATASETS_KEY).map_err(|e| e.in_file(path))?.unwrap_or_default().to_vec();

        // Sums and counts of a tensor are two tensors of the file; anything else in it is ignored.
        let mut pairs: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
        for tensor in reader.tensors() {
            if let Some(name) = tensor.name.strip_suffix(SUMS_SUFFIX) {
                pairs.entry(name).or_default()[0] = Some(tensor);
            } else if let Some(name) = tensor.name.strip_suffix(COUNTS_SUFFIX) {
                pairs.entry(name).or_default()[1] = Some(tensor);
            }
        }
        if reader.tensors().is_empty() {
            return Err(Error::malformed(path, "the importance matrix is empty"));
        }
        let (mut entries, mut all_counts) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
        for (name, pair) in pairs {
            let [Some(sums), Some(counts)] = pair else {
                let what = format!("it has only one of '{name}{SUMS_SUFFIX}' and '{name}{COUNTS_SUFFIX}'");
                return Err(Error::malformed(path, what));
            };
            let counts = read_f32(reader, counts)?;
            let sums = Sums { sums: read_f32(reader, sums)?, counts: &counts };
            let values = sums.means().and_then(check).map_err(|what| unusable(path, name, what))?;
            entries.push((name.to_owned(), values));
            all_counts.push(counts);
        }
        // The count is a 32-bit signed number upstream.
        Ok(Self {
            kind: Kind::Gguf,
            entries,
            counts: all_counts,
            datasets,
            chunk_count: i64::from(chunk_count as i32),
            chunk_size,
        })
    }

    /// Parses a file of the older kind, of `len` bytes, that `input` reads from its start. `path` is for messages.
    ///
    /// # Errors
    /// `Malformed` if the file breaks the format, `Imatrix` for unusable values, `Io`.
    pub fn parse_legacy(input: impl Read, len: u64, path: &Path) -> Result<Self> {
        let mut parser = Legacy { input, path, left: len };
        let count = parser.number("the number of entries")?;
        // An entry takes at least three numbers and one value.
        if count < 1 || count as u64 > parser.left / 16 {
            let what = format!("it is neither GGUF nor a legacy importance matrix: {count} entries in {len} bytes");
            return Err(Error::malformed(path, what));
        }
        // A name that occurs again replaces the entry before it, as upstream.
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let name_len = parser.number("the length of a name")?;
            let name = parser.bytes("a name", name_len, 1)?;
            let name = c_string(&name);
            let name = std::str::from_utf8(name).map_err(|_| {
                Error::malformed(path, format!("an entry's name '{}' is not UTF-8", name.escape_ascii()))
            })?;
            let calls = parser.number("the number of calls")?;
            let values = parser.number("the number of values")?;
            if values < 1 {
                return Err(Error::malformed(path, format!("{values} values in an entry")).in_tensor(name));
            }
            let data = parser.bytes("values", values, 4).map_err(|e| e.in_tensor(name))?;
            let mut values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if calls > 0 {
                // The file holds means times calls.
                values.iter_mut().for_each(|v| *v /= calls as f32);
            }
            entries.insert(name.to_owned(), check(values).map_err(|what| unusable(path, name, what))?);
        }
        let mut chunk_count = 0;
        let mut datasets = Vec::new();
        // What follows was added to the format later, and may be missing.
        if parser.left > 0 {
            chunk_count = parser.number("the number of chunks")?;
            if parser.left > 0 {
                let len = parser.number("the length of the dataset's name")?;
                if len > 0 {
                    datasets.push(c_string(&parser.bytes("the dataset's name", len, 1)?).to_vec());
                }
            }
        }
        let entries: Vec<_> = entries.into_iter().collect();
        let counts = vec![Vec::new(); entries.len()];
        Ok(Self { kind: Kind::Legacy, entries, counts, datasets, chunk_count: chunk_count.into(), chunk_size: 0 })
    }
}

impl Sums<'_> {
    /// Sums divided by the count of their expert. An expert that was never chosen gets ones.
    fn means(self) -> Result<Vec<f32>, String> {
        let Self { mut sums, counts } = self;
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(format!("{} sums do not divide among {} counts", sums.len(), counts.len()));
        }
        if sums.is_empty() {
            return Ok(sums);
        }
        let columns = sums.len() / counts.len();
        for (expert, &count) in sums.chunks_exact_mut(columns).zip(counts) {
            if !count.is_finite() {
                return Err(format!("a count is {count}"));
            }
            // Counts are whole numbers, kept as floats.
            let count = count.round();
            if count > 0.0 {
                expert.iter_mut().for_each(|sum| *sum /= count);
            } else {
                expert.fill(1.0);
            }
        }
        Ok(sums)
    }
}

/// Passes on values that are finite and not negative.
fn check(values: Vec<f32>) -> Result<Vec<f32>, String> {
    match values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        None => Ok(values),
        Some(at) => Err(format!("value {} of column {at} is not the mean of squares", values[at])),
    }
}

fn unusable(path: &Path, tensor: &str, what: String) -> Error {
    Error::Imatrix { at: At { file: Some(path.to_owned()), tensor: Some(tensor.to_owned()) }, what }
}

fn read_f32(reader: &Reader, tensor: &TensorInfo) -> Result<Vec<f32>> {
    if tensor.ty != GgmlType::from(Format::F32) {
        let path = &reader.shards()[tensor.shard].path;
        return Err(unusable(path, &tensor.name, format!("it is {} instead of F32", tensor.ty)));
    }
    // The reader has checked that the data is within the file.
    let mut bytes = vec![0; tensor.nbytes as usize];
    reader.read_at(tensor, 0, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// The part of `bytes` that a C string keeps.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

/// A reader of the older format that never asks for more than the file has.
struct Legacy<'a, R> {
    input: R,
    path: &'a Path,
    left: u64,
}

impl<R: Read> Legacy<'_, R> {
    fn number(&mut self, what: &str) -> Result<i32> {
        let bytes = self.bytes(what, 4, 1)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// `count` things of `size` bytes each.
    fn bytes(&mut self, what: &str, count: i32, size: u64) -> Result<Vec<u8>> {
        let len = u64::try_from(count).ok().map(|count| count * size).filter(|&len| len <= self.left);
        let Some(len) = len else {
            let what = format!("{what}: {count} in the file's last {} bytes; it is damaged or cut short", self.left);
            return Err(Error::malformed(self.path, what));
        };
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes).map_err(|e| Error::io(self.path, format!("read {what}"), e))?;
        self.left -= len;
        Ok(bytes)
    }
}
