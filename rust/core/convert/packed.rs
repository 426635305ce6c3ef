//! MXFP4 weights as checkpoints pack them: codes and scales in two tensors, neighbours in one byte.
//!
//! A group of 32 values has 16 bytes of codes, values 2j and 2j+1 in the low and high half of byte j, and one scale byte.
//! A ggml block is the scale followed by 16 bytes with values j and j+16 in byte j. The codes and the scale mean the same
//! in both (ggml doubles its table and halves the scale), so only bits are moved.

use std::path::Path;

use super::gather::Gather;
use crate::error::{At, Error, Result};

/// Bytes of codes in a group.
const CODE_BYTES: usize = 16;

/// Bytes of a ggml block: scale and codes.
const BLOCK_BYTES: usize = 1 + CODE_BYTES;

/// Values in a group.
pub(super) const GROUP_LEN: usize = 2 * CODE_BYTES;

/// Checked views of codes and scales, both bytes, in the same order of groups.
#[derive(Debug)]
pub(super) struct Packed {
    codes: Gather,
    scales: Gather,
}

impl Packed {
    /// Puts codes and scales together.
    ///
    /// # Errors
    /// `Shape` if they are not of as many groups.
    pub(super) fn new(codes: Gather, scales: Gather) -> Result<Self> {
        if Some(codes.units()) != scales.units().checked_mul(CODE_BYTES) {
            let what = format!("{} bytes of codes do not go with {} scales", codes.units(), scales.units());
            return Err(Error::Shape { at: At::default(), what });
        }
        Ok(Self { codes, scales })
    }

    /// Number of groups.
    pub(super) fn groups(&self) -> usize {
        self.scales.units()
    }

    /// Where the codes start.
    pub(super) fn place(&self) -> (&Path, u64) {
        self.codes.place()
    }

    /// Reads groups from `first` on, as many as blocks fit into `out`.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let groups = out.len() / BLOCK_BYTES;
        let mut codes = vec![0; groups * CODE_BYTES];
        let mut scales = vec![0; groups];
        self.codes.read(first * CODE_BYTES, &mut codes, scratch, given_up)?;
        self.scales.read(first, &mut scales, scratch, given_up)?;
        for ((block, group), scale) in out.chunks_exact_mut(BLOCK_BYTES).zip(codes.chunks_exact(CODE_BYTES)).zip(scales)
        {
            block[0] = scale;
            repack(group, &mut block[1..]);
        }
        Ok(())
    }
}

/// From neighbours in a byte to values 16 apart.
fn repack(group: &[u8], codes: &mut [u8]) {
    let value = |i: usize| group[i / 2] >> (4 * (i % 2)) & 15;
    for (j, byte) in codes.iter_mut().enumerate() {
        *byte = value(j) | value(j + CODE_BYTES) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_move_from_neighbours_to_halves() {
        // Value i of the group is i % 16.
        let group: Vec<u8> = (0..16).map(|j| (2 * j % 16) | ((2 * j + 1) % 16) << 4).collect();
        let mut codes = [0; 16];
        repack(&group, &mut codes);
        let expected: Vec<u8> = (0..16).map(|j| j | j << 4).collect();
        assert_eq!(codes.to_vec(), expected);
    }
}
