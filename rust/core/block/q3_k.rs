//! Q3_K: super-blocks of 16 sub-blocks of 16 weights, `x = d * s * q` with 3-bit signed `q`, a 6-bit signed `s` for each
//! sub-block, and an `f16` `d`. 3.4375 bpw.
//!
//! Plain: each sub-block's codes are improved one at a time; the scale largest in magnitude maps to -32. With an
//! importance matrix: 19 candidate scales a sub-block, and 19 again for `d`; `sigma2` is twice the mean square of the
//! super-block.

use half::f16;

use super::bits::{pack_pairs, pack_planes, pairs, scaled, splat, word};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::signed::{Signed, Weighting};
use crate::reference::rounding::{nearest_int, to_half};
use crate::reference::{importance, symmetric};

block_layout! {
    struct Block, 110 bytes {
        /// Upper bits: of weight `j` at bit `j / 32` of byte `j % 32`.
        hmask: [u8; 32],
        /// Lower two bits: in each half of 128, weights `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`.
        qs: [u8; 64],
        /// Scales plus 32, see [`pack_scales`].
        scales: [u8; 12],
        /// Scale of the scales.
        d: f16,
    }
}

/// Codes are stored with this added.
const HALF: i32 = 4;
/// Scales are stored with this added.
const HALF_SCALE: i32 = 32;

