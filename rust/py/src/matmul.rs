//! Products of activations with encoded weights.

use ggquant::encode::Run;
use ggquant::matmul::{Activations, Matrix};
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::blocks::parse_format;
use crate::run::detached;

/// Below this many multiplications work is done on the calling thread.
const SMALL: usize = 1 << 24;

fn parse_activations(name: &str) -> PyResult<Activations> {
    match name {
        "int8" => Ok(Activations::Int8),
        "float32" => Ok(Activations::Float32),
        other => Err(PyValueError::new_err(format!("activations are 'int8' or 'float32', not '{other}'"))),
    }
}

/// Multiplies flat, contiguous rows of activations with `rows` encoded rows of `cols` weights, into `out`.
#[pyfunction]
pub(crate) fn matmul(
    py: Python<'_>,
    format: &str,
    data: PyReadonlyArray1<'_, u8>,
    rows: usize,
    cols: usize,
    x: PyReadonlyArray1<'_, f32>,
    activations: &str,
    mut out: PyReadwriteArray1<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (format, activations) = (parse_format(format)?, parse_activations(activations)?);
    let (data, x) = (data.as_slice()?, x.as_slice()?);
    let small = x.len().saturating_mul(rows) < SMALL;
    let out = out.as_slice_mut()?;
    detached(py, small, |interrupt| {
        let weights = Matrix::new(format, rows, cols, data)?;
        ggquant::matmul::matmul(weights, x, activations, out, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Multiplies each row of activations with the matrices of the experts that `ids` names for it, into `out`.
#[pyfunction]
pub(crate) fn matmul_id(
    py: Python<'_>,
    format: &str,
    data: PyReadonlyArray1<'_, u8>,
    experts: usize,
    rows: usize,
    cols: usize,
    x: PyReadonlyArray1<'_, f32>,
    ids: PyReadonlyArray1<'_, u32>,
    slots: usize,
    activations: &str,
    mut out: PyReadwriteArray1<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (format, activations) = (parse_format(format)?, parse_activations(activations)?);
    let (data, x, ids) = (data.as_slice()?, x.as_slice()?, ids.as_slice()?);
    let small = ids.len().saturating_mul(rows).saturating_mul(cols) < SMALL;
    let out = out.as_slice_mut()?;
    detached(py, small, |interrupt| {
        let all = experts.checked_mul(rows).ok_or_else(|| ggquant::Error::Shape {
            at: ggquant::At::default(),
            what: format!("{experts} experts of {rows} rows are too many"),
        })?;
        let weights = Matrix::new(format, all, cols, data)?;
        let run = Run { threads, interrupt: Some(interrupt) };
        ggquant::matmul::matmul_id(weights, experts, x, ids, slots, activations, out, run)
    })
}
