//! MXFP4: blocks of 32 weights, `x = 2^(e - 127) * q` with E2M1 floats `q` and one exponent byte (E8M0). 4.25 bpw.
//! OCP Microscaling Formats (MX) specification 1.0.
//!
//! The exponent is that of the largest magnitude less 2. An importance matrix changes nothing.

use super::scalar::ScalarCodes;
use super::bits::{nibbles, pack_nibbles};
use super::fp4;
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, group, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{self, Plain, Source};
use crate::lanes::{F32Lanes, MAX_LANES};
use crate::reference::rounding::floor_log2;
use crate::reference::symmetric::largest;

block_layout! {
    struct Block, 17 bytes {
        /// Exponent, 127 for 1; 255 stands for NaN.
        e: u8,
        /// Codes: weight `j` in the lower half of byte `j`, weight `j + 16` in the upper.
        qs: [u8; 16],
    }
}

/// Half of `2^(e - 127)`.
pub(crate) fn half_scale(e: u8) -> f32 {
    // The two smallest are subnormal.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// The exponent for a largest magnitude.
fn exponent(amax: f32) -> u8 {
    // Below 2^-125 the difference is negative and wraps to a huge scale, under which every code is 0.
    if amax > 0.0 { (floor_log2(amax) - 2 + 127) as u8 } else { 0 }
}

fn encode(x: &[f32; 32]) -> Block {
    let e = exponent(largest(x));
    let scale = half_scale(e);
    let mut qs = [0; 16];
    pack_nibbles::<16>(&x.map(|v| fp4::nearest(v, scale)), &mut qs);
    Block { e, qs }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 32]) {
    let (scale, codes) = (half_scale(block.e), nibbles::<16, 32>(&block.qs));
    for i in 0..32 {
        out[i] = f32::from(fp4::doubled(codes[i])) * scale;
    }
}

/// 4-bit floats (E2M1), one power-of-two scale per 32.
pub struct MXFP4;

impl Plain<32> for MXFP4 {
    #[inline(always)]
    fn encode_blocks<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        let mut finite = true;
        for (blocks, out) in x.as_chunks::<32>().0.chunks(F::LEN).zip(out.chunks_mut(F::LEN * Block::BYTES)) {
            plain::prefetch_after(blocks);
            let mut magnitudes = [0.0; MAX_LANES];
            plain::magnitudes::<F, E, 32>(blocks).store(&mut magnitudes);
            for (b, (x, out)) in blocks.iter().zip(out.chunks_exact_mut(Block::BYTES)).enumerate() {
                finite &= magnitudes[b].is_finite();
                let e = exponent(magnitudes[b]);
                let mut qs = [0; 16];
                pack_nibbles::<16>(&plain::float4_by_power::<F, E>(x, magnitudes[b], half_scale(e)), &mut qs);
                Block { e, qs }.write(out);
            }
        }
        finite
    }
}

impl BlockFormat for MXFP4 {
    const INFO: FormatInfo = FormatInfo {
        name: "MXFP4",
        ggml_type: 39,
        block_len: 32,
        block_bytes: 17,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "4-bit floats (E2M1), one power-of-two scale per 32",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, encode);
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| {
            if block.e == 255 { Err("exponent e is 255, which stands for NaN".into()) } else { Ok(()) }
        })
    }
}

impl ScalarCodes for MXFP4 {
    const SUB_LEN: usize = 32;
    const TABLE: &'static [i8] = &fp4::RISING;

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = half_scale(Block::read(block).e);
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        let codes: &[u8; 32] = group(codes, 0);
        pack_nibbles::<16>(&codes.map(fp4::code_of_rank), &mut own.qs);
        own.write(block);
    }
}
