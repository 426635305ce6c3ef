//! Lanes: the few vector operations that kernels are written in.
//!
//! A kernel is generic over [`F32Lanes`] and never splits one reduction across lanes: each lane runs one whole scalar
//! reduction in source order, so any number of lanes gives the bytes of the scalar reference. For the same reason every
//! operation here is exactly its scalar counterpart in each lane: no fused multiply-add, no approximate reciprocals, and
//! a stated result for NaN, for infinities and for zeros of either sign.
//!
//! An instruction set implements the traits in a folder of [`crate::arch`]. Everything generic over lanes is
//! `#[inline(always)]`, so that it is compiled with the instruction set of the shim that it ends up in; closures that take
//! or return lanes are avoided, because they cannot be marked so.

use half::f16;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Sub};

/// The most lanes that any instruction set has.
pub(crate) const MAX_LANES: usize = 16;

/// What is added to a float so that its mantissa holds the nearest integer, ties to even: 1.5 * 2^23.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// One truth value a lane.
pub(crate) trait Mask:
    Copy + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    /// The value of lane `i` at bit `i`.
    fn bits(self) -> u32;

    /// Whether any lane is true.
    #[inline(always)]
    fn any(self) -> bool {
        self.bits() != 0
    }
}

/// One `i32` a lane; arithmetic wraps.
pub(crate) trait I32Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self>
{
    /// Floats of as many lanes.
    type Float: F32Lanes<Int = Self, Mask = Self::Mask>;
    /// Truth values of as many lanes.
    type Mask: Mask;

    /// The same value in all lanes.
    fn splat(value: i32) -> Self;
    /// The first values of a slice, which has at least as many as there are lanes.
    fn load(from: &[i32]) -> Self;
    /// The first values of a slice of halfwords, which has at least as many as there are lanes.
    fn load_u16(from: &[u16]) -> Self;
    /// Writes lane `i` to `to[i]`.
    fn store(self, to: &mut [i32]);
    /// The lesser of two.
    fn min(self, other: Self) -> Self;
    /// The greater of two.
    fn max(self, other: Self) -> Self;
    /// Shifts left by `BY < 32`.
    fn shl<const BY: u32>(self) -> Self;
    /// Shifts right by `BY < 32`, zeros coming in.
    fn shr<const BY: u32>(self) -> Self;
    /// Lanes where both are equal.
    fn eq(self, other: Self) -> Self::Mask;
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The nearest float, ties to even.
    fn to_float(self) -> Self::Float;
    /// The float with these bits.
    fn as_float(self) -> Self::Float;
    /// The lesser of two as unsigned numbers.
    fn unsigned_min(self, other: Self) -> Self;
    /// Limits each lane of 32 lanes to `0..=255` and writes them as bytes: `vectors` holds `32 / LEN` of them.
    fn store_limited(vectors: &[Self], to: &mut [u8; 32]);
    /// The highest bit of each byte, that of byte `i` at bit `i`.
    fn high_bits(bytes: &[u8; 32]) -> u32;
    /// -1 where the mask is true, 0 elsewhere.
    fn minus_one(mask: Self::Mask) -> Self;
    /// The entry that each lane names; lanes lie in `0..16`.
    fn look_up_16(self, table: &[f32; 16]) -> Self::Float;

    /// Limits to `low..=high`.
    #[inline(always)]
    fn clamp(self, low: i32, high: i32) -> Self {
        self.max(Self::splat(low)).min(Self::splat(high))
    }
}

