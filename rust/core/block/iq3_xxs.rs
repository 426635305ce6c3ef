//! `IQ3_XXS`: 3-bit magnitudes from a codebook of 256 4-vectors, signs in 7 bits for 8 weights; 3.0625 bits per weight.
//!
//! `x = d * (0.5 + s) / 2 * sign * m`, where `m` (4 to 62) comes from the codebook and `s` is a 4-bit code for each
//! sub-block of 32. The eighth sign of 8 weights makes the number of minus signs even.

use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::layout::{encode_blocks, encode_weighted_blocks};
use super::signs::{iq3_xxs_magnitude, levels4, signed, with_parity};
use super::vector::{VectorCodes, coordinates, replaced};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::codebook::{Codebook, Found};
use crate::kernel::grid::{self as books, Neighbours};
use crate::reference::codebook::{Revisit, Search, Signs, SubBlock, max, scale_codes};
use crate::reference::grid::codewords;
use crate::reference::grid;
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::rounding::to_half;
use half::f16;

/// 3.06-bit codebook of 4-vectors.
pub struct IQ3_XXS;

/// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
const EPSILON: f32 = 1e-8;

/// What the stored scale is raised by after the search, found by experiment: part of the format's encoder.
const D_FACTOR: f32 = 1.0125;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 98 bytes {
        d: f16,
        /// Codebook indices, 8 to a sub-block.
        qs: [[u8; 8]; 8],
        /// For each sub-block: four sign patterns of 7 bits, the scale code above them.
        signs_and_scales: [u32; 8],
    }
}

fn candidates() -> Search<'static, 4> {
    Search { grid: &grid::IQ3_XXS, reach: 15, step: 0.2, revisit: Revisit::OffGrid }
}

/// Scale, codebook indices and signs of a sub-block; `None` if it is stored as zeros.
fn search(x: &[f32; 32], weights: [f32; 32]) -> Option<Found> {
    let mut block = SubBlock::new(x, weights, Signs::Even);
    let largest = block.max();
    if largest < EPSILON {
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
    let mut block = Block { d: f16::ZERO, qs: [[0; 8]; 8], signs_and_scales: [0; 8] };
    let mut scales = [0.0; 8];
    let mut max_scale = 0.0;
    for (ib, found) in found.iter().enumerate() {
        let Some(Found { scale, points, signs }) = found else { continue };
        block.qs[ib] = points.map(|point| point as u8);
        block.signs_and_scales[ib] = (0..4).fold(0, |bits, k| bits | u32::from(signs[k]) << (7 * k));
        scales[ib] = *scale;
        max_scale = max(max_scale, *scale);
    }
    if max_scale == 0.0 {
        return Block { d: f16::ZERO, qs: [[0; 8]; 8], signs_and_scales: [0; 8] };
    }
    let d = max_scale / 31.0;
    block.d = to_half(d * D_FACTOR);
    for (word, code) in block.signs_and_scales.iter_mut().zip(scale_codes(&scales, d, 15)) {
        *word |= u32::from(code) << 28;
    }
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = block.signs_and_scales[ib];
        let scale = IQ3_XXS::scale(block, d, ib);
        for k in 0..8 {
            let point = codewords::IQ3_XXS[usize::from(block.qs[ib][k])];
            let (levels, signs) = (levels4(point), with_parity(word >> (7 * (k / 2))));
            for j in 0..4 {
                out[4 * k + j] = signed(scale * iq3_xxs_magnitude(levels[j]), signs, k % 2 * 4 + j);
            }
        }
    }
}

impl Codebook<4, 32> for IQ3_XXS {
    type Block = Block;
    const SIGNS: Signs = Signs::Even;
    const EPSILON: f32 = EPSILON;
    const SIGMA: f32 = 2.0;
    const PLAIN_SHARE: f32 = 0.0;
    const GUESSED: bool = false;

    fn search() -> Search<'static, 4> {
        candidates()
    }

    fn book() -> &'static Neighbours<4> {
        &books::IQ3_XXS
    }

    fn pack(found: &[Option<Found>]) -> Block {
        pack(found)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix)
    }
}

impl VectorCodes for IQ3_XXS {
    type Block = Block;
    const SUB_LEN: usize = 32;
    const DIMS: usize = 4;
    const SIGNS: Option<Signs> = Some(Signs::Even);

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ3_XXS, levels4, iq3_xxs_magnitude)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        block.d.to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * (0.5 + (block.signs_and_scales[j] >> 28) as f32) * 0.5
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        block.qs[k / 8][k % 8].into()
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k / 8][k % 8] = point as u8;
    }

    #[inline(always)]
    fn signs(block: &Block, g: usize) -> u8 {
        with_parity(block.signs_and_scales[g / 4] >> (7 * (g % 4)))
    }

    fn set_signs(block: &mut Block, g: usize, signs: u8) {
        let word = &mut block.signs_and_scales[g / 4];
        *word = replaced(*word, 7 * (g % 4), 7, signs.into());
    }
}

impl BlockFormat for IQ3_XXS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ3_XXS",
        ggml_type: 18,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "3.06-bit codebook of 4-vectors",
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
