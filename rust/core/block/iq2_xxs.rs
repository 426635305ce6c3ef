//! `IQ2_XXS`: 2-bit magnitudes from a codebook of 256 8-vectors, signs in 7 bits; 2.0625 bits per weight.
//!
//! `x = d * (0.5 + s) / 4 * sign * m`, where `m` (8, 25 or 43) comes from the codebook and `s` is a 4-bit code for each
//! sub-block of 32. The eighth sign of a vector makes the number of minus signs even.

use super::layout::{Layout, block_layout, decode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::signs::{iq2_magnitude, levels8, signed, with_parity};
use super::vector::{VectorCodes, coordinates, replaced};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::codebook::{Codebook, Found};
use crate::kernel::grid::{self as books, Neighbours};
use crate::reference::codebook::{Revisit, Search, Signs, SubBlock, max, scale_codes};
use crate::reference::grid::codewords;
use crate::reference::grid;
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::rounding::to_half;
use crate::reference::{GROUP_EPSILON, superblock};
use half::f16;

/// 2.06-bit codebook of 8-vectors.
pub struct IQ2_XXS;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 66 bytes {
        d: f16,
        /// For each sub-block: four codebook indices of 8 bits; four sign patterns of 7 bits, the scale code above them.
        qs: [[u32; 2]; 8],
    }
}

fn candidates() -> Search<'static, 8> {
    Search { grid: &grid::IQ2_XXS, reach: 6, step: 0.1, revisit: Revisit::Always }
}

/// Scale, codebook indices and signs of a sub-block; `None` if it is stored as zeros.
fn search(x: &[f32; 32], imatrix: &[f32; 32], sigma2: f32) -> Option<Found> {
    let mut block = SubBlock::new(x, weigh(x, imatrix, sigma2), Signs::Even);
    if block.max() < GROUP_EPSILON {
        return None;
    }
    // A first guess as `scale * code`, codes 0 to 4; candidates then map three such steps to the largest level.
    let (scale, _) = superblock::search(&block.x, &block.weight, 4);
    let width = scale * 3.0;
    if width <= 0.0 {
        return None;
    }
    let fit = candidates().run(&mut block, width, scale)?;
    Some(Found::new(&fit, &block))
}

fn encode(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let sigma2 = sum_of_squares(x) / 256.0;
    pack(&std::array::from_fn::<_, 8, _>(|ib| search(group(x, ib), group(imatrix, ib), sigma2)))
}

/// Rounds the scales and packs everything.
fn pack(found: &[Option<Found>]) -> Block {
    let mut block = Block { d: f16::ZERO, qs: [[0; 2]; 8] };
    let mut scales = [0.0; 8];
    let mut max_scale = 0.0;
    for (ib, found) in found.iter().enumerate() {
        let Some(Found { scale, points, signs }) = found else { continue };
        for k in 0..4 {
            block.qs[ib][0] |= u32::from(points[k]) << (8 * k);
            block.qs[ib][1] |= u32::from(signs[k]) << (7 * k);
        }
        scales[ib] = *scale;
        max_scale = max(max_scale, *scale);
    }
    if max_scale == 0.0 {
        return Block { d: f16::ZERO, qs: [[0; 2]; 8] };
    }
    let d = max_scale / 31.0;
    block.d = to_half(d);
    for (words, code) in block.qs.iter_mut().zip(scale_codes(&scales, d, 15)) {
        words[1] |= u32::from(code) << 28;
    }
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = IQ2_XXS::scale(block, d, ib);
        for k in 0..4 {
            let levels = levels8(codewords::IQ2_XXS[usize::from(IQ2_XXS::point(block, 4 * ib + k))]);
            let signs = IQ2_XXS::signs(block, 4 * ib + k);
            for j in 0..8 {
                out[8 * k + j] = signed(scale * iq2_magnitude(levels[j]), signs, j);
            }
        }
    }
}

impl Codebook<8, 32> for IQ2_XXS {
    type Block = Block;
    const SIGNS: Signs = Signs::Even;
    const EPSILON: f32 = GROUP_EPSILON;
    const SIGMA: f32 = 1.0;
    const PLAIN_SHARE: f32 = 0.0;
    const GUESSED: bool = true;

    fn search() -> Search<'static, 8> {
        candidates()
    }

    fn book() -> &'static Neighbours<8> {
        &books::IQ2_XXS
    }

    fn pack(found: &[Option<Found>]) -> Block {
        pack(found)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix.expect("IQ2_XXS is only encoded with an importance matrix"))
    }
}

impl VectorCodes for IQ2_XXS {
    type Block = Block;
    const SUB_LEN: usize = 32;
    const DIMS: usize = 8;
    const SIGNS: Option<Signs> = Some(Signs::Even);

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ2_XXS, levels8, iq2_magnitude)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        block.d.to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * (0.5 + (block.qs[j][1] >> 28) as f32) * 0.25
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        (block.qs[k / 4][0] >> (8 * (k % 4)) & 255) as u16
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        let word = &mut block.qs[k / 4][0];
        *word = replaced(*word, 8 * (k % 4), 8, point.into());
    }

    #[inline(always)]
    fn signs(block: &Block, g: usize) -> u8 {
        with_parity(block.qs[g / 4][1] >> (7 * (g % 4)))
    }

    fn set_signs(block: &mut Block, g: usize, signs: u8) {
        let word = &mut block.qs[g / 4][1];
        *word = replaced(*word, 7 * (g % 4), 7, signs.into());
    }
}

impl BlockFormat for IQ2_XXS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_XXS",
        ggml_type: 16,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "2.06-bit codebook of 8-vectors",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        let imatrix = imatrix.expect("IQ2_XXS is only encoded with an importance matrix");
        encode_weighted_blocks(x, imatrix, out, encode);
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}
