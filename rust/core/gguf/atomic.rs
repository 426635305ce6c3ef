//! Files that appear under their final name whole or not at all.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile, TempPath};

use super::hidden;
use super::hidden::folder;
use crate::error::{Error, Result};

/// A file being written under a temporary name in the target's folder.
///
/// Several threads may write at once, each at its own offsets. [`AtomicFile::commit`] gives the file its name; dropping
/// it without a commit removes what was written. A symbolic link under the target's name is replaced, not followed.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    target: PathBuf,
    overwrite: bool,
}

impl AtomicFile {
    /// Creates the temporary file, and removes what killed processes have left for this target. Permissions are those that
    /// the process' umask leaves of `rw-rw-rw-`.
    ///
    /// # Errors
    /// `Io` if the folder cannot be written to, if the target is something other than a file, or if it exists and
    /// `overwrite` is false.
    pub fn create(target: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let target = target.as_ref();
        check_target(target, overwrite)?;
        hidden::sweep(target, None)?;
        let prefix = hidden::prefix(target);
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(".part").rand_bytes(hidden::RANDOM_LEN);
        let failed = |e| Error::io(target, "create a temporary file in the target's folder", e);
        loop {
            // The library's own error would name the temporary file and lose the system's number.
            let number = Cell::new(None);
            let open = |path: &Path| {
                let opened = File::options().read(true).write(true).create_new(true).open(path);
                opened.inspect_err(|e| number.set(e.raw_os_error()))
            };
            let file = builder
                .make_in(folder(target), open)
                .map_err(|e| failed(number.get().map_or(e, io::Error::from_raw_os_error)))?;
            if hidden::lock_new(file.as_file()).map_err(failed)? {
                return Ok(Self { file, target: target.to_owned(), overwrite });
            }
        }
    }

    /// Opens `partial`, or creates it, as the file that will be given the target's name. Unlike a temporary file it stays
    /// when it is dropped without a commit, so that a later run can go on with it.
    ///
    /// # Errors
    /// As [`AtomicFile::create`], and if another process is writing `partial`.
    pub fn resume(target: impl AsRef<Path>, partial: &Path, overwrite: bool) -> Result<Self> {
        let target = target.as_ref();
        check_target(target, overwrite)?;
        let file = hidden::open_locked(partial, target)?;
        let path = TempPath::try_from_path(partial).map_err(|e| Error::io(partial, "open the unfinished file", e))?;
        let mut file = NamedTempFile::from_parts(file, path);
        file.disable_cleanup(true);
        Ok(Self { file, target: target.to_owned(), overwrite })
    }

    /// The open file, for reading back what was written.
    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Sets the file's length; what is not written reads as zeros.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.as_file().set_len(len).map_err(|e| self.io_error(format!("set the length to {len} bytes"), e))
    }

    /// Writes all of `buf` at `offset`, whatever other threads are writing elsewhere.
    ///
    /// # Errors
    /// `Io`, for example when the disk is full.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        write_all_at(self.file.as_file(), buf, offset)
            .map_err(|e| self.io_error(format!("write {} bytes at offset {offset}", buf.len()), e))
    }

    /// Flushes the data to the disk and gives the file its name.
    ///
    /// # Errors
    /// `Io`; the temporary file is removed then.
    pub fn commit(self) -> Result<()> {
        Self::commit_all(vec![self])
    }

    /// Commits several files that belong together; see [`SealedFile::commit_all`].
    ///
    /// # Errors
    /// `Io`.
    pub fn commit_all(files: Vec<Self>) -> Result<()> {
        SealedFile::commit_all(files.into_iter().map(Self::seal).collect::<Result<_>>()?)
    }

    /// Flushes the data to the disk and closes the file, which waits for its name without holding a file descriptor.
    ///
    /// # Errors
    /// `Io`; the temporary file is removed then.
    pub fn seal(self) -> Result<SealedFile> {
        self.file.as_file().sync_all().map_err(|e| self.io_error("flush the file to the disk".to_owned(), e))?;
        Ok(SealedFile { temporary: self.file.into_temp_path(), target: self.target, overwrite: self.overwrite })
    }

    fn io_error(&self, action: String, source: io::Error) -> Error {
        Error::io(&self.target, action, source)
    }
}

