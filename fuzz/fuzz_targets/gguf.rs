//! Any bytes as a GGUF file: no panic, no tensor outside the file, and what opens can be written and read back.
#![no_main]

use ggquant::gguf::{Endianness, Header, Layout, Reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(reader) = Reader::from_bytes(data.to_vec(), "fuzzed") else { return };
    let shard = &reader.shards()[0];
    let mut end = shard.data_start;
    for tensor in reader.tensors() {
        assert!(tensor.offset >= end && tensor.offset + tensor.nbytes <= data.len() as u64);
        end = tensor.offset + tensor.nbytes;
        let mut bytes = vec![0; tensor.nbytes as usize];
        let read = reader.read_at(tensor, 0, &mut bytes);
        assert!(read.is_ok() || tensor.ty.block().is_none() || shard.endianness == Endianness::Big);
    }
    // A large alignment only makes for a large header.
    if shard.alignment > 4096 {
        return;
    }
    let specs: Vec<_> = reader.tensors().iter().map(|tensor| tensor.spec()).collect();
    let Ok(layout) = Layout::new(reader.metadata(), &specs) else {
        assert!(specs.iter().any(|spec| spec.ty.block().is_none()));
        return;
    };
    let again = Header::parse(layout.header.as_slice(), layout.file_len, "again".as_ref()).unwrap();
    // NaN in the metadata differs from itself; its bytes do not.
    assert_eq!(Layout::new(&again.metadata, &specs).unwrap(), layout);
    assert!(again.tensors.iter().zip(reader.tensors()).all(|(new, old)| new.spec() == old.spec()));
});
