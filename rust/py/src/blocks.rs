//! Encoding and decoding of arrays.

use ggquant::block::{Format, ImatrixUse};
use ggquant::encode::{Imatrix, Run, Weights};
use half::slice::HalfBitsSliceExt;
use numpy::{PyArray1, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::run::detached;

/// Below this many weights work is done on the calling thread.
const SMALL: usize = 1 << 18;

pub(crate) fn parse_format(name: &str) -> PyResult<Format> {
    name.parse().map_err(PyValueError::new_err)
}

fn row_bytes(format: Format, row_len: usize) -> ggquant::Result<usize> {
    format.info().row_bytes(row_len).ok_or(ggquant::Error::RowLength {
        at: ggquant::At::default(),
        format,
        len: row_len,
    })
}

/// Every block format as a list of dicts of its facts.
#[pyfunction]
pub(crate) fn formats(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    Format::ALL
        .iter()
        .map(|format| {
            let info = format.info();
            let dict = PyDict::new(py);
            dict.set_item("name", info.name)?;
            dict.set_item("ggml_type", info.ggml_type)?;
            dict.set_item("block_len", info.block_len)?;
            dict.set_item("block_bytes", info.block_bytes)?;
            dict.set_item("bits_per_weight", info.bits_per_weight())?;
            dict.set_item(
                "imatrix",
                match info.imatrix {
                    ImatrixUse::Ignored => "ignored",
                    ImatrixUse::Optional => "optional",
                    ImatrixUse::Required => "required",
                },
            )?;
            dict.set_item("storage", info.storage)?;
            dict.set_item("summary", info.summary)?;
            Ok(dict)
        })
        .collect()
}

/// Encodes a flat, contiguous array of rows. `weights` is float32, or uint16 holding the bits of `dtype` F16 or BF16.
#[pyfunction]
#[pyo3(signature = (format, weights, dtype, row_len, imatrix, rows_per_expert, threads))]
pub(crate) fn encode<'py>(
    py: Python<'py>,
    format: &str,
    weights: &Bound<'py, PyAny>,
    dtype: &str,
    row_len: usize,
    imatrix: Option<PyReadonlyArray1<'py, f32>>,
    rows_per_expert: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let format = parse_format(format)?;
    let floats: PyReadonlyArray1<'py, f32>;
    let halves: PyReadonlyArray1<'py, u16>;
    let source = match dtype {
        "F32" => {
            floats = weights.extract()?;
            Weights::F32(floats.as_slice()?)
        }
        "F16" | "BF16" => {
            halves = weights.extract()?;
            let bits = halves.as_slice()?;
            if dtype == "F16" { Weights::F16(bits.reinterpret_cast()) } else { Weights::BF16(bits.reinterpret_cast()) }
        }
        other => return Err(PyTypeError::new_err(format!("cannot encode from dtype {other}"))),
    };
    let count = match source {
        Weights::F32(w) => w.len(),
        Weights::F16(w) => w.len(),
        Weights::BF16(w) => w.len(),
    };
    let importance = match &imatrix {
        Some(array) => Some(Imatrix { values: array.as_slice()?, rows_per_expert }),
        None => None,
    };
    let out = detached(py, count < SMALL, |interrupt| {
        let row_bytes = row_bytes(format, row_len)?;
        let mut out = vec![0; count.checked_div(row_len).unwrap_or(0) * row_bytes];
        ggquant::encode::encode(
            format,
            source,
            row_len,
            importance,
            &mut out,
            Run { threads, interrupt: Some(interrupt) },
        )?;
        Ok(out)
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Decodes a flat, contiguous array of encoded rows into float32.
#[pyfunction]
pub(crate) fn decode<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
    row_len: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let format = parse_format(format)?;
    let bytes = data.as_slice()?;
    let small = data.len() < SMALL / 2;
    let out = detached(py, small, |interrupt| {
        let row_bytes = row_bytes(format, row_len)?;
        let mut out = vec![0.0; bytes.len().checked_div(row_bytes).unwrap_or(0) * row_len];
        ggquant::encode::decode(format, bytes, row_len, &mut out, Run { threads, interrupt: Some(interrupt) })?;
        Ok(out)
    })?;
    Ok(PyArray1::from_vec(py, out))
}
