//! Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 weights. Without importances they are [plain](super::plain); with them there is
//! a search over each block, one a lane, whose weights depend on the mean square of the whole row.

use std::marker::PhantomData;

use half::f16;

use super::plain::{Plain, Rule, Scaled, Source};
use super::tile::{self, Tile, store_lanes};
use super::{RowEncoder, affine, symmetric};
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES};
use crate::reference::affine::{Cost, WEIGHTED_GRID};

/// Weights in a block.
const G: usize = 32;
/// Vectors in a tile.
const WIDTH: usize = 2;
/// Blocks in a batch.
const B: usize = WIDTH * MAX_LANES;

/// The codes of a format.
#[derive(Clone, Copy)]
pub(crate) enum Levels {
    /// `x = d * q` with `q` in `-half..half`.
    Symmetric {
        /// See above.
        half: i32,
    },
    /// `x = d * q + m` with `q` in `0..=max_code`.
    Affine {
        /// See above.
        max_code: i32,
    },
}

/// What tells the formats apart.
pub(crate) trait Legacy {
    /// A block of the format.
    type Block: Layout + Copy;
    /// See [`Levels`].
    const LEVELS: Levels;

    /// Packs scale, minimum (unless codes are symmetric) and codes.
    fn pack<F: F32Lanes>(d: f16, m: f16, codes: &[u8; G]) -> Self::Block;
    /// The scalar reference without importances.
    fn plain_reference(x: &[f32; G]) -> Self::Block;
    /// The scalar reference with importances, given the mean square of the row.
    fn weighted_reference(x: &[f32; G], imatrix: &[f32; G], sigma2: f32) -> Self::Block;
}

impl<S: Legacy> Scaled<G> for S {
    type Block = S::Block;
    const RULE: Rule = match S::LEVELS {
        Levels::Symmetric { half } => Rule::Extreme { half },
        Levels::Affine { max_code } => Rule::Range { max_code },
    };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, m: f16, codes: &[u8; G]) -> S::Block {
        <S as Legacy>::pack::<F>(d, m, codes)
    }

    fn reference(x: &[f32; G]) -> S::Block {
        S::plain_reference(x)
    }
}

/// Fifth bits of 32 codes, weight `j` at bit `j`.
#[inline(always)]
pub(crate) fn fifth_bits<F: F32Lanes>(codes: &[u8; G]) -> u32 {
    let mut highest = *codes;
    for code in &mut highest {
        *code <<= 3;
    }
    F::Int::high_bits(&highest)
}

/// Encodes a format.
pub(crate) struct Encoder<S>(PhantomData<S>);

impl<S: Legacy> RowEncoder for Encoder<S> {
    #[inline(always)]
    fn encode_rows<F: F32Lanes>(x: &[f32], row_len: usize, imatrix: Option<&[f32]>, out: &mut [u8]) {
        let Some(imatrix) = imatrix else {
            S::encode_blocks::<F, f32>(x, out);
            return;
        };
        let means = mean_squares::<F>(x, row_len);
        let (blocks, importances) = (x.as_chunks::<G>().0, imatrix[..row_len].as_chunks::<G>().0);
        for (batch, out) in out.chunks_mut(B * <S as Legacy>::Block::BYTES).enumerate() {
            // The last batch is filled up with its last block.
            let last = out.len() / <S as Legacy>::Block::BYTES - 1;
            let (mut x, mut imatrix) = ([&blocks[0]; B], [&importances[0]; B]);
            let mut sigma2 = [0.0; B];
            for i in 0..B {
                let number = batch * B + i.min(last);
                x[i] = &blocks[number];
                imatrix[i] = &importances[number % importances.len()];
                sigma2[i] = means[number / importances.len()];
            }
            let encoded = encode_batch::<F, S>(&x, &imatrix, &sigma2);
            for (block, out) in encoded.iter().zip(out.chunks_exact_mut(<S as Legacy>::Block::BYTES)) {
                block.write(out);
            }
        }
    }

    #[inline(always)]
    fn encode_plain<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        S::encode_blocks::<F, E>(x, out)
    }
}

/// Mean squares of rows, each summed up in order, one row a lane.
#[inline(always)]
fn mean_squares<F: F32Lanes>(x: &[f32], row_len: usize) -> Vec<f32> {
    let rows = x.len() / row_len;
    let mut means = vec![0.0; rows.next_multiple_of(F::LEN)];
    for first in (0..rows).step_by(F::LEN) {
        let mut sum = F::splat(0.0);
        for i in (0..row_len).step_by(F::LEN) {
            let mut square = [F::splat(0.0); MAX_LANES];
            for lane in 0..F::LEN {
                square[lane] = F::load(&x[(first + lane).min(rows - 1) * row_len + i..]);
            }
            F::transpose(&mut square[..F::LEN]);
            for x in square.iter().take(F::LEN) {
                sum = sum + *x * *x;
            }
        }
        (sum / F::splat(row_len as f32)).store(&mut means[first..]);
    }
    means
}

/// Encodes a batch with importances.
#[inline(always)]
fn encode_batch<F: F32Lanes, S: Legacy>(
    x: &[&[f32; G]; B],
    imatrix: &[&[f32; G]; B],
    sigma2: &[f32; B],
) -> [<S as Legacy>::Block; B] {
    let (mut scales, mut mins, mut codes, mut exact) = ([0.0; B], [0.0; B], [[0; G]; B], [true; B]);
    for first in (0..B).step_by(WIDTH * F::LEN) {
        let tile: Tile<F, G, WIDTH> = tile::load(x, first);
        let (weights, _) = tile::weigh(&tile, imatrix, first, sigma2);
        match S::LEVELS {
            Levels::Symmetric { half } => {
                let found = symmetric::search(&tile, &weights, half);
                store_lanes(found.scale, &mut scales[first..]);
                let mut inverses = [0.0; WIDTH * MAX_LANES];
                store_lanes(found.inverse, &mut inverses);
                for k in 0..WIDTH * F::LEN {
                    codes[first + k] = symmetric::codes_in_order::<F, G>(x[first + k], inverses[k], half);
                }
            }
            Levels::Affine { max_code } => {
                let found = affine::search(&tile, &weights, max_code, WEIGHTED_GRID, Cost::Square);
                store_lanes(found.scale, &mut scales[first..]);
                store_lanes(found.min, &mut mins[first..]);
                exact[first..first + WIDTH * F::LEN].fill(found.exact);
                let tile_codes = affine::codes(&tile, (found.inverse, found.origin), max_code);
                tile::store_codes(&tile_codes, &mut codes.as_flattened_mut()[G * first..]);
            }
        }
    }
    let mut blocks = [<S as Legacy>::pack::<F>(f16::ZERO, f16::ZERO, &[0; G]); B];
    for (b, block) in blocks.iter_mut().enumerate() {
        *block = if exact[b] {
            <S as Legacy>::pack::<F>(F::to_half(scales[b]), F::to_half(-mins[b]), &codes[b])
        } else {
            S::weighted_reference(x[b], imatrix[b], sigma2[b])
        };
    }
    blocks
}
