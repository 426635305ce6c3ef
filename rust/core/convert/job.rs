//! A tensor of the plan, checked and ready to be streamed.

use std::path::Path;

use super::dtype::SourceType;
use super::gather::Gather;
use super::linear::PackedRows;
use super::packed::Packed;
use super::plan::{OutputFile, PackedWeights, Source, TensorPlan, View};
use super::source::SourceFiles;
use super::step::{Step, Stored};
use crate::block::Format;
use crate::encode::TASK_WEIGHTS;
use crate::error::{At, Error, Result};
use crate::packed::blocks::Target;

/// Element counts at which any tensor may be cut whose rows need not stay whole: a multiple of every block length.
const ANY_CUT: usize = 256;

/// The largest piece that is kept in memory at once. Only a single row of an absurd length reaches it.
const MAX_PIECE: usize = 128 << 20;

/// Bytes read at once, where rows allow.
const READ_BYTES: usize = 4 << 20;

/// Bytes read at once from a transposed view, where every piece touches the whole source.
const TRANSPOSED_READ_BYTES: usize = 24 << 20;

/// Weights that a worker takes at once, where rows allow: enough to pay for handing them over, few enough that all cores
/// have work when few tensors are left.
const WORKER_WEIGHTS: usize = 4 * TASK_WEIGHTS;

/// One tensor to stream.
pub(super) struct Job<'p> {
    pub(super) plan: &'p TensorPlan<'p>,
    /// Which output, counted from 0.
    pub(super) output: usize,
    /// Where its bytes go in the output.
    pub(super) offset: u64,
    /// Bytes of the source.
    pub(super) bytes_in: u64,
    /// Bytes in the output.
    pub(super) bytes_out: u64,
    pub(super) input: Input<'p>,
}

/// What is streamed.
pub(super) enum Input<'p> {
    /// Bytes of the plan, written as they are.
    Inline(&'p [u8]),
    /// Elements from files.
    Elements(Box<Elements<'p>>),
}

/// The elements of a tensor and what happens to them.
pub(super) struct Elements<'p> {
    pub(super) from: SourceType,
    pub(super) step: Step<'p>,
    len: usize,
    /// Elements that must stay together, except at the end of the tensor.
    quantum: usize,
    stored: Stored,
    parts: Parts,
}

/// How the pieces of files make up the elements.
enum Parts {
    /// One after the other.
    Concatenated(Vec<Gather>),
    /// Codes and scales, woven together.
    Packed(Box<Packed>),
    /// Matrices that are unpacked row by row, one after the other.
    Rows(Vec<PackedRows>),
}

impl Parts {
    /// The piece that is read first.
    fn first(&self) -> Option<&Gather> {
        match self {
            Self::Concatenated(views) => views.first(),
            Self::Packed(packed) => Some(packed.first()),
            Self::Rows(parts) => parts.first().map(PackedRows::first),
        }
    }
}

impl<'p> Job<'p> {
    /// Checks tensor `index` of `file` and opens its sources.
    pub(super) fn new(
        output: usize,
        file: &'p OutputFile<'_>,
        index: usize,
        sources: &mut SourceFiles,
    ) -> Result<Self> {
        let plan = &file.tensors[index];
        let (offset, bytes_out) = (file.layout.offsets[index], file.layout.nbytes[index]);
        let input = Input::new(plan, bytes_out, sources).map_err(|error| error.in_tensor(&plan.name))?;
        let bytes_in = match &input {
            Input::Inline(bytes) => bytes.len() as u64,
            Input::Elements(elements) => elements.from.bytes(elements.len) as u64,
        };
        Ok(Self { plan, output, offset, bytes_in, bytes_out, input })
    }

    /// Where the source starts, for reading in the order of the files.
    pub(super) fn place(&self) -> Option<(&Path, u64)> {
        match &self.input {
            Input::Inline(_) => None,
            Input::Elements(elements) => elements.parts.first().map(Gather::place),
        }
    }

