//! The row driver: the same bytes at any number of threads and from any float type, and the errors it promises.

use std::sync::atomic::AtomicBool;

use ggquant::encode::{Imatrix, Run, Weights, decode, encode};
use ggquant::{Error, Format, ImatrixUse, Result};
use half::{bf16, f16};

const ROW: usize = 512;

/// Enough rows for several tasks.
const ROWS: usize = 300;

fn weights(count: usize) -> Vec<f32> {
    let mut state = 7u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        })
        .collect()
}

fn threads(count: usize) -> Run<'static> {
    Run { threads: Some(count), interrupt: None }
}

fn encoded(format: Format, x: Weights<'_>, imatrix: Option<Imatrix<'_>>, run: Run<'_>) -> Result<Vec<u8>> {
    let mut out = vec![0; x.len() / ROW * format.info().row_bytes(ROW).unwrap()];
    encode(format, x, ROW, imatrix, &mut out, run).map(|()| out)
}

#[test]
fn every_format_row_by_row_is_the_reference() {
    let x = weights(ROWS * ROW);
    let importance: Vec<f32> = weights(ROW).iter().map(|v| v * v + 0.01).collect();
    for &format in Format::ALL.iter().filter(|f| f.info().storage && f.info().imatrix != ImatrixUse::Required) {
        // The slow searches get fewer rows, still more than one task.
        let x = if format.info().name.starts_with("IQ") { &x[..100 * ROW] } else { &x[..] };
        for weighted in [false, true] {
            let imatrix = weighted.then_some(Imatrix { values: &importance, rows_per_expert: ROWS });
            let row_bytes = format.info().row_bytes(ROW).unwrap();
            let mut expected = vec![0; x.len() / ROW * row_bytes];
            for (row, out) in x.chunks(ROW).zip(expected.chunks_mut(row_bytes)) {
                (format.reference().encode_row)(row, imatrix.map(|i| i.values), out);
            }
            assert!(encoded(format, Weights::F32(x), imatrix, threads(3)).unwrap() == expected, "{format} {weighted}");
            let mut back = vec![0.0; x.len()];
            decode(format, &expected, ROW, &mut back, threads(3)).unwrap();
            let mut reference = vec![0.0; x.len()];
            (format.reference().decode_row)(&expected, &mut reference);
            assert!(back == reference, "{format}");
        }
    }
}

#[test]
fn thread_counts_and_float_types_do_not_matter() {
    let narrow: Vec<f16> = weights(ROWS * ROW).into_iter().map(f16::from_f32).collect();
    let brain: Vec<bf16> = weights(ROWS * ROW).into_iter().map(bf16::from_f32).collect();
    let from_narrow: Vec<f32> = narrow.iter().map(|v| v.to_f32()).collect();
    let from_brain: Vec<f32> = brain.iter().map(|v| v.to_f32()).collect();
    for format in [Format::Q4_K, Format::Q5_0, Format::BF16] {
        let plain = encoded(format, Weights::F32(&from_narrow), None, threads(1)).unwrap();
        for count in [1, 2, 5, 64] {
            assert!(encoded(format, Weights::F32(&from_narrow), None, threads(count)).unwrap() == plain);
            assert!(encoded(format, Weights::F16(&narrow), None, threads(count)).unwrap() == plain);
        }
        assert!(encoded(format, Weights::F16(&narrow), None, Run::default()).unwrap() == plain);
        let plain = encoded(format, Weights::F32(&from_brain), None, threads(1)).unwrap();
        assert!(encoded(format, Weights::BF16(&brain), None, threads(2)).unwrap() == plain);
    }
}

