//! Packed weights, unpacked row by row while they are read: to `f32`, or into blocks that take their codes as they are.
//!
//! Codes, scales and zero points are read in bands of rows, so that memory depends on the size of a read alone, whichever
//! way the checkpoint lays them out.

use std::sync::Arc;

use super::dtype::SourceType;
use super::gather::Gather;
use super::plan::{Coding, Grouping, PackedWeights, View, Zeros};
use super::source::SourceFiles;
use crate::arch::{Isa, isa};
use crate::block::Format;
use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::nn::per_isa;
use crate::packed::bits::{AWQ_CODES, Width, unpack, unpack_aligned, unpack_awq};
use crate::packed::blocks::{self, BLOCK, Target};
use crate::packed::rows::{Groups, dequantize};
use crate::packed::rtn::Gridded;

/// Weights that a task of [`read_packed`] takes.
const READ_WEIGHTS: usize = 1 << 20;

/// A band may hold this many times the rows that are wanted from it; rows further apart are read separately.
const SPARSE: usize = 2;

/// A checked matrix of packed weights with its open files.
pub(super) struct PackedRows {
    columns: usize,
    coding: Coding,
    codes: Gather,
    scales: Gather,
    scale_type: SourceType,
    code_type: SourceType,
    rows_per_scale: usize,
    groups: usize,
    group_len: usize,
    /// The group of each input, where they are not neighbours; in the order of `column_order`.
    listed: Option<Vec<u32>>,
    zeros: ZeroPoints,
    target: Option<Target>,
    row_order: Option<Arc<[u32]>>,
    column_order: Option<Arc<[u32]>>,
    isa: Isa,
    /// The wanted rows: number and distance along each dimension, and the first.
    walk: Vec<(usize, usize)>,
    start: usize,
    wanted: usize,
}

