//! GPTQ into block formats: weights whose errors make up for each other.
//!
//! Given the Hessian `H = 2/n X^T X` of a layer's inputs, minimises `e^T H e` for each row, `e` being the row's weights less
//! what is stored for them. A row is cut into windows of 256 columns. When a window is entered, the errors of the windows
//! before it are known, and the weights that would make up for them best are what is stored next: scales are fitted to these
//! by the format's own encoder, levels are chosen column by column (the likeliest to matter first; they keep their places),
//! and both are improved by coordinate descent. Nothing is rounded twice: the levels chosen are those packed.
//!
//! References: Frantar et al. 2022 (arXiv 2210.17323); Chee et al. 2023 (arXiv 2307.13304) for the form with errors fed back.
//!
//! - [`Factor`]: a Hessian, damped and factored; serves any number of tensors with the same input;
//! - [`solve`]: weights to blocks;
//! - [`integer`]: plain integer groups, for checkpoints of the GPTQ family.

#![allow(non_camel_case_types)] // Format names are the field's own.

mod codebook;
mod dense;
mod factor;
pub(crate) mod form;
mod improve;
pub mod integer;
pub(crate) mod legacy;
mod levels;
mod product;
mod refit;
mod solve;
pub(crate) mod superblock;

pub use factor::Factor;

use crate::arch::{isa, kernel};
use crate::block::Format;
use crate::encode::{Run, check_finite, row_bytes};
use crate::error::{At, Error, Result};
use crate::linalg::Tiles;
use solve::{Task, solve_tile, tile_rows};

/// How much work goes into a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of descent over levels and refits of scales in each window.
    pub rounds: u32,
    /// Passes over all windows afterwards, last to first, each seeing the errors of all others.
    pub passes: u32,
}

impl Effort {
    /// Levels, then a refit.
    pub const FAST: Self = Self { rounds: 1, passes: 0 };
    /// Also one pass over the whole row.
    pub const NORMAL: Self = Self { rounds: 2, passes: 1 };
    /// Until little more is gained.
    pub const BEST: Self = Self { rounds: 4, passes: 3 };
}

/// How to solve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// What to add to the Hessian's diagonal, relative to its mean.
    pub damp: f64,
    /// Whether columns are solved by falling diagonal within windows.
    pub act_order: bool,
    /// Whether to keep the columns together that formats with codebooks choose jointly; see [`is_joint`].
    pub joint: bool,
    /// How much work to do.
    pub effort: Effort,
}

impl Default for Options {
    fn default() -> Self {
        Self { damp: 0.01, act_order: true, joint: false, effort: Effort::NORMAL }
    }
}

/// `e^T H e` of one row, with the damping in `H`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowLoss {
    /// Of the format's own encoder, given the Hessian's diagonal as importance matrix.
    pub rounded: f64,
    /// Of what is stored: never more.
    pub solved: f64,
}

/// Whether the solver knows a format.
pub fn supports(format: Format) -> bool {
    tile_solver(format).is_some()
}

/// Whether a format chooses eight columns at a time, and so needs a [`Factor`] that keeps them together.
pub fn is_joint(format: Format) -> bool {
    matches!(format, Format::IQ2_XXS | Format::IQ2_XS | Format::IQ2_S | Format::IQ3_XXS | Format::IQ3_S)
}

/// Weights of a tile, its bytes, its losses, whether to stop.
type TileSolver = fn(&Task<'_>, &[f32], &mut [u8], &mut [RowLoss], &dyn Fn() -> bool) -> Option<()>;

/// The solver of a format.
fn tile_solver(format: Format) -> Option<TileSolver> {
    Some(match format {
        Format::Q4_0 => solve_tile::<legacy::Q4_0>,
        Format::Q4_1 => solve_tile::<legacy::Q4_1>,
        Format::Q5_0 => solve_tile::<legacy::Q5_0>,
        Format::Q5_1 => solve_tile::<legacy::Q5_1>,
        Format::Q8_0 => solve_tile::<legacy::Q8_0>,
        Format::IQ4_NL => solve_tile::<legacy::IQ4_NL>,
        Format::Q2_K => solve_tile::<superblock::Q2_K>,
        Format::Q3_K => solve_tile::<superblock::Q3_K>,
        Format::Q4_K => solve_tile::<superblock::Q4_K>,
        Format::Q5_K => solve_tile::<superblock::Q5_K>,
        Format::Q6_K => solve_tile::<superblock::Q6_K>,
        Format::IQ4_XS => solve_tile::<superblock::IQ4_XS>,
        Format::IQ2_XXS => solve_tile::<codebook::IQ2_XXS>,
        Format::IQ2_XS => solve_tile::<codebook::IQ2_XS>,
        Format::IQ2_S => solve_tile::<codebook::IQ2_S>,
        Format::IQ3_XXS => solve_tile::<codebook::IQ3_XXS>,
        Format::IQ3_S => solve_tile::<codebook::IQ3_S>,
        _ => return None,
    })
}

/// Solves `weights`, rows as long as the factor's Hessian, into `format`. Returns a loss for each row.
///
/// The bytes do not depend on the number of threads. `importance`, if given, holds a weight for each column in the searches
/// for scales, finite and positive; it does not change the objective.
///
/// # Errors
/// `Unsupported` for a format without a solver, `RowLength`, `Shape`, `NonFinite`, `Imatrix`, `Interrupted`.
pub fn solve(
    format: Format,
    weights: &[f32],
    factor: &Factor,
    importance: Option<&[f32]>,
    effort: Effort,
    out: &mut [u8],
    run: Run<'_>,
) -> Result<Vec<RowLoss>> {
    let Some(solver) = tile_solver(format) else {
        return Err(Error::Unsupported { at: At::default(), what: format!("there is no GPTQ solver for {format}") });
    };
    let len = factor.len;
    let row_bytes = row_bytes(format, len)?;
    if !weights.len().is_multiple_of(len) || out.len() != weights.len() / len * row_bytes {
        let what = format!("{} weights and {} bytes do not make rows of {len}", weights.len(), out.len());
        return Err(Error::Shape { at: At::default(), what });
    }
    check_finite(weights, 0, len)?;
    if let Some(given) = importance
        && (given.len() != len || given.iter().any(|v| !v.is_finite() || *v <= 0.0))
    {
        let what = format!("{} values given; {len} are needed, all finite and above 0", given.len());
        return Err(Error::Imatrix { at: At::default(), what });
    }
    if is_joint(format) && !factor.joint {
        let what = format!("the factor does not keep the columns together that {format} chooses jointly");
        return Err(Error::Unsupported { at: At::default(), what });
    }
    if effort.passes > 0 && !factor.has_hessian() {
        let what = "the factor was made without passes over the whole row; make it with this effort".to_owned();
        return Err(Error::Unsupported { at: At::default(), what });
    }
    let isa = isa()?;
    let task = Task { factor, kernel: kernel(format)?, isa, tiles: Tiles::of(isa), effort, importance };
    let mut losses = vec![RowLoss::default(); weights.len() / len];
    let rows = tile_rows(losses.len(), run.thread_count()?);
    let tiles = weights.chunks(rows * len).zip(out.chunks_mut(rows * row_bytes)).zip(losses.chunks_mut(rows));
    run.for_each(tiles.collect(), |_, _, ((x, out), losses): ((&[f32], &mut [u8]), &mut [RowLoss])| {
        solver(&task, x, out, losses, &|| run.interrupted()).ok_or(Error::Interrupted)
    })?;
    Ok(losses)
}
