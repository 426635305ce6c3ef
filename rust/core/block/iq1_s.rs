//! `IQ1_S`: ternary levels from a codebook of 2048 8-vectors, one shift for each 32; 1.5625 bits per weight.
//!
//! `x = d * (2 * s + 1) * (l + shift)`, where `l` (-1, 0 or 1) comes from the codebook, `s` is a 3-bit code and `shift` is
//! 1/8 or -1/8, both for each sub-block of 32.

use super::layout::{Layout, block_layout, decode_blocks, finite, group, validate_blocks};
use super::signs::levels8;
use super::vector::{VectorCodes, coordinates, replaced};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::ternary::{Found, Ternary};
use crate::reference::codebook::{Signs, max, scale_codes};
use crate::reference::grid::{self, codewords};
use crate::reference::importance::{sum_of_squares, weigh};
use crate::reference::rounding::to_half;
use crate::reference::ternary::{BestSplit, DOWN, Split, UP, add_sums, ascending, snap};
use half::f16;

/// 1.56-bit codebook of 8-vectors.
pub struct IQ1_S;

/// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
const EPSILON: f32 = 1e-12;

/// What the stored scale is raised by after the search, found by experiment: part of the format's encoder.
const D_FACTOR: f32 = 1.125;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 50 bytes {
        d: f16,
        /// Low 8 bits of the codebook indices, 4 to a sub-block.
        qs: [[u8; 4]; 8],
        /// For each sub-block: high 3 bits of four indices, then the scale code, then a set bit for a shift down.
        qh: [u16; 8],
    }
}

impl Block {
    /// The values of the levels in vector `k`.
    #[inline(always)]
    fn values(&self, k: usize) -> &'static [f32; 3] {
        if self.qh[k / 4] >> 15 == 1 { &DOWN } else { &UP }
    }
}

/// The two shifts in the order in which splits are offered.
const SHIFTS: [(bool, [f32; 3]); 2] = [(false, UP), (true, DOWN)];

/// The best split of the sorted weights, scored by differences of prefix sums.
fn best_split(x: &[f32; 32], weights: &[f32; 32], order: &[u8; 32]) -> Option<Split<bool>> {
    let mut sumx = [0.0; 33];
    let mut sumw = [0.0; 33];
    for (j, &i) in order.iter().enumerate() {
        let i = usize::from(i);
        sumx[j + 1] = sumx[j] + weights[i] * x[i];
        sumw[j + 1] = sumw[j] + weights[i];
    }
    let mut best = BestSplit::default();
    for first in 0..=32 {
        for second in first..=32 {
            let x = [sumx[first] - sumx[0], sumx[second] - sumx[first], sumx[32] - sumx[second]];
            let w = [sumw[first] - sumw[0], sumw[second] - sumw[first], sumw[32] - sumw[second]];
            for (down, v) in SHIFTS {
                let sumqx = x[0] * v[0] + x[1] * v[1] + x[2] * v[2];
                let sumq2 = w[0] * v[0] * v[0] + w[1] * v[1] * v[1] + w[2] * v[2] * v[2];
                best.offer(first, second, down, sumqx, sumq2);
            }
        }
    }
    best.finish()
}

/// Best fit of the sub-block that `row` starts with; `None` if it is stored as zeros.
fn search(row: &[f32], weights: &[f32; 32]) -> Option<Found> {
    let x: &[f32; 32] = group(row, 0);
    let largest = x[1..].iter().fold(x[0].abs(), |largest, v| max(largest, v.abs()));
    if largest < EPSILON {
        return None;
    }
    let order = ascending(x);
    let split = best_split(x, weights, &order)?;
    let levels = split.levels(&order);
    let mut scale = split.scale;
    let mut down = split.shift;
    if scale < 0.0 {
        scale = -scale;
        down = !down;
    }
    let values = if down { &DOWN } else { &UP };
    let mut all_on_grid = true;
    let points: [u16; 4] = std::array::from_fn(|k| {
        let (point, on_grid) = snap(&grid::IQ1, group(&levels, k), &row[8 * k..], group(weights, k), scale, values);
        all_on_grid &= on_grid;
        point
    });
    if !all_on_grid {
        let mut sums = (0.0, 0.0);
        for k in 0..4 {
            let value = |level: u8| values[usize::from(level)];
            add_sums(grid::IQ1.point(points[k]), group(x, k), group(weights, k), value, &mut sums);
        }
        if sums.0 > 0.0 && sums.1 > 0.0 {
            scale = sums.0 / sums.1;
        }
    }
    (!scale.is_nan()).then_some(Found { scale, points, down: [down; 2] })
}

