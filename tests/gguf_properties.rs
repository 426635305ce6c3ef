//! Properties of the GGUF and imatrix parsers: what is written is read back, and no bytes make them panic, read outside
//! the file, or take memory out of proportion to its length.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;
use std::path::Path;

use proptest::prelude::*;

use ggquant::Format;
use ggquant::gguf::{Array, GgmlType, Layout, Metadata, Reader, TensorSpec, Value};
use ggquant::imatrix::Imatrix;

/// Most memory that a parser may take, as a multiple of the file's length, beyond a constant for buffers.
const MEMORY_FACTOR: usize = 12;
const MEMORY_CONSTANT: usize = 256 << 10;

thread_local! {
    /// Bytes allocated by this thread now, and the most there have been.
    static USED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, counting bytes for each thread.
struct Counting;

fn count(change: impl FnOnce(usize) -> usize) {
    // Memory allocated while a thread starts or ends is of no interest.
    let _ = USED.try_with(|used| {
        let (now, most) = used.get();
        let now = change(now);
        used.set((now, most.max(now)));
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Memory) -> *mut u8 {
        count(|now| now.wrapping_add(layout.size()));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Memory) {
        count(|now| now.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and returns the most memory it held at once, in bytes.
fn peak(work: impl FnOnce()) -> usize {
    let before = USED.get().0;
    USED.set((before, before));
    work();
    USED.get().1 - before
}

/// Parses bytes as every kind of file, within the memory allowed; reads all data of what opens.
fn parse_within_bounds(bytes: &[u8]) {
    let copy = bytes.to_vec();
    let allowed = MEMORY_FACTOR * bytes.len() + MEMORY_CONSTANT;
    let used = peak(|| {
        if let Ok(reader) = Reader::from_bytes(copy, "fuzzed") {
            let mut end = reader.shards()[0].data_start;
            for tensor in reader.tensors() {
                assert!(tensor.offset >= end && tensor.offset + tensor.nbytes <= bytes.len() as u64);
                end = tensor.offset + tensor.nbytes;
                let mut data = vec![0; tensor.nbytes as usize];
                assert_eq!(reader.read_at(tensor, 0, &mut data).is_ok(), tensor.ty.block().is_some());
            }
            let _ = Imatrix::from_gguf(&reader);
        }
    });
    assert!(used <= allowed, "GGUF: {used} bytes for a file of {}", bytes.len());
    let used = peak(|| drop(Imatrix::parse_legacy(bytes, bytes.len() as u64, Path::new("fuzzed"))));
    assert!(used <= allowed, "legacy imatrix: {used} bytes for a file of {}", bytes.len());
}

fn array() -> impl Strategy<Value = Array> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Array::U8),
        prop::collection::vec(any::<i8>(), 0..9).prop_map(Array::I8),
        prop::collection::vec(any::<u16>(), 0..9).prop_map(Array::U16),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(Array::I16),
        prop::collection::vec(any::<u32>(), 0..9).prop_map(Array::U32),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Array::I32),
        prop::collection::vec(-1e30f32..1e30, 0..9).prop_map(Array::F32),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..9).prop_map(Array::String),
        prop::collection::vec(any::<u64>(), 0..9).prop_map(Array::U64),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(Array::I64),
        prop::collection::vec(-1e300f64..1e300, 0..9).prop_map(Array::F64),
    ];
    leaf.prop_recursive(7, 24, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Array::Array))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e30f32..1e30).prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Value::String),
        array().prop_map(Value::Array),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e300f64..1e300).prop_map(Value::F64),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let align = prop::option::of((0u32..10).prop_map(|bits| 1 << bits));
    (prop::collection::vec(("[a-z.é]{1,12}", value()), 0..8), align).prop_map(|(entries, align)| {
        let mut metadata = Metadata::default();
        for (key, value) in entries.into_iter().filter(|(key, _)| !key.starts_with("split.")) {
            metadata.set(key, value);
        }
        if let Some(align) = align {
            metadata.set("general.alignment", Value::U32(align));
        }
        metadata
    })
}

fn tensors() -> impl Strategy<Value = Vec<TensorSpec>> {
    let format = prop::sample::select(Format::ALL);
    let tensor = (format, 0..3u64, prop::collection::vec(0..4u64, 0..4)).prop_map(|(format, blocks, outer)| {
        let mut shape = vec![blocks * format.info().block_len as u64];
        shape.extend(outer);
        (shape, GgmlType::from(format))
    });
    prop::collection::vec(tensor, 0..6).prop_map(|list| {
        let named = list.into_iter().enumerate();
        named.map(|(i, (shape, ty))| TensorSpec { name: format!("blk.{i}.t"), shape, ty }).collect()
    })
}

/// A valid file: its header, and data that counts up.
fn file(metadata: &Metadata, tensors: &[TensorSpec]) -> Vec<u8> {
    let layout = Layout::new(metadata, tensors).unwrap();
    let mut bytes = layout.header;
    let header_len = bytes.len() as u64;
    bytes.extend((0..layout.file_len - header_len).map(|i| i as u8));
    bytes
}

