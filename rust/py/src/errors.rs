//! From the crate's errors to the exceptions of `ggquant.errors`, which live in Python so that they can have several bases.

use std::io::ErrorKind;

use ggquant::Error;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The exception class for an error, by name in `ggquant.errors`.
fn class_name(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "FileError",
        Error::Malformed { .. } => "MalformedFileError",
        Error::Unsupported { .. } => "UnsupportedError",
        Error::NonFinite { .. } => "NonFiniteError",
        Error::RowLength { .. } | Error::Shape { .. } => "ShapeError",
        Error::ImatrixRequired { .. } | Error::Imatrix { .. } => "ImatrixError",
        Error::InvalidBlock { .. } => "InvalidBlockError",
        Error::Interrupted => "StoppedError",
        _ => "Error",
    }
}

/// The C library's number of an error. One that was wrapped to name a path has kept its kind alone.
fn os_error(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error().or(match error.kind() {
        ErrorKind::NotFound => Some(2),
        ErrorKind::PermissionDenied => Some(13),
        ErrorKind::AlreadyExists => Some(17),
        ErrorKind::StorageFull => Some(28),
        _ => None,
    })
}

/// Builds the exception: the message, and `file` and `tensor` as attributes.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let build = || -> PyResult<PyErr> {
        let class = py.import("ggquant.errors")?.getattr(class_name(error))?;
        let kwargs = PyDict::new(py);
        if let Some(at) = error.at() {
            kwargs.set_item("file", at.file.as_ref().map(|f| f.to_string_lossy().into_owned()))?;
            kwargs.set_item("tensor", at.tensor.as_deref())?;
        }
        if let Error::Io { source, .. } = error {
            kwargs.set_item("errno", os_error(source))?;
        }
        let args = PyTuple::new(py, [error.to_string()])?;
        Ok(PyErr::from_value(class.call(args, Some(&kwargs))?))
    };
    build().unwrap_or_else(|failure| failure)
}

/// `ggquant.errors.InternalError` for a panic that reached the boundary.
pub(crate) fn from_panic(py: Python<'_>, payload: &(dyn std::any::Any + Send)) -> PyErr {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned());
    let build = || -> PyResult<PyErr> {
        let class = py.import("ggquant.errors")?.getattr("InternalError")?;
        Ok(PyErr::from_value(class.call1((format!("internal error, please report it: {text}"),))?))
    };
    build().unwrap_or_else(|failure| failure)
}
