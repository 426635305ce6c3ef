//! The searches that encoders share, in plain scalar arithmetic. Never optimised: every other path is tested against it.
//!
//! All of it is IEEE `f32` in a fixed order, without fused multiply-add: one source expression here is one rounding there.
//! Comments say where an order or a cast looks odd on purpose, because bytes depend on it.
//!
//! - [`rounding`]: conversions between floats, halves and integers;
//! - [`importance`]: what a weight's error counts for, given an importance matrix;
//! - [`symmetric`]: codes around zero, `x = d * q`;
//! - [`affine`]: codes above a minimum, `x = d * q - m`;
//! - [`superblock`]: the scales of a super-block as small integers.

pub mod affine;
pub mod importance;
pub mod rounding;
pub mod superblock;
pub mod symmetric;

/// Groups whose largest magnitude lies below this are encoded as zeros.
pub const GROUP_EPSILON: f32 = 1e-15;
