//! Formats that look up several weights at once in a codebook, so that points can be changed while scales stay.

use super::{BlockFormat, Format};

/// How the signs of eight weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignRule {
    /// Not at all: points have signs of their own.
    InPoints,
    /// One for each weight.
    Any,
    /// The last one makes the number of minus signs even.
    Even,
}

impl SignRule {
    /// Its name where no types are.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InPoints => "in points",
            Self::Any => "any",
            Self::Even => "even",
        }
    }
}

/// A format with `x = scale[j] * (sign * point[i] + shift[v])` for coordinate `i` of vector `v` in sub-block `j`: those with
/// codebooks of vectors, IQ1 to IQ3.
pub trait VectorCodes: BlockFormat {
    /// Weights that share a scale.
    const SUB_LEN: usize;
    /// Weights of a vector: 8 or 4.
    const DIMS: usize;
    /// How signs are stored.
    const SIGNS: SignRule;
    /// Whether vectors have a shift.
    const SHIFT: bool = false;

    /// Coordinates of all points, `DIMS` for each.
    fn points() -> Vec<f32>;

    /// Scales of a block's sub-blocks and shifts of its vectors, if there are any, as they decode.
    fn grid(block: &[u8], scale: &mut [f32], shift: &mut [f32]);

    /// A block's codes: the number of each vector's point, and the signs of each eight weights, a set bit for a minus, if
    /// they are stored.
    fn codes(block: &[u8], points: &mut [u16], signs: &mut [u8]);

    /// Replaces a block's codes. Of signs that are [even](SignRule::Even), the last one is not looked at.
    fn set_codes(block: &mut [u8], points: &[u16], signs: &[u8]);
}

/// The functions of a [`VectorCodes`] format, looked up at run time.
#[derive(Clone, Copy)]
pub struct VectorCodec {
    /// See [`VectorCodes::SUB_LEN`].
    pub sub_len: usize,
    /// See [`VectorCodes::DIMS`].
    pub dims: usize,
    /// See [`VectorCodes::SIGNS`].
    pub signs: SignRule,
    /// See [`VectorCodes::SHIFT`].
    pub has_shift: bool,
    /// See [`VectorCodes::points`].
    pub points: fn() -> Vec<f32>,
    /// See [`VectorCodes::grid`].
    pub(crate) grid: fn(&[u8], &mut [f32], &mut [f32]),
    /// See [`VectorCodes::codes`].
    pub codes: fn(&[u8], &mut [u16], &mut [u8]),
    /// See [`VectorCodes::set_codes`].
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
            grid: F::grid,
            codes: F::codes,
            set_codes: F::set_codes,
        }
    }

    /// Eight weights with signs of their own in so many weights; none where points have them.
    pub fn sign_bytes(&self, weights: usize) -> usize {
        if self.signs == SignRule::InPoints { 0 } else { weights / 8 }
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

/// Scales and shifts of whole blocks. `None` if the format has no [`VectorCodes`].
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
/// format has no [`VectorCodes`], a point is not in its codebook, or signs that must be even are not.
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
    let uneven = |signs: &u8| codec.signs == SignRule::Even && signs.count_ones() % 2 == 1;
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
