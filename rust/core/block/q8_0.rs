//! STUB: Q8_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 8-bit codes, one f16 scale per 32.
pub struct Q8_0;

impl BlockFormat for Q8_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_0",
        ggml_type: 8,
        block_len: 32,
        block_bytes: 34,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "8-bit codes, one f16 scale per 32",
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
