//! Hidden files beside an output: their names, who is writing them, and what killed runs have left.
//!
//! Whoever writes such a file holds a lock on it, which the system releases when the process ends in whatever way. A file
//! without a lock is therefore nobody's. Where a file system has no locks, every file passes for one that is being written,
//! and nothing is removed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Longest part of a target's name that is kept: file systems allow 255 bytes, and prefix, tag and ending need 40.
const NAME_BYTES: usize = 160;

/// Digits of the tag of a file that can be taken up again.
pub(crate) const TAG_LEN: usize = 16;

/// Random letters in the name of a file that cannot.
pub(crate) const RANDOM_LEN: usize = 6;

/// What the names of all hidden files of `target` begin with.
pub(crate) fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    if name.len() <= NAME_BYTES {
        return format!(".ggquant-{name}.");
    }
    let cut = (0..=NAME_BYTES).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    let digest = Sha256::digest(name.as_bytes());
    format!(".ggquant-{}~{:02x}{:02x}{:02x}.", &name[..cut], digest[0], digest[1], digest[2])
}

/// The hidden file of `target` with this ending.
pub(crate) fn beside(target: &Path, suffix: &str) -> PathBuf {
    target.with_file_name(format!("{}{suffix}", prefix(target)))
}

/// The folder that holds `target`.
pub(crate) fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens the hidden file `path` of `target`, or creates it, and locks it.
///
/// # Errors
/// `Io`, with the target's name; in particular if another process is writing the file.
pub(crate) fn open_locked(path: &Path, target: &Path) -> Result<File> {
    let failed = |e| Error::io(target, "open an unfinished file in its folder", e);
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(busy(target)),
            // Without locks, it is for the user not to write one file twice at once.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if is_linked(&file).map_err(failed)? {
            return Ok(file);
        }
    }
}

/// Locks a file that has just been created. False if it was taken for a leftover and removed before that.
pub(crate) fn lock_new(file: &File) -> io::Result<bool> {
    // Only such a removal can hold the lock, and not for long. Without locks there is none.
    let _ = file.lock();
    is_linked(file)
}

/// Removes what ended runs have left for `target`. Files that can be taken up again stay without `keep`; with it, only
/// those that carry this tag.
///
/// # Errors
/// `Io` if a file cannot be removed, or if another process is writing one that can be taken up again, with another tag
/// than `keep`.
pub(crate) fn sweep(target: &Path, keep: Option<&str>) -> Result<()> {
    // What is wrong with the folder, if anything, is said when the output is created.
    let Ok(entries) = std::fs::read_dir(folder(target)) else { return Ok(()) };
    let prefix = prefix(target);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(tag) = name.to_str().and_then(|name| tag_of(name, &prefix)) else { continue };
        let resumable = tag.len() == TAG_LEN;
        if keep == Some(tag) || (resumable && keep.is_none()) {
            continue;
        }
        let path = entry.path();
        let failed = |e| Error::io(&path, "remove what an earlier conversion left", e);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        match file.try_lock() {
            Ok(()) => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            },
            Err(TryLockError::WouldBlock) if resumable => return Err(busy(target)),
            Err(_) => {}
        }
    }
    Ok(())
}

/// The tag or the random letters in the name of a hidden file.
fn tag_of<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(prefix)?;
    let tag = rest.strip_suffix(".part").or(rest.strip_suffix(".journal"))?;
    let tagged = tag.len() == TAG_LEN && tag.bytes().all(|b| b.is_ascii_hexdigit());
    let random = tag.len() == RANDOM_LEN && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    (tagged || random).then_some(tag)
}

fn busy(target: &Path) -> Error {
    let what = "another process is writing it; wait for it to end, or name another output";
    Error::io(target, "make this output", io::Error::new(io::ErrorKind::ResourceBusy, what))
}

/// Whether the file still has a name.
#[cfg(unix)]
fn is_linked(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink() > 0)
}

/// Files in use cannot be removed here.
#[cfg(not(unix))]
fn is_linked(_file: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_enough_and_apart() {
        let long = |end: &str| PathBuf::from(format!("/d/{}{end}", "ä".repeat(120)));
        let names: Vec<_> =
            [long("a"), long("b")].iter().map(|path| beside(path, "0123456789abcdef.journal")).collect();
        assert!(names.iter().all(|path| path.file_name().unwrap().len() <= 255));
        assert_ne!(names[0], names[1]);
        assert_eq!(beside(Path::new("d/m.gguf"), "x.part"), Path::new("d/.ggquant-m.gguf.x.part"));
    }

    #[test]
    fn only_what_nobody_writes_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m.gguf");
        let make = |suffix: &str| File::create(beside(&target, suffix)).unwrap();
        let tag = "0123456789abcdef";
        make("aB3xyz.part");
        make(&format!("{tag}.part"));
        make(&format!("{tag}.journal"));
        let writing = make("live00.part");
        writing.lock().unwrap();
        std::fs::write(dir.path().join(".ggquant-m.gguf.2.aB3xyz.part"), b"another target's").unwrap();
        let left = || std::fs::read_dir(dir.path()).unwrap().count();

        sweep(&target, None).unwrap();
        assert_eq!(left(), 4, "only the file without tag and lock is gone");
        sweep(&target, Some(tag)).unwrap();
        assert_eq!(left(), 4);
        let other = make("fedcba9876543210.part");
        other.lock().unwrap();
        let error = sweep(&target, Some(tag)).unwrap_err().to_string();
        assert!(error.contains("another process is writing it"), "{error}");
        drop(other);
        sweep(&target, Some("0000000000000000")).unwrap();
        assert_eq!(left(), 2, "the live file and the other target's");
    }

    #[test]
    fn a_file_is_opened_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("m"), dir.path().join("p"));
        let first = open_locked(&path, &target).unwrap();
        assert!(open_locked(&path, &target).unwrap_err().to_string().contains("another process"));
        drop(first);
        open_locked(&path, &target).unwrap();
        let missing = open_locked(&dir.path().join("none/p"), &target).unwrap_err().to_string();
        assert!(missing.contains(target.to_str().unwrap()), "{missing}");
    }
}
