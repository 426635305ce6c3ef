//! Q2_0: blocks of 64 weights, `x = d * (q - 1)` with 2-bit `q` and an `f16` scale. 2.25 bpw.
//!
//! `d` is the largest magnitude, so encoding uses codes 0 to 2 only; code 3 (`2 * d`) is decoded. An importance matrix
//! changes nothing.

use half::f16;

use super::scalar::{ScalarCodes, steps};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{Rule, Scaled};
use crate::lanes::F32Lanes;
use crate::reference::rounding::{round_half_away, to_half};
use crate::reference::symmetric::{largest, reciprocal};

block_layout! {
    struct Block, 18 bytes {
        /// Scale.
        d: f16,
        /// Codes, weight `j` at bits `2 * (j % 4)` of byte `j / 4`.
        qs: [u8; 16],
    }
}

fn encode(x: &[f32; 64]) -> Block {
    let d = largest(x);
    let inverse = reciprocal(d);
    let mut qs = [0; 16];
    for (j, &v) in x.iter().enumerate() {
        let code = (round_half_away(v * inverse) + 1).clamp(0, 3) as u8;
        qs[j / 4] |= code << (2 * (j % 4));
    }
    Block { d: to_half(d), qs }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 64]) {
    let d = block.d.to_f32();
    for (bytes, out) in block.qs.as_chunks::<2>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        let pairs = i32::from(u16::from_le_bytes(*bytes));
        for j in 0..8 {
            out[j] = (((pairs >> (2 * j)) & 3) - 1) as f32 * d;
        }
    }
}

/// 2-bit codes -1..2, one f16 scale per 64.
pub struct Q2_0;

impl Scaled<64> for Q2_0 {
    type Block = Block;
    const RULE: Rule = Rule::Magnitude { divisor: 1.0, offset: 1 };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, _m: f16, codes: &[u8; 64]) -> Block {
        // Four bytes of two bits each, side by side in the lowest of them.
        let mut qs = [0; 16];
        for i in 0..16 {
            let four = u32::from_le_bytes(codes.as_chunks().0[i]);
            qs[i] = (four | (four >> 6) | (four >> 12) | (four >> 18)) as u8;
        }
        Block { d, qs }
    }

    fn reference(x: &[f32; 64]) -> Block {
        encode(x)
    }
}

impl BlockFormat for Q2_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q2_0",
        ggml_type: 42,
        block_len: 64,
        block_bytes: 18,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "2-bit codes -1..2, one f16 scale per 64",
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

impl ScalarCodes for Q2_0 {
    const SUB_LEN: usize = 64;
    const TABLE: &'static [i8] = &steps::<4>(-1);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = std::array::from_fn(|i| (0..4).fold(0, |byte, k| byte | codes[4 * i + k] << (2 * k)));
        own.write(block);
    }
}
