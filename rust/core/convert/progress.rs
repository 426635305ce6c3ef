//! What a conversion tells its caller: events while it runs, a report at the end.

use std::ops::ControlFlow;
use std::time::Duration;

use super::dtype::SourceType;
use crate::gguf::GgmlType;

/// Something happened, or a little time passed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// How far the work has come. Sent about twenty times a second, whether or not anything moved, so that a caller can
    /// stop the work at any time.
    Progress {
        /// The tensor last written to.
        tensor: &'a str,
        /// The type it is stored in.
        ty: GgmlType,
        /// Source bytes dealt with so far.
        done: u64,
        /// Source bytes in all.
        total: u64,
    },
    /// Every byte of a tensor has been handed to the operating system.
    Finished(&'a TensorReport),
    /// All tensors are written; the outputs are flushed to the disk and get their names.
    Committing,
}

/// Receives events, always on the thread that called [`super::convert`]. `Break` stops the conversion, which then fails
/// with `Interrupted` and leaves nothing behind.
pub trait Progress {
    /// Called with each event.
    fn on_event(&self, event: Event<'_>) -> ControlFlow<()>;
}

/// For callers that do not want to know.
impl Progress for () {
    fn on_event(&self, _event: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// Which output holds it, counted from 0.
    pub output: usize,
    /// Name in the output.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Type in the source; `None` for bytes that came with the plan.
    pub from: Option<SourceType>,
    /// Type in the output.
    pub to: GgmlType,
    /// Bytes of the source.
    pub bytes_in: u64,
    /// Bytes in the output, without padding.
    pub bytes_out: u64,
    /// Blocks whose own codes were found again, where they were looked for; those of an earlier run do not count.
    pub on_grid: Option<u64>,
    /// From the start of the first read to the end of the last write. Tensors overlap in time.
    pub elapsed: Duration,
}

/// What became of everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// All tensors: output after output, in the order of the plan.
    pub tensors: Vec<TensorReport>,
    /// Bytes of all outputs, headers and padding included.
    pub bytes_written: u64,
    /// Bytes of tensor data taken over from an earlier run.
    pub bytes_reused: u64,
    /// Duration of the whole conversion.
    pub elapsed: Duration,
}
