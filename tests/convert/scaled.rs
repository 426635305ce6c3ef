//! Weights with scales in a tensor of their own, against indexing written out.

use ggquant::convert::{Op, ScaledView, Source, TensorPlan, Tiles, View};
use proptest::prelude::*;

use crate::support::{Folder, f32_bytes, make, tensor, weights, whole};

/// A stored tensor, its tiles, and a view: axes in another order, each cut.
#[derive(Debug, Clone)]
struct Case {
    shape: Vec<u64>,
    tile: Vec<u64>,
    axes: Vec<usize>,
    cuts: Vec<(u64, u64)>,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = prop_oneof![
        prop::collection::vec(1u64..20, 1..4),
        (1u64..4, 1u64..50, 50u64..300).prop_map(|(a, b, c)| vec![a, b, c]),
        (300u64..700, 300u64..700).prop_map(|(a, b)| vec![a, b]),
    ];
    shape.prop_flat_map(|shape| {
        let tile: Vec<_> = shape.iter().map(|&len| prop_oneof![Just(1), 1..=len, Just(len), Just(128)]).collect();
        let axes = Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle();
        let cuts: Vec<_> = shape.iter().map(|&len| (0..len).prop_flat_map(move |a| (Just(a), 1..=len - a))).collect();
        (Just(shape), tile, axes, cuts).prop_map(|(shape, tile, axes, cuts)| Case { shape, tile, axes, cuts })
    })
}

fn product(sizes: &[u64]) -> usize {
    sizes.iter().product::<u64>() as usize
}

impl Case {
    fn view(&self, whole: View) -> View {
        let start = self.cuts.iter().zip(&whole.strides).map(|((first, _), stride)| first * stride).sum();
        let shape = self.axes.iter().map(|&axis| self.cuts[axis].1).collect();
        let strides = self.axes.iter().map(|&axis| whole.strides[axis]).collect();
        View { shape, strides, start, ..whole }
    }

    fn counts(&self) -> Vec<u64> {
        self.shape.iter().zip(&self.tile).map(|(len, tile)| len.div_ceil(*tile)).collect()
    }

    /// The view's values: each stored number times the scale of its tile.
    fn expected(&self, stored: &[i8], scales: &[f32]) -> Vec<f32> {
        let view = self.view(whole("".as_ref(), 0, "I8", &self.shape));
        let counts = self.counts();
        let value = |flat: usize| {
            let (mut rest, mut at) = (flat as u64, view.start);
            for (&len, &stride) in view.shape.iter().zip(&view.strides).rev() {
                at += rest % len * stride;
                rest /= len;
            }
            let (mut place, mut tile, mut step) = (at, 0, 1);
            for axis in (0..self.shape.len()).rev() {
                tile += place % self.shape[axis] / self.tile[axis] * step;
                place /= self.shape[axis];
                step *= counts[axis];
            }
            f32::from(stored[at as usize]) * scales[tile as usize]
        };
        (0..product(&view.shape)).map(value).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_view_and_any_tiles(case in case(), parts in 1usize..3) {
        let folder = Folder::new();
        let stored: Vec<u8> = (0..product(&case.shape)).map(|i| (i * 2_654_435_761 >> 13) as u8).collect();
        let scales = weights(product(&case.counts()), 7);
        let weights = case.view(whole(&folder.source("weights", &stored), 0, "I8", &case.shape));
        let scaled = ScaledView {
            scales: whole(&folder.source("scales", &f32_bytes(&scales)), 0, "F32", &[scales.len() as u64]),
            tiles: Tiles { shape: case.shape.clone(), tile: case.tile.clone() },
            weights,
        };
        let mut expected: Vec<f32> = case.expected(&stored.iter().map(|&b| b as i8).collect::<Vec<_>>(), &scales);
        expected.iter_mut().for_each(|value| *value += 0.5);
        let rows = scaled.weights.shape[..scaled.weights.shape.len() - 1].iter().product::<u64>() * parts as u64;
        let columns = *scaled.weights.shape.last().unwrap();
        let plan = TensorPlan {
            source: Source::Scaled { views: vec![scaled.clone(); parts], ops: vec![Op::Add(0.5)] },
            ..tensor("t", &[rows, columns], "F32", "F32", scaled.weights)
        };
        prop_assert_eq!(make(&folder, plan, 2).unwrap(), f32_bytes(&expected.repeat(parts)));
    }
}

/// One wrong number in a plan, and what the error says.
#[test]
fn what_does_not_fit_is_refused() {
    let folder = Folder::new();
    let weights = whole(&folder.source("weights", &[1; 6 * 8]), 0, "I8", &[6, 8]);
    let scales = whole(&folder.source("scales", &f32_bytes(&[1.0; 6])), 0, "F32", &[6]);
    let refused = |weights: &View, scales: &View, shape: &[u64], tile: &[u64], says: &str| {
        let scaled = ScaledView {
            weights: weights.clone(),
            scales: scales.clone(),
            tiles: Tiles { shape: shape.to_vec(), tile: tile.to_vec() },
        };
        let plan = TensorPlan {
            source: Source::Scaled { views: vec![scaled], ops: vec![] },
            ..tensor("t", &[6, 8], "F32", "F32", weights.clone())
        };
        let error = make(&folder, plan, 1).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&weights, &scales, &[6, 8], &[1, 4], "6 scales do not fit tiles of [1, 4]");
    refused(&weights, &scales, &[6, 8], &[0, 8], "tiles of [0, 8] do not fit");
    refused(&weights, &scales, &[6, 8], &[1], "tiles of [1] do not fit");
    refused(&weights, &scales, &[6, 6], &[1, 6], "reaches beyond the tensor of shape [6, 6]");
    let blocks = whole(&folder.source("blocks", &[0; 34 * 2]), 0, "Q8_0", &[2, 32]);
    refused(&blocks, &scales, &[6, 8], &[1, 8], "have scales of their own");
}
