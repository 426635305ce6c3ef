//! Activations rounded to 8 bits, as ggml's x86-64 kernels take them.
//!
//! Q8_K for formats with super-blocks: 256 activations share an `f32` scale, and the one largest in magnitude becomes
//! -127. Q8_0 for the others: 32 share a scale, which is used in full to round and kept as `f16`. Q8_1 adds the scaled sum
//! of the codes, for formats with minima. Rounding is to even.
//!
//! A block with an activation that is not finite gets the scale NaN, so that every result it enters is NaN.

use half::f16;

use super::slab::{Facts, SLAB, Scaling};
use crate::arch::Isa;
use crate::reference::rounding::nearest_int;

/// Columns that share a scale in Q8_0 and Q8_1.
const BLOCK: usize = 32;

/// 256 activations.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Rounded {
    /// Codes, -127 to 127.
    pub(crate) codes: [i8; SLAB],
    /// Sums of the codes of each 16.
    pub(crate) sums: [i16; SLAB / 16],
    /// Super-block formats: the scale comes first. Others: the scale of each 32.
    pub(crate) d: [f32; SLAB / BLOCK],
    /// Formats with minima and no super-blocks: `d` times the sum of the codes, of each 32, rounded to `f16`.
    pub(crate) s: [f32; SLAB / BLOCK],
}

impl Rounded {
    /// All activations zero.
    pub(crate) const ZERO: Self =
        Self { codes: [0; SLAB], sums: [0; SLAB / 16], d: [0.0; SLAB / BLOCK], s: [0.0; SLAB / BLOCK] };

    /// Rounds up to 256 activations; what is missing counts as zero. Compiled for the instruction set of its caller.
    #[inline(always)]
    pub(crate) fn new(facts: &Facts, x: &[f32]) -> Self {
        let mut own = Self::ZERO;
        match facts.scaling {
            Scaling::Super => own.round_super(x),
            Scaling::Groups => {
                for (i, x) in x.chunks(BLOCK).enumerate() {
                    own.round_block(i, x);
                }
            }
        }
        for (sum, codes) in own.sums.iter_mut().zip(own.codes.as_chunks::<16>().0) {
            *sum = codes.iter().map(|&code| i16::from(code)).sum();
        }
        if facts.scaling == Scaling::Groups && facts.mins {
            for i in 0..SLAB / BLOCK {
                let sum = i32::from(own.sums[2 * i]) + i32::from(own.sums[2 * i + 1]);
                own.s[i] = f16::from_f32(own.s[i] * sum as f32).to_f32();
            }
        }
        own
    }

    #[inline(always)]
    fn round_super(&mut self, x: &[f32]) {
        let largest = largest(x);
        if largest == 0.0 {
            return;
        }
        if !largest.is_finite() {
            self.d[0] = f32::NAN;
            return;
        }
        // The first of those that are as large: they differ in sign at most.
        let max = x.iter().copied().find(|v| v.abs() == largest).unwrap_or(largest);
        let inverse = -127.0 / max;
        for (code, &v) in self.codes.iter_mut().zip(x) {
            *code = nearest_int(inverse * v).min(127) as i8;
        }
        self.d[0] = 1.0 / inverse;
    }

    #[inline(always)]
    fn round_block(&mut self, i: usize, x: &[f32]) {
        let largest = largest(x);
        if largest == 0.0 {
            return;
        }
        if !largest.is_finite() {
            (self.d[i], self.s[i]) = (f32::NAN, f32::NAN);
            return;
        }
        let (d, inverse) = (largest / 127.0, 127.0 / largest);
        for (code, &v) in self.codes[BLOCK * i..].iter_mut().zip(x) {
            *code = nearest_int(inverse * v) as i8;
        }
        (self.d[i], self.s[i]) = (f16::from_f32(d).to_f32(), d);
    }
}

/// The largest magnitude, or NaN if there is one among them.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    // Magnitudes order as integers do, NaN above infinity.
    f32::from_bits(x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff)))
}

/// Rounds a row of activations, a slab at a time.
type RoundRow = unsafe fn(facts: &Facts, x: &[f32], to: &mut [Rounded]);

/// The function that rounds rows. It needs what `isa` stands for.
pub(super) fn round_row(isa: Isa) -> RoundRow {
    #[inline(always)]
    fn portable(facts: &Facts, x: &[f32], to: &mut [Rounded]) {
        for (to, x) in to.iter_mut().zip(x.chunks(SLAB)) {
            *to = Rounded::new(facts, x);
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2(facts: &Facts, x: &[f32], to: &mut [Rounded]) {
        portable(facts, x, to);
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => avx2,
        _ => portable,
    }
}