/// Packs sixteen 6-bit scales: the lower four bits of scales `j` and `j + 8` in byte `j`, the upper two of scales `j`,
/// `j + 4`, `j + 8` and `j + 12` in byte `8 + j`.
#[inline(always)]
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (j, &scale) in scales.iter().enumerate() {
        let scale = scale as u8;
        packed[j % 8] |= (scale & 15) << (j / 8 * 4);
        packed[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
    packed
}

#[inline(always)]
pub(crate) fn unpack_scale(packed: &[u8; 12], j: usize) -> i32 {
    let lower = (packed[j % 8] >> (j / 8 * 4)) & 15;
    let upper = (packed[8 + j % 4] >> (j / 4 * 2)) & 3;
    i32::from(lower | (upper << 4)) - HALF_SCALE
}

/// All scales, eight bytes of a register at a time: one by one they take longer than the weights.
#[inline(always)]
fn unpack_scales(d: f16, packed: &[u8; 12]) -> [f32; 16] {
    let [lower, upper] = [word(packed, 0), u64::from(u32::from_le_bytes([packed[8], packed[9], packed[10], packed[11]]))];
    let pairs = |shift: u32| (upper >> shift) & 0x0303_0303;
    let first = (lower & splat(15)) | (pairs(0) | pairs(2) << 32) << 4;
    let second = ((lower >> 4) & splat(15)) | (pairs(4) | pairs(6) << 32) << 4;
    let (d, mut codes, mut scales) = (d.to_f32(), [0; 16], [0.0; 16]);
    codes[..8].copy_from_slice(&first.to_le_bytes());
    codes[8..].copy_from_slice(&second.to_le_bytes());
    for j in 0..16 {
        scales[j] = d * (i32::from(codes[j]) - HALF_SCALE) as f32;
    }
    scales
}

/// Takes the codes anew with the scales as stored, and packs.
fn finish(x: &[f32; 256], mut codes: [[i8; 16]; 16], d: f16, scales: [u8; 12]) -> Block {
    let decoded = unpack_scales(d, &scales);
    for (j, codes) in codes.iter_mut().enumerate() {
        symmetric::recode(group(x, j), decoded[j], HALF, codes);
    }
    pack(d, scales, &std::array::from_fn(|j| codes[j / 16][j % 16] as u8))
}

#[inline(always)]
fn pack(d: f16, scales: [u8; 12], codes: &[u8; 256]) -> Block {
    let mut lower = *codes;
    for code in &mut lower {
        *code &= 3;
    }
    Block { hmask: pack_planes::<2>(codes), qs: pack_pairs(&lower), scales, d }
}

/// Maps the scale largest in magnitude to -32. All scales zero are packed as they are, without the offset.
#[inline(always)]
fn round_scales(scales: &[f32; 16]) -> (f16, [u8; 12]) {
    let (mut max, mut amax) = (0.0, 0.0);
    for &scale in scales {
        if scale.abs() > amax {
            amax = scale.abs();
            max = scale;
        }
    }
    if max == 0.0 {
        return (f16::ZERO, [0; 12]);
    }
    let inverse_scale = -HALF_SCALE as f32 / max;
    let mut codes = [0; 16];
    for j in 0..16 {
        // Through 8 bits first, then to the range of 6.
        let code = i32::from(nearest_int(inverse_scale * scales[j]) as i8);
        codes[j] = (code.clamp(-HALF_SCALE, HALF_SCALE - 1) + HALF_SCALE) as i8;
    }
    (to_half(1.0 / inverse_scale), pack_scales(&codes))
}

fn encode(x: &[f32; 256]) -> Block {
    let mut codes = [[0; 16]; 16];
    let mut scales = [0.0; 16];
    for j in 0..16 {
        (scales[j], codes[j]) = symmetric::descend(group(x, j), HALF);
    }
    let (d, scales) = round_scales(&scales);
    finish(x, codes, d, scales)
}

fn encode_weighted(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let sigma2 = 2.0 * importance::sum_of_squares(x) / 256.0;
    let mut codes = [[0; 16]; 16];
    let (mut scales, mut totals) = ([0.0; 16], [0.0; 16]);
    for j in 0..16 {
        let x = group(x, j);
        let weights = importance::weigh(x, group(imatrix, j), sigma2);
        totals[j] = importance::total(&weights);
        (scales[j], codes[j]) = symmetric::search(x, Some(&weights), HALF);
    }
    let (d, scales) = symmetric::search(&scales, Some(&totals), HALF_SCALE);
    finish(x, codes, to_half(d), pack_scales(&scales))
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let scales = unpack_scales(block.d, &block.scales);
    let mut codes = pairs(&block.qs);
    for k in 0..8 {
        for i in 0..32 {
            codes[32 * k + i] |= ((block.hmask[i] >> k) & 1) << 2;
        }
    }
    scaled(&codes, &scales, HALF, out);
}

/// 3-bit codes, 6-bit scales per 16.
pub struct Q3_K;

impl Signed for Q3_K {
    type Block = Block;
    type Scales = (f16, [u8; 12]);
    const EMPTY: Block = Block { hmask: [0; 32], qs: [0; 64], scales: [0; 12], d: f16::ZERO };
    const HALF: i32 = HALF;
    const PLAIN_DESCENDS: bool = true;
    const WEIGHTING: Weighting = Weighting::Search;
    const HALF_SCALE: i32 = HALF_SCALE;

    #[inline(always)]
    fn by_largest(scales: &[f32; 16]) -> Option<Self::Scales> {
        Some(round_scales(scales))
    }

    #[inline(always)]
    fn by_codes(d: f32, codes: &[u8; 16]) -> Self::Scales {
        (to_half(d), pack_scales(&codes.map(|code| code as i8)))
    }

    #[inline(always)]
    fn decode(scales: &Self::Scales) -> [f32; 16] {
        unpack_scales(scales.0, &scales.1)
    }

    #[inline(always)]
    fn pack(scales: &Self::Scales, codes: &[u8; 256]) -> Block {
        pack(scales.0, scales.1, codes)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        imatrix.map_or_else(|| encode(x), |imatrix| encode_weighted(x, imatrix))
    }
}

impl BlockFormat for Q3_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q3_K",
        ggml_type: 11,
        block_len: 256,
        block_bytes: 110,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "3-bit codes, 6-bit scales per 16",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            None => encode_blocks(x, out, encode),
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, encode_weighted),
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

impl ScalarCodes for Q3_K {
    const SUB_LEN: usize = 16;
    const TABLE: &'static [i8] = &steps::<8>(-HALF);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        let own = Block::read(block);
        scale.copy_from_slice(&unpack_scales(own.d, &own.scales));
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let own = Block::read(block);
        pack(own.d, own.scales, group(codes, 0)).write(block);
    }
}
