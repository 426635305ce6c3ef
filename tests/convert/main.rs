//! The conversion engine: strided reads, element types, encoding in pieces, failures, progress.

mod encoding;
mod failures;
mod progress;
mod support;
mod views;
