//! STUB: Q1_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// signs, one f16 scale per 128.
pub struct Q1_0;

impl BlockFormat for Q1_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q1_0",
        ggml_type: 41,
        block_len: 128,
        block_bytes: 18,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "signs, one f16 scale per 128",
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
