//! Element types, rounding, encoding in pieces, importance matrices: against one call of the encoder on everything.

use ggquant::Format;
use ggquant::convert::{ImatrixPlan, Op, Plan, Source, View, convert};
use ggquant::encode::{Imatrix, Run, Weights, encode};
use half::{bf16, f16};

use crate::support::{Folder, dtype, f32_bytes, inline, make, output, tensor, threads, weights, whole, written};

fn encoded(format: Format, x: &[f32], row_len: usize, imatrix: Option<Imatrix<'_>>) -> Vec<u8> {
    let mut out = vec![0; x.len() / row_len * format.info().row_bytes(row_len).unwrap()];
    encode(format, Weights::F32(x), row_len, imatrix, &mut out, Run::default()).unwrap();
    out
}

/// Bytes of `x` in a source type, and what the type makes of the values.
fn stored(kind: &str, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    match kind {
        "F32" => (f32_bytes(x), x.to_vec()),
        "F64" => (x.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(), x.to_vec()),
        "F16" => {
            let values: Vec<_> = x.iter().map(|v| f16::from_f32(*v)).collect();
            (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.iter().map(|v| v.to_f32()).collect())
        }
        "BF16" => {
            let values: Vec<_> = x.iter().map(|v| bf16::from_f32(*v)).collect();
            (values.iter().flat_map(|v| v.to_le_bytes()).collect(), values.iter().map(|v| v.to_f32()).collect())
        }
        "F8_E4M3" => {
            // Codes 0x00..0x7e cover all finite magnitudes.
            let codes: Vec<u8> =
                x.iter().map(|v| ((v.to_bits() >> 9) as u8 % 0x7f) | ((v.to_bits() >> 24) as u8 & 0x80)).collect();
            let value = |code: u8| {
                let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
                let magnitude =
                    if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
                if code & 0x80 == 0 { magnitude } else { -magnitude }
            };
            let values = codes.iter().map(|&code| value(code)).collect();
            (codes, values)
        }
        _ => unreachable!(),
    }
}

#[test]
fn every_source_type_into_every_kind_of_format() {
    let folder = Folder::new();
    let (rows, row_len) = (1100, 512);
    let x = weights(rows * row_len, 1);
    for kind in ["F32", "F64", "F16", "BF16", "F8_E4M3"] {
        let (bytes, values) = stored(kind, &x);
        let file = folder.source(kind, &bytes);
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::Q6_K] {
            let shape = [rows as u64, row_len as u64];
            let plan = tensor("t", &shape, format.info().name, "F32", whole(&file, 0, kind, &shape));
            assert!(make(&folder, plan, 2).unwrap() == encoded(format, &values, row_len, None), "{kind} to {format}");
        }
    }
}

#[test]
fn values_are_rounded_to_the_intermediate_type() {
    let folder = Folder::new();
    let x = weights(64 * 256, 2);
    let file = folder.source("source", &f32_bytes(&x));
    let view = || whole(&file, 0, "F32", &[64, 256]);
    let as_bf16: Vec<f32> = x.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
    let as_f16: Vec<f32> = x.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    let made = |to: &str, via: &str| make(&folder, tensor("t", &[64, 256], to, via, view()), 2).unwrap();
    assert_eq!(made("Q4_K", "BF16"), encoded(Format::Q4_K, &as_bf16, 256, None));
    assert_eq!(made("Q4_K", "F16"), encoded(Format::Q4_K, &as_f16, 256, None));
    assert_ne!(made("Q4_K", "F32"), made("Q4_K", "BF16"));
    assert_eq!(made("F32", "BF16"), f32_bytes(&as_bf16));
    assert_eq!(made("BF16", "BF16"), encoded(Format::BF16, &x, 256, None));
}

#[test]
fn operations_are_applied_in_order_before_rounding() {
    let folder = Folder::new();
    let (bytes, values) = stored("BF16", &weights(96, 3));
    let file = folder.source("source", &bytes);
    let make = |ops: Vec<Op>, to: &str, via: &str| {
        let mut plan = tensor("t", &[96], to, via, whole(&file, 0, "BF16", &[96]));
        let Source::Views { views, .. } = plan.source else { unreachable!() };
        plan.source = Source::Views { views, ops };
        make(&folder, plan, 1).unwrap()
    };
    let expect = |f: &dyn Fn(f32) -> f32| f32_bytes(&values.iter().map(|v| f(*v)).collect::<Vec<_>>());
    assert_eq!(make(vec![Op::Add(1.0)], "F32", "F32"), expect(&|v| v + 1.0));
    assert_eq!(make(vec![Op::Add(1.0), Op::Mul(3.0)], "F32", "F32"), expect(&|v| (v + 1.0) * 3.0));
    assert_eq!(make(vec![Op::Mul(3.0), Op::Add(1.0)], "F32", "F32"), expect(&|v| v * 3.0 + 1.0));
    assert_eq!(make(vec![Op::NegExp], "F32", "F32"), expect(&|v| (-(f64::from(v).exp())) as f32));
    assert_eq!(make(vec![Op::Add(1.0)], "F32", "BF16"), expect(&|v| bf16::from_f32(v + 1.0).to_f32()));
    assert!(Op::named("add", 1.0).is_ok() && Op::named("sub", 1.0).is_err());
}

