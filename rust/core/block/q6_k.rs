//! Q6_K: super-blocks of 16 sub-blocks of 16 weights, `x = d * s * q` with 6-bit signed `q`, an 8-bit signed `s` for each
//! sub-block, and an `f16` `d`. 6.5625 bpw.
//!
//! Each sub-block's scale is the best of 19 by weighted square error; the scale largest in magnitude maps to -128, then all
//! codes are taken anew. Weights are `x^2`, or the importance matrix as it is.

use half::f16;

use super::bits::{pack_nibbles, pack_pairs, pairs, scaled};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::signed::{Signed, Weighting};
use crate::reference::rounding::{nearest_int, to_half};
use crate::reference::{GROUP_EPSILON, symmetric};

block_layout! {
    struct Block, 210 bytes {
        /// Lower four bits: in each half of 128, weights `j` and `j + 64` share byte `j`.
        ql: [u8; 128],
        /// Upper two bits: in each half of 128, weights `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`.
        qh: [u8; 64],
        /// Scales.
        scales: [i8; 16],
        /// Scale of the scales.
        d: f16,
    }
}

/// Codes are stored with this added.
const HALF: i32 = 32;

#[inline(always)]
fn pack(d: f16, scales: [i8; 16], codes: &[u8; 256]) -> Block {
    let (mut lower, mut upper, mut ql) = ([0; 256], [0; 256], [0; 128]);
    for i in 0..256 {
        lower[i] = codes[i] & 15;
        upper[i] = codes[i] >> 4;
    }
    pack_nibbles::<64>(&lower, &mut ql);
    Block { ql, qh: pack_pairs(&upper), scales, d }
}

/// Maps the scale largest in magnitude to -128. `None` if the block counts as zero.
#[inline(always)]
fn round_scales(scales: &[f32; 16]) -> Option<(f16, [i8; 16])> {
    let (mut max, mut amax) = (0.0, 0.0);
    for &scale in scales {
        if scale.abs() > amax {
            amax = scale.abs();
            max = scale;
        }
    }
    if amax < GROUP_EPSILON {
        return None;
    }
    let inverse_scale = -128.0 / max;
    let mut codes = [0; 16];
    for j in 0..16 {
        codes[j] = nearest_int(inverse_scale * scales[j]).min(127) as i8;
    }
    Some((to_half(1.0 / inverse_scale), codes))
}

fn encode(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
    let mut codes = [[0; 16]; 16];
    let mut scales = [0.0; 16];
    for j in 0..16 {
        (scales[j], codes[j]) = symmetric::search(group(x, j), imatrix.map(|imatrix| group(imatrix, j)), HALF);
    }
    let Some((d, scales)) = round_scales(&scales) else { return pack(f16::ZERO, [0; 16], &[0; 256]) };
    for (j, codes) in codes.iter_mut().enumerate() {
        symmetric::recode(group(x, j), d.to_f32() * f32::from(scales[j]), HALF, codes);
    }
    pack(d, scales, &std::array::from_fn(|j| codes[j / 16][j % 16] as u8))
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let (d, mut scales) = (block.d.to_f32(), [0.0; 16]);
    for j in 0..16 {
        scales[j] = d * f32::from(block.scales[j]);
    }
    let mut codes = pairs(&block.qh);
    for k in 0..8 {
        let lower = &block.ql.as_chunks::<32>().0[k / 4 * 2 + k % 2];
        for i in 0..32 {
            codes[32 * k + i] = (codes[32 * k + i] << 4) | ((lower[i] >> (k % 4 / 2 * 4)) & 15);
        }
    }
    scaled(&codes, &scales, HALF, out);
}

/// 6-bit codes, 8-bit scales per 16.
pub struct Q6_K;

impl Signed for Q6_K {
    type Block = Block;
    type Scales = (f16, [i8; 16]);
    const EMPTY: Block = Block { ql: [0; 128], qh: [0; 64], scales: [0; 16], d: f16::ZERO };
    const HALF: i32 = HALF;
    const PLAIN_DESCENDS: bool = false;
    const WEIGHTING: Weighting = Weighting::Direct;
    const HALF_SCALE: i32 = 128;

    #[inline(always)]
    fn by_largest(scales: &[f32; 16]) -> Option<Self::Scales> {
        round_scales(scales)
    }

    fn by_codes(d: f32, codes: &[u8; 16]) -> Self::Scales {
        (to_half(d), codes.map(|code| code.wrapping_sub(128) as i8))
    }

    #[inline(always)]
    fn decode(scales: &Self::Scales) -> [f32; 16] {
        let (d, mut decoded) = (scales.0.to_f32(), [0.0; 16]);
        for j in 0..16 {
            decoded[j] = d * f32::from(scales.1[j]);
        }
        decoded
    }

    #[inline(always)]
    fn pack(scales: &Self::Scales, codes: &[u8; 256]) -> Block {
        pack(scales.0, scales.1, codes)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix)
    }
}

impl BlockFormat for Q6_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q6_K",
        ggml_type: 14,
        block_len: 256,
        block_bytes: 210,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "6-bit codes, 8-bit scales per 16",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            None => encode_blocks(x, out, |x| encode(x, None)),
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, |x, imatrix| encode(x, Some(imatrix))),
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

impl ScalarCodes for Q6_K {
    const SUB_LEN: usize = 16;
    const TABLE: &'static [i8] = &steps::<64>(-HALF);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        let own = Block::read(block);
        for (j, scale) in scale.iter_mut().enumerate() {
            *scale = own.d.to_f32() * f32::from(own.scales[j]);
        }
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let own = Block::read(block);
        pack(own.d, own.scales, group(codes, 0)).write(block);
    }
}
