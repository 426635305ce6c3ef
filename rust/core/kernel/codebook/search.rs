//! The search over a super-block.

use super::magnitudes::Magnitudes;
use super::{Codebook, Found};
use crate::block::layout::group;
use crate::kernel::grid::candidates::{self, MAX_CANDIDATES, SUB_BLOCKS, Weighted, octets};
use crate::kernel::grid::cell::{from_middle, is_inside};
use crate::kernel::grid::nearest::{Target, nearest};
use crate::kernel::grid::{Neighbours, ON_GRID, Spot, extend_key, look_up, next_level, odd_numbers, scores};
use crate::kernel::{superblock, tile};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask, head};
use crate::reference::codebook::{Revisit, Search};

/// Magnitudes below this, where there are any, make candidates overflow.
const TINY: f32 = 1e-30;
/// Magnitudes are below this, and so must guesses be, which cancelling sums can make larger than all of them.
const WIDE: f32 = 1e9;
/// The largest product of an inverse scale and a magnitude for which rounding does not wrap.
const LIMIT: f32 = 1e6;

/// Memory that is used again for each super-block.
pub(super) struct Workspace {
    magnitudes: Magnitudes,
    candidates: candidates::Workspace,
    /// Words of each vector under the best candidate, by vector of the sub-block and sub-block.
    words: [[i32; SUB_BLOCKS]; 8],
    /// Whether rounding alone led to them, a bit a vector of the sub-block.
    on_grid: [u8; SUB_BLOCKS],
    /// Scales of sub-blocks.
    scales: [f32; SUB_BLOCKS],
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self {
            magnitudes: Magnitudes::new(),
            candidates: candidates::Workspace::new(),
            words: [[0; SUB_BLOCKS]; 8],
            on_grid: [0; SUB_BLOCKS],
            scales: [0.0; SUB_BLOCKS],
        }
    }
}

/// Searches all sub-blocks. False if the super-block must go through the reference.
#[inline(always)]
pub(super) fn super_block<F: F32Lanes, C: Codebook<N, W>, const N: usize, const W: usize>(
    x: &[f32; 256],
    imatrix: Option<&[f32; 256]>,
    sigma2: f32,
    workspace: &mut Workspace,
    found: &mut [Option<Found>],
) -> bool {
    let search = C::search();
    let neighbours = C::book();
    if !workspace.magnitudes.fill::<F>(x, imatrix, sigma2, C::PLAIN_SHARE * sigma2, C::SIGNS) {
        return false;
    }
    let mut widths = [1.0; SUB_BLOCKS];
    // A bit for each sub-block that is stored as zeros.
    let mut zeros = 0u32;
    for j in 0..256 / W {
        let octets = &workspace.magnitudes.largest[W / 8 * j..][..W / 8];
        let largest = octets.iter().fold(octets[0], |a, &b| if a > b { a } else { b });
        if largest < C::EPSILON {
            zeros |= 1 << j;
            continue;
        }
        if largest < TINY {
            return false;
        }
        widths[j] = largest;
        workspace.scales[j] = largest / f32::from(2 * search.grid.max_level() + 1);
    }
    if C::GUESSED && !guess::<F, W>(workspace, &mut widths, &mut zeros) {
        return false;
    }
    best_candidates::<F, N, W>(&search, neighbours, &widths, zeros, workspace);
    settle::<F, N, W>(&search, neighbours, zeros, workspace);
    for j in 0..256 / W {
        let scale = workspace.scales[j];
        found[j] = None;
        if zeros >> j & 1 == 1 || scale.is_nan() {
            continue;
        }
        let turned = if scale < 0.0 { 255 } else { 0 };
        let stored = if C::SIGNS == crate::reference::codebook::Signs::Even { 127 } else { 255 };
        let (mut points, mut signs) = ([0; 8], [0; 4]);
        for k in 0..W / N {
            points[k] = neighbours.index(workspace.words[k][j] as u16);
        }
        for k in 0..W / 8 {
            signs[k] = (workspace.magnitudes.signs[W / 8 * j + k] ^ turned) & stored;
        }
        found[j] = Some(Found { scale: if scale < 0.0 { -scale } else { scale }, points, signs });
    }
    true
}

