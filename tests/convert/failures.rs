//! What can go wrong: one clear error, and nothing left behind.

use std::ops::ControlFlow;

use ggquant::convert::{Event, ImatrixPlan, Plan, Progress, Source, TensorPlan, View, convert};
use ggquant::encode::{Run, Weights, encode};
use ggquant::{Error, Format, Result};

use crate::support::{Folder, f32_bytes, inline, make, output, plan, tensor, threads, weights, whole};

/// The error of a plan that must fail, after a look that only the sources are left.
fn failure(folder: &Folder, tensors: Vec<TensorPlan<'static>>, count: usize) -> Error {
    let before = folder.names();
    let error = convert(&plan(folder.path("out.gguf"), tensors), threads(count), &()).unwrap_err();
    assert_eq!(folder.names(), before);
    error
}

#[test]
fn non_finite_weights_are_named() {
    let folder = Folder::new();
    let shape = [3000u64, 256];
    for (bad, format) in [(f32::NAN, "Q4_K"), (f32::INFINITY, "Q8_0"), (f32::NEG_INFINITY, "F32"), (f32::NAN, "BF16")] {
        let mut x = weights(3000 * 256, 1);
        x[1500 * 256 + 17] = bad;
        x[2900 * 256 + 1] = bad;
        let file = folder.source("weights.safetensors", &f32_bytes(&x));
        for count in [1, 4] {
            let error =
                failure(&folder, vec![tensor("blk.0.x", &shape, format, "F32", whole(&file, 0, "F32", &shape))], count);
            assert!(matches!(error, Error::NonFinite { row: 1500, column: 17, .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains("weights.safetensors") && text.contains("'blk.0.x'") && text.contains("row 1500"),
                "{text}"
            );
        }
    }
}

#[test]
fn the_first_fault_is_reported_at_any_number_of_threads() {
    let folder = Folder::new();
    let shape = [400u64, 256];
    let mut files = Vec::new();
    for number in 0..6 {
        let mut x = weights(400 * 256, number);
        if number >= 3 {
            x[5] = f32::NAN;
        }
        files.push(folder.source(&format!("{number}.bin"), &f32_bytes(&x)));
    }
    for count in [1, 2, 7] {
        let tensors = files.iter().enumerate().rev();
        let tensors =
            tensors.map(|(n, file)| tensor(&format!("t{n}"), &shape, "Q6_K", "F32", whole(file, 0, "F32", &shape)));
        let error = failure(&folder, tensors.collect(), count).to_string();
        assert!(error.contains("3.bin") && error.contains("'t3'"), "{error}");
    }
}

#[test]
fn overflow_on_the_way_is_an_error() {
    let folder = Folder::new();
    let mut x = weights(4 * 32, 1);
    x[40] = 1e30;
    let file = folder.source("source", &f32_bytes(&x));
    let made = |to: &str, via: &str| {
        failure(&folder, vec![tensor("t", &[4, 32], to, via, whole(&file, 0, "F32", &[4, 32]))], 1)
    };
    assert!(matches!(made("F16", "F32"), Error::InvalidBlock { row: 1, block: 8, .. }));
    assert!(matches!(made("Q8_0", "F32"), Error::InvalidBlock { row: 1, block: 0, .. }));
    assert!(matches!(made("F32", "F16"), Error::NonFinite { row: 1, column: 8, .. }));
}

#[test]
fn copied_blocks_are_checked() {
    let folder = Folder::new();
    let x = weights(3 * 64, 1);
    let mut blocks = vec![0; 6 * 34];
    encode(Format::Q8_0, Weights::F32(&x), 64, None, &mut blocks, Run::default()).unwrap();
    blocks[3 * 34..][..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    let file = folder.source("model.gguf", &blocks);
    let error = failure(&folder, vec![tensor("t", &[3, 64], "Q8_0", "Q8_0", whole(&file, 0, "Q8_0", &[3, 64]))], 1);
    assert!(matches!(error, Error::InvalidBlock { row: 1, block: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("model.gguf"), "{error}");
}

#[test]
fn views_past_the_end_are_refused() {
    let folder = Folder::new();
    let file = folder.source("short.bin", &[0; 4 * 256 - 1]);
    let view = whole(&file, 0, "F32", &[256]);
    let refused = |view: View| failure(&folder, vec![tensor("t", &[256], "F32", "F32", view)], 1).to_string();
    let text = refused(view.clone());
    assert!(
        text.contains("short.bin") && text.contains("1023") && text.contains("1024") && text.contains("'t'"),
        "{text}"
    );
    refused(View { offset: u64::MAX, ..view.clone() });
    refused(View { start: u64::MAX, ..view.clone() });
    refused(View { strides: vec![u64::MAX], ..view.clone() });
    refused(View { shape: vec![u64::MAX, u64::MAX], strides: vec![1, 1], ..view.clone() });
    refused(View { shape: vec![256], strides: vec![], ..view.clone() });
    refused(View { shape: vec![255], ..view });
    let missing = whole(&folder.path("missing.bin"), 0, "F32", &[256]);
    assert!(refused(missing).contains("missing.bin"));
}

/// Calls a function with the first event, and asks to stop if it says so.
struct First<F: Fn() -> ControlFlow<()>>(F);

impl<F: Fn() -> ControlFlow<()>> Progress for First<F> {
    fn on_event(&self, event: Event<'_>) -> ControlFlow<()> {
        if matches!(event, Event::Finished(report) if report.name == "first") {
            (self.0)()
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// A tensor that is finished at once, and one that takes a while.
fn long(folder: &Folder) -> Plan<'static> {
    let file = folder.source("long.bin", &[]);
    std::fs::File::options().write(true).open(&file).unwrap().set_len(400 << 20).unwrap();
    let shape = [(100 << 20) / 4096, 4096];
    let tensors = vec![
        inline("first", &[0], "F32", vec![]),
        tensor("long", &shape, "Q6_K", "F32", whole(&file, 0, "F32", &shape)),
    ];
    plan(folder.path("out.gguf"), tensors)
}

#[test]
fn a_source_that_shrinks_meanwhile_gives_an_error() {
    let folder = Folder::new();
    let plan = long(&folder);
    let shrink = First(|| {
        std::fs::File::options().write(true).open(folder.path("long.bin")).unwrap().set_len(0).unwrap();
        ControlFlow::Continue(())
    });
    let error = convert(&plan, threads(2), &shrink).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("truncated while it was read") && text.contains("long.bin") && text.contains("'long'"),
        "{text}"
    );
    assert_eq!(folder.names(), ["long.bin"]);
}

#[test]
fn an_interruption_leaves_nothing() {
    let folder = Folder::new();
    let plan = long(&folder);
    let result = convert(&plan, threads(2), &First(|| ControlFlow::Break(())));
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(folder.names(), ["long.bin"]);

    let flag = std::sync::atomic::AtomicBool::new(true);
    let mut options = threads(2);
    options.run.interrupt = Some(&flag);
    assert!(matches!(convert(&plan, options, &()), Err(Error::Interrupted)));
    assert_eq!(folder.names(), ["long.bin"]);
}

#[test]
fn a_panicking_caller_leaves_nothing() {
    let folder = Folder::new();
    let plan = long(&folder);
    let panics = First(|| panic!("the caller's own"));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| convert(&plan, threads(2), &panics)));
    assert!(result.is_err());
    assert_eq!(folder.names(), ["long.bin"]);
}

#[test]
fn an_output_that_is_a_source_is_refused() {
    let folder = Folder::new();
    let file = folder.source("model.gguf", &f32_bytes(&weights(64, 1)));
    std::fs::hard_link(&file, folder.path("hard.gguf")).unwrap();
    let mut names = vec!["model.gguf", "hard.gguf"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&file, folder.path("soft.gguf")).unwrap();
        names.push("soft.gguf");
    }
    let before = std::fs::read(&file).unwrap();
    for name in names {
        let plan = plan(folder.path(name), vec![tensor("t", &[64], "Q8_0", "F32", whole(&file, 0, "F32", &[64]))]);
        let mut options = threads(1);
        options.overwrite = true;
        let error = convert(&plan, options, &()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("also read from"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}

#[test]
fn splits_appear_together_or_not_at_all() {
    let folder = Folder::new();
    let good = weights(64, 1);
    let mut bad = good.clone();
    bad[63] = f32::NAN;
    let good = folder.source("good", &f32_bytes(&good));
    let bad = folder.source("bad", &f32_bytes(&bad));
    let part = |name: &str, file| {
        output(folder.path(name), vec![tensor(name, &[64], "Q8_0", "F32", whole(file, 0, "F32", &[64]))])
    };

    let plan = Plan { outputs: vec![part("1.gguf", &good), part("2.gguf", &bad)] };
    assert!(convert(&plan, threads(2), &()).is_err());
    assert_eq!(folder.names(), ["bad", "good"]);

    let twice = Plan { outputs: vec![part("1.gguf", &good), part("1.gguf", &good)] };
    assert!(convert(&twice, threads(2), &()).unwrap_err().to_string().contains("two outputs"));

    let plan = Plan { outputs: vec![part("1.gguf", &good), part("2.gguf", &good)] };
    let report = convert(&plan, threads(2), &()).unwrap();
    assert_eq!(folder.names(), ["1.gguf", "2.gguf", "bad", "good"]);
    assert_eq!(
        report.tensors.iter().map(|t| (t.output, t.name.as_str())).collect::<Vec<_>>(),
        [(0, "1.gguf"), (1, "2.gguf")]
    );
    assert_eq!(crate::support::written(&plan.outputs[0], 0), crate::support::written(&plan.outputs[1], 0));
}

#[test]
fn an_existing_output_survives_a_failure() {
    let folder = Folder::new();
    let mut x = weights(64, 1);
    x[1] = f32::NAN;
    let file = folder.source("source", &f32_bytes(&x));
    folder.source("out.gguf", b"old");
    let plan = plan(folder.path("out.gguf"), vec![tensor("t", &[64], "Q8_0", "F32", whole(&file, 0, "F32", &[64]))]);
    let mut options = threads(1);
    for overwrite in [false, true] {
        options.overwrite = overwrite;
        assert!(convert(&plan, options, &()).is_err());
        assert_eq!(std::fs::read(folder.path("out.gguf")).unwrap(), b"old");
    }
    assert_eq!(folder.names(), ["out.gguf", "source"]);
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let folder = Folder::new();
    let file = folder.source("source", &f32_bytes(&weights(512, 1)));
    let view = || whole(&file, 0, "F32", &[2, 256]);
    let text = |plan: TensorPlan<'static>| make(&folder, plan, 1).unwrap_err().to_string();

    assert!(text(tensor("t", &[3, 256], "F32", "F32", view())).contains("512 elements where 768"));
    assert!(text(inline("t", &[3], "F32", vec![0; 11])).contains("11 bytes"));
    assert!(text(tensor("t", &[2, 256], "Q4_K", "Q8_0", view())).contains("Q8_0"));
    assert!(text(tensor("t", &[2, 256], "I32", "I32", view())).contains("only ever copied"));

    let mut mixed = tensor("t", &[2, 256], "F32", "F32", view());
    let views = vec![whole(&file, 0, "F32", &[256]), whole(&file, 0, "BF16", &[256])];
    mixed.source = Source::Views { views, ops: vec![] };
    assert!(text(mixed).contains("one type"));
    let mut none = tensor("t", &[2, 256], "F32", "F32", view());
    none.source = Source::Views { views: vec![], ops: vec![] };
    assert!(text(none).contains("no source"));

    let with_imatrix = |format: &str, values: Vec<f32>| -> Result<Vec<u8>> {
        let mut plan = tensor("t", &[2, 256], format, "F32", view());
        plan.imatrix = Some(ImatrixPlan { values: values.into(), rows_per_expert: 2 });
        make(&folder, plan, 1)
    };
    assert!(matches!(with_imatrix("Q4_K", vec![1.0; 255]), Err(Error::Imatrix { .. })));
    assert!(matches!(with_imatrix("Q4_K", vec![f32::NAN; 256]), Err(Error::Imatrix { .. })));
    assert!(with_imatrix("Q4_K", vec![1.0; 256]).is_ok());
    assert!(matches!(
        make(&folder, tensor("t", &[2, 256], "IQ2_XXS", "F32", view()), 1),
        Err(Error::ImatrixRequired { .. })
    ));
}
