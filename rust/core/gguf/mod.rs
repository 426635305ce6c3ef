//! The GGUF container: metadata, layout, reader, writer and splits.

pub mod atomic;
pub mod layout;
pub mod metadata;
pub mod spool;
pub mod types;

pub use atomic::AtomicFile;
pub use layout::{Layout, TensorSpec};
pub use metadata::{Array, Metadata, Value};
pub use spool::SpoolWriter;
pub use types::GgmlType;
