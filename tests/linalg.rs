//! Second moments, factors and solutions: the same bits however they are computed, and within a bound of the exact ones.

use ggquant::Error;
use ggquant::arch::Isa;
use ggquant::encode::Run;
use ggquant::linalg::{
    add_gram, add_gram_on, add_products, add_products_on, cholesky, cholesky_on, mirror, solve, solve_on,
};
use proptest::prelude::*;

#[path = "common/noise.rs"]
mod noise;

/// Numbers of both signs and several magnitudes: the same on every machine.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    noise::bits(count, seed)
        .map(|bits| ((bits >> 40) as f32 / (1 << 23) as f32 - 1.0) * [1.0, 30.0, 1e-3][(bits % 3) as usize])
        .collect()
}

fn run(threads: usize) -> Run<'static> {
    Run { threads: Some(threads), interrupt: None }
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_available())
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The definition: chains of 256 in `f32`, added up in `f64`.
fn in_order(x: &[f32], k: usize, y: &[f32], m: usize) -> Vec<f64> {
    let mut out = vec![0.0; k * m];
    for (x, y) in x.chunks(256 * k).zip(y.chunks(256 * m)) {
        for i in 0..k {
            for j in 0..m {
                let rows = x.chunks_exact(k).zip(y.chunks_exact(m));
                out[i * m + j] += f64::from(rows.fold(0.0_f32, |sum, (x, y)| x[i].mul_add(y[j], sum)));
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Bit for bit the definition, on all instruction sets and numbers of threads; and so within
    /// `256 * 2^-24 * sum |x y|` of the exact sums, plus what the sums of `f64` round.
    #[test]
    fn moments_are_their_definition(rows in 0_usize..600, k in 1_usize..70, m in 1_usize..70, seed: u64) {
        let (x, y) = (noise(rows * k, seed), noise(rows * m, seed ^ 1));
        let expected = in_order(&x, k, &y, m);
        for isa in isas() {
            for threads in [1, 3] {
                let mut out = vec![0.0; k * m];
                add_products_on(isa, &x, k, &y, m, &mut out, run(threads)).unwrap();
                prop_assert_eq!(bits(&out), bits(&expected), "{} with {} threads", isa, threads);
            }
        }
        for (at, &sum) in expected.iter().enumerate() {
            let terms = (0..rows).map(|t| f64::from(x[t * k + at / m]) * f64::from(y[t * m + at % m]));
            let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)));
            prop_assert!((sum - exact).abs() <= 256.0 * f64::from(2.0_f32.powi(-24)) * 1.001 * size);
        }
    }

    /// The upper triangle is that of the full product, the rest stays as it was until it is mirrored, and sums go on.
    #[test]
    fn grams_are_half_of_the_product(rows in 0_usize..600, k in 1_usize..140, weighted: bool, seed: u64) {
        let x = noise(rows * k, seed);
        let weights = noise(rows, seed ^ 2);
        let y: Vec<f32> = x.iter().enumerate().map(|(at, x)| if weighted { x * weights[at / k] } else { *x }).collect();
        let mut full = vec![0.5; k * k];
        add_products(&x, k, &y, k, &mut full, run(1)).unwrap();
        for isa in isas() {
            let mut out = vec![0.5; k * k];
            add_gram_on(isa, &x, weighted.then_some(&y), k, &mut out, run(2)).unwrap();
            for i in 0..k {
                prop_assert!(out[i * k..][..i].iter().all(|&below| below == 0.5));
                prop_assert_eq!(bits(&out[i * k + i..][..k - i]), bits(&full[i * k + i..][..k - i]));
            }
            mirror(&mut out, k).unwrap();
            prop_assert!((0..k * k).all(|at| out[at] == out[at % k * k + at / k]));
        }
    }
}

/// A matrix with eigenvalues of one and more.
fn definite(len: usize, seed: u64) -> Vec<f64> {
    let x = noise((len + 10) * len, seed);
    let mut out = vec![0.0; len * len];
    add_gram(&x, None, len, &mut out, run(1)).unwrap();
    mirror(&mut out, len).unwrap();
    out.iter_mut().step_by(len + 1).for_each(|x| *x += 1.0);
    out
}

/// The textbook's algorithm, an element at a time.
fn cholesky_in_order(a: &[f64], len: usize) -> Vec<f64> {
    let mut r = a.to_vec();
    for k in 0..len {
        r[k * len + k] = r[k * len + k].sqrt();
        for j in k + 1..len {
            r[k * len + j] /= r[k * len + k];
        }
        for i in k + 1..len {
            for j in i..len {
                r[i * len + j] = (-r[k * len + i]).mul_add(r[k * len + j], r[i * len + j]);
            }
        }
    }
    r
}

