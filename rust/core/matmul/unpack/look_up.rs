//! The steps of unpacking that need instructions of their own: looking up half bytes in a table of 16, spreading bits, and halves
//! as `f32`.

use half::f16;

/// A way to do them.
pub(super) trait LookUp {
    /// Values for the lower halves of `bytes`, then those for the upper ones.
    fn look_up(values: &[i8; 16], bytes: &[u8; 16], to: &mut [u8; 32]);

    /// Sets bit 4 of each code whose own bit of `bits` is set.
    fn add_fifth(bits: u32, codes: &mut [u8; 32]);

    /// A half as `f32`.
    fn widen(half: f16) -> f32;
}

/// Plain Rust.
pub(super) struct Portable;

impl LookUp for Portable {
    #[inline(always)]
    fn look_up(values: &[i8; 16], bytes: &[u8; 16], to: &mut [u8; 32]) {
        for j in 0..16 {
            to[j] = values[usize::from(bytes[j] & 15)] as u8;
            to[j + 16] = values[usize::from(bytes[j] >> 4)] as u8;
        }
    }

    #[inline(always)]
    fn add_fifth(bits: u32, codes: &mut [u8; 32]) {
        for (j, code) in codes.iter_mut().enumerate() {
            *code |= (((bits >> j) & 1) << 4) as u8;
        }
    }

    // Arithmetic: the library's conversion asks what the machine can do each time.
    #[inline(always)]
    fn widen(half: f16) -> f32 {
        let (sign, rest) = (u32::from(half.to_bits() & 0x8000) << 16, u32::from(half.to_bits() & 0x7fff));
        let magnitude = match rest {
            0..0x0400 => (rest as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
            0x0400..0x7c00 => (rest << 13) + ((127 - 15) << 23),
            _ => (rest << 13) + ((255 - 31) << 23),
        };
        f32::from_bits(sign | magnitude)
    }
}

/// A shuffle of bytes, and the machine's own conversion of halves. On x86-64, only used inside functions with AVX2 and F16C
/// enabled.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) struct Shuffle;

#[cfg(target_arch = "x86_64")]
impl LookUp for Shuffle {
    #[inline(always)]
    fn look_up(values: &[i8; 16], bytes: &[u8; 16], to: &mut [u8; 32]) {
        use std::arch::x86_64::*;
        // SAFETY: used only where AVX2 was detected; tables and bytes are one register each, and `to` is two.
        unsafe {
            let (values, bytes) = (_mm_loadu_si128(values.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().cast()));
            let mask = _mm_set1_epi8(15);
            let upper = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
            let to = to.as_mut_ptr().cast::<__m128i>();
            _mm_storeu_si128(to, _mm_shuffle_epi8(values, _mm_and_si128(bytes, mask)));
            _mm_storeu_si128(to.add(1), _mm_shuffle_epi8(values, upper));
        }
    }

    #[inline(always)]
    fn add_fifth(bits: u32, codes: &mut [u8; 32]) {
        use std::arch::x86_64::*;
        // SAFETY: used only where AVX2 was detected; codes are one register.
        unsafe {
            let to = codes.as_mut_ptr().cast::<__m256i>();
            let ones = 0x0101_0101_0101_0101;
            let bytes = _mm256_set_epi64x(3 * ones, 2 * ones, ones, 0);
            let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), bytes);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
            let fifth = _mm256_and_si256(set, _mm256_set1_epi8(16));
            _mm256_storeu_si256(to, _mm256_or_si256(_mm256_loadu_si256(to), fifth));
        }
    }

    #[inline(always)]
    fn widen(half: f16) -> f32 {
        use std::arch::x86_64::*;
        // SAFETY: used only where F16C was detected.
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half.to_bits())))) }
    }
}

#[cfg(target_arch = "aarch64")]
impl LookUp for Shuffle {
    #[inline(always)]
    fn look_up(values: &[i8; 16], bytes: &[u8; 16], to: &mut [u8; 32]) {
        use std::arch::aarch64::*;
        // SAFETY: NEON is part of the target; tables and bytes are one register each, and `to` is two.
        unsafe {
            let (values, bytes) = (vreinterpretq_u8_s8(vld1q_s8(values.as_ptr())), vld1q_u8(bytes.as_ptr()));
            vst1q_u8(to.as_mut_ptr(), vqtbl1q_u8(values, vandq_u8(bytes, vdupq_n_u8(15))));
            vst1q_u8(to.as_mut_ptr().add(16), vqtbl1q_u8(values, vshrq_n_u8::<4>(bytes)));
        }
    }

    #[inline(always)]
    fn add_fifth(bits: u32, codes: &mut [u8; 32]) {
        use std::arch::aarch64::*;
        const BITS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        for (codes, bits) in codes.as_chunks_mut::<16>().0.iter_mut().zip(bits.to_le_bytes().as_chunks::<2>().0) {
            // SAFETY: NEON is part of the target; codes and masks are one register each.
            unsafe {
                let spread = vcombine_u8(vdup_n_u8(bits[0]), vdup_n_u8(bits[1]));
                let fifth = vandq_u8(vtstq_u8(spread, vld1q_u8(BITS.as_ptr())), vdupq_n_u8(16));
                vst1q_u8(codes.as_mut_ptr(), vorrq_u8(vld1q_u8(codes.as_ptr()), fifth));
            }
        }
    }

    #[inline(always)]
    fn widen(half: f16) -> f32 {
        crate::arch::neon::widen_one(half)
    }
}
