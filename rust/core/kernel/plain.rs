//! Formats without a search: one look at a block for its scale, one for its codes. They are as fast as memory.
//!
//! Nothing here is a sum, so the order does not matter and lanes hold weights that lie side by side.

use std::marker::PhantomData;

use super::RowEncoder;
use crate::block::fp4;
use crate::block::layout::Layout;
use crate::lanes::{F32Lanes, I32Lanes};
use crate::reference::symmetric::reciprocal;

/// A format that is encoded without a search, in blocks of `N` weights, a multiple of 32.
pub(crate) trait Plain<const N: usize> {
    /// A block of the format.
    type Block: Layout;

    /// Encodes a block.
    fn encode<F: F32Lanes>(x: &[f32; N]) -> Self::Block;
}

/// Encodes a format that has no other encoder, and for which importances mean nothing.
pub(crate) struct Encoder<S, const N: usize>(PhantomData<S>);

impl<S: Plain<N>, const N: usize> RowEncoder for Encoder<S, N> {
    #[inline(always)]
    fn encode_rows<F: F32Lanes>(x: &[f32], _row_len: usize, _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks::<F, S, N>(x, out);
    }
}

/// Encodes block after block.
#[inline(always)]
pub(super) fn encode_blocks<F: F32Lanes, S: Plain<N>, const N: usize>(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<N>().0.iter().zip(out.chunks_exact_mut(S::Block::BYTES)) {
        S::encode::<F>(x).write(out);
    }
}

/// The largest magnitude.
#[inline(always)]
pub(crate) fn magnitude<F: F32Lanes>(x: &[f32]) -> f32 {
    let mut largest = F::splat(0.0);
    for x in x.chunks_exact(F::LEN) {
        largest = F::load(x).abs().greater(largest);
    }
    largest.largest()
}

/// The smallest and the largest weight. Of several zeros, which may differ in sign, it is the first one.
#[inline(always)]
pub(crate) fn range<F: F32Lanes, const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = (F::load(x), F::load(x));
    for x in x[F::LEN..].chunks_exact(F::LEN) {
        low = F::load(x).lesser(low);
        high = F::load(x).greater(high);
    }
    (first_of_equals(x, low.least()), first_of_equals(x, high.largest()))
}

/// What equals `value`, which only makes a difference for zeros.
#[inline(always)]
fn first_of_equals(x: &[f32], value: f32) -> f32 {
    if value != 0.0 { value } else { x.iter().copied().find(|v| *v == 0.0).unwrap_or(value) }
}

/// The weight largest in magnitude, the first of equals; 0 if all are zeros.
#[inline(always)]
fn extreme<F: F32Lanes, const N: usize>(x: &[f32; N]) -> f32 {
    let (mut low, mut high) = (F::load(x), F::load(x));
    for x in x[F::LEN..].chunks_exact(F::LEN) {
        low = F::load(x).lesser(low);
        high = F::load(x).greater(high);
    }
    let (low, high) = (low.least(), high.largest());
    if high == -low {
        return if high == 0.0 { 0.0 } else { x.iter().copied().find(|v| v.abs() == high).unwrap_or(high) };
    }
    // Looked up, because which of them it is cannot be predicted.
    [low, high][usize::from(high > -low)]
}

/// How a weight becomes a code.
pub(crate) trait Rule<F: F32Lanes>: Copy {
    /// The code, of which the lowest byte is kept.
    fn code(self, x: F) -> F::Int;
}

/// Codes of a block, `group` weights to a rule.
#[inline(always)]
pub(crate) fn codes<F: F32Lanes, R: Rule<F>, const N: usize>(x: &[f32; N], group: usize, rules: &[R]) -> [u8; N] {
    let mut codes = [0; N];
    for (part, to) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let mut vectors = [F::Int::splat(0); 8];
        for k in 0..32 / F::LEN {
            let at = 32 * part + k * F::LEN;
            vectors[k] = rules[at / group].code(F::load(&x[at..]));
        }
        F::Int::store_bytes(&vectors[..32 / F::LEN], to);
    }
    codes
}

/// `truncate((x - origin) * inverse + offset)`, at most `top`; what does not fit into 32 bits has 0 in its lowest byte.
#[derive(Clone, Copy)]
struct Truncated<F: F32Lanes> {
    inverse: F,
    offset: F,
    top: F::Int,
}

impl<F: F32Lanes> Rule<F> for Truncated<F> {
    #[inline(always)]
    fn code(self, x: F) -> F::Int {
        (x * self.inverse + self.offset).truncate().min(self.top)
    }
}

/// The same above a minimum.
#[derive(Clone, Copy)]
struct Above<F: F32Lanes> {
    origin: F,
    rule: Truncated<F>,
}

impl<F: F32Lanes> Rule<F> for Above<F> {
    #[inline(always)]
    fn code(self, x: F) -> F::Int {
        self.rule.code(x - self.origin)
    }
}

/// See [`crate::reference::symmetric::by_extreme`].
#[inline(always)]
pub(crate) fn by_extreme<F: F32Lanes, const N: usize>(x: &[f32; N], half: i32) -> (f32, [u8; N]) {
    let scale = extreme::<F, N>(x) / -half as f32;
    let rule = Truncated {
        inverse: F::splat(reciprocal(scale)),
        offset: F::splat(half as f32 + 0.5),
        top: F::Int::splat(2 * half - 1),
    };
    (scale, codes(x, N, &[rule]))
}

