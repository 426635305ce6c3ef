//! STUB: BF16.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 16-bit float (bfloat16).
pub struct BF16;

impl BlockFormat for BF16 {
    const INFO: FormatInfo = FormatInfo {
        name: "BF16",
        ggml_type: 30,
        block_len: 1,
        block_bytes: 2,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "16-bit float (bfloat16)",
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
