//! STUB: Q8_1.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 8-bit activations with scale and scaled sum.
pub struct Q8_1;

impl BlockFormat for Q8_1 {
    const INFO: FormatInfo = FormatInfo {
        name: "Q8_1",
        ggml_type: 9,
        block_len: 32,
        block_bytes: 36,
        imatrix: ImatrixUse::Ignored,
        storage: false,
        summary: "8-bit activations with scale and scaled sum",
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
