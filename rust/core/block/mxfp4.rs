//! STUB: MXFP4.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit floats (E2M1), one power-of-two scale per 32.
pub struct MXFP4;

impl BlockFormat for MXFP4 {
    const INFO: FormatInfo = FormatInfo {
        name: "MXFP4",
        ggml_type: 39,
        block_len: 32,
        block_bytes: 17,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "4-bit floats (E2M1), one power-of-two scale per 32",
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
