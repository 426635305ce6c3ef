//! The GGUF container: metadata, layout, reader, writer and splits.

pub mod layout;
pub mod metadata;
pub mod types;

pub use layout::{Layout, TensorSpec};
pub use metadata::{Array, Metadata, Value};
pub use types::GgmlType;
