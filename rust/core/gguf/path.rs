//! Names of files that other files mention: shards of a split model, and names read from an index.
//!
//! Such names come with the download and are not to be trusted. They may only lead to regular files in the model's own
//! folder. Links need one exception: caches of model hubs keep each file once, in a folder of blobs, and build the
//! model's folder out of links to them.

use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};

use crate::error::{At, Error, Result};

/// The path of shard `number` (counted from 0) of `count`, as llama.cpp names it: `prefix-00001-of-00003.gguf`.
pub fn shard_path(prefix: &Path, number: u16, count: u16) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(shard_suffix(number, count));
    PathBuf::from(path)
}

/// The prefix of a shard's path, or `None` if `path` does not end as shard `number` of `count` must.
pub fn shard_prefix(path: &Path, number: u16, count: u16) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(shard_suffix(number, count).as_str())?;
    if stem.is_empty() { None } else { Some(path.with_file_name(stem)) }
}

fn shard_suffix(number: u16, count: u16) -> String {
    format!("-{:05}-of-{count:05}.gguf", u32::from(number) + 1)
}

/// Whether `name` is the name of a file in some folder, and nothing that leads elsewhere.
pub fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let single = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    // A backslash separates folders on some systems, a colon names a drive or a stream; no model file needs them.
    single && !name.contains(['/', '\\', '\0', ':'])
}

/// Joins `name`, which a file in `dir` mentions, to `dir`.
///
/// # Errors
/// `Malformed` if `name` is anything but the plain name of a regular file in `dir`, or if it is a link out of `dir`
/// (other than to the blobs of a hub's cache, see [`check_link`]); `Io` if the file does not exist.
pub fn safe_join(dir: &Path, name: &str) -> Result<PathBuf> {
    if !is_plain_name(name) {
        let what = format!("names the file '{}', which is not a plain file name", name.escape_debug());
        return Err(Error::Malformed { at: At::default(), what });
    }
    let path = dir.join(name);
    check_link(&path, dir, None)?;
    Ok(path)
}

/// Checks that `path`, in the folder `dir`, is a regular file, and that links on the way lead to one of
/// - a place below `dir`;
/// - the folder of `sibling`, a file that the user named;
/// - `../../blobs` of a `snapshots/<revision>` folder, where a hub's cache keeps the files.
///
/// # Errors
/// `Io` if the file does not exist, `Malformed` if it is something else or lies elsewhere.
pub fn check_link(path: &Path, dir: &Path, sibling: Option<&Path>) -> Result<()> {
    let resolve = |p: &Path| p.canonicalize().map_err(|e| Error::io(p, "find the file", e));
    let target = resolve(path)?;
    if !target.metadata().map_err(|e| Error::io(path, "find the file", e))?.is_file() {
        return Err(Error::malformed(path, "it is not a regular file"));
    }
    let dir = resolve(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?;
    if target.starts_with(&dir) {
        return Ok(());
    }
    if let Some(sibling) = sibling
        && resolve(sibling)?.parent() == target.parent()
    {
        return Ok(());
    }
    let snapshots =
        dir.ancestors().find(|p| p.parent().is_some_and(|up| up.file_name().is_some_and(|n| n == "snapshots")));
    let blobs = snapshots.and_then(|revision| revision.parent()?.parent()).map(|repository| repository.join("blobs"));
    if blobs.is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    Err(Error::malformed(
        path,
        format!("is a link to {}, outside the model's folder; put the file itself there", target.display()),
    ))
}

/// Whether two files, with their metadata and the paths that led to them, are one.
#[cfg(unix)]
pub(crate) fn is_same_file(a: &Metadata, _a_path: &Path, b: &Metadata, _b_path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Whether two paths lead to one file.
#[cfg(not(unix))]
pub(crate) fn is_same_file(_a: &Metadata, a_path: &Path, _b: &Metadata, b_path: &Path) -> bool {
    matches!((a_path.canonicalize(), b_path.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_llama_cpps() {
        let prefix = Path::new("dir/model");
        assert_eq!(shard_path(prefix, 0, 3), Path::new("dir/model-00001-of-00003.gguf"));
        assert_eq!(shard_prefix(Path::new("dir/model-00003-of-00003.gguf"), 2, 3).as_deref(), Some(prefix));
        assert_eq!(shard_prefix(Path::new("dir/model-00003-of-00003.gguf"), 1, 3), None);
        assert_eq!(shard_prefix(Path::new("dir/-00001-of-00003.gguf"), 0, 3), None);
        assert_eq!(shard_path(prefix, u16::MAX, u16::MAX), Path::new("dir/model-65536-of-65535.gguf"));
    }

    #[test]
    fn names_that_climb_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir_all(model.join("sub")).unwrap();
        for path in ["secret", "model/a.safetensors", "model/sub/b"] {
            std::fs::write(dir.path().join(path), b"x").unwrap();
        }
        let absolute = dir.path().join("secret").to_str().unwrap().to_owned();
        for name in
            ["", ".", "..", "../secret", "sub/../../secret", "/etc/passwd", "a\0", "..\\secret", "C:x", "sub", "sub/b"]
        {
            assert!(safe_join(&model, name).is_err(), "{name:?}");
        }
        assert!(safe_join(&model, &absolute).is_err());
        assert!(safe_join(&model, "missing").is_err());
        assert_eq!(safe_join(&model, "a.safetensors").unwrap(), model.join("a.safetensors"));
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_only_where_a_hub_cache_needs_them() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let snapshot = dir.path().join("models--a--b/snapshots/0123abcd");
        let blobs = dir.path().join("models--a--b/blobs");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("f00d"), b"x").unwrap();
        std::fs::write(dir.path().join("secret"), b"x").unwrap();
        symlink("../../blobs/f00d", snapshot.join("cached")).unwrap();
        symlink("../../../secret", snapshot.join("stolen")).unwrap();
        symlink("/dev/zero", snapshot.join("device")).unwrap();
        symlink("../..", snapshot.join("folder")).unwrap();
        symlink("loop", snapshot.join("loop")).unwrap();
        assert!(safe_join(&snapshot, "cached").is_ok());
        for name in ["stolen", "device", "loop", "folder"] {
            assert!(safe_join(&snapshot, name).is_err(), "{name}");
        }
        // Blobs are reached through snapshots only.
        let plain = dir.path().join("plain");
        std::fs::create_dir_all(&plain).unwrap();
        symlink("../models--a--b/blobs/f00d", plain.join("cached")).unwrap();
        assert!(safe_join(&plain, "cached").is_err());
        // A link next to a file that the user named may lead where that file lies.
        symlink("../secret", plain.join("first")).unwrap();
        std::fs::write(dir.path().join("second"), b"x").unwrap();
        symlink("../second", plain.join("next")).unwrap();
        assert!(check_link(&plain.join("next"), &plain, Some(&plain.join("first"))).is_ok());
        assert!(check_link(&plain.join("cached"), &plain, Some(&plain.join("first"))).is_err());
    }
}
