//! Weights onto scales that are kept: the codes of a codebook of vectors that are nearest to them, without a search for scales.

use super::{Run, check_finite, expect_len, row_bytes, whole_rows};
use crate::arch::{Isa, isa};
use crate::block::Format;
use crate::block::vector::VectorCodec;
use crate::error::{At, Error, Result};
use crate::reference::codebook::Signs;

/// Weights whose signs are stored together.
const GROUP: usize = 8;

/// Costs that are worked out side by side: a virtual width, the same with every instruction set.
const LANES: usize = 16;

/// Blocks in a task: some ten thousand points each to be held against hundreds of others.
const TASK_BLOCKS: usize = 32;

/// A codebook as the search reads it.
struct Book {
    codec: VectorCodec,
    /// Coordinate `i` of points `LANES * c ..` from `(c * dims + i) * LANES` on; the number of points is a multiple of `LANES`.
    coordinates: Vec<[f32; LANES]>,
}

impl Book {
    fn new(codec: VectorCodec) -> Self {
        let points = (codec.points)();
        let in_chunk = |chunk: &[f32], i| std::array::from_fn(|lane| chunk[codec.dims * lane + i]);
        let chunks = points.chunks_exact(LANES * codec.dims);
        Self { codec, coordinates: chunks.flat_map(|c| (0..codec.dims).map(move |i| in_chunk(c, i))).collect() }
    }
}

/// The point with the least `sum((a_i - p_i)^2)`, added up in the order of `i`; of several, the first.
#[inline(always)]
fn nearest<const N: usize>(book: &[[f32; LANES]], a: &[f32; N]) -> u16 {
    let mut least = [f32::INFINITY; LANES];
    let mut chunks = [0u32; LANES];
    for (number, chunk) in (0u32..).zip(book.as_chunks::<N>().0) {
        let mut costs = [0.0f32; LANES];
        for i in 0..N {
            for lane in 0..LANES {
                let diff = a[i] - chunk[i][lane];
                costs[lane] += diff * diff;
            }
        }
        for lane in 0..LANES {
            let better = costs[lane] < least[lane];
            least[lane] = if better { costs[lane] } else { least[lane] };
            chunks[lane] = if better { number } else { chunks[lane] };
        }
    }
    let mut best = 0;
    for lane in 1..LANES {
        if (least[lane], chunks[lane]) < (least[best], chunks[best]) {
            best = lane;
        }
    }
    (LANES as u32 * chunks[best] + best as u32) as u16
}

/// Signs of eight weights, a set bit for a minus, and the weights with them taken off. Where minus signs must be even in number
/// and are not, that of the first of the smallest magnitudes is turned.
#[inline(always)]
fn split(y: &[f32; GROUP], stored: Option<Signs>) -> (u8, [f32; GROUP]) {
    if stored.is_none() {
        return (0, *y);
    }
    let mut signs = y.iter().enumerate().fold(0, |bits, (i, &v)| bits | u8::from(v < 0.0) << i);
    if stored == Some(Signs::Even) && signs.count_ones() % 2 == 1 {
        signs ^= 1 << (1..GROUP).fold(0, |least, i| if y[i].abs() < y[least].abs() { i } else { least });
    }
    (signs, std::array::from_fn(|i| if signs >> i & 1 == 1 { -y[i] } else { y[i] }))
}

/// The codes for a block's weights `x`.
#[inline(always)]
fn choose<const N: usize>(book: &Book, grid: (&[f32], &[f32]), x: &[f32], points: &mut [u16], signs: &mut [u8]) {
    let (scale, shift) = grid;
    let codec = &book.codec;
    for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
        let scale = scale[GROUP * g / codec.sub_len];
        // Where the scale is 0, all codes mean the same.
        let divisor = if scale == 0.0 { f32::INFINITY } else { scale };
        let shift = shift.get(g).copied().unwrap_or(0.0);
        let (bits, a) = split(&x.map(|v| v / divisor - shift), codec.signs);
        if let Some(signs) = signs.get_mut(g) {
            *signs = bits;
        }
        for (point, a) in points[GROUP / N * g..].iter_mut().zip(a.as_chunks::<N>().0) {
            *point = nearest(&book.coordinates, a);
        }
    }
}

/// [`choose`], compiled for an instruction set.
type Choose = fn(&Book, (&[f32], &[f32]), &[f32], &mut [u16], &mut [u8]);

/// One of `choose::<8>` and `choose::<4>`.
#[inline(always)]
fn choose_any(book: &Book, grid: (&[f32], &[f32]), x: &[f32], points: &mut [u16], signs: &mut [u8]) {
    if book.codec.dims == GROUP {
        choose::<8>(book, grid, x, points, signs);
    } else {
        choose::<4>(book, grid, x, points, signs);
    }
}

/// Compiles the choice with features that hold wherever it is handed out.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ($features:literal) => {{
        #[target_feature(enable = $features)]
        fn choose(book: &Book, grid: (&[f32], &[f32]), x: &[f32], points: &mut [u16], signs: &mut [u8]) {
            choose_any(book, grid, x, points, signs);
        }
        // SAFETY: handed out only where these features were detected.
        |book, grid, x, points, signs| unsafe { choose(book, grid, x, points, signs) }
    }};
}

fn choose_for(isa: Isa) -> Choose {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => compiled!("avx2"),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => compiled!("avx512f,avx512bw,avx512dq,avx512vl"),
        _ => choose_any,
    }
}

/// Encoded rows of `row_len` weights with the codes that are nearest to `x` while scales stay, for a format with a codebook of
/// vectors.
///
/// Signs are those of the weights in units of their scale. Where a format has only even numbers of minus signs in eight, and
/// there is an odd one, the sign of the weight nearest to 0 is turned. Of points equally near, the first is taken.
///
/// # Errors
/// `Unsupported` for other formats, `RowLength`, `Shape`, `NonFinite`, `Interrupted`.
pub fn nearest_codes(format: Format, data: &[u8], x: &[f32], row_len: usize, run: Run<'_>) -> Result<Vec<u8>> {
    let Some(codec) = format.vector_codes() else {
        return Err(Error::Unsupported { at: At::default(), what: format!("{format} has no codebook of vectors") });
    };
    let info = format.info();
    let rows = whole_rows(x.len(), row_len, "weights")?;
    expect_len(data.len(), rows, row_bytes(format, row_len)?, "encoded bytes")?;
    let choose = choose_for(isa()?);
    let book = Book::new(codec);
    let mut out = data.to_vec();
    let (vectors, groups) = (info.block_len / codec.dims, codec.sign_bytes(info.block_len));
    let tasks = out.chunks_mut(TASK_BLOCKS * info.block_bytes).zip(x.chunks(TASK_BLOCKS * info.block_len)).collect();
    run.for_each(tasks, |_, number, (out, x): (&mut [u8], &[f32])| {
        check_finite(x, number * TASK_BLOCKS * info.block_len, row_len)?;
        let mut scale = vec![0.0; info.block_len / codec.sub_len];
        let mut shift = vec![0.0; if codec.has_shift { vectors } else { 0 }];
        let (mut points, mut signs) = (vec![0; vectors], vec![0; groups]);
        for (block, x) in out.chunks_exact_mut(info.block_bytes).zip(x.chunks_exact(info.block_len)) {
            (codec.grid)(block, &mut scale, &mut shift);
            choose(&book, (&scale, &shift), x, &mut points, &mut signs);
            (codec.set_codes)(block, &points, &signs);
        }
        Ok(())
    })?;
    Ok(out)
}
