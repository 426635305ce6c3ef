//! Intervals of real numbers: what a stored number may have been before it was rounded, and what follows for scales.

use half::{bf16, f16};

use super::Stored;

/// More halves than this are not tried in one interval. Where there are more, weights are so far from zero, compared with
/// their distances, that their rounding hides the codes.
const MOST_HALVES: u16 = 64;

/// All numbers from `low` to `high`; none if they are the wrong way round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    pub(super) const ALL: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };

    /// The values before rounding to `f32`, and then to the stored type, that may have become `x`.
    pub(super) fn around(x: f32, stored: Stored) -> Self {
        let size = x.abs();
        let wide = |up: Option<f32>, down: f32| {
            let (size, down) = (f64::from(size), f64::from(down));
            let up = up.map_or(2.0 * size - down, f64::from);
            // A sum of products is itself rounded to f32 before it is rounded to anything else.
            let slack = size / f64::from(1 << 23);
            ((size + down) / 2.0 - slack, (size + up) / 2.0 + slack)
        };
        let (low, high) = match stored {
            Stored::F32 => {
                let bits = size.to_bits();
                let up = Some(f32::from_bits(bits + 1)).filter(|up| up.is_finite());
                wide(up, if bits == 0 { -f32::from_bits(1) } else { f32::from_bits(bits - 1) })
            }
            Stored::F16 => {
                let bits = f16::from_f32(size).to_bits();
                let up = Some(f16::from_bits(bits + 1)).filter(|up| up.is_finite());
                let down = if bits == 0 { -f16::from_bits(1) } else { f16::from_bits(bits - 1) };
                wide(up.map(f16::to_f32), down.to_f32())
            }
            Stored::BF16 => {
                let bits = bf16::from_f32(size).to_bits();
                let up = Some(bf16::from_bits(bits + 1)).filter(|up| up.is_finite());
                let down = if bits == 0 { -bf16::from_bits(1) } else { bf16::from_bits(bits - 1) };
                wide(up.map(bf16::to_f32), down.to_f32())
            }
        };
        if x < 0.0 { Self { low: -high, high: -low } } else { Self { low, high } }
    }

    /// The numbers in both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { low: self.low.max(other.low), high: self.high.min(other.high) }
    }

    /// Whether there are any.
    pub(super) fn is_some(self) -> bool {
        self.low <= self.high
    }

    pub(super) fn contains(self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }

    /// Half of its width.
    pub(super) fn radius(self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// How far it reaches from a number in it, at most. Around powers of two it reaches further up than down.
    pub(super) fn reach(self, from: f32) -> f64 {
        (self.high - f64::from(from)).max(f64::from(from) - self.low)
    }

    /// Quotients by a number that is not zero.
    pub(super) fn over(self, divisor: f64) -> Self {
        let (a, b) = (self.low / divisor, self.high / divisor);
        if divisor < 0.0 { Self { low: b, high: a } } else { Self { low: a, high: b } }
    }

    /// A little more at both ends, for what `f64` has rounded.
    pub(super) fn widened(self) -> Self {
        const ROUNDING: f64 = 1e-12;
        Self { low: self.low - ROUNDING * self.low.abs(), high: self.high + ROUNDING * self.high.abs() }
    }

    /// The whole numbers in it, from the largest down, within `low..=high`.
    pub(super) fn whole(self, low: i16, high: i16) -> impl Iterator<Item = i16> + use<> {
        let first = self.low.ceil().max(f64::from(low));
        let last = self.high.floor().min(f64::from(high));
        let range = if first <= last { first as i16..last as i16 + 1 } else { 0..0 };
        range.rev()
    }

    /// The halves in it that are not zero, at most [`MOST_HALVES`]; it is on one side of zero.
    pub(super) fn halves(self) -> impl Iterator<Item = f16> + use<> {
        let is_negative = self.high <= 0.0;
        let (low, high) = if is_negative { (-self.high, -self.low) } else { (self.low.max(0.0), self.high) };
        let nearest = f16::from_f64(low).to_bits().max(1);
        // Bits of one sign are in the order of magnitudes.
        let first = if f16::from_bits(nearest).to_f64() < low { nearest + 1 } else { nearest };
        (first..first.saturating_add(MOST_HALVES))
            .map(f16::from_bits)
            .take_while(move |half| half.is_finite() && half.to_f64() <= high)
            .map(move |half| if is_negative { -half } else { half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_to_what_they_are_around() {
        for stored in [Stored::F32, Stored::F16, Stored::BF16] {
            for x in [1.0_f32, -1.0, 1.5, 0.0, 65504.0, -0.0078125] {
                let x = stored.round(x);
                let around = Interval::around(x, stored);
                assert!(around.contains(f64::from(x)));
                // The slack is about a step of f32: nothing to a type of 11 bits or fewer, and beyond the middle to f32.
                let off = if stored == Stored::F32 { 2.0 * x.abs() / (1 << 23) as f32 } else { 0.0 };
                for end in [around.low, around.high] {
                    let inside = (end * 0.998 + f64::from(x) * 0.002) as f32;
                    assert!((stored.round(inside) - x).abs() <= off, "{stored:?} {x}");
                }
            }
        }
    }

    #[test]
    fn halves_of_an_interval() {
        let all = |low, high| Interval { low, high }.halves().map(f16::to_f64).collect::<Vec<_>>();
        assert_eq!(all(1.0, 1.0 + 2.0 / 1024.0), [1.0, 1.0 + 1.0 / 1024.0, 1.0 + 2.0 / 1024.0]);
        assert_eq!(all(-1.0, -1.0 + 1.0 / 2048.0), [-1.0 + 1.0 / 2048.0, -1.0]);
        assert_eq!(all(1.0001, 1.0002), [0.0; 0]);
        assert_eq!(all(70000.0, 80000.0), [0.0; 0]);
    }

    #[test]
    fn whole_numbers_of_an_interval() {
        let all = |low, high| Interval { low, high }.whole(-3, 4).collect::<Vec<_>>();
        assert_eq!(all(-0.5, 2.0), [2, 1, 0]);
        assert_eq!(all(-99.0, -2.5), [-3]);
        assert_eq!(all(0.1, 0.9), [0_i16; 0]);
        assert_eq!(all(f64::NEG_INFINITY, f64::INFINITY).len(), 8);
    }
}
