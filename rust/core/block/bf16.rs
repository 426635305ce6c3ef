//! BF16: the upper half of an IEEE single, rounded to nearest even. 16 bpw.
//!
//! Subnormals are kept. Weights within half a step of the largest single round up to infinity.

use half::bf16;

use super::layout::{block_layout, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

block_layout! {
    struct Block, 2 bytes { bits: u16 }
}

/// 16-bit float (bfloat16).
pub struct BF16;

impl BlockFormat for BF16 {
    const INFO: FormatInfo = FormatInfo {
        name: "BF16",
        ggml_type: 30,
        block_len: 1,
        block_bytes: 2,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "16-bit float (bfloat16)",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, |&[x]| Block { bits: bf16::from_f32(x).to_bits() });
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        // Shifted and not converted: a conversion would quieten NaNs.
        for (bytes, out) in data.as_chunks::<2>().0.iter().zip(out) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
        }
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("value", bf16::from_bits(block.bits)))
    }
}
