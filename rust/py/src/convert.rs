//! Conversion: the plan that Python made becomes the engine's, events become calls.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ggquant::checkpoint::Checkpoint;
use ggquant::convert::{
    self, Event, ImatrixPlan, Lattice, Op, Options, OutputFile, Plan, Progress, Source, SourceType, TensorPlan, View,
};
use ggquant::encode::Run;
use ggquant::gguf::path::shard_path;
use ggquant::gguf::reader::{SPLIT_COUNT_KEY, SPLIT_NO_KEY, SPLIT_TENSORS_COUNT_KEY};
use ggquant::gguf::split::{self, SplitOptions};
use ggquant::gguf::{Layout, Metadata, TensorSpec, Value};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::gguf::{parse_type, split_by};
use crate::metadata;
use crate::packed::{GivenPacked, target};
use crate::run::{detached, with_events};

/// How often a caller hears of progress.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// File, offset, dtype, shape, strides, start.
type ViewParts = (String, u64, String, Vec<u64>, Vec<u64>, u64);

/// The operation that weaves codes and scales into blocks; it stands alone.
const MXFP4_REPACK: &str = "mxfp4_repack";

/// A tensor as Python plans it: attributes are read from the object by name.
#[derive(FromPyObject)]
pub(crate) struct GivenTensor<'py> {
    name: String,
    shape: Vec<u64>,
    format: String,
    intermediate: String,
    views: Vec<ViewParts>,
    packed: Vec<GivenPacked>,
    /// Whether packed codes go into blocks as they are.
    keeps_codes: bool,
    ops: Vec<(String, f32)>,
    inline: Option<Bound<'py, PyBytes>>,
    imatrix: Option<PyReadonlyArray1<'py, f32>>,
    rows_per_expert: u64,
    /// "off", "auto" or "only".
    lattice: String,
}

impl GivenTensor<'_> {
    /// The plan borrows the importances.
    fn plan(&self) -> PyResult<TensorPlan<'_>> {
        let named = |e: String| PyValueError::new_err(format!("tensor '{}': {e}", self.name));
        let source = match &self.inline {
            Some(bytes) => Source::Inline(bytes.as_bytes().into()),
            None => {
                let view = |(file, offset, dtype, shape, strides, start): &ViewParts| {
                    let dtype = SourceType::from_str(dtype).map_err(&named)?;
                    let (shape, strides) = (shape.clone(), strides.clone());
                    Ok(View { file: file.into(), offset: *offset, dtype, shape, strides, start: *start })
                };
                let op = |(name, value): &(String, f32)| Op::named(name, *value).map_err(&named);
                let views = self.views.iter().map(view).collect::<PyResult<Vec<_>>>()?;
                if !self.packed.is_empty() {
                    let target = match self.keeps_codes {
                        true => Some(target(&self.format).map_err(&named)?),
                        false => None,
                    };
                    let parts = self.packed.iter().cloned().map(|part| part.plan().map_err(&named));
                    let ops = self.ops.iter().map(op).collect::<PyResult<_>>()?;
                    Source::Packed { parts: parts.collect::<PyResult<_>>()?, target, ops }
                } else if self.ops.iter().any(|(name, _)| name == MXFP4_REPACK) {
                    let [codes, scales] = <[View; 2]>::try_from(views)
                        .map_err(|_| named(format!("{MXFP4_REPACK} takes codes and scales, and nothing else")))?;
                    Source::PackedMxfp4 { codes, scales }
                } else {
                    Source::Views { views, ops: self.ops.iter().map(op).collect::<PyResult<_>>()? }
                }
            }
        };
        let lattice = match self.lattice.as_str() {
            "off" => Lattice::Off,
            "auto" => Lattice::Auto,
            _ => Lattice::Only,
        };
        let imatrix = match &self.imatrix {
            Some(values) => {
                Some(ImatrixPlan { values: Cow::Borrowed(values.as_slice()?), rows_per_expert: self.rows_per_expert })
            }
            None => None,
        };
        Ok(TensorPlan {
            ty: parse_type(&self.format)?,
            intermediate: parse_type(&self.intermediate)?,
            name: self.name.clone(),
            shape: self.shape.clone(),
            source,
            imatrix,
            lattice,
        })
    }
}

