//! Blocks of 32 with a scale of their own: Q4_0 to Q5_1, Q8_0.

use half::f16;

use super::super::blocks::{BLOCK, Target, write_parts};
use super::Stored;

impl Stored {
    /// How far a stored number may be from the one it was made of, relative to it.
    const fn error(self) -> f32 {
        match self {
            Self::F32 => 1.0 / (1 << 23) as f32,
            Self::F16 => 1.0 / (1 << 11) as f32,
            Self::BF16 => 1.0 / (1 << 8) as f32,
        }
    }
}

/// More scales than this are not tried for one assignment of codes: an interval of bf16's error holds 8 or 9 halves, or some
/// dozens where weights are close together far from zero, unless they are subnormal and any of many would do.
const MOST_SCALES: usize = 256;

/// Writes the block if `x` is on the grid of `target`, and says whether it is.
pub(super) fn encode(target: Target, x: &[f32; BLOCK], stored: Stored, out: &mut [u8]) -> bool {
    let found = match target {
        Target::Q4_0 => symmetric(x, -8, 7, stored),
        Target::Q5_0 => symmetric(x, -16, 15, stored),
        Target::Q8_0 => symmetric(x, -128, 127, stored),
        Target::Q4_1 => affine(x, 15, stored),
        Target::Q5_1 => affine(x, 31, stored),
    };
    if let Some((d, m, codes)) = found {
        write_parts(target, d, m, &codes, out);
    }
    found.is_some()
}

/// Scale, minimum, and codes as they are stored.
type Found = (f16, f16, [u8; BLOCK]);

/// `x = d * q` with `q` from `low` to `high`.
fn symmetric(x: &[f32; BLOCK], low: i32, high: i32, stored: Stored) -> Option<Found> {
    let extreme = extreme(x)?;
    if extreme == 0.0 {
        return Some((f16::ZERO, f16::ZERO, [-low as u8; BLOCK]));
    }
    // First what ggml's own encoders do (the extreme at the end of the range, whatever its sign), then positive scales
    // from the finest on, then negative ones, which no 8-bit encoder makes.
    let sign = if extreme < 0.0 { -1 } else { 1 };
    let first = if low == -128 { 127 * sign } else { low };
    let (same_side, other_side) = if extreme < 0.0 { (-low, high) } else { (high, -low) };
    let rest = (1..=same_side).rev().map(|k| k * sign);
    let mirrored = (1..=if low == -128 { 0 } else { other_side }).rev().map(|k| -k * sign);
    // The smallest weight leaves a scale the least room, so it is asked first.
    let least = x.iter().copied().filter(|&x| x != 0.0).fold(extreme, |a, b| if b.abs() < a.abs() { b } else { a });
    std::iter::once(first).chain(rest).chain(mirrored).find_map(|k| {
        scales(extreme / k as f32, stored).find_map(|d| {
            let step = d.to_f32();
            if !same(stored.round((least / step).round_ties_even() * step), least) {
                return None;
            }
            let codes = on_symmetric(x, step, low, high, stored)?;
            Some((d, f16::ZERO, codes))
        })
    })
}

#[inline]
fn on_symmetric(x: &[f32; BLOCK], d: f32, low: i32, high: i32, stored: Stored) -> Option<[u8; BLOCK]> {
    let mut codes = [0; BLOCK];
    for (code, &x) in codes.iter_mut().zip(x) {
        let q = (x / d).round_ties_even() as i32;
        if q < low || q > high || !same(stored.round(q as f32 * d), x) {
            return None;
        }
        *code = (q - low) as u8;
    }
    Some(codes)
}

