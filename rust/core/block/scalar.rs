//! Formats in which every weight has a code of its own, so that codes can be changed while scales stay.

use super::{BlockFormat, Format};

/// A format with `x = scale[j] * TABLE[code] + offset[j]` for the weights of sub-block `j`: all formats but those that look up
/// several weights at once in a codebook.
///
/// Codes count the table's values from the lowest, whatever bits stand for them in a block.
pub trait ScalarCodes: BlockFormat {
    /// Weights that share a scale.
    const SUB_LEN: usize;
    /// The values of the codes, rising.
    const TABLE: &'static [i8];
    /// Whether sub-blocks have an offset. Without one nothing is added, not even zero: `-0` stays what it is.
    const OFFSET: bool = false;

    /// Scales, and offsets if there are any, of a block's sub-blocks, as they decode.
    fn grid(block: &[u8], scale: &mut [f32], offset: &mut [f32]);

    /// Replaces a block's codes, one for each weight.
    fn set_codes(block: &mut [u8], codes: &[u8]);
}

/// The functions of a [`ScalarCodes`] format, looked up at run time.
#[derive(Clone, Copy)]
pub struct ScalarCodec {
    /// See [`ScalarCodes::SUB_LEN`].
    pub sub_len: usize,
    /// See [`ScalarCodes::TABLE`].
    pub table: &'static [i8],
    /// See [`ScalarCodes::OFFSET`].
    pub has_offset: bool,
    grid: fn(&[u8], &mut [f32], &mut [f32]),
    set_codes: fn(&mut [u8], &[u8]),
}

impl ScalarCodec {
    const fn of<F: ScalarCodes>() -> Self {
        Self { sub_len: F::SUB_LEN, table: F::TABLE, has_offset: F::OFFSET, grid: F::grid, set_codes: F::set_codes }
    }
}

macro_rules! scalar_formats {
    ($($format:ident in $module:ident),+ $(,)?) => {
        impl Format {
            /// The format's functions on single codes, if its weights have them.
            pub const fn scalar_codes(self) -> Option<ScalarCodec> {
                match self {
                    $(Self::$format => Some(ScalarCodec::of::<super::$module::$format>()),)+
                    _ => None,
                }
            }
        }
    };
}

scalar_formats! {
    Q4_0 in q4_0,
    Q4_1 in q4_1,
    Q5_0 in q5_0,
    Q5_1 in q5_1,
    Q8_0 in q8_0,
    Q2_K in q2_k,
    Q3_K in q3_k,
    Q4_K in q4_k,
    Q5_K in q5_k,
    Q6_K in q6_k,
    IQ4_NL in iq4_nl,
    IQ4_XS in iq4_xs,
    TQ1_0 in tq1_0,
    TQ2_0 in tq2_0,
    MXFP4 in mxfp4,
    NVFP4 in nvfp4,
    Q1_0 in q1_0,
    Q2_0 in q2_0,
}

/// Scales and offsets of encoded rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// One for each sub-block.
    pub scale: Vec<f32>,
    /// One for each sub-block, or empty where the format has none.
    pub offset: Vec<f32>,
}

/// Scales and offsets of whole blocks. `None` if the format has no [`ScalarCodes`].
///
/// # Panics
/// If `data` is not a whole number of blocks.
pub fn grid(format: Format, data: &[u8]) -> Option<Grid> {
    let codec = format.scalar_codes()?;
    let info = format.info();
    assert!(data.len().is_multiple_of(info.block_bytes), "whole blocks");
    let in_block = info.block_len / codec.sub_len;
    let count = data.len() / info.block_bytes * in_block;
    let mut own = Grid { scale: vec![0.0; count], offset: vec![0.0; if codec.has_offset { count } else { 0 }] };
    let mut offsets = own.offset.chunks_exact_mut(in_block);
    for (block, scale) in data.chunks_exact(info.block_bytes).zip(own.scale.chunks_exact_mut(in_block)) {
        (codec.grid)(block, scale, offsets.next().unwrap_or_default());
    }
    Some(own)
}

/// The blocks with other codes, one a weight. `None` if the format has no [`ScalarCodes`], or a code is not in its table.
///
/// # Panics
/// If `data` is not a whole number of blocks, or `codes` not as many as their weights.
pub fn with_codes(format: Format, data: &[u8], codes: &[u8]) -> Option<Vec<u8>> {
    let codec = format.scalar_codes()?;
    let info = format.info();
    assert!(data.len().is_multiple_of(info.block_bytes), "whole blocks");
    assert_eq!(data.len() / info.block_bytes * info.block_len, codes.len(), "a code for each weight");
    if codes.iter().any(|&code| usize::from(code) >= codec.table.len()) {
        return None;
    }
    let mut out = data.to_vec();
    for (block, codes) in out.chunks_exact_mut(info.block_bytes).zip(codes.chunks_exact(info.block_len)) {
        (codec.set_codes)(block, codes);
    }
    Some(out)
}

/// Evenly spaced values from `first` on.
pub(super) const fn steps<const N: usize>(first: i32) -> [i8; N] {
    let mut values = [0; N];
    let mut i = 0;
    while i < N {
        values[i] = (first + i as i32) as i8;
        i += 1;
    }
    values
}
