//! What the solver needs of a Hessian: damped, permuted, factored.
//!
//! With `H = U diag(D) U^T` and `U` unit upper triangular, the objective is a sum over columns in the order of solving,
//! `e^T H e = sum_k D_k (e_k + sum_{i<k} U_ik e_i)^2`, so that each column's best value given the errors before it can be read
//! off. This is GPTQ's recursion with the upper Cholesky factor of `H^-1`, without the inverse (Frantar et al. 2022,
//! arXiv 2210.17323; Chee et al. 2023, arXiv 2307.13304, theorem 6).

use super::Options;
use super::product::Panels;
use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::linalg::{cholesky, square_of};

/// Columns of a window: the part of a row that is solved before its error is passed on.
pub(super) const WINDOW: usize = 256;

/// Columns that formats with codebooks choose together.
pub(super) const GROUP: usize = 8;

/// Rows of a task where a matrix is copied.
const ROWS: usize = 32;

/// How often damping grows before the matrix is given up.
const ATTEMPTS: u32 = 12;

/// A Hessian ready for the solver. Positions are columns in the order of solving, which permutes them within windows.
pub struct Factor {
    /// Columns.
    pub(super) len: usize,
    /// Column at each position.
    pub(super) order: Vec<u32>,
    /// `D`.
    pub(super) pivots: Vec<f32>,
    /// Diagonal of the damped Hessian, by column.
    pub(super) diagonal: Vec<f32>,
    /// `U` and the Hessian, window by window.
    pub(super) windows: Vec<Window>,
    /// What was added to the diagonal, relative to its mean.
    pub(super) damp: f64,
    /// Columns whose inputs are always zero.
    pub(super) dead: usize,
    /// Whether groups of columns are kept together.
    pub(super) joint: bool,
}

/// What belongs to a window of positions.
pub(super) struct Window {
    /// First position.
    pub(super) first: usize,
    /// Number of positions.
    pub(super) width: usize,
    /// Column within the window at each position.
    pub(super) columns: Vec<usize>,
    /// These rows of `U`, zero on and below the diagonal, from column `first` on.
    pub(super) spread: Panels,
    /// The Hessian of these columns when all later ones are free to make up for them.
    pub(super) schur: Square,
    /// The damped Hessian of these columns; `None` where no pass over the whole row is asked for.
    pub(super) hessian: Option<Columns>,
}

/// Some columns of the damped Hessian.
pub(super) struct Columns {
    /// Their own rows.
    pub(super) own: Square,
    /// All rows, by position.
    pub(super) all: Panels,
}

/// A quadratic form of a window, by column: positions do not matter in it.
pub(super) struct Square {
    /// Row by row.
    pub(super) rows: Vec<f32>,
    /// The same, for products.
    pub(super) panels: Panels,
}

impl Square {
    fn new(width: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let rows: Vec<f32> = (0..width * width).map(|i| at(i / width, i % width)).collect();
        let panels = Panels::new(width, width, |i, j| rows[i * width + j]);
        Self { rows, panels }
    }
}

impl Factor {
    /// Damps and factors `hessian`, a symmetric `len x len` matrix row by row. Of unequal halves the mean is taken.
    ///
    /// A column whose input is always zero has a zero diagonal: it gets the damping alone and is rounded on its own. Where the
    /// matrix is not positive definite with the damping asked for, damping grows tenfold until it is.
    ///
    /// # Errors
    /// `Shape` for a matrix of another size, `Unsupported` for values that are not finite, for a negative diagonal, for
    /// damping out of range, and for a matrix that no damping makes positive definite; `Interrupted`.
    pub fn new(hessian: &[f32], len: usize, options: &Options, run: Run<'_>) -> Result<Self> {
        check(hessian, len, options)?;
        let diagonal = |j: usize| f64::from(hessian[j * len + j]);
        let dead = (0..len).filter(|&j| diagonal(j) == 0.0).count();
        let mean = (0..len).map(diagonal).sum::<f64>() / len as f64;
        // Nothing was ever seen: all columns count alike.
        let unit = if mean > 0.0 { mean } else { 1.0 };
        let order = order(len, options.act_order, options.joint, |j| hessian[j * len + j]);
        let symmetric = |i: usize, j: usize| 0.5 * (f64::from(hessian[i * len + j]) + f64::from(hessian[j * len + i]));
        let mut damp = options.damp;
        // The factor wanted is upper triangular: the matrix turned around is `R^T R`, and `R^T` turned around is the factor.
        let mut turned = vec![0.0; len * len];
        for _ in 0..ATTEMPTS {
            let added = damp * unit;
            let damped = |j: usize| diagonal(j) + added + dead_weight(diagonal(j), added, unit);
            run.for_each(turned.chunks_mut(ROWS * len).collect(), |_, number, rows: &mut [f64]| {
                for (p, row) in (number * ROWS..).zip(rows.chunks_exact_mut(len)) {
                    let i = order[len - 1 - p] as usize;
                    row[p] = damped(i);
                    for (q, to) in row.iter_mut().enumerate().skip(p + 1) {
                        *to = symmetric(i, order[len - 1 - q] as usize);
                    }
                }
                Ok(())
            })?;
            if cholesky(&mut turned, len, run)? {
                let mut own = Self {
                    len,
                    pivots: vec![0.0; len],
                    diagonal: (0..len).map(|j| damped(j) as f32).collect(),
                    windows: Vec::new(),
                    order,
                    damp,
                    dead,
                    joint: options.joint,
                };
                own.fill(&turned, (options.effort.passes > 0).then_some(hessian), run)?;
                return Ok(own);
            }
            damp = if damp > 0.0 { damp * 10.0 } else { 1e-8 };
        }
        let what = format!(
            "the Hessian is not positive definite, even with {damp:e} of its mean diagonal added; collect it again"
        );
        Err(Error::Unsupported { at: At::default(), what })
    }

