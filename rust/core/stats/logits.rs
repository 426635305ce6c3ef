//! Logits against the logits of another model, in the packed form in which `llama-perplexity` keeps these.
//!
//! A packed row is two floats, the step and the lowest logarithm of a probability, and a 16-bit code for each token:
//! ln p = step * code + lowest. Whatever is less likely than e^-16 times the most likely token is kept as that.

use super::WIDTH;
use crate::arch::isa;
use crate::encode::Run;
use crate::error::{At, Error, Result};
use crate::nn::{exp, log_sum, per_isa};

/// Codes that the two floats take the place of.
const HEAD: usize = 4;

/// Logarithms of probabilities span this much at most, and those below -`RANGE` count as nothing in a divergence.
const RANGE: f32 = 16.0;

/// The largest code.
const LARGEST: f32 = 65535.0;

/// Adding it rounds a float below 2^22 to a whole number, half to even, which the low bits then hold.
const ROUNDER: f32 = 12_582_912.0;

/// Numbers of 16 bits that a packed row of `n_vocab` logits takes.
pub const fn packed_len(n_vocab: usize) -> usize {
    HEAD + n_vocab.next_multiple_of(2)
}

/// A token's place in two models' predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// -ln of the probability that the model gives to the token that follows.
    pub nll: f64,
    /// The same of the reference.
    pub base_nll: f64,
    /// Kullback-Leibler divergence of the model's prediction from the reference's, in nats.
    pub kld: f64,
    /// The model's probability for the token that follows, less the reference's.
    pub dp: f64,
    /// Whether both find the same token the most likely.
    pub same_top: bool,
}

/// Packs rows of `n_vocab` logits.
///
/// # Errors
/// `Shape` if `logits` are not whole rows, `Interrupted`.
pub fn pack(logits: &[f32], n_vocab: usize, run: Run<'_>) -> Result<Vec<u16>> {
    let rows = whole_rows(logits.len(), n_vocab)?;
    let isa = isa()?;
    let mut out = vec![0; rows * packed_len(n_vocab)];
    let tasks = out.chunks_exact_mut(packed_len(n_vocab)).zip(logits.chunks_exact(n_vocab)).collect();
    run.for_each(tasks, |_, _, (out, row): (&mut [u16], &[f32])| {
        pack_row(isa, row, out);
        Ok(())
    })?;
    Ok(out)
}

/// Holds rows of `n_vocab` logits against packed rows of another model; `targets` are the tokens that follow.
///
/// # Errors
/// `Shape` if the lengths do not fit each other or a target is outside of the vocabulary, `Interrupted`.
pub fn score(logits: &[f32], n_vocab: usize, base: &[u16], targets: &[u32], run: Run<'_>) -> Result<Vec<Score>> {
    let rows = whole_rows(logits.len(), n_vocab)?;
    let wrong = |what: String| Error::Shape { at: At::default(), what };
    if base.len() != rows * packed_len(n_vocab) || targets.len() != rows {
        let what = format!("{rows} rows of logits, {} packed numbers, {} targets", base.len(), targets.len());
        return Err(wrong(what));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= n_vocab) {
        return Err(wrong(format!("token {target} is outside of the vocabulary of {n_vocab}")));
    }
    let isa = isa()?;
    let mut out = vec![Score::default(); rows];
    run.for_each(out.iter_mut().collect(), |_, at, out: &mut Score| {
        let row = &logits[at * n_vocab..][..n_vocab];
        let base = &base[at * packed_len(n_vocab)..][..packed_len(n_vocab)];
        *out = score_row(isa, row, base, targets[at] as usize);
        Ok(())
    })?;
    Ok(out)
}

fn whole_rows(len: usize, n_vocab: usize) -> Result<usize> {
    match len.checked_div(n_vocab) {
        Some(rows) if rows * n_vocab == len => Ok(rows),
        _ => Err(Error::Shape { at: At::default(), what: format!("{len} logits are not whole rows of {n_vocab}") }),
    }
}

