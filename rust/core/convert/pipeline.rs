//! The stages and what flows between them.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::Options;
use super::buffers::{Buffer, Buffers};
use super::job::{Elements, Input, Job};
use super::journal::{Journal, Slot, result_digest, source_digest};
use super::progress::{Event, Progress, TensorReport};
use super::source::read_exact_at;
use super::step::Step;
use crate::encode::{FirstError, Run};
use crate::error::{At, Error, Result};
use crate::gguf::AtomicFile;

/// Bytes of buffers unless the caller sets a limit. Two thirds hold source bytes, read ahead or being encoded, one third
/// holds encoded bytes that wait to be written.
const BUFFER_LIMIT: usize = 72 << 20;

/// How often the caller hears of the work, and is asked whether to go on.
const TICK: Duration = Duration::from_millis(50);

/// A piece of a tensor on its way to a worker.
struct Task<'s> {
    /// Position in the order of reading.
    number: usize,
    job: usize,
    /// First element.
    first: usize,
    data: Data<'s>,
}

/// A piece of a tensor on its way to an output.
struct Write<'s> {
    number: usize,
    job: usize,
    /// Where it goes, counted from the start of the tensor.
    at: u64,
    /// Source bytes it was made from.
    bytes_in: usize,
    data: Data<'s>,
    /// For the journal, if there is one.
    slot: Option<Slot>,
}

/// Bytes, wherever they live.
enum Data<'s> {
    Inline(&'s [u8]),
    /// Part of what was read at once.
    Read(Arc<Buffer<'s>>, Range<usize>),
    Encoded(Buffer<'s>),
    /// So many bytes that an earlier run wrote.
    Present(usize),
}

impl Data<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Read(buffer, range) => &buffer[range.clone()],
            Self::Encoded(buffer) => buffer,
            Self::Present(_) => &[],
        }
    }
}

/// Tells the caller's thread that a piece has been written.
struct Written {
    job: usize,
    bytes_in: u64,
    bytes_out: u64,
    reused: bool,
}

/// Where everything goes.
#[derive(Clone, Copy)]
pub(super) struct Targets<'s> {
    pub(super) outputs: &'s [AtomicFile],
    pub(super) journal: Option<&'s Journal>,
}

/// What the stages share.
struct Stream<'s> {
    jobs: &'s [Job<'s>],
    targets: Targets<'s>,
    raw: Buffers,
    encoded: Buffers,
    /// Set when the caller wants to stop, or a thread has panicked.
    stop: AtomicBool,
    failure: FirstError,
    /// When the first read of each tensor began.
    begun: Vec<OnceLock<Instant>>,
}

