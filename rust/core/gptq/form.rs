//! How the solver sees a format: levels, times the scale of their sub-block, less its minimum.
//!
//! A weight is worth `scale * level - min`. Scales (and minima) are either numbers of their own, as in Q4_0, or small integers
//! times one `f16` for the whole block, as in the k-quants.

use super::dense::Dense;
use super::factor::{GROUP, WINDOW};
use crate::block::Format;
use crate::reference::rounding::to_half;

/// Sub-blocks of a window, at most: groups of 16 weights.
pub(crate) const MAX_SUBS: usize = WINDOW / 16;

/// The quadratic form of the errors of a group.
pub(crate) type Quad = [[f32; GROUP]; GROUP];

/// How the factors of sub-blocks (scales, or minima) are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Factors {
    /// There are none: they are zero.
    Absent,
    /// One `f16` for each sub-block.
    Own,
    /// `unit * d * n` with an integer `n` for each sub-block, from `low` to `high` in steps of `step`.
    Shared {
        /// Least integer.
        low: i16,
        /// Greatest integer.
        high: i16,
        /// Distance between neighbours.
        step: i16,
        /// Constant factor: a power of two.
        unit: f32,
    },
}

/// One kind of factor of all sub-blocks of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stored {
    /// The factor of each sub-block where they are [`Factors::Own`]; where they are shared, the first is what all share.
    pub(crate) d: [f32; MAX_SUBS],
    /// The integers, where they are shared.
    pub(crate) n: [i16; MAX_SUBS],
}

impl Stored {
    pub(crate) const ZERO: Self = Self { d: [0.0; MAX_SUBS], n: [0; MAX_SUBS] };

    /// The factor of sub-block `j`.
    #[inline(always)]
    pub(crate) fn value(&self, factors: Factors, j: usize) -> f32 {
        match factors {
            Factors::Absent => 0.0,
            Factors::Own => self.d[j],
            Factors::Shared { unit, .. } => unit * self.d[0] * f32::from(self.n[j]),
        }
    }
}

/// A window as a format stores it, weights in the order of columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parts {
    /// Level of each weight.
    pub(crate) levels: [f32; WINDOW],
    /// Scales.
    pub(crate) scales: Stored,
    /// Minima, taken off.
    pub(crate) mins: Stored,
}

impl Parts {
    pub(crate) const ZERO: Self = Self { levels: [0.0; WINDOW], scales: Stored::ZERO, mins: Stored::ZERO };
}

/// A format that the solver can choose codes for.
pub(crate) trait Form {
    /// The format.
    const FORMAT: Format;
    /// Weights that share a scale.
    const SUB: usize;
    /// Whether levels are chosen [`GROUP`] at a time.
    const JOINT: bool = false;
    /// How scales are stored.
    const SCALES: Factors;
    /// How minima are stored.
    const MINS: Factors;

    /// The level nearest to `y`, which is finite.
    fn nearest(y: f32) -> f32;

    /// The levels of a group that come close to `y` by `quad`. Only where levels are [joint](Self::JOINT).
    fn choose(_dense: &Dense, y: &[f32; GROUP], _quad: &Quad) -> [f32; GROUP] {
        y.map(Self::nearest)
    }

    /// Takes block number `block` of a window apart.
    fn read(bytes: &[u8], block: usize, parts: &mut Parts);

    /// Puts it together.
    fn write(parts: &Parts, block: usize, bytes: &mut [u8]);
}

/// The nearest whole number from `low` to `high`, ties to even.
#[inline(always)]
pub(crate) fn nearest_whole(y: f32, low: f32, high: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    (y.clamp(low, high) + ROUNDER) - ROUNDER
}

/// Rounds to a half that is not infinite, and so does not spoil the block.
#[inline(always)]
pub(crate) fn half(x: f32) -> f32 {
    to_half(x.clamp(-65504.0, 65504.0)).to_f32()
}
