//! Integer weights as GPTQ, AWQ and compressed-tensors checkpoints pack them, and the block formats they fit into.
//!
//! A weight is `scale * (code - zero)`, with one scale and one zero point for a group of neighbouring inputs of one
//! output. The checkpoints differ in where codes and zero points lie in 32-bit words ([`bits`], [`layouts`]); values
//! ([`rows`]) and GGUF blocks ([`blocks`]) are made from the same unpacked codes. [`rtn`] finds codes for
//! weights, and [`lattice`] the codes that weights were made from.

pub mod bits;
pub mod blocks;
pub mod lattice;
pub mod layouts;
pub mod rows;
pub mod rtn;
