//! Encoding and decoding of arrays.

use ggquant::block::scalar::{self, ScalarCodec};
use ggquant::block::vector;
use ggquant::block::{Format, ImatrixUse};
use ggquant::encode::{Imatrix, Run, Weights};
use ggquant::reference::codebook::Signs;
use half::slice::HalfBitsSliceExt;
use numpy::{Element, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors;
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

/// What a job fills: an array of the caller's, of exactly `len` elements, or a new one.
enum Target<'py, T: Element> {
    Given(Bound<'py, PyArray1<T>>, PyReadwriteArray1<'py, T>),
    New(Vec<T>),
}

impl<'py, T: Element + Copy + Default> Target<'py, T> {
    fn new(given: Option<Bound<'py, PyArray1<T>>>, len: usize) -> PyResult<Self> {
        let Some(array) = given else { return Ok(Self::New(vec![T::default(); len])) };
        if array.len() != len {
            return Err(PyValueError::new_err(format!("out has {} elements, and {len} are written", array.len())));
        }
        let view = array.try_readwrite().map_err(|error| PyValueError::new_err(format!("out: {error}")))?;
        Ok(Self::Given(array, view))
    }

    fn as_slice(&mut self) -> PyResult<&mut [T]> {
        match self {
            Self::Given(_, view) => Ok(view.as_slice_mut()?),
            Self::New(vec) => Ok(vec),
        }
    }

    fn into_array(self, py: Python<'py>) -> Bound<'py, PyArray1<T>> {
        match self {
            Self::Given(array, _) => array,
            Self::New(vec) => PyArray1::from_vec(py, vec),
        }
    }
}

/// Encodes a flat, contiguous array of rows into `out` or a new array. `weights` is float32, or uint16 holding the bits of
/// `dtype` F16 or BF16.
#[pyfunction]
#[pyo3(signature = (format, weights, dtype, row_len, imatrix, rows_per_expert, threads, out=None))]
pub(crate) fn encode<'py>(
    py: Python<'py>,
    format: &str,
    weights: &Bound<'py, PyAny>,
    dtype: &str,
    row_len: usize,
    imatrix: Option<PyReadonlyArray1<'py, f32>>,
    rows_per_expert: usize,
    threads: Option<usize>,
    out: Option<Bound<'py, PyArray1<u8>>>,
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
    let row_bytes = row_bytes(format, row_len).map_err(|error| errors::to_python(py, &error))?;
    let mut target = Target::new(out, count.checked_div(row_len).unwrap_or(0) * row_bytes)?;
    let out = target.as_slice()?;
    detached(py, count < SMALL, |interrupt| {
        let run = Run { threads, interrupt: Some(interrupt) };
        ggquant::encode::encode(format, source, row_len, importance, out, run)
    })?;
    Ok(target.into_array(py))
}

/// Decodes a flat, contiguous array of encoded rows into float32: `out` or a new array.
#[pyfunction]
#[pyo3(signature = (format, data, row_len, threads, out=None))]
pub(crate) fn decode<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
    row_len: usize,
    threads: Option<usize>,
    out: Option<Bound<'py, PyArray1<f32>>>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let format = parse_format(format)?;
    let bytes = data.as_slice()?;
    let small = data.len() < SMALL / 2;
    let row_bytes = row_bytes(format, row_len).map_err(|error| errors::to_python(py, &error))?;
    let mut target = Target::new(out, bytes.len().checked_div(row_bytes).unwrap_or(0) * row_len)?;
    let out = target.as_slice()?;
    detached(py, small, |interrupt| {
        ggquant::encode::decode(format, bytes, row_len, out, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(target.into_array(py))
}

fn names(wanted: fn(Format) -> bool) -> Vec<&'static str> {
    Format::ALL.iter().filter(|&&format| wanted(format)).map(|format| format.info().name).collect()
}

/// Names of the formats in which every weight has a code of its own.
#[pyfunction]
pub(crate) fn scalar_formats() -> Vec<&'static str> {
    names(|format| format.scalar_codes().is_some())
}

/// Arrays of scales and of offsets (empty without any), one for each sub-block; the table; weights of a sub-block.
type BlockGrid<'py> = (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>, usize);

