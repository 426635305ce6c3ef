//! Packed weights of GPTQ, AWQ and compressed-tensors checkpoints as Python plans them.

use std::str::FromStr;
use std::sync::Arc;

use ggquant::Format;
use ggquant::convert::{self, Coding, Grouping, PackedWeights, SourceType, View, Zeros};
use ggquant::encode::Run;
use ggquant::packed::bits::Width;
use ggquant::packed::blocks::{self, Target};
use ggquant::packed::layouts;
use ggquant::packed::rtn::{self, Grid, ScaleType};
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::run::detached;

/// Below this many weights work is done on the calling thread.
const SMALL: usize = 1 << 18;

type Bytes<'py> = Bound<'py, PyArray1<u8>>;
type Floats<'py> = Bound<'py, PyArray1<f32>>;

/// Offset and so on of a view, see `convert::ViewParts`.
type ViewParts = (String, u64, String, Vec<u64>, Vec<u64>, u64);

/// A matrix of packed weights: attributes are read from the object by name.
#[derive(Clone, FromPyObject)]
pub(crate) struct GivenPacked {
    rows: u64,
    columns: u64,
    coding: String,
    bits: u64,
    codes: ViewParts,
    scales: ViewParts,
    rows_per_scale: u64,
    /// Where all are alike.
    zero: Option<i32>,
    zeros: Option<ViewParts>,
    zero_coding: String,
    zero_less_one: bool,
    group_len: u64,
    listed: Option<ViewParts>,
    shape: Vec<u64>,
    strides: Vec<u64>,
    start: u64,
    /// Little-endian words of 32 bits.
    row_order: Option<Vec<u8>>,
    column_order: Option<Vec<u8>>,
}

impl GivenPacked {
    /// The engine's form of it.
    pub(crate) fn plan(self) -> Result<PackedWeights, String> {
        let zeros = match (self.zero, self.zeros) {
            (Some(zero), _) => Zeros::All(zero),
            (None, Some(parts)) => Zeros::Stored {
                coding: coding(&self.zero_coding, self.bits)?,
                view: view(parts)?,
                less_one: self.zero_less_one,
            },
            (None, None) => return Err("packed weights without zero points".into()),
        };
        let groups = match self.listed {
            Some(parts) => Grouping::Listed(view(parts)?),
            None => Grouping::Even(self.group_len),
        };
        Ok(PackedWeights {
            rows: self.rows,
            columns: self.columns,
            coding: coding(&self.coding, self.bits)?,
            codes: view(self.codes)?,
            scales: view(self.scales)?,
            rows_per_scale: self.rows_per_scale,
            zeros,
            groups,
            shape: self.shape,
            strides: self.strides,
            start: self.start,
            row_order: self.row_order.map(words),
            column_order: self.column_order.map(words),
        })
    }
}

fn words(bytes: Vec<u8>) -> Arc<[u32]> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn view((file, offset, dtype, shape, strides, start): ViewParts) -> Result<View, String> {
    Ok(View { file: file.into(), offset, dtype: SourceType::from_str(&dtype)?, shape, strides, start })
}

fn coding(name: &str, bits: u64) -> Result<Coding, String> {
    match name {
        "dense" => Ok(Coding::Dense(Width::new(bits)?)),
        "aligned" => Ok(Coding::Aligned(Width::new(bits)?)),
        "awq" => Ok(Coding::Awq),
        "signed" => Ok(Coding::Signed),
        "float" => Ok(Coding::Float),
        _ => Err(format!("no packing is called '{name}'")),
    }
}

/// The type of scales of this name.
pub(crate) fn scale_type_of(name: &str) -> PyResult<ScaleType> {
    match name {
        "F16" => Ok(ScaleType::F16),
        "BF16" => Ok(ScaleType::BF16),
        "F32" => Ok(ScaleType::F32),
        other => Err(PyValueError::new_err(format!("scales are not stored as {other}"))),
    }
}

/// The format of this name, if it can take codes as they are.
pub(crate) fn target(name: &str) -> Result<Target, String> {
    let format = Format::from_str(name).map_err(|e| e.to_string())?;
    Target::of(format).ok_or_else(|| format!("{name} cannot take codes as they are"))
}

