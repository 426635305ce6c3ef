//! GPTQ: Hessians and weights in, blocks or integer groups out.

use std::sync::Arc;

use ggquant::encode::Run;
use ggquant::gptq::{self, Effort, Options, integer};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;

use crate::blocks::parse_format;
use crate::packed::scale_type_of;
use crate::run::detached;

/// A damped and factored Hessian.
#[pyclass(frozen)]
pub(crate) struct HessianFactor {
    inner: Arc<gptq::Factor>,
}

/// Encoded bytes, and for each row the loss of rounding and of the solution.
type Solved<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>);

#[pymethods]
impl HessianFactor {
    /// `hessian` is a flat square of `row_len`; `passes` above 0 keeps it for passes over whole rows.
    #[new]
    fn new(
        py: Python<'_>,
        hessian: PyReadonlyArray1<'_, f32>,
        row_len: usize,
        damp: f64,
        act_order: bool,
        joint: bool,
        passes: u32,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let hessian = hessian.as_slice()?;
        let options = Options { damp, act_order, joint, effort: Effort { rounds: 0, passes } };
        let inner = detached(py, row_len < 512, |interrupt| {
            gptq::Factor::new(hessian, row_len, &options, Run { threads, interrupt: Some(interrupt) })
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Damping used, relative to the mean of the diagonal.
    #[getter]
    fn damp(&self) -> f64 {
        self.inner.damp()
    }

    /// Number of columns whose inputs are always zero.
    #[getter]
    fn dead(&self) -> usize {
        self.inner.dead()
    }

    /// Solves flat, contiguous rows into `format`.
    #[pyo3(signature = (format, weights, importance, rounds, passes, threads))]
    fn solve<'py>(
        &self,
        py: Python<'py>,
        format: &str,
        weights: PyReadonlyArray1<'py, f32>,
        importance: Option<PyReadonlyArray1<'py, f32>>,
        rounds: u32,
        passes: u32,
        threads: Option<usize>,
    ) -> PyResult<Solved<'py>> {
        let format = parse_format(format)?;
        let weights = weights.as_slice()?;
        let importance = importance.as_ref().map(|array| array.as_slice()).transpose()?;
        let factor = Arc::clone(&self.inner);
        let (bytes, losses) = detached(py, false, |interrupt| {
            let row_bytes = format.info().row_bytes(factor.row_len()).unwrap_or(0);
            let mut out = vec![0; weights.len() / factor.row_len() * row_bytes];
            let run = Run { threads, interrupt: Some(interrupt) };
            let losses = gptq::solve(format, weights, &factor, importance, Effort { rounds, passes }, &mut out, run)?;
            Ok((out, losses))
        })?;
        let rounded = losses.iter().map(|loss| loss.rounded).collect();
        let solved = losses.iter().map(|loss| loss.solved).collect();
        Ok((PyArray1::from_vec(py, bytes), PyArray1::from_vec(py, rounded), PyArray1::from_vec(py, solved)))
    }
}

/// The formats that there is a solver for: names, and whether they choose columns jointly.
#[pyfunction]
pub(crate) fn gptq_formats() -> Vec<(&'static str, bool)> {
    let supported = ggquant::Format::ALL.iter().filter(|&&format| gptq::supports(format));
    supported.map(|&format| (format.info().name, gptq::is_joint(format))).collect()
}

/// Codes, scales, zero points, and the group of each column.
type Groups<'py> =
    (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<u32>>);

/// Quantizes flat, contiguous rows into groups of integers.
#[pyfunction]
#[pyo3(signature = (weights, hessian, row_len, bits, group_size, symmetric, act_order, damp, scale_type, least_zero, threads))]
pub(crate) fn gptq_groups<'py>(
    py: Python<'py>,
    weights: PyReadonlyArray1<'py, f32>,
    hessian: PyReadonlyArray1<'py, f64>,
    row_len: usize,
    bits: u32,
    group_size: usize,
    symmetric: bool,
    act_order: bool,
    damp: f64,
    scale_type: &str,
    least_zero: u8,
    threads: Option<usize>,
) -> PyResult<Groups<'py>> {
    let (weights, hessian) = (weights.as_slice()?, hessian.as_slice()?);
    let scale = scale_type_of(scale_type)?;
    let options = integer::Options { bits, group_size, symmetric, act_order, damp, scale, least_zero };
    let groups = detached(py, false, |interrupt| {
        integer::solve(weights, hessian, row_len, &options, Run { threads, interrupt: Some(interrupt) })
    })?;
    Ok((
        PyArray1::from_vec(py, groups.codes),
        PyArray1::from_vec(py, groups.scales),
        PyArray1::from_vec(py, groups.zeros),
        PyArray1::from_vec(py, groups.group_of),
    ))
}
