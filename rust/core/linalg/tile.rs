//! The tile that products of `f32` spend their time in: a few rows times 16 columns, a stretch of the inner index at a time.
//!
//! Each result is one chain of fused multiply-adds from zero on, in the order of the inner index, with any instruction set.

use crate::arch::Isa;
use crate::matmul::wide::{LANES, Portable, Wide};

/// The largest height of a tile.
pub(crate) const MAX_TILE: usize = 12;

/// Sums of a tile, of which the first [`Tiles::height`] are used.
pub(crate) type Sums = [[f32; LANES]; MAX_TILE];

/// Sums up one stretch: a panel as high as a tile, a panel of 16 columns, results.
type Tile = unsafe fn(&[f32], &[[f32; LANES]], &mut Sums);

/// The tile of an instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    /// Rows of a tile.
    pub(crate) height: usize,
    tile: Tile,
}

impl Tiles {
    /// That of an instruction set which this machine has.
    pub(crate) fn of(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2(left: &[f32], right: &[[f32; LANES]], sums: &mut Sums) {
            sum_up::<crate::matmul::wide::Avx2, 6>(left, right, sums);
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        fn avx512(left: &[f32], right: &[[f32; LANES]], sums: &mut Sums) {
            sum_up::<crate::matmul::wide::Avx512, 12>(left, right, sums);
        }
        // Plain Rust with the machine's own `mul_add`: in software it takes ten times as long for the same bits.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "fma")]
        fn portable_fma(left: &[f32], right: &[[f32; LANES]], sums: &mut Sums) {
            sum_up::<Portable, 6>(left, right, sums);
        }
        let (height, tile): (usize, Tile) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (6, avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (12, avx512),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => (6, sum_up::<crate::matmul::wide::Neon, 6>),
            #[cfg(target_arch = "x86_64")]
            Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => (6, portable_fma),
            _ => (6, sum_up::<Portable, 6>),
        };
        Self { height, tile }
    }

    /// `sums[r] = sum over k of left[k, r] * right[k]`, for `left` of rows as long as a tile is high.
    pub(crate) fn sum_up(self, left: &[f32], right: &[[f32; LANES]], sums: &mut Sums) {
        // SAFETY: `of` chose it for this machine.
        unsafe { (self.tile)(left, right, sums) }
    }
}

#[inline(always)]
fn sum_up<W: Wide, const R: usize>(left: &[f32], right: &[[f32; LANES]], sums: &mut Sums) {
    let mut own = [W::zero(); R];
    for (factors, row) in left.as_chunks::<R>().0.iter().zip(right) {
        let row = W::load(row);
        for r in 0..R {
            own[r] = own[r].fused(factors[r], row);
        }
    }
    for r in 0..R {
        sums[r] = [0.0; LANES];
        own[r].add_to(&mut sums[r]);
    }
}
