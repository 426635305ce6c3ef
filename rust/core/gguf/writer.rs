//! Writing of a GGUF file whose metadata and tensors are known, and whose data arrives in any order.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::atomic::{AtomicFile, SealedFile};
use super::layout::{Layout, TensorSpec};
use super::metadata::Metadata;
use crate::error::{At, Error, Result};

/// A file being written. The header is on disk from the start; data goes to its place as it arrives, from any number
/// of threads. The file gets its name in [`Writer::finish`], which refuses to do so while bytes are missing.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    layout: Layout,
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// Bytes of each tensor that have arrived.
    written: Vec<AtomicU64>,
}

impl Writer {
    /// Creates the file under a temporary name and writes its header.
    ///
    /// # Errors
    /// Those of [`Layout::new`] and [`AtomicFile::create`], with the file named.
    pub fn create(
        target: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: &[TensorSpec],
        overwrite: bool,
    ) -> Result<Self> {
        let target = target.as_ref();
        let layout = Layout::new(metadata, tensors).map_err(|e| e.in_file(target))?;
        let file = AtomicFile::create(target, overwrite)?;
        file.set_len(layout.file_len)?;
        file.write_all_at(&layout.header, 0)?;
        let names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
        let index = names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        let written = names.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self { file, layout, names, index, written })
    }

    /// Where everything goes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Position of the tensor called `name` among the tensors that the file was created with.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Writes part of a tensor's data. Every byte is to be written once.
    ///
    /// # Errors
    /// `Shape` if the part leaves the tensor, `Io`.
    ///
    /// # Panics
    /// If `tensor` is not the position of a tensor.
    pub fn write_at(&self, tensor: usize, offset: u64, data: &[u8]) -> Result<()> {
        let size = self.layout.nbytes[tensor];
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > size) {
            let what = format!("{} bytes at offset {offset} do not fit into its {size}", data.len());
            return Err(Error::Shape { at: self.at(tensor), what });
        }
        self.file
            .write_all_at(data, self.layout.offsets[tensor] + offset)
            .map_err(|e| e.in_tensor(&self.names[tensor]))?;
        self.written[tensor].fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// As [`Writer::seal`].
    pub fn finish(self) -> Result<()> {
        SealedFile::commit_all(vec![self.seal()?])
    }

    /// Closes the file, which then waits for the others that belong to it; see [`SealedFile::commit_all`].
    ///
    /// # Errors
    /// `Shape` if data of a tensor is missing or was written twice, `Io`.
    pub fn seal(self) -> Result<SealedFile> {
        for (tensor, written) in self.written.iter().enumerate() {
            let (written, size) = (written.load(Ordering::Relaxed), self.layout.nbytes[tensor]);
            if written != size {
                let what = format!("{written} of its {size} bytes were written");
                return Err(Error::Shape { at: self.at(tensor), what });
            }
        }
        self.file.seal()
    }

    fn at(&self, tensor: usize) -> At {
        At { file: Some(self.file.target().to_owned()), tensor: Some(self.names[tensor].clone()) }
    }
}
