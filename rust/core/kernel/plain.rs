//! Formats without a search: one look at a block for its scale, one for its codes. They are nearly as fast as memory.
//!
//! Nothing here is a sum, so the order does not matter, and lanes hold weights that lie side by side. Scales are worked out
//! for as many blocks at once as there are lanes, since divisions and halves cost the same for one as for all. Weights are
//! widened as they are loaded, and those that are not finite show in the codes, so that memory is read once.

use std::marker::PhantomData;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::RowEncoder;
use crate::block::fp4;
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};
use crate::prefetch::prefetch;

/// Floats as weights are stored.
pub(crate) trait Source: Copy {
    /// The first weights of a slice that has at least as many as there are lanes.
    fn load<F: F32Lanes>(from: &[Self]) -> F;
    /// The same number.
    fn widen(self) -> f32;
}

impl Source for f32 {
    #[inline(always)]
    fn load<F: F32Lanes>(from: &[Self]) -> F {
        F::load(from)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Source for f16 {
    #[inline(always)]
    fn load<F: F32Lanes>(from: &[Self]) -> F {
        F::load_half(from)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Source for bf16 {
    #[inline(always)]
    fn load<F: F32Lanes>(from: &[Self]) -> F {
        F::Int::load_u16(from.reinterpret_cast()).shl::<16>().as_float()
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Asks for weights a page behind those of a batch: the processor itself stops at the end of a page.
#[inline(always)]
pub(crate) fn prefetch_after<T>(batch: &[T]) {
    prefetch(batch.as_ptr().cast::<u8>().wrapping_add(4096), size_of_val(batch));
}

/// All weights of a block.
#[inline(always)]
pub(crate) fn widen<E: Source, const N: usize>(x: &[E; N]) -> [f32; N] {
    let mut wide = [0.0; N];
    for i in 0..N {
        wide[i] = x[i].widen();
    }
    wide
}

/// A format that is encoded without a search, in blocks of `N` weights, a multiple of 32.
pub(crate) trait Plain<const N: usize> {
    /// Encodes block after block. False if a weight may not be finite; what it is encoded as is worthless then, but defined.
    fn encode_blocks<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool;
}

/// Encodes a format that has no other encoder, and for which importances mean nothing.
pub(crate) struct Encoder<S, const N: usize>(PhantomData<S>);

impl<S: Plain<N>, const N: usize> RowEncoder for Encoder<S, N> {
    #[inline(always)]
    fn encode_rows<F: F32Lanes>(x: &[f32], _row_len: usize, _imatrix: Option<&[f32]>, out: &mut [u8]) {
        S::encode_blocks::<F, f32>(x, out);
    }

    #[inline(always)]
    fn encode_plain<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        S::encode_blocks::<F, E>(x, out)
    }
}

/// How scales and codes follow from a block.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// See [`crate::reference::symmetric::by_extreme`].
    Extreme {
        /// Codes are offset by this.
        half: i32,
    },
    /// See [`crate::reference::affine::by_range`].
    Range {
        /// Largest code.
        max_code: i32,
    },
    /// The largest magnitude over `divisor` as scale; nearest integers, halves away from zero, as codes.
    Magnitude {
        /// See above.
        divisor: f32,
        /// Added to codes, so that none is negative.
        offset: i32,
    },
}

/// A format with one scale a block, and perhaps a minimum.
pub(crate) trait Scaled<const N: usize> {
    /// A block of the format.
    type Block: Layout;
    /// See [`Rule`].
    const RULE: Rule;

    /// Packs scale, minimum if there is one, and codes.
    fn pack<F: F32Lanes>(d: f16, m: f16, codes: &[u8; N]) -> Self::Block;
    /// The scalar reference.
    fn reference(x: &[f32; N]) -> Self::Block;
}

impl<S: Scaled<N>, const N: usize> Plain<N> for S {
    #[inline(always)]
    fn encode_blocks<F: F32Lanes, E: Source>(x: &[E], out: &mut [u8]) -> bool {
        let (mut finite, mut signs) = (true, F::Int::splat(0));
        let batches = x.as_chunks::<N>().0.chunks(F::LEN).zip(out.chunks_mut(F::LEN * S::Block::BYTES));
        for (blocks, out) in batches {
            prefetch_after(blocks);
            let fit = fit::<F, E, N>(blocks, S::RULE);
            let (mut d, mut m) = ([f16::ZERO; MAX_LANES], [f16::ZERO; MAX_LANES]);
            let (mut inverses, mut origins) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            fit.scale.store_half(&mut d);
            fit.origin.store_half(&mut m);
            fit.inverse.store(&mut inverses);
            fit.origin.store(&mut origins);
            let odd = fit.odd.bits();
            for (b, (x, out)) in blocks.iter().zip(out.chunks_exact_mut(S::Block::BYTES)).enumerate() {
                if (odd >> b) & 1 == 1 {
                    let x = widen(x);
                    finite &= x.iter().all(|v| v.is_finite());
                    S::reference(&x).write(out);
                } else {
                    let (codes, sign) = codes::<F, E, N>(x, S::RULE, inverses[b], origins[b]);
                    signs = signs | sign;
                    S::pack::<F>(d[b], m[b], &codes).write(out);
                }
            }
        }
        finite && !signs.shr::<31>().eq(F::Int::splat(1)).any()
    }
}

/// Scales of as many blocks as there are lanes.
struct Fit<F: F32Lanes> {
    scale: F,
    /// Its reciprocal, 0 for 0.
    inverse: F,
    /// What is subtracted from weights.
    origin: F,
    /// Blocks that are left to the reference.
    odd: F::Mask,
}

#[inline(always)]
fn fit<F: F32Lanes, E: Source, const N: usize>(blocks: &[[E; N]], rule: Rule) -> Fit<F> {
    let (zero, infinity) = (F::splat(0.0), F::splat(f32::INFINITY));
    let (mut origin, scale, odd);
    origin = zero;
    match rule {
        Rule::Magnitude { divisor, .. } => {
            let largest = magnitudes::<F, E, N>(blocks);
            scale = largest / F::splat(divisor);
            odd = !largest.lt(infinity);
        }
        Rule::Extreme { half } => {
            let (low, high) = ranges::<F, E, N>(blocks);
            // Which of two that are equally large comes first has to be looked up.
            let tie = high.eq(low.neg());
            let empty = tie & high.eq(zero);
            let extreme = F::select(high.gt(low.neg()), high, low);
            scale = F::select(empty, zero, extreme) / F::splat(-half as f32);
            odd = tie ^ empty;
        }
        Rule::Range { max_code } => {
            let (low, high) = ranges::<F, E, N>(blocks);
            scale = (high - low) / F::splat(max_code as f32);
            origin = low;
            // Which zero comes first decides the minimum's sign.
            odd = low.eq(zero);
        }
    }
    let inverse = F::select(scale.eq(zero), zero, F::splat(1.0) / scale);
    Fit { scale, inverse, origin, odd: odd | inverse.abs().eq(infinity) }
}

/// The largest magnitude of each block, or what is not less than infinity if some weight is not finite: bits of magnitudes
/// are ordered as integers, NaN above all.
#[inline(always)]
pub(crate) fn magnitudes<F: F32Lanes, E: Source, const N: usize>(blocks: &[[E; N]]) -> F {
    let mut rows = [F::splat(0.0); MAX_LANES];
    for lane in 0..F::LEN {
        let mut largest = F::Int::splat(0);
        for x in blocks[lane.min(blocks.len() - 1)].chunks_exact(F::LEN) {
            largest = largest.max(E::load::<F>(x).abs().as_int());
        }
        rows[lane] = largest.as_float();
    }
    F::transpose(&mut rows[..F::LEN]);
    let mut largest = rows[0].as_int();
    for row in &rows[1..F::LEN] {
        largest = largest.max(row.as_int());
    }
    largest.as_float()
}

/// The smallest and the largest weight of each block. Which of several zeros it is, is left open; NaN does not count.
#[inline(always)]
fn ranges<F: F32Lanes, E: Source, const N: usize>(blocks: &[[E; N]]) -> (F, F) {
    let (mut lows, mut highs) = ([F::splat(0.0); MAX_LANES], [F::splat(0.0); MAX_LANES]);
    for lane in 0..F::LEN {
        let block = &blocks[lane.min(blocks.len() - 1)];
        let first: F = E::load(block);
        let (mut low, mut high) = (first, first);
        for x in block[F::LEN..].chunks_exact(F::LEN) {
            let x: F = E::load(x);
            low = x.lesser(low);
            high = x.greater(high);
        }
        (lows[lane], highs[lane]) = (low, high);
    }
    F::transpose(&mut lows[..F::LEN]);
    F::transpose(&mut highs[..F::LEN]);
    let (mut low, mut high) = (lows[0], highs[0]);
    for i in 1..F::LEN {
        low = lows[i].lesser(low);
        high = highs[i].greater(high);
    }
    (low, high)
}

/// Codes of a block, and a vector that is negative somewhere if some weight is not finite.
///
/// Scales bring finite weights to magnitudes of at most twice the largest code (the rounding of a subnormal scale is what
/// makes it more than once), unless the reciprocal is infinite. Anything that is not finite is NaN or infinite once it is
/// multiplied, even by the 0 that an infinite scale gives, and is truncated to `i32::MIN`, to which nothing is added that
/// makes it positive. It is kept as 0, as the reference has it.
#[inline(always)]
fn codes<F: F32Lanes, E: Source, const N: usize>(
    x: &[E; N],
    rule: Rule,
    inverse: f32,
    origin: f32,
) -> ([u8; N], F::Int) {
    let (inverse, origin) = (F::splat(inverse), F::splat(origin));
    let (mut codes, mut signs) = ([0; N], F::Int::splat(0));
    for (part, to) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let mut vectors = [F::Int::splat(0); 8];
        for k in 0..32 / F::LEN {
            let x: F = E::load(&x[32 * part + k * F::LEN..]);
            vectors[k] = match rule {
                Rule::Extreme { half } => (x * inverse + F::splat(half as f32 + 0.5)).truncate(),
                Rule::Range { .. } => ((x - origin) * inverse + F::splat(0.5)).truncate(),
                Rule::Magnitude { offset, .. } => nearest(x * inverse) + F::Int::splat(offset),
            };
            signs = signs | vectors[k];
        }
        F::Int::store_limited(&vectors[..32 / F::LEN], to);
    }
    let top = match rule {
        Rule::Extreme { half } => 2 * half - 1,
        Rule::Range { max_code } => max_code,
        Rule::Magnitude { .. } => 255,
    };
    for code in &mut codes {
        *code = (*code).min(top as u8);
    }
    (codes, signs)
}

/// The nearest integer, halves away from zero.
///
/// With `h` just below a half, `2^-25` below, the truncation of `x + h` rounds `x = n + f >= 0` as wished. For `f < 1/2`
/// the sum stays below `n + 1` by a step of the floats around `x` and more, and rounds to less than that; without such a
/// step, below a half, it is exact. For `f >= 1/2` it falls short of `n + 1` by `2^-25` at most, which rounds to
/// `n + 1`, to even if `n` is 0. What does not fit into 32 bits, infinities and NaN become `i32::MIN`, as in the
/// reference.
#[inline(always)]
fn nearest<F: F32Lanes>(x: F) -> F::Int {
    let sign = x.as_int() & F::Int::splat(i32::MIN);
    (x + (F::splat(0.5f32.next_down()).as_int() | sign).as_float()).truncate()
}

/// Scales for which [`float4_by_power`] decides as [`fp4::nearest`] does.
const POWERS: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// E2M1 codes of a block under a scale that is a power of two, given its largest magnitude; see [`fp4::nearest`].
///
/// `v = |x| * 2 / scale` is exact, or subnormal and far below everything that counts. The points half-way between codes are
/// the integers 1, 3, 5, 7, 10, 14 and 20 then, and a point lies below `v` if it is not above the largest integer below `v`,
/// which is what the float just before `v` is truncated to. Zero has no such float and becomes `i32::MIN`, kept as 0. All of
/// this fits into bytes, of which many are compared at once.
#[inline(always)]
pub(crate) fn float4_by_power<F: F32Lanes, E: Source>(x: &[E; 32], magnitude: f32, scale: f32) -> [u8; 32] {
    if !POWERS.contains(&scale) || magnitude > FLOAT4_RANGE.0 * scale {
        let mut codes = [0; 32];
        for i in 0..32 {
            codes[i] = fp4::nearest(x[i].widen(), scale);
        }
        return codes;
    }
    let (inverse, mut vectors) = (F::splat(2.0 / scale), [F::Int::splat(0); 8]);
    for k in 0..32 / F::LEN {
        let x: F = E::load(&x[k * F::LEN..]);
        vectors[k] = below_with_sign(x, x * inverse);
    }
    let mut codes = [0; 32];
    F::Int::store_limited(&vectors[..32 / F::LEN], &mut codes);
    float4_codes(&mut codes);
    codes
}

/// The largest integer below the magnitude of `v`, or what is negative for 0, and the sign of `x` at bit 7.
#[inline(always)]
fn below_with_sign<F: F32Lanes>(x: F, v: F) -> F::Int {
    (v.abs().as_int() - F::Int::splat(1)).as_float().truncate() | (x.as_int().shr::<24>() & F::Int::splat(128))
}

/// E2M1 codes from the largest integers below doubled magnitudes, with signs at bit 7: each counts the points half-way
/// between codes up to there.
#[inline(always)]
fn float4_codes(codes: &mut [u8]) {
    for code in codes {
        let (below, sign) = ((*code & 127) as i8, (*code >> 4) & 8);
        let mut magnitude = 0;
        for point in [1, 3, 5, 7, 10, 14, 20] {
            magnitude += u8::from(below >= point);
        }
        *code = if magnitude == 0 { 0 } else { magnitude | sign };
    }
}

/// Largest magnitude, in scales, and largest scale for which [`float4`] decides as [`fp4::nearest`] does.
const FLOAT4_RANGE: (f32, f32) = (24.0, 2e37);

/// E2M1 codes, `N / S` weights to each of `scales`, given the largest magnitudes; see [`fp4::nearest`].
///
/// Scales have at most 4 significant bits, so multiples of them and the points half-way between are exact. The two
/// multiples on either side of such a point are less than a factor of two away from it except for 0, so differences
/// from weights around it are exact as well (Sterbenz), and which is less is decided correctly. Further away rounding is
/// monotonous. A tie goes to the lower magnitude, which comes first in the list; a negative zero is never chosen. All
/// this holds up to twice the largest multiple, 24, as long as none overflows; other groups go through the reference.
///
/// What is left is which of the points `m * h`, with half a scale for `h` and the integers of [`float4_by_power`] for `m`,
/// lie below a magnitude, and the rounded quotient by `h` tells: it is at most `m` if the magnitude is at most `m * h`.
/// Otherwise the magnitude is at least the next float, more than a part in 2^24 above, while the floats next to `m` are at
/// most two such parts away, so that the quotient is rounded to one above `m`.
#[inline(always)]
pub(crate) fn float4<F: F32Lanes, E: Source, const N: usize, const S: usize>(
    x: &[E; N],
    magnitudes: &[f32; S],
    scales: &[f32; S],
) -> [u8; N] {
    let mut codes = [0; N];
    for (part, to) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let mut vectors = [F::Int::splat(0); 8];
        for k in 0..32 / F::LEN {
            let at = 32 * part + k * F::LEN;
            let x: F = E::load(&x[at..]);
            vectors[k] = below_with_sign(x, x / F::splat(0.5 * scales[at / (N / S)]));
        }
        F::Int::store_limited(&vectors[..32 / F::LEN], to);
    }
    float4_codes(&mut codes);
    for s in 0..S {
        let (largest, top) = FLOAT4_RANGE;
        if !(magnitudes[s] <= largest * scales[s] && scales[s] <= top) {
            for i in N / S * s..N / S * (s + 1) {
                codes[i] = fp4::nearest(x[i].widen(), scales[s]);
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::{F32Lanes, I32Lanes, float4, float4_by_power, nearest};
    use crate::block::fp4;
    use crate::lanes::portable::Floats;
    use crate::reference::rounding::round_half_away;

    #[test]
    fn halves_go_away_from_zero() {
        let around = |v: f32| [v.next_down().next_down(), v.next_down(), v, v.next_up(), v.next_up().next_up()];
        let halves = (0..=300).flat_map(|i| around(i as f32 / 2.0));
        let small = (0..1000).map(|i| f32::from_bits(i << 20 | i));
        for x in halves.chain(small).chain([f32::NAN, f32::INFINITY, 3e9]).flat_map(|v| [v, -v]) {
            let mut code = [0; 4];
            nearest(Floats::<4>::splat(x)).store(&mut code);
            assert_eq!(code, [round_half_away(x); 4], "{x}");
        }
    }

    #[test]
    fn floats_of_four_bits_around_half_way_points() {
        let scales = (1..16).flat_map(|m| [-140, -20, 0, 100, 121].map(|e| (f64::from(m) * 2f64.powi(e)) as f32));
        for scale in scales {
            for middle in [0.0f32, 0.5, 1.0, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 12.0, 24.0] {
                let v = middle * scale;
                if !(v * 1.1).is_finite() {
                    continue; // weights are finite
                }
                let near = [v, v.next_up(), v.next_down(), v * 1.1, v * 0.9, -v, -v.next_up(), -v.next_down()];
                let x: [f32; 32] = std::array::from_fn(|i| near[i % 8]);
                let largest = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let got: [u8; 32] = float4::<Floats<8>, f32, 32, 1>(&x, &[largest], &[scale]);
                assert_eq!(got, x.map(|v| fp4::nearest(v, scale)), "{scale:e} {middle}");
                if scale.to_bits() << 9 == 0 {
                    let got = float4_by_power::<Floats<8>, f32>(&x, largest, scale);
                    assert_eq!(got, x.map(|v| fp4::nearest(v, scale)), "{scale:e} {middle}");
                }
            }
        }
    }
}
