//! Requests for memory ahead of its use.

/// Asks for the cache lines of `bytes` bytes at `start`, which will be needed soon and need not be readable.
#[inline(always)]
pub(crate) fn prefetch<T>(start: *const T, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        let at = start.cast::<i8>().wrapping_add(line);
        // SAFETY: SSE is part of x86-64, and a prefetch reads nothing, wherever it points.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, bytes);
}
