//! MXFP4 as checkpoints of gpt-oss pack it: codes and scales in tensors of their own, repacked without loss.
//!
//! There, a block of 32 weights is 16 bytes of codes (weight `2j` in the low half of byte `j`, weight `2j + 1` in the high
//! half) and, elsewhere, one byte of scale. In GGUF it is the scale, then 16 bytes that pair weight `j` with `j + 16`.

use super::gather::Gather;
use crate::block::Format;
use crate::error::{At, Error, Result};

/// Bytes of codes in a block.
const CODES: usize = 16;

/// Bytes of a block in GGUF.
const BLOCK: usize = Format::MXFP4.info().block_bytes;

/// Codes and scales of one tensor, as bytes.
pub(super) struct Packed {
    codes: Gather,
    scales: Gather,
}

impl Packed {
    pub(super) fn new(codes: Gather, scales: Gather) -> Result<Self> {
        if codes.units() != scales.units().saturating_mul(CODES) {
            let what = format!("{} bytes of codes do not go with {} scales", codes.units(), scales.units());
            return Err(Error::Shape { at: At::default(), what });
        }
        Ok(Self { codes, scales })
    }

    /// The view that is read first.
    pub(super) fn first(&self) -> &Gather {
        &self.codes
    }

    /// Number of blocks.
    pub(super) fn blocks(&self) -> usize {
        self.scales.units()
    }

    /// Reads blocks from `first` on, as many as `out` holds, as GGUF stores them.
    pub(super) fn read(
        &self,
        first: usize,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
        given_up: &dyn Fn() -> bool,
    ) -> Result<()> {
        let blocks = out.len() / BLOCK;
        let mut codes = vec![0; blocks * CODES];
        self.codes.read(first * CODES, &mut codes, scratch, given_up)?;
        let mut scales = vec![0; blocks];
        self.scales.read(first, &mut scales, scratch, given_up)?;
        let (out, _) = out.as_chunks_mut::<BLOCK>();
        let (codes, _) = codes.as_chunks::<CODES>();
        for ((out, codes), scale) in out.iter_mut().zip(codes).zip(scales) {
            *out = repack(codes, scale);
        }
        Ok(())
    }
}

fn repack(codes: &[u8; CODES], scale: u8) -> [u8; BLOCK] {
    let code = |weight: usize| (codes[weight / 2] >> (weight % 2 * 4)) & 0xf;
    let mut block = [scale; BLOCK];
    for (j, byte) in block[1..].iter_mut().enumerate() {
        *byte = code(j) | (code(j + CODES) << 4);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repacking_pairs_weights_sixteen_apart() {
        // Weight i has code i % 16, so that halves of the block look alike.
        let codes: [u8; CODES] = std::array::from_fn(|j| (2 * j % 16) as u8 | (((2 * j + 1) % 16) as u8) << 4);
        let block = repack(&codes, 0x7f);
        assert_eq!(block[0], 0x7f);
        for (j, byte) in block[1..].iter().enumerate() {
            assert_eq!(*byte, j as u8 * 0x11);
        }
    }
}
