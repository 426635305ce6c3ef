//! Products of activations with weights that stay in their blocks: `y = x W^T`.
//!
//! A row of `y` depends on its own row of `x` and on the weights alone, and every sum runs in an order that follows from
//! the number of columns alone. So results are the same at every number of threads, whatever the rest of the batch, for a
//! range of rows as for the whole, and on every instruction set.
//!
//! - [`Activations::Float32`] multiplies `x` with the exact decoded weights, in `f32`, see [`float`];
//! - [`Activations::Int8`] rounds `x` to 8 bits a block at a time as ggml does, and multiplies integers, see [`int8`].

mod activation;
mod dot;
mod experts;
mod float;
mod gemv;
mod int8;
mod slab;
mod tile;
mod unpack;
pub(crate) mod wide;

use crate::arch::{Isa, isa};
use crate::block::Format;
use crate::encode::{Run, row_bytes};
use crate::error::{At, Error, Result};

pub use experts::matmul_id;

/// How activations enter the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    /// Rounded to 8 bits, a scale a block: what ggml computes. Weights that are floats take them as they are.
    Int8,
    /// As they are.
    Float32,
}

/// Rows of encoded weights.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `cols` weights in `format`, one after another in `data`.
    ///
    /// # Errors
    /// `RowLength` if rows are not whole blocks, `Shape` if `data` has another length.
    pub fn new(format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let row_bytes = if cols == 0 { 0 } else { row_bytes(format, cols)? };
        if rows.checked_mul(row_bytes) != Some(data.len()) {
            let what = format!(
                "{} bytes of weights where {rows} rows of {cols} in {format} take {row_bytes} each",
                data.len()
            );
            return Err(Error::Shape { at: At::default(), what });
        }
        Ok(Self { format, rows, cols, row_bytes, data })
    }

    /// Number of rows, which is the length of a row of the result.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, which is the length of a row of activations.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Format of the blocks.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// `Shape` if there are not as many.
    pub fn slice(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        if rows.start > rows.end || rows.end > self.rows {
            let what = format!("rows {} to {} of a matrix of {} rows", rows.start, rows.end, self.rows);
            return Err(Error::Shape { at: At::default(), what });
        }
        let data = &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes];
        Ok(Self { rows: rows.len(), data, ..*self })
    }

    /// Bytes of columns `from..to` of a row; both are multiples of the block length, or the end.
    fn bytes(&self, row: usize, from: usize, to: usize) -> &'a [u8] {
        let info = self.format.info();
        let at = |column: usize| row * self.row_bytes + column / info.block_len * info.block_bytes;
        &self.data[at(from)..at(to)]
    }

    /// As [`Matrix::bytes`], `ahead` bytes further on in the row, or, past its end, in the row `rows` below. Empty past the
    /// last row.
    fn ahead(&self, row: usize, from: usize, to: usize, ahead: usize, rows: usize) -> &'a [u8] {
        let info = self.format.info();
        let in_row = from / info.block_len * info.block_bytes + ahead;
        let len = (to - from) / info.block_len * info.block_bytes;
        let row = if in_row < self.row_bytes { row } else { row + rows };
        let start = row * self.row_bytes + in_row % self.row_bytes;
        self.data.get(start..self.data.len().min(start + len)).unwrap_or_default()
    }
}

/// `out[n, r] = sum over k of x[n, k] * weights[r, k]`, for `x` of rows of `weights.cols()`, `out` of rows of
/// `weights.rows()`.
///
/// Activations that are not finite give what IEEE arithmetic gives with [`Activations::Float32`]; with
/// [`Activations::Int8`] the whole row of `out` is NaN.
///
/// # Errors
/// `Shape` if lengths do not fit, `Unsupported` for the formats of activations with [`Activations::Int8`],
/// `Interrupted`.
pub fn matmul(weights: Matrix<'_>, x: &[f32], activations: Activations, out: &mut [f32], run: Run<'_>) -> Result<()> {
    matmul_on(isa()?, weights, x, activations, out, run)
}

/// As [`matmul`], on an instruction set of choice, to compare or to measure.
///
/// # Errors
/// As [`matmul`], and `Unsupported` if this machine lacks it.
pub fn matmul_on(
    isa: Isa,
    weights: Matrix<'_>,
    x: &[f32],
    activations: Activations,
    out: &mut [f32],
    run: Run<'_>,
) -> Result<()> {
    if !isa.is_available() {
        return Err(Error::Unsupported { at: At::default(), what: format!("this machine cannot run {isa}") });
    }
    let n = batch(weights, x.len(), out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    if weights.cols == 0 {
        out.fill(0.0);
        return Ok(());
    }
    if activations == Activations::Int8
        && let Some(integers) = unpack::integers(weights.format, isa)?
    {
        return int8::matmul(isa, integers, weights, x, n, out, run);
    }
    float::matmul(isa, weights, x, n, out, run)
}

/// The number of rows of `x`, from its length or from that of the result.
fn batch(weights: Matrix<'_>, x: usize, out: usize) -> Result<usize> {
    let (rows, cols) = (weights.rows, weights.cols);
    let n = match (cols, rows) {
        (0, 0) => 0,
        (0, _) => out / rows,
        _ => x / cols,
    };
    if n.checked_mul(cols) == Some(x) && n.checked_mul(rows) == Some(out) {
        return Ok(n);
    }
    let what = format!("{x} activations and {out} results do not fit weights of {rows} rows and {cols} columns");
    Err(Error::Shape { at: At::default(), what })
}

/// A result seen as columns: tasks own ranges of weight rows, which lie apart in every row of the result.
struct Output {
    start: *mut f32,
    n: usize,
    rows: usize,
}

// SAFETY: tasks write disjoint ranges of weight rows, see `Output::write`.
unsafe impl Sync for Output {}

impl Output {
    fn new(out: &mut [f32], n: usize, rows: usize) -> Self {
        assert_eq!(out.len(), n * rows);
        Self { start: out.as_mut_ptr(), n, rows }
    }

    /// Where results of `count` rows of the batch from `n` on start, for weight rows `rows`: as many numbers for each row of
    /// the batch, `self.rows` apart.
    ///
    /// # Safety
    /// No two threads may have the same `(n, row)` at a time.
    unsafe fn place(&self, n: usize, count: usize, rows: std::ops::Range<usize>) -> *mut f32 {
        assert!(n + count <= self.n && rows.end <= self.rows);
        self.start.wrapping_add(n * self.rows + rows.start)
    }

    /// Writes `values` for row `n` of the batch, weight rows `first..`.
    ///
    /// # Safety
    /// No two threads may write the same `(n, row)` at a time.
    unsafe fn write(&self, n: usize, first: usize, values: &[f32]) {
        assert!(n < self.n && first + values.len() <= self.rows);
        // SAFETY: within the slice that `new` was given, by the assertion; exclusive by this function's contract.
        unsafe {
            let to = self.start.add(n * self.rows + first);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}
