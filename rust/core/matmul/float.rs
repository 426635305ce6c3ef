//! Products in `f32` with the exact decoded weights.
//!
//! Columns are summed 256 at a time: each stretch starts from zero, one fused multiply-add a column in order, and is then
//! added to the total. Neither the batch, nor the tile that a result lies in, nor the instruction set changes that order:
//! vector lanes are different results, never parts of one.
//!
//! With at most `min(K, 256) + K / 256 + 1` roundings on the way of any one product, the error of a result is at most that
//! number times `2^-24` times the sum of the magnitudes of its products, to first order.
//!
//! A tile is `R` rows of one operand, whose numbers are broadcast, by 16 of the other, which lie side by side. For large
//! batches the activations lie side by side, for small ones the weights.

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

/// Columns summed before they are added to the total.
const STRETCH: usize = SLAB;
/// Rows of weights in a task.
const ROWS: usize = 48;
/// Rows of activations that are multiplied at a time: their sums and a panel of weights fit a core's own cache.
const BATCH: usize = 512;
/// Up to this many rows of activations, weights lie side by side and activations are broadcast.
const SMALL_BATCH: usize = 8;
/// Rows in a tile at most.
const TILE: usize = 6;

/// Adds the products of `rows` broadcast rows, `stride` apart, and 16 columns of `side` to `sums`.
type AddTile =
    unsafe fn(broadcast: &[f32], stride: usize, rows: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]);

/// Decodes a slab.
type DecodeSlab = unsafe fn(slab: &Slab, facts: &Facts, to: &mut [f32; SLAB]);
/// Transposes up to 16 rows, `stride` apart.
type SideBySide = unsafe fn(from: &[f32], stride: usize, to: &mut [[f32; LANES]]);

pub(super) fn matmul(isa: Isa, weights: Matrix<'_>, x: &[f32], n: usize, out: &mut [f32], run: Run<'_>) -> Result<()> {
    let job = Job {
        decoder: Decoder::new(weights.format, isa)?,
        functions: functions(isa),
        weights,
        output: Output::new(out, n, weights.rows),
    };
    let cols = weights.cols;
    if n <= SMALL_BATCH {
        let tasks = (0..weights.rows.div_ceil(LANES)).collect();
        return run.for_each(tasks, |scratch, _, tile| {
            job.small(x, n, tile * LANES, scratch);
            Ok(())
        });
    }
    let mut packed = vec![[0.0; LANES]; cols * BATCH.min(n).div_ceil(LANES)];
    for first in (0..n).step_by(BATCH) {
        let count = BATCH.min(n - first);
        let x = &x[first * cols..][..count * cols];
        let tasks = packed.chunks_mut(cols).zip(x.chunks(LANES * cols)).collect();
        run.for_each(tasks, |_, _, (to, from): (&mut [[f32; LANES]], &[f32])| {
            // SAFETY: `functions` chose them for this machine.
            unsafe { (job.functions.side_by_side)(from, cols, to) };
            Ok(())
        })?;
        let packed = &packed[..cols * count.div_ceil(LANES)];
        let tasks = (0..weights.rows.div_ceil(ROWS)).collect();
        run.for_each(tasks, |scratch, _, panel| {
            job.panel(packed, first, count, panel * ROWS, scratch);
            Ok(())
        })?;
    }
    Ok(())
}

struct Job<'a> {
    decoder: Decoder,
    functions: Functions,
    weights: Matrix<'a>,
    output: Output,
}