#[test]
fn files_are_equal_at_any_number_of_threads() {
    let folder = Folder::new();
    let x = weights(3000 * 256, 4);
    let file = folder.source("source", &f32_bytes(&x));
    let make = |count: usize| {
        let shape = [3000, 256];
        let tensors = vec![
            tensor("a", &shape, "Q4_K", "F32", whole(&file, 0, "F32", &shape)),
            inline("b", &[3], "F32", f32_bytes(&[1.0, 2.0, 3.0])),
            tensor("c", &[6000, 128], "Q5_0", "BF16", whole(&file, 0, "F32", &[6000, 128])),
            tensor("d", &[300], "F32", "F32", whole(&file, 400, "F32", &[300])),
        ];
        let plan = Plan { outputs: vec![output(folder.path(&format!("{count}.gguf")), tensors)] };
        convert(&plan, threads(count), &()).unwrap();
        assert_eq!(written(&plan.outputs[0], 0), encoded(Format::Q4_K, &x, 256, None));
        assert_eq!(written(&plan.outputs[0], 1), f32_bytes(&[1.0, 2.0, 3.0]));
        assert_eq!(written(&plan.outputs[0], 3), f32_bytes(&x[100..400]));
        std::fs::read(&plan.outputs[0].path).unwrap()
    };
    let one = make(1);
    for count in [2, 3, 8, 33] {
        assert!(make(count) == one, "{count} threads");
    }
}

#[test]
fn each_expert_has_its_own_importances() {
    let folder = Folder::new();
    let (experts, rows, row_len) = (5, 70, 512);
    // One file for each expert, as mixture-of-experts checkpoints store them.
    let x: Vec<Vec<f32>> = (0..experts).map(|e| weights(rows * row_len, 10 + e)).collect();
    let views: Vec<View> = x
        .iter()
        .enumerate()
        .map(|(e, x)| {
            let file = folder.source(&format!("expert {e}"), &f32_bytes(x));
            whole(&file, 0, "F32", &[1, rows as u64, row_len as u64])
        })
        .collect();
    let values: Vec<f32> = weights(experts as usize * row_len, 99).iter().map(|v| v * v + 0.001).collect();
    let shape = [u64::from(experts), rows as u64, row_len as u64];
    let mut plan = tensor("t", &shape, "Q4_K", "F32", views[0].clone());
    plan.source = Source::Views { views, ops: vec![] };
    plan.imatrix = Some(ImatrixPlan { values: values.clone().into(), rows_per_expert: rows as u64 });
    let expected: Vec<u8> = x
        .iter()
        .zip(values.chunks(row_len))
        .flat_map(|(x, w)| encoded(Format::Q4_K, x, row_len, Some(Imatrix { values: w, rows_per_expert: rows })))
        .collect();
    let plain: Vec<u8> = x.iter().flat_map(|x| encoded(Format::Q4_K, x, row_len, None)).collect();
    assert_ne!(expected, plain);
    for count in [1, 4] {
        assert!(make(&folder, plan.clone(), count).unwrap() == expected);
    }
}

#[test]
fn quantized_sources_are_decoded_or_copied() {
    let folder = Folder::new();
    let x = weights(40 * 256, 5);
    let blocks = encoded(Format::Q8_0, &x, 256, None);
    let file = folder.source("source", &blocks);
    let made =
        |to: &str| make(&folder, tensor("t", &[40, 256], to, "Q8_0", whole(&file, 0, "Q8_0", &[40, 256])), 2).unwrap();
    assert_eq!(made("Q8_0"), blocks);
    let mut values = vec![0.0; x.len()];
    ggquant::encode::decode(Format::Q8_0, &blocks, 256, &mut values, Run::default()).unwrap();
    assert_eq!(made("F32"), f32_bytes(&values));
    assert_eq!(made("Q4_K"), encoded(Format::Q4_K, &values, 256, None));
}

#[test]
fn integers_become_floats_or_stay() {
    let folder = Folder::new();
    let numbers = [0i64, -1, 16_777_217, i64::MAX, i64::MIN, 12_345_678_901];
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let file = folder.source("source", &bytes);
    let view = || whole(&file, 0, "I64", &[6]);
    assert_eq!(make(&folder, tensor("t", &[6], "I64", "I64", view()), 1).unwrap(), bytes);
    let floats = [0.0, -1.0, 16_777_216.0, 9.223372e18, -9.223372e18, 12_345_679_000.0];
    assert_eq!(make(&folder, tensor("t", &[6], "F32", "F32", view()), 1).unwrap(), f32_bytes(&floats));
    let error = make(&folder, tensor("t", &[6], "I32", "F32", view()), 1).unwrap_err().to_string();
    assert!(error.contains("only ever copied"), "{error}");
    assert_eq!(dtype("BOOL").unit(), (1, 1));
}
