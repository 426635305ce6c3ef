//! GGUF files: the reader, the spooling writer, and work on whole files.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ggquant::encode::Run;
use ggquant::gguf::split::{self, SplitBy, SplitOptions, Watch};
use ggquant::gguf::{Endianness, GgmlType, Reader, SpoolWriter, TensorSpec, verify};
use ggquant::{At, Error};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::to_python;
use crate::metadata;
use crate::run::{detached, with_events};

/// Reads of fewer bytes than this are done on the calling thread.
const SMALL_READ: u64 = 1 << 20;

/// The type called `name`.
pub(crate) fn parse_type(name: &str) -> PyResult<GgmlType> {
    GgmlType::from_name(name).ok_or_else(|| PyValueError::new_err(format!("'{name}' is not a GGUF tensor type")))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// An open model.
#[pyclass(frozen, module = "ggquant._native")]
pub(crate) struct GgufReader {
    reader: Reader,
}

/// Name, shape with rows first, type, bytes, offset, shard.
type TensorEntry = (String, Vec<u64>, String, u64, u64, usize);

#[pymethods]
impl GgufReader {
    #[new]
    fn new(py: Python<'_>, path: &str) -> PyResult<Self> {
        Ok(Self { reader: detached(py, true, |_| Reader::open(path))? })
    }

    #[getter]
    fn version(&self) -> u32 {
        self.reader.shards()[0].version
    }

    #[getter]
    fn byte_order(&self) -> &'static str {
        match self.reader.shards()[0].endianness {
            Endianness::Little => "little",
            Endianness::Big => "big",
        }
    }

    #[getter]
    fn alignment(&self) -> u64 {
        self.reader.shards()[0].alignment
    }

    #[getter]
    fn shards(&self) -> Vec<String> {
        self.reader.shards().iter().map(|shard| text(&shard.path)).collect()
    }

    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Vec<metadata::Entry<'py>>> {
        metadata::to_python(py, self.reader.metadata())
    }

    fn tensors(&self) -> Vec<TensorEntry> {
        let entry = |t: &ggquant::gguf::TensorInfo| {
            let shape = t.shape.iter().rev().copied().collect();
            (t.name.clone(), shape, t.ty.name(), t.nbytes, t.offset, t.shard)
        };
        self.reader.tensors().iter().map(entry).collect()
    }

    /// Bytes `offset..offset + nbytes` of the tensor at `index`.
    fn read<'py>(&self, py: Python<'py>, index: usize, offset: u64, nbytes: u64) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tensor = self.reader.tensors().get(index).ok_or_else(|| PyIndexError::new_err("no such tensor"))?;
        let bytes = detached(py, nbytes < SMALL_READ, |_| {
            // Checked before the buffer is made: a claim must not allocate more than the file holds.
            if offset.checked_add(nbytes).is_none_or(|end| end > tensor.nbytes) {
                let what = format!("bytes {offset}..+{nbytes} lie outside its {} bytes", tensor.nbytes);
                return Err(Error::Shape { at: At::tensor(&tensor.name), what });
            }
            let mut bytes = vec![0; nbytes as usize];
            self.reader.read_at(tensor, offset, &mut bytes)?;
            Ok(bytes)
        })?;
        Ok(PyArray1::from_vec(py, bytes))
    }
}

/// A file being written tensor by tensor.
#[pyclass(frozen, module = "ggquant._native")]
pub(crate) struct GgufWriter {
    writer: Mutex<Option<SpoolWriter>>,
}

impl GgufWriter {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SpoolWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the writer is closed")
}

#[pymethods]
impl GgufWriter {
    #[new]
    fn new(py: Python<'_>, path: &str, overwrite: bool) -> PyResult<Self> {
        let writer = SpoolWriter::create(path, overwrite).map_err(|e| to_python(py, &e))?;
        Ok(Self { writer: Mutex::new(Some(writer)) })
    }

    /// Appends a tensor; `shape` has rows first.
    fn add(
        &self,
        py: Python<'_>,
        name: String,
        shape: Vec<u64>,
        kind: &str,
        data: PyReadonlyArray1<'_, u8>,
    ) -> PyResult<()> {
        let spec = TensorSpec { name, shape: shape.into_iter().rev().collect(), ty: parse_type(kind)? };
        let bytes = data.as_slice()?;
        // The lock is waited for with the GIL released: whoever holds it may need the GIL to go on.
        detached(py, true, |_| self.lock().as_mut().map(|writer| writer.add(spec, bytes)).transpose())?
            .ok_or_else(closed)
    }

