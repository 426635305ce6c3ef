//! Strided views against indexing written out.

use ggquant::convert::{Source, View};
use proptest::prelude::*;

use crate::support::{Folder, dtype, make, tensor, whole};

/// Every element of a view, one by one.
fn naive(data: &[u8], unit: usize, view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    let count: u64 = view.shape.iter().product();
    for flat in 0..count {
        let (mut rest, mut at) = (flat, view.start);
        for (&len, &stride) in view.shape.iter().zip(&view.strides).rev() {
            at += rest % len * stride;
            rest /= len;
        }
        let from = view.offset as usize + at as usize * unit;
        out.extend_from_slice(&data[from..from + unit]);
    }
    out
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect()
}

/// A tensor's shape, then for each axis of a view: which axis of the tensor, its first index and its length.
#[derive(Debug, Clone)]
struct Case {
    shape: Vec<u64>,
    axes: Vec<usize>,
    cuts: Vec<(u64, u64)>,
    offset: u64,
    kind: &'static str,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        prop::collection::vec(1u64..6, 1..5),
        prop::collection::vec(1u64..40, 1..4),
        (1u64..4, 20u64..120, 100u64..300).prop_map(|(a, b, c)| vec![a, b, c]),
        (100u64..400, 100u64..400).prop_map(|(a, b)| vec![a, b]),
    ];
    let kind = prop_oneof![Just("I8"), Just("I16"), Just("I32"), Just("I64")];
    (shape, kind, 0u64..100).prop_flat_map(|(shape, kind, offset)| {
        let axes = Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle();
        let cuts: Vec<_> = shape.iter().map(|&len| (0..len).prop_flat_map(move |a| (Just(a), 1..=len - a))).collect();
        (Just(shape), axes, cuts, Just(offset), Just(kind)).prop_map(|(shape, axes, cuts, offset, kind)| Case {
            shape,
            axes,
            cuts,
            offset,
            kind,
        })
    })
}

impl Case {
    /// Slices, then reorders axes.
    fn view(&self, file: &std::path::Path) -> View {
        let base = whole(file, self.offset, self.kind, &self.shape);
        let start = self.cuts.iter().zip(&base.strides).map(|((first, _), stride)| first * stride).sum();
        let shape = self.axes.iter().map(|&axis| self.cuts[axis].1).collect();
        let strides = self.axes.iter().map(|&axis| base.strides[axis]).collect();
        View { shape, strides, start, ..base }
    }

    fn bytes(&self) -> usize {
        self.offset as usize + self.shape.iter().product::<u64>() as usize * dtype(self.kind).unit().1
    }
}

/// Rows of a view as a matrix, for the tensor's shape.
fn matrix(view: &View) -> [u64; 2] {
    let columns = *view.shape.last().unwrap();
    [view.shape.iter().product::<u64>() / columns, columns]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_slice_of_any_axis_order(case in case()) {
        let folder = Folder::new();
        let data = pattern(case.bytes());
        let view = case.view(&folder.source("source", &data));
        let expected = naive(&data, dtype(case.kind).unit().1, &view);
        let plan = tensor("t", &matrix(&view), case.kind, case.kind, view);
        prop_assert_eq!(make(&folder, plan, 2).unwrap(), expected);
    }

    #[test]
    fn views_are_concatenated(cases in prop::collection::vec(case(), 1..5)) {
        let folder = Folder::new();
        let (mut expected, mut views, mut count) = (Vec::new(), Vec::new(), 0);
        for (number, case) in cases.into_iter().enumerate() {
            let case = Case { kind: "I16", ..case };
            let data = pattern(case.bytes());
            let view = case.view(&folder.source(&format!("source {number}"), &data));
            expected.extend(naive(&data, 2, &view));
            count += view.shape.iter().product::<u64>();
            views.push(view);
        }
        let mut plan = tensor("t", &[1, count], "I16", "I16", views[0].clone());
        plan.source = Source::Views { views, ops: vec![] };
        prop_assert_eq!(make(&folder, plan, 2).unwrap(), expected);
    }
}

