//! Encoding some rows of a tensor on one thread: checks, importances, kernel.

use super::{Imatrix, Weights};
use crate::arch::{Kernel, kernel};
use crate::block::{Format, ImatrixUse};
use crate::error::{At, Error, Result};

/// Everything needed to encode any rows of one tensor. Shared by all threads.
#[derive(Clone, Copy)]
pub(crate) struct RowEncoder<'a> {
    kernel: Kernel,
    row_len: usize,
    row_bytes: usize,
    imatrix: Option<Imatrix<'a>>,
}

impl<'a> RowEncoder<'a> {
    /// Checks that `rows` rows of `row_len` weights can be encoded as `format` with `imatrix`.
    ///
    /// # Errors
    /// `Unsupported` (a format for activations), `RowLength`, `Shape`, `ImatrixRequired`, `Imatrix`.
    pub(crate) fn new(format: Format, rows: usize, row_len: usize, imatrix: Option<Imatrix<'a>>) -> Result<Self> {
        let info = format.info();
        if !info.storage {
            let what = format!("{format} holds activations inside matrix products; weights are not stored in it");
            return Err(Error::Unsupported { at: At::default(), what });
        }
        let row_bytes = row_bytes(format, row_len)?;
        match imatrix {
            Some(imatrix) => check_imatrix(imatrix, rows, row_len)?,
            None if info.imatrix == ImatrixUse::Required => {
                return Err(Error::ImatrixRequired { at: At::default(), format });
            }
            None => {}
        }
        Ok(Self { kernel: kernel(format)?, row_len, row_bytes, imatrix })
    }

    /// See [`Kernel::is_plain`].
    pub(crate) fn is_plain(&self) -> bool {
        self.kernel.is_plain(self.imatrix.is_some())
    }

    /// Encodes weights of any kind as [`RowEncoder::encode_rows`] does, if no search is needed; otherwise widened.
    ///
    /// # Errors
    /// `NonFinite`.
    pub(crate) fn encode(
        &self,
        first_row: usize,
        x: Weights<'_>,
        scratch: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<()> {
        if self.is_plain() {
            // What is not finite shows once it is encoded. Where it lies is only sought when needed.
            return match self.kernel.encode_plain(x, out) {
                Some(true) => Ok(()),
                _ => check_finite(x.widen(scratch), first_row * self.row_len, self.row_len),
            };
        }
        self.encode_rows(first_row, x.widen(scratch), out)
    }

    /// Encodes the whole rows in `x`, the first of which is row `first_row` of the tensor, into `out`.
    ///
    /// # Errors
    /// `NonFinite`, with row and column counted over the tensor.
    pub(crate) fn encode_rows(&self, first_row: usize, x: &[f32], out: &mut [u8]) -> Result<()> {
        if self.is_plain() {
            return self.encode(first_row, Weights::F32(x), &mut Vec::new(), out);
        }
        check_finite(x, first_row * self.row_len, self.row_len)?;
        let Some(imatrix) = self.imatrix else {
            self.kernel.encode_rows(x, self.row_len, None, out);
            return Ok(());
        };
        // Rows of different experts have different importances: hand the kernel one expert's rows at a time.
        let (mut x, mut out, mut row) = (x, out, first_row);
        while !x.is_empty() {
            let expert = row / imatrix.rows_per_expert;
            let rows = ((expert + 1) * imatrix.rows_per_expert - row).min(x.len() / self.row_len);
            let (these, rest) = x.split_at(rows * self.row_len);
            let (bytes, rest_out) = out.split_at_mut(rows * self.row_bytes);
            let importance = &imatrix.values[expert * self.row_len..][..self.row_len];
            self.kernel.encode_rows(these, self.row_len, Some(importance), bytes);
            (x, out, row) = (rest, rest_out, row + rows);
        }
        Ok(())
    }
}

/// Bytes of a row of `row_len` weights in `format`.
///
/// # Errors
/// `Shape` for empty rows, `RowLength` for rows that are not whole blocks.
pub(crate) fn row_bytes(format: Format, row_len: usize) -> Result<usize> {
    if row_len == 0 {
        return Err(Error::Shape {
            at: At::default(),
            what: "rows hold no weights; there is nothing to encode".into(),
        });
    }
    let fault = Error::RowLength { at: At::default(), format, len: row_len };
    format.info().row_bytes(row_len).ok_or(fault)
}

/// Refuses NaN and infinities, naming the first. `x` starts at element `first` of a tensor with rows of `row_len`.
///
/// # Errors
/// `NonFinite`.
pub(crate) fn check_finite(x: &[f32], first: usize, row_len: usize) -> Result<()> {
    const EXPONENT: u32 = 0x7f80_0000;
    let is_bad = |v: &f32| v.to_bits() & EXPONENT == EXPONENT;
    // Without an early exit the compiler can look at many weights at once; the position is only sought when needed.
    if !x.iter().fold(false, |bad, v| bad | is_bad(v)) {
        return Ok(());
    }
    let Some(at) = x.iter().position(is_bad) else { return Ok(()) };
    let place = first + at;
    Err(Error::NonFinite { at: At::default(), row: place / row_len, column: place % row_len, value: x[at] })
}

fn check_imatrix(imatrix: Imatrix<'_>, rows: usize, row_len: usize) -> Result<()> {
    let fault = |what: String| Err(Error::Imatrix { at: At::default(), what });
    let Imatrix { values, rows_per_expert } = imatrix;
    if rows_per_expert == 0 {
        return fault("rows per expert must not be 0".into());
    }
    // One row of importances may serve fewer rows than an expert has (a slice of a tensor), several may not.
    let experts = rows.div_ceil(rows_per_expert).max(1);
    if experts > 1 && !rows.is_multiple_of(rows_per_expert) {
        return fault(format!("{rows} rows do not divide into experts of {rows_per_expert} rows"));
    }
    if experts.checked_mul(row_len) != Some(values.len()) {
        return fault(format!(
            "has {} values, but {experts} x {row_len} are needed, one per column{}",
            values.len(),
            if experts > 1 { " of each expert" } else { "" }
        ));
    }
    match values.iter().position(|v| !v.is_finite() || *v < 0.0) {
        None => Ok(()),
        Some(at) => fault(format!(
            "value {} for column {} of expert {} is not a finite number of at least 0",
            values[at],
            at % row_len,
            at / row_len
        )),
    }
}
