//! The row driver: weights in, blocks out, in parallel.
//!
//! Every format encodes a row without looking at any other, so rows may be shared out among threads in any way and the
//! bytes stay the same. The driver widens `f16` and `bf16` a few rows at a time, refuses non-finite weights, picks the
//! kernel, and polls for interruption.

use crate::block::Format;
use crate::error::Result;

/// Weights as they lie in memory, row after row.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE halves.
    F16(&'a [half::f16]),
    /// Brain floats.
    BF16(&'a [half::bf16]),
}

/// Importance of columns: one row of importances shared by all rows, or one per expert.
#[derive(Debug, Clone, Copy)]
pub struct Imatrix<'a> {
    /// `n_experts * row_len` importances.
    pub values: &'a [f32],
    /// Rows that share one row of `values`.
    pub rows_per_expert: usize,
}

/// How an encoding or decoding runs. None of it changes the result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Run<'a> {
    /// Number of threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Set by another thread to stop the work; polled every few rows.
    pub interrupt: Option<&'a std::sync::atomic::AtomicBool>,
}

/// Encodes `weights` (rows of `row_len`) as `format` into `out`, which has exactly the bytes of those rows.
///
/// # Errors
/// `RowLength`, `Shape`, `NonFinite`, `ImatrixRequired`, `Imatrix`, `Interrupted`.
pub fn encode(
    _format: Format,
    _weights: Weights<'_>,
    _row_len: usize,
    _imatrix: Option<Imatrix<'_>>,
    _out: &mut [u8],
    _run: Run<'_>,
) -> Result<()> {
    todo!()
}

/// Decodes `data` (rows of `row_len` weights) into `out`.
///
/// # Errors
/// `RowLength`, `Shape`, `Interrupted`.
pub fn decode(_format: Format, _data: &[u8], _row_len: usize, _out: &mut [f32], _run: Run<'_>) -> Result<()> {
    todo!()
}
