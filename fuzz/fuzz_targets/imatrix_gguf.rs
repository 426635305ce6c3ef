//! Any bytes as an importance matrix in GGUF: no panic, and only usable values.
#![no_main]

use ggquant::gguf::Reader;
use ggquant::imatrix::Imatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(reader) = Reader::from_bytes(data.to_vec(), "fuzzed") else { return };
    let Ok(imatrix) = Imatrix::from_gguf(&reader) else { return };
    for (name, values) in &imatrix.entries {
        assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0));
        assert_eq!(imatrix.get(name), Some(values.as_slice()));
    }
    assert_eq!(imatrix.entries.len(), imatrix.counts.len());
});