/// One way of damaging a file; positions are taken modulo its length.
#[derive(Debug, Clone)]
enum Damage {
    Byte(usize, u8),
    Number(usize, u64),
    Cut(usize),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let extreme = prop_oneof![
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(1 << 63),
        Just(1 << 61),
        Just(1 << 32),
        Just(u64::from(u32::MAX)),
        0..64u64,
        any::<u64>(),
    ];
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        4 => (any::<usize>(), extreme).prop_map(|(at, number)| Damage::Number(at, number)),
        1 => any::<usize>().prop_map(Damage::Cut),
        1 => (any::<usize>(), 1..40usize).prop_map(|(at, len)| Damage::Remove(at, len)),
        1 => (any::<usize>(), 1..40usize).prop_map(|(at, len)| Damage::Repeat(at, len)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match *damage {
        Damage::Byte(at, byte) => bytes[at % len] = byte,
        Damage::Number(at, number) => {
            let at = at % len;
            bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(b, n)| *b = n);
        }
        Damage::Cut(at) => bytes.truncate(at % len),
        Damage::Remove(at, count) => drop(bytes.drain(at % len..(at % len + count).min(len))),
        Damage::Repeat(at, count) => {
            let piece = bytes[at % len..(at % len + count).min(len)].to_vec();
            bytes.splice(at % len..at % len, piece);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_laid_out_is_read_back(metadata in metadata(), tensors in tensors()) {
        let layout = Layout::new(&metadata, &tensors).unwrap();
        let reader = Reader::from_bytes(file(&metadata, &tensors), "laid out").unwrap();
        prop_assert_eq!(reader.metadata(), &metadata);
        if !tensors.is_empty() {
            prop_assert_eq!(reader.shards()[0].data_start, layout.header.len() as u64);
        }
        prop_assert_eq!(reader.tensors().len(), tensors.len());
        for (i, (tensor, spec)) in reader.tensors().iter().zip(&tensors).enumerate() {
            prop_assert_eq!(&tensor.spec(), spec);
            prop_assert_eq!((tensor.offset, tensor.nbytes), (layout.offsets[i], layout.nbytes[i]));
            prop_assert_eq!(reader.tensor(&spec.name), Some(tensor));
        }
    }

    #[test]
    fn damaged_files_do_no_harm(
        metadata in metadata(),
        tensors in tensors(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let mut bytes = file(&metadata, &tensors);
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        parse_within_bounds(&bytes);
    }

    #[test]
    fn damaged_importance_matrices_do_no_harm(
        golden in prop::sample::select(vec!["imatrix/valid.gguf", "imatrix/valid.dat"]),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/malformed").join(golden);
        let mut bytes = std::fs::read(path).unwrap();
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        parse_within_bounds(&bytes);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(start in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = if start { b"GGUF\x03\0\0\0".to_vec() } else { Vec::new() };
        file.extend(bytes);
        parse_within_bounds(&file);
    }
}

/// Files that make the most of each byte: nothing but the smallest entries of one kind.
#[test]
fn files_of_tiny_entries_stay_within_the_memory_allowed() {
    let head = |tensors: u64, entries: u64| {
        [b"GGUF\x03\0\0\0".as_slice(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
    };
    let string = |text: &[u8]| [&(text.len() as u64).to_le_bytes(), text].concat();
    let list =
        |ty: u32, count: u64| [9u32.to_le_bytes(), ty.to_le_bytes()].concat().into_iter().chain(count.to_le_bytes());
    let count = 100_000u64;

    let mut keys = head(0, count);
    let mut tensors = head(count, 0);
    for i in 0..count {
        let name = format!("{i:x}");
        keys.extend(string(name.as_bytes()));
        keys.extend([0, 0, 0, 0, 7]);
        tensors.extend(string(name.as_bytes()));
        tensors.extend(1u32.to_le_bytes());
        tensors.extend([0; 8 + 4 + 8]);
    }
    tensors.resize(tensors.len().next_multiple_of(32), 0);

    let mut strings = head(0, 1);
    strings.extend(string(b"k"));
    strings.extend(list(8, count));
    strings.extend(vec![0; 8 * count as usize]);

    let mut arrays = head(0, 1);
    arrays.extend(string(b"k"));
    arrays.extend(list(9, count));
    arrays.extend(vec![0; 12 * count as usize]);

    for (name, bytes) in [("keys", keys), ("tensors", tensors), ("strings", strings), ("arrays", arrays)] {
        parse_within_bounds(&bytes);
        assert!(Reader::from_bytes(bytes, name).is_ok(), "{name}");
    }
}

/// With a search through a list for each name this would take minutes.
#[test]
fn a_hundred_thousand_tensors_open_at_once() {
    let count = 100_000;
    let spec = |i| TensorSpec { name: format!("blk.{i}.ffn_down.weight"), shape: vec![32], ty: GgmlType(2) };
    let tensors: Vec<_> = (0..count).map(spec).collect();
    let bytes = file(&Metadata::default(), &tensors);
    let start = std::time::Instant::now();
    let reader = Reader::from_bytes(bytes, "many").unwrap();
    assert!(tensors.iter().all(|spec| reader.tensor(&spec.name).is_some_and(|found| found.name == spec.name)));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
