//! A super-block without its signs, as the searches take it.

use crate::kernel::grid::candidates::{WEIGHTS, Weights, octets};
use crate::lanes::{F32Lanes, I32Lanes, MAX_LANES, Mask};
use crate::reference::codebook::Signs;

/// Weights above this, and importances above [`HUGE_IMPORTANCE`], might make sums or distances overflow.
const HUGE: f32 = 1e9;
/// See [`HUGE`].
const HUGE_IMPORTANCE: f32 = 1e25;

/// Magnitudes, importances and signs of a super-block.
pub(crate) struct Magnitudes {
    /// Magnitudes; one of each octet may be negative if signs must be even.
    pub(crate) x: Weights,
    /// Importances.
    pub(crate) weight: Weights,
    /// Their square roots.
    pub(crate) root: Weights,
    /// Importance times magnitude.
    pub(crate) product: Weights,
    /// Signs of each octet, a set bit for minus.
    pub(crate) signs: [u8; 32],
    /// Largest value of each octet.
    pub(crate) largest: [f32; 32],
}

impl Magnitudes {
    /// All zeros.
    pub(crate) fn new() -> Self {
        Self {
            x: [0.0; WEIGHTS],
            weight: [0.0; WEIGHTS],
            root: [0.0; WEIGHTS],
            product: [0.0; WEIGHTS],
            signs: [0; 32],
            largest: [0.0; 32],
        }
    }

    /// Takes a super-block apart. False if weights or importances are so large that distances might overflow.
    #[inline(always)]
    pub(crate) fn fill<F: F32Lanes>(
        &mut self,
        x: &[f32; 256],
        imatrix: Option<&[f32; 256]>,
        sigma2: f32,
        plain: f32,
        allowed: Signs,
    ) -> bool {
        let zero = F::splat(0.0);
        let mut moderate = zero.eq(zero);
        for i in (0..256).step_by(F::LEN) {
            let v = F::load(&x[i..]);
            let weight = match imatrix {
                Some(imatrix) => F::load(&imatrix[i..]) * (F::splat(sigma2) + v * v).sqrt(),
                None => F::splat(plain) + v * v,
            };
            let minus = v.lt(zero);
            let magnitude = F::select(minus, v.neg(), v);
            moderate = moderate & magnitude.lt(F::splat(HUGE)) & weight.lt(F::splat(HUGE_IMPORTANCE));
            magnitude.store(&mut self.x[i..]);
            weight.store(&mut self.weight[i..]);
            weight.sqrt().store(&mut self.root[i..]);
            for octet in 0..F::LEN / 8 {
                self.signs[i / 8 + octet] = (minus.bits() >> (8 * octet)) as u8;
            }
        }
        for first in (0..32).step_by(F::LEN) {
            let mut columns: [F; 8] = octets(&self.x, first);
            if allowed == Signs::Even {
                let cheapest = cheapest(&columns, &octets(&self.weight, first));
                let mut chosen = [0; MAX_LANES];
                cheapest.store(&mut chosen);
                let mut odd = [0; MAX_LANES];
                for lane in 0..F::LEN {
                    let signs = &mut self.signs[first + lane];
                    let is_odd = signs.count_ones() & 1;
                    *signs ^= (is_odd << chosen[lane]) as u8;
                    let at = 8 * (first + lane) + chosen[lane] as usize;
                    self.x[at] = f32::from_bits(self.x[at].to_bits() ^ is_odd << 31);
                    odd[lane] = (is_odd << 31) as i32;
                }
                let odd = F::Int::load(&odd);
                for i in 0..8 {
                    let here = F::Int::select(cheapest.eq(F::Int::splat(i as i32)), odd, F::Int::splat(0));
                    columns[i] = (columns[i].as_int() ^ here).as_float();
                }
            }
            let mut largest = columns[0];
            for i in 1..8 {
                largest = largest.greater(columns[i]);
            }
            largest.store(&mut self.largest[first..]);
        }
        for i in (0..256).step_by(F::LEN) {
            (F::load(&self.weight[i..]) * F::load(&self.x[i..])).store(&mut self.product[i..]);
        }
        !(!moderate).any()
    }
}

/// The coordinate of each octet whose importance times square is least, the first one on ties.
#[inline(always)]
fn cheapest<F: F32Lanes>(x: &[F; 8], weight: &[F; 8]) -> F::Int {
    let mut least = weight[0] * x[0] * x[0];
    let mut at = F::Int::splat(0);
    for i in 1..8 {
        let cost = weight[i] * x[i] * x[i];
        let less = cost.lt(least);
        least = F::select(less, cost, least);
        at = F::Int::select(less, F::Int::splat(i as i32), at);
    }
    at
}