impl Job<'_> {
    /// Results of up to [`ROWS`] rows of weights with `count` packed activations, the first of which is row `first`.
    fn panel(&self, packed: &[[f32; LANES]], first: usize, count: usize, row: usize, scratch: &mut Vec<f32>) {
        let (rows, cols) = (ROWS.min(self.weights.rows - row), self.weights.cols);
        let tiles = count.div_ceil(LANES);
        scratch.clear();
        scratch.resize(ROWS * STRETCH + ROWS * tiles * LANES, 0.0);
        let (decoded, sums) = scratch.split_at_mut(ROWS * STRETCH);
        let sums = sums.as_chunks_mut::<LANES>().0;
        for from in (0..cols).step_by(STRETCH) {
            let len = STRETCH.min(cols - from);
            for (i, decoded) in decoded.chunks_exact_mut(STRETCH).take(rows).enumerate() {
                let bytes = self.weights.bytes(row + i, from, from + len);
                self.decoder.decode(bytes, &mut decoded[..len]);
            }
            for (packed, sums) in packed.chunks_exact(cols).zip(sums.chunks_exact_mut(ROWS)) {
                let side = &packed[from..from + len];
                for i in (0..rows).step_by(TILE) {
                    let count = TILE.min(rows - i);
                    // SAFETY: `functions` chose them for this machine.
                    unsafe {
                        (self.functions.add_tile)(
                            &decoded[i * STRETCH..],
                            STRETCH,
                            count,
                            side,
                            &mut sums[i..i + count],
                        )
                    };
                }
            }
        }
        let mut column = [0.0; ROWS];
        for i in 0..count {
            for (to, sums) in column.iter_mut().zip(&sums[i / LANES * ROWS..]) {
                *to = sums[i % LANES];
            }
            // SAFETY: this task alone has these rows.
            unsafe { self.output.write(first + i, row, &column[..rows]) };
        }
    }

    /// Results of up to 16 rows of weights with all activations, which are few.
    fn small(&self, x: &[f32], n: usize, row: usize, scratch: &mut Vec<f32>) {
        let (rows, cols) = (LANES.min(self.weights.rows - row), self.weights.cols);
        scratch.clear();
        scratch.resize(LANES * STRETCH, 0.0);
        let mut side = [[0.0; LANES]; STRETCH];
        let mut sums = [[0.0; LANES]; SMALL_BATCH];
        for from in (0..cols).step_by(STRETCH) {
            let len = STRETCH.min(cols - from);
            for (i, decoded) in scratch.chunks_exact_mut(STRETCH).take(rows).enumerate() {
                let bytes = self.weights.bytes(row + i, from, from + len);
                self.decoder.decode(bytes, &mut decoded[..len]);
            }
            // SAFETY: `functions` chose them for this machine.
            unsafe { (self.functions.side_by_side)(scratch, STRETCH, &mut side[..len]) };
            for i in (0..n).step_by(TILE) {
                let count = TILE.min(n - i);
                // SAFETY: `functions` chose them for this machine.
                unsafe {
                    (self.functions.add_tile)(
                        &x[i * cols + from..],
                        cols,
                        count,
                        &side[..len],
                        &mut sums[i..i + count],
                    );
                }
            }
        }
        for (i, sums) in sums[..n].iter().enumerate() {
            // SAFETY: this task alone has these rows.
            unsafe { self.output.write(i, row, &sums[..rows]) };
        }
    }
}

/// Up to 16 rows, `stride` apart, transposed so that their numbers of one column lie side by side.
#[inline(always)]
fn transpose<F: F32Lanes>(from: &[f32], stride: usize, to: &mut [[f32; LANES]]) {
    let rows = from.len().div_ceil(stride);
    let whole = to.len() / F::LEN * F::LEN;
    for k in (0..whole).step_by(F::LEN) {
        for first in (0..LANES).step_by(F::LEN) {
            let mut square = [F::splat(0.0); MAX_LANES];
            for lane in 0..F::LEN.min(rows.saturating_sub(first)) {
                square[lane] = F::load(&from[(first + lane) * stride + k..]);
            }
            F::transpose(&mut square[..F::LEN]);
            for (lanes, to) in square[..F::LEN].iter().zip(&mut to[k..]) {
                lanes.store(&mut to[first..]);
            }
        }
    }
    if whole < to.len() {
        transpose_tail(&from[whole..], stride, &mut to[whole..]);
    }
}

/// As [`transpose`], one number at a time.
fn transpose_tail(from: &[f32], stride: usize, to: &mut [[f32; LANES]]) {
    let rows = from.len().div_ceil(stride);
    for (k, to) in to.iter_mut().enumerate() {
        *to = std::array::from_fn(|lane| if lane < rows { from[lane * stride + k] } else { 0.0 });
    }
}

