//! Reading strided views: from any range of a view's elements to the fewest sensible reads.
//!
//! A range of elements in the view's order is cut into boxes ([`Dim`] lists with a stride in the file and one in the
//! result). A box whose elements lie close together is read as one span and picked apart in memory; any other is halved
//! along its widest stride, so that reads go through the file in order and even a transposed matrix that is larger than
//! memory is read in bands.

use std::path::Path;
use std::sync::Arc;

use super::plan::View;
use super::source::SourceFile;
use crate::error::{Error, Result};

/// Spans up to this length are read whole, however few of their bytes are wanted: one read costs as much as copying them.
const SMALL_SPAN: usize = 64 << 10;

/// The longest span that is read into scratch memory.
const MAX_SPAN: usize = 4 << 20;

/// At least one in so many bytes of a long span must be wanted.
const MIN_DENSITY: usize = 4;

/// Side of the square tiles in which elements are transposed in memory.
const TILE: usize = 32;

/// One dimension of a box, in units (elements, or blocks of a quantized type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dim {
    len: usize,
    /// Distance in the file.
    src: usize,
    /// Distance in the result.
    dst: usize,
}

/// A checked view of an open file.
#[derive(Debug)]
pub(super) struct Gather {
    file: Arc<SourceFile>,
    /// Byte offset of the view's first unit.
    start: u64,
    unit_bytes: usize,
    units: usize,
    /// Slowest first; neighbours that can be walked as one are merged. `dst` is the distance in the whole view.
    dims: Vec<Dim>,
}

impl Gather {
    /// Checks `view` against its file.
    ///
    /// # Errors
    /// `Shape` for views that cut blocks or overflow, `Malformed` for views that reach past the end of the file.
    pub(super) fn new(view: &View, file: Arc<SourceFile>) -> Result<Self> {
        let bad = |what: String| Error::Shape { at: Default::default(), what }.in_file(file.path());
        let overflow = || bad(format!("the view of shape {:?} is larger than this machine can address", view.shape));
        if view.shape.len() != view.strides.len() {
            return Err(bad(format!("{} dimensions but {} strides", view.shape.len(), view.strides.len())));
        }
        let (unit_len, unit_bytes) = view.dtype.unit();
        let (shape, strides, start) = in_units(view, unit_len as u64)
            .ok_or_else(|| bad(format!("a view of {} must keep whole blocks of {unit_len}", view.dtype)))?;
        let units = shape.iter().try_fold(1u64, |n, &len| n.checked_mul(len)).ok_or_else(overflow)?;
        let units = usize::try_from(units).map_err(|_| overflow())?;

        let mut last = Some(start);
        let mut dims: Vec<Dim> = Vec::new();
        let mut inner = units;
        for (&len, &stride) in shape.iter().zip(&strides) {
            last = last.and_then(|last| last.checked_add(len.saturating_sub(1).checked_mul(stride)?));
            if units == 0 || len == 1 {
                continue;
            }
            let len = usize::try_from(len).map_err(|_| overflow())?;
            let src = usize::try_from(stride).map_err(|_| overflow())?;
            inner /= len;
            match dims.last_mut() {
                Some(outer) if len.checked_mul(src) == Some(outer.src) => {
                    *outer = Dim { len: outer.len * len, src, dst: inner };
                }
                _ => dims.push(Dim { len, src, dst: inner }),
            }
        }
        let at = |unit: u64| unit.checked_mul(unit_bytes as u64)?.checked_add(view.offset);
        let last = last.filter(|&last| usize::try_from(last).is_ok_and(|last| last < usize::MAX));
        let end = if units == 0 { Some(view.offset) } else { last.and_then(|last| at(last + 1)) };
        match end {
            None => return Err(overflow()),
            Some(end) if end > file.len() => {
                let what = format!("ends at {} bytes, before the data at {end}: truncated or damaged", file.len());
                return Err(Error::malformed(file.path(), what));
            }
            Some(_) => {}
        }
        let start = at(start).ok_or_else(overflow)?;
        Ok(Self { file, start, unit_bytes, units, dims })
    }

