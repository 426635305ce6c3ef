//! Q2_K: super-blocks of 16 sub-blocks of 16 weights, `x = d * s * q - dmin * m` with 2-bit `q`, 4-bit `s` and `m` for each
//! sub-block, and `f16` `d` and `dmin`. 2.625 bpw.
//!
//! Plain: 16 candidates by absolute error, weighted by `|x|`; the largest scale maps to 15. With an importance matrix: 37
//! candidates by square error and a search for `d` and `dmin` as well; `sigma2` is the mean square of the super-block.

use half::f16;

use super::bits::{pack_pairs, pairs};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, encode_weighted_blocks, finite, group, validate_blocks};
use super::scalar::{ScalarCodes, steps};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::scale_min::ScaleMin;
use crate::reference::affine::{self, Cost, Fit, Grid, WEIGHTED_GRID};
use crate::reference::rounding::{nearest_int, to_half};
use crate::reference::{importance, superblock};

block_layout! {
    struct Block, 84 bytes {
        /// Scale of each sub-block in the lower half, minimum in the upper.
        scales: [u8; 16],
        /// Codes: in each half of 128, weights `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`, lowest bits first.
        qs: [u8; 64],
        /// Scale of the scales.
        d: f16,
        /// Scale of the minima.
        dmin: f16,
    }
}

const MAX_CODE: i32 = 3;
const MAX_SCALE: i32 = 15;
const PLAIN_GRID: Grid = Grid { first: -0.5, step: 0.1, last: 15 };

/// Scales and minima as they are stored.
pub(crate) struct Scales {
    d: f16,
    dmin: f16,
    packed: [u8; 16],
}

impl Scales {
    /// Maps the largest scale to 15, and the largest minimum likewise.
    fn by_largest(scales: &[f32; 16], mins: &[f32; 16]) -> Self {
        let round = |values: &[f32; 16]| {
            let max = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
            if max > 0.0 {
                let inverse = MAX_SCALE as f32 / max;
                (max / MAX_SCALE as f32, values.map(|v| nearest_int(inverse * v) as u8))
            } else {
                (0.0, [0; 16])
            }
        };
        let ((d, scales), (dmin, mins)) = (round(scales), round(mins));
        Self::by_codes(d, dmin, &scales, &mins)
    }

    fn by_codes(d: f32, dmin: f32, scales: &[u8; 16], mins: &[u8; 16]) -> Self {
        let packed = std::array::from_fn(|j| scales[j] | (mins[j] << 4));
        Self { d: to_half(d), dmin: to_half(dmin), packed }
    }

    /// Scale and minimum of sub-block `j`, as they decode.
    #[inline]
    fn decode(&self, j: usize) -> (f32, f32) {
        let scale = self.d.to_f32() * f32::from(self.packed[j] & 15);
        (scale, self.dmin.to_f32() * f32::from(self.packed[j] >> 4))
    }
}

fn pack(scales: &Scales, codes: &[u8; 256]) -> Block {
    Block { scales: scales.packed, qs: pack_pairs(codes), d: scales.d, dmin: scales.dmin }
}

/// Takes the codes anew with the scales as stored, and packs.
fn finish(x: &[f32; 256], fits: &[Fit<16>; 16], scales: &Scales) -> Block {
    let mut codes = [0; 256];
    for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        *codes = fits[j].codes;
        let (scale, min) = scales.decode(j);
        affine::recode(group(x, j), scale, min, MAX_CODE, codes);
    }
    pack(scales, &codes)
}

fn encode(x: &[f32; 256]) -> Block {
    let fits: [Fit<16>; 16] = std::array::from_fn(|j| {
        let x: &[f32; 16] = group(x, j);
        affine::search(x, &x.map(f32::abs), MAX_CODE, PLAIN_GRID, Cost::Absolute)
    });
    let scales = Scales::by_largest(&fits.map(|fit| fit.scale), &fits.map(|fit| fit.min));
    finish(x, &fits, &scales)
}

