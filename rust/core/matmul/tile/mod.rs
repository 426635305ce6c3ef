//! Large batches: a panel of weight rows against 16 columns of activations at a time, in integers.
//!
//! Weights of one slab are laid out once for a whole batch: codes as the kernel multiplies them, scales as it broadcasts
//! them. Activations lie in quads: four consecutive codes of each of 16 columns side by side, so that four codes of a
//! weight row, broadcast, meet them in one instruction, and lanes are columns. No sum is ever split over lanes.
//!
//! Products of two bytes are added in 16 bits for as long as they cannot overflow, and only then widened: that is where
//! the speed comes from. How long follows from the format's largest code, see [`Plan`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
mod fours;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use super::activation::Rounded;
use super::slab::{Facts, GROUPS, SLAB, Scaling, Slab};
use crate::arch::Isa;
use crate::block::Format;
use crate::prefetch::prefetch;

/// Columns of activations side by side.
pub(super) const COLUMNS: usize = 16;
/// Columns that there are kernels for: up to so many.
pub(super) const SIZES: [usize; 2] = [8, COLUMNS];
/// Rows of weights in a panel.
pub(super) const PANEL: usize = 32;
/// Rows of weights that a kernel is given at a time: a multiple of every kernel's own number.
pub(super) const GROUP: usize = 8;
/// Largest magnitude of an activation's code.
const CODE: i32 = 127;

/// How codes meet activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairing {
    /// Unsigned codes, signed activations. Where groups have float scales, what an offset adds is the same for all rows and
    /// is taken off again.
    Unsigned,
    /// Signed codes, and activations with 128 added, so that they are unsigned. What the 128s contribute is the same for
    /// all columns and is taken off again.
    Biased,
    /// Codes of 8 bits, whose products overflow 16 bits at once: both sides widened to 16 bits, integer scales multiplied
    /// in beforehand.
    Wide,
    /// Such codes that lie in their blocks as they are: signs of activations go over to them, so that bytes can be multiplied
    /// without being laid out.
    Signs,
}

/// What the format's facts mean for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// How codes meet activations.
    pub(super) pairing: Pairing,
    /// Quads whose products are added in 16 bits: the sum of so many times two products is below `2^15`.
    pub(super) depth: usize,
}

impl Plan {
    /// The plan for a format.
    pub(super) const fn new(facts: &Facts) -> Self {
        let pairing = match facts.scaling {
            _ if facts.mins => Pairing::Unsigned,
            Scaling::Groups if facts.offset > 0 => Pairing::Unsigned,
            _ => Pairing::Biased,
        };
        let fitting = i16::MAX as i32 / (2 * Self::largest(facts, pairing));
        if fitting == 0 {
            let pairing = match facts.format {
                Format::Q8_0 => Pairing::Signs,
                _ => Pairing::Wide,
            };
            return Self { pairing, depth: 0 };
        }
        // Within a group, and a power of two, so that groups are whole numbers of it.
        let mut depth = facts.group / 4;
        while depth > fitting as usize {
            depth /= 2;
        }
        Self { pairing, depth }
    }

    /// See [`Kernels::few`]. Measured: with float scales for each group, products in registers have more to do; unsigned codes
    /// are laid out as they are, signed ones are added up or widened meanwhile.
    const fn few(&self, facts: &Facts) -> usize {
        match (self.pairing, facts.scaling) {
            (_, Scaling::Groups) => 6,
            (Pairing::Unsigned, Scaling::Super) => 8,
            (_, Scaling::Super) => 12,
        }
    }

    /// The largest product of two codes.
    const fn largest(facts: &Facts, pairing: Pairing) -> i32 {
        match pairing {
            Pairing::Unsigned => (facts.max + facts.offset as i32) * CODE,
            _ => facts.max * (CODE + 128),
        }
    }
}

/// Four codes (or two of 16 bits) of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Quad([u8; 4 * COLUMNS]);

impl Quad {
    pub(super) const ZERO: Self = Self([0; 4 * COLUMNS]);
}

/// What else belongs to a slab of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Side {
    /// Pairs of sums of codes, over the columns that share a minimum. Where groups have float scales and an offset, what it
    /// contributes to each, sign turned, as a number of 32 bits.
    sums: [[[i16; 2]; COLUMNS]; GROUPS / 2],
    /// Scales: the first for super-blocks, otherwise one for each 32.
    d: [[f32; COLUMNS]; SLAB / 32],
    /// Scaled sums, one for each 32.
    s: [[f32; COLUMNS]; SLAB / 32],
}

impl Side {
    pub(super) const ZERO: Self =
        Self { sums: [[[0; 2]; COLUMNS]; GROUPS / 2], d: [[0.0; COLUMNS]; SLAB / 32], s: [[0.0; COLUMNS]; SLAB / 32] };
}

