//! TQ2_0: ternary weights in blocks of 256, `x = d * (q - 1)` with `q` in `0..=2` stored in 2 bits, and an `f16` scale.
//! 2.0625 bpw. For models trained to be ternary (BitNet b1.58, TriLM).
//!
//! `d` is the largest magnitude. An importance matrix changes nothing.

use half::f16;

use super::bits::{pack_pairs, pairs};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{Rule, Scaled};
use crate::lanes::F32Lanes;
use crate::reference::rounding::to_half;
use crate::reference::symmetric;

block_layout! {
    struct Block, 66 bytes {
        /// Codes: in each half of 128, weights `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`, lowest bits first.
        qs: [u8; 64],
        /// Scale.
        d: f16,
    }
}

fn encode(x: &[f32; 256]) -> Block {
    let (d, codes) = symmetric::to_trits(x);
    Block { qs: pack_pairs(&codes), d: to_half(d) }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let (d, codes) = (block.d.to_f32(), pairs(&block.qs));
    for i in 0..256 {
        out[i] = (i32::from(codes[i]) - 1) as f32 * d;
    }
}

/// Ternary, 2-bit codes.
pub struct TQ2_0;

impl Scaled<256> for TQ2_0 {
    type Block = Block;
    const RULE: Rule = Rule::Magnitude { divisor: 1.0, offset: 1 };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, _m: f16, codes: &[u8; 256]) -> Block {
        Block { qs: pack_pairs(codes), d }
    }

    fn reference(x: &[f32; 256]) -> Block {
        encode(x)
    }
}

impl BlockFormat for TQ2_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "TQ2_0",
        ggml_type: 35,
        block_len: 256,
        block_bytes: 66,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "ternary, 2-bit codes",
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

impl ScalarCodes for TQ2_0 {
    const SUB_LEN: usize = 256;
    const TABLE: &'static [i8] = &steps::<3>(-1);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = pack_pairs(group(codes, 0));
        own.write(block);
    }
}
