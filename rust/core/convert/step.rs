//! What happens to elements between reading and writing.

use super::dtype::SourceType;
use std::sync::atomic::{AtomicU64, Ordering};

use super::plan::{ImatrixPlan, Lattice, Op, TensorPlan};
use crate::arch::{Kernel, kernel};
use crate::block::Format;
use crate::encode::{Imatrix, RowEncoder, TASK_WEIGHTS, Weights, check_finite};
use crate::error::{At, Error, Result};
use crate::packed::lattice;

/// How the elements of one tensor are stored.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    block_len: usize,
    block_bytes: usize,
    row_len: usize,
    /// `None` for integers and `F64`, which are only copied.
    format: Option<Format>,
}

impl Stored {
    pub(super) fn new(plan: &TensorPlan<'_>, row_len: usize) -> Result<Self> {
        let unknown = || Error::Unsupported { at: At::default(), what: format!("{} cannot be written", plan.ty) };
        let (block_len, block_bytes) = plan.ty.block().ok_or_else(unknown)?;
        Ok(Self { block_len, block_bytes, row_len, format: plan.ty.format() })
    }

    /// Bytes of so many elements; less than a block counts as none.
    pub(super) fn bytes(&self, elements: usize) -> usize {
        elements / self.block_len * self.block_bytes
    }

    /// Row of the tensor and block in the row, of a block counted from element `first`.
    fn place(&self, first: usize, block: usize) -> (usize, usize) {
        let at = first / self.block_len + block;
        let blocks = (self.row_len / self.block_len).max(1);
        (at / blocks, at % blocks)
    }
}

/// What happens between reading and writing.
pub(super) enum Step<'p> {
    /// The bytes are copied once found valid.
    Copy(Copy),
    /// Decode, operate, round, encode, check.
    Encode(Encode<'p>),
}

impl<'p> Step<'p> {
    /// Chooses what to do with `elements` elements of type `from`.
    pub(super) fn new(
        plan: &'p TensorPlan<'_>,
        ops: &'p [Op],
        from: SourceType,
        stored: Stored,
        elements: usize,
    ) -> Result<Self> {
        let unsupported = |what: String| Err(Error::Unsupported { at: At::default(), what });
        let is_intermediate = from.ggml_type() == Some(plan.intermediate) && ops.is_empty();
        if is_intermediate && plan.intermediate == plan.ty {
            return Ok(Self::Copy(Copy { kernel: stored.format.map(kernel).transpose()?, stored }));
        }
        let Some(format) = stored.format else {
            return unsupported(format!("{from} cannot be converted to {}, which is only ever copied", plan.ty));
        };
        let round = match plan.intermediate.format() {
            _ if is_intermediate => None,
            Some(Format::F32) => None,
            Some(Format::F16) => Some(Rounding::F16),
            Some(Format::BF16) => Some(Rounding::BF16),
            _ => return unsupported(format!("{from} values cannot take the form of {} on the way", plan.intermediate)),
        };
        let rows = if stored.block_len == 1 {
            None
        } else {
            let imatrix = plan.imatrix.as_ref().map(ImatrixPlan::as_imatrix).transpose()?;
            let rows = elements.checked_div(stored.row_len).unwrap_or(0);
            Some(RowEncoder::new(format, rows, stored.row_len, imatrix)?)
        };
        let lattice = match (plan.lattice, lattice::FORMATS.contains(&format)) {
            (Lattice::Off, _) => None,
            (asked, true) => {
                let stored = match round {
                    Some(Rounding::F16) => lattice::Stored::F16,
                    Some(Rounding::BF16) => lattice::Stored::BF16,
                    None if plan.intermediate.format() == Some(Format::F16) => lattice::Stored::F16,
                    None if plan.intermediate.format() == Some(Format::BF16) => lattice::Stored::BF16,
                    None => lattice::Stored::F32,
                };
                Some(OnLattice { format, stored, only: asked == Lattice::Only, found: AtomicU64::new(0) })
            }
            (Lattice::Auto, false) => None,
            (Lattice::Only, false) => {
                let names = lattice::FORMATS.map(|format| format.info().name).join(", ");
                return unsupported(format!("codes can be found again in {names}; not in {format}"));
            }
        };
        Ok(Self::Encode(Encode { from, ops, round, kernel: kernel(format)?, rows, stored, lattice }))
    }

    /// Whether pieces must be whole rows.
    pub(super) fn needs_rows(&self) -> bool {
        matches!(self, Self::Encode(Encode { rows: Some(_), .. }))
    }
}

impl ImatrixPlan<'_> {
    fn as_imatrix(&self) -> Result<Imatrix<'_>> {
        let rows_per_expert = usize::try_from(self.rows_per_expert).map_err(|_| Error::Imatrix {
            at: At::default(),
            what: format!("{} rows per expert are more than this machine can address", self.rows_per_expert),
        })?;
        Ok(Imatrix { values: &self.values, rows_per_expert })
    }
}

/// Copying.
pub(super) struct Copy {
    kernel: Option<Kernel>,
    stored: Stored,
}

