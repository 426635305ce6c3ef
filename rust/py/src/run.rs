//! The one place where work leaves Python: it releases the GIL, watches for signals, and catches panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::errors;

/// How often a running job looks for Ctrl-C.
const SIGNAL_POLL: Duration = Duration::from_millis(50);

type Outcome<T> = Result<ggquant::Result<T>, Box<dyn Any + Send>>;

enum Message<T, E> {
    Event(E),
    Done(Outcome<T>),
}

/// Runs `work` with the GIL released. `work` gets a flag that is raised when a signal handler raised an exception
/// (Ctrl-C); that exception is then what the caller sees.
///
/// `small` work stays on this thread: it is over before anyone could press a key. So does work of any thread but Python's
/// main one, the only one that signals are handled on.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    small: bool,
    work: impl FnOnce(&AtomicBool) -> ggquant::Result<T> + Send,
) -> PyResult<T> {
    if small || !on_main_thread(py)? {
        let never = AtomicBool::new(false);
        return settle(py, py.detach(|| catch_unwind(AssertUnwindSafe(|| work(&never)))));
    }
    with_events(py, |interrupt, _: &dyn Fn(())| work(interrupt), |()| Ok(()))
}

/// Whether this is the thread that handles signals.
fn on_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    Ok(threading.call_method0("current_thread")?.is(&threading.call_method0("main_thread")?))
}

/// Runs `work` on a thread of its own with the GIL released, while this thread polls for signals and hands the events that
/// `work` sends to `on_event`, on the thread that called from Python. An exception of either raises the flag that `work` is
/// given, and is what the caller sees once `work` has come to its end.
pub(crate) fn with_events<T: Send, E: Send>(
    py: Python<'_>,
    work: impl FnOnce(&AtomicBool, &dyn Fn(E)) -> ggquant::Result<T> + Send,
    mut on_event: impl FnMut(E) -> PyResult<()>,
) -> PyResult<T> {
    let interrupt = AtomicBool::new(false);
    let mut raised: Option<PyErr> = None;
    let outcome = std::thread::scope(|scope| {
        let (sender, receiver) = channel::<Message<T, E>>();
        // Only this thread waits; the lock is there because a `Receiver` cannot be shared as such.
        let receiver = Mutex::new(receiver);
        let (acknowledge, handled) = channel::<()>();
        let interrupt = &interrupt;
        scope.spawn(move || {
            // Waits until the event has been dealt with: what a callback raises must stop the work before its next step,
            // above all before the last one, which gives the output its name.
            let events = |event| {
                if sender.send(Message::Event(event)).is_ok() {
                    let _ = handled.recv(); // fails only if the other side is gone, and then there is nothing to wait for
                }
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| work(interrupt, &events)));
            let _ = sender.send(Message::Done(outcome));
        });
        loop {
            match py.detach(|| wait(&receiver)) {
                Ok(Message::Done(outcome)) => return outcome,
                Ok(Message::Event(event)) => {
                    if raised.is_none()
                        && let Err(exception) = on_event(event)
                    {
                        raised = Some(exception);
                        interrupt.store(true, Ordering::Relaxed);
                    }
                    let _ = acknowledge.send(()); // the worker waits for it, so it is there
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The worker sends before it ends, so this cannot happen; an error beats waiting for ever.
                Err(RecvTimeoutError::Disconnected) => return Err(Box::new("worker thread vanished") as _),
            }
            if let (None, Err(signal)) = (&raised, py.check_signals()) {
                raised = Some(signal);
                interrupt.store(true, Ordering::Relaxed);
            }
        }
    });
    match raised {
        Some(exception) => Err(exception),
        None => settle(py, outcome),
    }
}

fn wait<T>(receiver: &Mutex<Receiver<T>>) -> Result<T, RecvTimeoutError> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(SIGNAL_POLL)
}

fn settle<T>(py: Python<'_>, outcome: Outcome<T>) -> PyResult<T> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errors::to_python(py, &error)),
        Err(panic) => Err(errors::from_panic(py, &*panic)),
    }
}
