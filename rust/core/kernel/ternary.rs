//! `IQ1_S` and `IQ1_M`: three shifted levels from a codebook, as [`crate::reference::ternary`] has them, one sub-block a
//! lane.

mod split;

use std::marker::PhantomData;

use super::grid::nearest::{Target, nearest};
use super::grid::{self, Neighbours, Spot, extend_key};
use super::tile::{self, sums_of_squares};
use super::{BATCH, BatchEncoder};
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask, head};
use crate::reference::ternary::{DOWN, UP};
use split::{Scratch, Splits};

/// Vectors of 8 in a sub-block, at most.
const VECTORS: usize = 4;

/// What is stored for a sub-block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Value of a level's unit.
    pub(crate) scale: f32,
    /// Codebook index of each vector.
    pub(crate) points: [u16; VECTORS],
    /// Whether levels are shifted down: those of the sub-block, or those of each of two vectors.
    pub(crate) down: [bool; 2],
}

/// What tells the formats apart: sub-blocks of `W` weights.
pub(crate) trait Ternary<const W: usize> {
    /// A block of the format.
    type Block: Layout;
    /// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
    const EPSILON: f32;

    /// The scalar search through the sub-block that `row` starts with; `None` if it is stored as zeros.
    fn search(row: &[f32], weights: &[f32; W]) -> Option<Found>;
    /// Packs sub-blocks.
    fn pack(x: &[f32; 256], weights: &[f32; 256], found: &[Option<Found>]) -> Self::Block;
}

/// Encodes a format.
pub(crate) struct Encoder<T, const W: usize>(PhantomData<T>);

impl<T: Ternary<W>, const W: usize> BatchEncoder<256> for Encoder<T, W> {
    type Block = T::Block;

    #[inline(always)]
    fn encode_batch<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [T::Block; BATCH] {
        Self::encode_batch_of_rows::<F>(x, &x.map(|x| x.as_slice()), imatrix)
    }

    #[inline(always)]
    fn encode_batch_of_rows<F: F32Lanes>(
        x: &[&[f32; 256]; BATCH],
        rows: &[&[f32]; BATCH],
        imatrix: Option<&[&[f32; 256]; BATCH]>,
    ) -> [T::Block; BATCH] {
        let weights = importances::<F>(x, imatrix);
        let weight_rows: [&[f32; 256]; BATCH] = std::array::from_fn(|b| &weights[b]);
        let mut found = [[None; 16]; BATCH];
        let mut scratch: Scratch<F> = Scratch::new();
        for first in (0..BATCH * 256 / W).step_by(F::LEN) {
            let lanes = search::<F, W>(x, &weight_rows, first, T::EPSILON, &mut scratch);
            for lane in 0..F::LEN {
                let (b, j) = ((first + lane) / (256 / W), (first + lane) % (256 / W));
                found[b][j] = match lanes[lane] {
                    Outcome::Zeros => None,
                    Outcome::Found(found) => Some(found),
                    Outcome::Unclear => T::search(&rows[b][W * j..], head(&weights[b][W * j..])),
                };
            }
        }
        std::array::from_fn(|b| T::pack(x[b], &weights[b], &found[b][..256 / W]))
    }
}

/// What the search over lanes says of a sub-block.
#[derive(Clone, Copy)]
enum Outcome {
    Zeros,
    Found(Found),
    /// Only the scalar search can tell.
    Unclear,
}

/// What the errors of all weights count for.
#[inline(always)]
fn importances<F: F32Lanes>(x: &[&[f32; 256]; BATCH], imatrix: Option<&[&[f32; 256]; BATCH]>) -> [[f32; 256]; BATCH] {
    let mut weights = [[0.0; 256]; BATCH];
    let squares = if imatrix.is_some() { sums_of_squares::<F, _, _>(x) } else { [0.0; BATCH] };
    for b in 0..BATCH {
        let sigma2 = F::splat(2.0 * squares[b] / 256.0);
        for i in (0..256).step_by(F::LEN) {
            let v = F::load(&x[b][i..]);
            let weight = match imatrix {
                Some(imatrix) => F::load(&imatrix[b][i..]) * (sigma2 + v * v).sqrt(),
                None => v * v,
            };
            weight.store(&mut weights[b][i..]);
        }
    }
    weights
}