impl Copy {
    /// Checks data that starts at element `first`: finite floats, valid blocks.
    pub(super) fn check(&self, first: usize, data: &[u8]) -> Result<()> {
        let Some((kernel, fault)) = self.kernel.and_then(|kernel| Some((kernel, kernel.validate(data).err()?))) else {
            return Ok(());
        };
        let (row, block) = self.stored.place(first, fault.block);
        if self.stored.block_len > 1 {
            return Err(Error::InvalidBlock { at: At::default(), row, block, what: fault.what });
        }
        let mut value = [0.0];
        kernel.decode(&data[self.stored.bytes(fault.block)..self.stored.bytes(fault.block + 1)], &mut value);
        Err(Error::NonFinite { at: At::default(), row, column: block, value: value[0] })
    }
}

/// A type that values are rounded to on the way.
#[derive(Clone, Copy)]
enum Rounding {
    F16,
    BF16,
}

/// Encoding.
pub(super) struct Encode<'p> {
    from: SourceType,
    ops: &'p [Op],
    round: Option<Rounding>,
    kernel: Kernel,
    /// For formats whose blocks depend on their row; single elements are encoded wherever they are cut.
    rows: Option<RowEncoder<'p>>,
    stored: Stored,
    lattice: Option<OnLattice>,
}

/// The search for blocks that are on the grid already.
struct OnLattice {
    format: Format,
    stored: lattice::Stored,
    /// Whether any other block is an error.
    only: bool,
    /// Blocks found.
    found: AtomicU64,
}

impl OnLattice {
    /// Puts the codes of blocks on the grid in the place of what the encoder made of them. `first` is the first element.
    fn run(&self, x: &[f32], out: &mut [u8], stored: Stored, first: usize) -> Result<()> {
        let mut found = 0;
        for (number, (x, out)) in x.chunks(stored.block_len).zip(out.chunks_mut(stored.block_bytes)).enumerate() {
            if lattice::encode(self.format, x, self.stored, out) {
                found += 1;
            } else if self.only {
                let (row, block) = stored.place(first, number);
                let what = format!("these weights are not values of {}", self.format);
                return Err(Error::InvalidBlock { at: At::default(), row, block, what });
            }
        }
        self.found.fetch_add(found, Ordering::Relaxed);
        Ok(())
    }
}

impl Encode<'_> {
    /// Blocks that were found on the format's grid, if they were looked for.
    pub(super) fn on_grid(&self) -> Option<u64> {
        self.lattice.as_ref().map(|lattice| lattice.found.load(Ordering::Relaxed))
    }

    /// Encodes source bytes, which start at element `first`, into `out`. `x` is scratch; `keep_going` is asked every
    /// few rows.
    pub(super) fn run(
        &self,
        first: usize,
        data: &[u8],
        out: &mut [u8],
        x: &mut Vec<f32>,
        keep_going: impl Fn() -> bool,
    ) -> Result<()> {
        let step = match self.rows {
            Some(_) => (TASK_WEIGHTS / self.stored.row_len).max(1) * self.stored.row_len,
            None => TASK_WEIGHTS,
        };
        let source_bytes = self.from.bytes(step);
        let mut at = first;
        for (data, out) in data.chunks(source_bytes).zip(out.chunks_mut(self.stored.bytes(step))) {
            if !keep_going() {
                return Err(Error::Interrupted);
            }
            let elements = self.from.elements(data.len());
            match (&self.rows, self.untouched(data)) {
                (Some(encoder), Some(weights)) => encoder.encode(at / self.stored.row_len, weights, x, out)?,
                (rows, _) => {
                    x.resize(elements, 0.0);
                    self.from.decode(data, x)?;
                    self.ops.iter().for_each(|op| op.apply(x));
                    self.round(x);
                    match rows {
                        Some(encoder) => {
                            encoder.encode_rows(at / self.stored.row_len, x, out)?;
                            if let Some(lattice) = &self.lattice {
                                lattice.run(x, out, self.stored, at)?;
                            }
                        }
                        None => {
                            check_finite(x, at, self.stored.row_len)?;
                            self.kernel.encode_rows(x, x.len(), None, out);
                        }
                    }
                }
            }
            // As `llama-quantize` does with what it has encoded: scales may have overflowed.
            if let Err(fault) = self.kernel.validate(out) {
                let (row, block) = self.stored.place(at, fault.block);
                return Err(Error::InvalidBlock { at: At::default(), row, block, what: fault.what });
            }
            at += elements;
        }
        Ok(())
    }

    /// Source bytes as weights, where nothing happens to these before they are encoded: encoders without a search read any
    /// kind of float.
    fn untouched<'d>(&self, data: &'d [u8]) -> Option<Weights<'d>> {
        let SourceType::Block(format) = self.from else { return None };
        let changed = !self.ops.is_empty() || self.round.is_some() || self.lattice.is_some();
        if changed { None } else { Weights::of_bytes(format, data) }
    }

    fn round(&self, x: &mut [f32]) {
        match self.round {
            Some(Rounding::F16) => x.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
            Some(Rounding::BF16) => x.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
            None => {}
        }
    }
}
