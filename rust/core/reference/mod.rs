//! The searches that encoders share, in plain scalar arithmetic. Never optimised: every other path is tested against it.
//!
//! All of it is IEEE `f32` in a fixed order, without fused multiply-add: one source expression here is one rounding there.
//! Comments say where an order or a cast looks odd on purpose, because bytes depend on it.
//!
//! - [`rounding`]: conversions between floats, halves and integers;
//! - [`importance`]: what a weight's error counts for, given an importance matrix;
//! - [`symmetric`]: codes around zero, `x = d * q`;
//! - [`affine`]: codes above a minimum, `x = d * q - m`;
//! - [`superblock`]: the scales of a super-block as small integers;
//! - [`grid`]: codebooks, and the codebook points near a vector;
//! - [`codebook`]: magnitudes from a codebook, signs apart;
//! - [`ternary`]: three levels from a codebook, shifted;
//! - [`nonlinear`]: codes into a fixed table of 16 values.

pub mod affine;
pub mod codebook;
pub mod grid;
pub mod importance;
pub mod nonlinear;
pub mod rounding;
pub mod superblock;
pub mod symmetric;
pub mod ternary;

/// Groups whose largest magnitude lies below this are encoded as zeros.
pub const GROUP_EPSILON: f32 = 1e-15;
