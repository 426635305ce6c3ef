//! The error to report when several threads fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Keeps the error of the lowest-numbered task, so that the same mistake is reported at any number of threads.
///
/// Tasks above a failed one need not run; tasks below it still do, since they may fail too and come first.
#[derive(Debug)]
pub(crate) struct FirstError {
    lowest: AtomicUsize,
    error: Mutex<Option<Error>>,
}

impl FirstError {
    pub(crate) const fn new() -> Self {
        Self { lowest: AtomicUsize::new(usize::MAX), error: Mutex::new(None) }
    }

    /// Whether a task below `task` has failed, so that this one can be left out.
    pub(crate) fn precedes(&self, task: usize) -> bool {
        self.lowest.load(Ordering::Acquire) < task
    }

    /// Whether any task has failed.
    pub(crate) fn any(&self) -> bool {
        self.precedes(usize::MAX)
    }

    /// Records that `task` failed.
    pub(crate) fn record(&self, task: usize, error: Error) {
        let mut slot = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if task < self.lowest.load(Ordering::Acquire) {
            self.lowest.store(task, Ordering::Release);
            *slot = Some(error);
        }
    }

    /// The error of the lowest task, if any failed.
    pub(crate) fn into_result(self) -> Result<()> {
        match self.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
