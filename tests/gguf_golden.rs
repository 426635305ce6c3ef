//! Our files against those of llama.cpp's own tools, byte for byte. `tests/data/gguf/make.py` made the golden files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ggquant::Error;
use ggquant::gguf::split::{SplitBy, SplitOptions, Watch, merge, parse_size, split};
use ggquant::gguf::{Endianness, Metadata, Reader, Value, Writer};
use ggquant::imatrix::{Imatrix, Kind};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

/// Files of a folder whose names start with `prefix`.
fn files(dir: &Path, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let names = dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with(prefix)).map(|n| (n.clone(), std::fs::read(dir.join(n)).unwrap())).collect()
}

/// Writes what a reader sees, tensor by tensor from the last to the first and in pieces.
fn rewrite(reader: &Reader, target: &Path) {
    let specs: Vec<_> = reader.tensors().iter().map(|t| t.spec()).collect();
    let writer = Writer::create(target, reader.metadata(), &specs, false).unwrap();
    for (i, tensor) in reader.tensors().iter().enumerate().rev() {
        let mut data = vec![0; tensor.nbytes as usize];
        reader.read_at(tensor, 0, &mut data).unwrap();
        let (head, tail) = data.split_at(data.len() / 3);
        writer.write_at(i, head.len() as u64, tail).unwrap();
        writer.write_at(i, 0, head).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn rewriting_a_file_gives_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["mixed.gguf", "swapped.gguf", "merged.gguf", "experts.gguf", "imatrix.gguf"] {
        let target = dir.path().join(name);
        rewrite(&Reader::open(golden(name)).unwrap(), &target);
        assert!(std::fs::read(&target).unwrap() == std::fs::read(golden(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_big_endian_file_reads_like_its_little_endian_twin() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(golden("swapped.big.gguf")).unwrap();
    assert_eq!(reader.shards()[0].endianness, Endianness::Big);
    let target = dir.path().join("little.gguf");
    rewrite(&reader, &target);
    assert!(std::fs::read(&target).unwrap() == std::fs::read(golden("swapped.gguf")).unwrap());
    // Parts of blocks cannot be put into the other order.
    let tensor = reader.tensor("q.Q4_K").unwrap();
    assert!(reader.read_at(tensor, 0, &mut [0; 100]).is_err());
}

#[test]
fn metadata_of_every_type_is_read() {
    let reader = Reader::open(golden("mixed.gguf")).unwrap();
    let metadata = reader.metadata();
    assert_eq!(metadata.get("x.u8"), Some(&Value::U8(200)));
    assert_eq!(metadata.get("x.i16"), Some(&Value::I16(-7)));
    assert_eq!(metadata.get("x.u64"), Some(&Value::U64(1 << 60)));
    assert_eq!(metadata.get("x.f64"), Some(&Value::F64(2.25)));
    assert_eq!(metadata.get_bool("x.bool").unwrap(), Some(true));
    assert_eq!(metadata.get_str("x.string").unwrap(), Some("héllo"));
    assert_eq!(metadata.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.get_strings("x.strings").unwrap().unwrap(), [b"a".to_vec(), vec![], b"ccc".to_vec()]);
    assert_eq!(metadata.get_u32("x.u32").unwrap(), Some(1 << 31));
    assert_eq!(metadata.get_u32("missing").unwrap(), None);
    assert!(metadata.get_u32("x.i32").unwrap_err().to_string().contains("is of type i32, not u32"));
    assert!(metadata.get_uint("x.i32").unwrap_err().to_string().contains("is -5, below zero"));
    assert_eq!(reader.tensor("blk.1.t").unwrap().shape, [8, 3]);
}

#[test]
fn splits_are_those_of_llama_gguf_split() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(golden("mixed.gguf")).unwrap();
    let by_tensors = SplitOptions { by: SplitBy::Tensors(12), no_tensor_first: false };
    let by_size = SplitOptions { by: SplitBy::Bytes(parse_size("1M").unwrap()), no_tensor_first: true };
    let copied = AtomicU64::new(0);
    let count = |n| {
        copied.fetch_add(n, Ordering::Relaxed);
    };
    for (prefix, options) in [("split-t12", by_tensors), ("split-s1", by_size)] {
        let watch = Watch { progress: Some(&count), ..Watch::default() };
        let paths = split(&reader, &dir.path().join(prefix), options, false, watch).unwrap();
        let ours = files(dir.path(), prefix);
        assert_eq!(paths.len(), ours.len());
        assert!(ours == files(&golden(""), prefix), "{prefix}");
    }
    assert_eq!(copied.into_inner(), 2 * reader.tensors().iter().map(|t| t.nbytes).sum::<u64>());
}

#[test]
fn merging_gives_what_llama_gguf_split_gives() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(golden("split-t12-00002-of-00003.gguf")).unwrap();
    let target = dir.path().join("merged.gguf");
    merge(&reader, &target, false, Watch::default()).unwrap();
    assert!(std::fs::read(&target).unwrap() == std::fs::read(golden("merged.gguf")).unwrap());
    assert!(merge(&reader, &target, false, Watch::default()).is_err(), "an existing file is kept");
    let whole = Reader::open(golden("merged.gguf")).unwrap();
    let error = merge(&whole, &dir.path().join("again.gguf"), false, Watch::default()).unwrap_err();
    assert!(error.to_string().contains("nothing to merge"), "{error}");
}

#[test]
fn an_interrupted_or_refused_split_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(golden("mixed.gguf")).unwrap();
    let stop = AtomicBool::new(true);
    let watch = Watch { interrupt: Some(&stop), ..Watch::default() };
    let options = |by| SplitOptions { by, no_tensor_first: false };
    let prefix = dir.path().join("m");
    let result = split(&reader, &prefix, options(SplitBy::Tensors(5)), false, watch);
    assert!(matches!(result, Err(Error::Interrupted)));
    for (by, part) in [
        (SplitBy::Bytes(64), "its 128 bytes exceed the limit of a shard"),
        (SplitBy::Tensors(0), "at least one tensor"),
    ] {
        let error = split(&reader, &prefix, options(by), false, Watch::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // One of the names is taken, so none of the others may appear.
    std::fs::write(dir.path().join("m-00002-of-00007.gguf"), b"theirs").unwrap();
    assert!(split(&reader, &prefix, options(SplitBy::Tensors(5)), false, Watch::default()).is_err());
    assert_eq!(files(dir.path(), "").len(), 1);
}

#[test]
fn sizes_are_whole_numbers_of_megabytes_or_gigabytes() {
    assert_eq!(parse_size("128M"), Ok(128_000_000));
    assert_eq!(parse_size("4G"), Ok(4_000_000_000));
    for text in ["", "M", "12", "12K", "0M", "-1G", "1.5G", "+1G", "99999999999999G", "1é"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn a_file_lacking_data_is_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let reader = Reader::open(golden("mixed.gguf")).unwrap();
    let specs: Vec<_> = reader.tensors().iter().map(|t| t.spec()).collect();
    let writer = Writer::create(dir.path().join("x.gguf"), reader.metadata(), &specs, false).unwrap();
    assert!(writer.write_at(0, 100, &[0; 29]).is_err(), "past the tensor's end");
    writer.write_at(0, 0, &[0; 100]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("tensor 'blk.0.t': 100 of its 128 bytes were written"), "{error}");
    assert_eq!(files(dir.path(), "").len(), 0);
}

/// ggml copies metadata through C strings and moves keys that are set again to the end.
#[test]
fn metadata_is_copied_as_ggml_copies_it() {
    let mut source = Metadata::default();
    source.set("a", Value::String(b"x\0y".to_vec()));
    source.set("b", Value::U32(1));
    let mut target = Metadata::default();
    target.set("b", Value::U32(0));
    target.set("c", Value::U32(2));
    target.copy_from(&source).unwrap();
    target.set_last("c", Value::U32(3));
    let entries: Vec<_> = target.iter().map(|(k, v)| (k, v.clone())).collect();
    assert_eq!(entries, [("a", Value::from("x")), ("b", Value::U32(1)), ("c", Value::U32(3))]);
    assert_eq!(target.remove("a"), Some(Value::from("x")));
    assert_eq!((target.get("c"), target.get("a"), target.len()), (Some(&Value::U32(3)), None, 2));
}

#[test]
fn importance_is_what_llama_quantize_computes() {
    let facts = std::fs::read(golden("imatrix.json")).unwrap();
    let facts: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&facts).unwrap();
    assert_eq!(facts.len(), 3);
    for (name, facts) in facts {
        let imatrix = Imatrix::open(golden(&name)).unwrap();
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut eat =
            |bytes: &[u8]| bytes.iter().for_each(|&b| hash = (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        for (tensor, values) in &imatrix.entries {
            eat(tensor.as_bytes());
            values.iter().for_each(|v| eat(&v.to_le_bytes()));
        }
        assert_eq!(format!("{hash:016x}"), facts["fnv1a"], "{name}");
        assert_eq!(imatrix.entries.len() as u64, facts["entries"], "{name}");
        assert_eq!(imatrix.chunk_count, facts["chunks"], "{name}");
        assert_eq!(imatrix.datasets.len() as u64, facts["datasets"], "{name}");
        assert_eq!(imatrix.kind == Kind::Legacy, name.ends_with(".dat"));
    }
}

#[test]
fn counts_tell_experts_without_data_apart() {
    let imatrix = Imatrix::open(golden("experts.gguf")).unwrap();
    assert_eq!(imatrix.get("blk.1.zero"), Some([1.0f32; 32].as_slice()));
    assert_eq!(imatrix.get("missing"), None);
    let at = imatrix.entries.iter().position(|(name, _)| name == "blk.1.zero").unwrap();
    assert_eq!(imatrix.counts[at], [0.0]);
    assert_eq!(imatrix.counts.len(), imatrix.entries.len());
}