/// Encodes the super-block that `row`, the rest of the row, starts with.
fn encode(row: &[f32], imatrix: &[f32; 256]) -> Block {
    let x: &[f32; 256] = group(row, 0);
    let sigma2 = 2.0 * sum_of_squares(x) / 256.0;
    let found: [Option<Found>; 8] = std::array::from_fn(|ib| {
        let weights = weigh(group(x, ib), group(imatrix, ib), sigma2);
        search(&row[32 * ib..], &weights)
    });
    pack(&found)
}

/// Rounds the scales and packs everything.
fn pack(found: &[Option<Found>]) -> Block {
    let mut block = Block { d: f16::ZERO, qs: [[0; 4]; 8], qh: [0; 8] };
    let mut scales = [0.0; 8];
    let mut max_scale = 0.0;
    let mut down = [false; 8];
    for (ib, found) in found.iter().enumerate() {
        let Some(found) = found else { continue };
        for k in 0..4 {
            block.qs[ib][k] = found.points[k] as u8;
            block.qh[ib] |= (found.points[k] >> 8) << (3 * k);
        }
        scales[ib] = found.scale;
        down[ib] = found.down[0];
        max_scale = max(max_scale, found.scale);
    }
    if max_scale == 0.0 {
        // The codes found under a scale of zero stay.
        return block;
    }
    let d = max_scale / 15.0;
    block.d = to_half(d * D_FACTOR);
    for (ib, code) in scale_codes(&scales, d, 7).into_iter().enumerate() {
        block.qh[ib] |= u16::from(code | u8::from(down[ib]) << 3) << 12;
    }
    block
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (ib, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, lowest) = (IQ1_S::scale(block, d, ib), block.values(4 * ib)[0]);
        for k in 0..4 {
            // Levels are 1 apart and the sums exact.
            let levels = levels8(codewords::IQ1[usize::from(IQ1_S::point(block, 4 * ib + k))]);
            for j in 0..8 {
                out[8 * k + j] = scale * (levels[j] as f32 + lowest);
            }
        }
    }
}

impl Ternary<32> for IQ1_S {
    type Block = Block;
    const EPSILON: f32 = EPSILON;

    fn search(row: &[f32], weights: &[f32; 32]) -> Option<Found> {
        search(row, weights)
    }

    fn pack(_: &[f32; 256], _: &[f32; 256], found: &[Option<Found>]) -> Block {
        pack(found)
    }
}

impl VectorCodes for IQ1_S {
    type Block = Block;
    const SUB_LEN: usize = 32;
    const DIMS: usize = 8;
    const SIGNS: Option<Signs> = None;
    const SHIFT: bool = true;

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ1, levels8, |level| (level - 1) as f32)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        block.d.to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * f32::from(2 * (block.qh[j] >> 12 & 7) + 1)
    }

    fn shift(block: &Block, k: usize) -> f32 {
        block.values(k)[1]
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        u16::from(block.qs[k / 4][k % 4]) | (block.qh[k / 4] >> (3 * (k % 4)) & 7) << 8
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k / 4][k % 4] = point as u8;
        block.qh[k / 4] = replaced(block.qh[k / 4].into(), 3 * (k % 4), 3, (point >> 8).into()) as u16;
    }
}

impl BlockFormat for IQ1_S {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ1_S",
        ggml_type: 19,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Required,
        storage: true,
        summary: "1.56-bit codebook of 8-vectors",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        let imatrix = imatrix.expect("IQ1_S is only encoded with an importance matrix");
        let columns = imatrix.as_chunks::<256>().0;
        for (i, (columns, out)) in columns.iter().zip(out.chunks_exact_mut(Block::BYTES)).enumerate() {
            encode(&x[256 * i..], columns).write(out);
        }
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}
