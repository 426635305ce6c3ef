//! AVX-512 F, BW, DQ and VL: 16 lanes.

use half::f16;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Sub};

use crate::lanes::{F32Lanes, I32Lanes, Mask, head, head_mut};

/// Evaluates intrinsics that need AVX-512 and nothing else.
macro_rules! avx512 {
    ($body:expr) => {
        // SAFETY: kernels are instantiated with these types only behind shims compiled for AVX-512, which the kernel table
        // hands out only where AVX-512 was detected. Loads and stores go through references to arrays of the full width.
        unsafe { $body }
    };
}

/// 16 floats.
#[derive(Clone, Copy)]
pub(crate) struct F32(__m512);

/// 16 integers.
#[derive(Clone, Copy)]
pub(crate) struct I32(__m512i);

/// 16 truth values.
#[derive(Clone, Copy)]
pub(crate) struct Bools(__mmask16);

macro_rules! operators {
    ($type:ident: $($trait:ident $method:ident $intrinsic:ident),+) => {$(
        impl $trait for $type {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                avx512!(Self($intrinsic(self.0, other.0)))
            }
        }
    )+};
}

operators!(F32: Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);
operators!(I32: Add add _mm512_add_epi32, Sub sub _mm512_sub_epi32);
operators!(I32: BitAnd bitand _mm512_and_si512, BitOr bitor _mm512_or_si512, BitXor bitxor _mm512_xor_si512);

macro_rules! logic {
    ($($trait:ident $method:ident $operator:tt),+) => {$(
        impl $trait for Bools {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(self.0 $operator other.0)
            }
        }
    )+};
}

logic!(BitAnd bitand &, BitOr bitor |, BitXor bitxor ^);

impl Not for Bools {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
}

impl Mask for Bools {
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.0)
    }
}

