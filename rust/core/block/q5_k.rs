//! Q5_K: super-blocks of 8 sub-blocks of 32 weights, `x = d * s * q - dmin * m` with 5-bit `q`, 6-bit `s` and `m` for each
//! sub-block, and `f16` `d` and `dmin`. 5.5 bpw.
//!
//! Encoded as Q4_K is, with 16 candidates in the plain search.

use half::f16;

use super::bits::{field, pack_nibbles, pack_planes};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::scale_min::{Scales, SubBlocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::scale_min::ScaleMin;
use crate::reference::affine::{Cost, Grid};

block_layout! {
    struct Block, 176 bytes {
        /// Scale of the scales.
        d: f16,
        /// Scale of the minima.
        dmin: f16,
        /// Scales and minima, 6 bits each.
        scales: [u8; 12],
        /// Fifth bits: of weight `j` at bit `j / 32` of byte `j % 32`.
        qh: [u8; 32],
        /// Lower four bits: in each 64, weight `j` in the lower half of byte `j`, weight `j + 32` in the upper.
        qs: [u8; 128],
    }
}

const MAX_CODE: i32 = 31;
/// Scales that came out negative wrap to at most this.
const SCALE_LIMIT: u8 = 63;
const PLAIN_GRID: Grid = Grid { first: -0.5, step: 0.1, last: 15 };

fn pack(scales: &Scales, codes: &[u8; 256]) -> Block {
    let mut qs = [0; 128];
    pack_nibbles::<32>(&codes.map(|code| code & 15), &mut qs);
    Block { d: scales.d, dmin: scales.dmin, scales: scales.packed, qh: pack_planes::<4>(codes), qs }
}

fn encode(x: &[f32; 256]) -> Block {
    let mut fit = SubBlocks::fit_plain(x, MAX_CODE, PLAIN_GRID);
    let scales = Scales::by_largest(&fit.scales, &fit.mins);
    scales.recode(x, MAX_CODE, &mut fit.codes);
    pack(&scales, &fit.codes)
}

fn encode_weighted(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let mut fit = SubBlocks::fit_weighted(x, imatrix, MAX_CODE);
    let scales = Scales::by_search(&fit, SCALE_LIMIT);
    scales.recode(x, MAX_CODE, &mut fit.codes);
    pack(&scales, &fit.codes)
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let scales = Scales { d: block.d, dmin: block.dmin, packed: block.scales };
    for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scales.decode(k);
        let lower = field(&block.qs[k / 2 * 32..], k % 2 * 4, 15);
        let fifth = field(&block.qh, k, 1);
        for i in 0..32 {
            out[i] = scale * f32::from(lower[i] | (fifth[i] << 4)) - min;
        }
    }
}

/// 5-bit codes, 6-bit scales and minima per 32.
pub struct Q5_K;

impl ScaleMin<8> for Q5_K {
    type Block = Block;
    type Scales = Scales;
    const MAX_CODE: i32 = MAX_CODE;
    const MAX_SCALE: i32 = 63;
    const PLAIN_GRID: Grid = PLAIN_GRID;
    const PLAIN_COST: Cost = Cost::Square;
    const PLAIN_RMS: bool = true;
    const SIGMA2: f32 = 2.0;

    fn by_largest(scales: &[f32; 8], mins: &[f32; 8]) -> Scales {
        Scales::by_largest(scales, mins)
    }

    fn by_codes(d: f32, dmin: f32, scales: &[u8; 8], mins: &[u8; 8]) -> Scales {
        Scales::by_codes(d, dmin, scales, mins, SCALE_LIMIT)
    }

    fn decode(scales: &Scales, j: usize) -> (f32, f32) {
        scales.decode(j)
    }

    fn pack(scales: &Scales, codes: &[u8; 256]) -> Block {
        pack(scales, codes)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        imatrix.map_or_else(|| encode(x), |imatrix| encode_weighted(x, imatrix))
    }
}

impl BlockFormat for Q5_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q5_K",
        ggml_type: 13,
        block_len: 256,
        block_bytes: 176,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "5-bit codes, 6-bit scales and minima per 32",
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
        validate_blocks(data, |block: &Block| finite("scale d", block.d).and(finite("scale dmin", block.dmin)))
    }
}

impl ScalarCodes for Q5_K {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &steps::<32>(0);
    const OFFSET: bool = true;

    fn grid(block: &[u8], scale: &mut [f32], offset: &mut [f32]) {
        let own = Block::read(block);
        let scales = Scales { d: own.d, dmin: own.dmin, packed: own.scales };
        for (j, (scale, offset)) in scale.iter_mut().zip(offset).enumerate() {
            let (s, min) = scales.decode(j);
            (*scale, *offset) = (s, -min);
        }
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let own = Block::read(block);
        let scales = Scales { d: own.d, dmin: own.dmin, packed: own.scales };
        pack(&scales, group(codes, 0)).write(block);
    }
}