    /// Units in the view.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// The file and the byte offset at which the view starts.
    pub(super) fn place(&self) -> (&Path, u64) {
        (self.file.path(), self.start)
    }

    /// Whether the view's fastest dimension jumps about in the file, so that reading a few rows touches all of it.
    pub(super) fn is_transposed(&self) -> bool {
        self.dims.len() > 1 && self.dims.last().is_some_and(|dim| dim.src > 1)
    }

    /// Reads the units from `first` on, as many as `out` holds. `given_up` is asked before every read.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let last = first + out.len() / self.unit_bytes;
        let mut reader = Reader { view: self, out, scratch, given_up };
        split_range(&self.dims, first, last, 0, 0, &mut |dims, src, dst| reader.read_box(dims, src, dst))
    }
}

/// Shape, strides and start in units, or `None` if the view cuts a unit.
fn in_units(view: &View, unit: u64) -> Option<(Vec<u64>, Vec<u64>, u64)> {
    let (mut shape, mut strides) = (view.shape.clone(), view.strides.clone());
    if unit == 1 {
        return Some((shape, strides, view.start));
    }
    let (row_len, row_stride) = (shape.last_mut()?, strides.pop()?);
    if !row_len.is_multiple_of(unit) || row_stride != 1 || !view.start.is_multiple_of(unit) {
        return None;
    }
    *row_len /= unit;
    for (stride, &len) in strides.iter_mut().zip(&view.shape) {
        if !stride.is_multiple_of(unit) && len > 1 {
            return None;
        }
        *stride /= unit;
    }
    strides.push(1);
    Some((shape, strides, view.start / unit))
}

/// Takes a box: its dimensions, and the places of its first unit in the file and in the result.
type Emit<'a> = dyn FnMut(&[Dim], usize, usize) -> Result<()> + 'a;

/// Cuts the elements `first..last` of a view into boxes. `src` and `dst` are where the view starts in the file and in
/// the result.
fn split_range(dims: &[Dim], first: usize, last: usize, src: usize, dst: usize, emit: &mut Emit<'_>) -> Result<()> {
    let Some((outer, inner)) = dims.split_first() else {
        return if first < last { emit(&[], src, dst) } else { Ok(()) };
    };
    let step = outer.dst;
    let (mut from, to) = (first / step, last / step);
    let (head, tail) = (first % step, last % step);
    // `dst` counts from the start of the range, so each part starts where the one before it ended.
    if from == to {
        return split_range(inner, head, tail, src + from * outer.src, dst, emit);
    }
    let mut at = dst;
    if head > 0 {
        split_range(inner, head, step, src + from * outer.src, at, emit)?;
        at += step - head;
        from += 1;
    }
    if from < to {
        let mut whole = dims.to_vec();
        whole[0].len = to - from;
        emit(&whole, src + from * outer.src, at)?;
        at += (to - from) * step;
    }
    if tail > 0 {
        split_range(inner, 0, tail, src + to * outer.src, at, emit)?;
    }
    Ok(())
}

struct Reader<'a> {
    view: &'a Gather,
    out: &'a mut [u8],
    scratch: &'a mut Vec<u8>,
    given_up: &'a dyn Fn() -> bool,
}

