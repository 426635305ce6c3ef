//! Python bindings: arrays in and out, the GIL released around all work, errors mapped to exceptions.

use pyo3::prelude::*;

#[pymodule]
mod _native {}
