//! The search over a super-block.

use super::magnitudes::{Magnitudes, octets};
use super::{Codebook, Found};
use crate::block::layout::group;
use crate::kernel::grid::candidates::{self, MAX_CANDIDATES, Octets, Points};
use crate::kernel::grid::cell::{is_inside, to_edge};
use crate::kernel::grid::nearest::{Target, nearest};
use crate::kernel::grid::{Neighbours, Spot, extend_key, look_up, next_level, odd_numbers};
use crate::kernel::{superblock, tile};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask, head};
use crate::reference::codebook::{Revisit, Search};

/// Sub-blocks in a super-block, at most.
const SUB_BLOCKS: usize = 16;
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
    // A bit for each sub-block with a candidate that improves on nothing.
    let mut chosen = 0u32;
    for first in (0..32).step_by(F::LEN) {
        let (mut width, mut skipped) = ([1.0; MAX_LANES], 0);
        for lane in 0..F::LEN {
            let j = (first + lane) / (W / 8);
            width[lane] = widths[j];
            skipped |= (zeros >> j & 1) << lane;
        }
        let tile = Octets {
            columns: octets(&magnitudes.x, first),
            roots: octets(&magnitudes.root, first),
            x: &magnitudes.x[8 * first..],
            root: &magnitudes.root[8 * first..],
            weight: &magnitudes.weight[8 * first..],
            product: &magnitudes.product[8 * first..],
            width: F::load(&width),
            skipped,
        };
        let mut energy = F::splat(0.0);
        for i in 0..8 {
            let scaled = tile.roots[i] * tile.columns[i];
            energy = energy + scaled * scaled;
        }
        let mut energies = [0.0; MAX_LANES];
        energy.store(&mut energies);
        candidates::find(neighbours, &tile, tops, top, &mut workspace.candidates);
        for j in first / (W / 8)..(first + F::LEN) / (W / 8) {
            if zeros >> j & 1 == 1 {
                continue;
            }
            let octet = W / 8 * j - first;
            let vectors = 8 * octet / N;
            let points = &workspace.candidates.points;
            let energy = energies[octet..octet + W / 8].iter().sum();
            let candidate = choose::<F, N, W>(points, vectors, magnitudes, j, tops.len(), energy);
            let (mut words, mut on_grid) = ([0; 8], if search.revisit == Revisit::OffGrid { 255 } else { 0 });
            if let Some(candidate) = candidate {
                chosen |= 1 << j;
                on_grid = 0;
                for k in 0..W / N {
                    words[k] = i32::from(points.word(vectors + k, candidate));
                    on_grid |= u8::from(points.on_grid(vectors + k, candidate)) << k;
                }
            }
            for k in 0..W / N {
                workspace.words[k][j] = words[k];
            }
            workspace.on_grid[j] = on_grid;
        }
    }
    refit::<F, N, W>(chosen, workspace);
}

/// The best candidate of sub-block `j`, whose vectors start at `vectors`; `None` if none improves on nothing.
///
/// A candidate with the points of the one before is left out: it has the same sums, so that it would be taken only if the
/// one before was, and change nothing. What is left are [contenders](candidates::Points::scores), seldom more than one.
#[inline(always)]
fn choose<F: F32Lanes, const N: usize, const W: usize>(
    points: &Points,
    vectors: usize,
    magnitudes: &Magnitudes,
    j: usize,
    count: usize,
    energy: f32,
) -> Option<usize> {
    let mut different = 0u32;
    for k in 0..W / N {
        different |= points.changes[vectors + k];
    }
    if let Some(contenders) = contenders::<F, N, W>(points, vectors, count, energy) {
        different &= contenders;
        if different.is_power_of_two() {
            return Some(different.trailing_zeros() as usize);
        }
    }
    let (product, weight) =
        (group(head::<_, 256>(&magnitudes.product), j), group(head::<_, 256>(&magnitudes.weight), j));
    let mut best = 0.0;
    let mut chosen = None;
    while different != 0 {
        // As many candidates as there are lanes.
        let mut candidates = [0; MAX_LANES];
        let mut words = [[0; MAX_LANES]; 8];
        let mut lanes = 0;
        while lanes < F::LEN && different != 0 {
            candidates[lanes] = different.trailing_zeros() as usize;
            different &= different - 1;
            for k in 0..W / N {
                words[k][lanes] = i32::from(points.word(vectors + k, candidates[lanes]));
            }
            lanes += 1;
        }
        let (mut sums_qx, mut sums_q2) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
        sums::<F, N, W>(&words, product, weight, &mut sums_qx, &mut sums_q2);
        for lane in 0..lanes {
            let (sum_qx, sum_q2) = (sums_qx[lane], sums_q2[lane]);
            if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
                let scale = sum_qx / sum_q2;
                best = scale * sum_qx;
                chosen = Some(candidates[lane]);
            }
        }
    }
    chosen
}

/// See [`candidates::Points::scores`].
#[inline(always)]
fn contenders<F: F32Lanes, const N: usize, const W: usize>(
    points: &Points,
    vectors: usize,
    count: usize,
    energy: f32,
) -> Option<u32> {
    match W / N {
        2 => points.scores.contenders::<F, 2>(vectors, count, energy),
        4 => points.scores.contenders::<F, 4>(vectors, count, energy),
        _ => points.scores.contenders::<F, 8>(vectors, count, energy),
    }
}

/// `sum(w * x * q)` and `sum(w * q * q)` of candidates, one a lane.
#[inline(always)]
fn sums<F: F32Lanes, const N: usize, const W: usize>(
    words: &[[i32; MAX_LANES]; 8],
    product: &[f32; W],
    weight: &[f32; W],
    to_qx: &mut [f32],
    to_q2: &mut [f32],
) {
    let values = odd_numbers::<F, N>();
    let (mut sum_qx, mut sum_q2) = (F::splat(0.0), F::splat(0.0));
    for k in 0..W / N {
        let mut words = F::Int::load(&words[k]);
        for i in N * k..N * (k + 1) {
            let q = look_up::<F, N>(values, words);
            words = next_level::<F::Int, N>(words);
            sum_qx = sum_qx + F::splat(product[i]) * q;
            sum_q2 = sum_q2 + F::splat(weight[i]) * q * q;
        }
    }
    sum_qx.store(to_qx);
    sum_q2.store(to_q2);
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
        let columns: [F; 8] = octets(&magnitudes.x, first);
        let (mut keys, mut inside) = ([[0; MAX_LANES]; 2], [0; 2]);
        for h in 0..8 / N {
            let (mut key, mut to_edges) = (F::splat(0.0), F::splat(1.0));
            for i in (N * h..N * (h + 1)).rev() {
                to_edges = to_edges.lesser(to_edge(F::splat(0.5) * inverse * columns[i]));
                // Any scale may come out of cancelling sums: rounding wraps as the reference has it.
                let rounded = (F::splat(0.5) * (inverse * columns[i] - F::splat(1.0))).nearest_int();
                key = extend_key::<F, N>(key, rounded.clamp(0, i32::from(search.grid.max_level())).to_float());
            }
            key.nearest_int().store(&mut keys[h]);
            inside[h] = is_inside(to_edges).bits();
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
