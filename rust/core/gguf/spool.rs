//! A writer for callers who do not know the tensors beforehand: data are spooled beside the target and joined to the
//! header when the last one is there.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::layout::TensorSpec;
use super::metadata::Metadata;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::gguf::atomic::AtomicFile;
use crate::gguf::hidden::folder;

/// Bytes copied at a time from the spool to the file.
const COPY_CHUNK: usize = 1 << 20;

/// Collects tensors in any number, then writes the file at once. Memory does not grow with the data.
#[derive(Debug)]
pub struct SpoolWriter {
    target: PathBuf,
    overwrite: bool,
    // Nameless, so that nothing is left behind even if the process is killed.
    spool: BufWriter<File>,
    tensors: Vec<TensorSpec>,
    names: HashSet<String>,
}

impl SpoolWriter {
    /// Starts a file at `target`.
    ///
    /// # Errors
    /// `Io` if the folder cannot be written, or the target exists and `overwrite` is false.
    pub fn create(target: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let target = target.as_ref().to_owned();
        // Made and dropped at once: it finds out now, and not after the work, whether the target can be written.
        drop(AtomicFile::create(&target, overwrite)?);
        let spool = tempfile::tempfile_in(folder(&target)).map_err(|e| Error::io(&target, "create a spool file", e))?;
        Ok(Self { target, overwrite, spool: BufWriter::new(spool), tensors: Vec::new(), names: HashSet::new() })
    }

    /// Appends a tensor with its data.
    ///
    /// # Errors
    /// `Shape` if `data` is not as long as the tensor needs or the name is taken, what [`TensorSpec::nbytes`] says, `Io`.
    pub fn add(&mut self, spec: TensorSpec, data: &[u8]) -> Result<()> {
        let expected = spec.nbytes()?;
        let fault = |what: String| Error::Shape { at: crate::At::tensor(&spec.name), what }.in_file(&self.target);
        if data.len() as u64 != expected {
            return Err(fault(format!(
                "the shape takes {expected} bytes of {}, but there are {}",
                spec.ty,
                data.len()
            )));
        }
        if !self.names.insert(spec.name.clone()) {
            return Err(fault("a tensor of this name has been added already".to_owned()));
        }
        self.spool.write_all(data).map_err(|e| Error::io(&self.target, format!("spool {expected} bytes"), e))?;
        self.tensors.push(spec);
        Ok(())
    }

    /// Writes the file with these metadata and all tensors added so far.
    ///
    /// # Errors
    /// What [`Writer::create`] says, and `Io`.
    pub fn finish(self, metadata: &Metadata) -> Result<()> {
        let Self { target, overwrite, spool, tensors, .. } = self;
        let io = |action: &str| {
            let (target, action) = (target.clone(), action.to_owned());
            move |e| Error::io(target, action, e)
        };
        let writer = Writer::create(&target, metadata, &tensors, overwrite)?;
        let mut data = spool.into_inner().map_err(|e| io("spool the data")(e.into_error()))?;
        data.seek(SeekFrom::Start(0)).map_err(io("rewind the spool"))?;
        let mut chunk = vec![0; COPY_CHUNK];
        for position in 0..tensors.len() {
            let (mut done, nbytes) = (0, writer.layout().nbytes[position]);
            while done < nbytes {
                let part = &mut chunk[..(nbytes - done).min(COPY_CHUNK as u64) as usize];
                data.read_exact(part).map_err(io("read the spool"))?;
                writer.write_at(position, done, part)?;
                done += part.len() as u64;
            }
        }
        writer.finish()
    }
}
