//! STUB: Q4_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit codes, one f16 scale per 32.
pub struct Q4_0;

impl BlockFormat for Q4_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q4_0",
        ggml_type: 2,
        block_len: 32,
        block_bytes: 18,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit codes, one f16 scale per 32",
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
