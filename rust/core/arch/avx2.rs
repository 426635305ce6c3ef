//! AVX2 and F16C: 8 lanes.

use half::f16;
use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Not, Sub};

use crate::lanes::{F32Lanes, I32Lanes, Mask, head, head_mut};

/// Evaluates intrinsics that need AVX2 or F16C and nothing else.
macro_rules! avx2 {
    ($body:expr) => {
        // SAFETY: kernels are instantiated with these types only behind shims compiled for both, which the kernel table
        // hands out only where both were detected. Loads and stores go through references to arrays of the full width.
        unsafe { $body }
    };
}

/// 8 floats.
#[derive(Clone, Copy)]
pub(crate) struct F32(__m256);

/// 8 integers.
#[derive(Clone, Copy)]
pub(crate) struct I32(__m256i);

/// 8 truth values, all bits of a lane alike.
#[derive(Clone, Copy)]
pub(crate) struct Bools(__m256);

macro_rules! operators {
    ($type:ident: $($trait:ident $method:ident $intrinsic:ident),+) => {$(
        impl $trait for $type {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                avx2!(Self($intrinsic(self.0, other.0)))
            }
        }
    )+};
}

operators!(F32: Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);
operators!(I32: Add add _mm256_add_epi32, Sub sub _mm256_sub_epi32);
operators!(I32: BitAnd bitand _mm256_and_si256, BitOr bitor _mm256_or_si256, BitXor bitxor _mm256_xor_si256);
operators!(Bools: BitAnd bitand _mm256_and_ps, BitOr bitor _mm256_or_ps, BitXor bitxor _mm256_xor_ps);

impl Not for Bools {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        avx2!(Self(_mm256_xor_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))))
    }
}

impl Mask for Bools {
    #[inline(always)]
    fn bits(self) -> u32 {
        avx2!(_mm256_movemask_ps(self.0) as u32)
    }
}

impl I32Lanes for I32 {
    type Float = F32;
    type Mask = Bools;

    #[inline(always)]
    fn splat(value: i32) -> Self {
        avx2!(Self(_mm256_set1_epi32(value)))
    }

