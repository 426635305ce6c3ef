//! Looking up half bytes in a table of 16: the one step of unpacking that needs an instruction of its own.

/// A way to look up.
pub(super) trait LookUp {
    /// Values for the lower halves of `bytes`, then those for the upper ones.
    fn look_up(values: &[i8; 16], bytes: &[u8; 16], to: &mut [u8; 32]);
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
}

/// A shuffle of bytes. Only used inside functions with AVX2 enabled.
#[cfg(target_arch = "x86_64")]
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
}
