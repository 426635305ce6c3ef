//! Conversion: the plan that Python made becomes the engine's, events become calls.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ggquant::checkpoint::Checkpoint;
use ggquant::convert::{
    self, Event, ImatrixPlan, Op, Options, OutputFile, Plan, Progress, Source, SourceType, TensorPlan, View,
};
use ggquant::encode::Run;
use ggquant::gguf::path::shard_path;
use ggquant::gguf::split::{self, SplitOptions};
use ggquant::gguf::{Layout, Metadata, TensorSpec};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::gguf::{parse_type, split_by};
use crate::metadata;
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
    ops: Vec<(String, f32)>,
    inline: Option<Bound<'py, PyBytes>>,
    imatrix: Option<PyReadonlyArray1<'py, f32>>,
    rows_per_expert: u64,
}

impl GivenTensor<'_> {
    fn plan(self) -> PyResult<TensorPlan> {
        let named = |e: String| PyValueError::new_err(format!("tensor '{}': {e}", self.name));
        let source = match &self.inline {
            Some(bytes) => Source::Inline(bytes.as_bytes().into()),
            None => {
                let view = |(file, offset, dtype, shape, strides, start): ViewParts| {
                    let dtype = SourceType::from_str(&dtype).map_err(&named)?;
                    Ok(View { file: file.into(), offset, dtype, shape, strides, start })
                };
                let views = self.views.into_iter().map(view).collect::<PyResult<Vec<_>>>()?;
                if self.ops.iter().any(|(name, _)| name == MXFP4_REPACK) {
                    let [codes, scales] = <[View; 2]>::try_from(views)
                        .map_err(|_| named(format!("{MXFP4_REPACK} takes codes and scales, and nothing else")))?;
                    Source::PackedMxfp4 { codes, scales }
                } else {
                    let op = |(name, value): (String, f32)| Op::named(&name, value).map_err(&named);
                    Source::Views { views, ops: self.ops.into_iter().map(op).collect::<PyResult<_>>()? }
                }
            }
        };
        let imatrix = match &self.imatrix {
            Some(values) => {
                Some(ImatrixPlan { values: Arc::from(values.as_slice()?), rows_per_expert: self.rows_per_expert })
            }
            None => None,
        };
        Ok(TensorPlan {
            ty: parse_type(&self.format)?,
            intermediate: parse_type(&self.intermediate)?,
            name: self.name,
            shape: self.shape,
            source,
            imatrix,
        })
    }
}

/// Lays out one file, or the shards of a split.
fn outputs(
    target: &Path,
    metadata: &Metadata,
    tensors: Vec<TensorPlan>,
    split_options: Option<SplitOptions>,
) -> ggquant::Result<Vec<OutputFile>> {
    let spec = |t: &TensorPlan| TensorSpec {
        name: t.name.clone(),
        shape: ggquant::gguf::layout::trim_shape(&t.shape.iter().rev().copied().collect::<Vec<_>>()).to_vec(),
        ty: t.ty,
    };
    let specs: Vec<_> = tensors.iter().map(spec).collect();
    let Some(options) = split_options else {
        let layout = Layout::new(metadata, &specs).map_err(|e| e.in_file(target))?;
        return Ok(vec![OutputFile { path: target.to_owned(), layout, tensors }]);
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

/// Carries out a plan. Returns the paths written and the bytes in them.
#[pyfunction]
#[pyo3(signature = (target, entries, tensors, threads, overwrite, split_max_bytes, split_max_tensors, progress))]
pub(crate) fn convert_model(
    py: Python<'_>,
    target: &str,
    entries: Vec<metadata::Given<'_>>,
    tensors: Vec<GivenTensor<'_>>,
    threads: Option<usize>,
    overwrite: bool,
    split_max_bytes: Option<u64>,
    split_max_tensors: Option<u64>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<(Vec<PathBuf>, u64)> {
    let metadata = metadata::from_python(entries)?;
    let planned = tensors.into_iter().map(GivenTensor::plan).collect::<PyResult<Vec<_>>>()?;
    let split_options =
        split_by(split_max_bytes, split_max_tensors)?.map(|by| SplitOptions { by, no_tensor_first: false });
    let plan =
        detached(py, true, |_| Ok(Plan { outputs: outputs(Path::new(target), &metadata, planned, split_options)? }))?;
    let work = |interrupt: &std::sync::atomic::AtomicBool, send: &dyn Fn(ProgressParts)| {
        let reporter = Reporter { send, interrupt, finished: Cell::new(0), last: Cell::new(None) };
        let options = Options { run: Run { threads, interrupt: Some(interrupt) }, overwrite };
        convert::convert(&plan, options, &reporter)
    };
    let report = with_events(py, work, |event: ProgressParts| match &progress {
        Some(callback) => callback.call1(event).map(drop),
        None => Ok(()),
    })?;
    Ok((plan.outputs.into_iter().map(|output| output.path).collect(), report.bytes_written))
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
