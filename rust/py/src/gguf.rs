//! GGUF files: the reader and the spooling writer.

use std::sync::{Mutex, PoisonError};

use ggquant::gguf::{GgmlType, SpoolWriter, TensorSpec};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::to_python;
use crate::metadata;
use crate::run::detached;

pub(crate) type MetadataEntry<'py> = (String, String, Bound<'py, PyAny>, Option<String>);

/// The type called `name`.
pub(crate) fn parse_type(name: &str) -> PyResult<GgmlType> {
    GgmlType::from_name(name).ok_or_else(|| PyValueError::new_err(format!("'{name}' is not a GGUF tensor type")))
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
    fn finish(&self, py: Python<'_>, entries: Vec<MetadataEntry<'_>>) -> PyResult<()> {
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