#[test]
fn factors_are_those_of_the_textbook() {
    for (len, seed) in [(1, 1), (5, 2), (127, 3), (128, 4), (129, 5), (300, 6), (411, 7)] {
        let a = definite(len, seed);
        let expected = cholesky_in_order(&a, len);
        for isa in isas() {
            for threads in [1, 2, 5] {
                let mut factor = a.clone();
                assert!(cholesky_on(isa, &mut factor, len, run(threads)).unwrap());
                assert_eq!(bits(&factor), bits(&expected), "{len} on {isa} with {threads} threads");
            }
        }
        // R^T R is A within (len + 1) * 2^-53 |R|^T |R| (Higham, Accuracy and Stability, theorem 10.3).
        for at in 0..len * len {
            let (i, j) = (at / len, at % len);
            let terms = (0..=i.min(j)).map(|k| expected[k * len + i] * expected[k * len + j]);
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)));
            assert!((sum - a[at]).abs() <= 2.0 * (len + 1) as f64 * 2.0_f64.powi(-53) * size);
        }
    }
}

#[test]
fn solutions_solve_and_do_not_depend_on_how_they_are_computed() {
    for (len, rows, seed) in [(1, 1, 1), (7, 3, 2), (130, 40, 3), (300, 33, 4)] {
        let a = definite(len, seed);
        let mut factor = a.clone();
        assert!(cholesky(&mut factor, len, run(2)).unwrap());
        let b: Vec<f64> = noise(rows * len, seed ^ 9).into_iter().map(f64::from).collect();
        let mut x = b.clone();
        solve(&factor, len, &mut x, run(2)).unwrap();
        for isa in isas() {
            for threads in [1, 3] {
                let mut again = b.clone();
                solve_on(isa, &factor, len, &mut again, true, run(threads)).unwrap();
                assert_eq!(bits(&again), bits(&x), "{len} on {isa} with {threads} threads");
            }
        }
        // A row alone is solved as it is among others.
        let mut alone = b[..len].to_vec();
        solve(&factor, len, &mut alone, run(1)).unwrap();
        assert_eq!(bits(&alone), bits(&x[..len]));
        // The residual of a backward stable solution: 4 len 2^-53 |R|^T |R| |x| (Higham, theorem 10.4), and as much again for
        // the sums of this test.
        for (x, b) in x.chunks(len).zip(b.chunks(len)) {
            let sized = |k: usize| (k..len).map(|j| (factor[k * len + j] * x[j]).abs()).sum::<f64>();
            let inner: Vec<f64> = (0..len).map(sized).collect();
            for i in 0..len {
                let residual = (0..len).map(|j| a[i * len + j] * x[j]).sum::<f64>() - b[i];
                let size: f64 = (0..=i).map(|k| factor[k * len + i].abs() * inner[k]).sum();
                assert!(residual.abs() <= 8.0 * (len + 1) as f64 * 2.0_f64.powi(-53) * size, "{len}: {residual}");
            }
        }
    }
}

#[test]
fn what_is_not_positive_definite_is_told() {
    let mut a = definite(200, 1);
    a[150 * 200 + 150] = -1.0;
    assert!(!cholesky(&mut a, 200, run(2)).unwrap());
    for bad in [f64::NAN, f64::INFINITY, 0.0] {
        assert!(!cholesky(&mut [bad], 1, run(1)).unwrap());
    }
    assert!(cholesky(&mut [], 0, run(1)).unwrap());
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let shape = |result: ggquant::Result<()>| assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
    shape(add_gram(&[1.0; 5], None, 2, &mut [0.0; 4], run(1)));
    shape(add_gram(&[1.0; 4], Some(&[1.0; 2]), 2, &mut [0.0; 4], run(1)));
    shape(add_products(&[1.0; 4], 2, &[1.0; 2], 1, &mut [0.0; 3], run(1)));
    shape(add_products(&[1.0; 4], 0, &[1.0; 2], 1, &mut [], run(1)));
    shape(mirror(&mut [0.0; 3], 2));
    shape(cholesky(&mut [0.0; 3], 2, run(1)).map(|_| ()));
    shape(solve(&[1.0], 1, &mut [1.0; 2], run(1)).and(solve(&[1.0; 4], 2, &mut [1.0; 3], run(1))));
    solve(&[], 0, &mut [], run(1)).unwrap();
    add_products(&[], 0, &[1.0; 2], 1, &mut [], run(1)).unwrap();
    add_gram(&[], None, 2, &mut [0.0; 4], run(1)).unwrap();
}
