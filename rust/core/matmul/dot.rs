//! The product of one row of weights and one of activations.

use super::activation::Rounded;
use super::slab::{Facts, SLAB, Scaling, Slab};

/// The sum of products of slabs, added to `sum`. This is the definition that every kernel must equal.
pub(super) fn portable(facts: &Facts, slabs: &[Slab], x: &[Rounded], sum: f32) -> f32 {
    slabs.iter().zip(x).fold(sum, |sum, (slab, x)| add(facts, sum, slab, x))
}

fn add(facts: &Facts, sum: f32, slab: &Slab, x: &Rounded) -> f32 {
    let dot = |columns: std::ops::Range<usize>| -> i32 {
        let codes = slab.codes[columns.clone()].iter().zip(&x.codes[columns]);
        codes.map(|(&code, &x)| weight(facts, code) * i32::from(x)).sum()
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

/// Codes of formats with minima or an offset fit 7 bits, so that all kinds can be taken as signed.
#[inline(always)]
fn weight(facts: &Facts, code: u8) -> i32 {
    i32::from(code as i8) - i32::from(facts.offset)
}
