//! NEON, which every aarch64 machine has: 8 lanes in two registers.

use half::f16;
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Sub};

use crate::lanes::{F32Lanes, I32Lanes, Mask, head, head_mut};

/// Evaluates NEON intrinsics.
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: NEON is part of the target. Loads and stores go through references to arrays of the full width.
        unsafe { $body }
    };
}

/// 8 floats.
#[derive(Clone, Copy)]
pub(crate) struct F32(float32x4_t, float32x4_t);

/// 8 integers.
#[derive(Clone, Copy)]
pub(crate) struct I32(int32x4_t, int32x4_t);

/// 8 truth values, all bits of a lane alike.
#[derive(Clone, Copy)]
pub(crate) struct Bools(uint32x4_t, uint32x4_t);

macro_rules! operators {
    ($type:ident: $($trait:ident $method:ident $intrinsic:ident),+) => {$(
        impl $trait for $type {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                neon!(Self($intrinsic(self.0, other.0), $intrinsic(self.1, other.1)))
            }
        }
    )+};
}

operators!(F32: Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);
operators!(I32: Add add vaddq_s32, Sub sub vsubq_s32);
operators!(I32: BitAnd bitand vandq_s32, BitOr bitor vorrq_s32, BitXor bitxor veorq_s32);
operators!(Bools: BitAnd bitand vandq_u32, BitOr bitor vorrq_u32, BitXor bitxor veorq_u32);

impl Not for Bools {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        neon!(Self(vmvnq_u32(self.0), vmvnq_u32(self.1)))
    }
}

impl Mask for Bools {
    #[inline(always)]
    fn bits(self) -> u32 {
        const LOW: [u32; 4] = [1, 2, 4, 8];
        const HIGH: [u32; 4] = [16, 32, 64, 128];
        neon!({
            let low = vandq_u32(self.0, vld1q_u32(LOW.as_ptr()));
            vaddvq_u32(vorrq_u32(low, vandq_u32(self.1, vld1q_u32(HIGH.as_ptr()))))
        })
    }

    #[inline(always)]
    fn any(self) -> bool {
        neon!(vmaxvq_u32(vorrq_u32(self.0, self.1)) != 0)
    }
}

/// Of 32-bit entries `index` in a table, their bytes.
#[inline(always)]
fn bytes(index: int32x4_t) -> uint8x16_t {
    neon!(vreinterpretq_u8_s32(vmlaq_n_s32(vdupq_n_s32(0x0302_0100), index, 0x0404_0404)))
}

/// Halves as floats. The standard library's function for it asks for more than the oldest compiler that this builds with has.
#[inline(always)]
fn widen(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: NEON is part of the target; the instruction touches registers alone.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    floats
}

/// A half as a float.
#[inline(always)]
pub(crate) fn widen_one(half: f16) -> f32 {
    neon!(vgetq_lane_f32::<0>(widen(vdup_n_u16(half.to_bits()))))
}

