//! Safetensors checkpoints: what is read, and the damaged and hostile ones that are refused.

use std::fs;
use std::path::{Path, PathBuf};

use ggquant::checkpoint::{Checkpoint, json};
use tempfile::TempDir;

/// A safetensors file from its header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

fn entry(name: &str, dtype: &str, shape: &str, start: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

/// One file named `model.safetensors` in a folder of its own.
fn single(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// The message with which a file is refused; it names the file.
fn refused(bytes: &[u8]) -> String {
    let (_folder, path) = single(bytes);
    let text = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(text.contains("model.safetensors"), "{text}");
    text
}

#[test]
fn tensors_come_in_the_order_of_the_data() {
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{},{}}}"#,
        entry("z", "BF16", "[2,3]", 4, 16),
        entry("a", "F8_E4M3", "[4]", 0, 4),
        entry("empty", "I64", "[0,7]", 16, 16)
    );
    let (folder, path) = single(&file(&header, 16));
    for opened in [folder.path(), &path] {
        let checkpoint = Checkpoint::open(opened).unwrap();
        let start = 8 + header.len() as u64;
        let seen: Vec<_> = checkpoint
            .tensors
            .iter()
            .map(|t| (t.name.as_str(), t.dtype.as_str(), t.shape.as_slice(), t.offset - start, t.nbytes))
            .collect();
        assert_eq!(
            seen,
            [("a", "F8_E4M3", &[4][..], 0, 4), ("z", "BF16", &[2, 3][..], 4, 12), ("empty", "I64", &[0, 7][..], 16, 0)]
        );
        assert_eq!(checkpoint.metadata["format"], "pt");
        assert_eq!(checkpoint.get("z").map(|t| t.file.clone()), Some(path.clone()));
        assert!(checkpoint.get("missing").is_none());
    }
}

#[test]
fn the_bundled_model_opens() {
    let checkpoint = Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tinylm")).unwrap();
    assert!(checkpoint.get("model.embed_tokens.weight").is_some());
    assert!(checkpoint.tensors.windows(2).all(|pair| pair[0].offset + pair[0].nbytes == pair[1].offset));
}

#[test]
fn damaged_headers_are_refused() {
    let good = format!("{{{}}}", entry("a", "F32", "[2]", 0, 8));
    assert!(single(&file(&good, 8)).1.exists());
    assert!(refused(&[]).contains("not a safetensors file"));
    assert!(refused(&[0; 7]).contains("not a safetensors file"));
    assert!(refused(&u64::MAX.to_le_bytes()).contains("claims a header"));
    assert!(refused(&file(&good, 8)[..20]).contains("claims a header"));
    assert!(refused(&file(&good, 7)).contains("truncated"));
    assert!(refused(&file(&good, 9)).contains("damaged"));
    assert!(refused(&file("{", 0)).contains("JSON"));
    assert!(refused(&file("[]", 0)).contains("object"));
    assert!(refused(&file("{}{}", 0)).contains("JSON"));
    assert!(refused(&file("{\"\\ud800\":1}", 0)).contains("JSON"));
    assert!(refused(&file(&"[".repeat(100_000), 0)).contains("deep"));

    let with = |entries: &str, data: usize| refused(&file(&format!("{{{entries}}}"), data));
    assert!(with(&entry("a", "F31", "[2]", 0, 8), 8).contains("F31"));
    assert!(with(r#""a":{"dtype":"F32","shape":[2]}"#, 8).contains("data_offsets"));
    assert!(with(&entry("a", "F32", "[-2]", 0, 8), 8).contains("header"));
    assert!(
        with(&entry("a", "F32", "[2]", 8, 0), 8).contains("'a'")
            || with(&entry("a", "F32", "[2]", 8, 0), 8).contains("`a`")
    );
    assert!(with(&entry("a", "F32", "[3]", 0, 8), 8).contains("shape"));
    assert!(with(&entry("a", "F32", "[4294967296,4294967296,4294967296]", 0, 8), 8).contains("overflow"));
    assert!(with(&entry("a", "F32", &format!("[{}1]", "1,".repeat(16)), 0, 4), 4).contains("17 dimensions"));
    let (a, b) = (entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[2]", 4, 12));
    assert!(with(&format!("{a},{b}"), 12).contains("offset"), "overlap");
    let hole = entry("b", "F32", "[1]", 12, 16);
    assert!(with(&format!("{a},{hole}"), 16).contains("offset"), "hole");
    let again = entry("a", "F32", "[1]", 8, 12);
    assert!(with(&format!("{a},{again}"), 12).contains("'a' appears twice"));
}

#[test]
fn a_header_larger_than_the_limit_is_not_read() {
    let (_folder, path) = single(&100_000_001u64.to_le_bytes());
    fs::File::options().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    assert!(Checkpoint::open(&path).unwrap_err().to_string().contains("at most 100000000"));
}

/// A folder with two shards, `a` in the first and `b` in the second, and this index.
fn sharded(index: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (shard, name) in [("model-1.safetensors", "a"), ("model-2.safetensors", "b")] {
        fs::write(folder.path().join(shard), file(&format!("{{{}}}", entry(name, "F32", "[2]", 0, 8)), 8)).unwrap();
    }
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    folder
}

const INDEX: &str =
    r#"{"metadata":{"total_size":16},"weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors"}}"#;

#[test]
fn shards_are_read_in_order() {
    let folder = sharded(INDEX);
    for opened in [folder.path().to_owned(), folder.path().join("model.safetensors.index.json")] {
        let checkpoint = Checkpoint::open(opened).unwrap();
        assert_eq!(checkpoint.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.files.len(), 2);
    }
}

#[test]
fn shards_without_an_index_are_found_by_name() {
    let folder = sharded(INDEX);
    fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), file("{}", 0)).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.files.len(), 2);

    fs::copy(folder.path().join("model-1.safetensors"), folder.path().join("model-3.safetensors")).unwrap();
    let text = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("'a'") && text.contains("model-1") && text.contains("model-3"), "{text}");

    let empty = tempfile::tempdir().unwrap();
    assert!(Checkpoint::open(empty.path()).unwrap_err().to_string().contains("no safetensors file"));
}

