//! Products with one of several matrices, chosen for each row: the layers of a mixture of experts.

use super::{Activations, Matrix, matmul};
use crate::encode::Run;
use crate::error::{At, Error, Result};

/// `out[t, s, :] = x[t, s or 0, :] W[ids[t, s]]^T`, for every token `t` and every slot `s` of it.
///
/// `weights` holds the matrices of all `experts` one after another, so that it has `experts` times the rows of one.
/// `ids` has `slots` entries a token; `x` has one row for each entry, or one for each token, shared by its slots.
/// Every row of `out` is what [`matmul`] with that expert alone gives.
///
/// # Errors
/// As [`matmul`], and `Shape` for ids out of range.
pub fn matmul_id(
    weights: Matrix<'_>,
    experts: usize,
    x: &[f32],
    ids: &[u32],
    slots: usize,
    activations: Activations,
    out: &mut [f32],
    run: Run<'_>,
) -> Result<()> {
    let fault = |what: String| Err(Error::Shape { at: At::default(), what });
    if experts == 0 || !weights.rows().is_multiple_of(experts) {
        return fault(format!("{} rows do not divide into {experts} experts", weights.rows()));
    }
    if slots == 0 || !ids.len().is_multiple_of(slots) {
        return fault(format!("{} ids do not divide into {slots} slots a token", ids.len()));
    }
    let (rows, cols) = (weights.rows() / experts, weights.cols());
    let shared = match (x.len(), ids.len().checked_mul(cols)) {
        (len, Some(all)) if len == all => false,
        (len, Some(all)) if len == all / slots => true,
        (len, _) => return fault(format!("{len} activations do not fit {} ids and {cols} columns", ids.len())),
    };
    if ids.len().checked_mul(rows) != Some(out.len()) {
        return fault(format!("{} results where {} rows of {rows} are needed", out.len(), ids.len()));
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= experts) {
        return fault(format!("expert {id} was chosen, but there are {experts}"));
    }
    // Entries sorted by expert: each expert's activations are gathered, multiplied at once, and scattered.
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&entry| ids[entry]);
    let (mut gathered, mut product) = (Vec::new(), Vec::new());
    for entries in order.chunk_by(|&a, &b| ids[a] == ids[b]) {
        let expert = ids[entries[0]] as usize;
        gathered.clear();
        for &entry in entries {
            let row = if shared { entry / slots } else { entry };
            gathered.extend_from_slice(&x[row * cols..][..cols]);
        }
        product.resize(entries.len() * rows, 0.0);
        let own = weights.slice(expert * rows..(expert + 1) * rows)?;
        matmul(own, &gathered, activations, &mut product, run)?;
        for (i, &entry) in entries.iter().enumerate() {
            out[entry * rows..][..rows].copy_from_slice(&product[i * rows..][..rows]);
        }
    }
    Ok(())
}
