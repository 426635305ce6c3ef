//! Q4_1: blocks of 32 weights, `x = d * q + m` with 4-bit `q`, an `f16` scale and an `f16` minimum. 5 bpw.
//!
//! Plain: the smallest and the largest weight map to the end codes, nothing is searched. With an importance matrix: a
//! search by weighted square error, in which the minimum is never above zero; `sigma2` is the mean square of the whole
//! row.

use half::f16;

use super::bits::{pack_nibbles, nibbles};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::legacy::{Legacy, Levels};
use crate::reference::affine::{self, Cost, Fit, WEIGHTED_GRID};
use crate::reference::importance;
use crate::lanes::F32Lanes;
use crate::reference::rounding::to_half;

block_layout! {
    struct Block, 20 bytes {
        /// Scale.
        d: f16,
        /// Value of code 0.
        m: f16,
        /// Codes: weight `j` in the lower half of byte `j`, weight `j + 16` in the upper.
        qs: [u8; 16],
    }
}

const MAX_CODE: i32 = 15;

#[inline(always)]
fn pack(d: f16, m: f16, codes: &[u8; 32]) -> Block {
    let mut qs = [0; 16];
    pack_nibbles::<16>(codes, &mut qs);
    Block { d, m, qs }
}

fn encode(fit: &Fit<32>) -> Block {
    pack(to_half(fit.scale), to_half(-fit.min), &fit.codes)
}

fn encode_weighted(x: &[f32; 32], imatrix: &[f32; 32], sigma2: f32) -> Block {
    let weights = importance::weigh(x, imatrix, sigma2);
    encode(&affine::search(x, &weights, MAX_CODE, WEIGHTED_GRID, Cost::Square))
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    let (d, m, codes) = (block.d.to_f32(), block.m.to_f32(), nibbles::<16, 32>(&block.qs));
    for i in 0..32 {
        out[i] = f32::from(codes[i]) * d + m;
    }
}

/// 4-bit codes, f16 scale and minimum per 32.
pub struct Q4_1;

impl Legacy for Q4_1 {
    type Block = Block;
    const LEVELS: Levels = Levels::Affine { max_code: MAX_CODE };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, m: f16, codes: &[u8; 32]) -> Block {
        pack(d, m, codes)
    }

    fn plain_reference(x: &[f32; 32]) -> Block {
        encode(&affine::by_range(x, MAX_CODE))
    }

    fn weighted_reference(x: &[f32; 32], imatrix: &[f32; 32], sigma2: f32) -> Block {
        encode_weighted(x, imatrix, sigma2)
    }
}

impl BlockFormat for Q4_1 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q4_1",
        ggml_type: 3,
        block_len: 32,
        block_bytes: 20,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit codes, f16 scale and minimum per 32",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        let Some(imatrix) = imatrix else {
            return encode_blocks(x, out, |x: &[f32; 32]| encode(&affine::by_range(x, MAX_CODE)));
        };
        let sigma2 = importance::sum_of_squares(x) / x.len() as f32;
        encode_weighted_blocks(x, imatrix, out, |x: &[f32; 32], imatrix| encode_weighted(x, imatrix, sigma2));
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d).and(finite("minimum m", block.m)))
    }
}

impl ScalarCodes for Q4_1 {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &steps::<16>(0);
    const OFFSET: bool = true;

    fn grid(block: &[u8], scale: &mut [f32], offset: &mut [f32]) {
        let own = Block::read(block);
        (scale[0], offset[0]) = (own.d.to_f32(), own.m.to_f32());
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        pack_nibbles::<16>(codes, &mut own.qs);
        own.write(block);
    }
}
