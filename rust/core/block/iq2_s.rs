//! `IQ2_S`: 2-bit magnitudes from a codebook of 1024 8-vectors, a sign for each weight; 2.5625 bits per weight.
//!
//! `x = d * (0.5 + s) / 4 * sign * m`, where `m` (8, 25 or 43) comes from the codebook and `s` is a 4-bit code for each
//! sub-block of 16.

use super::bits::nibble;
use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::layout::{encode_blocks, encode_weighted_blocks};
use super::signs::{iq2_magnitude, levels8, signed};
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

/// 2.56-bit codebook of 8-vectors.
pub struct IQ2_S;

/// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
const EPSILON: f32 = 1e-8;

/// What the stored scale is raised by after the search, found by experiment: part of the format's encoder.
const D_FACTOR: f32 = 0.9875;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 82 bytes {
        d: f16,
        /// Low 8 bits of the codebook index of each vector.
        qs: [u8; 32],
        /// Signs of each vector.
        signs: [u8; 32],
        /// High 2 bits of the indices, four vectors to a byte, the first one lowest.
        qh: [u8; 8],
        /// Scale codes, two sub-blocks to a byte, the first one below.
        scales: [u8; 8],
    }
}

fn candidates() -> Search<'static, 8> {
    Search { grid: &grid::IQ2_S, reach: 9, step: 0.1, revisit: Revisit::OffGrid }
}

/// Scale, codebook indices and signs of a sub-block; `None` if it is stored as zeros.
fn search(x: &[f32; 16], weights: [f32; 16]) -> Option<Found> {
    let mut block = SubBlock::new(x, weights, Signs::Any);
    let largest = block.max();
    if largest < EPSILON {
        return None;
    }
    let fit = candidates().run(&mut block, largest, largest / 5.0)?;
    Some(Found::new(&fit, &block))
}

fn encode(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
    let sigma2 = 2.0 * sum_of_squares(x) / 256.0;
    let found: [Option<Found>; 16] = std::array::from_fn(|ib| {
        let x: &[f32; 16] = group(x, ib);
        let weights = match imatrix {
            Some(imatrix) => weigh(x, group(imatrix, ib), sigma2),
            None => x.map(|v| 0.25 * sigma2 + v * v),
        };
        search(x, weights)
    });
    pack(&found)
}

/// Rounds the scales and packs everything.
fn pack(found: &[Option<Found>]) -> Block {
    let mut block = Block { d: f16::ZERO, qs: [0; 32], signs: [0; 32], qh: [0; 8], scales: [0; 8] };
    let mut scales = [0.0; 16];
    let mut max_scale = 0.0;
    for (ib, found) in found.iter().enumerate() {
        let Some(Found { scale, points, signs }) = found else { continue };
        for k in 0..2 {
            let vector = 2 * ib + k;
            block.qs[vector] = points[k] as u8;
            block.qh[vector / 4] |= ((points[k] >> 8) << (2 * (vector % 4))) as u8;
            block.signs[vector] = signs[k];
        }
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
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = IQ2_S::scale(block, d, k / 2);
        let levels = levels8(codewords::IQ2_S[usize::from(IQ2_S::point(block, k))]);
        for j in 0..8 {
            out[j] = signed(scale * iq2_magnitude(levels[j]), block.signs[k], j);
        }
    }
}

impl Codebook<8, 16> for IQ2_S {
    type Block = Block;
    const SIGNS: Signs = Signs::Any;
    const EPSILON: f32 = EPSILON;
    const SIGMA: f32 = 2.0;
    const PLAIN_SHARE: f32 = 0.25;
    const GUESSED: bool = false;

    fn search() -> Search<'static, 8> {
        candidates()
    }

    fn book() -> &'static Neighbours<8> {
        &books::IQ2_S
    }

    fn pack(found: &[Option<Found>]) -> Block {
        pack(found)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix)
    }
}

impl VectorCodes for IQ2_S {
    type Block = Block;
    const SUB_LEN: usize = 16;
    const DIMS: usize = 8;
    const SIGNS: Option<Signs> = Some(Signs::Any);

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ2_S, levels8, iq2_magnitude)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        block.d.to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * (0.5 + f32::from(nibble(&block.scales, j))) * 0.25
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        u16::from(block.qs[k]) | u16::from(block.qh[k / 4] >> (2 * (k % 4)) & 3) << 8
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k] = point as u8;
        block.qh[k / 4] = replaced(block.qh[k / 4].into(), 2 * (k % 4), 2, (point >> 8).into()) as u8;
    }

    #[inline(always)]
    fn signs(block: &Block, g: usize) -> u8 {
        block.signs[g]
    }

    fn set_signs(block: &mut Block, g: usize, signs: u8) {
        block.signs[g] = signs;
    }
}

impl BlockFormat for IQ2_S {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_S",
        ggml_type: 22,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "2.56-bit codebook of 8-vectors",
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
