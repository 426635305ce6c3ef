//! STUB: TQ2_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// ternary, 2-bit codes.
pub struct TQ2_0;

impl BlockFormat for TQ2_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "TQ2_0",
        ggml_type: 35,
        block_len: 256,
        block_bytes: 66,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "ternary, 2-bit codes",
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
