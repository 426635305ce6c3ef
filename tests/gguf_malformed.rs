//! Every class of malformed file that the readers must refuse, and the few odd ones that they must accept.
//!
//! The files are in `tests/data/malformed`, written by `make.py` there. What cannot be a single file (splits, links,
//! files that change while they are open) is built here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ggquant::checkpoint::Checkpoint;
use ggquant::gguf::{Reader, verify::verify};
use ggquant::imatrix::Imatrix;
use ggquant::{Error, Result};

/// What a file must lead to.
#[derive(Clone, Copy)]
enum Expect {
    /// It opens, with this many tensors (or entries).
    Opens(usize),
    /// It opens, but the data of its first tensor cannot be read; the message contains this.
    NoData(&'static str),
    /// It does not open; the message contains this.
    Refused(&'static str),
}
use Expect::{NoData, Opens, Refused};

/// Hand-made files named in ggml's `test-gguf.cpp`, in its order. There the tensor files have no data and are opened
/// for their headers alone; here files have their data, because a reader of ours refuses those that lack it.
const TEST_GGUF: &[(&str, Expect)] = &[
    ("HEADER_BAD_MAGIC", Refused("not a GGUF file: it starts with 'FUGG'")),
    ("HEADER_BAD_VERSION_0", Refused("version 0 is not supported")),
    ("HEADER_BAD_VERSION_1", Refused("version 1 is not supported")),
    ("HEADER_BAD_VERSION_FUTURE", Refused("version 4 is not supported")),
    ("HEADER_BAD_N_TENSORS", Refused("claims 18446744073709551615 tensors")),
    ("HEADER_BAD_N_KV", Refused("claims 18446744073709551615 metadata entries")),
    ("HEADER_EMPTY", Opens(0)),
    ("KV_BAD_KEY_SIZE", Refused("claims 18446744073709551615 bytes of a metadata key")),
    ("KV_EMPTY_KEY", Refused("key is empty")),
    ("KV_BAD_TYPE", Refused("has type 13, which does not exist")),
    ("KV_BAD_ARRAY_TYPE", Refused("is an array of type 13, which does not exist")),
    ("KV_BAD_VALUE_SIZE", Refused("claims 18446744073709551615 bytes of a metadata value")),
    ("KV_DUPLICATE_KEY", Refused("key 'key' is there twice")),
    ("KV_BAD_ALIGN", Refused("general.alignment is 13, which is not a power of two")),
    ("KV_WRONG_TYPE_ALIGN", Refused("general.alignment must be of type u32, not i32")),
    ("KV_SUCCESS", Opens(0)),
    ("TENSORS_BAD_NAME_SIZE", Refused("has 64 bytes, more than 63")),
    ("TENSORS_BAD_N_DIMS", Refused("5 dimensions; a tensor has at most 4")),
    ("TENSORS_BAD_SHAPE", Refused("a dimension is -1")),
    ("TENSORS_ZERO_DIM", Opens(1)),
    ("TENSORS_NE_TOO_BIG", Refused("more weights than 63 bits")),
    ("TENSORS_NBYTES_TOO_BIG", Refused("does not fit in 64 bits")),
    ("TENSORS_NBYTES_PAD_WRAP", Refused("do not fit into the 128 bytes")),
    ("TENSORS_BAD_TYPE", NoData("unknown type 43 cannot be read")),
    ("TENSORS_BAD_OFFSET", Refused("at offset 18446744073709551615 instead of 0")),
    ("TENSORS_DUPLICATE_NAME", Refused("tensor 't0': a tensor of this name is there twice")),
    ("TENSORS_BAD_ALIGN", Refused("general.alignment is 13")),
    ("TENSORS_INCONSISTENT_ALIGN", Refused("at offset 5 instead of 32")),
    ("TENSORS_SUCCESS", Opens(2)),
    ("TENSORS_CUSTOM_ALIGN", Opens(2)),
    ("DATA_NOT_ENOUGH_DATA", Refused("the file is truncated or damaged")),
    ("DATA_BAD_ALIGN", Refused("general.alignment is 48, which is not a power of two")),
    ("DATA_INCONSISTENT_ALIGN", Refused("do not fit into the")),
    ("DATA_MEM_SIZE_OVERFLOW", Refused("do not fit into the 32 bytes")),
];

/// Other classes of attack and damage.
const HOSTILE: &[(&str, Expect)] = &[
    ("tensor_larger_than_file", Refused("268435456 bytes at offset 0 do not fit into the 128 bytes")),
    ("tensor_ends_past_file", Refused("tensor 't1': its 128 bytes at offset 128 do not fit into the 250")),
    ("array_length_near_2_63", Refused("claims 9223372036854775807 elements in array 'k'")),
    ("array_length_wraps", Refused("claims 2305843009213693953 elements in array 'k'")),
    ("string_array_length_wraps", Refused("claims 2305843009213693952 elements in array 'k'")),
    ("nested_arrays_without_end", Refused("nests arrays deeper than 8")),
    ("nested_arrays_wide", Refused("claims 1152921504606846976 elements in array 'k'")),
    ("alignment_zero", Refused("general.alignment is 0, which is not a power of two")),
    ("alignment_huge", Refused("ends before its data, aligned to 2147483648")),
    ("overlapping_tensors", Refused("tensor 't1': its data is at offset 64 instead of 128")),
    ("identical_regions", Refused("tensor 't1': its data is at offset 0 instead of 128")),
    ("gap_between_tensors", Refused("tensor 't1': its data is at offset 192 instead of 128")),
    ("tensors_out_of_order", Refused("tensor 't0': its data is at offset 128 instead of 0")),
    ("undersized_region", Refused("tensor 't1': its data is at offset 128 instead of 256")),
    ("unknown_type_overlaps", Refused("tensor 't0': its data is at offset 64 instead of 0")),
    ("row_not_whole_blocks", Refused("rows of 33 weights do not divide into blocks of 32 (Q8_0)")),
    ("zero_dimension_hides_overflow", Opens(1)),
    ("n_dims_huge", Refused("4294967295 dimensions")),
    ("tensor_name_with_nul", Refused("contains a NUL byte")),
    ("tensor_name_not_utf8", Refused("is not UTF-8")),
    ("key_not_utf8", Refused("is not UTF-8")),
    ("key_with_nul", Refused("contains a NUL byte")),
    ("empty_file", Refused("the magic needs 4 bytes at offset 0, 0 are left")),
    ("only_magic", Refused("the version needs 4 bytes")),
    ("counts_missing", Refused("number of metadata entries needs 8 bytes")),
    ("value_missing", Refused("a metadata value needs 8 bytes at offset 37, 7 are left")),
    ("padding_missing", Refused("ends before its data")),
    ("removed_type", NoData("removed type 4 (Q4_2) cannot be read")),
    ("split_of_two_alone", Refused("its name must end in '-00001-of-00002.gguf'")),
];

const IMATRIX: &[(&str, Expect)] = &[
    ("valid.gguf", Opens(1)),
    ("no_metadata.gguf", Refused("has no imatrix.chunk_count")),
    ("wrong_type.gguf", Refused("'imatrix.chunk_size' is of type i32, not u32")),
    ("counts_missing.gguf", Refused("only one of 'w.in_sum2' and 'w.counts'")),
    ("no_counts.gguf", Refused("4 sums do not divide among 0 counts")),
    ("indivisible.gguf", Refused("3 sums do not divide among 2 counts")),
    ("nan_count.gguf", Refused("a count is NaN")),
    ("infinite_sum.gguf", Refused("value inf of column 1")),
    ("negative_sum.gguf", Refused("value -1 of column 1")),
    ("not_f32.gguf", Refused("it is I32 instead of F32")),
    ("no_tensors.gguf", Refused("the importance matrix is empty")),
    ("valid.dat", Opens(1)),
    ("valid_without_tail.dat", Opens(1)),
    ("no_entries.dat", Refused("0 entries in 4 bytes")),
    ("negative_count.dat", Refused("-1 entries")),
    ("count_huge.dat", Refused("2147483647 entries")),
    ("name_length_negative.dat", Refused("a name: -1 in the file's last")),
    ("name_length_huge.dat", Refused("a name: 2147483647 in the file's last")),
    ("name_not_utf8.dat", Refused("is not UTF-8")),
    ("values_zero.dat", Refused("0 values in an entry")),
    ("values_negative.dat", Refused("-5 values in an entry")),
    ("values_huge.dat", Refused("values: 2147483647 in the file's last 4 bytes")),
    ("value_nan.dat", Refused("value NaN of column 1")),
    ("tail_cut_short.dat", Refused("the number of chunks")),
    ("dataset_length_huge.dat", Refused("the dataset's name: 2147483647")),
    ("empty.dat", Refused("the number of entries")),
];

const SAFETENSORS: &[(&str, Expect)] = &[
    ("valid", Opens(1)),
    ("empty_file", Refused("not a safetensors file")),
    ("header_length_huge", Refused("claims a header of 18446744073709551615 bytes")),
    ("header_larger_than_file", Refused("claims a header of 1000 bytes")),
    ("not_json", Refused("JSON")),
    ("nested_without_end", Refused("JSON")),
    ("duplicate_name", Refused("a")),
    ("past_end", Refused("truncated")),
    ("trailing_data", Refused("damaged")),
    ("overlap", Refused("bad header")),
    ("hole", Refused("bad header")),
    ("range_backwards", Refused("bad header")),
    ("size_mismatch", Refused("bad header")),
    ("product_wraps", Refused("bad header")),
    ("dimension_negative", Refused("header")),
    ("dimensions_without_end", Refused("1000 dimensions")),
    ("unknown_type", Refused("header")),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed").join(name)
}

/// Checks a table against the files of a folder, and that no file is missing from the table.
fn check(sub: &str, suffix: &str, tables: &[&[(&str, Expect)]], open: impl Fn(&Path) -> Result<usize>) {
    let dir = folder(sub);
    let mut listed = BTreeSet::new();
    for &(name, expect) in tables.iter().copied().flatten() {
        let file = format!("{name}{suffix}");
        let path = dir.join(&file);
        match (open(&path), expect) {
            (Ok(count), Opens(expected)) => assert_eq!(count, expected, "{file}"),
            (Err(error), Refused(part) | NoData(part)) => {
                let text = error.to_string();
                assert!(text.contains(part), "{file}: {text}");
                assert!(text.contains(path.to_str().unwrap()), "{file}: the message does not name the file: {text}");
                assert!(!matches!(error, Error::Io { .. }), "{file}: {text}");
            }
            (Ok(_), _) => panic!("{file} was accepted"),
            (Err(error), Opens(_)) => panic!("{file} was refused: {error}"),
        }
        assert!(listed.insert(file), "{name} is listed twice");
    }
    let found: BTreeSet<String> =
        dir.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, listed);
}

/// Opens a file and reads all data of its tensors.
fn read_all(path: &Path) -> Result<usize> {
    let reader = Reader::open(path)?;
    for tensor in reader.tensors() {
        let mut data = vec![0; tensor.nbytes as usize];
        reader.read_at(tensor, 0, &mut data)?;
    }
    Ok(reader.tensors().len())
}

#[test]
fn gguf_files() {
    check("gguf", ".gguf", &[TEST_GGUF, HOSTILE], read_all);
}

#[test]
fn gguf_in_memory_is_judged_like_a_file() {
    for &(name, expect) in TEST_GGUF.iter().chain(HOSTILE) {
        let path = folder("gguf").join(format!("{name}.gguf"));
        let result = Reader::from_bytes(std::fs::read(&path).unwrap(), &path);
        match expect {
            Opens(_) | NoData(_) => assert!(result.is_ok(), "{name}"),
            Refused(_) => assert!(result.is_err(), "{name}"),
        }
    }
}

#[test]
fn types_that_cannot_be_read_are_listed() {
    let reader = Reader::open(folder("gguf").join("TENSORS_BAD_TYPE.gguf")).unwrap();
    let tensor = reader.tensor("t0").unwrap();
    assert_eq!((tensor.ty.name().as_str(), tensor.nbytes), ("unknown type 43", 128));
    let findings = verify(folder("gguf").join("removed_type.gguf"), ggquant::encode::Run::default()).unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].what, "removed type 4 (Q4_2) cannot be checked");
}

