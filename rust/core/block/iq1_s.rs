//! STUB: IQ1_S.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 1.56-bit codebook of 8-vectors.
pub struct IQ1_S;

impl BlockFormat for IQ1_S {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ1_S",
        ggml_type: 19,
        block_len: 256,
        block_bytes: 50,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "1.56-bit codebook of 8-vectors",
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
