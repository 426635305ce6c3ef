//! `IQ4_NL`: 4-bit codes into a non-linear table of 16 values, one scale for each 32; 4.5 bits per weight.
//!
//! `x = d * VALUES[code]`; the table is denser around zero, as weights are.

use super::bits::{pack_nibbles, nibbles};
use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::scalar::ScalarCodes;
use super::layout::{encode_blocks, encode_weighted_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::nonlinear::NonLinear;
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::nonlinear::{VALUES, best_scale, codes};
use crate::reference::rounding::to_half;
use half::f16;

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    unpack(&block.qs, block.d.to_f32(), out);
}

/// 4-bit non-linear codes, one f16 scale per 32.
pub struct IQ4_NL;

block_layout! {
    /// 32 weights.
    struct Block, 18 bytes {
        d: f16,
        /// Codes, weight `i` in the low half of byte `i`, weight `16 + i` in the high half.
        qs: [u8; 16],
    }
}

/// Packs the codes of 32 weights.
pub(super) fn pack(codes: &[u8; 32]) -> [u8; 16] {
    let mut qs = [0; 16];
    pack_nibbles::<16>(codes, &mut qs);
    qs
}

/// Values of 32 packed codes under a scale.
#[inline(always)]
pub(super) fn unpack(qs: &[u8; 16], scale: f32, out: &mut [f32; 32]) {
    let codes = nibbles::<16, 32>(qs);
    for i in 0..32 {
        out[i] = scale * f32::from(VALUES[usize::from(codes[i])]);
    }
}

fn encode(x: &[f32; 32], weights: &[f32; 32]) -> Block {
    let d = best_scale(x, weights);
    Block { d: to_half(d), qs: pack(&codes(x, d)) }
}

impl NonLinear<1> for IQ4_NL {
    type Block = Block;

    fn round_scales(scales: &[f32; 1]) -> (Block, [f32; 1]) {
        (Block { d: to_half(scales[0]), qs: [0; 16] }, *scales)
    }

    fn with_codes(block: Block, [qs]: &[[u8; 16]; 1]) -> Block {
        Block { qs: *qs, ..block }
    }
}

impl BlockFormat for IQ4_NL {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ4_NL",
        ggml_type: 20,
        block_len: 32,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit non-linear codes, one f16 scale per 32",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, |x, imatrix| {
                let sigma2 = sum_of_squares(x) * (2.0 / 32.0);
                encode(x, &weigh(x, imatrix, sigma2))
            }),
            None => encode_blocks(x, out, |x| encode(x, &x.map(|v| v * v))),
        }
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}

impl ScalarCodes for IQ4_NL {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &VALUES;

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = pack(group(codes, 0));
        own.write(block);
    }
}
