//! Metadata between Rust and Python: `(key, type, value, element type)`.
//!
//! Strings cross as Python strings; bytes that are not UTF-8 are carried as lone surrogates (Python's `surrogateescape`),
//! so that a file can be rewritten without loss.

use ggquant::gguf::{Array, Metadata, Value};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

/// An entry for Python: key, type, value, element type of an array.
pub(crate) type Entry<'py> = (String, &'static str, Bound<'py, PyAny>, Option<&'static str>);

/// Bytes as a Python string.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(bytes) {
        Ok(valid) => Ok(PyString::new(py, valid).into_any()),
        Err(_) => PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "surrogateescape")),
    }
}

fn bytes_of(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let string = value.cast::<PyString>()?;
    match string.to_str() {
        Ok(valid) => Ok(valid.as_bytes().to_vec()),
        Err(_) => string.call_method1("encode", ("utf-8", "surrogateescape"))?.extract(),
    }
}

/// The element type's name and the elements of an array.
fn array_to_python<'py>(py: Python<'py>, array: &Array) -> PyResult<(&'static str, Bound<'py, PyAny>)> {
    Ok(match array {
        Array::U8(v) => ("UINT8", PyList::new(py, v)?.into_any()),
        Array::I8(v) => ("INT8", PyList::new(py, v)?.into_any()),
        Array::U16(v) => ("UINT16", PyList::new(py, v)?.into_any()),
        Array::I16(v) => ("INT16", PyList::new(py, v)?.into_any()),
        Array::U32(v) => ("UINT32", PyList::new(py, v)?.into_any()),
        Array::I32(v) => ("INT32", PyList::new(py, v)?.into_any()),
        Array::F32(v) => ("FLOAT32", PyList::new(py, v)?.into_any()),
        Array::Bool(v) => ("BOOL", PyList::new(py, v)?.into_any()),
        Array::U64(v) => ("UINT64", PyList::new(py, v)?.into_any()),
        Array::I64(v) => ("INT64", PyList::new(py, v)?.into_any()),
        Array::F64(v) => ("FLOAT64", PyList::new(py, v)?.into_any()),
        Array::String(v) => {
            let items = v.iter().map(|s| text(py, s)).collect::<PyResult<Vec<_>>>()?;
            ("STRING", PyList::new(py, items)?.into_any())
        }
        Array::Array(v) => {
            let items = v.iter().map(|a| array_to_python(py, a)).collect::<PyResult<Vec<_>>>()?;
            ("ARRAY", PyList::new(py, items)?.into_any())
        }
    })
}

/// An entry given by Python.
pub(crate) type Given<'py> = (String, String, Bound<'py, PyAny>, Option<String>);

/// All entries, for Python.
pub(crate) fn to_python<'py>(py: Python<'py>, metadata: &Metadata) -> PyResult<Vec<Entry<'py>>> {
    macro_rules! any {
        ($value:expr) => {
            $value.into_pyobject(py)?.into_any()
        };
    }
    metadata
        .iter()
        .map(|(key, value)| {
            let (kind, object, item) = match value {
                Value::U8(v) => ("UINT8", any!(*v), None),
                Value::I8(v) => ("INT8", any!(*v), None),
                Value::U16(v) => ("UINT16", any!(*v), None),
                Value::I16(v) => ("INT16", any!(*v), None),
                Value::U32(v) => ("UINT32", any!(*v), None),
                Value::I32(v) => ("INT32", any!(*v), None),
                Value::F32(v) => ("FLOAT32", any!(*v), None),
                Value::Bool(v) => ("BOOL", v.into_pyobject(py)?.to_owned().into_any(), None),
                Value::U64(v) => ("UINT64", any!(*v), None),
                Value::I64(v) => ("INT64", any!(*v), None),
                Value::F64(v) => ("FLOAT64", any!(*v), None),
                Value::String(v) => ("STRING", text(py, v)?, None),
                Value::Array(array) => {
                    let (item, elements) = array_to_python(py, array)?;
                    ("ARRAY", elements, Some(item))
                }
            };
            Ok((key.to_owned(), kind, object, item))
        })
        .collect()
}

fn array_from_python(item: &str, value: &Bound<'_, PyAny>) -> PyResult<Array> {
    Ok(match item {
        "UINT8" => Array::U8(value.extract()?),
        "INT8" => Array::I8(value.extract()?),
        "UINT16" => Array::U16(value.extract()?),
        "INT16" => Array::I16(value.extract()?),
        "UINT32" => Array::U32(value.extract()?),
        "INT32" => Array::I32(value.extract()?),
        "FLOAT32" => Array::F32(value.extract()?),
        "BOOL" => Array::Bool(value.extract()?),
        "UINT64" => Array::U64(value.extract()?),
        "INT64" => Array::I64(value.extract()?),
        "FLOAT64" => Array::F64(value.extract()?),
        "STRING" => Array::String(value.try_iter()?.map(|s| bytes_of(&s?)).collect::<PyResult<Vec<_>>>()?),
        "ARRAY" => {
            let inner = |entry: PyResult<Bound<'_, PyAny>>| {
                let (item, value): (String, Bound<'_, PyAny>) = entry?.extract()?;
                array_from_python(&item, &value)
            };
            Array::Array(value.try_iter()?.map(inner).collect::<PyResult<Vec<_>>>()?)
        }
        other => return Err(PyValueError::new_err(format!("'{other}' is not a GGUF element type"))),
    })
}

/// Entries given by Python.
pub(crate) fn from_python(entries: Vec<Given<'_>>) -> PyResult<Metadata> {
    let mut metadata = Metadata::default();
    for (key, kind, value, item) in entries {
        let typed = match kind.as_str() {
            "UINT8" => Value::U8(value.extract()?),
            "INT8" => Value::I8(value.extract()?),
            "UINT16" => Value::U16(value.extract()?),
            "INT16" => Value::I16(value.extract()?),
            "UINT32" => Value::U32(value.extract()?),
            "INT32" => Value::I32(value.extract()?),
            "FLOAT32" => Value::F32(value.extract()?),
            "BOOL" => Value::Bool(value.extract()?),
            "UINT64" => Value::U64(value.extract()?),
            "INT64" => Value::I64(value.extract()?),
            "FLOAT64" => Value::F64(value.extract()?),
            "STRING" => Value::String(bytes_of(&value)?),
            "ARRAY" => Value::Array(array_from_python(item.as_deref().unwrap_or_default(), &value)?),
            other => return Err(PyValueError::new_err(format!("metadata '{key}': '{other}' is not a GGUF type"))),
        };
        metadata.set(key, typed);
    }
    Ok(metadata)
}
