//! GGUF blocks that hold the very codes and scales of packed weights, and back.
//!
//! `x = d * (q - 8)` of Q4_0, `d * (q - 16)` of Q5_0 and `d * q` of Q8_0 are a symmetric group's arithmetic; `d * q + m`
//! of Q4_1 and Q5_1 is any group's, where `m = -zero * scale` fits an `f16`.

use half::f16;

use crate::block::Format;
use crate::block::bits::{fifth_bit, pack_fifth_bits, pack_nibbles, unpack_nibbles};
use crate::encode::Run;
use crate::error::{At, Error, Result};

/// Weights of a block.
pub const BLOCK: usize = 32;

/// Blocks that a task takes.
const TASK: usize = 1024;

/// A block format that can take codes as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// 4 bits, symmetric.
    Q4_0,
    /// 4 bits with a minimum.
    Q4_1,
    /// 5 bits, symmetric.
    Q5_0,
    /// 5 bits with a minimum.
    Q5_1,
    /// 8 bits, symmetric.
    Q8_0,
}

impl Target {
    /// The target of this format, if it is one.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::Q4_0 => Some(Self::Q4_0),
            Format::Q4_1 => Some(Self::Q4_1),
            Format::Q5_0 => Some(Self::Q5_0),
            Format::Q5_1 => Some(Self::Q5_1),
            Format::Q8_0 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// The format.
    pub const fn format(self) -> Format {
        match self {
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 => Format::Q5_1,
            Self::Q8_0 => Format::Q8_0,
        }
    }

    /// The code that stands for zero, and the largest code; `None` for those with a minimum of their own.
    const fn range(self) -> (Option<i32>, i32) {
        match self {
            Self::Q4_0 => (Some(8), 15),
            Self::Q5_0 => (Some(16), 31),
            Self::Q8_0 => (Some(128), 255),
            Self::Q4_1 => (None, 15),
            Self::Q5_1 => (None, 31),
        }
    }
}

/// The `f16` that equals `x`, if there is one.
pub fn exact_half(x: f32) -> Option<f16> {
    let half = f16::from_f32(x);
    (half.to_f32().to_bits() == x.to_bits()).then_some(half)
}

/// Writes the block of 32 codes with one scale and zero point.
///
/// # Errors
/// Why the block cannot hold them: a scale or minimum outside of `f16`, a code outside of the format's.
pub fn write(target: Target, codes: &[u8; BLOCK], scale: f32, zero: i32, out: &mut [u8]) -> Result<(), String> {
    let d = exact_half(scale).ok_or_else(|| format!("scale {scale:e} is not an f16 number"))?;
    let (middle, max) = target.range();
    let shift = middle.map_or(0, |middle| middle - zero);
    let (low, high) = codes.iter().fold((u8::MAX, 0), |(low, high), &code| (low.min(code), high.max(code)));
    if i32::from(low) + shift < 0 || i32::from(high) + shift > max {
        return Err(format!(
            "codes {low} to {high} with zero point {zero} are out of the range of {}",
            target.format()
        ));
    }
    let codes = codes.map(|code| (i32::from(code) + shift) as u8);
    let minimum = if middle.is_some() { 0.0 } else { -(zero as f32) * scale };
    let m = f16::from_f32(minimum);
    if !m.is_finite() {
        return Err(format!("minimum {minimum:e} is too large for an f16"));
    }
    write_parts(target, d, m, &codes, out);
    Ok(())
}

/// Writes the block of a scale, a minimum (ignored by the symmetric formats) and codes as they are stored, but that Q8_0's
/// count from -128.
pub(super) fn write_parts(target: Target, d: f16, m: f16, codes: &[u8; BLOCK], out: &mut [u8]) {
    let low_bits = codes.map(|code| code & 15);
    out[..2].copy_from_slice(&d.to_le_bytes());
    match target {
        Target::Q4_0 => pack_nibbles::<16>(codes, &mut out[2..18]),
        Target::Q5_0 => {
            out[2..6].copy_from_slice(&pack_fifth_bits(codes).to_le_bytes());
            pack_nibbles::<16>(&low_bits, &mut out[6..22]);
        }
        Target::Q8_0 => out[2..34].copy_from_slice(&codes.map(|code| code ^ 0x80)),
        Target::Q4_1 => {
            out[2..4].copy_from_slice(&m.to_le_bytes());
            pack_nibbles::<16>(codes, &mut out[4..20]);
        }
        Target::Q5_1 => {
            out[2..4].copy_from_slice(&m.to_le_bytes());
            out[4..8].copy_from_slice(&pack_fifth_bits(codes).to_le_bytes());
            pack_nibbles::<16>(&low_bits, &mut out[8..24]);
        }
    }
}

/// Takes a block apart: its codes, counted from the code of zero where it has one, its scale, and its minimum.
pub fn read(target: Target, block: &[u8], codes: &mut [u8; BLOCK]) -> (f16, f16) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    let bits = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let mut nibbles = |at: usize, fifth: u32| {
        unpack_nibbles::<16>(&block[at..at + 16], |j, code| codes[j] = code | fifth_bit(fifth, j));
    };
    match target {
        Target::Q4_0 => nibbles(2, 0),
        Target::Q5_0 => nibbles(6, bits(2)),
        Target::Q4_1 => nibbles(4, 0),
        Target::Q5_1 => nibbles(8, bits(4)),
        Target::Q8_0 => {
            for (code, &byte) in codes.iter_mut().zip(&block[2..34]) {
                *code = byte ^ 0x80;
            }
        }
    }
    let minimum = if target.range().0.is_none() { half(2) } else { f16::ZERO };
    (half(0), minimum)
}

/// Blocks taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Apart {
    /// One byte a weight; in symmetric formats the middle of the range stands for zero.
    pub codes: Vec<u8>,
    /// One a block.
    pub scales: Vec<f32>,
    /// One a block; zeros in symmetric formats.
    pub minima: Vec<f32>,
}

/// Takes whole blocks apart.
///
/// # Errors
/// `Shape` if `data` is not whole blocks, `Interrupted`.
pub fn take_apart(target: Target, data: &[u8], run: Run<'_>) -> Result<Apart> {
    let bytes = target.format().info().block_bytes;
    if !data.len().is_multiple_of(bytes) {
        let what = format!("{} bytes are no whole blocks of {}", data.len(), target.format());
        return Err(Error::Shape { at: At::default(), what });
    }
    let blocks = data.len() / bytes;
    let mut apart = Apart { codes: vec![0; blocks * BLOCK], scales: vec![0.0; blocks], minima: vec![0.0; blocks] };
    let parameters = apart.scales.chunks_mut(TASK).zip(apart.minima.chunks_mut(TASK));
    let tasks: Vec<_> = data.chunks(TASK * bytes).zip(apart.codes.chunks_mut(TASK * BLOCK)).zip(parameters).collect();
    run.for_each(tasks, |_, _, ((data, codes), (scales, minima))| {
        let blocks = data.chunks_exact(bytes).zip(codes.as_chunks_mut().0);
        for ((block, codes), (scale, minimum)) in blocks.zip(scales.iter_mut().zip(minima)) {
            let (d, m) = read(target, block, codes);
            (*scale, *minimum) = (d.to_f32(), m.to_f32());
        }
        Ok(())
    })?;
    Ok(apart)
}