/// First guesses as `scale * code`, codes 0 to 4; candidates then map three such steps to the largest level.
#[inline(always)]
fn guess<F: F32Lanes, const W: usize>(
    workspace: &mut Workspace,
    widths: &mut [f32; SUB_BLOCKS],
    zeros: &mut u32,
) -> bool {
    let magnitudes = &workspace.magnitudes;
    let (x, weight): (&[f32; 256], &[f32; 256]) = (head(&magnitudes.x), head(&magnitudes.weight));
    for first in (0..256 / W).step_by(F::LEN) {
        let (mut columns, mut weights) = ([F::splat(0.0); W], [F::splat(0.0); W]);
        // A tile may be wider than what is left of the super-block.
        let tile = tile::load::<F, 256, W, 1>(&[x, x], first);
        let weight_tile = tile::load::<F, 256, W, 1>(&[weight, weight], first);
        for i in 0..W {
            (columns[i], weights[i]) = (tile[i][0], weight_tile[i][0]);
        }
        let mut scales = [0.0; MAX_LANES];
        superblock::search::<F, W>(&columns, &weights, 4).0.store(&mut scales);
        for j in first..(first + F::LEN).min(256 / W) {
            if *zeros >> j & 1 == 1 {
                continue;
            }
            let (scale, width, largest) = (scales[j - first], scales[j - first] * 3.0, widths[j]);
            if width <= 0.0 {
                *zeros |= 1 << j;
            } else if width > TINY && width < WIDE && largest < width * (LIMIT / 8.0) {
                (workspace.scales[j], widths[j]) = (scale, width);
            } else {
                return false;
            }
        }
    }
    true
}

/// Finds the best candidate of each sub-block: its scale and points.
#[inline(always)]
fn best_candidates<F: F32Lanes, const N: usize, const W: usize>(
    search: &Search<'_, N>,
    neighbours: &Neighbours<N>,
    widths: &[f32; SUB_BLOCKS],
    zeros: u32,
    workspace: &mut Workspace,
) {
    let top = f32::from(2 * search.grid.max_level() + 1);
    let mut tops = [0.0; MAX_CANDIDATES];
    let tops = &mut tops[..2 * search.reach as usize + 1];
    for (i, numerator) in (-search.reach..=search.reach).zip(tops.iter_mut()) {
        *numerator = top + i as f32 * search.step;
    }
    let magnitudes = &workspace.magnitudes;
    let weighted = Weighted { x: &magnitudes.x, root: &magnitudes.root, widths, skipped: zeros };
    candidates::find::<F, N, W>(neighbours, &weighted, tops, top, &mut workspace.candidates);
    for j in (0..256 / W).filter(|j| zeros >> j & 1 == 0) {
        let words = &workspace.candidates.words[W / N * j..][..W / N];
        let (product, weight) =
            (group(head::<_, 256>(&magnitudes.product), j), group(head::<_, 256>(&magnitudes.weight), j));
        let best = scores::best::<F, N, W>(words, product, weight, tops.len());
        let mut on_grid = if search.revisit == Revisit::OffGrid { 255 } else { 0 };
        if let Some(best) = best {
            workspace.scales[j] = best.scale;
            on_grid = 0;
        }
        for k in 0..W / N {
            let word = best.map_or(0, |best| words[k][best.candidate]);
            workspace.words[k][j] = word & (ON_GRID - 1);
            on_grid |= u8::from(word & ON_GRID != 0) << k;
        }
        workspace.on_grid[j] = on_grid;
    }
}