/// Writes all `jobs` to `outputs`. The reports are in the order of `jobs`.
pub(super) fn stream(
    jobs: &[Job<'_>],
    targets: Targets<'_>,
    threads: usize,
    options: Options<'_>,
    progress: &dyn Progress,
) -> Result<(Vec<TensorReport>, u64)> {
    let limit = options.max_buffer.unwrap_or(BUFFER_LIMIT);
    let stream = Stream {
        jobs,
        targets,
        raw: Buffers::new(limit / 3 * 2),
        encoded: Buffers::new(limit / 3),
        stop: AtomicBool::new(false),
        failure: FirstError::new(),
        begun: jobs.iter().map(|_| OnceLock::new()).collect(),
    };
    let (reports, reused) = std::thread::scope(|scope| stream.run(scope, threads, options.run, progress))?;
    if stream.stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    stream.failure.into_result()?;
    Ok((reports.into_iter().collect::<Option<Vec<_>>>().ok_or(Error::Interrupted)?, reused))
}

impl<'s> Stream<'s> {
    /// Starts the stages and follows them until the last has ended.
    fn run<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        run: Run<'_>,
        progress: &dyn Progress,
    ) -> Result<(Vec<Option<TensorReport>>, u64)> {
        // If a thread cannot be started or the caller's progress panics, those that run already must end.
        let guard = StopUnlessDone { stop: &self.stop, done: false };
        let (to_workers, tasks) = mpsc::channel();
        let (to_writer, writes) = mpsc::channel();
        let (to_caller, written) = mpsc::channel();
        let tasks = Arc::new(Mutex::new(tasks));
        self.start(scope, "read", move || self.read(&to_workers))?;
        for _ in 0..threads {
            let (tasks, to_writer) = (Arc::clone(&tasks), to_writer.clone());
            self.start(scope, "encode", move || self.work(&tasks, &to_writer))?;
        }
        drop((tasks, to_writer));
        self.start(scope, "write", move || self.write(&writes, &to_caller))?;
        let reports = self.follow(&written, run, progress);
        guard.finish();
        Ok(reports)
    }

    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        stage: impl FnOnce() + Send + 'scope,
    ) -> Result<ScopedJoinHandle<'scope, ()>> {
        let guarded = move || {
            let guard = StopUnlessDone { stop: &self.stop, done: false };
            stage();
            guard.finish();
        };
        Builder::new().name(format!("ggquant-{name}")).spawn_scoped(scope, guarded).map_err(|source| Error::Io {
            at: At::default(),
            action: "start a thread".into(),
            source,
        })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the piece of this number is of no more use.
    fn is_moot(&self, number: usize) -> bool {
        self.stopped() || self.failure.precedes(number)
    }

    fn fail(&self, number: usize, job: usize, error: Error) {
        if !matches!(error, Error::Interrupted) {
            self.failure.record(number, self.jobs[job].blame(error));
        }
    }

    /// The reading stage: tensors in the order in which they lie in the source files.
    fn read(&'s self, tasks: &Sender<Task<'s>>) {
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
        order.sort_by_key(|&job| self.jobs[job].place());
        let (mut number, mut scratch) = (0, Vec::new());
        order.retain(|&job| self.jobs[job].bytes_out > 0);
        // The same tensor of several outputs is read once: the sort has put its jobs side by side.
        for group in order.chunk_by(|&a, &b| self.jobs[a].reads_like(&self.jobs[b])) {
            for &job in group {
                self.begun[job].get_or_init(Instant::now);
            }
            let job = group[0];
            let done = match &self.jobs[job].input {
                Input::Inline(bytes) => {
                    let task = Task { number, job, first: 0, data: Data::Inline(bytes) };
                    number += 1;
                    tasks.send(task).is_ok()
                }
                Input::Elements(elements) => self.read_elements(group, elements, &mut number, &mut scratch, tasks),
            };
            if !done {
                return;
            }
        }
    }

    /// Reads the one tensor that `group` is made of. False if the work has been given up.
    fn read_elements(
        &'s self,
        group: &[usize],
        elements: &Elements<'_>,
        number: &mut usize,
        scratch: &mut Vec<u8>,
        tasks: &Sender<Task<'s>>,
    ) -> bool {
        let given_up = || self.stopped() || self.failure.any();
        let members = group.iter().filter_map(|&job| match &self.jobs[job].input {
            Input::Elements(elements) => Some(elements.quantum()),
            Input::Inline(_) => None,
        });
        let quantum = members.max().unwrap_or(elements.quantum());
        let (read_len, task_len) = (elements.read_len(quantum), Elements::task_len(quantum));
        for first in (0..elements.len()).step_by(read_len) {
            let last = (first + read_len).min(elements.len());
            let Some(mut buffer) = self.raw.get(elements.from.bytes(last - first), given_up) else { return false };
            if let Err(error) = elements.read(first, &mut buffer, scratch, &given_up) {
                self.fail(*number, group[0], error);
                return false;
            }
            let buffer = Arc::new(buffer);
            for part in (first..last).step_by(task_len) {
                let end = (part + task_len).min(last);
                let bytes = elements.from.bytes(part - first)..elements.from.bytes(end - first);
                for &job in group {
                    let data = Data::Read(Arc::clone(&buffer), bytes.clone());
                    let task = Task { number: *number, job, first: part, data };
                    *number += 1;
                    if tasks.send(task).is_err() {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// The encoding stage, on each worker.
    fn work(&'s self, tasks: &Mutex<Receiver<Task<'s>>>, writes: &Sender<Write<'s>>) {
        let mut scratch = Vec::new();
        loop {
            // One worker waits holding the lock, the others wait for the lock.
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(task) = task else { return };
            if self.is_moot(task.number) {
                continue;
            }
            let (number, job) = (task.number, task.job);
            match self.encode(task, &mut scratch) {
                Ok(None) => {}
                Ok(Some(write)) => {
                    if writes.send(write).is_err() {
                        return;
                    }
                }
                Err(error) => self.fail(number, job, error),
            }
        }
    }

    /// Turns a task into bytes to write, or nothing if the work has been given up meanwhile.
    fn encode(&'s self, task: Task<'s>, scratch: &mut Vec<f32>) -> Result<Option<Write<'s>>> {
        let Task { number, job, first, data } = task;
        let bytes_in = data.bytes().len();
        let Input::Elements(elements) = &self.jobs[job].input else {
            return Ok(Some(Write { number, job, at: 0, bytes_in, data, slot: None }));
        };
        let at = elements.stored_bytes(first) as u64;
        let len = elements.stored_bytes(elements.from.elements(bytes_in));
        let source = self.targets.journal.map(|journal| (journal, source_digest(job, first, data.bytes())));
        if let Some((journal, source)) = source
            && let Some(slot) = journal.slot(number).filter(|slot| slot.source == source)
        {
            let Some(mut found) = self.encoded.get(len, || self.is_moot(number)) else { return Ok(None) };
            let Job { output, offset, .. } = self.jobs[job];
            // What cannot be read back is made again.
            if read_exact_at(self.targets.outputs[output].file(), &mut found, offset + at).is_ok()
                && result_digest(&found) == slot.result
            {
                return Ok(Some(Write { number, job, at, bytes_in, data: Data::Present(len), slot: None }));
            }
        }
        let slot = |result: &[u8]| source.map(|(_, source)| Slot { source, result: result_digest(result) });
        let encode = match &elements.step {
            Step::Copy(copy) => {
                copy.check(first, data.bytes())?;
                let slot = slot(data.bytes());
                return Ok(Some(Write { number, job, at, bytes_in, data, slot }));
            }
            Step::Encode(encode) => encode,
        };
        let Some(mut out) = self.encoded.get(len, || self.is_moot(number)) else { return Ok(None) };
        encode.run(first, data.bytes(), &mut out, scratch, || !self.is_moot(number))?;
        let slot = slot(&out);
        Ok(Some(Write { number, job, at, bytes_in, data: Data::Encoded(out), slot }))
    }

    /// The writing stage.
    fn write(&self, writes: &Receiver<Write<'s>>, caller: &Sender<Written>) {
        for Write { number, job, at, bytes_in, data, slot } in writes {
            if self.is_moot(number) {
                continue;
            }
            let Job { output, offset, .. } = self.jobs[job];
            let written = match data {
                Data::Present(_) => Ok(()),
                _ => self.targets.outputs[output].write_all_at(data.bytes(), offset + at),
            };
            let noted = written.and_then(|()| match (self.targets.journal, slot) {
                (Some(journal), Some(slot)) => journal.note(number, slot),
                _ => Ok(()),
            });
            match noted {
                Ok(()) => {
                    let (bytes_out, reused) = match data {
                        Data::Present(len) => (len as u64, true),
                        _ => (data.bytes().len() as u64, false),
                    };
                    // The caller listens until this stage ends.
                    let _ = caller.send(Written { job, bytes_in: bytes_in as u64, bytes_out, reused });
                }
                Err(error) => self.fail(number, job, error),
            }
        }
    }

    /// The caller's part: counts what is written, reports it, and passes on the wish to stop.
    fn follow(
        &self,
        written: &Receiver<Written>,
        run: Run<'_>,
        progress: &dyn Progress,
    ) -> (Vec<Option<TensorReport>>, u64) {
        let total = self.jobs.iter().map(|job| job.bytes_in).sum();
        let mut left: Vec<u64> = self.jobs.iter().map(|job| job.bytes_out).collect();
        let mut reports: Vec<Option<TensorReport>> = self.jobs.iter().map(|_| None).collect();
        let (mut done, mut current, mut reused, mut told) = (0, 0, 0, Instant::now());
        let tell = |event: Event<'_>| {
            if !self.stopped() && progress.on_event(event) == ControlFlow::Break(()) {
                self.stop.store(true, Ordering::Relaxed);
            }
        };
        let finish = |job: usize| {
            let report = self.report(job);
            tell(Event::Finished(&report));
            Some(report)
        };
        for job in 0..self.jobs.len() {
            if left[job] == 0 {
                reports[job] = finish(job);
            }
        }
        loop {
            let news = written.recv_timeout(TICK.saturating_sub(told.elapsed()));
            if run.interrupted() {
                self.stop.store(true, Ordering::Relaxed);
            }
            match &news {
                Ok(piece) => {
                    (done, current) = (done + piece.bytes_in, piece.job);
                    reused += if piece.reused { piece.bytes_out } else { 0 };
                    left[current] = left[current].saturating_sub(piece.bytes_out);
                    if left[current] == 0 {
                        reports[current] = finish(current);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => done = if self.failure.any() { done } else { total },
            }
            let ended = matches!(news, Err(RecvTimeoutError::Disconnected));
            if told.elapsed() >= TICK || ended {
                told = Instant::now();
                if let Some(job) = self.jobs.get(current) {
                    tell(Event::Progress { tensor: &job.plan.name, ty: job.plan.ty, done, total });
                }
            }
            if ended {
                return (reports, reused);
            }
        }
    }

    fn report(&self, job: usize) -> TensorReport {
        let Job { plan, output, bytes_in, bytes_out, ref input, .. } = self.jobs[job];
        TensorReport {
            output,
            name: plan.name.clone(),
            shape: plan.shape.clone(),
            from: match input {
                Input::Inline(_) => None,
                Input::Elements(elements) => Some(elements.from),
            },
            to: plan.ty,
            bytes_in,
            bytes_out,
            on_grid: match input {
                Input::Elements(elements) => elements.on_grid(),
                Input::Inline(_) => None,
            },
            elapsed: self.begun[job].get().map_or(Duration::ZERO, Instant::elapsed),
        }
    }
}

/// Ends the other stages when one ends by an error or a panic.
struct StopUnlessDone<'a> {
    stop: &'a AtomicBool,
    done: bool,
}

impl StopUnlessDone<'_> {
    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for StopUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}
