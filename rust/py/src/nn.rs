//! The parts of a forward pass between matrix products, on flat contiguous arrays.

use ggquant::encode::Run;
use ggquant::nn;
use numpy::{PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::run::detached;

/// Below this many values work is done on the calling thread.
const SMALL: usize = 1 << 18;

fn activation(name: &str) -> PyResult<nn::Activation> {
    match name {
        "silu" => Ok(nn::Activation::Silu),
        "gelu" => Ok(nn::Activation::Gelu),
        "gelu_tanh" => Ok(nn::Activation::GeluTanh),
        "relu" => Ok(nn::Activation::Relu),
        _ => Err(PyValueError::new_err(format!("unknown activation '{name}'"))),
    }
}

/// Rows of `weight`'s length, normalized by their root mean square.
#[pyfunction]
pub(crate) fn rms_norm<'py>(
    py: Python<'py>,
    x: PyReadonlyArray1<'py, f32>,
    weight: PyReadonlyArray1<'py, f32>,
    eps: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (data, weight) = (x.as_slice()?, weight.as_slice()?);
    let out = detached(py, data.len() < SMALL, |interrupt| {
        nn::rms_norm(data, weight, eps, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Rows of `weight`'s length, normalized to mean 0 and variance 1.
#[pyfunction]
pub(crate) fn layer_norm<'py>(
    py: Python<'py>,
    x: PyReadonlyArray1<'py, f32>,
    weight: PyReadonlyArray1<'py, f32>,
    bias: Option<PyReadonlyArray1<'py, f32>>,
    eps: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (data, weight) = (x.as_slice()?, weight.as_slice()?);
    let bias = bias.as_ref().map(|bias| bias.as_slice()).transpose()?;
    let out = detached(py, data.len() < SMALL, |interrupt| {
        nn::layer_norm(data, weight, bias, eps, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Rotates the heads of every row in place.
#[pyfunction]
pub(crate) fn rope(
    py: Python<'_>,
    mut x: PyReadwriteArray1<'_, f32>,
    heads: usize,
    head_dim: usize,
    cos: PyReadonlyArray1<'_, f32>,
    sin: PyReadonlyArray1<'_, f32>,
    pairs: usize,
    halves: bool,
    threads: Option<usize>,
) -> PyResult<()> {
    let data = x.as_slice_mut()?;
    let pairing = if halves { nn::Pairing::Halves } else { nn::Pairing::Neighbours };
    let rotation = nn::Rotation { cos: cos.as_slice()?, sin: sin.as_slice()?, pairs, pairing };
    detached(py, data.len() < SMALL, |interrupt| {
        nn::rotate(data, heads, head_dim, rotation, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Attention of queries over keys and values, for sequences that lie one after another.
#[pyfunction]
pub(crate) fn attention<'py>(
    py: Python<'py>,
    q: PyReadonlyArray1<'py, f32>,
    k: PyReadonlyArray1<'py, f32>,
    v: PyReadonlyArray1<'py, f32>,
    sequence: usize,
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    scale: f32,
    causal: bool,
    window: Option<usize>,
    soft_cap: Option<f32>,
    sinks: Option<PyReadonlyArray1<'py, f32>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (queries, keys, values) = (q.as_slice()?, k.as_slice()?, v.as_slice()?);
    let sinks = sinks.as_ref().map(|sinks| sinks.as_slice()).transpose()?;
    let how = nn::Attention { sequence, heads, kv_heads, key_dim, value_dim, scale, causal, window, soft_cap, sinks };
    let out = detached(py, queries.len() < SMALL / 4, |interrupt| {
        nn::attention(queries, keys, values, how, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Replaces each value by an activation of it.
#[pyfunction]
pub(crate) fn activate(
    py: Python<'_>,
    mut x: PyReadwriteArray1<'_, f32>,
    kind: &str,
    threads: Option<usize>,
) -> PyResult<()> {
    let (data, kind) = (x.as_slice_mut()?, activation(kind)?);
    detached(py, data.len() < SMALL, |interrupt| nn::activate(data, kind, Run { threads, interrupt: Some(interrupt) }))
}

/// Replaces each value by that of a curve: "sigmoid", "normal" or "exp".
#[pyfunction]
pub(crate) fn curve(
    py: Python<'_>,
    mut x: PyReadwriteArray1<'_, f32>,
    kind: &str,
    threads: Option<usize>,
) -> PyResult<()> {
    let kind = match kind {
        "sigmoid" => nn::Curve::Sigmoid,
        "normal" => nn::Curve::Normal,
        "exp" => nn::Curve::Exponential,
        other => return Err(PyValueError::new_err(format!("unknown curve '{other}'"))),
    };
    let data = x.as_slice_mut()?;
    detached(py, data.len() < SMALL, |interrupt| nn::curve(data, kind, Run { threads, interrupt: Some(interrupt) }))
}

/// Replaces rows of `columns` values by their softmax.
#[pyfunction]
pub(crate) fn softmax(
    py: Python<'_>,
    mut x: PyReadwriteArray1<'_, f32>,
    columns: usize,
    threads: Option<usize>,
) -> PyResult<()> {
    let data = x.as_slice_mut()?;
    detached(py, data.len() < SMALL, |interrupt| {
        nn::softmax(data, columns, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Replaces each value of `gate` by its activation times the value of `up`; with `limit`, by gpt-oss's clamped product.
#[pyfunction]
pub(crate) fn gated(
    py: Python<'_>,
    mut gate: PyReadwriteArray1<'_, f32>,
    up: PyReadonlyArray1<'_, f32>,
    kind: &str,
    threads: Option<usize>,
) -> PyResult<()> {
    let kind = match kind {
        "swiglu_oai" => nn::Gate::Clamped { alpha: 1.702, limit: 7.0 },
        other => nn::Gate::Product(activation(other)?),
    };
    let (data, up) = (gate.as_slice_mut()?, up.as_slice()?);
    detached(py, data.len() < SMALL, |interrupt| nn::gate(data, up, kind, Run { threads, interrupt: Some(interrupt) }))
}

/// Replaces each value by `cap * tanh(value / cap)`.
#[pyfunction]
pub(crate) fn soft_cap(
    py: Python<'_>,
    mut x: PyReadwriteArray1<'_, f32>,
    cap: f32,
    threads: Option<usize>,
) -> PyResult<()> {
    let data = x.as_slice_mut()?;
    detached(py, data.len() < SMALL, |interrupt| nn::soft_cap(data, cap, Run { threads, interrupt: Some(interrupt) }))
}

/// Each value rounded to the nearest "F16" or "BF16"; `out` may not be `x`.
#[pyfunction]
pub(crate) fn round_to(
    py: Python<'_>,
    x: PyReadonlyArray1<'_, f32>,
    kind: &str,
    mut out: PyReadwriteArray1<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let kind = match kind {
        "F16" => nn::Half::F16,
        "BF16" => nn::Half::Bf16,
        other => return Err(PyValueError::new_err(format!("unknown type '{other}'"))),
    };
    let (data, out) = (x.as_slice()?, out.as_slice_mut()?);
    detached(py, data.len() < SMALL, |interrupt| {
        nn::round_to(data, kind, out, Run { threads, interrupt: Some(interrupt) })
    })
}

/// Sums of squares over the rows, for each column.
#[pyfunction]
pub(crate) fn column_squares<'py>(
    py: Python<'py>,
    x: PyReadonlyArray1<'py, f32>,
    columns: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let data = x.as_slice()?;
    let out = detached(py, data.len() < SMALL, |interrupt| {
        nn::column_squares(data, columns, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}

/// Minus the logarithm of the probability of each row's target.
#[pyfunction]
pub(crate) fn negative_log_likelihood<'py>(
    py: Python<'py>,
    logits: PyReadonlyArray1<'py, f32>,
    columns: usize,
    targets: PyReadonlyArray1<'py, u32>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (data, targets) = (logits.as_slice()?, targets.as_slice()?);
    let out = detached(py, data.len() < SMALL, |interrupt| {
        nn::negative_log_likelihood(data, columns, targets, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok(PyArray1::from_vec(py, out))
}
