//! The panel kernel with `vpdpbusd`: in registers of 512 bits (AVX-512 VNNI), or in two of 256 (AVX-VNNI).

use std::arch::x86_64::*;
use std::ops::Range;

use super::fours::{self, Depth, Sums, kernels, pair};
use super::{COLUMNS, Facts, Kernels, Multiply, Pairing, Plan, Quad, Row, SLAB, Scaling, Side, Slab, word};

/// Multiplying words is two instructions, adding a third.
const SCALING_COST: usize = 3;

/// AVX-512 VNNI. Eight rows: eight sums of products, eight of scaled sums, and a quad, in 32 registers. Half a register
/// would take as long as a whole one.
pub(super) mod avx512 {
    use super::*;

    /// Evaluates intrinsics that need AVX-512 F and VNNI and nothing else.
    macro_rules! avx512 {
        ($body:expr) => {
            // SAFETY: used only in the functions below, which are handed out where both were detected; loads and stores go
            // through references to as many bytes.
            unsafe { $body }
        };
    }

    #[derive(Clone, Copy)]
    pub(super) struct Register(__m512i);

    impl Sums for Register {
        type Floats = __m512;
        const BIASED: bool = true;
        const SCALING_COST: usize = SCALING_COST;

        #[inline(always)]
        fn splat(value: i32) -> Self {
            avx512!(Self(_mm512_set1_epi32(value)))
        }

        #[inline(always)]
        fn add_products(self, codes: i32, quad: &Quad) -> Self {
            let x = avx512!(_mm512_load_si512(quad.0.as_ptr().cast()));
            avx512!(Self(_mm512_dpbusd_epi32(self.0, x, _mm512_set1_epi32(codes))))
        }

        #[inline(always)]
        fn add_scaled<const NARROW: bool>(self, sums: Self, scale: i32) -> Self {
            let scale = avx512!(_mm512_set1_epi32(scale));
            if NARROW {
                return avx512!(Self(_mm512_dpwssd_epi32(self.0, sums.0, scale)));
            }
            avx512!(Self(_mm512_add_epi32(self.0, _mm512_mullo_epi32(sums.0, scale))))
        }

        #[inline(always)]
        fn add_pairs(self, pairs: &[[i16; 2]; COLUMNS], factors: [i16; 2]) -> Self {
            let pairs = avx512!(_mm512_loadu_si512(pairs.as_ptr().cast()));
            avx512!(Self(_mm512_dpwssd_epi32(self.0, pairs, _mm512_set1_epi32(word(factors)))))
        }

        #[inline(always)]
        fn load(from: &[f32; COLUMNS]) -> __m512 {
            avx512!(_mm512_loadu_ps(from.as_ptr()))
        }

        #[inline(always)]
        fn store(floats: __m512, to: &mut [f32; COLUMNS]) {
            avx512!(_mm512_storeu_ps(to.as_mut_ptr(), floats));
        }

        #[inline(always)]
        fn accumulate(self, floats: __m512, a: f32, b: &[f32; COLUMNS]) -> __m512 {
            avx512!({
                let factors = _mm512_mul_ps(_mm512_set1_ps(a), _mm512_loadu_ps(b.as_ptr()));
                _mm512_fmadd_ps(factors, _mm512_cvtepi32_ps(self.0), floats)
            })
        }

        #[inline(always)]
        fn shift(floats: __m512, a: f32, b: &[f32; COLUMNS]) -> __m512 {
            avx512!(_mm512_fmadd_ps(_mm512_set1_ps(a), _mm512_loadu_ps(b.as_ptr()), floats))
        }
    }

    kernels!(Register, Register, 8, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");
}

/// AVX-VNNI. Four rows, as for AVX2; sums of scaled sums are in memory most of the time.
pub(super) mod avx {
    use super::*;

    /// Evaluates intrinsics that need AVX2, FMA and AVX-VNNI and nothing else.
    macro_rules! avx {
        ($body:expr) => {
            // SAFETY: used only in the functions below, which are handed out where all were detected; loads and stores go
            // through references to as many bytes.
            unsafe { $body }
        };
    }