/// Searches as many sub-blocks as there are lanes, from sub-block `first` of the batch on.
#[inline(always)]
fn search<F: F32Lanes, const W: usize>(
    blocks: &[&[f32; 256]; BATCH],
    weight_blocks: &[&[f32; 256]; BATCH],
    first: usize,
    epsilon: f32,
    scratch: &mut Scratch<F>,
) -> [Outcome; MAX_LANES] {
    let neighbours = &*grid::IQ1;
    let x = tile::load::<F, 256, W, 1>(blocks, first);
    let weights = tile::load::<F, 256, W, 1>(weight_blocks, first);
    let mut largest = x[0][0].abs();
    for i in 1..W {
        largest = largest.greater(x[i][0].abs());
    }
    let zeros = largest.lt(F::splat(epsilon)).bits();
    let splits = split::best::<F, W>(&x, &weights, scratch);
    let (clear, scale) = (splits.clear.bits() & largest.lt(F::splat(split::HUGE)).bits(), splits.scale);
    let words = points::<F, W>(neighbours, blocks, weight_blocks, first, &splits, clear & !zeros);
    let scale = refit::<F, W>(&x, &weights, &splits, &words, scale);
    let mut scales = [0.0; MAX_LANES];
    scale.store(&mut scales);
    let mut outcomes = [Outcome::Unclear; MAX_LANES];
    for lane in 0..F::LEN {
        if zeros >> lane & 1 == 1 {
            outcomes[lane] = Outcome::Zeros;
        } else if clear >> lane & 1 == 1 {
            let mut points = [0; VECTORS];
            for k in 0..W / 8 {
                points[k] = neighbours.index(words.words[k][lane] as u16);
            }
            let down = splits.down.map(|bits| bits >> lane & 1 == 1);
            outcomes[lane] = Outcome::Found(Found { scale: scales[lane], points, down });
        }
    }
    outcomes
}

/// Words of points, by vector and lane.
struct Words {
    words: [[i32; MAX_LANES]; VECTORS],
    /// Lanes, as bits, with a vector off the grid.
    off_grid: u32,
}

/// Looks up the levels of the lanes in `searched`.
#[inline(always)]
fn points<F: F32Lanes, const W: usize>(
    neighbours: &Neighbours<8>,
    blocks: &[&[f32; 256]; BATCH],
    weight_blocks: &[&[f32; 256]; BATCH],
    first: usize,
    splits: &Splits<F>,
    searched: u32,
) -> Words {
    let mut found = Words { words: [[0; MAX_LANES]; VECTORS], off_grid: 0 };
    let mut scales = [0.0; MAX_LANES];
    splits.scale.store(&mut scales);
    let (up, down) = (shifted::<F>(&UP), shifted::<F>(&DOWN));
    for k in 0..W / 8 {
        let mut key = F::splat(0.0);
        for i in (8 * k..8 * k + 8).rev() {
            key = extend_key::<F, 8>(key, splits.level(i));
        }
        let mut keys = [0; MAX_LANES];
        key.nearest_int().store(&mut keys);
        for lane in 0..F::LEN {
            if searched >> lane & 1 == 0 {
                continue;
            }
            let word = match neighbours.spot(keys[lane] as usize, false) {
                Spot::OnGrid(word) => word,
                Spot::Near(list) => {
                    found.off_grid |= 1 << lane;
                    let (b, at) = ((first + lane) / (256 / W), (first + lane) % (256 / W) * W + 8 * k);
                    let values = if splits.down[k % 2] >> lane & 1 == 1 { down } else { up };
                    let (x, weight) = (head(&blocks[b][at..]), head(&weight_blocks[b][at..]));
                    let target = Target { x, weight, values };
                    nearest::<F, 8>(list, &target, scales[lane])
                }
            };
            found.words[k][lane] = i32::from(word);
        }
    }
    found
}

/// Levels with a shift, as a table.
#[inline(always)]
fn shifted<F: F32Lanes>(values: &[f32; 3]) -> F {
    let table: [f32; MAX_LANES] = std::array::from_fn(|i| if i % 4 < 3 { values[i % 4] } else { 0.0 });
    F::load(&table)
}

/// The scale that suits the points, where one was off the grid and there is such a scale.
#[inline(always)]
fn refit<F: F32Lanes, const W: usize>(
    x: &[[F; 1]; W],
    weights: &[[F; 1]; W],
    splits: &Splits<F>,
    found: &Words,
    scale: F,
) -> F {
    let zero = F::splat(0.0);
    let (up, down) = (shifted::<F>(&UP), shifted::<F>(&DOWN));
    let (mut sum_qx, mut sum_q2) = (zero, zero);
    for k in 0..W / 8 {
        let mut words = F::Int::load(&found.words[k]);
        let is_down = split::lanes_of_bits::<F>(splits.down[k % 2]);
        for i in 8 * k..8 * k + 8 {
            let q = F::select(is_down, down.look_up_4(words), up.look_up_4(words));
            words = words.shr::<2>();
            sum_qx = sum_qx + weights[i][0] * q * x[i][0];
            sum_q2 = sum_q2 + weights[i][0] * q * q;
        }
    }
    let changed = split::lanes_of_bits::<F>(found.off_grid) & sum_qx.gt(zero) & sum_q2.gt(zero);
    F::select(changed, sum_qx / sum_q2, scale)
}
