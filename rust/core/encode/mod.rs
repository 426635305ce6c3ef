//! The row driver: weights in, blocks out, in parallel.
//!
//! Every format encodes a row without looking at any other, so rows may be shared out among threads in any way and the
//! bytes stay the same. The driver widens `f16` and `bf16` a few rows at a time unless the kernel does so itself, refuses
//! non-finite weights, picks the kernel, and polls for interruption. What it wrote is not validated: that is a step of its own.

mod first_error;
mod nearest;
mod pool;
mod rows;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::arch::kernel;
use crate::block::Format;
use crate::error::{At, Error, Result};
use crate::scratch::with_scratch;

pub(crate) use first_error::FirstError;
pub use nearest::nearest_codes;
use pool::thread_count;
pub(crate) use rows::{RowEncoder, check_finite, row_bytes};

/// Weights in a task, as far as whole rows allow: small enough that the widened rows stay in a core's own cache and
/// that the slowest format answers an interruption within a tenth of a second, large enough to pay for the hand-over.
pub(crate) const TASK_WEIGHTS: usize = 32 * 1024;

/// Weights in a task where memory limits the work, so that handing it over costs nothing there either.
const LIGHT_TASK_WEIGHTS: usize = 256 * 1024;

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

impl<'a> Weights<'a> {
    /// Weights of a float format as they lie in a file, if they lie in memory as floats must; `None` for all other formats.
    pub(crate) fn of_bytes(format: Format, bytes: &'a [u8]) -> Option<Self> {
        /// Bytes as numbers of a type for which any bits will do.
        fn cast<T>(bytes: &[u8]) -> Option<&[T]> {
            // SAFETY: callers name types that have no padding and no invalid values.
            let (before, numbers, behind) = unsafe { bytes.align_to() };
            (before.is_empty() && behind.is_empty() && cfg!(target_endian = "little")).then_some(numbers)
        }
        match format {
            Format::F32 => cast(bytes).map(Self::F32),
            Format::F16 => cast(bytes).map(Self::F16),
            Format::BF16 => cast(bytes).map(Self::BF16),
            _ => None,
        }
    }

    /// Number of weights.
    pub fn len(self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::BF16(x) => x.len(),
        }
    }

    /// Whether there are no weights.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of the weights.
    fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(x) => Self::F32(&x[range]),
            Self::F16(x) => Self::F16(&x[range]),
            Self::BF16(x) => Self::BF16(&x[range]),
        }
    }

    /// The weights as `f32`: where they lie if they are, otherwise widened into `scratch`.
    fn widen<'s>(self, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        if let Self::F32(x) = self {
            return x;
        }
        scratch.resize(self.len(), 0.0);
        match self {
            Self::F32(_) => {}
            Self::F16(x) => x.convert_to_f32_slice(scratch),
            // Shifted, which is all there is to it for numbers; NaN is refused later.
            Self::BF16(x) => {
                for (to, from) in scratch.iter_mut().zip(x) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            }
        }
        scratch
    }
}

/// Importance of columns: one row of importances shared by all rows, or one per expert.
#[derive(Debug, Clone, Copy)]
pub struct Imatrix<'a> {
    /// `n_experts * row_len` importances, finite and not negative.
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
    pub interrupt: Option<&'a AtomicBool>,
}

impl Run<'_> {
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Number of threads that work is spread over.
    pub(crate) fn thread_count(&self) -> Result<usize> {
        thread_count(self.threads)
    }

    /// Runs `work` on every task, with its number and a scratch buffer that holds anything; on this thread if there is but
    /// one.
    pub(crate) fn for_each<T: Send>(
        &self,
        tasks: Vec<T>,
        work: impl Fn(&mut Vec<f32>, usize, T) -> Result<()> + Sync + Send,
    ) -> Result<()> {
        let threads = self.thread_count()?;
        let first = FirstError::new();
        let run_task = |(number, task): (usize, T)| {
            if first.precedes(number) {
                return;
            }
            let result = if self.interrupted() {
                Err(Error::Interrupted)
            } else {
                with_scratch(|scratch| work(scratch, number, task))
            };
            if let Err(error) = result {
                first.record(number, error);
            }
        };
        if tasks.len() <= 1 {
            tasks.into_iter().enumerate().for_each(run_task);
        } else {
            pool::pool(threads)?.install(|| tasks.into_par_iter().enumerate().for_each(run_task));
        }
        first.into_result()
    }
}

/// Encodes `weights` (rows of `row_len`) as `format` into `out`, which has exactly the bytes of those rows.
///
/// # Errors
/// `Unsupported`, `RowLength`, `Shape`, `NonFinite`, `ImatrixRequired`, `Imatrix`, `Interrupted`.
pub fn encode(
    format: Format,
    weights: Weights<'_>,
    row_len: usize,
    imatrix: Option<Imatrix<'_>>,
    out: &mut [u8],
    run: Run<'_>,
) -> Result<()> {
    let row_bytes = row_bytes(format, row_len)?;
    let rows = whole_rows(weights.len(), row_len, "weights")?;
    expect_len(out.len(), rows, row_bytes, "encoded bytes")?;
    let encoder = RowEncoder::new(format, rows, row_len, imatrix)?;
    let rows_per_task = (if encoder.is_plain() { LIGHT_TASK_WEIGHTS } else { TASK_WEIGHTS } / row_len).max(1);
    let tasks = out.chunks_mut(rows_per_task * row_bytes).collect();
    run.for_each(tasks, |scratch, number, out: &mut [u8]| {
        let first_row = number * rows_per_task;
        let last_row = first_row + out.len() / row_bytes;
        encoder.encode(first_row, weights.slice(first_row * row_len..last_row * row_len), scratch, out)
    })
}

/// Decodes `data` (rows of `row_len` weights) into `out`.
///
/// # Errors
/// `RowLength`, `Shape`, `Interrupted`, `Unsupported`.
pub fn decode(format: Format, data: &[u8], row_len: usize, out: &mut [f32], run: Run<'_>) -> Result<()> {
    let row_bytes = row_bytes(format, row_len)?;
    let rows = whole_rows(out.len(), row_len, "weights")?;
    expect_len(data.len(), rows, row_bytes, "encoded bytes")?;
    let kernel = kernel(format)?;
    let rows_per_task = (LIGHT_TASK_WEIGHTS / row_len).max(1);
    let tasks = out.chunks_mut(rows_per_task * row_len).zip(data.chunks(rows_per_task * row_bytes)).collect();
    run.for_each(tasks, |_, _, (out, data): (&mut [f32], &[u8])| {
        kernel.decode(data, out);
        Ok(())
    })
}

fn whole_rows(len: usize, row_len: usize, what: &str) -> Result<usize> {
    if len.is_multiple_of(row_len) {
        return Ok(len / row_len);
    }
    let what = format!("{len} {what} are not a whole number of rows of {row_len}");
    Err(Error::Shape { at: At::default(), what })
}

fn expect_len(len: usize, rows: usize, row_len: usize, what: &str) -> Result<()> {
    if rows.checked_mul(row_len) == Some(len) {
        return Ok(());
    }
    Err(Error::Shape { at: At::default(), what: format!("{len} {what} where {rows} rows of {row_len} are needed") })
}
