//! What Q4_K and Q5_K share: super-blocks of 8 sub-blocks of 32 weights, `x = d * s * q - dmin * m`, where the sub-blocks'
//! scales `s` and minima `m` are 6-bit integers packed into 12 bytes.

use half::f16;

use super::layout::group;
use crate::reference::affine::{self, Cost, Grid, WEIGHTED_GRID};
use crate::reference::rounding::{nearest_int, to_half};
use crate::reference::{importance, superblock};

/// What the search over each sub-block yields.
pub(crate) struct SubBlocks {
    /// Scales.
    pub(crate) scales: [f32; 8],
    /// Minima, sign turned.
    pub(crate) mins: [f32; 8],
    /// Codes of all weights.
    pub(crate) codes: [u8; 256],
    /// Sums of the weights' importances. Without an importance matrix they are not needed and zero.
    pub(crate) totals: [f32; 8],
}

impl SubBlocks {
    fn fit(x: &[f32; 256], max_code: i32, grid: Grid, weights: impl Fn(usize, &[f32; 32]) -> ([f32; 32], f32)) -> Self {
        let mut own = Self { scales: [0.0; 8], mins: [0.0; 8], codes: [0; 256], totals: [0.0; 8] };
        for (j, codes) in own.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let x = group(x, j);
            let (weights, total) = weights(j, x);
            let fit = affine::search(x, &weights, max_code, grid, Cost::Square);
            own.scales[j] = fit.scale;
            own.mins[j] = fit.min;
            own.totals[j] = total;
            *codes = fit.codes;
        }
        own
    }

    /// Searches with the weights `rms + |x|`, where `rms` is that of the sub-block.
    pub(crate) fn fit_plain(x: &[f32; 256], max_code: i32, grid: Grid) -> Self {
        Self::fit(x, max_code, grid, |_, x| {
            let rms = (importance::sum_of_squares(x) / 32.0).sqrt();
            (x.map(|v| rms + v.abs()), 0.0)
        })
    }

    /// Searches with an importance matrix; `sigma2` is twice the mean square of the super-block.
    pub(crate) fn fit_weighted(x: &[f32; 256], imatrix: &[f32; 256], max_code: i32) -> Self {
        let sigma2 = 2.0 * importance::sum_of_squares(x) / 256.0;
        Self::fit(x, max_code, WEIGHTED_GRID, |j, x| {
            let weights = importance::weigh(x, group(imatrix, j), sigma2);
            (weights, importance::total(&weights))
        })
    }
}

/// Scales and minima as they are stored.
pub(crate) struct Scales {
    /// Scale of the scales.
    pub(crate) d: f16,
    /// Scale of the minima.
    pub(crate) dmin: f16,
    /// See [`pack`].
    pub(crate) packed: [u8; 12],
}

impl Scales {
    /// Maps the largest scale to 63, and the largest minimum likewise.
    pub(crate) fn by_largest(scales: &[f32; 8], mins: &[f32; 8]) -> Self {
        let round = |values: &[f32; 8]| {
            let max = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
            let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
            (to_half(max / 63.0), values.map(|v| (nearest_int(inverse * v) as u8).min(63)))
        };
        let ((d, scales), (dmin, mins)) = (round(scales), round(mins));
        Self { d, dmin, packed: pack(&scales, &mins) }
    }

    /// Searches for both, sub-blocks counting by their importance. `limit` caps what a negative scale wraps to.
    pub(crate) fn by_search(fit: &SubBlocks, limit: u8) -> Self {
        let (d, scales) = superblock::search(&fit.scales, &fit.totals, 63);
        let (dmin, mins) = superblock::search(&fit.mins, &fit.totals, 63);
        Self::by_codes(d, dmin, &scales, &mins, limit)
    }

    /// Rounds and packs what a search found. `limit` caps codes.
    pub(crate) fn by_codes(d: f32, dmin: f32, scales: &[u8; 8], mins: &[u8; 8], limit: u8) -> Self {
        let packed = pack(&scales.map(|s| s.min(limit)), &mins.map(|m| m.min(limit)));
        Self { d: to_half(d), dmin: to_half(dmin), packed }
    }

    /// Scale and minimum of sub-block `j`, as they decode.
    #[inline(always)]
    pub(crate) fn decode(&self, j: usize) -> (f32, f32) {
        let (scale, min) = unpack(&self.packed, j);
        (self.d.to_f32() * f32::from(scale), self.dmin.to_f32() * f32::from(min))
    }

    /// Replaces the search's codes by those that suit the stored scales.
    pub(crate) fn recode(&self, x: &[f32; 256], max_code: i32, codes: &mut [u8; 256]) {
        for (j, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = self.decode(j);
            affine::recode(group(x, j), scale, min, max_code, codes);
        }
    }
}

/// Packs eight 6-bit scales and minima: bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 minima 0 to 3, bytes 8 to 11 the
/// lower four bits of scales and minima 4 to 7, whose upper two bits sit on top of the first eight bytes.
fn pack(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    packed[..4].copy_from_slice(&scales[..4]);
    packed[4..8].copy_from_slice(&mins[..4]);
    for j in 4..8 {
        packed[j + 4] = (scales[j] & 15) | ((mins[j] & 15) << 4);
        packed[j - 4] |= (scales[j] >> 4) << 6;
        packed[j] |= (mins[j] >> 4) << 6;
    }
    packed
}

#[inline(always)]
pub(crate) fn unpack(packed: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    }
}
