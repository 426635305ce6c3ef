//! The memory of a conversion: recycled buffers under a fixed limit.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a waiting thread looks whether the work has been given up.
const POLL: Duration = Duration::from_millis(20);

/// Hands out buffers and waits while more than `limit` bytes are out. A request above the limit is met once nothing else
/// is out, so the memory in use never exceeds the larger of the limit and one buffer.
#[derive(Debug)]
pub(super) struct Buffers {
    limit: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes handed out.
    out: usize,
    /// Buffers to be used again. Their bytes stay initialised, so reuse costs nothing.
    free: Vec<Vec<u8>>,
}

/// A buffer that goes back to where it came from.
#[derive(Debug)]
pub(super) struct Buffer<'p> {
    bytes: Vec<u8>,
    len: usize,
    home: &'p Buffers,
}

impl Buffers {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), returned: Condvar::new() }
    }

    /// A buffer of `len` bytes with arbitrary contents, or `None` if `given_up` says so while waiting.
    pub(super) fn get(&self, len: usize, given_up: impl Fn() -> bool) -> Option<Buffer<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if given_up() {
                return None;
            }
            if let Some(bytes) = state.take(len, self.limit) {
                drop(state);
                return Some(Buffer { bytes: filled(bytes, len), len, home: self });
            }
            state = self.returned.wait_timeout(state, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn filled(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    bytes
}

impl State {
    /// A recycled or empty buffer, with its final size counted, if there is room for it.
    fn take(&mut self, len: usize, limit: usize) -> Option<Vec<u8>> {
        // A few bytes must not occupy a buffer of many megabytes.
        let fits = |buffer: &Vec<u8>| buffer.len() >= len && buffer.len() / 4 <= len.max(4096);
        let best =
            self.free.iter().enumerate().filter(|(_, buffer)| fits(buffer)).min_by_key(|(_, buffer)| buffer.len());
        let size = best.map_or(len, |(_, buffer)| buffer.len());
        if self.out > 0 && self.out + size > limit {
            return None;
        }
        let best = best.map(|(at, _)| at);
        self.out += size;
        let bytes = match best {
            Some(at) => self.free.swap_remove(at),
            None => Vec::with_capacity(len),
        };
        // Idle buffers count too: let the smallest go until everything fits.
        while self.out + self.free.iter().map(Vec::len).sum::<usize>() > limit {
            let Some(at) = (0..self.free.len()).min_by_key(|&at| self.free[at].len()) else { break };
            self.free.swap_remove(at);
        }
        Some(bytes)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let mut state = self.home.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.out -= self.bytes.len();
        if self.bytes.len() <= self.home.limit {
            state.free.push(std::mem::take(&mut self.bytes));
        }
        drop(state);
        self.home.returned.notify_all();
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_and_bounded() {
        let buffers = Buffers::new(100);
        let first = buffers.get(60, || false).unwrap();
        let address = first.as_ptr();
        assert!(buffers.get(41, || true).is_none(), "101 bytes would be out");
        drop(first);
        let again = buffers.get(50, || false).unwrap();
        assert_eq!((again.len(), again.as_ptr()), (50, address));
        let beside = buffers.get(40, || false).unwrap();
        drop((again, beside));
        let large = buffers.get(1000, || false).unwrap();
        assert_eq!(large.len(), 1000);
        drop(large);
        assert!(buffers.state.lock().unwrap().free.iter().map(Vec::len).sum::<usize>() <= 100);
    }

    #[test]
    fn a_waiting_thread_gets_what_is_returned() {
        let buffers = Buffers::new(10);
        let held = buffers.get(10, || false).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| buffers.get(10, || false).map(|buffer| buffer.len()));
            std::thread::sleep(Duration::from_millis(5));
            drop(held);
            assert_eq!(waiting.join().unwrap(), Some(10));
        });
    }
}
