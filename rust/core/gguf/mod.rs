//! The GGUF container: metadata, layout, reader, writer and splits.

pub mod atomic;
pub mod header;
pub(crate) mod hidden;
mod index;
pub mod layout;
pub mod metadata;
pub mod path;
pub mod reader;
pub mod split;
pub mod spool;
mod swap;
pub mod types;
pub mod verify;
pub mod writer;

pub use atomic::{AtomicFile, SealedFile};
pub use header::{Endianness, Header, TensorInfo};
pub use layout::{Layout, TensorSpec};
pub use metadata::{Array, Metadata, Value};
pub use reader::{Reader, Shard};
pub use spool::SpoolWriter;
pub use types::GgmlType;
pub use writer::Writer;
