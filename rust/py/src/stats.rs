//! Statistics of logits and weights, on flat contiguous arrays.

use ggquant::encode::Run;
use ggquant::stats;
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::run::detached;

/// Below this many values work is done on the calling thread.
const SMALL: usize = 1 << 18;

/// Rows of `n_vocab` logits in the packed form of `llama-perplexity`'s files.
#[pyfunction]
pub(crate) fn pack_logits<'py>(
    py: Python<'py>,
    logits: PyReadonlyArray1<'py, f32>,
    n_vocab: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<u16>>> {
    let data = logits.as_slice()?;
    let out = detached(py, data.len() < SMALL, |interrupt| {
        stats::pack(data, n_vocab, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// For each row of logits: nll, the reference's nll, divergence, difference of probabilities, and 1 for the same top token.
#[pyfunction]
pub(crate) fn score_logits<'py>(
    py: Python<'py>,
    logits: PyReadonlyArray1<'py, f32>,
    n_vocab: usize,
    base: PyReadonlyArray1<'py, u16>,
    targets: PyReadonlyArray1<'py, u32>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (data, base, targets) = (logits.as_slice()?, base.as_slice()?, targets.as_slice()?);
    let scores = detached(py, data.len() < SMALL, |interrupt| {
        stats::score(data, n_vocab, base, targets, Run { threads, interrupt: Some(interrupt) })
    })?;
    let parts = |s: stats::Score| [s.nll, s.base_nll, s.kld, s.dp, f64::from(u8::from(s.same_top))];
    Ok(PyArray1::from_vec(py, scores.into_iter().flat_map(parts).collect()))
}

/// Sums over two tensors' weights: aa, bb, ab, dd, weighted aa, weighted dd, and the largest difference.
#[pyfunction]
#[pyo3(signature = (a, b, row_len, importance, rows_per_expert, first_row, threads))]
pub(crate) fn difference(
    py: Python<'_>,
    a: PyReadonlyArray1<'_, f32>,
    b: PyReadonlyArray1<'_, f32>,
    row_len: usize,
    importance: Option<PyReadonlyArray1<'_, f32>>,
    rows_per_expert: usize,
    first_row: usize,
    threads: Option<usize>,
) -> PyResult<[f64; 7]> {
    let (a, b) = (a.as_slice()?, b.as_slice()?);
    let values = importance.as_ref().map(|values| values.as_slice()).transpose()?;
    let importance = values.map(|values| stats::Importance { values, rows_per_expert, first_row });
    let made = detached(py, a.len() < SMALL, |interrupt| {
        stats::difference(a, b, row_len, importance, Run { threads, interrupt: Some(interrupt) })
    })?;
    let stats::Difference { aa, bb, ab, dd, weighted_aa, weighted_dd, largest } = made;
    Ok([aa, bb, ab, dd, weighted_aa, weighted_dd, largest])
}
