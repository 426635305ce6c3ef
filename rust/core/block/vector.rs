//! Formats that look up several weights at once in a codebook, so that points can be changed while scales stay.

use super::layout::Layout;
use super::{BlockFormat, Format};
use crate::reference::codebook::Signs;

/// A format with `x = scale[j] * (sign * point[i] + shift[k])` for coordinate `i` of vector `k` in sub-block `j`: those with
/// codebooks of vectors, IQ1 to IQ3.
pub(crate) trait VectorCodes: BlockFormat {
    /// A block of the format.
    type Block: Layout;
    /// Weights that share a scale.
    const SUB_LEN: usize;
    /// Weights of a vector: 8 or 4.
    const DIMS: usize;
    /// Sign patterns of eight weights that can be stored; `None` where points have signs of their own.
    const SIGNS: Option<Signs>;
    /// Whether vectors have a shift.
    const SHIFT: bool = false;

    /// Coordinates of all points, `DIMS` for each.
    fn points() -> Vec<f32>;

    /// The scale of a block.
    fn d(block: &Self::Block) -> f32;

    /// Scale of sub-block `j`, given that of the block.
    fn scale(block: &Self::Block, d: f32, j: usize) -> f32;

    /// Shift of vector `k`.
    fn shift(_block: &Self::Block, _k: usize) -> f32 {
        0.0
    }

    /// Number of the point of vector `k`.
    fn point(block: &Self::Block, k: usize) -> u16;

    /// Replaces the point of vector `k`.
    fn set_point(block: &mut Self::Block, k: usize, point: u16);

    /// Signs of the eight weights `g`, a set bit for a minus.
    fn signs(_block: &Self::Block, _g: usize) -> u8 {
        0
    }

    /// Replaces the signs of the eight weights `g`. Of [even](Signs::Even) ones, the last is not looked at.
    fn set_signs(_block: &mut Self::Block, _g: usize, _signs: u8) {}
}

/// Scales of a block's sub-blocks and shifts of its vectors, if there is room for them, as they decode.
fn grid_of_block<F: VectorCodes>(bytes: &[u8], scale: &mut [f32], shift: &mut [f32]) {
    let block = F::Block::read(bytes);
    let d = F::d(&block);
    for (j, scale) in scale.iter_mut().enumerate() {
        *scale = F::scale(&block, d, j);
    }
    for (k, shift) in shift.iter_mut().enumerate() {
        *shift = F::shift(&block, k);
    }
}

/// A block's codes: the number of each vector's point, and the signs of each eight weights, if there is room for them.
pub(crate) fn codes_of_block<F: VectorCodes>(bytes: &[u8], points: &mut [u16], signs: &mut [u8]) {
    let block = F::Block::read(bytes);
    for (k, point) in points.iter_mut().enumerate() {
        *point = F::point(&block, k);
    }
    for (g, signs) in signs.iter_mut().enumerate() {
        *signs = F::signs(&block, g);
    }
}

/// Replaces a block's codes.
pub(crate) fn set_codes_of_block<F: VectorCodes>(bytes: &mut [u8], points: &[u16], signs: &[u8]) {
    let mut block = F::Block::read(bytes);
    for (k, &point) in points.iter().enumerate() {
        F::set_point(&mut block, k, point);
    }
    for (g, &signs) in signs.iter().enumerate() {
        F::set_signs(&mut block, g, signs);
    }
    block.write(bytes);
}

/// The functions of a format with a codebook of vectors, looked up at run time.
#[derive(Clone, Copy)]
pub struct VectorCodec {
    /// Weights that share a scale.
    pub sub_len: usize,
    /// Weights of a vector: 8 or 4.
    pub dims: usize,
    /// Sign patterns of eight weights that can be stored; `None` where points have signs of their own.
    pub signs: Option<Signs>,
    /// Whether vectors have a shift.
    pub has_shift: bool,
    /// Coordinates of all points, `dims` for each.
    pub points: fn() -> Vec<f32>,
    /// A block's codes: the number of each vector's point, and the signs of each eight weights, a set bit for a minus.
    pub codes: fn(&[u8], &mut [u16], &mut [u8]),
    pub(crate) grid: fn(&[u8], &mut [f32], &mut [f32]),
    pub(crate) set_codes: fn(&mut [u8], &[u16], &[u8]),
}

