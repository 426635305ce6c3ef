//! `IQ1_M`: ternary levels from a codebook of 2048 8-vectors, one shift for each 8; 1.75 bits per weight.
//!
//! `x = d * (2 * s + 1) * (l + shift)`, where `l` (-1, 0 or 1) comes from the codebook, `s` is a 3-bit code for each
//! sub-block of 16 and `shift` is 1/8 or -1/8 for each vector. `d` has no field of its own: its 16 bits are the top 4 bits of
//! the four words of scale codes.

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

/// 1.75-bit codebook of 8-vectors.
pub struct IQ1_M;

/// Sub-blocks whose largest magnitude lies below this are encoded as zeros.
const EPSILON: f32 = 1e-7;

/// What the stored scale is raised by after the search, found by experiment: part of the format's encoder.
const D_FACTOR: f32 = 1.1125;

block_layout! {
    /// A super-block of 256 weights.
    struct Block, 56 bytes {
        /// Low 8 bits of the codebook indices, 2 to a sub-block.
        qs: [[u8; 2]; 16],
        /// For each sub-block and both vectors, the first one lower: high 3 bits of the index, then a set bit for a shift
        /// down.
        qh: [u8; 16],
        /// Scale codes of four sub-blocks, the first one lowest, and above them 4 bits of `d`, lowest ones first.
        scales: [u16; 4],
    }
}

impl Block {
    /// The values of the levels in vector `k`.
    #[inline(always)]
    fn values(&self, k: usize) -> &'static [f32; 3] {
        values(self.qh[k / 2] >> (4 * (k % 2)) & 8 != 0)
    }
}

/// Whether the shift of each half of a sub-block is down.
type Shifts = [bool; 2];

fn values(down: bool) -> &'static [f32; 3] {
    if down { &DOWN } else { &UP }
}

/// The best split of the sorted weights. Either half has its own shift, so prefix sums are kept for each; a split's sums
/// follow from the totals because neighbouring levels are 1 apart under both shifts.
fn best_split(x: &[f32; 16], weights: &[f32; 16], order: &[u8; 16]) -> Option<Split<Shifts>> {
    let mut sumx = [[0.0; 17]; 2];
    let mut sumw = [[0.0; 17]; 2];
    for (j, &i) in order.iter().enumerate() {
        let i = usize::from(i);
        let (own, other) = (i / 8, 1 - i / 8);
        sumx[own][j + 1] = sumx[own][j] + weights[i] * x[i];
        sumx[other][j + 1] = sumx[other][j];
        sumw[own][j + 1] = sumw[own][j] + weights[i];
        sumw[other][j + 1] = sumw[other][j];
    }
    let sums = |half: usize, down: bool, first: usize, second: usize| {
        let v = values(down);
        let (x, w) = (&sumx[half], &sumw[half]);
        let sumqx = x[16] * v[2] - (x[first] + x[second]);
        let sumq2 = w[16] * v[2] * v[2]
            + w[first] * (v[0] * v[0] - v[1] * v[1])
            + w[second] * (v[1] * v[1] - v[2] * v[2]);
        (sumqx, sumq2)
    };
    let mut best = BestSplit::default();
    for first in 0..=16 {
        for second in first..=16 {
            for down in [[false, false], [false, true], [true, false], [true, true]] {
                let low = sums(0, down[0], first, second);
                let high = sums(1, down[1], first, second);
                best.offer(first, second, down, low.0 + high.0, low.1 + high.1);
            }
        }
    }
    best.finish()
}

/// Best fit of the sub-block that `row` starts with; `None` if it is stored as zeros.
fn search(row: &[f32], weights: &[f32; 16]) -> Option<Found> {
    let x: &[f32; 16] = group(row, 0);
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
        down = down.map(|d| !d);
    }
    let mut all_on_grid = true;
    let mut points = [0; 4];
    for k in 0..2 {
        let (levels, weights) = (group(&levels, k), group(weights, k));
        let (point, on_grid) = snap(&grid::IQ1, levels, &row[8 * k..], weights, scale, values(down[k]));
        all_on_grid &= on_grid;
        points[k] = point;
    }
    if !all_on_grid {
        let mut sums = (0.0, 0.0);
        for k in 0..2 {
            let value = |level: u8| values(down[k])[usize::from(level)];
            add_sums(grid::IQ1.point(points[k]), group(x, k), group(weights, k), value, &mut sums);
        }
        if sums.0 > 0.0 && sums.1 > 0.0 {
            scale = sums.0 / sums.1;
        }
    }
    (!scale.is_nan()).then_some(Found { scale, points, down })
}

/// Encodes the super-block that `row`, the rest of the row, starts with.
fn encode(row: &[f32], imatrix: Option<&[f32; 256]>) -> Block {
    let x: &[f32; 256] = group(row, 0);
    let sigma2 = 2.0 * sum_of_squares(x) / 256.0;
    let weights: [[f32; 16]; 16] = std::array::from_fn(|ib| {
        let x: &[f32; 16] = group(x, ib);
        match imatrix {
            Some(imatrix) => weigh(x, group(imatrix, ib), sigma2),
            None => x.map(|v| v * v),
        }
    });
    let found: [Option<Found>; 16] = std::array::from_fn(|ib| search(&row[16 * ib..], &weights[ib]));
    pack(x, weights.as_flattened(), &found)
}