/// `x = d * q + m` with `q` from 0 to `max`, whichever codes the block uses.
///
/// The largest weight minus the smallest is `d` times a whole number, which leaves few scales; every other weight must be
/// as far from the smallest, too, which nearly all of them fail at once. Then the smallest weight may have any code that
/// leaves room for the largest, and each gives the minimum. Missed are minima so much smaller than the steps that hundreds
/// of halves would do, if they are not zero and all weights are far from them.
fn affine(x: &[f32; BLOCK], max: i32, stored: Stored) -> Option<Found> {
    let extreme = extreme(x)?.abs();
    let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    if low == high {
        let m = f16::from_f32(low);
        let codes = on_affine(x, 0.0, m.to_f32(), max, stored)?;
        return Some((f16::ZERO, m, codes));
    }
    // A stored weight is off by its own rounding, by that of the product, and by that of the sum.
    let least = if stored == Stored::F16 { f16::from_bits(1).to_f32() } else { 0.0 };
    let off = |x: f32| x.abs() * stored.error() + least + extreme * 4.0 * Stored::F32.error();
    (1..=max).rev().find_map(|used| {
        let step = (high - low) / used as f32;
        halves(step, (off(low) + off(high)) / (high - low)).find_map(|d| {
            let step = d.to_f32();
            let apart = |x: f32| (x - low) / step;
            let is_near = |x: f32| (apart(x) - apart(x).round_ties_even()).abs() <= (off(x) + off(low)) / step;
            if !x.iter().all(|&x| is_near(x)) {
                return None;
            }
            (0..=max - used).find_map(|k| {
                let m = low - k as f32 * step;
                // First a grid through zero, which is what packed integers have.
                let through_zero = f16::from_f32((m / step).round_ties_even() * step);
                std::iter::once(through_zero).chain(halves_around(m, off(low))).find_map(|m| {
                    let codes = on_affine(x, step, m.to_f32(), max, stored)?;
                    Some((d, m, codes))
                })
            })
        })
    })
}

#[inline]
fn on_affine(x: &[f32; BLOCK], d: f32, m: f32, max: i32, stored: Stored) -> Option<[u8; BLOCK]> {
    let mut codes = [0; BLOCK];
    for (code, &x) in codes.iter_mut().zip(x) {
        let q = if d == 0.0 { 0 } else { ((x - m) / d).round_ties_even() as i32 };
        if q < 0 || q > max || !same(stored.round(q as f32 * d + m), x) {
            return None;
        }
        *code = q as u8;
    }
    Some(codes)
}

/// Equal, where zeros of either sign are: a sum or a product of codes may have either.
#[inline]
fn same(a: f32, b: f32) -> bool {
    a == b
}

/// The weight largest in magnitude, the first of several; `None` if any is not finite.
fn extreme(x: &[f32; BLOCK]) -> Option<f32> {
    let mut extreme = 0.0_f32;
    for &x in x {
        if !x.is_finite() {
            return None;
        }
        if x.abs() > extreme.abs() {
            extreme = x;
        }
    }
    Some(extreme)
}

/// The `f16` numbers that may have been the scale, where the stored number divided by its code is `d`, the nearest first.
fn scales(d: f32, stored: Stored) -> impl Iterator<Item = f16> {
    halves(d, stored.error())
}

/// The `f16` numbers within a relative distance of `d`, the nearest first; not zero.
fn halves(d: f32, distance: f32) -> impl Iterator<Item = f16> {
    halves_around(d, distance * d.abs()).filter(|half| *half != f16::ZERO)
}

/// The `f16` numbers within a distance of `x`, the nearest first; the nearest in any case.
fn halves_around(x: f32, distance: f32) -> impl Iterator<Item = f16> {
    let nearest = f16::from_f32(x);
    // Bits of one sign are in the order of magnitudes.
    let bits = nearest.to_bits();
    let near = move |half: &f16| half.is_finite() && (half.to_f32() - x).abs() <= distance;
    let outwards = (1..=MOST_SCALES as u16 / 2).map(move |step| {
        let up = bits.checked_add(step).filter(|up| up & 0x8000 == bits & 0x8000);
        let down = ((bits & 0x7fff) >= step).then(|| bits - step);
        [up, down].map(|half| half.map(f16::from_bits).filter(near))
    });
    let found = outwards.take_while(|pair| pair.iter().any(Option::is_some)).flatten().flatten();
    std::iter::once(nearest).filter(|half| half.is_finite()).chain(found)
}
