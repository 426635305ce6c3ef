//! Sixteen `f32` lanes: the vector that the `f32` kernels are written in, on every instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

/// Lanes of a vector, and so columns or rows in a tile.
pub(crate) const LANES: usize = 16;

/// Sixteen independent sums. Every lane is one sum in order, so the instruction set cannot change a result.
pub(crate) trait Wide: Copy {
    /// Sums that the registers hold beside what is multiplied.
    const TILE: usize;
    /// All lanes zero.
    fn zero() -> Self;
    /// Sixteen numbers.
    fn load(from: &[f32; LANES]) -> Self;
    /// `self + a * b` with one rounding, `a` in all lanes.
    fn fused(self, a: f32, b: Self) -> Self;
    /// Adds the lanes to `to`.
    fn add_to(self, to: &mut [f32; LANES]);
}

/// Plain Rust. Without a machine instruction for it, `mul_add` is computed in software, to the same bits.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Wide for Portable {
    const TILE: usize = 6;

    #[inline(always)]
    fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn fused(self, a: f32, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.mul_add(b.0[i], self.0[i])))
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32; LANES]) {
        for (to, own) in to.iter_mut().zip(self.0) {
            *to += own;
        }
    }
}

/// Two registers of 8 lanes. Only used inside functions with `avx2,fma` enabled.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Wide for Avx2 {
    const TILE: usize = 6;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: used only where AVX2 and FMA were detected.
        unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: as above; both halves lie in `from`.
        unsafe { Self(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn fused(self, a: f32, b: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_ps(a);
            Self(_mm256_fmadd_ps(a, b.0, self.0), _mm256_fmadd_ps(a, b.1, self.1))
        }
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32; LANES]) {
        // SAFETY: as above; both halves lie in `to`.
        unsafe {
            let (low, high) = (to.as_mut_ptr(), to.as_mut_ptr().add(8));
            _mm256_storeu_ps(low, _mm256_add_ps(_mm256_loadu_ps(low), self.0));
            _mm256_storeu_ps(high, _mm256_add_ps(_mm256_loadu_ps(high), self.1));
        }
    }
}

/// One register. Only used inside functions with `avx512f` enabled.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Wide for Avx512 {
    const TILE: usize = 12;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: used only where AVX-512 was detected.
        unsafe { Self(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: as above; 16 numbers lie in `from`.
        unsafe { Self(_mm512_loadu_ps(from.as_ptr())) }
    }

    #[inline(always)]
    fn fused(self, a: f32, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_fmadd_ps(_mm512_set1_ps(a), b.0, self.0)) }
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32; LANES]) {
        // SAFETY: as above; 16 numbers lie in `to`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(to.as_ptr()), self.0)) }
    }
}

/// Four registers of 4 lanes.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(crate) struct Neon([float32x4_t; 4]);

#[cfg(target_arch = "aarch64")]
impl Wide for Neon {
    const TILE: usize = 6;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: NEON is part of the target.
        unsafe { Self([vdupq_n_f32(0.0); 4]) }
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        let mut own = Self::zero();
        for (own, from) in own.0.iter_mut().zip(from.as_chunks::<4>().0) {
            // SAFETY: as above.
            *own = unsafe { vld1q_f32(from.as_ptr()) };
        }
        own
    }

    #[inline(always)]
    fn fused(self, a: f32, b: Self) -> Self {
        let mut own = self;
        for (own, b) in own.0.iter_mut().zip(b.0) {
            // SAFETY: as above.
            *own = unsafe { vfmaq_n_f32(*own, b, a) };
        }
        own
    }

    #[inline(always)]
    fn add_to(self, to: &mut [f32; LANES]) {
        for (to, own) in to.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            // SAFETY: as above.
            unsafe { vst1q_f32(to.as_mut_ptr(), vaddq_f32(vld1q_f32(to.as_ptr()), own)) };
        }
    }
}
