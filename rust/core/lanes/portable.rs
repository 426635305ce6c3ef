//! Lanes in plain Rust, any number of them: what each operation means, and a way to run kernels at the width of
//! instruction sets that this machine lacks.

use half::f16;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Sub};

use super::{F32Lanes, I32Lanes, Mask};
use crate::reference::rounding;

/// `N` floats.
#[derive(Clone, Copy)]
pub(crate) struct Floats<const N: usize>([f32; N]);

/// `N` integers.
#[derive(Clone, Copy)]
pub(crate) struct Ints<const N: usize>([i32; N]);

/// `N` truth values.
#[derive(Clone, Copy)]
pub(crate) struct Bools<const N: usize>([bool; N]);

fn zip<A: Copy, B: Copy, C, const N: usize>(a: [A; N], b: [B; N], f: impl Fn(A, B) -> C) -> [C; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

macro_rules! operators {
    ($type:ident: $($trait:ident $method:ident $function:expr),+) => {$(
        impl<const N: usize> $trait for $type<N> {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Self(zip(self.0, other.0, $function))
            }
        }
    )+};
}

operators!(Floats: Add add |a, b| a + b, Sub sub |a, b| a - b, Mul mul |a, b| a * b, Div div |a, b| a / b);
operators!(Ints: Add add i32::wrapping_add, Sub sub i32::wrapping_sub);
operators!(Ints: BitAnd bitand |a, b| a & b, BitOr bitor |a, b| a | b, BitXor bitxor |a, b| a ^ b);
operators!(Bools: BitAnd bitand |a, b| a & b, BitOr bitor |a, b| a | b, BitXor bitxor |a, b| a ^ b);

impl<const N: usize> Not for Bools<N> {
    type Output = Self;

    fn not(self) -> Self {
        Self(self.0.map(|value| !value))
    }
}

impl<const N: usize> Mask for Bools<N> {
    fn bits(self) -> u32 {
        self.0.iter().enumerate().map(|(i, &value)| u32::from(value) << i).sum()
    }
}

impl<const N: usize> I32Lanes for Ints<N> {
    type Float = Floats<N>;
    type Mask = Bools<N>;

    fn splat(value: i32) -> Self {
        Self([value; N])
    }

    fn load(from: &[i32]) -> Self {
        Self(std::array::from_fn(|i| from[i]))
    }

    fn load_u16(from: &[u16]) -> Self {
        Self(std::array::from_fn(|i| i32::from(from[i])))
    }

    fn store(self, to: &mut [i32]) {
        to[..N].copy_from_slice(&self.0);
    }

    fn min(self, other: Self) -> Self {
        Self(zip(self.0, other.0, Ord::min))
    }

    fn max(self, other: Self) -> Self {
        Self(zip(self.0, other.0, Ord::max))
    }

    fn shl<const BY: u32>(self) -> Self {
        Self(self.0.map(|value| value << BY))
    }

    fn shr<const BY: u32>(self) -> Self {
        Self(self.0.map(|value| (value as u32 >> BY) as i32))
    }

    fn eq(self, other: Self) -> Bools<N> {
        Bools(zip(self.0, other.0, |a, b| a == b))
    }

    fn select(mask: Bools<N>, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if mask.0[i] { yes.0[i] } else { no.0[i] }))
    }

    fn to_float(self) -> Floats<N> {
        Floats(self.0.map(|value| value as f32))
    }

    fn as_float(self) -> Floats<N> {
        Floats(self.0.map(|value| f32::from_bits(value as u32)))
    }

    fn unsigned_min(self, other: Self) -> Self {
        Self(zip(self.0, other.0, |a, b| (a as u32).min(b as u32) as i32))
    }

    fn store_limited(vectors: &[Self], to: &mut [u8; 32]) {
        for (to, value) in to.iter_mut().zip(vectors.iter().flat_map(|vector| vector.0)) {
            *to = value.clamp(0, 255) as u8;
        }
    }

    fn high_bits(bytes: &[u8; 32]) -> u32 {
        bytes.iter().enumerate().map(|(i, byte)| u32::from(byte >> 7) << i).sum()
    }

    fn minus_one(mask: Bools<N>) -> Self {
        Self(mask.0.map(|value| -i32::from(value)))
    }

    fn look_up_16(self, table: &[f32; 16]) -> Floats<N> {
        Floats(self.0.map(|value| table[value as usize]))
    }
}

impl<const N: usize> F32Lanes for Floats<N> {
    type Int = Ints<N>;
    type Mask = Bools<N>;
    const LEN: usize = N;

    fn splat(value: f32) -> Self {
        Self([value; N])
    }

    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|i| from[i]))
    }

    fn store(self, to: &mut [f32]) {
        to[..N].copy_from_slice(&self.0);
    }

    fn load_half(from: &[f16]) -> Self {
        Self(std::array::from_fn(|i| from[i].to_f32()))
    }

    fn store_half(self, to: &mut [f16]) {
        for (to, value) in to.iter_mut().zip(self.0) {
            *to = f16::from_f32(value);
        }
    }

    fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    fn lesser(self, other: Self) -> Self {
        Self(zip(self.0, other.0, |a, b| if a < b { a } else { b }))
    }

    fn greater(self, other: Self) -> Self {
        Self(zip(self.0, other.0, |a, b| if a > b { a } else { b }))
    }

    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    fn lt(self, other: Self) -> Bools<N> {
        Bools(zip(self.0, other.0, |a, b| a < b))
    }

    fn eq(self, other: Self) -> Bools<N> {
        Bools(zip(self.0, other.0, |a, b| a == b))
    }

    fn select(mask: Bools<N>, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if mask.0[i] { yes.0[i] } else { no.0[i] }))
    }

    fn as_int(self) -> Ints<N> {
        Ints(self.0.map(|value| value.to_bits() as i32))
    }

    fn truncate(self) -> Ints<N> {
        Ints(self.0.map(rounding::truncate))
    }

    fn to_half(value: f32) -> f16 {
        rounding::to_half(value)
    }

    fn least(self) -> f32 {
        self.0.into_iter().fold(f32::INFINITY, f32::min)
    }

    fn look_up_4(self, index: Ints<N>) -> Self {
        Self(std::array::from_fn(|i| self.0[i / 4 * 4 + (index.0[i] & 3) as usize]))
    }

    fn look_up_8(self, index: Ints<N>) -> Self {
        Self(std::array::from_fn(|i| self.0[i / 8 * 8 + (index.0[i] & 7) as usize]))
    }

    fn transpose(square: &mut [Self]) {
        for i in 0..N {
            for j in 0..i {
                (square[i].0[j], square[j].0[i]) = (square[j].0[i], square[i].0[j]);
            }
        }
    }
}
