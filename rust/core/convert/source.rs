//! Source files: opened once, read at positions. Never mapped: a file that is cut short meanwhile gives an error, where
//! a mapping would end the process.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gguf::path::is_same_file;

/// A source file, open for reading.
#[derive(Debug)]
pub(super) struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl SourceFile {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, "open", error))?;
        let metadata = file.metadata().map_err(|error| Error::io(path, "read the size", error))?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "is not a file"));
        }
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads exactly `buf.len()` bytes at `offset`.
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, buf, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let what = format!("was truncated while it was read: no {} bytes at offset {offset}", buf.len());
                Error::malformed(&self.path, what)
            }
            _ => Error::io(&self.path, format!("read {} bytes at offset {offset}", buf.len()), error),
        })
    }

    /// Whether `path` leads to this very file, under whatever name.
    fn is_at(&self, path: &Path) -> bool {
        match (self.file.metadata(), path.metadata()) {
            (Ok(ours), Ok(theirs)) => is_same_file(&ours, &self.path, &theirs, path),
            _ => false,
        }
    }
}

/// The source files of a plan, each opened once.
#[derive(Debug, Default)]
pub(super) struct SourceFiles {
    files: HashMap<PathBuf, Arc<SourceFile>>,
}

impl SourceFiles {
    /// The open file at `path`.
    pub(super) fn get(&mut self, path: &Path) -> Result<Arc<SourceFile>> {
        if let Some(file) = self.files.get(path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(SourceFile::open(path)?);
        self.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    /// Refuses an output that is one of the sources: same path, symbolic link or hard link.
    pub(super) fn refuse_output(&self, output: &Path) -> Result<()> {
        match self.files.values().find(|file| file.is_at(output)) {
            None => Ok(()),
            Some(file) => {
                let what = format!("is also read from (as {}); write to another file", file.path.display());
                Err(Error::malformed(output, what))
            }
        }
    }
}

#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