per_isa! {
    fn pack_row(row: &[f32], out: &mut [u16]) = pack_generic;
    fn divergence(row: &[f32], codes: &[u16], step: f32, lowest: f32, log_total: f32) -> f64 = divergence_generic;
    fn largest_base(codes: &[u16], step: f32, lowest: f32) -> f32 = largest_base_generic;
}

#[inline(always)]
fn pack_generic(row: &[f32], out: &mut [u16]) {
    let (largest, total) = crate::nn::log_sum_generic(row);
    let smallest = row.iter().copied().fold(f32::INFINITY, |a, b| if b < a { b } else { a });
    let smallest = if smallest > largest - RANGE { smallest } else { largest - RANGE };
    let step = (largest - smallest) / LARGEST;
    let lowest = smallest - largest - total.ln() as f32;
    put_float(&mut out[..2], step);
    put_float(&mut out[2..HEAD], lowest);
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    for (code, &value) in out[HEAD..].iter_mut().zip(row) {
        let steps = inverse * (value - smallest) + ROUNDER;
        *code = if value > smallest { steps.to_bits() as u16 } else { 0 };
    }
}

fn put_float(out: &mut [u16], value: f32) {
    // The file is little-endian, as are the numbers around it.
    let bits = value.to_bits();
    (out[0], out[1]) = (bits as u16, (bits >> 16) as u16);
}

fn float(codes: &[u16]) -> f32 {
    f32::from_bits(u32::from(codes[0]) | u32::from(codes[1]) << 16)
}

fn score_row(isa: crate::arch::Isa, row: &[f32], packed: &[u16], target: usize) -> Score {
    let (step, lowest) = (float(&packed[..2]), float(&packed[2..HEAD]));
    let codes = &packed[HEAD..][..row.len()];
    let (largest, total) = log_sum(isa, row);
    let log_total = total.ln() as f32;
    let nll = largest + log_total - row[target];
    let base_nll = -(step * f32::from(codes[target]) + lowest);
    let top = row.iter().position(|&value| value == largest);
    let base_largest = largest_base(isa, codes, step, lowest);
    let base_top = codes.iter().position(|&code| step * f32::from(code) + lowest == base_largest);
    Score {
        nll: nll.into(),
        base_nll: base_nll.into(),
        kld: divergence(isa, row, codes, step, lowest, largest + log_total),
        dp: f64::from((-nll).exp() - (-base_nll).exp()),
        same_top: top.is_some() && top == base_top,
    }
}

#[inline(always)]
fn largest_base_generic(codes: &[u16], step: f32, lowest: f32) -> f32 {
    let value = |code: u16| step * f32::from(code) + lowest;
    codes.iter().fold(f32::NEG_INFINITY, |a, &code| if value(code) > a { value(code) } else { a })
}

