//! Eight `f64` lanes, and what is done with them: the tile that factorisation and substitution spend their time in.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::arch::Isa;

/// Lanes of a vector, and so columns of a tile.
pub(super) const LANES: usize = 8;
/// The largest height of a tile.
pub(super) const MAX_TILE: usize = 12;
/// Panels that are substituted into at a time, so that their chains of additions do not wait for each other.
pub(super) const TOGETHER: usize = 4;

/// Rows of eight numbers.
pub(super) type Panel = [[f64; LANES]];

/// A tile of results: rows of eight.
pub(super) type Block = [[f64; LANES]; MAX_TILE];

/// Eight independent numbers.
trait Wide: Copy {
    fn load(from: &[f64; LANES]) -> Self;
    fn store(self, to: &mut [f64; LANES]);
    /// `self + a * b` with one rounding, `a` in all lanes.
    fn fused(self, a: f64, b: Self) -> Self;
    /// `self / a`.
    fn over(self, a: f64) -> Self;
}

/// Plain Rust. Without a machine instruction for it, `mul_add` is computed in software, to the same bits.
#[derive(Clone, Copy)]
struct Portable([f64; LANES]);

impl Wide for Portable {
    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn store(self, to: &mut [f64; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn fused(self, a: f64, b: Self) -> Self {
        Self(std::array::from_fn(|i| a.mul_add(b.0[i], self.0[i])))
    }

    #[inline(always)]
    fn over(self, a: f64) -> Self {
        Self(self.0.map(|x| x / a))
    }
}

/// Two registers of 4 lanes. Only used inside functions with `avx2,fma` enabled.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(__m256d, __m256d);

#[cfg(target_arch = "x86_64")]
impl Wide for Avx2 {
    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        // SAFETY: used only where AVX2 and FMA were detected; both halves lie in `from`.
        unsafe { Self(_mm256_loadu_pd(from.as_ptr()), _mm256_loadu_pd(from.as_ptr().add(4))) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f64; LANES]) {
        // SAFETY: as above; both halves lie in `to`.
        unsafe {
            _mm256_storeu_pd(to.as_mut_ptr(), self.0);
            _mm256_storeu_pd(to.as_mut_ptr().add(4), self.1);
        }
    }

    #[inline(always)]
    fn fused(self, a: f64, b: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_pd(a);
            Self(_mm256_fmadd_pd(a, b.0, self.0), _mm256_fmadd_pd(a, b.1, self.1))
        }
    }

    #[inline(always)]
    fn over(self, a: f64) -> Self {
        // SAFETY: as above.
        unsafe {
            let a = _mm256_set1_pd(a);
            Self(_mm256_div_pd(self.0, a), _mm256_div_pd(self.1, a))
        }
    }
}

/// One register. Only used inside functions with `avx512f` enabled.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx512(__m512d);

#[cfg(target_arch = "x86_64")]
impl Wide for Avx512 {
    #[inline(always)]
    fn load(from: &[f64; LANES]) -> Self {
        // SAFETY: used only where AVX-512 was detected; 8 numbers lie in `from`.
        unsafe { Self(_mm512_loadu_pd(from.as_ptr())) }
    }

    #[inline(always)]
    fn store(self, to: &mut [f64; LANES]) {
        // SAFETY: as above; 8 numbers lie in `to`.
        unsafe { _mm512_storeu_pd(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn fused(self, a: f64, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_fmadd_pd(_mm512_set1_pd(a), b.0, self.0)) }
    }

    #[inline(always)]
    fn over(self, a: f64) -> Self {
        // SAFETY: as above.
        unsafe { Self(_mm512_div_pd(self.0, _mm512_set1_pd(a))) }
    }
}

/// Functions of an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Height of a tile.
    pub(super) height: usize,
    add_tile: unsafe fn(&[f64], &Panel, &mut Block),
    substitute: unsafe fn(&[f64], usize, &mut [&mut Panel; TOGETHER]),
}

impl Kernels {
    /// `block[r] += left[k, r] * right[k]`, `k` by `k`, for `left` of rows as long as a tile is high.
    pub(super) fn add_tile(self, left: &[f64], right: &Panel, block: &mut Block) {
        // SAFETY: `kernels` chose it for this machine.
        unsafe { (self.add_tile)(left, right, block) }
    }

    /// For `k` from 0 to `width`: `x[k] = (x[k] + sum over m < k of lower[k, m] * x[m]) / lower[k, k]`, in each panel, with
    /// `lower` in rows of `width`.
    pub(super) fn substitute(self, lower: &[f64], width: usize, panels: &mut [&mut Panel; TOGETHER]) {
        // SAFETY: `kernels` chose it for this machine.
        unsafe { (self.substitute)(lower, width, panels) }
    }
}

/// Those of an instruction set that this machine has.
pub(super) fn kernels(isa: Isa) -> Kernels {
    /// Compiles both for an instruction set.
    #[cfg(target_arch = "x86_64")]
    macro_rules! compiled {
        ($features:literal, $wide:ty, $height:literal) => {{
            #[target_feature(enable = $features)]
            fn tile(left: &[f64], right: &Panel, block: &mut Block) {
                add_tile::<$wide, $height>(left, right, block);
            }
            #[target_feature(enable = $features)]
            fn forward(lower: &[f64], width: usize, panels: &mut [&mut Panel; TOGETHER]) {
                substitute::<$wide>(lower, width, panels);
            }
            Kernels { height: $height, add_tile: tile, substitute: forward }
        }};
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => compiled!("avx2,fma", Avx2, 6),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => compiled!("avx512f", Avx512, 12),
        // In software `mul_add` takes ten times as long for the same bits.
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => compiled!("fma", Portable, 6),
        _ => Kernels { height: 6, add_tile: add_tile::<Portable, 6>, substitute: substitute::<Portable> },
    }
}

#[inline(always)]
fn add_tile<W: Wide, const R: usize>(left: &[f64], right: &Panel, block: &mut Block) {
    let mut own: [W; R] = std::array::from_fn(|r| W::load(&block[r]));
    for (factors, row) in left.as_chunks::<R>().0.iter().zip(right) {
        let row = W::load(row);
        for r in 0..R {
            own[r] = own[r].fused(factors[r], row);
        }
    }
    for r in 0..R {
        own[r].store(&mut block[r]);
    }
}

#[inline(always)]
fn substitute<W: Wide>(lower: &[f64], width: usize, panels: &mut [&mut Panel; TOGETHER]) {
    for (k, factors) in lower.chunks_exact(width).enumerate() {
        let mut own: [W; TOGETHER] = std::array::from_fn(|p| W::load(&panels[p][k]));
        for (m, &factor) in factors[..k].iter().enumerate() {
            for p in 0..TOGETHER {
                own[p] = own[p].fused(factor, W::load(&panels[p][m]));
            }
        }
        for p in 0..TOGETHER {
            own[p].over(factors[k]).store(&mut panels[p][k]);
        }
    }
}
