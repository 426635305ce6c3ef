//! Q5_0: blocks of 32 weights, `x = d * (q - 16)` with 5-bit `q` and an `f16` scale. 5.5 bpw.
//!
//! Plain: `d` maps the weight largest in magnitude to code 0, nothing is searched. With an importance matrix: 19 scales
//! around that one, by weighted square error; `sigma2` is the mean square of the whole row.

use half::f16;

use super::bits::{pack_fifth_bits, pack_nibbles, nibbles};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::legacy::{Legacy, Levels, fifth_bits};
use crate::lanes::F32Lanes;
use crate::reference::rounding::to_half;
use crate::reference::{importance, symmetric};

block_layout! {
    struct Block, 22 bytes {
        /// Scale.
        d: f16,
        /// Fifth bits, weight `j` at bit `j`.
        qh: u32,
        /// Lower four bits of the codes: weight `j` in the lower half of byte `j`, weight `j + 16` in the upper.
        qs: [u8; 16],
    }
}

/// Codes are stored with this added.
const HALF: i32 = 16;

#[inline(always)]
fn pack(d: f16, qh: u32, codes: &[u8; 32]) -> Block {
    let (mut lower, mut qs) = (*codes, [0; 16]);
    for code in &mut lower {
        *code &= 15;
    }
    pack_nibbles::<16>(&lower, &mut qs);
    Block { d, qh, qs }
}

fn encode(x: &[f32; 32]) -> Block {
    let (d, codes) = symmetric::by_extreme(x, HALF);
    pack(to_half(d), pack_fifth_bits(&codes), &codes)
}

fn encode_weighted(x: &[f32; 32], imatrix: &[f32; 32], sigma2: f32) -> Block {
    let weights = importance::weigh(x, imatrix, sigma2);
    let (d, codes) = symmetric::search(x, Some(&weights), HALF);
    let codes = codes.map(|code| code as u8);
    pack(to_half(d), pack_fifth_bits(&codes), &codes)
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    let (d, codes) = (block.d.to_f32(), nibbles::<16, 32>(&block.qs));
    for i in 0..32 {
        out[i] = ((i32::from(codes[i]) | (((block.qh >> i) & 1) as i32 * 16)) - HALF) as f32 * d;
    }
}

/// 5-bit codes, one f16 scale per 32.
pub struct Q5_0;

impl Legacy for Q5_0 {
    type Block = Block;
    const LEVELS: Levels = Levels::Symmetric { half: HALF };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, _m: f16, codes: &[u8; 32]) -> Block {
        pack(d, fifth_bits::<F>(codes), codes)
    }

    fn plain_reference(x: &[f32; 32]) -> Block {
        encode(x)
    }

    fn weighted_reference(x: &[f32; 32], imatrix: &[f32; 32], sigma2: f32) -> Block {
        encode_weighted(x, imatrix, sigma2)
    }
}

impl BlockFormat for Q5_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q5_0",
        ggml_type: 6,
        block_len: 32,
        block_bytes: 22,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "5-bit codes, one f16 scale per 32",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        let Some(imatrix) = imatrix else {
            return encode_blocks(x, out, encode);
        };
        let sigma2 = importance::sum_of_squares(x) / x.len() as f32;
        encode_weighted_blocks(x, imatrix, out, |x: &[f32; 32], imatrix| encode_weighted(x, imatrix, sigma2));
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}

impl ScalarCodes for Q5_0 {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &steps::<32>(-HALF);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        let codes: &[u8; 32] = group(codes, 0);
        pack_nibbles::<16>(&codes.map(|code| code & 15), &mut own.qs);
        own.qh = pack_fifth_bits(codes);
        own.write(block);
    }
}
