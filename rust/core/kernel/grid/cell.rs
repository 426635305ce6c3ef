//! Points that a vector cannot be nearest to, since it lies in the cell that it was rounded to.
//!
//! Let `y = x / s`, a vector in units of the scale, be rounded to levels worth `m`. If it is not on the edge of its cell, each
//! `y` is at most 1 away from its `m`, or beyond the lowest or highest level. A point `a` *dominates* a point `b` if each of its
//! coordinates is `m`, or lies between `m` and the coordinate of `b`. Then `|a - y| <= |b - y|` for each coordinate, whatever the
//! importances, and `b` need not be looked at: lists of neighbours become half as long and shorter.
//!
//! This holds for rounded arithmetic, too. `s * q - x` rounds twice, and both roundings keep order. If `y` is on the side of `m`
//! that `b` is not on, `s * a` lies between `x` and `s * b`, and so do what they are rounded to. Otherwise `a < b`, say, where
//! `b >= m + 2`, and `2 * x <= (2 * m + 2 - e) * s`, `e` being how far inside its cell `y` is. Rounding moves the products by less than
//! `2^-19 * s` in all, so that the differences keep their order if `e` is more. Squares, products with an importance that is not
//! negative, and sums keep order as well, so that the reference's distance to `a` is at most that to `b`. Of equal distances it
//! takes the first one, and `a`, which is nearer to `m`, comes before `b` in the list. A point that dominates may itself be
//! dominated, but not in circles: one that is not is left.

use crate::lanes::F32Lanes;

/// How near to an edge a vector is on it, in halves of a unit. Quotients, products and scales are off by less than 2^-19.
const EDGE: f32 = 1.0 / 16_384.0;

/// How far coordinates are from the middles of their cells. They come as levels before rounding, limited to those there are: what
/// lies beyond the lowest or the highest one is nowhere near an edge.
#[inline(always)]
pub(crate) fn from_middle<F: F32Lanes>(limited: F, level: F) -> F {
    (limited - level).abs()
}

/// Lanes that are not on an edge, for the largest distance of their coordinates from the middle.
#[inline(always)]
pub(crate) fn is_inside<F: F32Lanes>(from_middle: F) -> F::Mask {
    from_middle.lt(F::splat(0.5 - EDGE))
}

/// The points of a list that no other one dominates, for vectors rounded to `levels`.
pub(super) fn undominated<const N: usize>(levels: &[u8; N], list: &[[u8; N]]) -> Vec<[u8; N]> {
    let dominates = |a: &[u8; N], b: &[u8; N]| {
        a != b
            && (0..N)
                .all(|i| a[i] == levels[i] || (levels[i] < a[i] && a[i] <= b[i]) || (b[i] <= a[i] && a[i] < levels[i]))
    };
    list.iter().filter(|point| !list.iter().any(|other| dominates(other, point))).copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::grid::nearest::tests::{nearest_spelled_out, spelled_out};
    use crate::kernel::grid::{self, Neighbours, Spot};
    use crate::lanes::Mask;
    use crate::lanes::portable::Floats;
    use crate::reference::rounding::nearest_int;

    /// Whether a vector is inside its cell, and if so, whether both of its lists are equally good.
    fn check<const N: usize>(neighbours: &Neighbours<N>, top: i32, halves: &[f32], scale: f32, root: &[f32]) -> bool {
        let x: [f32; N] = std::array::from_fn(|i| 2.0 * halves[i] * scale);
        let root: [f32; N] = std::array::from_fn(|i| root[i]);
        let inverse = 1.0 / scale;
        let level = |v: f32| nearest_int(0.5 * (inverse * v - 1.0)).clamp(0, top) as usize;
        let key = x.iter().rev().fold(0, |key, &v| key * if N == 8 { 3 } else { 8 } + level(v));
        let inside = x.iter().all(|&v| {
            let limited = Floats::<8>::splat((inverse * (0.5 * v) - 0.5).clamp(0.0, top as f32));
            is_inside(from_middle(limited, Floats::splat(level(v) as f32))).bits() & 1 == 1
        });
        if let (Spot::Near(all), Spot::Near(few)) = (neighbours.spot(key, false), neighbours.spot(key, true)) {
            let best = |list: grid::List<'_>| {
                list.words.as_flattened()[nearest_spelled_out(&spelled_out(list, &x, &root, scale))]
            };
            assert!(few.count <= all.count);
            assert!(!inside || best(all) == best(few), "{key} {halves:?} {root:?}");
        }
        inside
    }

    proptest! {
        /// Vectors near edges and in the middle of cells, with importances among which there are zeros.
        #[test]
        fn inside_a_cell_both_lists_have_the_nearest(
            halves in prop::collection::vec((0u8..9, -40i8..40, 0u8..4), 8),
            root in prop::collection::vec(prop_oneof![Just(0f32), Just(1.0), 0f32..1.0], 8),
            scale in 0.5f32..1.0,
        ) {
            let near = |(whole, by, kind): (u8, i8, u8)| {
                let step = [1.0 / 80.0, 1.0 / 80.0, 1e-5, 1e-7][usize::from(kind)];
                (f32::from(whole) + f32::from(by) * step).max(-0.05)
            };
            let wide: Vec<f32> = halves.iter().map(|&v| near(v)).collect();
            let narrow: Vec<f32> = halves.iter().map(|&(whole, by, kind)| near((whole % 4, by, kind))).collect();
            check(&grid::IQ3_XXS, 7, &wide, scale, &root);
            check(&grid::IQ3_S, 7, &wide, scale, &root);
            check(&grid::IQ2_XXS, 2, &narrow, scale, &root);
            check(&grid::IQ2_XS, 2, &narrow, scale, &root);
            check(&grid::IQ2_S, 2, &narrow, scale, &root);
        }
    }

    #[test]
    fn edges() {
        let root = [1.0; 8];
        let inside = |halves: f32| check(&grid::IQ3_XXS, 7, &[halves; 4], 1.0, &root);
        assert!([-3.0, 0.0, 0.4, 0.9, 1.5, 6.999, 7.6].map(inside) == [true; 7]);
        assert!([1.0, 0.99999, 2.00001, 7.0].map(inside) == [false; 4]);
    }
}
