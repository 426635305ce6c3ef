//! Thread counts and the pools behind them.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{At, Error, Result};

/// Pools kept for reuse. Callers settle on one or two counts; starting threads anew for each array would cost more
/// than encoding a small one.
const KEPT_POOLS: usize = 4;

/// More threads than this are never started.
const MAX_THREADS: usize = 512;

struct Pools {
    /// Threads do not survive `fork`, so pools belong to the process that made them.
    process: u32,
    /// Most recently used last.
    pools: Vec<Arc<ThreadPool>>,
}

static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, pools: Vec::new() });

/// The number of threads to use: what was asked for (at most [`MAX_THREADS`]), or one per core.
///
/// # Errors
/// `Unsupported` for zero threads.
pub(crate) fn thread_count(asked: Option<usize>) -> Result<usize> {
    match asked {
        Some(0) => Err(Error::Unsupported {
            at: At::default(),
            what: "0 threads were asked for; use 1 or more, or leave the number out for one per core".into(),
        }),
        Some(threads) => Ok(threads.min(MAX_THREADS)),
        None => Ok(std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_THREADS))),
    }
}

/// A pool of exactly `threads` threads, kept for later calls.
///
/// # Errors
/// `Io` if the system refuses to start threads.
pub(crate) fn pool(threads: usize) -> Result<Arc<ThreadPool>> {
    let mut cache = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if cache.process != process {
        // Dropping a pool signals its threads; the parent's threads do not exist here, and their locks may be held.
        std::mem::take(&mut cache.pools).into_iter().for_each(std::mem::forget);
        cache.process = process;
    }
    let pool = match cache.pools.iter().position(|pool| pool.current_num_threads() == threads) {
        Some(at) => cache.pools.remove(at),
        None => Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| Error::Io {
            at: At::default(),
            action: format!("start {threads} threads"),
            source: std::io::Error::other(error),
        })?),
    };
    cache.pools.push(Arc::clone(&pool));
    if cache.pools.len() > KEPT_POOLS {
        cache.pools.remove(0);
    }
    Ok(pool)
}
