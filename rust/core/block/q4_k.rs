//! STUB: Q4_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit codes, 6-bit scales and minima per 32.
pub struct Q4_K;

impl BlockFormat for Q4_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q4_K",
        ggml_type: 12,
        block_len: 256,
        block_bytes: 144,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit codes, 6-bit scales and minima per 32",
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