/// The values of packed weights, flat, in the order of their walk, into `out`.
#[pyfunction]
pub(crate) fn read_packed(
    py: Python<'_>,
    part: GivenPacked,
    mut out: PyReadwriteArray1<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let plan = part.plan().map_err(PyValueError::new_err)?;
    let out = out.as_slice_mut()?;
    detached(py, false, |interrupt| convert::read_packed(&plan, out, Run { threads, interrupt: Some(interrupt) }))
}

/// The codes, scales and zero points of packed weights, flat, in the order of their walk.
#[pyfunction]
pub(crate) fn packed_codes<'py>(
    py: Python<'py>,
    part: GivenPacked,
    threads: Option<usize>,
) -> PyResult<(Bytes<'py>, Floats<'py>, Bytes<'py>)> {
    let plan = part.plan().map_err(PyValueError::new_err)?;
    let made =
        detached(py, false, |interrupt| convert::read_codes(&plan, Run { threads, interrupt: Some(interrupt) }))?;
    let zeros = PyArray1::from_vec(py, made.zeros);
    Ok((PyArray1::from_vec(py, made.codes), PyArray1::from_vec(py, made.scales), zeros))
}

/// Codes (one byte each, rows of `columns`) in the words of a layout: "inputs" `[words, rows]`, "rows" `[rows, words]`,
/// "outputs" `[columns, words]`, "awq" `[columns, rows / 8]`.
#[pyfunction]
pub(crate) fn pack_codes<'py>(
    py: Python<'py>,
    layout: &str,
    codes: PyReadonlyArray1<'py, u8>,
    columns: usize,
    bits: u64,
    threads: Option<usize>,
) -> PyResult<Bytes<'py>> {
    let width = Width::new(bits).map_err(PyValueError::new_err)?;
    let data = codes.as_slice()?;
    let out = detached(py, codes.len() < SMALL, |interrupt| {
        let run = Run { threads, interrupt: Some(interrupt) };
        match layout {
            "inputs" => layouts::pack_inputs(data, columns, width, run),
            "rows" => layouts::pack_rows(data, columns, width, run),
            "outputs" => layouts::pack_outputs(data, columns, width),
            _ => layouts::pack_awq(data, columns, run),
        }
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Codes, scales and zero points of weights rounded to the nearest point of the grid that spans their group.
#[pyfunction]
pub(crate) fn round_to_nearest<'py>(
    py: Python<'py>,
    weights: PyReadonlyArray1<'py, f32>,
    columns: usize,
    bits: u64,
    group_len: usize,
    symmetric: bool,
    scale_type: &str,
    least_zero: u8,
    threads: Option<usize>,
) -> PyResult<(Bytes<'py>, Floats<'py>, Bytes<'py>)> {
    let width = Width::new(bits).map_err(PyValueError::new_err)?;
    let scale = scale_type_of(scale_type)?;
    let x = weights.as_slice()?;
    let made = detached(py, x.len() < SMALL, |interrupt| {
        let grid = Grid { width, group_len, symmetric, scale, least_zero };
        rtn::round_to_nearest(x, columns, grid, Run { threads, interrupt: Some(interrupt) })
    })?;
    let zeros = PyArray1::from_vec(py, made.zeros);
    Ok((PyArray1::from_vec(py, made.codes), PyArray1::from_vec(py, made.scales), zeros))
}

/// Codes, scales and minima of GGUF blocks.
#[pyfunction]
pub(crate) fn block_codes<'py>(
    py: Python<'py>,
    format: &str,
    data: PyReadonlyArray1<'py, u8>,
    threads: Option<usize>,
) -> PyResult<(Bytes<'py>, Floats<'py>, Floats<'py>)> {
    let target = target(format).map_err(PyValueError::new_err)?;
    let bytes = data.as_slice()?;
    let made = detached(py, data.len() < SMALL / 2, |interrupt| {
        blocks::take_apart(target, bytes, Run { threads, interrupt: Some(interrupt) })
    })?;
    let minima = PyArray1::from_vec(py, made.minima);
    Ok((PyArray1::from_vec(py, made.codes), PyArray1::from_vec(py, made.scales), minima))
}
