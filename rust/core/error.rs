//! The one error type of the crate. Every variant can say which file and which tensor it is about.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::block::Format;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where an error happened: a file, a tensor, both, or neither (an array handed in by a caller).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    /// The file being read or written.
    pub file: Option<PathBuf>,
    /// The tensor being worked on.
    pub tensor: Option<String>,
}

impl At {
    /// A place known only by its file.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self { file: Some(path.as_ref().to_owned()), tensor: None }
    }

    /// A place known only by its tensor.
    pub fn tensor(name: impl Into<String>) -> Self {
        Self { file: None, tensor: Some(name.into()) }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor '{tensor}': ")?;
        }
        Ok(())
    }
}

/// Everything that can go wrong. The text of each variant says what to do about it where there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read, a write, or an open.
    #[error("{at}cannot {action}: {source}")]
    Io {
        /// File and tensor.
        at: At,
        /// What was attempted, as a verb phrase ("read 4096 bytes at offset 32").
        action: String,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// A file breaks its own format: truncated, hostile, or damaged.
    #[error("{at}{what}")]
    Malformed {
        /// File and tensor.
        at: At,
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A well-formed file asks for something this version does not do.
    #[error("{at}{what}")]
    Unsupported {
        /// File and tensor.
        at: At,
        /// What is unsupported and what to do instead.
        what: String,
    },
    /// A weight is NaN or infinite.
    #[error("{at}row {row}, column {column} is {value}: quantization needs finite weights")]
    NonFinite {
        /// File and tensor.
        at: At,
        /// Row, counted from 0 over all leading dimensions.
        row: usize,
        /// Column, counted from 0.
        column: usize,
        /// The offending value.
        value: f32,
    },
    /// A row is not a whole number of blocks.
    #[error("{at}rows of {len} weights do not divide into blocks of {block} ({format}); choose a format whose block size divides {len}", block = format.info().block_len)]
    RowLength {
        /// File and tensor.
        at: At,
        /// The format asked for.
        format: Format,
        /// Weights in a row.
        len: usize,
    },
    /// The format cannot be encoded without an importance matrix.
    #[error("{at}{format} needs an importance matrix; without one the result would be garbage")]
    ImatrixRequired {
        /// File and tensor.
        at: At,
        /// The format asked for.
        format: Format,
    },
    /// The importance matrix does not fit the tensor or holds unusable values.
    #[error("{at}importance matrix: {what}")]
    Imatrix {
        /// File and tensor.
        at: At,
        /// What does not fit.
        what: String,
    },
    /// A buffer's length contradicts the shape it is said to have.
    #[error("{at}{what}")]
    Shape {
        /// File and tensor.
        at: At,
        /// The contradiction, with the numbers.
        what: String,
    },
    /// Encoded data is not valid (infinite scale, code outside its table).
    #[error("{at}row {row}, block {block}: {what}")]
    InvalidBlock {
        /// File and tensor.
        at: At,
        /// Row, counted from 0.
        row: usize,
        /// Block within the row, counted from 0.
        block: usize,
        /// What is wrong.
        what: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The place the error is about, where it has one.
    pub fn at(&self) -> Option<&At> {
        match self {
            Self::Io { at, .. }
            | Self::Malformed { at, .. }
            | Self::Unsupported { at, .. }
            | Self::NonFinite { at, .. }
            | Self::RowLength { at, .. }
            | Self::ImatrixRequired { at, .. }
            | Self::Imatrix { at, .. }
            | Self::Shape { at, .. }
            | Self::InvalidBlock { at, .. } => Some(at),
            Self::Interrupted => None,
        }
    }

    fn at_mut(&mut self) -> Option<&mut At> {
        match self {
            Self::Io { at, .. }
            | Self::Malformed { at, .. }
            | Self::Unsupported { at, .. }
            | Self::NonFinite { at, .. }
            | Self::RowLength { at, .. }
            | Self::ImatrixRequired { at, .. }
            | Self::Imatrix { at, .. }
            | Self::Shape { at, .. }
            | Self::InvalidBlock { at, .. } => Some(at),
            Self::Interrupted => None,
        }
    }

    /// Adds the file, unless one is known already.
    #[must_use]
    pub fn in_file(mut self, path: impl AsRef<Path>) -> Self {
        if let Some(at) = self.at_mut() {
            at.file.get_or_insert_with(|| path.as_ref().to_owned());
        }
        self
    }

    /// Adds the tensor, unless one is known already.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Self {
        if let Some(at) = self.at_mut() {
            at.tensor.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// An I/O error on a file.
    pub fn io(path: impl AsRef<Path>, action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { at: At::file(path), action: action.into(), source }
    }

    /// A malformed file.
    pub fn malformed(path: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::Malformed { at: At::file(path), what: what.into() }
    }
}
