//! STUB: Q3_K.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 3-bit codes, 6-bit scales per 16.
pub struct Q3_K;

impl BlockFormat for Q3_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q3_K",
        ggml_type: 11,
        block_len: 256,
        block_bytes: 110,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "3-bit codes, 6-bit scales per 16",
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