/// How blocks become `f32`: through integers where the format has them, since that is vectorised.
#[derive(Clone, Copy)]
enum Decoder {
    Integers(Unpacker, DecodeSlab),
    Halves,
    Reference(Kernel),
}

impl Decoder {
    fn new(format: Format, isa: Isa) -> Result<Self> {
        let decode_slab = functions(isa).decode_slab;
        Ok(match integers(format, isa) {
            Ok(Some(unpacker)) => Self::Integers(unpacker, decode_slab),
            _ if format == Format::F16 => Self::Halves,
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
            Self::Halves => {
                // The library converts slices with the machine's own instruction, single numbers only after asking for it.
                let mut halves = [f16::ZERO; STRETCH];
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *half = f16::from_le_bytes(*bytes);
                }
                halves[..to.len()].convert_to_f32_slice(to);
            }
            Self::Reference(kernel) => kernel.decode(bytes, to),
        }
    }
}

/// Functions of the instruction set.
#[derive(Clone, Copy)]
struct Functions {
    add_tile: AddTile,
    side_by_side: SideBySide,
    decode_slab: DecodeSlab,
}

fn functions(isa: Isa) -> Functions {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(broadcast: &[f32], stride: usize, rows: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
        add_rows::<super::wide::Avx2>(broadcast, stride, rows, side, sums);
    }
    // Plain Rust once more, for the machine's own `mul_add`: in software it takes ten times as long for the same bits.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "fma")]
    fn fused(broadcast: &[f32], stride: usize, rows: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
        add_rows::<Portable>(broadcast, stride, rows, side, sums);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn transpose_avx2(from: &[f32], stride: usize, to: &mut [[f32; LANES]]) {
        transpose::<crate::arch::avx2::F32>(from, stride, to);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512(broadcast: &[f32], stride: usize, rows: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
        add_rows::<super::wide::Avx512>(broadcast, stride, rows, side, sums);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn decode_avx2(slab: &Slab, facts: &Facts, to: &mut [f32; SLAB]) {
        slab.decode(facts, to);
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Functions { add_tile: avx2, side_by_side: transpose_avx2, decode_slab: decode_avx2 },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Functions { add_tile: avx512, side_by_side: transpose_avx2, decode_slab: decode_avx2 },
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => {
            Functions { add_tile: fused, side_by_side: transpose_tail, decode_slab: Slab::decode }
        }
        _ => Functions { add_tile: add_rows::<Portable>, side_by_side: transpose_tail, decode_slab: Slab::decode },
    }
}

#[inline(always)]
fn add_rows<W: Wide>(broadcast: &[f32], stride: usize, rows: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
    match rows {
        1 => add::<W, 1>(broadcast, stride, side, sums),
        2 => add::<W, 2>(broadcast, stride, side, sums),
        3 => add::<W, 3>(broadcast, stride, side, sums),
        4 => add::<W, 4>(broadcast, stride, side, sums),
        5 => add::<W, 5>(broadcast, stride, side, sums),
        _ => add::<W, TILE>(broadcast, stride, side, sums),
    }
}

#[inline(always)]
fn add<W: Wide, const R: usize>(broadcast: &[f32], stride: usize, side: &[[f32; LANES]], sums: &mut [[f32; LANES]]) {
    let Some(sums) = sums.as_chunks_mut::<R>().0.first_mut() else { return };
    let rows: [&[f32]; R] = std::array::from_fn(|r| &broadcast[r * stride..][..side.len()]);
    let mut own = [W::zero(); R];
    for (k, side) in side.iter().enumerate() {
        let side = W::load(side);
        for r in 0..R {
            // SAFETY: every row was cut to the length of `side`, which `k` is below.
            own[r] = own[r].fused(unsafe { *rows[r].get_unchecked(k) }, side);
        }
    }
    // By constant index, so that the sums stay in registers up to here.
    for r in 0..R {
        own[r].add_to(&mut sums[r]);
    }
}