/// A slab of one row of weights as kernels read it.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// Codes: 256 bytes, or 256 of 16 bits. Behind 256 bytes, what the biases contribute to each four, see [`fours`].
    codes: [u8; 2 * SLAB],
    /// Integer scale of each 16, twice.
    scales: [[i16; 2]; GROUPS],
    /// Pairs of integer minima, as [`Side::sums`].
    mins: [[i16; 2]; GROUPS / 2],
    /// What the biases contribute, sign turned: the first for super-blocks, otherwise one for each 16. With
    /// [`Pairing::Signs`] a bit in the first for each 32 codes of which one is -128.
    bias: [i32; GROUPS],
    /// As [`Slab::d`].
    d: [f32; GROUPS],
    /// As [`Slab::m`].
    m: [f32; GROUPS],
}

impl Row {
    pub(super) const ZERO: Self = Self {
        codes: [0; 2 * SLAB],
        scales: [[0; 2]; GROUPS],
        mins: [[0; 2]; GROUPS / 2],
        bias: [0; GROUPS],
        d: [0.0; GROUPS],
        m: [0.0; GROUPS],
    };
}

/// Adds the products of a multiple of [`GROUP`] rows and a slab of up to 16 columns to `sums`, one entry a row.
type Multiply = unsafe fn(rows: &[Row], quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]]);
/// As [`Multiply`], with [`GROUP`] rows whose blocks have their codes as they are multiplied: from `start` on, `stride` bytes
/// apart. Each has a whole slab there.
type Direct =
    unsafe fn(start: *const u8, stride: usize, quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]; GROUP]);
/// Lays out one slab of a row.
type LayOut = unsafe fn(slab: &Slab, facts: &Facts, row: &mut Row);
/// Rounds and packs one slab of up to 16 rows of activations, of which there are `cols` in a row of `x`.
type Pack = unsafe fn(x: &[f32], cols: usize, slab: Range<usize>, facts: &Facts, quads: &mut [Quad], side: &mut Side);

/// The functions for one format on one instruction set. All need what [`kernels`] was told is there.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Quads in a slab.
    pub(super) quads: usize,
    /// Up to this many rows of activations, blocks are multiplied in registers where there are kernels for it: beyond, it pays
    /// to lay weights out once for all.
    pub(super) few: usize,
    /// For each of [`SIZES`].
    pub(super) multiply: [Multiply; SIZES.len()],
    /// Likewise, where weights need not be laid out.
    pub(super) direct: Option<[Direct; SIZES.len()]>,
    pub(super) lay_out: LayOut,
    pub(super) pack: Pack,
}

/// Kernels for a format, if the instruction set has any.
pub(super) fn kernels(facts: &Facts, isa: Isa) -> Option<Kernels> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => vnni::avx512::kernels(facts),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 if std::arch::is_x86_feature_detected!("avxvnni") => vnni::avx::kernels(facts),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => avx2::kernels(facts),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => neon::kernels(facts),
        _ => None,
    }
}

/// Pairs of minima, as [`Side::sums`].
#[inline(always)]
fn mins(slab: &Slab, facts: &Facts) -> [[i16; 2]; GROUPS / 2] {
    std::array::from_fn(|j| match facts.group {
        16 => [slab.mins[2 * j], slab.mins[2 * j + 1]],
        _ => [slab.mins[4 * j % GROUPS], slab.mins[(4 * j + 2) % GROUPS]],
    })
}

/// A pair of halfwords as a word, as kernels multiply it with pairs.
#[inline(always)]
fn word(pair: [i16; 2]) -> i32 {
    i32::from(pair[0] as u16) | i32::from(pair[1]) << 16
}

/// Asks for the `i`th of `shares` of the `count` values at `start`, which need not be readable.
#[inline(always)]
pub(super) fn fetch_share<T>(start: *const T, count: usize, i: usize, shares: usize) {
    let share = (count * size_of::<T>()).div_ceil(shares);
    prefetch(start.cast::<u8>().wrapping_add(i * share), share);
}

