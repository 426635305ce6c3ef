//! STUB: IQ1_M.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 1.75-bit codebook of 8-vectors.
pub struct IQ1_M;

impl BlockFormat for IQ1_M {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ1_M",
        ggml_type: 29,
        block_len: 256,
        block_bytes: 56,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "1.75-bit codebook of 8-vectors",
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
