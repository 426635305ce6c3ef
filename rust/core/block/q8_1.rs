//! Q8_1: activations for matrix products with Q4_1, Q5_1 and the like. Blocks of 32, `x = d * q` as in Q8_0, together with
//! `s = d * sum(q)`, by which a weight's minimum is multiplied. 9 bits an activation. Never stored in files.

use half::f16;

use super::layout::{block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::rounding::to_half;
use crate::reference::symmetric;

block_layout! {
    struct Block, 36 bytes {
        /// Scale.
        d: f16,
        /// Scale times the sum of the codes.
        s: f16,
        /// Codes.
        qs: [i8; 32],
    }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    let d = block.d.to_f32();
    for i in 0..32 {
        out[i] = f32::from(block.qs[i]) * d;
    }
}

/// 8-bit activations with scale and scaled sum.
pub struct Q8_1;

impl BlockFormat for Q8_1 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_1",
        ggml_type: 9,
        block_len: 32,
        block_bytes: 36,
        imatrix: ImatrixUse::Ignored,
        storage: false,
        summary: "8-bit activations with scale and scaled sum",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, |x: &[f32; 32]| {
            let (d, qs) = symmetric::to_bytes(x);
            let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
            Block { d: to_half(d), s: to_half(sum as f32 * d), qs }
        });
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d).and(finite("scaled sum s", block.s)))
    }
}