#[test]
fn experts_switch_importances_inside_a_task() {
    let x = weights(6 * ROW);
    let importance: Vec<f32> = weights(3 * ROW).iter().map(|v| v * v + 0.01).collect();
    let together = Imatrix { values: &importance, rows_per_expert: 2 };
    let whole = encoded(Format::Q4_0, Weights::F32(&x), Some(together), threads(2)).unwrap();
    for (expert, bytes) in whole.chunks(whole.len() / 3).enumerate() {
        let alone = Imatrix { values: &importance[expert * ROW..][..ROW], rows_per_expert: 2 };
        let rows = Weights::F32(&x[expert * 2 * ROW..][..2 * ROW]);
        assert_eq!(encoded(Format::Q4_0, rows, Some(alone), threads(1)).unwrap(), bytes);
    }
    let plain = encoded(Format::Q4_0, Weights::F32(&x), None, threads(1)).unwrap();
    assert_ne!(plain, whole);
}

#[test]
fn the_first_bad_weight_is_named_at_any_number_of_threads() {
    let mut x = weights(ROWS * ROW);
    x[200 * ROW + 3] = f32::INFINITY;
    x[250 * ROW] = f32::NAN;
    for count in [1, 2, 8] {
        let error = encoded(Format::Q4_K, Weights::F32(&x), None, threads(count)).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 200, column: 3, value: f32::INFINITY, .. }), "{error:?}");
    }
    let halves: Vec<f16> = x.iter().map(|v| f16::from_f32(*v)).collect();
    let error = encoded(Format::Q8_0, Weights::F16(&halves), None, threads(2)).unwrap_err();
    assert!(matches!(error, Error::NonFinite { row: 200, column: 3, .. }));
}

/// Formats of which each weight is looked at once.
const PLAIN: [Format; 11] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_0,
    Format::TQ1_0,
    Format::TQ2_0,
    Format::MXFP4,
    Format::NVFP4,
    Format::Q1_0,
];

#[test]
fn plain_formats_read_floats_of_any_kind() {
    for format in PLAIN {
        // An odd number of blocks; a few of them of equal magnitudes, zeros, or very small.
        let mut x = weights(3 * 5 * 256);
        x[..32].iter_mut().enumerate().for_each(|(i, v)| *v = if i % 2 == 0 { 1.5 } else { -1.5 });
        x[300..700].fill(0.0);
        x[1000..1100].iter_mut().for_each(|v| *v *= 1e-38);
        let brain: Vec<bf16> = x.iter().map(|v| bf16::from_f32(*v)).collect();
        let narrow: Vec<f16> = x.iter().map(|v| f16::from_f32(*v)).collect();
        for (weights, wide) in [
            (Weights::BF16(&brain), brain.iter().map(|v| v.to_f32()).collect::<Vec<_>>()),
            (Weights::F16(&narrow), narrow.iter().map(|v| v.to_f32()).collect()),
            (Weights::F32(&x), x.clone()),
        ] {
            let row_bytes = format.info().row_bytes(5 * 256).unwrap();
            let mut expected = vec![0; 3 * row_bytes];
            for (row, out) in wide.chunks(5 * 256).zip(expected.chunks_mut(row_bytes)) {
                (format.reference().encode_row)(row, None, out);
            }
            let mut got = vec![0x5a; expected.len()];
            ggquant::encode::encode(format, weights, 5 * 256, None, &mut got, threads(1)).unwrap();
            assert!(got == expected, "{format}");
        }
    }
}

#[test]
fn plain_formats_notice_what_is_not_finite_anywhere() {
    for format in PLAIN {
        for at in [0, 1, 31, 32, 100, 255, 256, 511] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                // Also among zeros, whose scale is 0.
                for mut x in [weights(512), vec![0.0; 512]] {
                    x[at] = bad;
                    let brain: Vec<bf16> = x.iter().map(|v| bf16::from_f32(*v)).collect();
                    let narrow: Vec<f16> = x.iter().map(|v| f16::from_f32(*v)).collect();
                    for weights in [Weights::F32(&x), Weights::BF16(&brain), Weights::F16(&narrow)] {
                        let mut out = vec![0; format.info().row_bytes(512).unwrap()];
                        let error =
                            ggquant::encode::encode(format, weights, 512, None, &mut out, threads(1)).unwrap_err();
                        assert!(matches!(error, Error::NonFinite { row: 0, column, .. } if column == at), "{format}");
                    }
                }
            }
        }
        // The largest finite weights are no error, even where their range overflows.
        let mut x = weights(512);
        (x[3], x[9]) = (f32::MAX, -f32::MAX);
        let mut out = vec![0; format.info().row_bytes(512).unwrap()];
        ggquant::encode::encode(format, Weights::F32(&x), 512, None, &mut out, threads(1)).unwrap();
    }
}