    /// Writes the file.
    fn finish(&self, py: Python<'_>, entries: Vec<metadata::Given<'_>>) -> PyResult<()> {
        let metadata = metadata::from_python(entries)?;
        detached(py, false, |_| {
            let writer = self.lock().take();
            writer.map(|writer| writer.finish(&metadata)).transpose()
        })?
        .ok_or_else(closed)
    }

    /// Drops what was added.
    fn discard(&self, py: Python<'_>) {
        py.detach(|| drop(self.lock().take()));
    }
}

/// File, tensor, row, block, what.
type FindingEntry = (String, Option<String>, Option<u64>, Option<u64>, String);

/// Everything wrong with the model at `path`.
#[pyfunction]
pub(crate) fn verify_file(py: Python<'_>, path: &str, threads: Option<usize>) -> PyResult<Vec<FindingEntry>> {
    let findings = detached(py, false, |interrupt| verify::verify(path, Run { threads, interrupt: Some(interrupt) }))?;
    Ok(findings.into_iter().map(|f| (text(&f.file), f.tensor, f.row, f.block, f.what)).collect())
}

/// Calls `progress(bytes of tensor data written since the last call)`.
fn report(progress: Option<&Bound<'_, PyAny>>) -> impl FnMut(u64) -> PyResult<()> {
    move |bytes| progress.map_or(Ok(()), |callback| callback.call1((bytes,)).map(drop))
}

/// Splits a model; exactly one of `max_bytes` and `max_tensors` says where.
#[pyfunction]
#[pyo3(signature = (source, prefix, max_bytes, max_tensors, no_tensor_first, overwrite, progress))]
pub(crate) fn split_file(
    py: Python<'_>,
    source: &str,
    prefix: &str,
    max_bytes: Option<u64>,
    max_tensors: Option<u64>,
    no_tensor_first: bool,
    overwrite: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Vec<String>> {
    let by = split_by(max_bytes, max_tensors)?
        .ok_or_else(|| PyValueError::new_err("give either the most bytes or the most tensors of a shard"))?;
    let options = SplitOptions { by, no_tensor_first };
    let work = |interrupt: &std::sync::atomic::AtomicBool, send: &dyn Fn(u64)| {
        let watch = Watch { interrupt: Some(interrupt), progress: Some(send) };
        split::split(&Reader::open(source)?, Path::new(prefix), options, overwrite, watch)
    };
    let paths = with_events(py, work, report(progress.as_ref()))?;
    Ok(paths.iter().map(|path| text(path)).collect())
}

/// Merges the shards of a model.
#[pyfunction]
pub(crate) fn merge_file(
    py: Python<'_>,
    source: &str,
    target: &str,
    overwrite: bool,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<()> {
    let work = |interrupt: &std::sync::atomic::AtomicBool, send: &dyn Fn(u64)| {
        let watch = Watch { interrupt: Some(interrupt), progress: Some(send) };
        split::merge(&Reader::open(source)?, Path::new(target), overwrite, watch)
    };
    with_events(py, work, report(progress.as_ref()))
}

/// Where to cut, if at all.
pub(crate) fn split_by(max_bytes: Option<u64>, max_tensors: Option<u64>) -> PyResult<Option<SplitBy>> {
    match (max_bytes, max_tensors) {
        (None, None) => Ok(None),
        (Some(bytes), None) => Ok(Some(SplitBy::Bytes(bytes))),
        (None, Some(tensors)) => Ok(Some(SplitBy::Tensors(tensors))),
        (Some(_), Some(_)) => Err(PyValueError::new_err("split by bytes or by tensors, not by both")),
    }
}

/// Entries by tensor name (importances, counts), names of the texts, number of chunks.
type ImatrixParts<'py> =
    (Vec<(String, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>)>, Bound<'py, PyTuple>, i64);

/// Reads an importance matrix file of either kind.
#[pyfunction]
pub(crate) fn read_imatrix<'py>(py: Python<'py>, path: &str) -> PyResult<ImatrixParts<'py>> {
    let matrix = detached(py, false, |_| ggquant::imatrix::Imatrix::open(path))?;
    let array = |values| PyArray1::from_vec(py, values);
    let entry = |((name, values), counts)| (name, array(values), array(counts));
    let entries = matrix.entries.into_iter().zip(matrix.counts).map(entry).collect();
    let datasets = matrix.datasets.iter().map(|name| metadata::text(py, name)).collect::<PyResult<Vec<_>>>()?;
    Ok((entries, PyTuple::new(py, datasets)?, matrix.chunk_count))
}
