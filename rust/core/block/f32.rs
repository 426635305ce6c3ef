//! STUB: F32.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 32-bit float.
pub struct F32;

impl BlockFormat for F32 {
    const INFO: FormatInfo = FormatInfo {
        name: "F32",
        ggml_type: 0,
        block_len: 1,
        block_bytes: 4,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "32-bit float",
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