/// One `f32` a lane.
pub(crate) trait F32Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Integers of as many lanes.
    type Int: I32Lanes<Float = Self, Mask = Self::Mask>;
    /// Truth values of as many lanes.
    type Mask: Mask;
    /// Number of lanes: a power of two, at most [`MAX_LANES`].
    const LEN: usize;

    /// The same value in all lanes.
    fn splat(value: f32) -> Self;
    /// The first values of a slice, which has at least as many as there are lanes.
    fn load(from: &[f32]) -> Self;
    /// The first values of a slice of halves, which has at least as many as there are lanes.
    fn load_half(from: &[f16]) -> Self;
    /// Writes lane `i` to `to[i]`.
    fn store(self, to: &mut [f32]);
    /// Writes the half nearest to lane `i`, ties to even, to `to[i]`. Which NaN it is for NaN is left open.
    fn store_half(self, to: &mut [f16]);
    /// The nearest integer, ties to even, with the sign of the value even if that is zero.
    fn round(self) -> Self;
    /// `if self < other { self } else { other }`: the second if either is NaN or both are zero.
    fn lesser(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`: the second if either is NaN or both are zero.
    fn greater(self, other: Self) -> Self;
    /// The magnitude.
    fn abs(self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// Lanes where `self < other`; false for NaN.
    fn lt(self, other: Self) -> Self::Mask;
    /// Lanes where both are equal; false for NaN.
    fn eq(self, other: Self) -> Self::Mask;
    /// `yes` where the mask is true, `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The integer with these bits.
    fn as_int(self) -> Self::Int;
    /// See [`crate::reference::rounding::truncate`].
    fn truncate(self) -> Self::Int;
    /// See [`crate::reference::rounding::to_half`]; one value, not a lane.
    fn to_half(value: f32) -> f16;
    /// The least of all lanes, none of which is NaN; which of two zeros is left open.
    fn least(self) -> f32;
    /// Entries of a table of four, which `self` repeats every four lanes: the two lowest bits of `index` choose.
    fn look_up_4(self, index: Self::Int) -> Self;
    /// Entries of a table of eight, which `self` repeats every eight lanes: the three lowest bits of `index` choose.
    fn look_up_8(self, index: Self::Int) -> Self;
    /// Transposes a square of `LEN` vectors: lane `i` of vector `j` and lane `j` of vector `i` change places.
    fn transpose(square: &mut [Self]);

    /// The first `count` lanes.
    #[inline(always)]
    fn first(count: usize) -> Self::Mask {
        const NUMBERS: [f32; MAX_LANES] = {
            let mut numbers = [0.0; MAX_LANES];
            let mut i = 0;
            while i < MAX_LANES {
                numbers[i] = i as f32;
                i += 1;
            }
            numbers
        };
        // By way of `i32`, which every processor turns into a float without a branch.
        Self::load(&NUMBERS).lt(Self::splat(count as i32 as f32))
    }

    /// Lanes where `self > other`; false for NaN.
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        other.lt(self)
    }

    /// The largest of all lanes, none of which is NaN; which of two zeros is left open.
    #[inline(always)]
    fn largest(self) -> f32 {
        -self.neg().least()
    }

    /// The value with its sign turned, NaN and zeros included.
    #[inline(always)]
    fn neg(self) -> Self {
        (self.as_int() ^ Self::Int::splat(i32::MIN)).as_float()
    }

    /// See [`crate::reference::rounding::nearest_int`].
    #[inline(always)]
    fn nearest_int(self) -> Self::Int {
        ((self + Self::splat(ROUNDER)).as_int() & Self::Int::splat(0x007f_ffff)) - Self::Int::splat(0x0040_0000)
    }

    /// The lesser of the value and `high`, which is not negative. Zeros keep their sign; NaN may become `high`.
    ///
    /// Floats that are not negative are ordered as their bits are, and negative ones are negative integers: a comparison of
    /// integers, for which more units stand ready than for one of floats.
    #[inline(always)]
    fn at_most(self, high: f32) -> Self {
        self.as_int().min(Self::Int::splat(high.to_bits() as i32)).as_float()
    }

    /// The greater of the value and `low`, which is not positive. Zeros keep their sign unless `low` is zero. NaN may become
    /// `low`.
    ///
    /// As unsigned numbers, the bits of negative floats are above those of all others and grow with the magnitude.
    #[inline(always)]
    fn at_least(self, low: f32) -> Self {
        if low == 0.0 {
            return self.as_int().max(Self::Int::splat(0)).as_float();
        }
        self.as_int().unsigned_min(Self::Int::splat(low.to_bits() as i32)).as_float()
    }

    /// `nearest_int(self).clamp(low, high) as f32` with `low <= 0 <= high`, for magnitudes of at most 4194303, where nothing
    /// wraps; zero may be negative unless `low` is 0.
    #[inline(always)]
    fn nearest_code(self, low: f32, high: f32) -> Self {
        self.round().at_least(low).at_most(high)
    }
}

/// The first `N` elements.
#[inline(always)]
pub(crate) fn head<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.first_chunk().expect("slices are as long as a vector")
}

/// The first `N` elements, to be written.
#[inline(always)]
pub(crate) fn head_mut<T, const N: usize>(slice: &mut [T]) -> &mut [T; N] {
    slice.first_chunk_mut().expect("slices are as long as a vector")
}

#[cfg(test)]
pub(crate) mod check;
#[cfg(test)]
pub(crate) mod portable;
