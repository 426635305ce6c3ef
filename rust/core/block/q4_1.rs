//! STUB: Q4_1.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit codes, f16 scale and minimum per 32.
pub struct Q4_1;

impl BlockFormat for Q4_1 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q4_1",
        ggml_type: 3,
        block_len: 32,
        block_bytes: 20,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit codes, f16 scale and minimum per 32",
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
