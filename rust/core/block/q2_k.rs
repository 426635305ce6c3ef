//! Q2_K: super-blocks of 16 sub-blocks of 16 weights, `x = d * s * q - dmin * m` with 2-bit `q`, 4-bit `s` and `m` for each
//! sub-block, and `f16` `d` and `dmin`. 2.625 bpw.
//!
//! Plain: 16 candidates by absolute error, weighted by `|x|`; the largest scale maps to 15. With an importance matrix: 37
//! candidates by square error and a search for `d` and `dmin` as well; `sigma2` is the mean square of the super-block.

use half::f16;

use super::bits::{pack_pairs, pair};
use super::layout::{
    block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks,
};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::affine::{self, Cost, Fit, Grid, WEIGHTED_GRID};
use crate::reference::rounding::{nearest_int, to_half};
use crate::reference::{importance, superblock};

block_layout! {
    struct Block, 84 bytes {
        /// Scale of each sub-block in the lower half, minimum in the upper.
        scales: [u8; 16],
        /// Codes: in each half of 128, weights `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`, lowest bits first.
        qs: [u8; 64],
        /// Scale of the scales.
        d: f16,
        /// Scale of the minima.
        dmin: f16,
    }
}

const MAX_CODE: i32 = 3;
const MAX_SCALE: i32 = 15;
const PLAIN_GRID: Grid = Grid { first: -0.5, step: 0.1, last: 15 };

/// Takes the codes anew with the scales as stored, and packs.
fn finish(x: &[f32; 256], fits: &[Fit<16>; 16], d: f16, dmin: f16, scales: [u8; 16]) -> Block {
    let mut codes = [0; 256];
    for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *codes = fits[j].codes;
        let scale = d.to_f32() * f32::from(scales[j] & 15);
        let min = dmin.to_f32() * f32::from(scales[j] >> 4);
        affine::recode(group(x, j), scale, min, MAX_CODE, codes);
    }
    Block { scales, qs: pack_pairs(&codes), d, dmin }
}

fn encode(x: &[f32; 256]) -> Block {
    let fits: [Fit<16>; 16] = std::array::from_fn(|j| {
        let x: &[f32; 16] = group(x, j);
        affine::search(x, &x.map(f32::abs), MAX_CODE, PLAIN_GRID, Cost::Absolute)
    });
    let round = |values: [f32; 16]| {
        let max = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
        if max > 0.0 {
            let inverse = MAX_SCALE as f32 / max;
            (to_half(max / MAX_SCALE as f32), values.map(|v| nearest_int(inverse * v) as u8))
        } else {
            (f16::ZERO, [0; 16])
        }
    };
    let (d, scales) = round(fits.map(|fit| fit.scale));
    let (dmin, mins) = round(fits.map(|fit| fit.min));
    finish(x, &fits, d, dmin, std::array::from_fn(|j| scales[j] | (mins[j] << 4)))
}

fn encode_weighted(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let sigma2 = importance::sum_of_squares(x) / 256.0;
    let mut totals = [0.0; 16];
    let fits: [Fit<16>; 16] = std::array::from_fn(|j| {
        let x = group(x, j);
        let weights = importance::weigh(x, group(imatrix, j), sigma2);
        totals[j] = importance::total(&weights);
        affine::search(x, &weights, MAX_CODE, WEIGHTED_GRID, Cost::Square)
    });
    let (d, scales) = superblock::search(&fits.map(|fit| fit.scale), &totals, MAX_SCALE);
    let (dmin, mins) = superblock::search(&fits.map(|fit| fit.min), &totals, MAX_SCALE);
    finish(x, &fits, to_half(d), to_half(dmin), std::array::from_fn(|j| scales[j] | (mins[j] << 4)))
}

fn decode(block: &Block, out: &mut [f32; 256]) {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block.scales[j] & 15);
        let min = dmin * f32::from(block.scales[j] >> 4);
        *out = std::array::from_fn(|i| scale * f32::from(pair(&block.qs, 16 * j + i)) - min);
    }
}

/// 2-bit codes, 4-bit scales and minima per 16.
pub struct Q2_K;

impl BlockFormat for Q2_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q2_K",
        ggml_type: 10,
        block_len: 256,
        block_bytes: 84,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "2-bit codes, 4-bit scales and minima per 16",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            None => encode_blocks(x, out, encode),
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, encode_weighted),
        }
    }

    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d).and(finite("scale dmin", block.dmin)))
    }
}
