//! STUB: IQ2_S.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 2.56-bit codebook of 8-vectors.
pub struct IQ2_S;

impl BlockFormat for IQ2_S {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_S",
        ggml_type: 22,
        block_len: 256,
        block_bytes: 82,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "2.56-bit codebook of 8-vectors",
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
