//! Python bindings: arrays in and out, the GIL released around all work, errors mapped to exceptions.

mod blocks;
mod errors;
mod gguf;
mod metadata;
mod run;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::blocks::{decode, encode, formats};
    #[pymodule_export]
    use super::gguf::GgufWriter;
}
