//! STUB: Q5_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 5-bit codes, one f16 scale per 32.
pub struct Q5_0;

impl BlockFormat for Q5_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q5_0",
        ggml_type: 6,
        block_len: 32,
        block_bytes: 22,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "5-bit codes, one f16 scale per 32",
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