/// The values that encoded weights can take while their scales stay: `scale * table[code] + offset`.
#[pyfunction]
pub(crate) fn block_grid<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
) -> PyResult<BlockGrid<'py>> {
    let (format, codec) = scalar_format(format)?;
    let data = data.as_slice()?;
    whole_blocks(format, data.len())?;
    let grid = py.detach(|| scalar::grid(format, data)).ok_or_else(|| no_codes(format))?;
    let table = codec.table.iter().map(|&value| f32::from(value)).collect();
    let array = |values: Vec<f32>| PyArray1::from_vec(py, values);
    Ok((array(grid.scale), array(grid.offset), array(table), codec.sub_len))
}

/// Encoded blocks with other codes, one a weight, counted from the lowest value of the table.
#[pyfunction]
pub(crate) fn with_codes<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
    codes: PyReadonlyArray1<'py, u8>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let (format, codec) = scalar_format(format)?;
    let (data, codes) = (data.as_slice()?, codes.as_slice()?);
    let blocks = whole_blocks(format, data.len())?;
    if blocks.checked_mul(format.info().block_len) != Some(codes.len()) {
        return Err(PyValueError::new_err(format!("{} codes for {blocks} blocks of {format}", codes.len())));
    }
    let out = py.detach(|| scalar::with_codes(format, data, codes)).ok_or_else(|| {
        PyValueError::new_err(format!("codes of {format} are below {}, and some are not", codec.table.len()))
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Names of the formats in which several weights at once are looked up in a codebook.
#[pyfunction]
pub(crate) fn vector_formats() -> Vec<&'static str> {
    names(|format| format.vector_codes().is_some())
}

/// Arrays of scales, one for each sub-block, and of shifts (empty without any), one for each vector; coordinates of the
/// codebook's points; weights of a vector and of a sub-block; whether signs are "in points", "any" or "even".
type BlockVectors<'py> =
    (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>, usize, usize, &'static str);

/// The values that encoded weights can take while their scales stay: `scale * (sign * point + shift)`.
#[pyfunction]
pub(crate) fn block_vectors<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
) -> PyResult<BlockVectors<'py>> {
    let format = parse_format(format)?;
    let codec = format.vector_codes().ok_or_else(|| no_points(format))?;
    let data = data.as_slice()?;
    whole_blocks(format, data.len())?;
    let grid = py.detach(|| vector::grid(format, data)).ok_or_else(|| no_points(format))?;
    let array = |values: Vec<f32>| PyArray1::from_vec(py, values);
    let points = array((codec.points)());
    let signs = match codec.signs {
        None => "in points",
        Some(Signs::Any) => "any",
        Some(Signs::Even) => "even",
    };
    Ok((array(grid.scale), array(grid.shift), points, codec.dims, codec.sub_len, signs))
}

/// Encoded rows with the points and signs nearest to `x`, float32 and flat, while scales stay.
#[pyfunction]
pub(crate) fn nearest_codes<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
    x: PyReadonlyArray1<'py, f32>,
    row_len: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let format = parse_format(format)?;
    let (data, x) = (data.as_slice()?, x.as_slice()?);
    let out = detached(py, x.len() < SMALL, |interrupt| {
        ggquant::encode::nearest_codes(format, data, x, row_len, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

fn no_points(format: Format) -> PyErr {
    PyValueError::new_err(format!("{format} has no codebook of vectors"))
}

fn scalar_format(name: &str) -> PyResult<(Format, ScalarCodec)> {
    let format = parse_format(name)?;
    Ok((format, format.scalar_codes().ok_or_else(|| no_codes(format))?))
}

fn no_codes(format: Format) -> PyErr {
    PyValueError::new_err(format!("weights of {format} have no codes of their own"))
}

fn whole_blocks(format: Format, bytes: usize) -> PyResult<usize> {
    let size = format.info().block_bytes;
    if bytes.is_multiple_of(size) {
        return Ok(bytes / size);
    }
    Err(PyValueError::new_err(format!("{bytes} bytes are not whole blocks of {format}, which have {size}")))
}