    /// Whether one reading serves both: the same elements of the same files, cut where both may be cut.
    pub(super) fn reads_like(&self, other: &Self) -> bool {
        let same = match (&self.plan.source, &other.plan.source) {
            (Source::Views { views, .. }, Source::Views { views: others, .. }) => views == others,
            (
                Source::PackedMxfp4 { codes, scales },
                Source::PackedMxfp4 { codes: other_codes, scales: other_scales },
            ) => codes == other_codes && scales == other_scales,
            (Source::Packed { parts, .. }, Source::Packed { parts: others, .. }) => parts == others,
            _ => false,
        };
        match (&self.input, &other.input) {
            (Input::Elements(a), Input::Elements(b)) => {
                let (low, high) = (a.quantum.min(b.quantum), a.quantum.max(b.quantum));
                // Elements that may be cut anywhere may be cut at whole rows, too, unless rows cut the source's blocks.
                let fits = low == high || (low == ANY_CUT && high.is_multiple_of(a.from.unit().0));
                fits && a.from == b.from && self.plan.shape == other.plan.shape && same
            }
            _ => false,
        }
    }

    /// Names the tensor, and the source if nothing else is named, in an error.
    pub(super) fn blame(&self, error: Error) -> Error {
        let error = error.in_tensor(&self.plan.name);
        match self.place() {
            Some((file, _)) => error.in_file(file),
            None => error,
        }
    }
}

impl<'p> Input<'p> {
    fn new(plan: &'p TensorPlan<'_>, bytes_out: u64, sources: &mut SourceFiles) -> Result<Self> {
        let bad = |what: String| Error::Shape { at: At::default(), what };
        let mut open = |view: &View| Gather::new(view, sources.get(&view.file)?);
        let (from, parts, ops): (_, _, &[_]) = match &plan.source {
            Source::Inline(bytes) if bytes.len() as u64 == bytes_out => return Ok(Self::Inline(bytes)),
            Source::Inline(bytes) => {
                return Err(bad(format!("{} bytes were given where {bytes_out} are needed", bytes.len())));
            }
            Source::Views { views, ops } => {
                let from = views.first().ok_or_else(|| bad("the plan names no source".into()))?.dtype;
                if let Some(other) = views.iter().find(|view| view.dtype != from) {
                    let other_type = other.dtype;
                    let what =
                        format!("is put together from {from} and {other_type} data; its parts must be of one type");
                    return Err(Error::Unsupported { at: At::file(&other.file), what });
                }
                (from, Parts::Concatenated(views.iter().map(open).collect::<Result<_>>()?), ops)
            }
            Source::PackedMxfp4 { codes, scales } => {
                if let Some(other) = [codes, scales].into_iter().find(|view| view.dtype != SourceType::U8) {
                    let what = format!("packed MXFP4 is kept as U8, not as {}", other.dtype);
                    return Err(Error::Unsupported { at: At::file(&other.file), what });
                }
                let packed = Packed::new(open(codes)?, open(scales)?)?;
                (SourceType::Block(Format::MXFP4), Parts::Packed(Box::new(packed)), &[])
            }
            Source::Packed { parts, target, ops } => {
                let mut rows = |part: &PackedWeights| PackedRows::new(part, *target, &mut open);
                let from = target.map_or(Format::F32, Target::format);
                (SourceType::Block(from), Parts::Rows(parts.iter().map(&mut rows).collect::<Result<_>>()?), ops)
            }
        };

        let too_large = || bad(format!("shape {:?} is larger than this machine can address", plan.shape));
        let len = plan.shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)).ok_or_else(too_large)?;
        // With this, byte counts cannot overflow either: no type takes more than eight bytes for an element.
        let len = usize::try_from(len).ok().filter(|&n| n <= usize::MAX / 16).ok_or_else(too_large)?;
        let row_len = plan.shape.last().map_or(Ok(1), |&n| usize::try_from(n)).map_err(|_| too_large())?;
        let stored = Stored::new(plan, row_len)?;
        let step = Step::new(plan, ops, from, stored, len)?;
        let whole_rows = step.needs_rows() || matches!(parts, Parts::Rows(_));
        let quantum = if whole_rows { row_len } else { ANY_CUT };
        let elements = Elements { from, step, len, quantum, stored, parts };
        elements.check(bytes_out)?;
        Ok(Self::Elements(Box::new(elements)))
    }
}