fn encode_weighted(x: &[f32; 256], imatrix: &[f32; 256]) -> Block {
    let sigma2 = importance::sum_of_squares(x) / 256.0;
    let mut totals = [0.0; 16];
    let fits: [Fit<16>; 16] = std::array::from_fn(|j| {
        let x = group(x, j);
        let weights = importance::weigh(x, group(imatrix, j), sigma2);
        totals[j] = importance::total(&weights);
        affine::search(x, &weights, MAX_CODE, WEIGHTED_GRID, Cost::Square)
    });
    let (d, scales) = superblock::search(&fits.map(|fit| fit.scale), &totals, MAX_SCALE);
    let (dmin, mins) = superblock::search(&fits.map(|fit| fit.min), &totals, MAX_SCALE);
    finish(x, &fits, &Scales::by_codes(d, dmin, &scales, &mins))
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
    let (mut scales, mut mins) = ([0.0; 16], [0.0; 16]);
    for j in 0..16 {
        scales[j] = d * f32::from(block.scales[j] & 15);
        mins[j] = dmin * f32::from(block.scales[j] >> 4);
    }
    let codes = pairs(&block.qs);
    for (j, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let codes = &codes.as_chunks::<16>().0[j];
        for i in 0..16 {
            out[i] = scales[j] * f32::from(codes[i]) - mins[j];
        }
    }
}

/// 2-bit codes, 4-bit scales and minima per 16.
pub struct Q2_K;

impl ScaleMin<16> for Q2_K {
    type Block = Block;
    type Scales = Scales;
    const MAX_CODE: i32 = MAX_CODE;
    const MAX_SCALE: i32 = MAX_SCALE;
    const PLAIN_GRID: Grid = PLAIN_GRID;
    const PLAIN_COST: Cost = Cost::Absolute;
    const PLAIN_RMS: bool = false;
    const SIGMA2: f32 = 1.0;

    fn by_largest(scales: &[f32; 16], mins: &[f32; 16]) -> Scales {
        Scales::by_largest(scales, mins)
    }

    fn by_codes(d: f32, dmin: f32, scales: &[u8; 16], mins: &[u8; 16]) -> Scales {
        Scales::by_codes(d, dmin, scales, mins)
    }

    fn decode(scales: &Scales, j: usize) -> (f32, f32) {
        scales.decode(j)
    }

    fn pack(scales: &Scales, codes: &[u8; 256]) -> Block {
        pack(scales, codes)
    }

    fn reference(x: &[f32; 256], imatrix: Option<&[f32; 256]>) -> Block {
        imatrix.map_or_else(|| encode(x), |imatrix| encode_weighted(x, imatrix))
    }
}

impl BlockFormat for Q2_K {
    const INFO: FormatInfo = FormatInfo {
        name: "Q2_K",
        ggml_type: 10,
        block_len: 256,
        block_bytes: 84,
        imatrix: ImatrixUse::Optional,
        storage: true,
        summary: "2-bit codes, 4-bit scales and minima per 16",
    };

    fn encode_row(x: &[f32], imatrix: Option<&[f32]>, out: &mut [u8]) {
        match imatrix {
            None => encode_blocks(x, out, encode),
            Some(imatrix) => encode_weighted_blocks(x, imatrix, out, encode_weighted),
        }
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d).and(finite("scale dmin", block.dmin)))
    }
}

impl ScalarCodes for Q2_K {
    const SUB_LEN: usize = 16;
    const TABLE: &'static [i8] = &steps::<4>(0);
    const OFFSET: bool = true;

    fn grid(block: &[u8], scale: &mut [f32], offset: &mut [f32]) {
        let own = Block::read(block);
        let scales = Scales { d: own.d, dmin: own.dmin, packed: own.scales };
        for (j, (scale, offset)) in scale.iter_mut().zip(offset).enumerate() {
            let (s, min) = scales.decode(j);
            (*scale, *offset) = (s, -min);
        }
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        let own = Block::read(block);
        let scales = Scales { d: own.d, dmin: own.dmin, packed: own.scales };
        pack(&scales, group(codes, 0)).write(block);
    }
}
