//! `IQ4_XS`: 4-bit codes into a non-linear table of 16 values, 6-bit scales for each 32; 4.25 bits per weight.
//!
//! `x = d * (s - 32) * VALUES[code]`, where `s` is a 6-bit code for each sub-block of 32.

use super::scalar::ScalarCodes;
use super::iq4_nl::{pack, unpack};
use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::layout::{encode_blocks, encode_weighted_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::nonlinear::NonLinear;
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::nonlinear::{VALUES, best_scale, codes};
use crate::reference::rounding::{nearest_int, to_half};
use half::f16;

/// 4-bit non-linear codes, 6-bit scales per 32.
pub struct IQ4_XS;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 136 bytes {
        d: f16,
        /// High 2 bits of the scale codes, the first sub-block lowest.
        scales_h: u16,
        /// Low 4 bits of the scale codes, two sub-blocks to a byte, the first one below.
        scales_l: [u8; 4],
        /// Codes, packed within a sub-block as in `IQ4_NL`.
        qs: [[u8; 16]; 8],
    }
}

impl Block {
    /// Scale of sub-block `ib`.
    #[inline]
    fn scale(&self, ib: usize) -> f32 {
        let low = i32::from(self.scales_l[ib / 2] >> (ib % 2 * 4) & 15);
        let high = i32::from(self.scales_h >> (2 * ib) & 3);
        self.d.to_f32() * ((low | high << 4) - 32) as f32
    }
}

/// A block without codes, from the scales of its sub-blocks, and the scales that its codes are to be found with.
fn round_scales(scales: &[f32; 8]) -> (Block, [f32; 8]) {
    let mut extreme = 0.0;
    let mut largest = 0.0;
    for &scale in scales {
        if scale.abs() > largest {
            largest = scale.abs();
            extreme = scale;
        }
    }
    // The extreme scale gets the code -32. Without one this is a negative zero, and stored as such.
    let d = -extreme / 32.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut block = Block { d: to_half(d), scales_h: 0, scales_l: [0; 4], qs: [[0; 16]; 8] };
    let rounded = std::array::from_fn(|ib| {
        let code = nearest_int(inverse * scales[ib]).clamp(-32, 31);
        let stored = (code + 32) as u8;
        block.scales_l[ib / 2] |= (stored & 15) << (ib % 2 * 4);
        block.scales_h |= u16::from(stored >> 4) << (2 * ib);
        d * code as f32
    });
    (block, rounded)
}

fn encode(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
    let sigma2 = sum_of_squares(x) * (2.0 / 256.0);
    let scales: [f32; 8] = std::array::from_fn(|ib| {
        let x: &[f32; 32] = group(x, ib);
        let weights = match imatrix {
            Some(imatrix) => weigh(x, group(imatrix, ib), sigma2),
            None => x.map(|v| v * v),
        };
        best_scale(x, &weights)
    });
    let (block, rounded) = round_scales(&scales);
    Block { qs: std::array::from_fn(|ib| pack(&codes(group(x, ib), rounded[ib]))), ..block }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        unpack(&block.qs[ib], block.scale(ib), out);
    }
}

impl NonLinear<8> for IQ4_XS {
    type Block = Block;

    fn round_scales(scales: &[f32; 8]) -> (Block, [f32; 8]) {
        round_scales(scales)
    }

    fn with_codes(block: Block, qs: &[[u8; 16]; 8]) -> Block {
        Block { qs: *qs, ..block }
    }
}

impl BlockFormat for IQ4_XS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ4_XS",
        ggml_type: 23,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit non-linear codes, 6-bit scales per 32",
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

impl ScalarCodes for IQ4_XS {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &VALUES;

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        let own = Block::read(block);
        for (j, scale) in scale.iter_mut().enumerate() {
            *scale = own.scale(j);
        }
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        own.qs = std::array::from_fn(|j| pack(group(codes, j)));
        own.write(block);
    }
}
