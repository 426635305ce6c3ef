//! `ggquant`: encoders and decoders for every GGUF block format, GGUF reading and writing, and the
//! streaming conversion that ties them together. Nothing in this crate knows about Python.
//!
//! - [`block`]: one file a format, and the registry of all of them;
//! - [`arch`]: the instruction set in use, and the kernels for it;
//! - `lanes`, `kernel`: the encoders again, many groups of weights at once;
//! - [`encode`]: rows in, blocks out, in parallel, independent of the number of threads;
//! - [`gptq`]: weights into blocks with errors that make up for each other;
//! - [`gguf`]: the container: metadata, layout, reader, writer, splits;
//! - [`imatrix`]: importance matrices, both kinds of file;
//! - [`checkpoint`]: safetensors shards;
//! - [`nn`]: what a transformer does between its matrix products;
//! - [`stats`]: what quantization cost, in logits and in weights;
//! - [`linalg`]: sums of products, the same on every machine;
//! - [`matmul`]: products of activations with weights that stay in their blocks;
//! - [`packed`]: codes of GPTQ, AWQ and compressed-tensors checkpoints;
//! - [`convert`]: plan -> stream -> encode -> positioned write.

pub mod arch;
pub mod block;
pub mod checkpoint;
pub mod convert;
pub mod encode;
pub mod error;
pub mod gguf;
pub mod gptq;
pub mod imatrix;
mod kernel;
mod lanes;
pub mod linalg;
pub mod matmul;
pub mod nn;
pub mod packed;
mod prefetch;
pub mod reference;
mod scratch;
pub mod stats;

pub use block::{BlockFormat, Format, FormatInfo, ImatrixUse};
pub use error::{At, Error, Result};
