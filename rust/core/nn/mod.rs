//! What a transformer does between its matrix products: norms, rotary positions, attention, activations.
//!
//! Everything is float32, row-major, and parallel over rows. Results depend neither on the number of threads nor on the
//! instruction set: work is cut at fixed places, every sum has a fixed order of additions, multiplications and additions
//! are fused where the code says so and nowhere else, and the exponential is the same few operations everywhere. Code is
//! written on arrays of a fixed width and compiled once for each instruction set.

mod activation;
mod attention;
mod function;
mod norm;
mod rope;
mod rounding;
mod statistics;

use crate::encode::Run;
use crate::error::{At, Error, Result};

pub use activation::{Activation, Curve, Gate, activate, curve, gate, soft_cap};
pub use attention::{Attention, attention};
pub(crate) use function::exp;
pub use norm::{layer_norm, rms_norm};
pub use rope::{Pairing, Rotation, rotate};
pub use rounding::{Half, round_to};
pub use statistics::{column_squares, negative_log_likelihood, softmax};
pub(crate) use statistics::{log_sum, log_sum_generic};

/// Floats that are worked on side by side: two registers of AVX2, one of AVX-512.
const WIDTH: usize = 16;

/// Values in a task of row-wise work: a fraction of a core's second-level cache.
const TASK_VALUES: usize = 1 << 15;

/// Compiles a generic function for every instruction set: `$name` takes the one to use before its other arguments.
macro_rules! per_isa {
    ($($vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:path;)+) => {$(
        $vis fn $name(isa: $crate::arch::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $generic($($arg),*)
            }
            // Plain Rust with the machine's own `mul_add`, which takes ten times as long in software.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "fma")]
            fn fused($($arg: $ty),*) $(-> $ret)? {
                $generic($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $generic($($arg),*)
            }
            match isa {
                // SAFETY: `arch::isa` names an instruction set only where it was detected.
                #[cfg(target_arch = "x86_64")]
                $crate::arch::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::arch::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: the machine has just been asked.
                #[cfg(target_arch = "x86_64")]
                $crate::arch::Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => unsafe { fused($($arg),*) },
                _ => $generic($($arg),*),
            }
        }
    )+};
}
pub(crate) use per_isa;

/// Hands out whole rows of `out` to `work`, which gets the number of its first row.
fn for_rows(run: Run, row_len: usize, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync + Send) -> Result<()> {
    if row_len == 0 || out.is_empty() {
        return Ok(());
    }
    let rows = (TASK_VALUES / row_len).max(1);
    run.for_each(out.chunks_mut(rows * row_len).collect(), |_, task, part| {
        work(task * rows, part);
        Ok(())
    })
}

/// The error for a buffer of the wrong length.
fn wrong_shape(what: String) -> Error {
    Error::Shape { at: At::default(), what }
}

/// Checks that `len` values are whole rows of `row_len`.
fn check_rows(what: &str, len: usize, row_len: usize) -> Result<usize> {
    match len.checked_div(row_len) {
        Some(rows) if rows * row_len == len => Ok(rows),
        _ => Err(wrong_shape(format!("{what}: {len} values are not whole rows of {row_len}"))),
    }
}

/// Checks that `len` is `wanted`.
fn check_len(what: &str, len: usize, wanted: usize) -> Result<()> {
    if len == wanted { Ok(()) } else { Err(wrong_shape(format!("{what}: {len} values instead of {wanted}"))) }
}
