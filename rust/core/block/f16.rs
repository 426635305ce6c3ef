//! F16: IEEE halves, rounded to nearest even. 16 bpw.
//!
//! Weights of 65520 and more in magnitude become infinite, which [`BlockFormat::validate_row`] reports.

use half::f16;

use super::layout::{block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::rounding::to_half;

block_layout! {
    struct Block, 2 bytes { value: f16 }
}

/// 16-bit float (IEEE half).
pub struct F16;

impl BlockFormat for F16 {
    const INFO: FormatInfo = FormatInfo {
        name: "F16",
        ggml_type: 1,
        block_len: 1,
        block_bytes: 2,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "16-bit float (IEEE half)",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, |&[x]| Block { value: to_half(x) });
    }

    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks(data, out, |block: &Block, [out]| *out = block.value.to_f32());
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("value", block.value))
    }
}
