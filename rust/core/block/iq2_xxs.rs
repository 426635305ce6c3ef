//! STUB: IQ2_XXS.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 2.06-bit codebook of 8-vectors.
pub struct IQ2_XXS;

impl BlockFormat for IQ2_XXS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ2_XXS",
        ggml_type: 16,
        block_len: 256,
        block_bytes: 66,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "2.06-bit codebook of 8-vectors",
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
