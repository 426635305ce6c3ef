//! STUB: IQ4_NL.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit non-linear codes, one f16 scale per 32.
pub struct IQ4_NL;

impl BlockFormat for IQ4_NL {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ4_NL",
        ggml_type: 20,
        block_len: 32,
        block_bytes: 18,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit non-linear codes, one f16 scale per 32",
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
