//! STUB: IQ2_XS.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 2.31-bit codebook of 8-vectors.
pub struct IQ2_XS;

impl BlockFormat for IQ2_XS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_XS",
        ggml_type: 17,
        block_len: 256,
        block_bytes: 74,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "2.31-bit codebook of 8-vectors",
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
