//! Rounding to nearest on a grid a group: what GPTQ, AWQ and compressed-tensors start from.

use half::{bf16, f16};

use super::bits::Width;
use crate::arch::isa;
use crate::encode::{Run, TASK_WEIGHTS, check_finite};
use crate::error::{At, Error, Result};
use crate::nn::per_isa;

/// Weights that are looked at side by side.
const LANES: usize = 16;

/// The type in which scales are stored. Codes are found with the stored scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleType {
    /// IEEE half.
    F16,
    /// Brain float.
    BF16,
    /// 32-bit float.
    F32,
}

impl ScaleType {
    /// The stored scale nearest to `scale`, at least the smallest there is; `None` if it is too large.
    pub fn store(self, scale: f32) -> Option<f32> {
        let stored = match self {
            Self::F16 => f16::from_f32(scale).max(f16::from_bits(1)).to_f32(),
            Self::BF16 => bf16::from_f32(scale).max(bf16::from_bits(1)).to_f32(),
            Self::F32 => scale.max(f32::from_bits(1)),
        };
        stored.is_finite().then_some(stored)
    }
}

/// A family of grids.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Width of codes.
    pub width: Width,
    /// Inputs of a group; the last of a row may be shorter.
    pub group_len: usize,
    /// The zero point is the middle code; otherwise the grid spans the group's range, and zero.
    pub symmetric: bool,
    /// Type of the scales.
    pub scale: ScaleType,
    /// The smallest zero point that the layout can store, 0 or 1.
    pub least_zero: u8,
}

/// Weights on a grid: `scale * (code - zero)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Gridded {
    /// One byte a weight.
    pub codes: Vec<u8>,
    /// One a group.
    pub scales: Vec<f32>,
    /// One a group.
    pub zeros: Vec<u8>,
}

/// Puts each group of `x` (rows of `columns`) onto the grid that spans it.
///
/// # Errors
/// `Shape`, `NonFinite`; `Unsupported` for a group whose scale the scale type cannot hold; `Interrupted`.
pub fn round_to_nearest(x: &[f32], columns: usize, grid: Grid, run: Run<'_>) -> Result<Gridded> {
    if columns == 0 || !x.len().is_multiple_of(columns) || grid.group_len == 0 {
        let what = format!("{} weights in rows of {columns} and groups of {} cannot be", x.len(), grid.group_len);
        return Err(Error::Shape { at: At::default(), what });
    }
    let (rows, groups) = (x.len() / columns, columns.div_ceil(grid.group_len));
    let mut codes = vec![0; x.len()];
    let (mut scales, mut zeros) = (vec![0.0; rows * groups], vec![0; rows * groups]);
    let task_rows = (TASK_WEIGHTS / columns).max(1);
    let parameters = scales.chunks_mut(task_rows * groups).zip(zeros.chunks_mut(task_rows * groups));
    let tasks: Vec<_> =
        x.chunks(task_rows * columns).zip(codes.chunks_mut(task_rows * columns)).zip(parameters).collect();
    let isa = isa()?;
    run.for_each(tasks, |_, task, ((x, codes), (scales, zeros))| {
        check_finite(x, task * task_rows * columns, columns)?;
        let rows = x.chunks(columns).zip(codes.chunks_mut(columns));
        let parameters = scales.chunks_mut(groups).zip(zeros.chunks_mut(groups));
        for (row, ((x, codes), (scales, zeros))) in rows.zip(parameters).enumerate() {
            put_row(isa, x, grid, codes, scales, zeros).map_err(|group| too_large(task * task_rows + row, group))?;
        }
        Ok(())
    })?;
    Ok(Gridded { codes, scales, zeros })
}

per_isa! {
    fn put_row(x: &[f32], grid: Grid, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) -> Result<(), usize>
        = row_onto;
}

/// Puts a row onto its grids; the number of the first group whose scale is too large is the error.
#[inline(always)]
fn row_onto(x: &[f32], grid: Grid, codes: &mut [u8], scales: &mut [f32], zeros: &mut [u8]) -> Result<(), usize> {
    let parts = x.chunks(grid.group_len).zip(codes.chunks_mut(grid.group_len));
    for (group, ((x, codes), (scale, zero))) in parts.zip(scales.iter_mut().zip(zeros)).enumerate() {
        (*scale, *zero) = span(x, grid).ok_or(group)?;
        onto(x, *scale, *zero, grid.width, codes);
    }
    Ok(())
}

/// Scale and zero point of the grid that spans a group; `None` where the scale is too large for its type.
#[inline(always)]
fn span(x: &[f32], grid: Grid) -> Option<(f32, u8)> {
    let (low, high) = range(x);
    let max = f32::from(grid.width.max());
    let middle = 1 << (grid.width.bits() - 1);
    let (low, high) = match (grid.symmetric, low == high) {
        (_, true) => (-1.0, 1.0), // Zeros alone: any scale will do.
        (true, _) => (-high.max(-low), high.max(-low)),
        (false, _) => (low, high),
    };
    // Halved, so that a range beyond the largest float does not become infinite on the way.
    let scale = grid.scale.store((high / 2.0 - low / 2.0) / (max / 2.0))?;
    let zero = if grid.symmetric { middle } else { (-low / scale).round_ties_even().clamp(0.0, max) as u8 };
    if zero < grid.least_zero {
        // Less than half a step lies below zero. From 1 on, the codes reach as far up with a slightly wider step.
        return Some((grid.scale.store(high / (max - 1.0))?, grid.least_zero));
    }
    Some((scale, zero))
}

/// The smallest and the largest of the weights and zero.
#[inline(always)]
fn range(x: &[f32]) -> (f32, f32) {
    // Many at a time: the order of comparisons makes no difference.
    let (mut low, mut high) = ([0_f32; LANES], [0_f32; LANES]);
    let (lanes, rest) = x.as_chunks::<LANES>();
    for x in lanes {
        for ((low, high), &x) in low.iter_mut().zip(&mut high).zip(x) {
            *low = if x < *low { x } else { *low };
            *high = if x > *high { x } else { *high };
        }
    }
    let all = low.iter().chain(&high).chain(rest);
    all.fold((0.0, 0.0), |(low, high), &x| (if x < low { x } else { low }, if x > high { x } else { high }))
}

#[inline(always)]
fn onto(x: &[f32], scale: f32, zero: u8, width: Width, codes: &mut [u8]) {
    /// 1.5 * 2^23: a small number added to it is rounded to a whole number, ties to even, and stands in its last bits.
    const ROUNDER: f32 = 12_582_912.0;
    let (low, high) = (-f32::from(zero), f32::from(width.max()) - f32::from(zero));
    for (code, &x) in codes.iter_mut().zip(x) {
        // Both ends are whole, so that it makes no difference whether rounding comes before or after.
        let steps = x / scale;
        let steps = if steps < low { low } else { steps };
        let steps = if steps > high { high } else { steps };
        *code = (steps + ROUNDER).to_bits().wrapping_add(u32::from(zero)) as u8;
    }
}

fn too_large(row: usize, group: usize) -> Error {
    let what =
        format!("row {row}, group {group}: the scale is too large for the type of the scales; use bfloat16 scales");
    Error::Unsupported { at: At::default(), what }
}
