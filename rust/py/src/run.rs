//! The one place where work leaves Python: it releases the GIL, watches for signals, and catches panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::errors;

/// How often a running job looks for Ctrl-C.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

fn wait<T>(receiver: &Mutex<Receiver<T>>) -> Result<T, RecvTimeoutError> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SIGNAL_POLL)
}

/// Runs `work` with the GIL released. `work` gets a flag that is raised when a signal handler raised an exception
/// (Ctrl-C); that exception is then what the caller sees.
///
/// `work` runs on a thread of its own so that this one can keep polling for signals. `small` work stays on this thread:
/// it is over before anyone could press a key.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    small: bool,
    work: impl FnOnce(&AtomicBool) -> ggquant::Result<T> + Send,
) -> PyResult<T> {
    let interrupt = AtomicBool::new(false);
    let guarded = || catch_unwind(AssertUnwindSafe(|| work(&interrupt)));
    let mut raised: Option<PyErr> = None;
    let outcome = if small {
        py.detach(guarded)
    } else {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            // Only one thread waits at a time; the lock is there because a `Receiver` cannot be shared as such.
            let receiver = Mutex::new(receiver);
            scope.spawn(move || sender.send(guarded()));
            loop {
                match py.detach(|| wait(&receiver)) {
                    Ok(outcome) => return outcome,
                    Err(RecvTimeoutError::Timeout) => {}
                    // The worker sends before it ends, so this cannot happen; an error beats waiting for ever.
                    Err(RecvTimeoutError::Disconnected) => return Err(Box::new("worker thread vanished") as _),
                }
                if let (None, Err(signal)) = (&raised, py.check_signals()) {
                    raised = Some(signal);
                    interrupt.store(true, Ordering::Relaxed);
                }
            }
        })
    };
    if let Some(signal) = raised {
        return Err(signal);
    }
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errors::to_python(py, &error)),
        Err(panic) => Err(errors::from_panic(py, &*panic)),
    }
}
