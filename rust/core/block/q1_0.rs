//! Q1_0: blocks of 128 weights, `x = d` or `x = -d`, one bit a weight and an `f16` scale. 1.125 bpw.
//!
//! `d` is the mean magnitude; the bit is set for weights `>= 0`, negative zero included. An importance matrix changes
//! nothing.

use half::f16;

use super::scalar::ScalarCodes;
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::rounding::to_half;

block_layout! {
    struct Block, 18 bytes {
        /// Scale.
        d: f16,
        /// Signs, weight `j` at bit `j % 8` of byte `j / 8`.
        qs: [u8; 16],
    }
}

fn encode(x: &[f32; 128]) -> Block {
    let mut sum = 0.0;
    for v in x {
        sum += v.abs();
    }
    let mut qs = [0; 16];
    for (j, &v) in x.iter().enumerate() {
        qs[j / 8] |= u8::from(v >= 0.0) << (j % 8);
    }
    Block { d: to_half(sum / 128.0), qs }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 128]) {
    let d = block.d.to_f32();
    for (byte, out) in block.qs.iter().zip(out.as_chunks_mut::<8>().0) {
        for j in 0..8 {
            let minus = (!u32::from(*byte) >> j) << 31;
            out[j] = f32::from_bits(d.to_bits() ^ minus);
        }
    }
}

/// Signs, one f16 scale per 128.
pub struct Q1_0;

impl BlockFormat for Q1_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q1_0",
        ggml_type: 41,
        block_len: 128,
        block_bytes: 18,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "signs, one f16 scale per 128",
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

impl ScalarCodes for Q1_0 {
    const SUB_LEN: usize = 128;
    const TABLE: &'static [i8] = &[-1, 1];

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = std::array::from_fn(|i| (0..8).fold(0, |byte, k| byte | codes[8 * i + k] << k));
        own.write(block);
    }
}