    /// Columns, which is the length of rows.
    pub fn row_len(&self) -> usize {
        self.len
    }

    /// What was added to the diagonal, relative to its mean; more than was asked for where that was not enough.
    pub fn damp(&self) -> f64 {
        self.damp
    }

    /// Number of columns whose inputs are always zero.
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// Whether passes over the whole row can be made.
    pub(super) fn has_hessian(&self) -> bool {
        self.windows.iter().all(|window| window.hessian.is_some())
    }

    fn fill(&mut self, turned: &[f64], hessian: Option<&[f32]>, run: Run<'_>) -> Result<()> {
        let len = self.len;
        // Row `q` of the factor's transpose, from column `p` on, backwards.
        let entry = |p: usize, q: usize| turned[(len - 1 - q) * len + len - 1 - p];
        for q in 0..len {
            let pivot = entry(q, q);
            self.pivots[q] = (pivot * pivot) as f32;
        }
        let mut windows: Vec<Option<Window>> = (0..len.div_ceil(WINDOW)).map(|_| None).collect();
        let (order, diagonal) = (&self.order, &self.diagonal);
        run.for_each(windows.iter_mut().collect(), |_, number, window: &mut Option<Window>| {
            let first = number * WINDOW;
            let width = (len - first).min(WINDOW);
            let unit = |p: usize, q: usize| if p < q { (entry(p, q) / entry(q, q)) as f32 } else { 0.0 };
            let column = |q: usize| (0..width).map(move |p| if q < p { 0.0 } else { entry(first + p, first + q) });
            let transposed: Vec<f64> = (0..width).flat_map(column).collect();
            let schur = square_of(&transposed, width)?;
            let columns: Vec<usize> = order[first..first + width].iter().map(|&i| i as usize - first).collect();
            let mut positions = [0; WINDOW];
            for (position, &column) in columns.iter().enumerate() {
                positions[column] = position;
            }
            *window = Some(Window {
                first,
                width,
                columns,
                spread: Panels::new(width, len - first, |p, q| unit(first + p, first + q)),
                schur: Square::new(width, |i, j| schur[positions[i] * width + positions[j]] as f32),
                hessian: hessian.map(|hessian| {
                    let damped = |i: usize, j: usize| {
                        if i == j { diagonal[i] } else { 0.5 * (hessian[i * len + j] + hessian[j * len + i]) }
                    };
                    Columns {
                        own: Square::new(width, |i, j| damped(first + i, first + j)),
                        all: Panels::new(len, width, |p, j| damped(order[p] as usize, first + j)),
                    }
                }),
            });
            Ok(())
        })?;
        self.windows = windows.into_iter().flatten().collect();
        Ok(())
    }
}

/// A dead column without damping still needs a positive diagonal.
fn dead_weight(diagonal: f64, added: f64, unit: f64) -> f64 {
    if diagonal == 0.0 && added == 0.0 { unit } else { 0.0 }
}

fn check(hessian: &[f32], len: usize, options: &Options) -> Result<()> {
    if len == 0 || len.checked_mul(len) != Some(hessian.len()) {
        let what = format!("the Hessian has {} values where {len} x {len} are needed", hessian.len());
        return Err(Error::Shape { at: At::default(), what });
    }
    let unsupported = |what: String| Err(Error::Unsupported { at: At::default(), what });
    if !(options.damp >= 0.0 && options.damp.is_finite()) {
        return unsupported(format!("damping of {} is not a finite number of at least 0", options.damp));
    }
    if let Some(at) = hessian.iter().position(|v| !v.is_finite()) {
        let (row, column) = (at / len, at % len);
        return unsupported(format!(
            "the Hessian holds {} at row {row}, column {column}; activations overflowed",
            hessian[at]
        ));
    }
    if let Some(at) = (0..len).find(|&j| hessian[j * len + j] < 0.0) {
        return unsupported(format!(
            "the Hessian's diagonal is {} at column {at}; no X^T X has that",
            hessian[at * len + at]
        ));
    }
    Ok(())
}

/// Positions to columns: as they are, or by falling diagonal within each window; groups that are chosen jointly stay
/// together, and count by the sum of their diagonal. Equal ones keep their order.
fn order(len: usize, act_order: bool, joint: bool, diagonal: impl Fn(usize) -> f32) -> Vec<u32> {
    let unit = if joint { GROUP } else { 1 };
    let mut firsts: Vec<usize> = (0..len).step_by(unit).collect();
    if act_order {
        let weight = |first: usize| (first..len.min(first + unit)).map(&diagonal).sum::<f32>();
        for window in firsts.chunks_mut(WINDOW / unit) {
            window.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
        }
    }
    firsts.into_iter().flat_map(|first| first as u32..len.min(first + unit) as u32).collect()
}
