//! STUB: TQ1_0.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// ternary, 5 weights in 8 bits.
pub struct TQ1_0;

impl BlockFormat for TQ1_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "TQ1_0",
        ggml_type: 34,
        block_len: 256,
        block_bytes: 54,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "ternary, 5 weights in 8 bits",
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
