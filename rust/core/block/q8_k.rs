//! Q8_K: activations for matrix products with the k-quants and i-quants. Blocks of 256, `x = d * q` with 8-bit signed `q`
//! and an `f32` scale, together with the sums of the codes of each 16, by which minima are multiplied. 9.125 bits an
//! activation. Never stored in files.
//!
//! `d` maps the activation largest in magnitude to -127, so it carries the sign turned.

use super::layout::{block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::rounding::nearest_int;

block_layout! {
    struct Block, 292 bytes {
        /// Scale.
        d: f32,
        /// Codes.
        qs: [i8; 256],
        /// Sums of the codes of each 16.
        bsums: [i16; 16],
    }
}

fn encode(x: &[f32; 256]) -> Block {
    let (mut max, mut amax) = (0.0, 0.0);
    for &v in x {
        if v.abs() > amax {
            amax = v.abs();
            max = v;
        }
    }
    if amax == 0.0 {
        return Block { d: 0.0, qs: [0; 256], bsums: [0; 16] };
    }
    let inverse_scale = -127.0 / max;
    let qs = x.map(|v| nearest_int(inverse_scale * v).min(127) as i8);
    let bsums = std::array::from_fn(|j| qs[16 * j..][..16].iter().map(|&q| i16::from(q)).sum());
    Block { d: 1.0 / inverse_scale, qs, bsums }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    for i in 0..256 {
        out[i] = block.d * f32::from(block.qs[i]);
    }
}

/// 8-bit activations with f32 scale and sums per 16.
pub struct Q8_K;

impl BlockFormat for Q8_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_K",
        ggml_type: 15,
        block_len: 256,
        block_bytes: 292,
        imatrix: ImatrixUse::Ignored,
        storage: false,
        summary: "8-bit activations with f32 scale and sums per 16",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, encode);
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}
