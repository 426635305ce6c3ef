//! Q8_0: blocks of 32 weights, `x = d * q` with 8-bit signed `q` and an `f16` scale. 8.5 bpw.
//!
//! `d` maps the largest magnitude to 127; codes are the nearest, halves away from zero. An importance matrix changes
//! nothing.

use half::f16;

use super::scalar::{ScalarCodes, steps};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{Rule, Scaled};
use crate::lanes::F32Lanes;
use crate::reference::rounding::to_half;
use crate::reference::symmetric;

block_layout! {
    struct Block, 34 bytes {
        /// Scale.
        d: f16,
        /// Codes.
        qs: [i8; 32],
    }
}

fn encode(x: &[f32; 32]) -> Block {
    let (d, qs) = symmetric::to_bytes(x);
    Block { d: to_half(d), qs }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    let d = block.d.to_f32();
    for i in 0..32 {
        out[i] = f32::from(block.qs[i]) * d;
    }
}

/// 8-bit codes, one f16 scale per 32.
pub struct Q8_0;

impl Scaled<32> for Q8_0 {
    type Block = Block;
    const RULE: Rule = Rule::Magnitude { divisor: 127.0, offset: 128 };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, _m: f16, codes: &[u8; 32]) -> Block {
        let mut qs = [0; 32];
        for i in 0..32 {
            qs[i] = (codes[i] ^ 128) as i8;
        }
        Block { d, qs }
    }

    fn reference(x: &[f32; 32]) -> Block {
        encode(x)
    }
}

impl BlockFormat for Q8_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_0",
        ggml_type: 8,
        block_len: 32,
        block_bytes: 34,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "8-bit codes, one f16 scale per 32",
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

impl ScalarCodes for Q8_0 {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &steps::<255>(-127);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = std::array::from_fn(|j| (i32::from(codes[j]) - 127) as i8);
        own.write(block);
    }
}
