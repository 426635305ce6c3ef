//! Any bytes as a safetensors file: no panic, and no tensor outside the file. Set TMPDIR to a file system in memory.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use ggquant::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

/// The file that holds the bytes; headers are read from files only.
static PATH: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("fuzzed-{}.safetensors", std::process::id())));

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*PATH, data).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&*PATH) else { return };
    for tensor in &checkpoint.tensors {
        assert!(tensor.offset.checked_add(tensor.nbytes).is_some_and(|end| end <= data.len() as u64));
    }
});
