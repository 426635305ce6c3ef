//! Rotary position embedding (Su et al., 2021).

use super::{check_len, check_rows, for_rows, per_isa, wrong_shape};
use crate::arch::isa;
use crate::encode::Run;
use crate::error::Result;

/// Which two values of a head rotate together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Values 2i and 2i + 1.
    Neighbours,
    /// Values i and i + half the rotated width.
    Halves,
}

/// Cosine and sine of every angle, `[positions, pairs]` each.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines, times whatever factor the model's scaling has.
    pub cos: &'a [f32],
    /// Sines, times the same factor.
    pub sin: &'a [f32],
    /// Pairs that rotate in each head; the rest of the head is left as it is.
    pub pairs: usize,
    /// Which values make a pair.
    pub pairing: Pairing,
}

/// Rotates every head of `x` in place: rows are tokens, `heads` heads of `head_dim` values in each. Row `t` has position
/// `t % positions`.
///
/// # Errors
/// `Shape` where lengths contradict each other; `Interrupted`.
pub fn rotate(x: &mut [f32], heads: usize, head_dim: usize, rotation: Rotation, run: Run) -> Result<()> {
    let row_len = heads.checked_mul(head_dim).filter(|&n| n > 0);
    let row_len = row_len.ok_or_else(|| wrong_shape(format!("rope: {heads} heads of {head_dim} values")))?;
    check_rows("rope", x.len(), row_len)?;
    let positions = check_rows("rope: cosines", rotation.cos.len(), rotation.pairs)?;
    check_len("rope: sines", rotation.sin.len(), rotation.cos.len())?;
    if positions == 0 || rotation.pairs > head_dim / 2 {
        let what = format!("rope: {} pairs at {positions} positions for heads of {head_dim}", rotation.pairs);
        return Err(wrong_shape(what));
    }
    let isa = isa()?;
    for_rows(run, row_len, x, |first, part| {
        for (number, row) in part.chunks_exact_mut(row_len).enumerate() {
            let at = (first + number) % positions * rotation.pairs;
            let (cos, sin) = (&rotation.cos[at..][..rotation.pairs], &rotation.sin[at..][..rotation.pairs]);
            match rotation.pairing {
                Pairing::Halves => halves(isa, row, head_dim, cos, sin),
                Pairing::Neighbours => neighbours(isa, row, head_dim, cos, sin),
            }
        }
    })
}

per_isa! {
    fn halves(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = halves_generic;
    fn neighbours(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) = neighbours_generic;
}

#[inline(always)]
fn halves_generic(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let pairs = cos.len();
    for head in row.chunks_exact_mut(head_dim) {
        let (a, b) = head[..2 * pairs].split_at_mut(pairs);
        for i in 0..pairs {
            let (x, y) = (a[i], b[i]);
            a[i] = x * cos[i] - y * sin[i];
            b[i] = x * sin[i] + y * cos[i];
        }
    }
}

#[inline(always)]
fn neighbours_generic(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in row.chunks_exact_mut(head_dim) {
        for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let [x, y] = *pair;
            *pair = [x * cos - y * sin, x * sin + y * cos];
        }
    }
}
