//! Tensor data of big-endian files, turned into the little-endian order that the rest of the crate works in.
//!
//! A big-endian machine stores the same structures with every multi-byte number the other way round, so a block is
//! converted field by field. The fields are those that ggml reads or writes as numbers wider than a byte; packed bytes
//! (nibbles, sign bits, 6-bit scales) stay as they are.

use crate::block::Format;

use super::types::GgmlType;

/// A run of equally wide numbers in a block: offset in bytes, width in bytes, count.
type Field = (usize, usize, usize);

/// Two halves in front of the block: `d` and `dmin`, or `d` and `m`.
const TWO_HALVES: &[Field] = &[(0, 2, 2)];
/// One half in front of the block.
const HALF: &[Field] = &[(0, 2, 1)];

/// The multi-byte fields of a block, or `None` if a big-endian file of this type cannot be read.
fn fields(ty: GgmlType) -> Option<&'static [Field]> {
    let Some(format) = ty.format() else {
        return Some(match ty.block()?.1 {
            1 => &[],
            2 => &[(0, 2, 1)],
            4 => &[(0, 4, 1)],
            _ => &[(0, 8, 1)],
        });
    };
    Some(match format {
        Format::F32 => &[(0, 4, 1)],
        Format::F16 | Format::BF16 => HALF,
        Format::Q4_0 | Format::Q8_0 | Format::IQ4_NL | Format::Q1_0 | Format::Q2_0 => HALF,
        Format::Q4_1 | Format::Q8_1 | Format::Q4_K | Format::Q5_K => TWO_HALVES,
        Format::Q5_0 => &[(0, 2, 1), (2, 4, 1)],
        Format::Q5_1 => &[(0, 2, 2), (4, 4, 1)],
        Format::Q2_K => &[(80, 2, 2)],
        Format::Q3_K => &[(108, 2, 1)],
        Format::Q6_K => &[(208, 2, 1)],
        Format::Q8_K => &[(0, 4, 1), (260, 2, 16)],
        Format::IQ1_S => &[(0, 2, 1), (34, 2, 8)],
        Format::IQ1_M => &[(48, 2, 4)],
        Format::IQ2_XS => &[(0, 2, 33)],
        Format::IQ2_S | Format::IQ3_S => HALF,
        Format::IQ3_XXS => &[(0, 2, 1), (66, 4, 8)],
        Format::IQ4_XS => TWO_HALVES,
        Format::TQ1_0 => &[(52, 2, 1)],
        Format::TQ2_0 => &[(64, 2, 1)],
        Format::MXFP4 | Format::NVFP4 => &[],
        // Codebook indices are written as parts of 32-bit numbers but read back as bytes: such files do not even
        // survive a round trip on a big-endian machine, and there is no right way to read them.
        Format::IQ2_XXS => return None,
    })
}

/// Whether big-endian data of this type can be read.
pub(super) fn is_supported(ty: GgmlType) -> bool {
    fields(ty).is_some()
}

/// Converts whole blocks from big to little endian, in place. `data` is a whole number of blocks of a supported type.
pub(super) fn to_little_endian(ty: GgmlType, data: &mut [u8]) {
    let (Some(fields), Some((_, block_bytes))) = (fields(ty), ty.block()) else { return };
    for block in data.chunks_exact_mut(block_bytes) {
        for &(offset, width, count) in fields {
            for number in block[offset..][..width * count].chunks_exact_mut(width) {
                number.reverse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_within_their_blocks_and_apart() {
        for id in 0..43 {
            let ty = GgmlType(id);
            let Some(fields) = fields(ty) else { continue };
            let (_, block_bytes) = ty.block().unwrap();
            let mut end = 0;
            for &(offset, width, count) in fields {
                assert!(offset >= end, "{ty}");
                end = offset + width * count;
                assert!(end <= block_bytes, "{ty}");
            }
        }
    }
}
