//! Stores that go past the caches.

/// Copies to memory that will not be read soon: lines are not fetched before they are overwritten, and displace nothing.
///
/// What was written is visible to other threads after [`finish`].
pub(crate) fn copy(from: &[f32], to: &mut [f32]) {
    debug_assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_loadu_ps, _mm_stream_ps};
        // SAFETY: every bit pattern is four floats, and four floats are such a pattern.
        let (head, body, tail) = unsafe { to.align_to_mut::<__m128>() };
        let (from_head, rest) = from.split_at(head.len());
        let (from_body, from_tail) = rest.split_at(4 * body.len());
        head.copy_from_slice(from_head);
        for (to, from) in body.iter_mut().zip(from_body.as_chunks::<4>().0) {
            // SAFETY: SSE is part of x86-64; `to` is aligned to 16 bytes, as references to its type are.
            unsafe { _mm_stream_ps(std::ptr::from_mut(to).cast(), _mm_loadu_ps(from.as_ptr())) };
        }
        tail.copy_from_slice(from_tail);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

/// Puts the stores of [`copy`] before whatever this thread does next.
pub(crate) fn finish() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_length_and_alignment() {
        let from: Vec<f32> = (0..40).map(|i| i as f32).collect();
        for start in 0..9 {
            for len in 0..30 {
                let mut to = vec![-1.0; 48];
                super::copy(&from[..len], &mut to[start..start + len]);
                super::finish();
                let outside = to[..start].iter().chain(&to[start + len..]);
                assert!(to[start..start + len] == from[..len] && outside.into_iter().all(|v| *v == -1.0));
            }
        }
    }
}