impl Reader<'_> {
    /// Reads one box whose first unit is `src` in the file and `dst` in the result.
    fn read_box(&mut self, dims: &[Dim], src: usize, dst: usize) -> Result<()> {
        if (self.given_up)() {
            return Err(Error::Interrupted);
        }
        let unit = self.view.unit_bytes;
        let dims: Vec<Dim> = dims.iter().copied().filter(|dim| dim.len > 1).collect();
        let offset = self.view.start + src as u64 * unit as u64;
        let count: usize = dims.iter().map(|dim| dim.len).product();
        if matches!(dims[..], [] | [Dim { src: 1, dst: 1, .. }]) {
            return self.view.file.read_exact_at(&mut self.out[dst * unit..][..count * unit], offset);
        }
        // Fits: the view was checked to lie inside the file.
        let span = dims.iter().map(|dim| (dim.len - 1) * dim.src).sum::<usize>() + 1;
        let bytes = span.saturating_mul(unit);
        let widest = (0..dims.len()).max_by_key(|&at| dims[at].src);
        let small = bytes <= SMALL_SPAN || (bytes <= MAX_SPAN && span / MIN_DENSITY <= count);
        if let Some(widest) = widest.filter(|_| !small) {
            let half = dims[widest].len / 2;
            let (mut low, mut high) = (dims.clone(), dims);
            low[widest].len = half;
            high[widest].len -= half;
            let step = low[widest];
            self.read_box(&low, src, dst)?;
            return self.read_box(&high, src + half * step.src, dst + half * step.dst);
        }
        if self.scratch.len() < bytes {
            self.scratch.resize(bytes, 0);
        }
        let span = &mut self.scratch[..bytes];
        self.view.file.read_exact_at(span, offset)?;
        copy_box(&dims, unit, span, &mut self.out[dst * unit..]);
        Ok(())
    }
}

/// Copies a box from `src` to `dst`, both starting at its first unit.
fn copy_box(dims: &[Dim], unit: usize, src: &[u8], dst: &mut [u8]) {
    // Runs that are contiguous on both sides are copied whole.
    if let Some((run, outer)) = dims.split_last().filter(|(run, _)| run.src == 1 && run.dst == 1) {
        let bytes = run.len * unit;
        return walk(outer, 0, 0, &mut |from, to| {
            dst[to * unit..][..bytes].copy_from_slice(&src[from * unit..][..bytes]);
        });
    }
    match unit {
        1 => copy_elements::<1>(dims, src, dst),
        2 => copy_elements::<2>(dims, src, dst),
        4 => copy_elements::<4>(dims, src, dst),
        8 => copy_elements::<8>(dims, src, dst),
        _ => walk(dims, 0, 0, &mut |from, to| {
            dst[to * unit..][..unit].copy_from_slice(&src[from * unit..][..unit]);
        }),
    }
}

/// Copies a box element by element, in square tiles over the dimensions that are tightest on either side, so that both
/// sides stay in cache.
fn copy_elements<const N: usize>(dims: &[Dim], src: &[u8], dst: &mut [u8]) {
    let (src, dst) = (src.as_chunks::<N>().0, dst.as_chunks_mut::<N>().0);
    let mut dims = dims.to_vec();
    const ONE: Dim = Dim { len: 1, src: 0, dst: 0 };
    let columns = dims.pop().unwrap_or(ONE);
    let rows = match (0..dims.len()).min_by_key(|&at| dims[at].src) {
        Some(at) => dims.remove(at),
        None => ONE,
    };
    walk(&dims, 0, 0, &mut |from, to| {
        for row_tile in (0..rows.len).step_by(TILE) {
            for column_tile in (0..columns.len).step_by(TILE) {
                for row in row_tile..(row_tile + TILE).min(rows.len) {
                    let (from, to) = (from + row * rows.src, to + row * rows.dst);
                    for column in column_tile..(column_tile + TILE).min(columns.len) {
                        dst[to + column * columns.dst] = src[from + column * columns.src];
                    }
                }
            }
        }
    });
}

/// Visits every position of a box.
fn walk(dims: &[Dim], src: usize, dst: usize, visit: &mut dyn FnMut(usize, usize)) {
    match dims.split_first() {
        None => visit(src, dst),
        Some((outer, inner)) => {
            (0..outer.len).for_each(|at| walk(inner, src + at * outer.src, dst + at * outer.dst, visit))
        }
    }
}