/// Lays out a slab as its plan says; `sums` adds up each 16 signed codes, which compilers take apart into single bytes.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lay_out(slab: &Slab, pairing: Pairing, facts: &Facts, row: &mut Row, sums: impl Fn(&[u8; SLAB]) -> [i32; GROUPS]) {
    match facts.scaling {
        Scaling::Super => {
            row.d[0] = slab.d[0];
            row.m[0] = slab.m[0];
            row.scales = slab.scales.map(|scale| [scale; 2]);
        }
        Scaling::Groups => {
            row.d = slab.d;
            if facts.mins {
                row.m = slab.m;
            }
        }
    }
    if facts.mins && facts.scaling == Scaling::Super {
        row.mins = mins(slab, facts);
    }
    match pairing {
        Pairing::Unsigned => row.codes[..SLAB].copy_from_slice(&slab.codes),
        Pairing::Biased => {
            let codes = row.codes.first_chunk_mut().expect("codes of a slab");
            for k in 0..SLAB {
                codes[k] = slab.codes[k].wrapping_sub(facts.offset);
            }
            let sums = sums(codes);
            let total: i32 = (0..GROUPS).map(|j| sums[j] * i32::from(slab.scales[j])).sum();
            for j in 0..GROUPS {
                row.bias[j] = -128 * sums[j];
            }
            match (facts.scaling, facts.group) {
                (Scaling::Super, _) => row.bias[0] = -128 * total,
                (Scaling::Groups, 32) => (0..GROUPS).step_by(2).for_each(|j| row.bias[j] += row.bias[j + 1]),
                (Scaling::Groups, _) => {}
            }
        }
        Pairing::Signs => {
            row.codes[..SLAB].copy_from_slice(&slab.codes);
            row.bias[0] = 0;
            for (block, codes) in slab.codes.as_chunks::<32>().0.iter().enumerate() {
                let lowest = codes.iter().fold(false, |any, &code| any | (code == 0x80));
                row.bias[0] |= i32::from(lowest) << block;
            }
        }
        Pairing::Wide => {
            let codes = row.codes.as_chunks_mut::<2>().0;
            for k in 0..SLAB {
                let code = i16::from(slab.codes[k] as i8);
                // At most 127 * 32, the largest scale there is beside such codes.
                let factor = if facts.scaling == Scaling::Super { slab.scales[k / 16] } else { 1 };
                codes[k] = (code * factor).to_le_bytes();
            }
        }
    }
}

#[inline(always)]
fn pack(
    x: &[f32],
    cols: usize,
    slab: Range<usize>,
    pairing: Pairing,
    facts: &Facts,
    quads: &mut [Quad],
    side: &mut Side,
) {
    for column in 0..COLUMNS {
        let rounded = match x.get(column * cols..(column + 1) * cols) {
            Some(x) => Rounded::new(facts, &x[slab.clone()]),
            None => Rounded::ZERO,
        };
        match pairing {
            Pairing::Unsigned | Pairing::Signs => spread(&rounded.codes.map(|code| code as u8), column, quads),
            Pairing::Biased => spread(&rounded.codes.map(|code| code as u8 ^ 0x80), column, quads),
            Pairing::Wide => {
                let mut wide = [0; 2 * SLAB];
                for (wide, code) in wide.as_chunks_mut::<2>().0.iter_mut().zip(rounded.codes) {
                    *wide = i16::from(code).to_le_bytes();
                }
                spread(&wide, column, quads);
            }
        }
        for j in 0..SLAB / 32 {
            side.d[j][column] = rounded.d[j];
            side.s[j][column] = rounded.s[j];
        }
        for j in 0..GROUPS / 2 {
            let sums = &rounded.sums;
            let both = |k: usize| sums[k % GROUPS] + sums[(k + 1) % GROUPS];
            side.sums[j][column] = match (facts.scaling, facts.group) {
                (Scaling::Groups, _) => {
                    let [a, b, c, d] = (-i32::from(facts.offset) * i32::from(both(2 * j))).to_ne_bytes();
                    [i16::from_ne_bytes([a, b]), i16::from_ne_bytes([c, d])]
                }
                (Scaling::Super, 16) => [sums[2 * j], sums[2 * j + 1]],
                (Scaling::Super, _) => [both(4 * j), both(4 * j + 2)],
            };
        }
    }
}

/// Puts the bytes of one column, four at a time, into its place in each quad.
#[inline(always)]
fn spread<const N: usize>(bytes: &[u8; N], column: usize, quads: &mut [Quad]) {
    for (quad, bytes) in quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        quad.0.as_chunks_mut::<4>().0[column] = *bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::unpack::integers;

    #[test]
    fn sums_of_16_bits_cannot_overflow() {
        for &format in Format::ALL {
            let Ok(Some(unpacker)) = integers(format, Isa::Scalar) else { continue };
            let facts = unpacker.facts;
            let plan = Plan::new(&facts);
            let largest = if plan.pairing == Pairing::Unsigned {
                (i32::from(facts.offset) + facts.max) * 127
            } else {
                facts.max * 255
            };
            let deepest = 2 * largest * plan.depth as i32;
            assert!(deepest <= i32::from(i16::MAX), "{format}: {deepest}");
            match plan.pairing {
                Pairing::Wide | Pairing::Signs => {
                    assert!(2 * largest > i32::from(i16::MAX), "{format} need not be wide");
                }
                _ => assert!(plan.depth >= 1 && (facts.group / 4).is_multiple_of(plan.depth), "{format}"),
            }
        }
    }
}