/// A finished file that has not got its name yet. Dropping it removes it.
#[derive(Debug)]
pub struct SealedFile {
    temporary: TempPath,
    target: PathBuf,
    overwrite: bool,
}

impl SealedFile {
    /// Gives names to files that belong together. If one cannot get its name, those that have theirs are removed.
    ///
    /// # Errors
    /// `Io`.
    pub fn commit_all(files: Vec<Self>) -> Result<()> {
        let mut named: Vec<PathBuf> = Vec::with_capacity(files.len());
        for Self { temporary, target, overwrite } in files {
            let renamed = if overwrite { temporary.persist(&target) } else { temporary.persist_noclobber(&target) };
            if let Err(failure) = renamed {
                for path in &named {
                    // Best effort: the error that matters is the one reported below.
                    let _ = std::fs::remove_file(path);
                }
                return Err(Error::io(&target, "give the finished file its name", failure.error));
            }
            named.push(target);
        }
        let mut folders: Vec<&Path> = named.iter().map(|path| folder(path)).collect();
        folders.dedup();
        folders.into_iter().try_for_each(|dir| sync_folder(dir).map_err(|e| Error::io(dir, "flush the folder", e)))
    }
}

/// Refuses targets that cannot or must not be written.
pub(crate) fn check_target(target: &Path, overwrite: bool) -> Result<()> {
    let refuse = |kind: io::ErrorKind, why: &str| Error::io(target, "create the file", io::Error::new(kind, why));
    if target.file_name().is_none() {
        return Err(refuse(io::ErrorKind::InvalidInput, "the path does not end in a file name"));
    }
    match target.metadata() {
        Ok(found) if !found.is_file() => {
            Err(refuse(io::ErrorKind::InvalidInput, "the path is taken by something other than a file"))
        }
        Ok(_) if !overwrite => {
            Err(refuse(io::ErrorKind::AlreadyExists, "it exists already; remove it or allow overwriting"))
        }
        _ => Ok(()),
    }
}

/// Makes renames in `dir` survive a loss of power.
#[cfg(unix)]
fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some network file systems cannot flush a folder; the rename itself has happened.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Folders cannot be flushed here; the file system journals renames by itself.
#[cfg(not(unix))]
fn sync_folder(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, buf, offset)
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_write(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = AtomicFile::create(dir.path().join("out"), false).unwrap();
        file.write_all_at(b"half", 0).unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(file);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn threads_write_at_their_own_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let file = AtomicFile::create(&path, false).unwrap();
        file.set_len(64 * 100).unwrap();
        std::thread::scope(|scope| {
            for part in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for chunk in (u64::from(part)..100).step_by(4) {
                        file.write_all_at(&[chunk as u8; 64], chunk * 64).unwrap();
                    }
                });
            }
        });
        file.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.iter().enumerate().all(|(i, &b)| b == (i / 64) as u8));
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn permissions_are_those_of_any_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, b"").unwrap();
        let ours = dir.path().join("ours");
        AtomicFile::create(&ours, false).unwrap().commit().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn an_existing_file_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"old").unwrap();
        assert!(AtomicFile::create(&path, false).is_err());
        let file = AtomicFile::create(&path, true).unwrap();
        file.write_all_at(b"new!", 0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new!");

        // The file may also appear between creation and commit.
        let late = dir.path().join("late");
        let file = AtomicFile::create(&late, false).unwrap();
        std::fs::write(&late, b"theirs").unwrap();
        assert!(file.commit().is_err());
        assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
        assert_eq!(names(dir.path()), ["late", "out"]);
    }

    #[test]
    fn a_set_is_committed_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> =
            ["a", "b", "c"].iter().map(|n| AtomicFile::create(dir.path().join(n), false).unwrap()).collect();
        std::fs::write(dir.path().join("b"), b"theirs").unwrap();
        assert!(AtomicFile::commit_all(files).is_err());
        assert_eq!(names(dir.path()), ["b"]);
    }

    #[test]
    fn targets_that_are_not_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(AtomicFile::create(dir.path(), true).is_err());
        assert!(AtomicFile::create("/dev/null", true).is_err());
        assert!(AtomicFile::create(dir.path().join("missing/out"), true).is_err());
    }
}
