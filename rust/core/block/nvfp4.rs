//! NVFP4: blocks of 64 weights in four sub-blocks of 16, `x = d * q` with E2M1 floats `q` and a scale byte a sub-block
//! (UE4M3: no sign, 4 exponent bits, 3 mantissa bits, no infinity). 4.5 bpw.
//!
//! `d` is the largest magnitude over 6, the largest E2M1 value. An importance matrix changes nothing. Scales stop at 448 and
//! at 2^-9, so tensors are expected to be brought into range by a factor kept beside them.

use super::scalar::ScalarCodes;
use super::bits::{nibbles, pack_nibbles};
use super::fp4;
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, group};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{self, Plain, Source};
use crate::lanes::{F32Lanes, MAX_LANES};
use crate::reference::rounding::truncate;
use crate::reference::symmetric::largest;

block_layout! {
    struct Block, 36 bytes {
        /// Scales of the sub-blocks.
        d: [u8; 4],
        /// Codes, 8 bytes a sub-block: weight `j` in the lower half of byte `j`, weight `j + 8` in the upper.
        qs: [u8; 32],
    }
}

/// The UE4M3 number nearest to `x`, halves rounded up; 448 is the largest, and 0 what is smaller than half the smallest.
fn to_ue4m3(x: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    if x <= 0.0 {
        return 0;
    }
    if x >= 256.0 {
        // Mantissa bits above 256 are not looked at: everything from there on becomes 448.
        return LARGEST;
    }
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        // Subnormals count 2^-9; there is no rounding up into the normal ones.
        return truncate(x * 512.0 + 0.5).min(7) as u8;
    }
    // Rounding up may carry from the mantissa into the exponent.
    let rounded = (((exponent as u32) << 4) | ((bits >> 19) & 15)).div_ceil(2);
    if rounded >= 15 << 3 { LARGEST } else { rounded as u8 }
}

/// Half of a UE4M3 number. 0x7f, NaN, counts as 0, and the eighth bit as nothing.
pub(crate) fn half_scale(ue4m3: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(ue4m3 >> 3) & 15, f32::from(ue4m3 & 7));
    match (ue4m3, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * f32::from_bits((127 - 10) << 23),
        _ => (8.0 + mantissa) * f32::from_bits((exponent + 127 - 11) << 23),
    }
}

fn encode(x: &[f32; 64]) -> Block {
    let mut block = Block { d: [0; 4], qs: [0; 32] };
    for s in 0..4 {
        let x: &[f32; 16] = group(x, s);
        block.d[s] = to_ue4m3(largest(x) / 6.0);
        let scale = half_scale(block.d[s]);
        pack_nibbles::<8>(&x.map(|v| fp4::nearest(v, scale)), &mut block.qs[8 * s..][..8]);
    }
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 64]) {
    let codes = nibbles::<8, 64>(&block.qs);
    for s in 0..4 {
        let scale = half_scale(block.d[s]);
        for i in 16 * s..16 * (s + 1) {
            out[i] = f32::from(fp4::doubled(codes[i])) * scale;
        }
    }
}

/// 4-bit floats (E2M1), UE4M3 scale per 16.
pub struct NVFP4;

impl Plain<64> for NVFP4 {
    #[inline(always)]
    fn encode_blocks<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        let mut finite = true;
        // As many blocks as have a sub-block for each lane of two vectors.
        let batch = F::LEN / 2;
        for (blocks, out) in x.as_chunks::<64>().0.chunks(batch).zip(out.chunks_mut(batch * Block::BYTES)) {
            plain::prefetch_after(blocks);
            let (mut magnitudes, mut sixths) = ([0.0; 2 * MAX_LANES], [0.0; 2 * MAX_LANES]);
            let groups = blocks.as_flattened().as_chunks::<16>().0;
            for (half, groups) in groups.chunks(F::LEN).enumerate() {
                let largest = plain::magnitudes::<F, E, 16>(groups);
                largest.store(&mut magnitudes[half * F::LEN..]);
                (largest / F::splat(6.0)).store(&mut sixths[half * F::LEN..]);
            }
            for (b, (x, out)) in blocks.iter().zip(out.chunks_exact_mut(Block::BYTES)).enumerate() {
                let (mut d, mut scales, mut largest) = ([0; 4], [0.0; 4], [0.0; 4]);
                for s in 0..4 {
                    largest[s] = magnitudes[4 * b + s];
                    finite &= largest[s].is_finite();
                    d[s] = to_ue4m3(sixths[4 * b + s]);
                    scales[s] = half_scale(d[s]);
                }
                let mut qs = [0; 32];
                pack_nibbles::<8>(&plain::float4::<F, E, 64, 4>(x, &largest, &scales), &mut qs);
                Block { d, qs }.write(out);
            }
        }
        finite
    }
}

impl BlockFormat for NVFP4 {
    const INFO: FormatInfo = FormatInfo {
        name: "NVFP4",
        ggml_type: 40,
        block_len: 64,
        block_bytes: 36,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "4-bit floats (E2M1), UE4M3 scale per 16",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, encode);
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        // Every byte is a valid scale, 0x7f included.
        let _ = data;
        Ok(())
    }
}

impl ScalarCodes for NVFP4 {
    const SUB_LEN: usize = 16;
    const TABLE: &'static [i8] = &fp4::RISING;

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale.copy_from_slice(&Block::read(block).d.map(half_scale));
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let mut own = Block::read(block);
        let codes: &[u8; 64] = group(codes, 0);
        pack_nibbles::<8>(&codes.map(fp4::code_of_rank), &mut own.qs);
        own.write(block);
    }
}