impl VectorCodec {
    const fn of<F: VectorCodes>() -> Self {
        Self {
            sub_len: F::SUB_LEN,
            dims: F::DIMS,
            signs: F::SIGNS,
            has_shift: F::SHIFT,
            points: F::points,
            codes: codes_of_block::<F>,
            grid: grid_of_block::<F>,
            set_codes: set_codes_of_block::<F>,
        }
    }

    /// Bytes of signs that so many weights have.
    pub fn sign_bytes(&self, weights: usize) -> usize {
        if self.signs.is_none() { 0 } else { weights / 8 }
    }
}

macro_rules! vector_formats {
    ($($format:ident in $module:ident),+ $(,)?) => {
        impl Format {
            /// The format's functions on single vectors, if it has a codebook of them.
            pub const fn vector_codes(self) -> Option<VectorCodec> {
                match self {
                    $(Self::$format => Some(VectorCodec::of::<super::$module::$format>()),)+
                    _ => None,
                }
            }
        }
    };
}

vector_formats! {
    IQ1_S in iq1_s,
    IQ1_M in iq1_m,
    IQ2_XXS in iq2_xxs,
    IQ2_XS in iq2_xs,
    IQ2_S in iq2_s,
    IQ3_XXS in iq3_xxs,
    IQ3_S in iq3_s,
}

/// Scales and shifts of encoded rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// One for each sub-block.
    pub scale: Vec<f32>,
    /// One for each vector, or empty where the format has none.
    pub shift: Vec<f32>,
}

/// Scales and shifts of whole blocks. `None` if the format has no codebook of vectors.
///
/// # Panics
/// If `data` is not a whole number of blocks.
pub fn grid(format: Format, data: &[u8]) -> Option<Grid> {
    let codec = format.vector_codes()?;
    let info = format.info();
    assert!(data.len().is_multiple_of(info.block_bytes), "whole blocks");
    let (subs, vectors) = (info.block_len / codec.sub_len, info.block_len / codec.dims);
    let count = data.len() / info.block_bytes;
    let mut own =
        Grid { scale: vec![0.0; count * subs], shift: vec![0.0; if codec.has_shift { count * vectors } else { 0 }] };
    let mut shifts = own.shift.chunks_exact_mut(vectors);
    for (block, scale) in data.chunks_exact(info.block_bytes).zip(own.scale.chunks_exact_mut(subs)) {
        (codec.grid)(block, scale, shifts.next().unwrap_or_default());
    }
    Some(own)
}

/// The blocks with other codes: a point for each vector, and signs of each eight weights if they are stored. `None` if the
/// format has no codebook of vectors, a point is not in its codebook, or signs that must be even are not.
///
/// # Panics
/// If `data` is not a whole number of blocks, or there are not as many points and signs as they have.
pub fn with_codes(format: Format, data: &[u8], points: &[u16], signs: &[u8]) -> Option<Vec<u8>> {
    let codec = format.vector_codes()?;
    let info = format.info();
    assert!(data.len().is_multiple_of(info.block_bytes), "whole blocks");
    let weights = data.len() / info.block_bytes * info.block_len;
    assert_eq!(weights / codec.dims, points.len(), "a point for each vector");
    assert_eq!(codec.sign_bytes(weights), signs.len(), "signs of each eight weights");
    let known = (codec.points)().len() / codec.dims;
    let uneven = |signs: &u8| codec.signs == Some(Signs::Even) && signs.count_ones() % 2 == 1;
    if points.iter().any(|&point| usize::from(point) >= known) || signs.iter().any(uneven) {
        return None;
    }
    let mut out = data.to_vec();
    let mut signs = signs.chunks_exact(info.block_len / 8);
    for (block, points) in out.chunks_exact_mut(info.block_bytes).zip(points.chunks_exact(info.block_len / codec.dims))
    {
        (codec.set_codes)(block, points, signs.next().unwrap_or_default());
    }
    Some(out)
}

/// Coordinates of all points of a codebook whose levels are worth `worth`.
pub(super) fn coordinates<const N: usize>(
    codewords: &[u16],
    levels: fn(u16) -> [i32; N],
    worth: fn(i32) -> f32,
) -> Vec<f32> {
    codewords.iter().flat_map(|&word| levels(word).map(worth)).collect()
}

/// `bits` of `word` from bit `at` on, replaced.
pub(super) fn replaced(word: u32, at: usize, bits: u32, with: u32) -> u32 {
    let mask = ((1 << bits) - 1) << at;
    word & !mask | with << at & mask
}
