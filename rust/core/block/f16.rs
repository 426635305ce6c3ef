//! STUB: F16.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 16-bit float (IEEE half).
pub struct F16;

impl BlockFormat for F16 {
    const INFO: FormatInfo = FormatInfo {
        name: "F16",
        ggml_type: 1,
        block_len: 1,
        block_bytes: 2,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "16-bit float (IEEE half)",
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
