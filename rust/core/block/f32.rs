//! F32: weights as they are. 32 bpw.

use super::layout::{block_layout, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

block_layout! {
    struct Block, 4 bytes { value: f32 }
}

/// 32-bit float.
pub struct F32;

impl BlockFormat for F32 {
    const INFO: FormatInfo = FormatInfo {
        name: "F32",
        ggml_type: 0,
        block_len: 1,
        block_bytes: 4,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "32-bit float",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, |&[value]| Block { value });
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        for (bytes, out) in data.as_chunks::<4>().0.iter().zip(out) {
            *out = f32::from_le_bytes(*bytes);
        }
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("value", block.value))
    }
}
