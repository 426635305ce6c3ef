//! `IQ3_S`: 3-bit magnitudes from a codebook of 512 4-vectors, a sign for each weight; 3.4375 bits per weight.
//!
//! `x = d * (2 * s + 1) * sign * m`, where `m` (an odd number from 1 to 15) comes from the codebook and `s` is a 4-bit code
//! for each sub-block of 32.

use super::bits::nibble;
use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::layout::{encode_blocks, encode_weighted_blocks};
use super::signs::{levels4, signed};
use super::vector::{VectorCodes, coordinates, replaced};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::codebook::{Codebook, Found};
use crate::kernel::grid::{self as books, Neighbours};
use crate::reference::codebook::{Revisit, Search, Signs, SubBlock, max, scale_codes};
use crate::reference::grid::{self, codewords};
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::rounding::to_half;
use half::f16;

/// 3.44-bit codebook of 4-vectors.
pub struct IQ3_S;

/// What the stored scale is raised by after the search, found by experiment: part of the format's encoder.
const D_FACTOR: f32 = 1.033;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 110 bytes {
        d: f16,
        /// Low 8 bits of the codebook indices, 8 to a sub-block.
        qs: [[u8; 8]; 8],
        /// Ninth bits of the indices, a byte for each sub-block, the first vector lowest.
        qh: [u8; 8],
        /// Signs, 4 bytes to a sub-block.
        signs: [[u8; 4]; 8],
        /// Scale codes, two sub-blocks to a byte, the first one below.
        scales: [u8; 4],
    }
}

/// What a level is worth.
#[inline(always)]
fn magnitude(level: i32) -> f32 {
    (2 * level + 1) as f32
}

fn candidates() -> Search<'static, 4> {
    Search { grid: &grid::IQ3_S, reach: 9, step: 0.2, revisit: Revisit::AllIfAnyOffGrid }
}

/// Scale, codebook indices and signs of a sub-block; `None` if all its weights are zero.
fn search(x: &[f32; 32], weights: [f32; 32]) -> Option<Found> {
    let mut block = SubBlock::new(x, weights, Signs::Any);
    let largest = block.max();
    if largest == 0.0 {
        return None;
    }
    let fit = candidates().run(&mut block, largest, largest / 15.0)?;
    Some(Found::new(&fit, &block))
}

fn encode(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
    let sigma2 = 2.0 * sum_of_squares(x) / 256.0;
    let found: [Option<Found>; 8] = std::array::from_fn(|ib| {
        let x: &[f32; 32] = group(x, ib);
        let weights = match imatrix {
            Some(imatrix) => weigh(x, group(imatrix, ib), sigma2),
            None => x.map(|v| v * v),
        };
        search(x, weights)
    });
    pack(&found)
}

/// Rounds the scales and packs everything.
fn pack(found: &[Option<Found>]) -> Block {
    let mut block = Block { d: f16::ZERO, qs: [[0; 8]; 8], qh: [0; 8], signs: [[0; 4]; 8], scales: [0; 4] };
    let mut scales = [0.0; 8];
    let mut max_scale = 0.0;
    // Low index bits and signs are stored one after the other for the sub-blocks that are not all zero, so that a zero
    // sub-block shifts those behind it. The reference encoder does this, though decoders know nothing of it.
    let mut stored = 0;
    for (ib, found) in found.iter().enumerate() {
        let Some(Found { scale, points, signs }) = found else { continue };
        for k in 0..8 {
            block.qs[stored][k] = points[k] as u8;
            block.qh[ib] |= ((points[k] >> 8) << k) as u8;
        }
        block.signs[stored] = *signs;
        stored += 1;
        scales[ib] = *scale;
        max_scale = max(max_scale, *scale);
    }
    if max_scale == 0.0 {
        // The codes found under a scale of zero stay.
        return block;
    }
    let d = max_scale / 31.0;
    block.d = to_half(d * D_FACTOR);
    let codes = scale_codes(&scales, d, 15);
    block.scales = std::array::from_fn(|i| codes[2 * i] | codes[2 * i + 1] << 4);
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = IQ3_S::scale(block, d, ib);
        for k in 0..8 {
            let levels = levels4(codewords::IQ3_S[usize::from(IQ3_S::point(block, 8 * ib + k))]);
            for j in 0..4 {
                out[4 * k + j] = signed(scale * magnitude(levels[j]), block.signs[ib][k / 2], k % 2 * 4 + j);
            }
        }
    }
}

impl Codebook<4, 32> for IQ3_S {
    type Block = Block;
    const SIGNS: Signs = Signs::Any;
    const EPSILON: f32 = f32::from_bits(1);
    const SIGMA: f32 = 2.0;
    const PLAIN_SHARE: f32 = 0.0;
    const GUESSED: bool = false;

    fn search() -> Search<'static, 4> {
        candidates()
    }

    fn book() -> &'static Neighbours<4> {
        &books::IQ3_S
    }

    fn pack(found: &[Option<Found>]) -> Block {
        pack(found)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix)
    }
}

impl VectorCodes for IQ3_S {
    type Block = Block;
    const SUB_LEN: usize = 32;
    const DIMS: usize = 4;
    const SIGNS: Option<Signs> = Some(Signs::Any);

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ3_S, levels4, magnitude)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        block.d.to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * f32::from(1 + 2 * nibble(&block.scales, j))
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        u16::from(block.qs[k / 8][k % 8]) | u16::from(block.qh[k / 8] >> (k % 8) & 1) << 8
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k / 8][k % 8] = point as u8;
        block.qh[k / 8] = replaced(block.qh[k / 8].into(), k % 8, 1, (point >> 8).into()) as u8;
    }

    #[inline(always)]
    fn signs(block: &Block, g: usize) -> u8 {
        block.signs[g / 4][g % 4]
    }

    fn set_signs(block: &mut Block, g: usize, signs: u8) {
        block.signs[g / 4][g % 4] = signs;
    }
}

impl BlockFormat for IQ3_S {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ3_S",
        ggml_type: 21,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "3.44-bit codebook of 4-vectors",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, |x, imatrix| encode(x, Some(imatrix))),
            None => encode_blocks(x, out, |x| encode(x, None)),
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