/// A model to write: attributes are read from the object by name.
#[derive(FromPyObject)]
pub(crate) struct GivenModel<'py> {
    target: String,
    metadata: Vec<metadata::Given<'py>>,
    tensors: Vec<GivenTensor<'py>>,
    split_max_bytes: Option<u64>,
    split_max_tensors: Option<u64>,
    /// Numbers of tensors in the shards, where they are given.
    shards: Option<Vec<usize>>,
}

/// Where a model is cut.
enum Cut {
    /// One file.
    Whole,
    /// Shards that keep to a limit.
    Limit(SplitOptions),
    /// Shards of so many tensors each.
    Shards(Vec<usize>),
}

/// The shards of a model whose sizes are given, as `llama-quantize --keep-split` writes them.
fn given_shards<'a>(
    prefix: &Path,
    metadata: &Metadata,
    specs: &[TensorSpec],
    tensors: Vec<TensorPlan<'a>>,
    sizes: &[usize],
) -> ggquant::Result<Vec<OutputFile<'a>>> {
    let unsupported = |what: &str| ggquant::Error::Unsupported { at: ggquant::At::file(prefix), what: what.to_owned() };
    let count = u16::try_from(sizes.len()).map_err(|_| unsupported("there are too many shards"))?;
    let total = i32::try_from(tensors.len()).map_err(|_| unsupported("there are too many tensors to split"))?;
    let (mut rest, mut start) = (tensors.into_iter(), 0);
    let mut files = Vec::with_capacity(sizes.len());
    for (number, &size) in (0..count).zip(sizes) {
        let path = shard_path(prefix, number, count);
        let mut own = if number == 0 { metadata.clone() } else { Metadata::default() };
        if count > 1 {
            own.set_last(SPLIT_NO_KEY, Value::U16(number));
            own.set_last(SPLIT_COUNT_KEY, Value::U16(count));
            own.set_last(SPLIT_TENSORS_COUNT_KEY, Value::I32(total));
        }
        let layout = Layout::new(&own, &specs[start..start + size]).map_err(|e| e.in_file(&path))?;
        files.push(OutputFile { path, layout, tensors: rest.by_ref().take(size).collect() });
        start += size;
    }
    Ok(files)
}

/// Lays out one file, or the shards of a split.
fn outputs<'a>(
    target: &Path,
    metadata: &Metadata,
    tensors: Vec<TensorPlan<'a>>,
    cut: Cut,
) -> ggquant::Result<Vec<OutputFile<'a>>> {
    let spec = |t: &TensorPlan<'_>| TensorSpec {
        name: t.name.clone(),
        shape: ggquant::gguf::layout::trim_shape(&t.shape.iter().rev().copied().collect::<Vec<_>>()).to_vec(),
        ty: t.ty,
    };
    let specs: Vec<_> = tensors.iter().map(spec).collect();
    let options = match cut {
        Cut::Whole => {
            let layout = Layout::new(metadata, &specs).map_err(|e| e.in_file(target))?;
            return Ok(vec![OutputFile { path: target.to_owned(), layout, tensors }]);
        }
        Cut::Shards(sizes) => return given_shards(target, metadata, &specs, tensors, &sizes),
        Cut::Limit(options) => options,
    };
    let shards = split::plan(metadata, &specs, options).map_err(|e| e.in_file(target))?;
    let count = shards.len() as u16;
    let mut rest = tensors.into_iter();
    let output = |(number, shard): (usize, split::ShardPlan)| {
        let path = shard_path(target, number as u16, count);
        let layout = Layout::new(&shard.metadata, &specs[shard.tensors.clone()]).map_err(|e| e.in_file(&path))?;
        Ok(OutputFile { path, layout, tensors: rest.by_ref().take(shard.tensors.len()).collect() })
    };
    shards.into_iter().enumerate().map(output).collect()
}

/// Tensor, format, tensors finished, source bytes done, source bytes in all.
type ProgressParts = (String, String, usize, u64, u64);

/// Sends what happens on, a few times a second.
struct Reporter<'a> {
    send: &'a dyn Fn(ProgressParts),
    interrupt: &'a std::sync::atomic::AtomicBool,
    finished: Cell<usize>,
    last: Cell<Option<Instant>>,
}

