//! STUB: IQ4_XS.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit non-linear codes, 6-bit scales per 32.
pub struct IQ4_XS;

impl BlockFormat for IQ4_XS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ4_XS",
        ggml_type: 23,
        block_len: 256,
        block_bytes: 136,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "4-bit non-linear codes, 6-bit scales per 32",
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
