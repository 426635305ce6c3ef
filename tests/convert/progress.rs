//! Events and reports.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::thread::ThreadId;

use ggquant::convert::{Event, Progress, convert};

use crate::support::{Folder, f32_bytes, inline, plan, tensor, threads, weights, whole};

/// Writes down all events. Not `Sync`: events come from the caller's thread alone.
#[derive(Default)]
struct Log {
    steps: RefCell<Vec<(u64, u64)>>,
    finished: RefCell<Vec<String>>,
    threads: RefCell<Vec<ThreadId>>,
    committing: RefCell<usize>,
}

impl Progress for Log {
    fn on_event(&self, event: Event<'_>) -> ControlFlow<()> {
        self.threads.borrow_mut().push(std::thread::current().id());
        match event {
            Event::Progress { done, total, .. } => self.steps.borrow_mut().push((done, total)),
            Event::Finished(report) => self.finished.borrow_mut().push(report.name.clone()),
            Event::Committing => *self.committing.borrow_mut() += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn progress_is_told_from_the_callers_thread_and_adds_up() {
    let folder = Folder::new();
    let file = folder.source("source", &f32_bytes(&weights(4000 * 256, 1)));
    let shape = [4000, 256];
    let tensors = vec![
        tensor("b", &shape, "Q4_K", "F32", whole(&file, 0, "F32", &shape)),
        inline("a", &[2], "F32", f32_bytes(&[1.0, 2.0])),
        inline("empty", &[0], "F32", vec![]),
    ];
    let plan = plan(folder.path("out.gguf"), tensors);
    let log = Log::default();
    let report = convert(&plan, threads(2), &log).unwrap();

    assert!(log.threads.borrow().iter().all(|id| *id == std::thread::current().id()));
    let steps = log.steps.borrow();
    assert!(steps.is_sorted());
    assert_eq!(steps.last(), Some(&(4000 * 256 * 4 + 8, 4000 * 256 * 4 + 8)));
    let mut finished = log.finished.borrow().clone();
    finished.sort();
    assert_eq!(finished, ["a", "b", "empty"]);
    assert_eq!(*log.committing.borrow(), 1);

    let names: Vec<_> = report.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "empty"]);
    let first = &report.tensors[0];
    assert_eq!((first.bytes_in, first.bytes_out, first.shape.as_slice()), (4000 * 256 * 4, 4000 * 144, &shape[..]));
    assert_eq!(first.from.map(|ty| ty.name()), Some("F32"));
    assert_eq!(report.bytes_written, std::fs::metadata(folder.path("out.gguf")).unwrap().len());
}