/// See [`crate::reference::affine::by_range`]: scale, minimum with its own sign, codes.
#[inline(always)]
pub(crate) fn by_range<F: F32Lanes, const N: usize>(x: &[f32; N], max_code: i32) -> (f32, f32, [u8; N]) {
    let (low, high) = range::<F, N>(x);
    let scale = (high - low) / max_code as f32;
    let rule = Truncated { inverse: F::splat(reciprocal(scale)), offset: F::splat(0.5), top: F::Int::splat(max_code) };
    (scale, low, codes(x, N, &[Above { origin: F::splat(low), rule }]))
}

/// The nearest integer to `x * inverse`, halves away from zero, plus `offset`, within bounds.
///
/// With `h` just below a half, `2^-25` below, the truncation of `x + h` rounds `x = n + f >= 0` as wished. For `f < 1/2`
/// the sum stays below `n + 1` by a step of the floats around `x` and more, and rounds to less than that; without such a
/// step, below a half, it is exact. For `f >= 1/2` it falls short of `n + 1` by `2^-25` at most, which rounds to
/// `n + 1`, to even if `n` is 0. What does not fit into 32 bits, infinities and NaN become `i32::MIN`, as in the
/// reference.
#[derive(Clone, Copy)]
struct Nearest<F: F32Lanes> {
    inverse: F,
    offset: F::Int,
    low: i32,
    high: i32,
}

impl<F: F32Lanes> Rule<F> for Nearest<F> {
    #[inline(always)]
    fn code(self, x: F) -> F::Int {
        (nearest(x * self.inverse) + self.offset).clamp(self.low, self.high)
    }
}

#[inline(always)]
fn nearest<F: F32Lanes>(x: F) -> F::Int {
    let sign = x.as_int() & F::Int::splat(i32::MIN);
    (x + (F::splat(0.5f32.next_down()).as_int() | sign).as_float()).truncate()
}

/// Largest magnitude over `divisor` as scale, and codes from the nearest integers, offset and limited.
#[inline(always)]
pub(crate) fn by_magnitude<F: F32Lanes, const N: usize>(
    x: &[f32; N],
    divisor: f32,
    offset: i32,
    (low, high): (i32, i32),
) -> (f32, [u8; N]) {
    let scale = magnitude::<F>(x) / divisor;
    let rule = Nearest { inverse: F::splat(reciprocal(scale)), offset: F::Int::splat(offset), low, high };
    (scale, codes(x, N, &[rule]))
}

/// E2M1 codes under `scale`, by the points half-way between them.
#[derive(Clone, Copy)]
struct Float4<F: F32Lanes> {
    points: [F; 7],
}

impl<F: F32Lanes> Float4<F> {
    #[inline(always)]
    fn new(scale: f32) -> Self {
        let mut points = [F::splat(0.0); 7];
        for (point, middle) in points.iter_mut().zip([0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0]) {
            *point = F::splat(middle * scale);
        }
        Self { points }
    }
}

impl<F: F32Lanes> Rule<F> for Float4<F> {
    #[inline(always)]
    fn code(self, x: F) -> F::Int {
        let zero = F::Int::splat(0);
        let mut code = zero;
        for point in self.points {
            code = code - F::Int::minus_one(point.lt(x.abs()));
        }
        let sign = x.as_int().shr::<28>() & F::Int::splat(8);
        F::Int::select(code.eq(zero), zero, code | sign)
    }
}

/// Largest magnitude, in scales, and largest scale for which [`Float4`] decides as [`fp4::nearest`] does.
const FLOAT4_RANGE: (f32, f32) = (24.0, 2e37);

/// E2M1 codes, `group` weights to each of `scales`; see [`fp4::nearest`].
///
/// Scales have at most 4 significant bits, so multiples of them and the points half-way between are exact. The two
/// multiples on either side of such a point are less than a factor of two away from it except for 0, so differences
/// from weights around it are exact as well (Sterbenz), and which is less is decided correctly. Further away rounding is
/// monotonous. A tie goes to the lower magnitude, which comes first in the list; a negative zero is never chosen. All
/// this holds up to twice the largest multiple, 24, as long as none overflows; other groups go through the reference.
#[inline(always)]
pub(crate) fn float4<F: F32Lanes, const N: usize, const S: usize>(
    x: &[f32; N],
    magnitudes: &[f32; S],
    scales: &[f32; S],
) -> [u8; N] {
    let mut rules = [Float4 { points: [F::splat(0.0); 7] }; S];
    for (rule, &scale) in rules.iter_mut().zip(scales) {
        *rule = Float4::new(scale);
    }
    let mut codes = codes(x, N / S, &rules);
    for s in 0..S {
        let (largest, top) = FLOAT4_RANGE;
        if !(magnitudes[s] <= largest * scales[s] && scales[s] <= top) {
            for i in N / S * s..N / S * (s + 1) {
                codes[i] = fp4::nearest(x[i], scales[s]);
            }
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::{F32Lanes, I32Lanes, float4, nearest};
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
                let got: [u8; 32] = float4::<Floats<8>, 32, 1>(&x, &[largest], &[scale]);
                assert_eq!(got, x.map(|v| fp4::nearest(v, scale)), "{scale:e} {middle}");
            }
        }
    }
}