#[test]
fn importances_are_checked() {
    let x = weights(4 * ROW);
    let error = |values: &[f32], rows_per_expert| {
        let imatrix = Some(Imatrix { values, rows_per_expert });
        match encoded(Format::Q4_K, Weights::F32(&x), imatrix, threads(1)) {
            Err(Error::Imatrix { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let good = vec![1.0; 2 * ROW];
    assert!(
        encoded(Format::Q4_K, Weights::F32(&x), Some(Imatrix { values: &good, rows_per_expert: 2 }), threads(1))
            .is_ok()
    );
    assert!(error(&good, 4).contains("1 x 512"));
    assert!(error(&good[..ROW], 2).contains("2 x 512"));
    assert!(error(&good, 3).contains("experts of 3"));
    assert!(error(&good, 0).contains("must not be 0"));
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let mut values = good.clone();
        values[ROW + 9] = bad;
        assert!(error(&values, 2).contains("column 9 of expert 1"));
    }
    for format in [Format::IQ2_XXS, Format::IQ2_XS, Format::IQ1_S] {
        let result = encoded(format, Weights::F32(&x), None, threads(1));
        assert!(matches!(result, Err(Error::ImatrixRequired { .. })), "{format}");
    }
}

#[test]
fn lengths_are_checked() {
    let x = weights(2 * ROW);
    let run = |len: usize, row_len: usize, out: usize| {
        encode(Format::Q4_K, Weights::F32(&x[..len]), row_len, None, &mut vec![0; out], threads(1))
    };
    assert!(run(2 * ROW, ROW, 4 * 144).is_ok());
    assert!(run(0, ROW, 0).is_ok());
    assert!(matches!(run(2 * ROW, 320, 0), Err(Error::RowLength { len: 320, format: Format::Q4_K, .. })));
    assert!(matches!(run(2 * ROW, 0, 0), Err(Error::Shape { .. })));
    assert!(matches!(run(2 * ROW - 1, ROW, 4 * 144), Err(Error::Shape { .. })));
    assert!(matches!(run(2 * ROW, ROW, 4 * 144 - 1), Err(Error::Shape { .. })));
    let mut out = vec![0.0; 2 * ROW];
    assert!(matches!(decode(Format::Q4_K, &[0; 143], ROW, &mut out, threads(1)), Err(Error::Shape { .. })));
    assert!(matches!(decode(Format::Q4_K, &[0; 144], 100, &mut out, threads(1)), Err(Error::RowLength { .. })));

    let text = run(2 * ROW, 320, 0).unwrap_err().to_string();
    assert!(text.contains("320") && text.contains("Q4_K") && text.contains("256"), "{text}");
    let error = encoded(Format::Q8_1, Weights::F32(&x), None, threads(1)).unwrap_err().to_string();
    assert!(error.contains("Q8_1"), "{error}");
    assert!(encoded(Format::Q8_0, Weights::F32(&x), None, threads(0)).unwrap_err().to_string().contains("0 threads"));
}

#[test]
fn an_interruption_stops_the_work() {
    let x = weights(ROWS * ROW);
    let flag = AtomicBool::new(true);
    let run = Run { threads: Some(2), interrupt: Some(&flag) };
    assert!(matches!(encoded(Format::Q4_K, Weights::F32(&x), None, run), Err(Error::Interrupted)));
    flag.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(encoded(Format::Q4_K, Weights::F32(&x), None, run).is_ok());
}