    /// Eight columns in each register.
    #[derive(Clone, Copy)]
    pub(super) struct Registers<const N: usize>([__m256i; N]);

    /// Registers side by side, of which there are two.
    #[inline(always)]
    fn load<const N: usize>(from: *const i32) -> [__m256i; N] {
        const { assert!(N <= 2) };
        let mut registers = avx!([_mm256_setzero_si256(); N]);
        for c in 0..N {
            registers[c] = avx!(_mm256_loadu_si256(from.cast::<__m256i>().add(c)));
        }
        registers
    }

    impl<const N: usize> Sums for Registers<N> {
        type Floats = [__m256; N];
        const BIASED: bool = true;
        const SCALING_COST: usize = SCALING_COST;

        #[inline(always)]
        fn splat(value: i32) -> Self {
            avx!(Self([_mm256_set1_epi32(value); N]))
        }

        #[inline(always)]
        fn add_products(mut self, codes: i32, quad: &Quad) -> Self {
            let (x, codes) = (load::<N>(quad.0.as_ptr().cast()), avx!(_mm256_set1_epi32(codes)));
            for c in 0..N {
                self.0[c] = avx!(_mm256_dpbusd_avx_epi32(self.0[c], x[c], codes));
            }
            self
        }

        #[inline(always)]
        fn add_scaled<const NARROW: bool>(mut self, sums: Self, scale: i32) -> Self {
            let scale = avx!(_mm256_set1_epi32(scale));
            for c in 0..N {
                self.0[c] = if NARROW {
                    avx!(_mm256_dpwssd_avx_epi32(self.0[c], sums.0[c], scale))
                } else {
                    avx!(_mm256_add_epi32(self.0[c], _mm256_mullo_epi32(sums.0[c], scale)))
                };
            }
            self
        }

        #[inline(always)]
        fn add_pairs(mut self, pairs: &[[i16; 2]; COLUMNS], factors: [i16; 2]) -> Self {
            let (pairs, factors) = (load::<N>(pairs.as_ptr().cast()), avx!(_mm256_set1_epi32(word(factors))));
            for c in 0..N {
                self.0[c] = avx!(_mm256_dpwssd_avx_epi32(self.0[c], pairs[c], factors));
            }
            self
        }

        #[inline(always)]
        fn load(from: &[f32; COLUMNS]) -> [__m256; N] {
            let mut floats = avx!([_mm256_setzero_ps(); N]);
            for (floats, from) in floats.iter_mut().zip(from.as_chunks::<8>().0) {
                *floats = avx!(_mm256_loadu_ps(from.as_ptr()));
            }
            floats
        }

        #[inline(always)]
        fn store(floats: [__m256; N], to: &mut [f32; COLUMNS]) {
            for (to, floats) in to.as_chunks_mut::<8>().0.iter_mut().zip(floats) {
                avx!(_mm256_storeu_ps(to.as_mut_ptr(), floats));
            }
        }

        #[inline(always)]
        fn accumulate(self, mut floats: [__m256; N], a: f32, b: &[f32; COLUMNS]) -> [__m256; N] {
            let b = Self::load(b);
            for c in 0..N {
                let factors = avx!(_mm256_mul_ps(_mm256_set1_ps(a), b[c]));
                floats[c] = avx!(_mm256_fmadd_ps(factors, _mm256_cvtepi32_ps(self.0[c]), floats[c]));
            }
            floats
        }

        #[inline(always)]
        fn shift(mut floats: [__m256; N], a: f32, b: &[f32; COLUMNS]) -> [__m256; N] {
            let b = Self::load(b);
            for c in 0..N {
                floats[c] = avx!(_mm256_fmadd_ps(_mm256_set1_ps(a), b[c], floats[c]));
            }
            floats
        }
    }

    kernels!(Registers<1>, Registers<2>, 4, "avx2,fma,f16c,avxvnni");
}
