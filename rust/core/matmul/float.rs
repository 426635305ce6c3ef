//! Products in `f32` with the exact decoded weights.
//!
//! Columns are summed 256 at a time: each stretch starts from zero, one fused multiply-add a column in order, and is then
//! added to the total. Neither the batch, nor the tile that a result lies in, nor the instruction set changes that order:
//! vector lanes are different results, never parts of one.
//!
//! With at most `min(K, 256) + K / 256 + 1` roundings on the way of any one product, the error of a result is at most that
//! number times `2^-24` times the sum of the magnitudes of its products, to first order.
//!
//! A tile is up to 6 rows of activations (12 with AVX-512), whose numbers are broadcast, by 16 rows of weights, which are
//! decoded once for all activations and laid side by side. Activations lie a stretch after another, so that the rows of a
//! tile are a known distance apart: with that distance in a register the same loop runs a sixth slower.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::slab::{Facts, SLAB, Slab};
use super::unpack::{Unpacker, integers};
use super::wide::{LANES, Portable, Wide};
use super::{Matrix, Output};
use crate::arch::{Isa, Kernel, kernel_for};
use crate::block::Format;
use crate::encode::Run;
use crate::error::Result;
use crate::lanes::{F32Lanes, MAX_LANES};
use crate::prefetch::prefetch;
use crate::scratch::Buffers;

/// Columns summed before they are added to the total.
const STRETCH: usize = SLAB;
/// Rows of weights in a task: decoded, they fit a core's own cache.
const ROWS: usize = 3 * LANES;
/// Matrices of fewer rows than this are cut into tasks of [`LANES`] rows, so that all threads have some.
const MANY_ROWS: usize = 16 * ROWS;
/// Rows of activations that are multiplied at a time: their sums fit a core's own cache.
const BATCH: usize = 512;
/// Stretches of activations that are laid out at a time, as long as one batch has fewer: 32 MB.
const ROUND: usize = 1 << 15;
/// Rows of activations that stay in cache while they meet all weights of a task, a multiple of every size of tile.
const BLOCK: usize = 48;

/// Columns of a row of activations that are summed together.
type Stretch = [f32; STRETCH];

/// Where the results of some rows of activations go: 16 numbers each, `stride` apart.
#[derive(Clone, Copy)]
struct Sums {
    start: *mut f32,
    stride: usize,
    /// Whether they count as zero, whatever is there.
    fresh: bool,
}

impl Sums {
    /// Those of later rows, or of other weights.
    fn skip(self, rows: usize, columns: usize) -> Self {
        Self { start: self.start.wrapping_add(rows * self.stride + columns), ..self }
    }
}

/// Adds the products of some rows of activations and 16 rows of weights, laid side by side, to sums, which this alone may
/// have access to.
type AddTile = unsafe fn(x: &[Stretch], side: &[[f32; LANES]], sums: Sums);

/// Decodes a slab.
type DecodeSlab = unsafe fn(slab: &Slab, facts: &Facts, to: &mut [f32; SLAB]);
/// Transposes 16 rows.
type SideBySide = unsafe fn(from: &[Stretch; LANES], to: &mut [[f32; LANES]]);