/// The sum over tokens of p (ln p - ln q), where p is the reference's and ln q = logit - `log_total`.
#[inline(always)]
fn divergence_generic(row: &[f32], codes: &[u16], step: f32, lowest: f32, log_total: f32) -> f64 {
    let term = |value: f32, code: u16| {
        let log_p = step * f32::from(code) + lowest;
        let term = exp(log_p) * (log_p - value + log_total);
        f64::from(if log_p > -RANGE { term } else { 0.0 })
    };
    let mut lanes = [0.0_f64; WIDTH];
    let (values, value_rest) = row.as_chunks::<WIDTH>();
    let (groups, code_rest) = codes.as_chunks::<WIDTH>();
    for (values, codes) in values.iter().zip(groups) {
        for lane in 0..WIDTH {
            lanes[lane] += term(values[lane], codes[lane]);
        }
    }
    for (lane, (&value, &code)) in lanes.iter_mut().zip(value_rest.iter().zip(code_rest)) {
        *lane += term(value, code);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Packing and scoring as one would write them, in `f64`.
    fn softmax(row: &[f32]) -> Vec<f64> {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let e: Vec<f64> = row.iter().map(|&x| f64::from(x - largest).exp()).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|x| x / total).collect()
    }

    fn unpacked(packed: &[u16], n: usize) -> Vec<f64> {
        let (step, lowest) = (float(&packed[..2]), float(&packed[2..]));
        packed[HEAD..][..n].iter().map(|&code| f64::from(step * f32::from(code) + lowest)).collect()
    }

    fn threads(count: usize) -> Run<'static> {
        Run { threads: Some(count), interrupt: None }
    }

    proptest! {
        #[test]
        fn packed_rows_are_near(row in prop::collection::vec(-30f32..30.0, 1..300)) {
            let packed = pack(&row, row.len(), threads(1)).unwrap();
            prop_assert_eq!(packed.len(), packed_len(row.len()));
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            // Half a step of at most 16 / 65535, and a few roundings of numbers below 64.
            let near = f64::from(RANGE / LARGEST) / 2.0 + 3e-5;
            for ((p, x), log_p) in softmax(&row).into_iter().zip(&row).zip(unpacked(&packed, row.len())) {
                if largest - x < RANGE {
                    prop_assert!((p.ln() - log_p).abs() < near, "{} {log_p}", p.ln());
                } else {
                    prop_assert!(log_p >= p.ln() - near);
                }
            }
        }

        #[test]
        fn scores_are_those_of_the_definition(
            pairs in prop::collection::vec((-12f32..12.0, -12f32..12.0), 2..300),
            target in 0usize..2,
        ) {
            let (row, other): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let n = row.len();
            let packed = pack(&other, n, threads(1)).unwrap();
            let made = score(&row, n, &packed, &[target as u32], threads(1)).unwrap()[0];
            let (q, log_p) = (softmax(&row), unpacked(&packed, n));
            let kept = log_p.iter().zip(&q).filter(|(log_p, _)| **log_p > -f64::from(RANGE));
            let kld: f64 = kept.map(|(log_p, q)| log_p.exp() * (log_p - q.ln())).sum();
            // f32 logarithms below 64 are good to 4e-6; probabilities add up to 1.
            prop_assert!((made.kld - kld).abs() < 2e-5, "{} {kld}", made.kld);
            prop_assert!((made.nll + q[target].ln()).abs() < 1e-5);
            prop_assert!((made.base_nll + log_p[target]).abs() < 1e-5);
            prop_assert!((made.dp - (q[target] - log_p[target].exp())).abs() < 1e-5);
        }
    }

    #[test]
    fn a_model_against_itself() {
        let row: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
        let packed = pack(&row, 1000, threads(2)).unwrap();
        let made = score(&row, 1000, &packed, &[999], threads(2)).unwrap()[0];
        // A packed logarithm is half a step of 10 / 65535 off at most, and a few roundings of f32 numbers below 16.
        let near = 5.0 / 65535.0 + 4e-6;
        assert!(made.same_top && made.kld.abs() < near && made.dp.abs() < near, "{made:?}");
    }

    #[test]
    fn threads_change_nothing() {
        let rows: Vec<f32> = (0..64 * 777).map(|i| ((i * 7919) % 10007) as f32 / 500.0).collect();
        let targets: Vec<u32> = (0..64).collect();
        let packed = pack(&rows, 777, threads(1)).unwrap();
        assert_eq!(packed, pack(&rows, 777, threads(8)).unwrap());
        let reversed: Vec<f32> = rows.iter().rev().copied().collect();
        let one = score(&reversed, 777, &packed, &targets, threads(1)).unwrap();
        assert_eq!(one, score(&reversed, 777, &packed, &targets, threads(8)).unwrap());
    }

    #[test]
    fn equal_logits_pack_to_one_probability() {
        let packed = pack(&[3.0; 8], 8, threads(1)).unwrap();
        assert!(unpacked(&packed, 8).iter().all(|log_p| (log_p + 8f64.ln()).abs() < 1e-6));
    }

    #[test]
    fn lengths_are_checked() {
        let run = threads(1);
        assert!(pack(&[0.0; 7], 4, run).is_err());
        assert!(pack(&[], 0, run).is_err());
        assert!(score(&[0.0; 8], 4, &[0; 16], &[0, 4], run).is_err());
        assert!(score(&[0.0; 8], 4, &[0; 15], &[0, 1], run).is_err());
        assert!(score(&[0.0; 8], 4, &[0; 16], &[0], run).is_err());
    }
}