/// Floats as the nearest halves, ties to even. See [`widen`].
#[inline(always)]
fn narrow(floats: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: as in `widen`.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {floats:v}.4s",
            halves = out(vreg) halves,
            floats = in(vreg) floats,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

impl I32Lanes for I32 {
    type Float = F32;
    type Mask = Bools;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        neon!(Self(vdupq_n_s32(value), vdupq_n_s32(value)))
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        let from: &[i32; 8] = head(from);
        neon!(Self(vld1q_s32(from.as_ptr()), vld1q_s32(from.as_ptr().add(4))))
    }

    #[inline(always)]
    fn load_u16(from: &[u16]) -> Self {
        let from: &[u16; 8] = head(from);
        neon!({
            let all = vld1q_u16(from.as_ptr());
            let (low, high) = (vmovl_u16(vget_low_u16(all)), vmovl_high_u16(all));
            Self(vreinterpretq_s32_u32(low), vreinterpretq_s32_u32(high))
        })
    }

    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        let to: &mut [i32; 8] = head_mut(to);
        neon!({
            vst1q_s32(to.as_mut_ptr(), self.0);
            vst1q_s32(to.as_mut_ptr().add(4), self.1);
        });
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        neon!(Self(vminq_s32(self.0, other.0), vminq_s32(self.1, other.1)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        neon!(Self(vmaxq_s32(self.0, other.0), vmaxq_s32(self.1, other.1)))
    }

    #[inline(always)]
    fn shl<const BY: u32>(self) -> Self {
        neon!({
            let by = vdupq_n_s32(BY as i32);
            Self(vshlq_s32(self.0, by), vshlq_s32(self.1, by))
        })
    }

    #[inline(always)]
    fn shr<const BY: u32>(self) -> Self {
        neon!({
            // Shifts to the left by less than nothing.
            let by = vdupq_n_s32(-(BY as i32));
            let shift = |value: int32x4_t| vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(value), by));
            Self(shift(self.0), shift(self.1))
        })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        neon!(Bools(vceqq_s32(self.0, other.0), vceqq_s32(self.1, other.1)))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        neon!(Self(vbslq_s32(mask.0, yes.0, no.0), vbslq_s32(mask.1, yes.1, no.1)))
    }

    #[inline(always)]
    fn to_float(self) -> F32 {
        neon!(F32(vcvtq_f32_s32(self.0), vcvtq_f32_s32(self.1)))
    }

    #[inline(always)]
    fn as_float(self) -> F32 {
        neon!(F32(vreinterpretq_f32_s32(self.0), vreinterpretq_f32_s32(self.1)))
    }

    #[inline(always)]
    fn unsigned_min(self, other: Self) -> Self {
        neon!({
            let least = |a: int32x4_t, b: int32x4_t| vminq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b));
            let (low, high) = (least(self.0, other.0), least(self.1, other.1));
            Self(vreinterpretq_s32_u32(low), vreinterpretq_s32_u32(high))
        })
    }

    #[inline(always)]
    fn store_limited(vectors: &[Self], to: &mut [u8; 32]) {
        let vectors: &[Self; 4] = head(vectors);
        for (vector, to) in vectors.iter().zip(to.as_chunks_mut::<8>().0) {
            neon!({
                // Limited below by the first conversion, above by both.
                let words = vcombine_u16(vqmovun_s32(vector.0), vqmovun_s32(vector.1));
                vst1_u8(to.as_mut_ptr(), vqmovn_u16(words));
            });
        }
    }

    #[inline(always)]
    fn high_bits(bytes: &[u8; 32]) -> u32 {
        const BITS: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
        let mut all = 0;
        for (i, bytes) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let own = neon!({
                let set = vcltz_s8(vreinterpret_s8_u8(vld1_u8(bytes.as_ptr())));
                vaddv_u8(vand_u8(set, vld1_u8(BITS.as_ptr())))
            });
            all |= u32::from(own) << (8 * i);
        }
        all
    }

    #[inline(always)]
    fn minus_one(mask: Bools) -> Self {
        neon!(Self(vreinterpretq_s32_u32(mask.0), vreinterpretq_s32_u32(mask.1)))
    }

    #[inline(always)]
    fn look_up_16(self, table: &[f32; 16]) -> F32 {
        neon!({
            let table = vld1q_u8_x4(table.as_ptr().cast());
            let (low, high) = (vqtbl4q_u8(table, bytes(self.0)), vqtbl4q_u8(table, bytes(self.1)));
            F32(vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high))
        })
    }
}

