//! Any bytes as an importance matrix of the older kind: no panic, and only usable values.
#![no_main]

use ggquant::imatrix::Imatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(imatrix) = Imatrix::parse_legacy(data, data.len() as u64, "fuzzed".as_ref()) else { return };
    for (name, values) in &imatrix.entries {
        assert!(values.iter().all(|v| v.is_finite() && *v >= 0.0));
        assert_eq!(imatrix.get(name), Some(values.as_slice()));
    }
    assert_eq!(imatrix.entries.len(), imatrix.counts.len());
});
