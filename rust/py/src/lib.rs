//! Python bindings: arrays in and out, the GIL released around all work, errors mapped to exceptions.

mod blocks;
mod convert;
mod errors;
mod gguf;
mod gptq;
mod linalg;
mod matmul;
mod metadata;
mod nn;
mod packed;
mod run;
mod stats;

use pyo3::prelude::*;

/// Name of the instruction set that encodes and decodes here: `scalar`, `avx2`, `avx512` or `neon`.
#[pyfunction]
fn isa(py: Python<'_>) -> PyResult<&'static str> {
    ggquant::arch::isa().map(|isa| isa.name()).map_err(|e| errors::to_python(py, &e))
}

#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::isa;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    #[pymodule_export]
    use super::blocks::{
        block_grid, block_vectors, decode, encode, formats, nearest_codes, scalar_formats, vector_formats, with_codes,
    };
    #[pymodule_export]
    use super::convert::{checkpoint_tensors, convert_models};
    #[pymodule_export]
    use super::gguf::{GgufReader, GgufWriter, merge_file, read_imatrix, split_file, verify_file};
    #[pymodule_export]
    use super::gptq::{HessianFactor, gptq_formats, gptq_groups};
    #[pymodule_export]
    use super::linalg::{add_gram, add_products, cholesky, mirror, solve_factored};
    #[pymodule_export]
    use super::matmul::{matmul, matmul_id};
    #[pymodule_export]
    use super::nn::{
        activate, attention, column_squares, curve, gated, layer_norm, negative_log_likelihood, rms_norm, rope,
        round_to, soft_cap, softmax,
    };
    #[pymodule_export]
    use super::packed::{block_codes, pack_codes, packed_codes, read_packed, round_to_nearest};
    #[pymodule_export]
    use super::stats::{difference, pack_logits, score_logits};
}