per_isa! {
    fn unpack_on(data: &[u8], width: Width, codes: &mut [u8]) = unpack;
    fn dequantize_on(codes: &[u8], groups: Groups<'_>, scales: &[f32], zeros: &[i32], out: &mut [f32]) = dequantize;
}

enum ZeroPoints {
    All(i32),
    Stored { coding: Coding, view: Gather, less_one: bool },
}

/// Scales, zero points and codes of neighbouring rows.
struct Band {
    first: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

impl PackedRows {
    /// Checks that the parts fit together, and reads the list of groups if there is one.
    ///
    /// # Errors
    /// `Shape` where they do not, `Malformed` for views and groups out of range.
    pub(super) fn new(
        plan: &PackedWeights,
        target: Option<Target>,
        open: &mut impl FnMut(&View) -> Result<Gather>,
    ) -> Result<Self> {
        let number = |n: u64| usize::try_from(n).ok().filter(|&n| n <= isize::MAX as usize);
        let sizes = (|| Some((number(plan.rows)?, number(plan.columns)?, number(plan.rows_per_scale)?)))();
        let (rows, columns, rows_per_scale) = sizes.ok_or_else(|| bad("the matrix is too large"))?;
        if rows == 0 || columns == 0 || rows_per_scale == 0 || rows.checked_mul(columns).is_none() {
            return Err(bad(format!("{rows} rows of {columns} packed weights cannot be")));
        }
        let scale_rows = rows.div_ceil(rows_per_scale);
        let scales = open(&plan.scales)?;
        let groups = scales.units() / scale_rows;
        if groups == 0 || groups * scale_rows != scales.units() {
            return Err(bad(format!("{} scales do not go with {rows} rows", scales.units())));
        }
        let codes = open(&plan.codes)?;
        let needed = match plan.coding {
            Coding::Dense(width) => rows.checked_mul(width.words(columns)),
            Coding::Aligned(width) => rows.checked_mul(width.aligned_words(columns)),
            Coding::Awq => rows.div_ceil(AWQ_CODES).checked_mul(columns),
            Coding::Signed | Coding::Float => rows.checked_mul(columns),
        };
        let is_word = |ty: SourceType| matches!(ty, SourceType::I32 | SourceType::U32);
        let typed = match plan.coding {
            Coding::Signed => plan.codes.dtype == SourceType::I8,
            Coding::Float => matches!(plan.codes.dtype, SourceType::F8_E4M3 | SourceType::F8_E5M2),
            _ => is_word(plan.codes.dtype),
        };
        if needed != Some(codes.units()) || !typed {
            let what = format!("{} {} do not hold {rows} x {columns} codes", codes.units(), plan.codes.dtype);
            return Err(bad(what));
        }
        let (group_len, listed) = match &plan.groups {
            Grouping::Even(len) => match number(*len) {
                Some(len) if len > 0 && columns.div_ceil(len) == groups => (len, None),
                _ => return Err(bad(format!("{groups} groups of {len} do not make rows of {columns}"))),
            },
            Grouping::Listed(view) => (columns, Some(read_groups(view, open(view)?, columns, groups)?)),
        };
        let zeros = match &plan.zeros {
            Zeros::All(zero) => ZeroPoints::All(*zero),
            Zeros::Stored { coding, view, less_one } => {
                let gather = open(view)?;
                let lines = match coding {
                    Coding::Dense(width) => Some(width.words(rows)),
                    Coding::Aligned(width) => Some(width.aligned_words(rows)),
                    Coding::Awq => Some(rows.div_ceil(AWQ_CODES)),
                    Coding::Signed => Some(scale_rows),
                    Coding::Float => None,
                };
                let typed = if *coding == Coding::Signed { view.dtype == SourceType::I8 } else { is_word(view.dtype) };
                if lines.and_then(|lines| lines.checked_mul(groups)) != Some(gather.units()) || !typed {
                    return Err(bad(format!("{} zero points do not go with {rows} rows", gather.units())));
                }
                ZeroPoints::Stored { coding: *coding, view: gather, less_one: *less_one }
            }
        };
        let (row_order, column_order) = (plan.row_order.clone(), plan.column_order.clone());
        for (order, len) in [(&row_order, rows), (&column_order, columns)] {
            if let Some(order) = order
                && !is_permutation(order, len)
            {
                return Err(bad(format!("an order of {} is no permutation of {len}", order.len())));
            }
        }
        let listed = match (&column_order, listed) {
            (None, listed) => listed,
            (Some(_), _) if plan.coding == Coding::Float => {
                return Err(bad("columns of 8-bit floats keep their order"));
            }
            (Some(order), Some(listed)) => Some(order.iter().map(|&column| listed[column as usize]).collect()),
            (Some(order), None) => Some(order.iter().map(|&column| column / group_len as u32).collect()),
        };
        let divides = match &listed {
            None => group_len % BLOCK == 0,
            Some(listed) => listed.chunks(BLOCK).all(|groups| groups.iter().all(|group| *group == groups[0])),
        };
        if target.is_some() && (plan.coding == Coding::Float || !divides) {
            return Err(bad("these groups do not divide into blocks"));
        }
        let (walk, start) = row_walk(plan, rows, columns)?;
        let wanted = walk.iter().map(|&(len, _)| len).product();
        Ok(Self {
            columns,
            coding: plan.coding,
            codes,
            scales,
            scale_type: plan.scales.dtype,
            code_type: plan.codes.dtype,
            rows_per_scale,
            groups,
            group_len,
            listed,
            zeros,
            target,
            row_order,
            column_order,
            isa: isa()?,
            walk,
            start,
            wanted,
        })
    }

    /// The view that is read first.
    pub(super) fn first(&self) -> &Gather {
        &self.codes
    }

    /// Length of a row.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Number of wanted weights.
    pub(super) fn elements(&self) -> usize {
        self.wanted * self.columns
    }

    /// Whether a few rows lie all over the source.
    pub(super) fn is_transposed(&self) -> bool {
        self.codes.is_transposed()
    }

    /// Reads wanted rows from `first` on, as many as `out` holds.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let row_bytes = SourceType::Block(self.target.map_or(Format::F32, Target::format)).bytes(self.columns);
        let numbers: Vec<usize> = (first..first + out.len() / row_bytes).map(|row| self.source_row(row)).collect();
        let (mut codes, mut values) = (vec![0; self.columns], vec![0.0; self.columns]);
        self.for_rows(&numbers, 0, scratch, given_up, &mut |band, at, row| {
            let out = &mut out[at * row_bytes..(at + 1) * row_bytes];
            match self.target {
                Some(target) => self.blocks(band, row, target, &mut codes, out)?,
                None => {
                    self.values(band, row, &mut codes, &mut values)?;
                    store(&values, out);
                }
            }
            Ok(())
        })
    }

    /// Reads the values of wanted rows from `first` on, as many as `out` holds, whatever the target.
    fn read_values(&self, first: usize, out: &mut [f32], given_up: &dyn Fn() -> bool) -> Result<()> {
        let numbers: Vec<usize> = (first..first + out.len() / self.columns).map(|row| self.source_row(row)).collect();
        let mut codes = vec![0; self.columns];
        self.for_rows(&numbers, 0, &mut Vec::new(), given_up, &mut |band, at, row| {
            self.values(band, row, &mut codes, &mut out[at * self.columns..(at + 1) * self.columns])
        })
    }

    /// Where the walk is at its step `row`.
    fn source_row(&self, mut row: usize) -> usize {
        let mut at = self.start;
        for &(len, stride) in self.walk.iter().rev() {
            at += row % len * stride;
            row /= len;
        }
        self.row_order.as_ref().map_or(at, |order| order[at] as usize)
    }

    /// Reads the rows of these numbers in bands and gives each to `take`, with its place among `numbers`, which begin with
    /// the one at `place`.
    fn for_rows(
        &self,
        numbers: &[usize],
        place: usize,
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
        take: &mut dyn FnMut(&Band, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let (Some(&low), Some(&high)) = (numbers.iter().min(), numbers.iter().max()) else { return Ok(()) };
        // Rows that have changed places lie all over the matrix, which is read once for all of them.
        if high - low >= SPARSE * numbers.len() && self.row_order.is_none() {
            let half = numbers.len() / 2;
            self.for_rows(&numbers[..half], place, scratch, given_up, take)?;
            return self.for_rows(&numbers[half..], place + half, scratch, given_up, take);
        }
        let band = self.band(low, high + 1, scratch, given_up)?;
        for (at, &row) in numbers.iter().enumerate() {
            if given_up() {
                return Err(Error::Interrupted);
            }
            take(&band, place + at, row)?;
        }
        Ok(())
    }

    /// Reads everything that rows `first..last` need.
    fn band(&self, first: usize, last: usize, scratch: &mut Vec<u8>, given_up: &dyn Fn() -> bool) -> Result<Band> {
        let mut read = |view: &Gather, ty: SourceType, from: usize, units: usize| -> Result<Vec<u8>> {
            let mut bytes = vec![0; ty.bytes(units)];
            view.read(from, &mut bytes, scratch, given_up)?;
            Ok(bytes)
        };
        let (line, lines) = match self.coding {
            Coding::Dense(width) => (width.words(self.columns), first..last),
            Coding::Aligned(width) => (width.aligned_words(self.columns), first..last),
            Coding::Awq => (self.columns, first / AWQ_CODES..last.div_ceil(AWQ_CODES)),
            Coding::Signed | Coding::Float => (self.columns, first..last),
        };
        let codes = read(&self.codes, self.code_type, lines.start * line, lines.len() * line)?;
        let scale_rows = first / self.rows_per_scale..last.div_ceil(self.rows_per_scale);
        let bytes =
            read(&self.scales, self.scale_type, scale_rows.start * self.groups, scale_rows.len() * self.groups)?;
        let mut scales = vec![0.0; scale_rows.len() * self.groups];
        self.scale_type.decode(&bytes, &mut scales)?;
        let zeros = match &self.zeros {
            ZeroPoints::All(zero) => vec![*zero; self.groups],
            ZeroPoints::Stored { coding, view, less_one } => {
                let (lines, ty) = match coding {
                    Coding::Dense(width) => {
                        (first * width.bits() / 32..(last * width.bits()).div_ceil(32), SourceType::I32)
                    }
                    Coding::Aligned(width) => {
                        let each = 32 / width.bits();
                        (first / each..last.div_ceil(each), SourceType::I32)
                    }
                    Coding::Awq => (first / AWQ_CODES..last.div_ceil(AWQ_CODES), SourceType::I32),
                    Coding::Signed | Coding::Float => (scale_rows.clone(), SourceType::I8),
                };
                let bytes = read(view, ty, lines.start * self.groups, lines.len() * self.groups)?;
                self.zero_points(*coding, *less_one, first..last, lines.start, &bytes)?
            }
        };
        Ok(Band { first, codes, scales, zeros })
    }

    /// Unpacks the zero points of `rows` from lines of words (or bytes) that start with `line`.
    fn zero_points(
        &self,
        coding: Coding,
        less_one: bool,
        rows: std::ops::Range<usize>,
        line: usize,
        bytes: &[u8],
    ) -> Result<Vec<i32>> {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |at: usize, group: usize| {
            words.get(at * self.groups + group).map_or(0, |word| u64::from(u32::from_le_bytes(*word)))
        };
        let mut zeros = Vec::with_capacity(rows.len() * self.groups);
        for row in rows {
            for group in 0..self.groups {
                let (stored, max) = match coding {
                    Coding::Dense(width) => {
                        let bit = row * width.bits() - line * 32;
                        let pair = word(bit / 32, group) | word(bit / 32 + 1, group) << 32;
                        ((pair >> (bit % 32)) as u8 & width.max(), width.max())
                    }
                    Coding::Aligned(width) => {
                        let each = 32 / width.bits();
                        let shift = row % each * width.bits();
                        ((word(row / each - line, group) >> shift) as u8 & width.max(), width.max())
                    }
                    Coding::Awq => {
                        let shift = 4 * crate::packed::bits::AWQ_PLACE[row % AWQ_CODES];
                        ((word(row / AWQ_CODES - line, group) >> shift) as u8 & 15, 15)
                    }
                    Coding::Signed | Coding::Float => {
                        let at = (row / self.rows_per_scale - line) * self.groups + group;
                        // Codes are counted from -128, see `row`.
                        (bytes[at] ^ 0x80, 255)
                    }
                };
                if less_one && stored == max {
                    let what = format!(
                        "row {row}, group {group}: zero point 0 cannot be stored in the first version of the GPTQ format, \
                         and readers disagree on what it means; save the checkpoint as gptq_v2"
                    );
                    return Err(Error::Malformed { at: At::default(), what });
                }
                zeros.push(i32::from(stored) + i32::from(less_one));
            }
        }
        Ok(zeros)
    }

    /// Scales and zero points of the groups of one row of a band.
    fn parameters<'b>(&self, band: &'b Band, row: usize) -> (&'b [f32], &'b [i32]) {
        let scale_row = row / self.rows_per_scale - band.first / self.rows_per_scale;
        let scales = &band.scales[scale_row * self.groups..(scale_row + 1) * self.groups];
        let zeros = match self.zeros {
            ZeroPoints::All(_) => &band.zeros[..],
            ZeroPoints::Stored { .. } => &band.zeros[(row - band.first) * self.groups..][..self.groups],
        };
        (scales, zeros)
    }

    /// Unpacks the codes of one row of a band; 8-bit floats have none.
    fn codes(&self, band: &Band, row: usize, codes: &mut [u8]) {
        let line = |len: usize, at: usize| &band.codes[at * len..(at + 1) * len];
        let in_band = row - band.first;
        match self.coding {
            Coding::Dense(width) => unpack_on(self.isa, line(4 * width.words(self.columns), in_band), width, codes),
            Coding::Aligned(width) => {
                unpack_aligned(line(4 * width.aligned_words(self.columns), in_band), width, codes);
            }
            Coding::Awq => {
                let octet = row / AWQ_CODES - band.first / AWQ_CODES;
                unpack_awq(line(4 * self.columns, octet), row % AWQ_CODES, codes);
            }
            Coding::Signed => {
                for (code, &byte) in codes.iter_mut().zip(line(self.columns, in_band)) {
                    *code = byte ^ 0x80;
                }
            }
            Coding::Float => {}
        }
        if let Some(order) = &self.column_order {
            let stored = codes.to_vec();
            for (code, &column) in codes.iter_mut().zip(order.iter()) {
                *code = stored[column as usize];
            }
        }
    }

    /// The values of one row of a band.
    fn values(&self, band: &Band, row: usize, codes: &mut [u8], values: &mut [f32]) -> Result<()> {
        let (scales, zeros) = self.parameters(band, row);
        if self.coding == Coding::Float {
            let at = (row - band.first) * self.columns;
            self.code_type.decode(&band.codes[at..at + self.columns], values)?;
            for (values, &scale) in values.chunks_mut(self.group_len).zip(scales) {
                values.iter_mut().for_each(|value| *value *= scale);
            }
            return Ok(());
        }
        self.codes(band, row, codes);
        let groups = self.listed.as_deref().map_or(Groups::Even(self.group_len), Groups::Listed);
        dequantize_on(self.isa, codes, groups, scales, zeros, values);
        Ok(())
    }

    /// One row of a band as blocks.
    fn blocks(&self, band: &Band, row: usize, target: Target, codes: &mut [u8], out: &mut [u8]) -> Result<()> {
        let (scales, zeros) = self.parameters(band, row);
        self.codes(band, row, codes);
        let block_bytes = target.format().info().block_bytes;
        for (number, (codes, out)) in codes.as_chunks().0.iter().zip(out.chunks_mut(block_bytes)).enumerate() {
            let group = match &self.listed {
                None => number * BLOCK / self.group_len,
                Some(listed) => listed[number * BLOCK] as usize,
            };
            blocks::write(target, codes, scales[group], zeros[group], out).map_err(|what| Error::InvalidBlock {
                at: At::default(),
                row,
                block: number,
                what,
            })?;
        }
        Ok(())
    }
}

/// The values of packed weights as `f32`, in the order of their walk, into `out`.
///
/// # Errors
/// What a conversion refuses: parts that do not fit together, files that are too short; `Shape` if `out` has another
/// length; `Interrupted`.
pub fn read_packed(plan: &PackedWeights, out: &mut [f32], run: Run<'_>) -> Result<()> {
    let mut sources = SourceFiles::default();
    let rows = PackedRows::new(plan, None, &mut |view| Gather::new(view, sources.get(&view.file)?))?;
    if out.len() != rows.elements() {
        let what = format!("room for {} values of {} packed weights", out.len(), rows.elements());
        return Err(Error::Shape { at: At::default(), what });
    }
    let task_rows = (READ_WEIGHTS / rows.columns).max(1);
    let tasks: Vec<_> = out.chunks_mut(task_rows * rows.columns).collect();
    run.for_each(tasks, |_, task, out: &mut [f32]| rows.read_values(task * task_rows, out, &|| run.interrupted()))
        .map_err(|error| error.in_file(&plan.codes.file))
}

/// The codes, scales and zero points of packed weights, in the order of their walk.
///
/// # Errors
/// As [`read_packed`], and `Unsupported` for 8-bit floats, which have no such codes.
pub fn read_codes(plan: &PackedWeights, run: Run<'_>) -> Result<Gridded> {
    let mut sources = SourceFiles::default();
    let rows = PackedRows::new(plan, None, &mut |view| Gather::new(view, sources.get(&view.file)?))?;
    if plan.coding == Coding::Float {
        return Err(Error::Unsupported { at: At::file(&plan.codes.file), what: "8-bit floats are no codes".into() });
    }
    let (columns, groups) = (rows.columns, rows.groups);
    let (mut codes, mut scales) = (vec![0; rows.elements()], vec![0.0; rows.wanted * groups]);
    let mut zeros = vec![0; rows.wanted * groups];
    let task_rows = (READ_WEIGHTS / columns).max(1);
    let parameters = scales.chunks_mut(task_rows * groups).zip(zeros.chunks_mut(task_rows * groups));
    let tasks: Vec<_> = codes.chunks_mut(task_rows * columns).zip(parameters).collect();
    run.for_each(tasks, |_, task, (codes, (scales, zeros))| {
        let first = task * task_rows;
        let numbers: Vec<usize> = (first..first + codes.len() / columns).map(|row| rows.source_row(row)).collect();
        rows.for_rows(&numbers, 0, &mut Vec::new(), &|| run.interrupted(), &mut |band, at, row| {
            rows.codes(band, row, &mut codes[at * columns..(at + 1) * columns]);
            let (from_scales, from_zeros) = rows.parameters(band, row);
            scales[at * groups..(at + 1) * groups].copy_from_slice(from_scales);
            for (zero, &from) in zeros[at * groups..(at + 1) * groups].iter_mut().zip(from_zeros) {
                *zero = u8::try_from(from).map_err(|_| bad(format!("zero point {from} is no code")))?;
            }
            Ok(())
        })
    })
    .map_err(|error| error.in_file(&plan.codes.file))?;
    Ok(Gridded { codes, scales, zeros })
}

fn is_permutation(order: &[u32], len: usize) -> bool {
    let mut seen = vec![false; len];
    order.len() == len
        && order.iter().all(|&at| seen.get_mut(at as usize).is_some_and(|seen| !std::mem::replace(seen, true)))
}

fn store(values: &[f32], out: &mut [u8]) {
    for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
        *out = value.to_le_bytes();
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::Shape { at: At::default(), what: what.into() }
}

/// Reads the group of each input and checks that there is such a group.
fn read_groups(plan: &View, view: Gather, columns: usize, groups: usize) -> Result<Vec<u32>> {
    if view.units() != columns || plan.dtype != SourceType::I32 {
        return Err(bad(format!("g_idx has {} {} where {columns} I32 are needed", view.units(), plan.dtype)));
    }
    let mut bytes = vec![0; 4 * columns];
    view.read(0, &mut bytes, &mut Vec::new(), &|| false)?;
    let listed: Vec<u32> = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    match listed.iter().position(|&group| group as usize >= groups) {
        None => Ok(listed),
        Some(at) => {
            let what = format!("g_idx puts input {at} into group {}, of {groups}", listed[at] as i32);
            Err(Error::Malformed { at: At::default(), what })
        }
    }
}

/// The walk over the unpacked matrix as a walk over its rows, which it must keep whole.
fn row_walk(plan: &PackedWeights, rows: usize, columns: usize) -> Result<(Vec<(usize, usize)>, usize)> {
    let torn = || {
        let what = "packed weights can be taken by whole rows only; this model needs them transposed or cut";
        Error::Unsupported { at: At::file(&plan.codes.file), what: what.into() }
    };
    if plan.shape.len() != plan.strides.len() {
        return Err(torn());
    }
    let mut inner: u64 = 1;
    let mut walk = Vec::new();
    for (&len, &stride) in plan.shape.iter().zip(&plan.strides).rev() {
        if len == 1 {
            continue;
        }
        if inner < columns as u64 {
            inner = if stride == inner { inner.checked_mul(len).ok_or_else(torn)? } else { return Err(torn()) };
            if inner > columns as u64 {
                // Whole rows that follow each other.
                if !inner.is_multiple_of(columns as u64) {
                    return Err(torn());
                }
                walk.push(((inner / columns as u64) as usize, 1));
            }
            continue;
        }
        if stride % columns as u64 != 0 {
            return Err(torn());
        }
        walk.push((usize::try_from(len).map_err(|_| torn())?, (stride / columns as u64) as usize));
    }
    if inner < columns as u64 || !plan.start.is_multiple_of(columns as u64) {
        return Err(torn());
    }
    walk.reverse();
    let start = (plan.start / columns as u64) as usize;
    let last =
        walk.iter().try_fold(start, |last, &(len, stride)| last.checked_add(len.checked_sub(1)?.checked_mul(stride)?));
    let count = walk.iter().try_fold(columns, |count, &(len, _)| count.checked_mul(len));
    if last.is_none_or(|last| last >= rows) || count.is_none() {
        return Err(bad(format!("a walk of shape {:?} leaves {rows} rows of packed weights", plan.shape)));
    }
    Ok((walk, start))
}