#[test]
fn indexes_that_lie_are_refused() {
    let text = |index: &str| Checkpoint::open(sharded(index).path()).unwrap_err().to_string();
    let map = |entries: &str| text(&format!(r#"{{"weight_map":{{{entries}}}}}"#));
    let a = r#""a":"model-1.safetensors""#;

    assert!(map(&format!(r#"{a},"b":"model-3.safetensors""#)).contains("missing"));
    assert!(map(&format!(r#"{a},"b":"model-2.safetensors","c":"model-2.safetensors""#)).contains("'c'"));
    assert!(map(r#""a":"model-2.safetensors","b":"model-1.safetensors""#).contains("the index places it"));
    assert!(map(&format!(r#"{a},{a}"#)).contains("'a' appears twice"));
    assert!(text("{}").contains("weight_map"));
    assert!(text("[").contains("JSON"));
    for escape in
        ["../model-1.safetensors", "/etc/passwd", "sub/../../x", "..", ".", "", "sub/x", "..\\\\x", "a\\u0000b"]
    {
        let text = map(&format!(r#""a":"{escape}""#));
        assert!(text.contains("not a plain file name"), "{escape}: {text}");
    }
}

#[test]
fn tensors_outside_the_index_are_named() {
    let folder = sharded(r#"{"weight_map":{"a":"model-1.safetensors"}}"#);
    // Only listed shards are opened, so the second file may hold anything.
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors.len(), 1);
    let both = format!("{{{},{}}}", entry("a", "F32", "[1]", 0, 4), entry("extra", "F32", "[1]", 4, 8));
    fs::write(folder.path().join("model-1.safetensors"), file(&both, 8)).unwrap();
    assert!(Checkpoint::open(folder.path()).unwrap_err().to_string().contains("'extra'"));
}

#[cfg(unix)]
#[test]
fn links_may_lead_into_the_download_cache_and_nowhere_else() {
    use std::os::unix::fs::symlink;
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/revision"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let bytes = file(&format!("{{{}}}", entry("a", "F32", "[2]", 0, 8)), 8);
    fs::write(blobs.join("0123"), &bytes).unwrap();
    fs::write(cache.path().join("outside"), &bytes).unwrap();
    let link = snapshot.join("model.safetensors");
    symlink("../../blobs/0123", &link).unwrap();
    assert_eq!(Checkpoint::open(&snapshot).unwrap().tensors.len(), 1);

    fs::remove_file(&link).unwrap();
    symlink("../../outside", &link).unwrap();
    let text = Checkpoint::open(&snapshot).unwrap_err().to_string();
    assert!(text.contains("outside the model's folder"), "{text}");
    fs::write(snapshot.join("model.safetensors.index.json"), r#"{"weight_map":{"a":"model.safetensors"}}"#).unwrap();
    assert!(Checkpoint::open(&snapshot).unwrap_err().to_string().contains("outside the model's folder"));
}

#[test]
fn json_is_bounded_in_depth_and_size() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(json::check(nested(10).as_bytes(), 10).is_ok());
    assert!(json::check(nested(11).as_bytes(), 10).unwrap_err().contains("too deep"));
    assert!(json::check(br#"{"a":{"b":[{}]}}"#, 4).is_ok());
    assert!(json::check(br#"{"a":{"b":[{}]}}"#, 3).is_err());
    assert!(json::check(br#"{"a":[true,null,-1.5e3,"x"]}"#, 2).is_ok());
    for bad in ["", "{", "{]", "1 2", "{\"a\":1,}", "nul", "\u{1}"] {
        assert!(json::check(bad.as_bytes(), 10).is_err(), "{bad}");
    }
    assert!(json::check(&[b'[', b'"', 0xff, b'"', b']'], 10).is_err());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, nested(3)).unwrap();
    assert_eq!(json::read(&path, 7, 3).unwrap(), nested(3).as_bytes());
    assert!(json::read(&path, 6, 3).unwrap_err().to_string().contains("larger than 6 bytes"));
    assert!(json::read(&path, 7, 2).unwrap_err().to_string().contains("tokenizer.json"));
}
