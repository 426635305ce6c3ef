//! STUB: Q2_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 2-bit codes, 4-bit scales and minima per 16.
pub struct Q2_K;

impl BlockFormat for Q2_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q2_K",
        ggml_type: 10,
        block_len: 256,
        block_bytes: 84,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "2-bit codes, 4-bit scales and minima per 16",
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
