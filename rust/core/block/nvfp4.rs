//! STUB: NVFP4.

use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};

/// 4-bit floats (E2M1), UE4M3 scale per 16.
pub struct NVFP4;

impl BlockFormat for NVFP4 {
    const INFO: FormatInfo = FormatInfo {
        name: "NVFP4",
        ggml_type: 40,
        block_len: 64,
        block_bytes: 36,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "4-bit floats (E2M1), UE4M3 scale per 16",
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