impl Progress for Reporter<'_> {
    fn on_event(&self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Finished(_) => self.finished.set(self.finished.get() + 1),
            Event::Progress { tensor, ty, done, total } => {
                let due = self.last.get().is_none_or(|at| at.elapsed() >= REPORT_EVERY);
                if due || done == total {
                    self.last.set(Some(Instant::now()));
                    (self.send)((tensor.to_owned(), ty.name(), self.finished.get(), done, total));
                }
            }
            _ => {}
        }
        if self.interrupt.load(std::sync::atomic::Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Of each model, the tensors whose own codes were looked for, and how many blocks of them were found.
type OnGrid = Vec<Vec<(String, u64)>>;

/// Files written for each model, bytes written, bytes taken over from an earlier run, and what was found on grids.
type Outcome = (Vec<Vec<(PathBuf, u64)>>, u64, u64, OnGrid);

/// Carries out a plan of one model or several, which are made from one reading of their sources.
#[pyfunction]
#[pyo3(signature = (models, threads, overwrite, resume, max_buffer, progress))]
pub(crate) fn convert_models(
    py: Python<'_>,
    mut models: Vec<GivenModel<'_>>,
    threads: Option<usize>,
    overwrite: bool,
    resume: bool,
    max_buffer: Option<usize>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Outcome> {
    let mut files = Vec::new();
    let mut counts = Vec::with_capacity(models.len());
    for model in &mut models {
        let metadata = metadata::from_python(std::mem::take(&mut model.metadata))?;
        let planned = model.tensors.iter().map(GivenTensor::plan).collect::<PyResult<Vec<_>>>()?;
        let cut = match (model.shards.take(), split_by(model.split_max_bytes, model.split_max_tensors)?) {
            (Some(sizes), _) if sizes.iter().sum::<usize>() != planned.len() => {
                return Err(PyValueError::new_err("the shards do not add up to the tensors"));
            }
            (Some(sizes), _) => Cut::Shards(sizes),
            (None, Some(by)) => Cut::Limit(SplitOptions { by, no_tensor_first: false }),
            (None, None) => Cut::Whole,
        };
        let target = Path::new(&model.target);
        let made = detached(py, true, |_| outputs(target, &metadata, planned, cut))?;
        counts.push(made.len());
        files.extend(made);
    }
    let plan = Plan { outputs: files };
    let work = |interrupt: &std::sync::atomic::AtomicBool, send: &dyn Fn(ProgressParts)| {
        let reporter = Reporter { send, interrupt, finished: Cell::new(0), last: Cell::new(None) };
        let options = Options { run: Run { threads, interrupt: Some(interrupt) }, overwrite, resume, max_buffer };
        convert::convert(&plan, options, &reporter)
    };
    let report = with_events(py, work, |event: ProgressParts| match &progress {
        Some(callback) => callback.call1(event).map(drop),
        None => Ok(()),
    })?;
    let mut written = plan.outputs.into_iter().map(|output| (output.path, output.layout.file_len));
    let written = counts.iter().map(|&count| written.by_ref().take(count).collect()).collect();
    let models = counts.iter().enumerate().flat_map(|(model, &count)| std::iter::repeat_n(model, count));
    let models: Vec<usize> = models.collect();
    let mut on_grid = vec![Vec::new(); counts.len()];
    for tensor in report.tensors {
        if let Some(found) = tensor.on_grid {
            on_grid[models[tensor.output]].push((tensor.name, found));
        }
    }
    Ok((written, report.bytes_written, report.bytes_reused, on_grid))
}

/// Name, dtype, shape, file, offset, bytes.
type CheckpointEntry = (String, String, Vec<u64>, PathBuf, u64, u64);

/// The tensors of a safetensors checkpoint, in file order.
#[pyfunction]
pub(crate) fn checkpoint_tensors(py: Python<'_>, path: &str) -> PyResult<Vec<CheckpointEntry>> {
    let checkpoint = detached(py, true, |_| Checkpoint::open(path))?;
    let entry = |t: &ggquant::checkpoint::CheckpointTensor| {
        (t.name.clone(), t.dtype.to_string(), t.shape.clone(), t.file.clone(), t.offset, t.nbytes)
    };
    Ok(checkpoint.tensors.iter().map(entry).collect())
}
