//! STUB: Q2_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 2-bit codes -1..2, one f16 scale per 64.
pub struct Q2_0;

impl BlockFormat for Q2_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q2_0",
        ggml_type: 42,
        block_len: 64,
        block_bytes: 18,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "2-bit codes -1..2, one f16 scale per 64",
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
