//! F16: IEEE halves, rounded to nearest even. 16 bpw.
//!
//! Weights of 65520 and more in magnitude become infinite, which [`BlockFormat::validate_row`] reports.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::layout::{block_layout, finite, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::reference::rounding::to_half;

block_layout! {
    struct Block, 2 bytes { value: f16 }
}

/// Weights that are converted together.
const STRETCH: usize = 256;

/// 16-bit float (IEEE half).
pub struct F16;

impl BlockFormat for F16 {
    const INFO: FormatInfo = FormatInfo {
        name: "F16",
        ggml_type: 1,
        block_len: 1,
        block_bytes: 2,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "16-bit float (IEEE half)",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        let mut halves = [f16::ZERO; STRETCH];
        for (x, out) in x.chunks(STRETCH).zip(out.chunks_mut(2 * STRETCH)) {
            halves[..x.len()].convert_from_f32_slice(x);
            for ((out, half), x) in out.as_chunks_mut::<2>().0.iter_mut().zip(halves).zip(x) {
                // Which NaN a conversion gives differs from machine to machine.
                *out = if x.is_nan() { to_half(*x) } else { half }.to_le_bytes();
            }
        }
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        let mut halves = [f16::ZERO; STRETCH];
        for (data, out) in data.chunks(2 * STRETCH).zip(out.chunks_mut(STRETCH)) {
            for (half, bytes) in halves.iter_mut().zip(data.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves[..out.len()].convert_to_f32_slice(out);
        }
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("value", block.value))
    }
}
