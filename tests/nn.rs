//! The operations between matrix products against their definitions in float64, and at several numbers of threads.

use ggquant::encode::Run;
use ggquant::nn::{self, Activation, Attention, Gate, Pairing, Rotation};
use proptest::prelude::*;

#[path = "common/noise.rs"]
mod noise;

/// Values as a generator gives them: the same on every machine.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    noise::bits(count, seed).map(|bits| (bits >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}

fn threads(count: usize) -> Run<'static> {
    Run { threads: Some(count), interrupt: None }
}

fn close(ours: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), exact.len());
    for (i, (&a, &b)) in ours.iter().zip(exact).enumerate() {
        assert!((f64::from(a) - b).abs() <= tolerance * (1.0 + b.abs()), "{i}: {a} instead of {b}");
    }
}

/// Attention as its equation reads.
fn attention_by_definition(q: &[f32], k: &[f32], v: &[f32], how: &Attention) -> Vec<f64> {
    let tokens = q.len() / (how.heads * how.key_dim);
    let mut out = Vec::new();
    for t in 0..tokens {
        let base = t / how.sequence * how.sequence;
        for head in 0..how.heads {
            let kv_head = head * how.kv_heads / how.heads;
            let mut scores = Vec::new();
            for s in base..base + how.sequence {
                let seen = (!how.causal || s <= t) && how.window.is_none_or(|window| s + window > t);
                let query = &q[(t * how.heads + head) * how.key_dim..][..how.key_dim];
                let key = &k[(s * how.kv_heads + kv_head) * how.key_dim..][..how.key_dim];
                let dot: f64 = query.iter().zip(key).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                let score = dot * f64::from(how.scale);
                let score = how.soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                scores.push(if seen { score } else { f64::NEG_INFINITY });
            }
            let sink = how.sinks.map_or(f64::NEG_INFINITY, |sinks| f64::from(sinks[head]));
            let largest = scores.iter().copied().fold(sink, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum::<f64>() + (sink - largest).exp();
            for d in 0..how.value_dim {
                let value = |s: usize| f64::from(v[((base + s) * how.kv_heads + kv_head) * how.value_dim + d]);
                out.push(scores.iter().enumerate().map(|(s, x)| (x - largest).exp() / sum * value(s)).sum());
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_is_its_definition(
        sequence in 1_usize..90,
        sequences in 1_usize..3,
        kv_heads in 1_usize..3,
        group in 1_usize..4,
        key_dim in 1_usize..40,
        value_dim in 1_usize..40,
        causal: bool,
        window in proptest::option::of(1_usize..100),
        soft_cap in proptest::option::of(1.0_f32..60.0),
        sinks: bool,
        seed: u64,
    ) {
        let heads = kv_heads * group;
        let tokens = sequence * sequences;
        let sink_values = noise(heads, seed ^ 3);
        let how = Attention {
            sequence, heads, kv_heads, key_dim, value_dim,
            scale: 0.3, causal, window: if causal { window } else { None }, soft_cap,
            sinks: sinks.then_some(&sink_values[..]),
        };
        let q = noise(tokens * heads * key_dim, seed);
        let k = noise(tokens * kv_heads * key_dim, seed ^ 1);
        let v = noise(tokens * kv_heads * value_dim, seed ^ 2);
        let ours = nn::attention(&q, &k, &v, how, threads(1)).unwrap();
        // Scores reach a few hundred, so their float32 sums are good to 1e-5 or so.
        close(&ours, &attention_by_definition(&q, &k, &v, &how), 2e-4);
        for count in [2, 8] {
            prop_assert_eq!(&nn::attention(&q, &k, &v, how, threads(count)).unwrap(), &ours);
        }
    }

    #[test]
    fn norms_are_their_definitions(rows in 1_usize..40, columns in 1_usize..300, bias: bool, seed: u64) {
        let x = noise(rows * columns, seed);
        let weight = noise(columns, seed ^ 1);
        let shift = noise(columns, seed ^ 2);
        let eps = 1e-3;
        let (mut rms, mut layer) = (Vec::new(), Vec::new());
        for row in x.chunks(columns) {
            let n = columns as f64;
            let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            let mean: f64 = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance: f64 = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
            for (i, &v) in row.iter().enumerate() {
                rms.push(f64::from(v) / (squares + f64::from(eps)).sqrt() * f64::from(weight[i]));
                let normal = (f64::from(v) - mean) / (variance + f64::from(eps)).sqrt() * f64::from(weight[i]);
                layer.push(normal + if bias { f64::from(shift[i]) } else { 0.0 });
            }
        }
        close(&nn::rms_norm(&x, &weight, eps, threads(2)).unwrap(), &rms, 1e-5);
        let shift = bias.then_some(&shift[..]);
        close(&nn::layer_norm(&x, &weight, shift, eps, threads(2)).unwrap(), &layer, 1e-5);
    }

    #[test]
    fn rotation_keeps_lengths_and_the_rest_of_the_head(
        tokens in 1_usize..20,
        heads in 1_usize..4,
        pairs in 1_usize..10,
        rest in 0_usize..5,
        halves: bool,
        seed: u64,
    ) {
        let head_dim = 2 * pairs + rest;
        let x = noise(tokens * heads * head_dim, seed);
        let positions = tokens.div_ceil(2);
        let angles: Vec<f64> = noise(positions * pairs, seed ^ 1).iter().map(|&a| f64::from(a)).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        let pairing = if halves { Pairing::Halves } else { Pairing::Neighbours };
        let mut turned = x.clone();
        nn::rotate(&mut turned, heads, head_dim, Rotation { cos: &cos, sin: &sin, pairs, pairing }, threads(2)).unwrap();
        for (number, (before, after)) in x.chunks(head_dim).zip(turned.chunks(head_dim)).enumerate() {
            let position = number / heads % positions;
            for pair in 0..pairs {
                let (i, j) = if halves { (pair, pair + pairs) } else { (2 * pair, 2 * pair + 1) };
                let (a, b) = (f64::from(before[i]), f64::from(before[j]));
                let (s, c) = angles[position * pairs + pair].sin_cos();
                prop_assert!((f64::from(after[i]) - (a * c - b * s)).abs() < 1e-5);
                prop_assert!((f64::from(after[j]) - (a * s + b * c)).abs() < 1e-5);
            }
            prop_assert_eq!(&before[2 * pairs..], &after[2 * pairs..]);
        }
    }
}

#[test]
fn activations_are_their_definitions() {
    let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 2.5e-3).collect();
    let error = |y: f64| libm::erf(y / std::f64::consts::SQRT_2);
    let tanh_of = |y: f64| ((2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y.powi(3))).tanh();
    let definitions: [(Activation, &dyn Fn(f64) -> f64); 4] = [
        (Activation::Silu, &|y| y / (1.0 + (-y).exp())),
        (Activation::Gelu, &|y| 0.5 * y * (1.0 + error(y))),
        (Activation::GeluTanh, &|y| 0.5 * y * (1.0 + tanh_of(y))),
        (Activation::Relu, &|y| y.max(0.0)),
    ];
    let up = noise(x.len(), 7);
    for (activation, definition) in definitions {
        let exact: Vec<f64> = x.iter().map(|&v| definition(f64::from(v))).collect();
        let mut ours = x.clone();
        nn::activate(&mut ours, activation, threads(2)).unwrap();
        close(&ours, &exact, 1e-6);
        let mut gated = x.clone();
        nn::gate(&mut gated, &up, Gate::Product(activation), threads(2)).unwrap();
        let products: Vec<f64> = exact.iter().zip(&up).map(|(a, &b)| a * f64::from(b)).collect();
        close(&gated, &products, 1e-6);
    }
    let mut clamped = x.clone();
    let wide: Vec<f32> = up.iter().map(|v| v * 5.0).collect();
    nn::gate(&mut clamped, &wide, Gate::Clamped { alpha: 1.702, limit: 7.0 }, threads(2)).unwrap();
    let exact: Vec<f64> = x
        .iter()
        .zip(&wide)
        .map(|(&g, &u)| {
            let (g, u) = (f64::from(g).min(7.0), f64::from(u).clamp(-7.0, 7.0));
            g / (1.0 + (-1.702 * g).exp()) * (u + 1.0)
        })
        .collect();
    close(&clamped, &exact, 1e-5);
    let mut capped = x.clone();
    nn::soft_cap(&mut capped, 3.0, threads(2)).unwrap();
    close(&capped, &x.iter().map(|&v| 3.0 * (f64::from(v) / 3.0).tanh()).collect::<Vec<_>>(), 1e-6);
}

#[test]
fn sums_of_columns_and_losses() {
    let (rows, columns) = (700, 37);
    let x = noise(rows * columns, 1);
    let sums = nn::column_squares(&x, columns, threads(1)).unwrap();
    for (column, &sum) in sums.iter().enumerate() {
        let exact: f64 = x.chunks(columns).map(|row| f64::from(row[column]).powi(2)).sum();
        assert!((sum / exact - 1.0).abs() < 1e-5);
    }
    assert_eq!(nn::column_squares(&x, columns, threads(8)).unwrap(), sums);
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 7 % columns as u32).collect();
    let losses = nn::negative_log_likelihood(&x, columns, &targets, threads(3)).unwrap();
    for ((row, &target), loss) in x.chunks(columns).zip(&targets).zip(losses) {
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        assert!((loss - (sum.ln() - f64::from(row[target as usize]))).abs() < 1e-5);
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = [0.0_f32; 12];
    assert!(nn::rms_norm(&x, &[1.0; 5], 1e-5, Run::default()).is_err());
    assert!(nn::rms_norm(&x, &[], 1e-5, Run::default()).is_err());
    assert!(nn::layer_norm(&x, &[1.0; 4], Some(&[0.0; 3]), 1e-5, Run::default()).is_err());
    assert!(nn::column_squares(&x, 0, Run::default()).is_err());
    assert!(nn::negative_log_likelihood(&x, 4, &[0, 1, 4], Run::default()).is_err());
    assert!(nn::gate(&mut [0.0; 3], &x, Gate::Product(Activation::Silu), Run::default()).is_err());
    let rotation = Rotation { cos: &x, sin: &x, pairs: 3, pairing: Pairing::Halves };
    assert!(nn::rotate(&mut [0.0; 12], 3, 4, rotation, Run::default()).is_err());
    let how = Attention {
        sequence: 2,
        heads: 3,
        kv_heads: 2,
        key_dim: 2,
        value_dim: 2,
        scale: 1.0,
        causal: true,
        window: None,
        soft_cap: None,
        sinks: None,
    };
    assert!(nn::attention(&x, &x, &x, how, Run::default()).is_err());
    assert!(nn::attention(&x, &x[..8], &x, Attention { heads: 2, ..how }, Run::default()).is_err());
    assert!(nn::attention(&x, &x, &x, Attention { sequence: usize::MAX, ..how }, Run::default()).is_err());
}
