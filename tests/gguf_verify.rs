//! Verification of row data: what is found, where, and that threads do not change it.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ggquant::encode::Run;
use ggquant::gguf::verify::{Finding, verify};
use ggquant::gguf::{GgmlType, Metadata, TensorSpec, Writer};
use ggquant::{Error, Format};

fn write(path: &Path, tensors: &[(&str, &[u64], GgmlType, Vec<u8>)]) {
    let specs: Vec<_> = tensors
        .iter()
        .map(|(name, shape, ty, _)| TensorSpec { name: (*name).to_owned(), shape: shape.to_vec(), ty: *ty })
        .collect();
    let writer = Writer::create(path, &Metadata::default(), &specs, true).unwrap();
    for (i, (.., data)) in tensors.iter().enumerate() {
        writer.write_at(i, 0, data).unwrap();
    }
    writer.finish().unwrap();
}

fn places(findings: &[Finding]) -> Vec<(&str, Option<u64>, Option<u64>)> {
    findings.iter().map(|f| (f.tensor.as_deref().unwrap(), f.row, f.block)).collect()
}

#[test]
fn faults_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let inf16 = half::f16::INFINITY.to_le_bytes();
    let mut q8 = vec![0; 34 * 4 * 3];
    q8[34 * 6..][..2].copy_from_slice(&inf16); // Row 1, block 2.
    q8[34 * 11..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes()); // Row 2, block 3.
    let mut f32s = vec![0; 4 * 10];
    f32s[4 * 7..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut f64s = vec![0; 8 * 4];
    f64s[8 * 3..][..8].copy_from_slice(&f64::INFINITY.to_le_bytes());
    let mut bf16s = vec![0; 2 * 8];
    bf16s[2..4].copy_from_slice(&half::bf16::NEG_INFINITY.to_le_bytes());
    let ints = vec![0xff; 4 * 4];
    write(
        &path,
        &[
            ("q8", &[128, 3], Format::Q8_0.into(), q8),
            ("f32", &[5, 2], Format::F32.into(), f32s),
            ("f64", &[2, 2], GgmlType(28), f64s),
            ("bf16", &[8], Format::BF16.into(), bf16s),
            ("i32", &[4], GgmlType(26), ints),
            ("good", &[256], Format::Q6_K.into(), vec![0; 210]),
        ],
    );
    let findings = verify(&path, Run::default()).unwrap();
    let expected = [
        ("q8", Some(1), Some(2)),
        ("q8", Some(2), Some(3)),
        ("f32", Some(1), Some(2)),
        ("f64", Some(1), Some(1)),
        ("bf16", Some(0), Some(1)),
    ];
    assert_eq!(places(&findings), expected);
    assert!(findings.iter().all(|f| f.file == path && !f.what.is_empty()));
    for threads in [1, 2, 8] {
        assert_eq!(verify(&path, Run { threads: Some(threads), interrupt: None }).unwrap(), findings);
    }
    let stop = AtomicBool::new(true);
    let stopped = verify(&path, Run { threads: None, interrupt: Some(&stop) });
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

/// The data is larger than what one thread takes at a time, and rows do not end where its parts end.
#[test]
fn many_faults_in_many_parts_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (row_len, rows) = (1000u64, 3000u64);
    let mut data = vec![0; (row_len * rows * 4) as usize];
    let bad: Vec<u64> = (0..100).map(|i| i * 29_989).collect();
    for &at in &bad {
        data[at as usize * 4..][..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    }
    write(&path, &[("t", &[row_len, rows], Format::F32.into(), data)]);
    let findings = verify(&path, Run::default()).unwrap();
    assert_eq!(findings.len(), 17);
    for (finding, at) in findings.iter().zip(&bad[..16]) {
        assert_eq!((finding.row, finding.block), (Some(at / row_len), Some(at % row_len)));
    }
    assert_eq!(findings[16].what, "84 more faults");
}

#[test]
fn a_missing_file_is_an_error_and_not_a_finding() {
    assert!(matches!(verify("/nonexistent/m.gguf", Run::default()), Err(Error::Io { .. })));
}
