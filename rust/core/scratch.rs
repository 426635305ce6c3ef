//! Buffers that outlive a call. Fresh memory costs a page fault for every 4 kB, which on short work is a tenth of the time.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

/// Larger buffers are given back, in bytes: a thread that once had a large task should not hold on to its memory.
const MOST_BYTES: usize = 8 << 20;

/// Buffers that wait for the next call, at most.
const MOST_WAITING: usize = 4;

thread_local! {
    static OWN: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Gives `work` the thread's own buffer, with whatever was left in it.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Vec<f32>) -> R) -> R {
    // Taken out meanwhile: a task that waits for others may run one of them on this very thread.
    let mut scratch = OWN.take();
    let made = work(&mut scratch);
    if size_of_val(&*scratch) <= MOST_BYTES {
        OWN.set(scratch);
    }
    made
}

/// Buffers of one type that are shared by all threads.
pub(crate) struct Buffers<T>(Mutex<Vec<Vec<T>>>);

impl<T: Copy> Buffers<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Gives `work` a buffer of `len` elements: `fill`, or what was left there.
    pub(crate) fn with<R>(&self, len: usize, fill: T, work: impl FnOnce(&mut [T]) -> R) -> R {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, fill);
        }
        let made = work(&mut buffer[..len]);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if size_of_val(&*buffer) <= MOST_BYTES && waiting.len() < MOST_WAITING {
            waiting.push(buffer);
        }
        made
    }
}