#[test]
fn verify_reports_what_open_refuses() {
    let path = folder("gguf").join("tensor_ends_past_file.gguf");
    let findings = verify(&path, ggquant::encode::Run::default()).unwrap();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].what.contains("truncated or damaged"));
}

#[test]
fn imatrix_files() {
    check("imatrix", "", &[IMATRIX], |path| Imatrix::open(path).map(|m| m.entries.len()));
}

#[test]
fn safetensors_files() {
    check("safetensors", ".safetensors", &[SAFETENSORS], |path| Checkpoint::open(path).map(|c| c.tensors.len()));
}

/// A file cut short after it was opened gives an error where a memory map would end the process.
#[test]
fn a_file_truncated_while_open_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(folder("gguf").join("TENSORS_SUCCESS.gguf"), &path).unwrap();
    let reader = Reader::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let tensor = reader.tensor("t1").unwrap();
    let error = reader.read_at(tensor, 0, &mut vec![0; tensor.nbytes as usize]).unwrap_err();
    assert!(error.to_string().contains("cut short after it was opened"), "{error}");
    assert!(error.to_string().contains("tensor 't1'"), "{error}");
}

#[test]
fn reads_outside_a_tensor_are_refused() {
    let reader = Reader::open(folder("gguf").join("TENSORS_SUCCESS.gguf")).unwrap();
    let tensor = reader.tensor("t0").unwrap();
    for (offset, len) in [(0, 129), (128, 1), (u64::MAX, 1), (u64::MAX - 1, 2)] {
        assert!(reader.read_at(tensor, offset, &mut vec![0; len]).is_err(), "{offset} {len}");
    }
    reader.read_at(tensor, 128, &mut []).unwrap();
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("model-00001-of-00002.gguf");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [fifo.as_path(), Path::new("/dev/zero"), dir.path()] {
            assert!(Reader::open(path).unwrap_err().to_string().contains("not a regular file"));
            assert!(Imatrix::open(path).unwrap_err().to_string().contains("not a regular file"));
        }
    }

    /// The path of a shard is derived from the path of the one that was opened; a link among them may not lead away.
    #[test]
    fn a_shard_that_is_a_link_to_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let shards = crate::splits::write(dir.path(), &crate::splits::PAIR);
        let moved = outside.path().join("moved.gguf");
        std::fs::rename(&shards[1], &moved).unwrap();
        symlink(&moved, &shards[1]).unwrap();
        let error = Reader::open(&shards[0]).unwrap_err().to_string();
        assert!(error.contains("outside the model's folder"), "{error}");
        // A link that the user names is followed; the other shard then lies in the same folder as the link.
        assert!(Reader::open(&shards[1]).is_ok());
    }
}

