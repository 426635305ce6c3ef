//! Safetensors checkpoints: one file, or shards listed in an index. Only headers are read here.

pub mod json;
mod safetensors;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::json::Entries;
use crate::error::{Error, Result};
use crate::gguf::path::{check_link, is_plain_name, safe_join};

/// Largest header that is read: the limit of the safetensors library.
const MAX_HEADER: u64 = 100_000_000;

/// Most dimensions of a tensor. GGUF stores four; checkpoints of convolutions have five; sixty-four would be an attack.
const MAX_DIMS: usize = 16;

/// The file names that model folders use, in order of preference.
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// A tensor as it lies in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointTensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Safetensors type name: `F32`, `BF16`, `F8_E4M3`, `I64`, ...
    pub dtype: String,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// The shard that holds it.
    pub file: PathBuf,
    /// Byte offset of its data in the file.
    pub offset: u64,
    /// Bytes of its data.
    pub nbytes: u64,
}

/// All tensors of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Shard by shard (by file name), in each in the order of the data.
    pub tensors: Vec<CheckpointTensor>,
    /// The files, in the same order.
    pub files: Vec<PathBuf>,
    /// Free-form metadata of the files' headers; the first file to set a key wins.
    pub metadata: HashMap<String, String>,
}

/// The index of a sharded checkpoint.
#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

impl Checkpoint {
    /// Opens a model folder, a `*.safetensors` file, or a `*.safetensors.index.json`.
    ///
    /// A folder is read through its index if it has one, else from `model.safetensors`, else from the files whose names
    /// start with `model`, else from all `*.safetensors` files in it.
    ///
    /// # Errors
    /// `Io`; `Malformed` for damaged headers, a missing or superfluous tensor or shard, duplicate tensors, and shard
    /// names that lead out of the folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return if path.extension().is_some_and(|extension| extension == "json") {
                Self::from_index(path)
            } else {
                Self::from_files(vec![path.to_owned()])
            };
        }
        let index = path.join(INDEX);
        if index.exists() {
            return Self::from_index(&index);
        }
        let single = path.join(SINGLE);
        if single.exists() {
            check_link(&single, path, None)?;
            return Self::from_files(vec![single]);
        }
        let files = safetensors_in(path)?;
        if files.is_empty() {
            let what = format!("has no safetensors file ({SINGLE}, {INDEX} with its shards, or any other)");
            return Err(Error::malformed(path, what));
        }
        Self::from_files(files)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&CheckpointTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    fn from_files(files: Vec<PathBuf>) -> Result<Self> {
        let mut checkpoint = Self::default();
        let mut owner: HashMap<String, PathBuf> = HashMap::new();
        for file in files {
            let header = safetensors::read_header(&file)?;
            for tensor in &header.tensors {
                if let Some(other) = owner.insert(tensor.name.clone(), file.clone()) {
                    let what = format!("is also in {}; a checkpoint must hold each tensor once", other.display());
                    return Err(Error::malformed(&file, what).in_tensor(&tensor.name));
                }
            }
            checkpoint.tensors.extend(header.tensors);
            for (key, value) in header.metadata {
                checkpoint.metadata.entry(key).or_insert(value);
            }
            checkpoint.files.push(file);
        }
        Ok(checkpoint)
    }

    fn from_index(index: &Path) -> Result<Self> {
        let folder = index.parent().unwrap_or(Path::new(""));
        let bytes = json::read(index, MAX_HEADER, 8)?;
        let Index { weight_map: Entries(weight_map) } = serde_json::from_slice(&bytes)
            .map_err(|error| Error::malformed(index, format!("is not an index of shards: {error}")))?;
        let mut shards: Vec<&String> =
            weight_map.iter().map(|(_, shard)| shard).collect::<HashSet<_>>().into_iter().collect();
        shards.sort();
        let mut files = Vec::with_capacity(shards.len());
        for shard in shards {
            files.push(shard_path(index, folder, shard)?);
        }
        let checkpoint = Self::from_files(files)?;

        let held: HashMap<&str, &Path> =
            checkpoint.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.file.as_path())).collect();
        for (name, shard) in &weight_map {
            let expected = folder.join(shard);
            match held.get(name.as_str()) {
                Some(file) if *file == expected => {}
                Some(file) => {
                    let what = format!("the index places it in {shard}, but it is in {}", file.display());
                    return Err(Error::malformed(index, what).in_tensor(name));
                }
                None => {
                    let what = format!("the index places it in {shard}, which does not hold it");
                    return Err(Error::malformed(index, what).in_tensor(name));
                }
            }
        }
        if checkpoint.tensors.len() != weight_map.len() {
            let listed: HashSet<&str> = weight_map.iter().map(|(name, _)| name.as_str()).collect();
            if let Some(extra) = checkpoint.tensors.iter().find(|tensor| !listed.contains(tensor.name.as_str())) {
                let what = format!("is missing from {}; download the checkpoint again", index.display());
                return Err(Error::malformed(&extra.file, what).in_tensor(&extra.name));
            }
        }
        Ok(checkpoint)
    }
}

/// The path of a shard named in an index.
fn shard_path(index: &Path, folder: &Path, shard: &str) -> Result<PathBuf> {
    if is_plain_name(shard) && !folder.join(shard).is_file() {
        let what = format!("names the shard {shard}, which is missing; download the checkpoint again");
        return Err(Error::malformed(index, what));
    }
    safe_join(folder, shard).map_err(|error| error.in_file(index))
}

fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = |error| Error::io(folder, "list the folder", error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let path = entry.map_err(list)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    // Adapters and other weights may lie beside the model's own.
    let is_model = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model"));
    if files.iter().any(is_model) {
        files.retain(is_model);
    }
    files.iter().try_for_each(|file| check_link(file, folder, None))?;
    Ok(files)
}
