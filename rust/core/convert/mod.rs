//! Conversion: plan -> stream -> encode -> positioned write.
//!
//! Every offset of the outputs is known from the plan, so the order of the work is free. One thread reads ahead, in the
//! order of the source files; the workers decode, round and encode; one thread writes; the caller's thread reports
//! progress and notices interruptions. Pieces of several tensors are under way at once, so that small tensors cost no
//! waiting, and large ones are cut into pieces of whole rows. Since a row is encoded without looking at any other, the
//! bytes depend neither on the number of threads nor on where tensors are cut.
//!
//! Memory is bounded by the two stores of buffers between the stages, whatever the sizes of files and tensors.

mod buffers;
mod dtype;
mod gather;
mod job;
mod journal;
mod linear;
mod packed;
mod pipeline;
mod plan;
mod progress;
mod source;
mod step;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Instant;

pub use dtype::SourceType;
pub use linear::{read_codes, read_packed};
pub use plan::{
    Coding, Grouping, ImatrixPlan, Lattice, Op, OutputFile, PackedWeights, Plan, Source, TensorPlan, View, Zeros,
    ggml_type,
};
pub use progress::{Event, Progress, Report, TensorReport};

use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::gguf::AtomicFile;
use job::Job;
use journal::Journal;
use source::SourceFiles;

/// How a conversion runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Workers, and a flag to stop. The threads that read, write and report are not counted.
    pub run: Run<'a>,
    /// Whether outputs may replace existing files.
    pub overwrite: bool,
    /// Whether a failure keeps what is done, and what an earlier such run left is taken up. Every piece that is taken over
    /// is verified by digests of its source and its result.
    pub resume: bool,
    /// Most bytes of buffers; `None` for the default of 72 MiB. A single piece may take more.
    pub max_buffer: Option<usize>,
}

/// Carries out `plan`.
///
/// Outputs appear under their names together, when all of them are whole; after any failure nothing is left behind and
/// files that existed before are as they were. With `resume`, hidden files beside the outputs stay after a failure.
///
/// # Errors
/// Everything in [`Error`], with file and tensor. If several tensors are at fault, the first in the order of the source
/// files is named, at any number of threads.
pub fn convert(plan: &Plan<'_>, options: Options<'_>, progress: &dyn Progress) -> Result<Report> {
    let started = Instant::now();
    let threads = options.run.thread_count()?;
    let mut sources = SourceFiles::default();
    let jobs = jobs(plan, &mut sources)?;
    refuse_clashes(plan, &sources)?;
    let (outputs, journal) = match options.resume {
        true => Journal::open(plan, options.overwrite)?,
        false => (create(plan, options.overwrite)?, None),
    };
    for (file, output) in outputs.iter().zip(&plan.outputs) {
        file.set_len(output.layout.file_len)?;
        file.write_all_at(&output.layout.header, 0)?;
    }
    let targets = pipeline::Targets { outputs: &outputs, journal: journal.as_ref() };
    let (tensors, bytes_reused) = pipeline::stream(&jobs, targets, threads, options, progress)?;
    if progress.on_event(Event::Committing) == ControlFlow::Break(()) || options.run.interrupted() {
        return Err(Error::Interrupted);
    }
    AtomicFile::commit_all(outputs)?;
    if let Some(journal) = journal {
        journal.remove();
    }
    let bytes_written = plan.outputs.iter().map(|output| output.layout.file_len).sum();
    Ok(Report { tensors, bytes_written, bytes_reused, elapsed: started.elapsed() })
}

/// Checks all tensors against their sources and their places in the outputs.
fn jobs<'p>(plan: &'p Plan<'_>, sources: &mut SourceFiles) -> Result<Vec<Job<'p>>> {
    let mut jobs = Vec::new();
    for (number, output) in plan.outputs.iter().enumerate() {
        let layout = &output.layout;
        if layout.offsets.len() != output.tensors.len() || layout.nbytes.len() != output.tensors.len() {
            let what = format!("{} tensors are planned, {} laid out", output.tensors.len(), layout.offsets.len());
            return Err(Error::Shape { at: At::file(&output.path), what });
        }
        for index in 0..output.tensors.len() {
            jobs.push(Job::new(number, output, index, sources)?);
        }
    }
    Ok(jobs)
}

/// Refuses outputs that are sources, or each other.
fn refuse_clashes(plan: &Plan<'_>, sources: &SourceFiles) -> Result<()> {
    let mut paths = HashSet::new();
    for output in &plan.outputs {
        sources.refuse_output(&output.path)?;
        if !paths.insert(&output.path) {
            let what = "is the path of two outputs".to_owned();
            return Err(Error::Unsupported { at: At::file(&output.path), what });
        }
    }
    Ok(())
}

/// Creates the outputs under temporary names.
fn create(plan: &Plan<'_>, overwrite: bool) -> Result<Vec<AtomicFile>> {
    plan.outputs.iter().map(|output| AtomicFile::create(&output.path, overwrite)).collect()
}
