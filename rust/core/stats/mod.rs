//! What quantization cost: statistics of a model's logits and of its weights.
//!
//! Results depend neither on the number of threads nor on the instruction set, as in [`crate::nn`], whose exponential is
//! used here too.

mod difference;
mod logits;

pub use difference::{Difference, Importance, difference};
pub use logits::{Score, pack, packed_len, score};

/// Values that are worked on side by side.
const WIDTH: usize = 16;
