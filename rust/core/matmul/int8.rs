//! Products of integers: weights as they are stored, activations rounded to 8 bits.
//!
//! Within 256 columns, or within a group where scales are floats, the sum of products is a whole number and exact. Each
//! such sum is converted to `f32`, multiplied by the product of both scales, and added to the result in order of columns;
//! then the minima's part likewise. So the error against exact arithmetic on the same rounded activations is that of a sum
//! of `2 * K / 256` terms (`K / 16` at most where scales are floats), each off by three roundings.

use super::activation::Rounded;
use super::slab::{Facts, SLAB, Scaling, Slab};
use super::unpack::Unpacker;
use super::{Matrix, Output};
use crate::encode::Run;
use crate::error::Result;

/// Rows of weights in a task.
const ROWS: usize = 32;

pub(super) fn matmul(
    Unpacker { facts, unpack }: Unpacker,
    weights: Matrix<'_>,
    x: &[f32],
    n: usize,
    out: &mut [f32],
    run: Run<'_>,
) -> Result<()> {
    let cols = weights.cols;
    let slabs = cols.div_ceil(SLAB);
    let mut rounded = vec![Rounded::ZERO; n * slabs];
    let tasks = rounded.chunks_mut(slabs).zip(x.chunks(cols)).collect();
    run.for_each(tasks, |_, _, (to, x): (&mut [Rounded], &[f32])| {
        for (to, x) in to.iter_mut().zip(x.chunks(SLAB)) {
            *to = Rounded::new(&facts, x);
        }
        Ok(())
    })?;
    let output = Output::new(out, n, weights.rows);
    let tasks = (0..weights.rows.div_ceil(ROWS)).collect();
    run.for_each(tasks, |_, _, task| {
        let mut row_slabs = vec![Slab::ZERO; slabs];
        for row in ROWS * task..(ROWS * task + ROWS).min(weights.rows) {
            unpack(weights.bytes(row, 0, cols), &mut row_slabs);
            for (i, rounded) in rounded.chunks_exact(slabs).enumerate() {
                let sum = row_slabs.iter().zip(rounded).fold(0.0, |sum, (slab, x)| add(&facts, sum, slab, x));
                // SAFETY: this task alone has these rows.
                unsafe { output.write(i, row, &[sum]) };
            }
        }
        Ok(())
    })
}

/// The sum of products of one slab, added to `sum`.
fn add(facts: &Facts, sum: f32, slab: &Slab, x: &Rounded) -> f32 {
    let dot = |columns: std::ops::Range<usize>| -> i32 {
        let codes = slab.codes[columns.clone()].iter().zip(&x.codes[columns]);
        codes.map(|(&code, &x)| i32::from(weight(facts, code)) * i32::from(x)).sum()
    };
    let mut sum = sum;
    match facts.scaling {
        Scaling::Super => {
            let whole: i32 = (0..16).map(|j| dot(16 * j..16 * j + 16) * i32::from(slab.scales[j])).sum();
            sum = (slab.d[0] * x.d[0]).mul_add(whole as f32, sum);
            if facts.mins {
                let mins: i32 = (0..16).map(|j| i32::from(slab.mins[j]) * i32::from(x.sums[j])).sum();
                sum = (slab.m[0] * x.d[0]).mul_add(mins as f32, sum);
            }
        }
        Scaling::Groups => {
            for at in (0..SLAB).step_by(facts.group) {
                sum = (slab.d[at / 16] * x.d[at / 32]).mul_add(dot(at..at + facts.group) as f32, sum);
                if facts.mins {
                    sum = slab.m[at / 16].mul_add(x.s[at / 32], sum);
                }
            }
        }
    }
    sum
}

#[inline(always)]
fn weight(facts: &Facts, code: u8) -> i16 {
    // Unsigned codes fit 7 bits, so that both kinds can be taken as signed.
    let weight = i16::from(code as i8) - i16::from(facts.offset);
    debug_assert!(i32::from(weight).abs() <= facts.max);
    weight
}
