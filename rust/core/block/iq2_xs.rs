//! `IQ2_XS`: 2-bit magnitudes from a codebook of 512 8-vectors, signs in 7 bits; 2.3125 bits per weight.
//!
//! `x = d * (0.5 + s) / 4 * sign * m`, where `m` (8, 25 or 43) comes from the codebook and `s` is a 4-bit code for each
//! sub-block of 16. The eighth sign of a vector makes the number of minus signs even.

use super::bits::nibble;
use super::layout::{Layout, block_layout, decode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::signs::{iq2_magnitude, levels8, signed, with_parity};
use super::vector::{VectorCodes, coordinates, replaced};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::codebook::{Codebook, Found};
use crate::kernel::grid::{self as books, Neighbours};
use crate::reference::GROUP_EPSILON;
use crate::reference::codebook::{Revisit, Search, Signs, SubBlock, max, scale_codes};
use crate::reference::grid::codewords;
use crate::reference::grid;
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::rounding::to_half;
use half::f16;

/// 2.31-bit codebook of 8-vectors.
pub struct IQ2_XS;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 74 bytes {
        d: f16,
        /// For each vector: codebook index in 9 bits, sign pattern in 7 above it.
        qs: [u16; 32],
        /// Scale codes, two sub-blocks to a byte, the first one below.
        scales: [u8; 8],
    }
}

fn candidates() -> Search<'static, 8> {
    Search { grid: &grid::IQ2_XS, reach: 9, step: 0.1, revisit: Revisit::OffGrid }
}

/// Scale, codebook indices and signs of a sub-block; `None` if it is stored as zeros.
fn search(x: &[f32; 16], imatrix: &[f32; 16], sigma2: f32) -> Option<Found> {
    let mut block = SubBlock::new(x, weigh(x, imatrix, sigma2), Signs::Even);
    let largest = block.max();
    if largest < GROUP_EPSILON {
        return None;
    }
    let fit = candidates().run(&mut block, largest, largest / 5.0)?;
    Some(Found::new(&fit, &block))
}

fn encode(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let sigma2 = sum_of_squares(x) / 256.0;
    pack(&std::array::from_fn::<_, 16, _>(|ib| search(group(x, ib), group(imatrix, ib), sigma2)))
}

/// Rounds the scales and packs everything.
fn pack(found: &[Option<Found>]) -> Block {
    let mut block = Block { d: f16::ZERO, qs: [0; 32], scales: [0; 8] };
    let mut scales = [0.0; 16];
    let mut max_scale = 0.0;
    for (ib, found) in found.iter().enumerate() {
        let Some(Found { scale, points, signs }) = found else { continue };
        for k in 0..2 {
            block.qs[2 * ib + k] = points[k] | u16::from(signs[k]) << 9;
        }
        scales[ib] = *scale;
        max_scale = max(max_scale, *scale);
    }
    if max_scale == 0.0 {
        return Block { d: f16::ZERO, qs: [0; 32], scales: [0; 8] };
    }
    let d = max_scale / 31.0;
    block.d = to_half(d);
    let codes = scale_codes(&scales, d, 15);
    block.scales = std::array::from_fn(|i| codes[2 * i] | codes[2 * i + 1] << 4);
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (k, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = IQ2_XS::scale(block, d, k / 2);
        let levels = levels8(codewords::IQ2_XS[usize::from(IQ2_XS::point(block, k))]);
        let signs = IQ2_XS::signs(block, k);
        for j in 0..8 {
            out[j] = signed(scale * iq2_magnitude(levels[j]), signs, j);
        }
    }
}

impl Codebook<8, 16> for IQ2_XS {
    type Block = Block;
    const SIGNS: Signs = Signs::Even;
    const EPSILON: f32 = GROUP_EPSILON;
    const SIGMA: f32 = 1.0;
    const PLAIN_SHARE: f32 = 0.0;
    const GUESSED: bool = false;

    fn search() -> Search<'static, 8> {
        candidates()
    }

    fn book() -> &'static Neighbours<8> {
        &books::IQ2_XS
    }

    fn pack(found: &[Option<Found>]) -> Block {
        pack(found)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        encode(x, imatrix.expect("IQ2_XS is only encoded with an importance matrix"))
    }
}

impl VectorCodes for IQ2_XS {
    type Block = Block;
    const SUB_LEN: usize = 16;
    const DIMS: usize = 8;
    const SIGNS: Option<Signs> = Some(Signs::Even);

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ2_XS, levels8, iq2_magnitude)
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
        block.qs[k] & 511
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k] = replaced(block.qs[k].into(), 0, 9, point.into()) as u16;
    }

    #[inline(always)]
    fn signs(block: &Block, g: usize) -> u8 {
        with_parity((block.qs[g] >> 9).into())
    }

    fn set_signs(block: &mut Block, g: usize, signs: u8) {
        block.qs[g] = replaced(block.qs[g].into(), 9, 7, signs.into()) as u16;
    }
}

impl BlockFormat for IQ2_XS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_XS",
        ggml_type: 17,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "2.31-bit codebook of 8-vectors",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        let imatrix = imatrix.expect("IQ2_XS is only encoded with an importance matrix");
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
