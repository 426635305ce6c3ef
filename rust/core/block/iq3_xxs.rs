//! STUB: IQ3_XXS.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 3.06-bit codebook of 4-vectors.
pub struct IQ3_XXS;

impl BlockFormat for IQ3_XXS {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ3_XXS",
        ggml_type: 18,
        block_len: 256,
        block_bytes: 98,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "3.06-bit codebook of 4-vectors",
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