/// Looks vectors up again under the scales found, and refits those.
#[inline(always)]
fn settle<F: F32Lanes, const N: usize, const W: usize>(
    search: &Search<'_, N>,
    neighbours: &Neighbours<N>,
    zeros: u32,
    workspace: &mut Workspace,
) {
    let all: u8 = ((1u32 << (W / N)) - 1) as u8;
    let mut revisited = [0u8; SUB_BLOCKS];
    let mut scales = [1.0; SUB_BLOCKS];
    for j in 0..256 / W {
        let off_grid = !workspace.on_grid[j] & all;
        if zeros >> j & 1 == 0 && workspace.scales[j] > 0.0 {
            scales[j] = workspace.scales[j];
            revisited[j] = match search.revisit {
                Revisit::Always => all,
                Revisit::AllIfAnyOffGrid if off_grid != 0 => all,
                Revisit::AllIfAnyOffGrid => 0,
                Revisit::OffGrid => off_grid,
            };
        }
    }
    let magnitudes = &workspace.magnitudes;
    let values = odd_numbers::<F, N>();
    for first in (0..32).step_by(F::LEN) {
        let mut lanes = [1.0; MAX_LANES];
        for lane in 0..F::LEN {
            lanes[lane] = scales[(first + lane) / (W / 8)];
        }
        let inverse = F::splat(1.0) / F::load(&lanes);
        let max_level = i32::from(search.grid.max_level());
        let columns: [F; 8] = octets(&magnitudes.x, first);
        let (mut keys, mut inside) = ([[0; MAX_LANES]; 2], [0; 2]);
        for h in 0..8 / N {
            let (mut key, mut farthest) = (F::splat(0.0), F::splat(0.0));
            for i in (N * h..N * (h + 1)).rev() {
                let exact = F::splat(0.5) * (inverse * columns[i] - F::splat(1.0));
                // Any scale may come out of cancelling sums: rounding wraps as the reference has it.
                let level = exact.nearest_int().clamp(0, max_level).to_float();
                let limited = exact.greater(F::splat(0.0)).lesser(F::splat(max_level as f32));
                farthest = farthest.greater(from_middle(limited, level));
                key = extend_key::<F, N>(key, level);
            }
            key.nearest_int().store(&mut keys[h]);
            inside[h] = is_inside(farthest).bits();
        }
        for lane in 0..F::LEN {
            let octet = first + lane;
            let j = octet / (W / 8);
            for h in 0..8 / N {
                let k = (octet * 8 - W * j) / N + h;
                if revisited[j] >> k & 1 == 0 {
                    continue;
                }
                let word = match neighbours.spot(keys[h][lane] as usize, inside[h] >> lane & 1 == 1) {
                    Spot::OnGrid(word) => word,
                    Spot::Near(list) => {
                        let at = 8 * octet + N * h;
                        let (x, root) = (head(&magnitudes.x[at..]), head(&magnitudes.root[at..]));
                        let target = Target { x, weight: root, values };
                        nearest::<F, N>(list, &target, scales[j])
                    }
                };
                workspace.words[k][j] = i32::from(word);
            }
        }
    }
    let mut refitted = 0u32;
    for j in 0..256 / W {
        refitted |= u32::from(revisited[j] != 0) << j;
    }
    refit::<F, N, W>(refitted, workspace);
}

/// Gives some sub-blocks the scales that suit their points, where there is such a scale.
#[inline(always)]
fn refit<F: F32Lanes, const N: usize, const W: usize>(refitted: u32, workspace: &mut Workspace) {
    let values = odd_numbers::<F, N>();
    let magnitudes = &workspace.magnitudes;
    let (product, weight): (&[f32; 256], &[f32; 256]) = (head(&magnitudes.product), head(&magnitudes.weight));
    for first in (0..256 / W).step_by(F::LEN) {
        let product = tile::load::<F, 256, W, 1>(&[product, product], first);
        let weight = tile::load::<F, 256, W, 1>(&[weight, weight], first);
        let (mut sum_qx, mut sum_q2) = (F::splat(0.0), F::splat(0.0));
        for k in 0..W / N {
            let mut words = F::Int::load(&workspace.words[k][first..]);
            for i in N * k..N * (k + 1) {
                let q = look_up::<F, N>(values, words);
                words = next_level::<F::Int, N>(words);
                sum_qx = sum_qx + product[i][0] * q;
                sum_q2 = sum_q2 + weight[i][0] * q * q;
            }
        }
        let (mut scales, mut positive) = ([0.0; MAX_LANES], sum_q2.gt(F::splat(0.0)).bits());
        (sum_qx / sum_q2).store(&mut scales);
        for j in first..(first + F::LEN).min(256 / W) {
            if positive & refitted >> j & 1 == 1 {
                workspace.scales[j] = scales[j - first];
            }
            positive >>= 1;
        }
    }
}