impl I32Lanes for I32 {
    type Float = F32;
    type Mask = Bools;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        avx512!(Self(_mm512_set1_epi32(value)))
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        let from: &[i32; 16] = head(from);
        avx512!(Self(_mm512_loadu_si512(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_u16(from: &[u16]) -> Self {
        let from: &[u16; 16] = head(from);
        avx512!(Self(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        let to: &mut [i32; 16] = head_mut(to);
        avx512!(_mm512_storeu_si512(to.as_mut_ptr().cast(), self.0));
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        avx512!(Self(_mm512_min_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        avx512!(Self(_mm512_max_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn shl<const BY: u32>(self) -> Self {
        avx512!(Self(_mm512_sllv_epi32(self.0, _mm512_set1_epi32(BY as i32))))
    }

    #[inline(always)]
    fn shr<const BY: u32>(self) -> Self {
        avx512!(Self(_mm512_srlv_epi32(self.0, _mm512_set1_epi32(BY as i32))))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        avx512!(Bools(_mm512_cmpeq_epi32_mask(self.0, other.0)))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        avx512!(Self(_mm512_mask_blend_epi32(mask.0, no.0, yes.0)))
    }

    #[inline(always)]
    fn to_float(self) -> F32 {
        avx512!(F32(_mm512_cvtepi32_ps(self.0)))
    }

    #[inline(always)]
    fn as_float(self) -> F32 {
        avx512!(F32(_mm512_castsi512_ps(self.0)))
    }

    #[inline(always)]
    fn unsigned_min(self, other: Self) -> Self {
        avx512!(Self(_mm512_min_epu32(self.0, other.0)))
    }

    #[inline(always)]
    fn store_limited(vectors: &[Self], to: &mut [u8; 32]) {
        let v: &[Self; 2] = head(vectors);
        let (low, high) = to.split_at_mut(16);
        avx512!({
            // Limited above by the conversion, which takes numbers as unsigned.
            let zero = _mm512_setzero_si512();
            let bytes = (_mm512_max_epi32(v[0].0, zero), _mm512_max_epi32(v[1].0, zero));
            _mm_storeu_si128(low.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(bytes.0));
            _mm_storeu_si128(high.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(bytes.1));
        });
    }

    #[inline(always)]
    fn high_bits(bytes: &[u8; 32]) -> u32 {
        avx512!(_mm256_movemask_epi8(_mm256_loadu_si256(bytes.as_ptr().cast())) as u32)
    }

    #[inline(always)]
    fn minus_one(mask: Bools) -> Self {
        avx512!(Self(_mm512_movm_epi32(mask.0)))
    }

    #[inline(always)]
    fn look_up_16(self, table: &[f32; 16]) -> F32 {
        avx512!(F32(_mm512_permutexvar_ps(self.0, F32::load(table).0)))
    }
}

impl F32Lanes for F32 {
    type Int = I32;
    type Mask = Bools;
    const LEN: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        avx512!(Self(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from: &[f32; 16] = head(from);
        avx512!(Self(_mm512_loadu_ps(from.as_ptr())))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to: &mut [f32; 16] = head_mut(to);
        avx512!(_mm512_storeu_ps(to.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn load_half(from: &[f16]) -> Self {
        let from: &[f16; 16] = head(from);
        avx512!(Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store_half(self, to: &mut [f16]) {
        let to: &mut [f16; 16] = head_mut(to);
        avx512!(_mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)));
    }

    #[inline(always)]
    fn round(self) -> Self {
        avx512!(Self(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        avx512!(Self(_mm512_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        avx512!(Self(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        avx512!(Self(_mm512_abs_ps(self.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        avx512!(Self(_mm512_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Bools {
        avx512!(Bools(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0)))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        avx512!(Bools(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0)))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        avx512!(Self(_mm512_mask_blend_ps(mask.0, no.0, yes.0)))
    }

    #[inline(always)]
    fn as_int(self) -> I32 {
        avx512!(I32(_mm512_castps_si512(self.0)))
    }

    #[inline(always)]
    fn truncate(self) -> I32 {
        avx512!(I32(_mm512_cvttps_epi32(self.0)))
    }

    #[inline(always)]
    fn to_half(value: f32) -> f16 {
        let bits = avx512!(_mm_cvtsi128_si32(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value))));
        f16::from_bits(if value.is_nan() { 0xfe00 } else { bits as u16 })
    }

    #[inline(always)]
    fn least(self) -> f32 {
        avx512!(_mm512_reduce_min_ps(self.0))
    }

    #[inline(always)]
    fn look_up_4(self, index: I32) -> Self {
        avx512!(Self(_mm512_permutevar_ps(self.0, index.0)))
    }

    #[inline(always)]
    fn look_up_8(self, index: I32) -> Self {
        // Four bits choose here, but the table is there twice.
        avx512!(Self(_mm512_permutexvar_ps(index.0, self.0)))
    }

    #[inline(always)]
    fn transpose(square: &mut [Self]) {
        let v: &mut [Self; 16] = head_mut(square);
        avx512!({
            // Squares of 4 within the four parts of 128 bits: part `k` of vector `4 * a + c` becomes column `4 * k + c` of
            // vectors `4 * a` to `4 * a + 3`.
            for v in v.as_chunks_mut::<4>().0 {
                let low = (_mm512_unpacklo_ps(v[0].0, v[1].0), _mm512_unpacklo_ps(v[2].0, v[3].0));
                let high = (_mm512_unpackhi_ps(v[0].0, v[1].0), _mm512_unpackhi_ps(v[2].0, v[3].0));
                v[0].0 = _mm512_shuffle_ps::<0x44>(low.0, low.1);
                v[1].0 = _mm512_shuffle_ps::<0xee>(low.0, low.1);
                v[2].0 = _mm512_shuffle_ps::<0x44>(high.0, high.1);
                v[3].0 = _mm512_shuffle_ps::<0xee>(high.0, high.1);
            }
            // Then a square of four parts: part `k` of vector `4 * a + c` and part `a` of vector `4 * k + c` change places.
            for c in 0..4 {
                let first = (
                    _mm512_shuffle_f32x4::<0x44>(v[c].0, v[c + 4].0),
                    _mm512_shuffle_f32x4::<0x44>(v[c + 8].0, v[c + 12].0),
                );
                let last = (
                    _mm512_shuffle_f32x4::<0xee>(v[c].0, v[c + 4].0),
                    _mm512_shuffle_f32x4::<0xee>(v[c + 8].0, v[c + 12].0),
                );
                v[c].0 = _mm512_shuffle_f32x4::<0x88>(first.0, first.1);
                v[c + 4].0 = _mm512_shuffle_f32x4::<0xdd>(first.0, first.1);
                v[c + 8].0 = _mm512_shuffle_f32x4::<0x88>(last.0, last.1);
                v[c + 12].0 = _mm512_shuffle_f32x4::<0xdd>(last.0, last.1);
            }
        });
    }
}