impl Elements<'_> {
    /// The parts fit together.
    fn check(&self, bytes_out: u64) -> Result<()> {
        let bad = |what: String| Err(Error::Shape { at: At::default(), what });
        let unit = self.from.unit().0;
        let units = match &self.parts {
            Parts::Concatenated(views) => views.iter().map(Gather::units).fold(0, usize::saturating_add),
            Parts::Packed(packed) => packed.blocks(),
            Parts::Rows(parts) => parts.iter().map(PackedRows::elements).fold(0, usize::saturating_add) / unit,
        };
        if let Parts::Rows(parts) = &self.parts
            && let Some(part) = parts.iter().find(|part| part.columns() != self.quantum)
        {
            return bad(format!("rows of {} packed weights where {} are needed", part.columns(), self.quantum));
        }
        let given = units.saturating_mul(unit);
        if given != self.len {
            return bad(format!("the sources hold {given} elements where {} are needed", self.len));
        }
        if self.stored.bytes(self.len) as u64 != bytes_out {
            return bad(format!("{} elements do not make {bytes_out} bytes", self.len));
        }
        if !self.quantum.is_multiple_of(unit) {
            return bad(format!("rows of {} elements cut the source's blocks of {unit}", self.quantum));
        }
        let piece = self.quantum.min(self.len);
        if piece.saturating_mul(size_of::<f32>()).max(self.from.bytes(piece)) > MAX_PIECE {
            return bad(format!("rows of {piece} weights are too long to be encoded"));
        }
        Ok(())
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Elements to read at once.
    pub(super) fn read_len(&self, quantum: usize) -> usize {
        let transposed = match &self.parts {
            Parts::Concatenated(views) => views.iter().any(Gather::is_transposed),
            Parts::Packed(_) => false,
            Parts::Rows(parts) => parts.iter().any(PackedRows::is_transposed),
        };
        let bytes = if transposed { TRANSPOSED_READ_BYTES } else { READ_BYTES };
        whole_quanta(self.from.elements(bytes), quantum)
    }

    /// Elements for a worker to take at once.
    pub(super) fn task_len(quantum: usize) -> usize {
        whole_quanta(WORKER_WEIGHTS, quantum)
    }

    /// Elements that must stay together, except at the end of the tensor.
    pub(super) fn quantum(&self) -> usize {
        self.quantum
    }

    /// Blocks whose own codes were found again, where they were looked for.
    pub(super) fn on_grid(&self) -> Option<u64> {
        match &self.step {
            Step::Encode(encode) => encode.on_grid(),
            Step::Copy(_) => None,
        }
    }

    /// Bytes that so many elements take in the output.
    pub(super) fn stored_bytes(&self, elements: usize) -> usize {
        self.stored.bytes(elements)
    }

    /// Reads elements from `first` on, as many as `out` holds, as they are stored in the source.
    ///
    /// `Interrupted` if `given_up` says so, which is asked before every read.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let views = match &self.parts {
            Parts::Concatenated(views) => views,
            Parts::Packed(packed) => return packed.read(first / self.from.unit().0, out, scratch, given_up),
            Parts::Rows(parts) => return read_rows(parts, first, self.from, out, scratch, given_up),
        };
        let last = first + self.from.elements(out.len());
        let mut start = 0;
        for view in views {
            let end = start + view.units() * self.from.unit().0;
            let (from, to) = (first.max(start), last.min(end));
            if from < to {
                let bytes = self.from.bytes(from - first)..self.from.bytes(to - first);
                view.read((from - start) / self.from.unit().0, &mut out[bytes], scratch, given_up)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Reads rows from the one that begins with element `first` on, as many as `out` holds.
fn read_rows(
    parts: &[PackedRows],
    first: usize,
    from: SourceType,
    out: &mut [u8],
    scratch: &mut Vec<u8>,
    given_up: &dyn Fn() -> bool,
) -> Result<()> {
    let last = first + from.elements(out.len());
    let mut start = 0;
    for part in parts {
        let end = start + part.elements();
        let (from_element, to_element) = (first.max(start), last.min(end));
        if from_element < to_element {
            let bytes = from.bytes(from_element - first)..from.bytes(to_element - first);
            part.read((from_element - start) / part.columns(), &mut out[bytes], scratch, given_up)?;
        }
        start = end;
    }
    Ok(())
}

fn whole_quanta(elements: usize, quantum: usize) -> usize {
    (elements / quantum).max(1) * quantum
}
