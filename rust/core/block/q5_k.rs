//! STUB: Q5_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 5-bit codes, 6-bit scales and minima per 32.
pub struct Q5_K;

impl BlockFormat for Q5_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q5_K",
        ggml_type: 13,
        block_len: 256,
        block_bytes: 176,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "5-bit codes, 6-bit scales and minima per 32",
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
