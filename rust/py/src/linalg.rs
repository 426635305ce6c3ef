//! Linear algebra on flat contiguous arrays, in place.

use ggquant::encode::Run;
use ggquant::linalg;
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::prelude::*;

use crate::run::detached;

/// Below this many multiplications work is done on the calling thread.
const SMALL: usize = 1 << 24;

/// Adds `X^T X`, or `X^T diag(w) X`, to the upper triangle of `out`.
#[pyfunction]
pub(crate) fn add_gram(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f32>,
    weighted: Option<PyReadonlyArray1<'_, f32>>,
    columns: usize,
    mut out: PyReadwriteArray1<'_, f64>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (x, out) = (x.as_slice()?, out.as_slice_mut()?);
    let weighted = weighted.as_ref().map(|array| array.as_slice()).transpose()?;
    detached(py, x.len().saturating_mul(columns) < SMALL, |interrupt| {
        linalg::add_gram(x, weighted, columns, out, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Adds `X^T Y` to `out`.
#[pyfunction]
pub(crate) fn add_products(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f32>,
    x_columns: usize,
    y: PyReadonlyArray1<'_, f32>,
    y_columns: usize,
    mut out: PyReadwriteArray1<'_, f64>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (x, y, out) = (x.as_slice()?, y.as_slice()?, out.as_slice_mut()?);
    detached(py, x.len().saturating_mul(y_columns) < SMALL, |interrupt| {
        linalg::add_products(x, x_columns, y, y_columns, out, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Copies the upper triangle of a square of `len` rows to the lower one.
#[pyfunction]
pub(crate) fn mirror(py: Python<'_>, mut square: PyReadwriteArray1<'_, f64>, len: usize) -> PyResult<()> {
    let square = square.as_slice_mut()?;
    detached(py, square.len() < SMALL, |_| linalg::mirror(square, len))
}

/// Replaces the upper triangle of `a` by its Cholesky factor, and tells whether there is one.
#[pyfunction]
pub(crate) fn cholesky(
    py: Python<'_>,
    mut a: PyReadwriteArray1<'_, f64>,
    len: usize,
    threads: Option<usize>,
) -> PyResult<bool> {
    let a = a.as_slice_mut()?;
    detached(py, a.len().saturating_mul(len) < SMALL, |interrupt| {
        linalg::cholesky(a, len, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Solves `X R^T R = B`, or without `both` `Y R = B`, in place.
#[pyfunction]
pub(crate) fn solve_factored(
    py: Python<'_>,
    factor: PyReadonlyArray1<'_, f64>,
    len: usize,
    mut b: PyReadwriteArray1<'_, f64>,
    both: bool,
    threads: Option<usize>,
) -> PyResult<()> {
    let (factor, b) = (factor.as_slice()?, b.as_slice_mut()?);
    detached(py, b.len().saturating_mul(len) < SMALL, |interrupt| {
        let run = Run { threads, interrupt: Some(interrupt) };
        if both { linalg::solve(factor, len, b, run) } else { linalg::solve_triangular(factor, len, b, run) }
    })
}