impl F32Lanes for F32 {
    type Int = I32;
    type Mask = Bools;
    const LEN: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        neon!(Self(vdupq_n_f32(value), vdupq_n_f32(value)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from: &[f32; 8] = head(from);
        neon!(Self(vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to: &mut [f32; 8] = head_mut(to);
        neon!({
            vst1q_f32(to.as_mut_ptr(), self.0);
            vst1q_f32(to.as_mut_ptr().add(4), self.1);
        });
    }

    #[inline(always)]
    fn load_half(from: &[f16]) -> Self {
        let from: &[f16; 8] = head(from);
        neon!({
            let halves = vld1q_u16(from.as_ptr().cast());
            Self(widen(vget_low_u16(halves)), widen(vget_high_u16(halves)))
        })
    }

    #[inline(always)]
    fn store_half(self, to: &mut [f16]) {
        let to: &mut [f16; 8] = head_mut(to);
        neon!(vst1q_u16(to.as_mut_ptr().cast(), vcombine_u16(narrow(self.0), narrow(self.1))));
    }

    #[inline(always)]
    fn round(self) -> Self {
        neon!(Self(vrndnq_f32(self.0), vrndnq_f32(self.1)))
    }

    // NEON's own minimum and maximum order zeros by sign and keep NaN.
    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        Self::select(self.lt(other), self, other)
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        Self::select(other.lt(self), self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        neon!(Self(vabsq_f32(self.0), vabsq_f32(self.1)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        neon!(Self(vsqrtq_f32(self.0), vsqrtq_f32(self.1)))
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Bools {
        neon!(Bools(vcltq_f32(self.0, other.0), vcltq_f32(self.1, other.1)))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        neon!(Bools(vceqq_f32(self.0, other.0), vceqq_f32(self.1, other.1)))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        neon!(Self(vbslq_f32(mask.0, yes.0, no.0), vbslq_f32(mask.1, yes.1, no.1)))
    }

    #[inline(always)]
    fn as_int(self) -> I32 {
        neon!(I32(vreinterpretq_s32_f32(self.0), vreinterpretq_s32_f32(self.1)))
    }

    #[inline(always)]
    fn truncate(self) -> I32 {
        // The conversion saturates, and NaN gives 0; only what is below `2^31` and no NaN stays.
        let fits = self.lt(Self::splat(2_147_483_648.0));
        let whole = neon!(I32(vcvtq_s32_f32(self.0), vcvtq_s32_f32(self.1)));
        I32::select(fits, whole, I32::splat(i32::MIN))
    }

    #[inline(always)]
    fn to_half(value: f32) -> f16 {
        crate::reference::rounding::to_half(value)
    }

    #[inline(always)]
    fn least(self) -> f32 {
        neon!(vminvq_f32(vminq_f32(self.0, self.1)))
    }

    #[inline(always)]
    fn look_up_4(self, index: I32) -> Self {
        let index = index & I32::splat(3);
        neon!({
            let low = vqtbl1q_u8(vreinterpretq_u8_f32(self.0), bytes(index.0));
            let high = vqtbl1q_u8(vreinterpretq_u8_f32(self.1), bytes(index.1));
            Self(vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high))
        })
    }

    #[inline(always)]
    fn look_up_8(self, index: I32) -> Self {
        let index = index & I32::splat(7);
        neon!({
            let table = uint8x16x2_t(vreinterpretq_u8_f32(self.0), vreinterpretq_u8_f32(self.1));
            let (low, high) = (vqtbl2q_u8(table, bytes(index.0)), vqtbl2q_u8(table, bytes(index.1)));
            Self(vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high))
        })
    }

    #[inline(always)]
    fn transpose(square: &mut [Self]) {
        let v: &mut [Self; 8] = head_mut(square);
        let upper = transpose_4([v[0].0, v[1].0, v[2].0, v[3].0]);
        let upper_right = transpose_4([v[0].1, v[1].1, v[2].1, v[3].1]);
        let lower_left = transpose_4([v[4].0, v[5].0, v[6].0, v[7].0]);
        let lower = transpose_4([v[4].1, v[5].1, v[6].1, v[7].1]);
        for i in 0..4 {
            v[i] = Self(upper[i], lower_left[i]);
            v[i + 4] = Self(upper_right[i], lower[i]);
        }
    }
}

/// A square of 4.
#[inline(always)]
fn transpose_4(v: [float32x4_t; 4]) -> [float32x4_t; 4] {
    neon!({
        let even = (vtrn1q_f32(v[0], v[1]), vtrn1q_f32(v[2], v[3]));
        let odd = (vtrn2q_f32(v[0], v[1]), vtrn2q_f32(v[2], v[3]));
        let double = |v: float32x4_t| vreinterpretq_f64_f32(v);
        [
            vreinterpretq_f32_f64(vtrn1q_f64(double(even.0), double(even.1))),
            vreinterpretq_f32_f64(vtrn1q_f64(double(odd.0), double(odd.1))),
            vreinterpretq_f32_f64(vtrn2q_f64(double(even.0), double(even.1))),
            vreinterpretq_f32_f64(vtrn2q_f64(double(odd.0), double(odd.1))),
        ]
    })
}
