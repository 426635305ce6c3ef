//! Any bytes as JSON: no panic and no endless recursion, and what passes is what serde_json accepts.
#![no_main]

use ggquant::checkpoint::json;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let shallow = json::check(data, 8);
    let deep = json::check(data, 64);
    assert!(shallow.is_err() || deep.is_ok());
});