/// Splits that do not fit together.
mod splits {
    use super::*;
    use ggquant::gguf::{GgmlType, Metadata, TensorSpec, Value, Writer};

    /// A shard: `split.no`, `split.count`, `split.tensors.count`, tensor names.
    pub(super) type Shard = (u16, u16, i32, &'static [&'static str]);

    pub(super) const PAIR: [Shard; 2] = [(0, 2, 3, &["a", "b"]), (1, 2, 3, &["c"])];

    pub(super) fn write(dir: &Path, shards: &[Shard]) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> =
            (1..=shards.len()).map(|i| dir.join(format!("m-{i:05}-of-{:05}.gguf", shards.len()))).collect();
        for (path, &(no, count, total, names)) in paths.iter().zip(shards) {
            let mut metadata = Metadata::default();
            metadata.set("split.no", Value::U16(no));
            metadata.set("split.count", Value::U16(count));
            metadata.set("split.tensors.count", Value::I32(total));
            let spec = |name: &&str| TensorSpec { name: (*name).to_owned(), shape: vec![8], ty: GgmlType(0) };
            let specs: Vec<TensorSpec> = names.iter().map(spec).collect();
            let writer = Writer::create(path, &metadata, &specs, true).unwrap();
            for (i, name) in names.iter().enumerate() {
                writer.write_at(i, 0, &[name.as_bytes()[0]; 32]).unwrap();
            }
            writer.finish().unwrap();
        }
        paths
    }

    fn error(shards: &[Shard]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(dir.path(), shards);
        Reader::open(&paths[0]).unwrap_err().to_string()
    }

    #[test]
    fn a_split_opens_from_any_shard() {
        let dir = tempfile::tempdir().unwrap();
        for path in write(dir.path(), &PAIR) {
            let reader = Reader::open(path).unwrap();
            let names: Vec<_> = reader.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
            assert_eq!(names, [("a", 0), ("b", 0), ("c", 1)]);
            let mut data = [0; 32];
            reader.read_at(reader.tensor("c").unwrap(), 0, &mut data).unwrap();
            assert_eq!(data, [b'c'; 32]);
        }
    }

    #[test]
    fn shards_that_do_not_fit_together_are_refused() {
        let cases: [(&[Shard], &str); 6] = [
            (&[(0, 2, 2, &["a"]), (0, 2, 2, &["b"])], "split.no is 0 where 1 is expected"),
            (&[(0, 2, 2, &["a"]), (1, 3, 2, &["b"])], "split.count is 3 where 2 is expected"),
            (&[(0, 2, 2, &["a"]), (1, 2, 5, &["b"])], "split.tensors.count is 5 where 2 is expected"),
            (&[(0, 2, 9, &["a"]), (1, 2, 9, &["b"])], "split.tensors.count is 9, the shards have 2"),
            (&[(0, 2, 2, &["a"]), (1, 2, 2, &["a"])], "this tensor is in"),
            (&[(0, 3, 2, &["a"]), (1, 3, 2, &["b"])], "its name must end in '-00001-of-00003.gguf'"),
        ];
        for (shards, expected) in cases {
            let text = error(shards);
            assert!(text.contains(expected), "{text}");
        }
    }

    /// More shards than a process may have open files, split, opened, read and merged.
    #[cfg(target_os = "linux")]
    #[test]
    fn many_shards_need_few_open_files() {
        use ggquant::gguf::split::{SplitBy, SplitOptions, Watch, merge, split};
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.gguf");
        let spec = |i| TensorSpec { name: format!("t{i}"), shape: vec![1], ty: GgmlType(0) };
        let specs: Vec<_> = (0..300).map(spec).collect();
        let writer = Writer::create(&source, &Metadata::default(), &specs, false).unwrap();
        (0..300).for_each(|i| writer.write_at(i, 0, &(i as f32).to_le_bytes()).unwrap());
        writer.finish().unwrap();
        let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let most = std::cell::Cell::new(0);
        let progress = |_| most.set(most.get().max(open_files()));
        let watch = Watch { interrupt: None, progress: Some(&progress) };

        let by_one = SplitOptions { by: SplitBy::Tensors(1), no_tensor_first: false };
        let paths = split(&Reader::open(&source).unwrap(), &dir.path().join("m"), by_one, false, watch).unwrap();
        assert_eq!(paths.len(), 300);
        let merged = dir.path().join("merged.gguf");
        merge(&Reader::open(&paths[299]).unwrap(), &merged, false, watch).unwrap();
        assert!(most.get() < 100, "{} open files", most.get());
        let reader = Reader::open(&merged).unwrap();
        for (i, tensor) in reader.tensors().iter().enumerate() {
            let mut data = [0; 4];
            reader.read_at(tensor, 0, &mut data).unwrap();
            assert_eq!(f32::from_le_bytes(data), i as f32);
        }
    }

    #[test]
    fn a_missing_shard_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(dir.path(), &PAIR);
        std::fs::remove_file(&paths[0]).unwrap();
        let text = Reader::open(&paths[1]).unwrap_err().to_string();
        assert!(text.contains("m-00001-of-00002.gguf"), "{text}");
    }
}