pub(super) fn matmul(isa: Isa, weights: Matrix<'_>, x: &[f32], n: usize, out: &mut [f32], run: Run<'_>) -> Result<()> {
    let cols = weights.cols;
    let job = Job {
        decoder: Decoder::new(weights.format, isa)?,
        functions: functions(isa),
        weights,
        output: Output::new(out, n, weights.rows),
    };
    let rows = if weights.rows < MANY_ROWS { LANES } else { ROWS };
    let slabs = cols.div_ceil(STRETCH);
    // Several batches at once: threads that wait for each other after each lose a third of their time on short rows.
    let round = BATCH * (ROUND / (BATCH * slabs)).max(1);
    // Rows of one stretch lie as they should.
    let len = if cols == STRETCH { 0 } else { round.min(n) * slabs };
    LAID_OUT.with(len, [0.0; STRETCH], |room| {
        for (number, x) in x.chunks(round * cols).enumerate() {
            let count = x.len() / cols;
            let stretches =
                if cols == STRETCH { x.as_chunks().0 } else { lay_out(x, cols, &mut room[..count * slabs], run)? };
            let batches = (0..count).step_by(BATCH).zip(stretches.chunks(BATCH * slabs));
            let tasks =
                batches.flat_map(|batch| (0..weights.rows).step_by(rows).map(move |row| (batch, row))).collect();
            run.for_each(tasks, |scratch, _, ((first, stretches), row): ((usize, &[Stretch]), usize)| {
                let rows = row..weights.rows.min(row + rows);
                job.panel(stretches, number * round + first, BATCH.min(count - first), rows, scratch);
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// Where activations are laid out.
static LAID_OUT: Buffers<Stretch> = Buffers::new();

/// Lays rows of `cols` activations out, batch by batch, a stretch of all its rows after another.
fn lay_out<'a>(x: &[f32], cols: usize, stretches: &'a mut [Stretch], run: Run<'_>) -> Result<&'a [Stretch]> {
    let slabs = cols.div_ceil(STRETCH);
    let mut tasks = Vec::new();
    for (stretches, x) in stretches.chunks_mut(BATCH * slabs).zip(x.chunks(BATCH * cols)) {
        tasks.extend(stretches.chunks_mut(x.len() / cols).enumerate().map(|(i, to)| (i * STRETCH, to, x)));
    }
    run.for_each(tasks, |_, _, (from, to, x): (usize, &mut [Stretch], &[f32])| {
        let len = STRETCH.min(cols - from);
        for (to, x) in to.iter_mut().zip(x.chunks_exact(cols)) {
            to[..len].copy_from_slice(&x[from..from + len]);
        }
        Ok(())
    })?;
    Ok(stretches)
}

struct Job<'a> {
    decoder: Decoder,
    functions: Functions,
    weights: Matrix<'a>,
    output: Output,
}

impl Job<'_> {
    /// Results of up to [`ROWS`] rows of weights with `count` rows of activations, the first of which is row `first`.
    fn panel(&self, x: &[Stretch], first: usize, count: usize, rows: Range<usize>, scratch: &mut Vec<f32>) {
        let cols = self.weights.cols;
        let tiles = rows.len().div_ceil(LANES);
        // Results of a single stretch need not be kept anywhere else.
        let direct = cols <= STRETCH && rows.len() == tiles * LANES;
        let kept = if direct { 0 } else { count * ROWS };
        if scratch.len() < tiles * LANES * STRETCH + kept {
            scratch.resize(tiles * LANES * STRETCH + kept, 0.0);
        }
        let (side, kept) = scratch.split_at_mut(tiles * LANES * STRETCH);
        let side = side.as_chunks_mut::<LANES>().0;
        let mut decoded = [[0.0; STRETCH]; LANES];
        for (x, from) in x.chunks_exact(count).zip((0..cols).step_by(STRETCH)) {
            let len = STRETCH.min(cols - from);
            for (side, row) in side.chunks_exact_mut(STRETCH).zip(rows.clone().step_by(LANES)) {
                for (decoded, row) in decoded.iter_mut().zip(row..rows.end) {
                    self.decoder.decode(self.weights.bytes(row, from, from + len), &mut decoded[..len]);
                }
                // SAFETY: `functions` chose it for this machine.
                unsafe { (self.functions.side_by_side)(&decoded, &mut side[..len]) };
            }
            let fresh = from == 0;
            let sums = if direct {
                // SAFETY: this task alone has these rows.
                let start = unsafe { self.output.place(first, count, rows.clone()) };
                Sums { start, stride: self.output.rows, fresh }
            } else {
                Sums { start: kept.as_mut_ptr(), stride: ROWS, fresh }
            };
            for (i, x) in x.chunks(BLOCK).enumerate() {
                for (j, side) in side.chunks_exact(STRETCH).enumerate() {
                    // SAFETY: `count` rows of as many columns as the tiles have start at `sums`, in both cases.
                    unsafe { self.block(x, &side[..len], sums.skip(i * BLOCK, j * LANES)) };
                }
            }
        }
        if direct {
            return;
        }
        for (i, sums) in kept.chunks_exact(ROWS).take(count).enumerate() {
            // SAFETY: this task alone has these rows.
            unsafe { self.output.write(first + i, rows.start, &sums[..rows.len()]) };
        }
    }

    /// Adds the products of some rows of activations and 16 of weights to `sums`, in tiles as equal as they can be: a tile
    /// of one row takes as long as one of two.
    ///
    /// # Safety
    /// There are sums for all these rows.
    unsafe fn block(&self, mut x: &[Stretch], side: &[[f32; LANES]], mut sums: Sums) {
        for tiles in (1..=x.len().div_ceil(self.functions.tile)).rev() {
            let count = x.len().div_ceil(tiles);
            // SAFETY: `functions` chose it for this machine; there are sums by this function's contract.
            unsafe { (self.functions.add_tile)(&x[..count], side, sums) };
            (x, sums) = (&x[count..], sums.skip(count, 0));
        }
    }
}

/// Rows transposed so that their numbers of one column lie side by side, for as many columns as `to` has.
#[inline(always)]
fn transpose<F: F32Lanes>(from: &[Stretch; LANES], to: &mut [[f32; LANES]]) {
    let whole = to.len().min(STRETCH) / F::LEN * F::LEN;
    for k in (0..whole).step_by(F::LEN) {
        for first in (0..LANES).step_by(F::LEN) {
            let mut square = [F::splat(0.0); MAX_LANES];
            for lane in 0..F::LEN {
                square[lane] = F::load(&from[first + lane][k..]);
            }
            F::transpose(&mut square[..F::LEN]);
            for lane in 0..F::LEN {
                square[lane].store(&mut to[k + lane][first..]);
            }
        }
    }
    transpose_columns(from, whole, to);
}

/// As [`transpose`], one number at a time.
fn transpose_plainly(from: &[Stretch; LANES], to: &mut [[f32; LANES]]) {
    transpose_columns(from, 0, to);
}

fn transpose_columns(from: &[Stretch; LANES], first: usize, to: &mut [[f32; LANES]]) {
    for (k, to) in to.iter_mut().enumerate().take(STRETCH).skip(first) {
        *to = std::array::from_fn(|lane| from[lane][k]);
    }
}

/// How blocks become `f32`: through integers where the format has them, since that is vectorised.
#[derive(Clone, Copy)]
enum Decoder {
    Integers(Unpacker, DecodeSlab),
    F16,
    Bf16,
    F32,
    Reference(Kernel),
}

impl Decoder {
    fn new(format: Format, isa: Isa) -> Result<Self> {
        let decode_slab = functions(isa).decode_slab;
        Ok(match integers(format, isa) {
            Ok(Some(unpacker)) => Self::Integers(unpacker, decode_slab),
            _ if format == Format::F16 => Self::F16,
            _ if format == Format::BF16 => Self::Bf16,
            _ if format == Format::F32 => Self::F32,
            _ => Self::Reference(kernel_for(format, isa)?),
        })
    }

    /// Decodes up to 256 weights, as many as `bytes` hold.
    fn decode(&self, bytes: &[u8], to: &mut [f32]) {
        match self {
            Self::Integers(Unpacker { facts, unpack }, decode_slab) => {
                let (mut slab, mut decoded) = ([Slab::ZERO], [0.0; SLAB]);
                unpack(bytes, &mut slab);
                // SAFETY: `functions` chose it for this machine.
                unsafe { decode_slab(&slab[0], facts, &mut decoded) };
                to.copy_from_slice(&decoded[..to.len()]);
            }
            Self::F16 => {
                // The library converts slices with the machine's own instruction, single numbers only after asking for it.
                let mut halves = [f16::ZERO; STRETCH];
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves[..to.len()].convert_to_f32_slice(to);
            }
            Self::Bf16 => {
                for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *to = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            Self::F32 => {
                for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*bytes);
                }
            }
            Self::Reference(kernel) => kernel.decode(bytes, to),
        }
    }
}

/// Functions of the instruction set.
#[derive(Clone, Copy)]
struct Functions {
    /// Rows of activations in a tile at most.
    tile: usize,
    add_tile: AddTile,
    side_by_side: SideBySide,
    decode_slab: DecodeSlab,
}

fn functions(isa: Isa) -> Functions {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(x: &[Stretch], side: &[[f32; LANES]], sums: Sums) {
        // SAFETY: by the contract of `AddTile`.
        unsafe { add_rows::<super::wide::Avx2>(x, side, sums) };
    }
    // Plain Rust once more, for the machine's own `mul_add`: in software it takes ten times as long for the same bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "fma")]
    unsafe fn portable_fma(x: &[Stretch], side: &[[f32; LANES]], sums: Sums) {
        // SAFETY: by the contract of `AddTile`.
        unsafe { add_rows::<Portable>(x, side, sums) };
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn transpose_avx2(from: &[Stretch; LANES], to: &mut [[f32; LANES]]) {
        transpose::<crate::arch::avx2::F32>(from, to);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(x: &[Stretch], side: &[[f32; LANES]], sums: Sums) {
        // SAFETY: by the contract of `AddTile`.
        unsafe { add_rows::<super::wide::Avx512>(x, side, sums) };
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn decode_avx2(slab: &Slab, facts: &Facts, to: &mut [f32; SLAB]) {
        slab.decode(facts, to);
    }
    let plain = Functions {
        tile: Portable::TILE,
        add_tile: add_rows::<Portable>,
        side_by_side: transpose_plainly,
        decode_slab: Slab::decode,
    };
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Functions {
            tile: super::wide::Avx2::TILE,
            add_tile: avx2,
            side_by_side: transpose_avx2,
            decode_slab: decode_avx2,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Functions {
            tile: super::wide::Avx512::TILE,
            add_tile: avx512,
            side_by_side: transpose_avx2,
            decode_slab: decode_avx2,
        },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Functions {
            tile: super::wide::Neon::TILE,
            add_tile: add_rows::<super::wide::Neon>,
            side_by_side: transpose::<crate::arch::neon::F32>,
            decode_slab: Slab::decode,
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => Functions { add_tile: portable_fma, ..plain },
        _ => plain,
    }
}

/// # Safety
/// As [`AddTile`].
#[inline(always)]
unsafe fn add_rows<W: Wide>(x: &[Stretch], side: &[[f32; LANES]], sums: Sums) {
    // SAFETY: by this function's contract.
    unsafe {
        match x.len() {
            1 => add::<W, 1>(x, side, sums),
            2 => add::<W, 2>(x, side, sums),
            3 => add::<W, 3>(x, side, sums),
            4 => add::<W, 4>(x, side, sums),
            5 => add::<W, 5>(x, side, sums),
            6 => add::<W, 6>(x, side, sums),
            _ if W::TILE <= 6 => unreachable!("a tile has at most `W::TILE` rows"),
            7 => add::<W, 7>(x, side, sums),
            8 => add::<W, 8>(x, side, sums),
            9 => add::<W, 9>(x, side, sums),
            10 => add::<W, 10>(x, side, sums),
            11 => add::<W, 11>(x, side, sums),
            _ => add::<W, 12>(x, side, sums),
        }
    }
}

/// # Safety
/// As [`AddTile`].
#[inline(always)]
unsafe fn add<W: Wide, const R: usize>(x: &[Stretch], side: &[[f32; LANES]], sums: Sums) {
    let Some((x, _)) = x.split_first_chunk::<R>() else { return };
    let side = &side[..side.len().min(STRETCH)];
    let mut own = [W::zero(); R];
    // The rows of the next tile come right after these. Nothing but an address: it may lie past the end.
    let next = x.as_ptr().wrapping_add(R).cast::<f32>();
    // Four columns a turn: fewer turns, and their distances are part of the instructions.
    let (turns, rest) = side.as_chunks::<4>();
    let mut k = 0;
    for turn in turns {
        // A line of cache has sixteen numbers. The machine alone fetches too late: a row's stretch is only sixteen lines.
        for line in 0..R.div_ceil(3) {
            prefetch(next.wrapping_add(R * k + 12 * line), 1);
        }
        for side in turn {
            own = fused(own, x, k, side);
            k += 1;
        }
    }
    for side in rest {
        own = fused(own, x, k, side);
        k += 1;
    }
    // By constant index, so that the sums stay in registers up to here.
    for r in 0..R {
        // SAFETY: there are sums for each row, to which nothing else has access, by the contract of `AddTile`.
        let to = unsafe { &mut *sums.start.add(r * sums.stride).cast::<[f32; LANES]>() };
        if sums.fresh {
            *to = [0.0; LANES];
        }
        own[r].add_to(to);
    }
}

/// `own` and the products of column `k`, which is less than [`STRETCH`].
#[inline(always)]
fn fused<W: Wide, const R: usize>(mut own: [W; R], x: &[Stretch; R], k: usize, side: &[f32; LANES]) -> [W; R] {
    let side = W::load(side);
    for r in 0..R {
        // SAFETY: by this function's contract, which `add` keeps.
        own[r] = own[r].fused(unsafe { *x[r].get_unchecked(k) }, side);
    }
    own
}