/// Rounds the scales, fits the common one again, and packs everything.
fn pack(x: &[f32; 256], weights: &[f32], found: &[Option<Found>]) -> Block {
    // What sub-blocks stored as zeros keep: index 0, both shifts up.
    let zeros = Found { scale: 0.0, points: [0; 4], down: [false; 2] };
    let found: [Found; 16] = std::array::from_fn(|ib| found[ib].unwrap_or(zeros));
    let mut max_scale = 0.0;
    for found in &found {
        max_scale = max(max_scale, found.scale);
    }
    let mut block = Block { qs: [[0; 2]; 16], qh: [0; 16], scales: [0; 4] };
    for (ib, Found { points, .. }) in found.iter().enumerate() {
        block.qs[ib] = [points[0] as u8, points[1] as u8];
        block.qh[ib] = (points[0] >> 8 | points[1] >> 8 << 4) as u8;
    }
    if max_scale == 0.0 {
        // The codes found under a scale of zero stay, without their shifts.
        return block;
    }
    let mut d = max_scale / 15.0;
    let scales: [f32; 16] = std::array::from_fn(|ib| found[ib].scale);
    let codes = scale_codes(&scales, d, 7);
    // With everything else rounded, `d` is fitted once more.
    let mut sums = (0.0, 0.0);
    for ib in 0..16 {
        let Found { points, down, .. } = &found[ib];
        block.scales[ib / 4] |= u16::from(codes[ib]) << (3 * (ib % 4));
        block.qh[ib] |= u8::from(down[0]) << 3 | u8::from(down[1]) << 7;
        let unit = f32::from(2 * codes[ib] + 1);
        for k in 0..2 {
            let value = |level: u8| values(down[k])[usize::from(level)] * unit;
            add_sums(grid::IQ1.point(points[k]), group(x, 2 * ib + k), group(weights, 2 * ib + k), value, &mut sums);
        }
    }
    if sums.1 > 0.0 {
        d = sums.0 / sums.1;
    }
    let d = to_half(d * D_FACTOR).to_bits();
    for (i, word) in block.scales.iter_mut().enumerate() {
        *word |= (d >> (4 * i) & 15) << 12;
    }
    block
}

/// The super-block's scale, gathered from the words it is scattered over.
pub(crate) fn super_scale(block: &Block) -> f16 {
    f16::from_bits(block.scales.iter().enumerate().fold(0, |bits, (i, word)| bits | (word >> 12) << (4 * i)))
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let d = super_scale(block).to_f32();
    for (ib, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = IQ1_M::scale(block, d, ib);
        for k in 0..2 {
            // Levels are 1 apart and the sums exact.
            let levels = levels8(codewords::IQ1[usize::from(IQ1_M::point(block, 2 * ib + k))]);
            let lowest = block.values(2 * ib + k)[0];
            for j in 0..8 {
                out[8 * k + j] = scale * (levels[j] as f32 + lowest);
            }
        }
    }
}

impl Ternary<16> for IQ1_M {
    type Block = Block;
    const EPSILON: f32 = EPSILON;

    fn search(row: &[f32], weights: &[f32; 16]) -> Option<Found> {
        search(row, weights)
    }

    fn pack(x: &[f32; 256], weights: &[f32; 256], found: &[Option<Found>]) -> Block {
        pack(x, weights, found)
    }
}

impl VectorCodes for IQ1_M {
    type Block = Block;
    const SUB_LEN: usize = 16;
    const DIMS: usize = 8;
    const SIGNS: Option<Signs> = None;
    const SHIFT: bool = true;

    fn points() -> Vec<f32> {
        coordinates(&codewords::IQ1, levels8, |level| (level - 1) as f32)
    }

    #[inline(always)]
    fn d(block: &Block) -> f32 {
        super_scale(block).to_f32()
    }

    #[inline(always)]
    fn scale(block: &Block, d: f32, j: usize) -> f32 {
        d * f32::from(2 * (block.scales[j / 4] >> (3 * (j % 4)) & 7) + 1)
    }

    fn shift(block: &Block, k: usize) -> f32 {
        block.values(k)[1]
    }

    #[inline(always)]
    fn point(block: &Block, k: usize) -> u16 {
        u16::from(block.qs[k / 2][k % 2]) | u16::from(block.qh[k / 2] >> (4 * (k % 2)) & 7) << 8
    }

    fn set_point(block: &mut Block, k: usize, point: u16) {
        block.qs[k / 2][k % 2] = point as u8;
        block.qh[k / 2] = replaced(block.qh[k / 2].into(), 4 * (k % 2), 3, (point >> 8).into()) as u8;
    }
}

impl BlockFormat for IQ1_M {
    const INFO: FormatInfo = FormatInfo {
        name: "IQ1_M",
        ggml_type: 29,
        block_len: 256,
        block_bytes: Block::BYTES,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "1.75-bit codebook of 8-vectors",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        for (i, out) in out.chunks_exact_mut(Block::BYTES).enumerate() {
            encode(&x[256 * i..], imatrix.map(|columns| group(columns, i))).write(out);
        }
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", super_scale(block)))
    }
}
