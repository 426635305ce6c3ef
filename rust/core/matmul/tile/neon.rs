//! The panel kernel with `sdot`, where the machine has NEON's dot products. Both sides are signed there.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::fours::{self, Depth, Sums, kernels, pair};
use super::{COLUMNS, Facts, Kernels, Multiply, Pairing, Plan, Quad, Row, SLAB, Scaling, Side, Slab};

/// Evaluates NEON intrinsics.
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: NEON is part of the target; loads and stores go through references to as many bytes.
        unsafe { $body }
    };
}

/// Four columns in each register.
#[derive(Clone, Copy)]
pub(super) struct Registers<const PARTS: usize>([int32x4_t; PARTS]);

/// `sums` and the products of fours of bytes.
#[inline(always)]
fn dot(sums: int32x4_t, x: int8x16_t, codes: int8x16_t) -> int32x4_t {
    let mut sums = sums;
    // SAFETY: kernels are handed out only where the instruction was detected; it touches registers alone. The standard
    // library's function for it is not stable yet.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {x:v}.16b, {codes:v}.16b",
            sums = inout(vreg) sums,
            x = in(vreg) x,
            codes = in(vreg) codes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl<const PARTS: usize> Sums for Registers<PARTS> {
    type Floats = [float32x4_t; PARTS];
    const BIASED: bool = false;
    const SCALING_COST: usize = 1;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        neon!(Self([vdupq_n_s32(value); PARTS]))
    }

    #[inline(always)]
    fn add_products(self, codes: i32, quad: &Quad) -> Self {
        let mut own = self;
        let codes = neon!(vreinterpretq_s8_s32(vdupq_n_s32(codes)));
        for (own, x) in own.0.iter_mut().zip(quad.0.as_chunks::<16>().0) {
            *own = dot(*own, neon!(vld1q_s8(x.as_ptr().cast())), codes);
        }
        own
    }

    #[inline(always)]
    fn add_scaled<const NARROW: bool>(self, sums: Self, scale: i32) -> Self {
        let mut own = self;
        for (own, sums) in own.0.iter_mut().zip(sums.0) {
            *own = neon!(vmlaq_n_s32(*own, sums, scale));
        }
        own
    }

    #[inline(always)]
    fn add_pairs(self, pairs: &[[i16; 2]; COLUMNS], factors: [i16; 2]) -> Self {
        let mut own = self;
        for (own, pairs) in own.0.iter_mut().zip(pairs.as_chunks::<4>().0) {
            *own = neon!({
                let pairs = vld2_s16(pairs.as_ptr().cast());
                vmlal_n_s16(vmlal_n_s16(*own, pairs.0, factors[0]), pairs.1, factors[1])
            });
        }
        own
    }

    #[inline(always)]
    fn load(from: &[f32; COLUMNS]) -> [float32x4_t; PARTS] {
        let mut floats = neon!([vdupq_n_f32(0.0); PARTS]);
        for (floats, from) in floats.iter_mut().zip(from.as_chunks::<4>().0) {
            *floats = neon!(vld1q_f32(from.as_ptr()));
        }
        floats
    }

    #[inline(always)]
    fn store(floats: [float32x4_t; PARTS], to: &mut [f32; COLUMNS]) {
        for (to, floats) in to.as_chunks_mut::<4>().0.iter_mut().zip(floats) {
            neon!(vst1q_f32(to.as_mut_ptr(), floats));
        }
    }

    #[inline(always)]
    fn accumulate(self, floats: [float32x4_t; PARTS], a: f32, b: &[f32; COLUMNS]) -> [float32x4_t; PARTS] {
        let (mut floats, b) = (floats, Self::load(b));
        for c in 0..PARTS {
            floats[c] = neon!(vfmaq_f32(floats[c], vmulq_n_f32(b[c], a), vcvtq_f32_s32(self.0[c])));
        }
        floats
    }

    #[inline(always)]
    fn shift(floats: [float32x4_t; PARTS], a: f32, b: &[f32; COLUMNS]) -> [float32x4_t; PARTS] {
        let (mut floats, b) = (floats, Self::load(b));
        for c in 0..PARTS {
            floats[c] = neon!(vfmaq_n_f32(floats[c], b[c], a));
        }
        floats
    }
}

kernels!(Registers<2>, Registers<4>, 4, "neon,dotprod");
