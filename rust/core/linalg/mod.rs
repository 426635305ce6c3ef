//! Dense linear algebra whose results are the same on every machine.
//!
//! Libraries choose kernels by the processor, cut sums by the number of threads, and change both with their version. Here
//! every number is defined by an order of additions that is written down beside the function, each product is added by a fused
//! multiply-add, and vector lanes are different results and never parts of one. So neither the number of threads, nor
//! the instruction set, nor how work is cut into tiles can change a bit.
//!
//! - [`add_gram`], [`add_products`]: second moments, `X^T Y` of `f32` summed up in `f64`;
//! - [`cholesky`], [`solve`]: symmetric positive definite matrices in `f64`.

mod gram;
mod tile;
mod triangular;
mod wide;

use crate::error::{At, Error, Result};

pub use gram::{add_gram, add_gram_on, add_products, add_products_on, mirror};
pub(crate) use tile::{MAX_TILE, Sums, Tiles};
pub(crate) use triangular::square_of;
pub use triangular::{cholesky, cholesky_on, solve, solve_on, solve_triangular};

fn wrong_shape<T>(what: String) -> Result<T> {
    Err(Error::Shape { at: At::default(), what })
}
