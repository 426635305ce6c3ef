//! Small batches: blocks meet activations in registers, row after row of weights, as they come from memory.
//!
//! A row of weights is read once, from its first byte to its last, with a request ahead for what comes later; nothing is
//! unpacked into memory. A format says how 32 codes, its scales and its minima come out of a block; what is done with them
//! is shared. What is computed is what [`super::dot::portable`] defines, in the same order.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::activation::Rounded;
use super::slab::UnpackRow;
use crate::arch::Isa;
use crate::block::Format;

/// Numbers of rows of activations that there are kernels for. Other batches are cut into such pieces.
pub(super) const PIECES: [usize; 3] = [4, 2, 1];

/// Bytes ahead of the block in hand that are asked for: what arrives while memory takes to answer, several times over.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4608;

/// Products of one row of weights with as many rows of activations as `sums` has entries; `x` has `slabs` entries for each.
pub(super) type MultiplyRow = unsafe fn(row: &[u8], x: &[Rounded], slabs: usize, sums: &mut [f32]);

/// The functions for each of [`PIECES`], if there are any for the format. They need what `isa` stands for, and a row of
/// whole blocks.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
pub(super) fn kernels(format: Format, isa: Isa) -> Option<[MultiplyRow; PIECES.len()]> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => avx2::kernels(format),
        _ => None,
    }
}

/// A function that unpacks the format's blocks as the kernels take them apart, where that is faster than the definition in
/// [`super::unpack`], which it equals. It needs what `isa` stands for.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables))]
pub(super) fn unpack(format: Format, isa: Isa) -> Option<UnpackRow> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => avx2::unpack(format),
        _ => None,
    }
}
