//! STUB: Q6_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 6-bit codes, 8-bit scales per 16.
pub struct Q6_K;

impl BlockFormat for Q6_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q6_K",
        ggml_type: 14,
        block_len: 256,
        block_bytes: 210,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "6-bit codes, 8-bit scales per 16",
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