/// Larger than every limit: read in several bands, each of several spans.
#[test]
fn a_large_transposed_matrix() {
    let folder = Folder::new();
    let (rows, columns) = (5000u64, 3001u64);
    let data = pattern((rows * columns * 2) as usize);
    let base = whole(&folder.source("source", &data), 0, "I16", &[rows, columns]);
    let view = View { shape: vec![columns, rows], strides: vec![1, columns], ..base };
    let expected = naive(&data, 2, &view);
    assert!(make(&folder, tensor("t", &[columns, rows], "I16", "I16", view), 2).unwrap() == expected);
}

/// The rows of each attention head, halves interleaved: how query and key projections of llama are stored.
#[test]
fn rows_permuted_within_heads() {
    let folder = Folder::new();
    let (heads, half, columns) = (8u64, 64u64, 4096u64);
    let data = pattern((heads * 2 * half * columns * 2) as usize);
    let base = whole(&folder.source("source", &data), 0, "I16", &[heads, 2, half, columns]);
    let view = View {
        shape: vec![heads, half, 2, columns],
        strides: vec![2 * half * columns, columns, half * columns, 1],
        ..base
    };
    let expected = naive(&data, 2, &view);
    assert!(make(&folder, tensor("t", &[heads * half * 2, columns], "I16", "I16", view), 2).unwrap() == expected);
}

/// Few columns of a wide matrix, so that whole spans are not worth reading.
#[test]
fn a_narrow_slice_of_a_wide_matrix() {
    let folder = Folder::new();
    let (rows, columns) = (40u64, 100_000u64);
    let data = pattern((rows * columns * 2) as usize);
    let base = whole(&folder.source("source", &data), 0, "I16", &[rows, columns]);
    let view = View { shape: vec![rows, 3], strides: vec![columns, 1], start: 50_000, ..base };
    let expected = naive(&data, 2, &view);
    assert_eq!(make(&folder, tensor("t", &[rows, 3], "I16", "I16", view), 2).unwrap(), expected);
}

/// Neighbours in the file that are far apart in the result, next to elements too far away for one span: halving leaves
/// boxes that are contiguous on one side only.
#[test]
fn contiguous_in_the_file_but_not_in_the_result() {
    let folder = Folder::new();
    let shape = [3u64, 70, 138];
    let data = pattern((3 * 70 * 138 * 8) as usize);
    let base = whole(&folder.source("source", &data), 0, "I64", &shape);
    let view = View { shape: vec![2, 2], strides: vec![1, 70 * 138], start: 2 * 138, ..base };
    let expected = naive(&data, 8, &view);
    assert_eq!(make(&folder, tensor("t", &[2, 2], "I64", "I64", view), 2).unwrap(), expected);
}

#[test]
fn quantized_views_keep_whole_blocks() {
    let folder = Folder::new();
    // Four rows of two Q8_0 blocks; block b is filled with the byte b, and has a small scale.
    let data: Vec<u8> = (0..8u8).flat_map(|block| [[0, 0x20].as_slice(), &[block; 32]].concat()).collect();
    let base = whole(&folder.source("source", &data), 0, "Q8_0", &[4, 64]);
    let swapped = View { shape: vec![2, 2, 64], strides: vec![64, 128, 1], ..base.clone() };
    let bytes = make(&folder, tensor("t", &[4, 64], "Q8_0", "Q8_0", swapped), 1).unwrap();
    let order: Vec<u8> = bytes.chunks(34).map(|block| block[2]).collect();
    assert_eq!(order, [0, 1, 4, 5, 2, 3, 6, 7]);

    let cut = View { shape: vec![4, 48], ..base };
    let error = make(&folder, tensor("t", &[4, 48], "F32", "F32", cut), 1).unwrap_err().to_string();
    assert!(error.contains("whole blocks of 32") && error.contains("'t'"), "{error}");
}