    #[inline(always)]
    fn load(from: &[i32]) -> Self {
        let from: &[i32; 8] = head(from);
        avx2!(Self(_mm256_loadu_si256(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_u16(from: &[u16]) -> Self {
        let from: &[u16; 8] = head(from);
        avx2!(Self(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store(self, to: &mut [i32]) {
        let to: &mut [i32; 8] = head_mut(to);
        avx2!(_mm256_storeu_si256(to.as_mut_ptr().cast(), self.0));
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        avx2!(Self(_mm256_min_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        avx2!(Self(_mm256_max_epi32(self.0, other.0)))
    }

    #[inline(always)]
    fn shl<const BY: u32>(self) -> Self {
        avx2!(Self(_mm256_sllv_epi32(self.0, _mm256_set1_epi32(BY as i32))))
    }

    #[inline(always)]
    fn shr<const BY: u32>(self) -> Self {
        avx2!(Self(_mm256_srlv_epi32(self.0, _mm256_set1_epi32(BY as i32))))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        avx2!(Bools(_mm256_castsi256_ps(_mm256_cmpeq_epi32(self.0, other.0))))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        F32::select(mask, yes.as_float(), no.as_float()).as_int()
    }

    #[inline(always)]
    fn to_float(self) -> F32 {
        avx2!(F32(_mm256_cvtepi32_ps(self.0)))
    }

    #[inline(always)]
    fn as_float(self) -> F32 {
        avx2!(F32(_mm256_castsi256_ps(self.0)))
    }

    #[inline(always)]
    fn unsigned_min(self, other: Self) -> Self {
        avx2!(Self(_mm256_min_epu32(self.0, other.0)))
    }

    #[inline(always)]
    fn store_limited(vectors: &[Self], to: &mut [u8; 32]) {
        let v: &[Self; 4] = head(vectors);
        avx2!({
            let words = (_mm256_packs_epi32(v[0].0, v[1].0), _mm256_packs_epi32(v[2].0, v[3].0));
            // Packing works within halves of 128 bits: fours of bytes lie in the order 0 2 4 6 1 3 5 7.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words.0, words.1), order);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes);
        });
    }

    #[inline(always)]
    fn high_bits(bytes: &[u8; 32]) -> u32 {
        avx2!(_mm256_movemask_epi8(_mm256_loadu_si256(bytes.as_ptr().cast())) as u32)
    }

    #[inline(always)]
    fn minus_one(mask: Bools) -> Self {
        F32(mask.0).as_int()
    }

    #[inline(always)]
    fn look_up_16(self, table: &[f32; 16]) -> F32 {
        let (low, high) = (F32::load(table), F32::load(&table[8..]));
        // The permutation looks at the lowest three bits; the fourth goes where the blend looks.
        avx2!(F32(_mm256_blendv_ps(
            _mm256_permutevar8x32_ps(low.0, self.0),
            _mm256_permutevar8x32_ps(high.0, self.0),
            self.shl::<28>().as_float().0
        )))
    }
}

impl F32Lanes for F32 {
    type Int = I32;
    type Mask = Bools;
    const LEN: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        avx2!(Self(_mm256_set1_ps(value)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from: &[f32; 8] = head(from);
        avx2!(Self(_mm256_loadu_ps(from.as_ptr())))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to: &mut [f32; 8] = head_mut(to);
        avx2!(_mm256_storeu_ps(to.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn load_half(from: &[f16]) -> Self {
        let from: &[f16; 8] = head(from);
        avx2!(Self(_mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))))
    }

    #[inline(always)]
    fn store_half(self, to: &mut [f16]) {
        let to: &mut [f16; 8] = head_mut(to);
        avx2!(_mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)));
    }

    #[inline(always)]
    fn round(self) -> Self {
        avx2!(Self(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn lesser(self, other: Self) -> Self {
        avx2!(Self(_mm256_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn greater(self, other: Self) -> Self {
        avx2!(Self(_mm256_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        avx2!(Self(_mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX)))))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        avx2!(Self(_mm256_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Bools {
        avx2!(Bools(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0)))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Bools {
        avx2!(Bools(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0)))
    }

    #[inline(always)]
    fn select(mask: Bools, yes: Self, no: Self) -> Self {
        avx2!(Self(_mm256_blendv_ps(no.0, yes.0, mask.0)))
    }

    #[inline(always)]
    fn as_int(self) -> I32 {
        avx2!(I32(_mm256_castps_si256(self.0)))
    }

    #[inline(always)]
    fn truncate(self) -> I32 {
        avx2!(I32(_mm256_cvttps_epi32(self.0)))
    }

    #[inline(always)]
    fn to_half(value: f32) -> f16 {
        let bits = avx2!(_mm_cvtsi128_si32(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value))));
        f16::from_bits(if value.is_nan() { 0xfe00 } else { bits as u16 })
    }

    #[inline(always)]
    fn least(self) -> f32 {
        avx2!({
            let four = _mm_min_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        })
    }

    #[inline(always)]
    fn look_up_4(self, index: I32) -> Self {
        avx2!(Self(_mm256_permutevar_ps(self.0, index.0)))
    }

    #[inline(always)]
    fn look_up_8(self, index: I32) -> Self {
        avx2!(Self(_mm256_permutevar8x32_ps(self.0, index.0)))
    }

    #[inline(always)]
    fn transpose(square: &mut [Self]) {
        let v: &mut [Self; 8] = head_mut(square);
        avx2!({
            // Pairs of vectors, then pairs of pairs, within halves of 128 bits; then the halves change places.
            let p0 = (_mm256_unpacklo_ps(v[0].0, v[1].0), _mm256_unpackhi_ps(v[0].0, v[1].0));
            let p1 = (_mm256_unpacklo_ps(v[2].0, v[3].0), _mm256_unpackhi_ps(v[2].0, v[3].0));
            let p2 = (_mm256_unpacklo_ps(v[4].0, v[5].0), _mm256_unpackhi_ps(v[4].0, v[5].0));
            let p3 = (_mm256_unpacklo_ps(v[6].0, v[7].0), _mm256_unpackhi_ps(v[6].0, v[7].0));
            let low = (
                _mm256_shuffle_ps::<0x44>(p0.0, p1.0),
                _mm256_shuffle_ps::<0xee>(p0.0, p1.0),
                _mm256_shuffle_ps::<0x44>(p0.1, p1.1),
                _mm256_shuffle_ps::<0xee>(p0.1, p1.1),
            );
            let high = (
                _mm256_shuffle_ps::<0x44>(p2.0, p3.0),
                _mm256_shuffle_ps::<0xee>(p2.0, p3.0),
                _mm256_shuffle_ps::<0x44>(p2.1, p3.1),
                _mm256_shuffle_ps::<0xee>(p2.1, p3.1),
            );
            v[0].0 = _mm256_permute2f128_ps::<0x20>(low.0, high.0);
            v[1].0 = _mm256_permute2f128_ps::<0x20>(low.1, high.1);
            v[2].0 = _mm256_permute2f128_ps::<0x20>(low.2, high.2);
            v[3].0 = _mm256_permute2f128_ps::<0x20>(low.3, high.3);
            v[4].0 = _mm256_permute2f128_ps::<0x31>(low.0, high.0);
            v[5].0 = _mm256_permute2f128_ps::<0x31>(low.1, high.1);
            v[6].0 = _mm256_permute2f128_ps::<0x31>(low.2, high.2);
            v[7].0 = _mm256_permute2f128_ps::<0x31>(low.3, high.3);
        });
    }
}
