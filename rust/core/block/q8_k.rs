//! STUB: Q8_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 8-bit activations with f32 scale and sums per 16.
pub struct Q8_K;

impl BlockFormat for Q8_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_K",
        ggml_type: 15,
        block_len: 256,
        block_bytes: 292,
        imatrix: ImatrixUse::Ignored,
        storage: false,
        summary: "8-bit activations with f32 scale and sums per 16",
    };

    fn encode_row(_x: &[f32], _imatrix: Option<&[f32]>, _out: &mut [u8]) {
        todo!()
    }

    fn decode_row(_data: &[u8], _out: &mut [f32]) {
        todo!()
    }

    fn validate_row(_data: &[u8]) -> Result<(), BlockFault> {
        todo!()
    }
}
