//! Formats with minima: `x = d * n * code - dmin * m`, `n` and `m` being integers for each sub-block.
//!
//! The range of a sub-block is a whole number of steps, which leaves few steps, and all weights must be whole steps apart, up
//! to what rounding may have moved them. For each such reading every pair of weights bounds the step `d * n`, and for a given
//! step every weight bounds the minimum `dmin * m`, once it is guessed which code the smallest weight has. With one sub-block's
//! integer guessed, `d` is one of a few halves, and the other steps must be multiples of it; then the same for `dmin`.

use super::interval::Interval;
use super::{Stored, write_if_same};
use crate::gptq::form::{Factors, Form, Parts};

/// Pairs of common scales tried in a block before it counts as off the grid.
const MOST_TRIES: usize = 1 << 15;

/// Codes of a format with the most.
const CODES: usize = 32;

/// One way to see the weights of a sub-block: how many steps each is above the smallest.
struct Reading {
    codes: [u8; CODES],
    /// The largest of them.
    span: usize,
    /// Where the step lies.
    step: Interval,
    /// What the weights of each code may have been before they were rounded; nothing is known of codes without weights.
    weights: [Interval; CODES],
}

impl Reading {
    /// Where the minimum lies if the smallest weight has code 0.
    fn minimum(&self, step: f64) -> Interval {
        let mut minimum = Interval::ALL;
        for (code, weights) in self.weights[..=self.span].iter().enumerate() {
            let top = step * code as f64;
            minimum = minimum.and(Interval { low: top - weights.high, high: top - weights.low });
        }
        minimum.widened()
    }
}

/// What is known of a sub-block.
enum Sub {
    /// Its weights are all alike, and this.
    Constant(Interval),
    /// The ways to read it.
    Read(Vec<Reading>),
}

/// A sub-block with its step fixed: a reading, its integer, and where the minimum lies if the smallest weight has code 0.
struct Choice<'a> {
    reading: &'a Reading,
    n: i16,
    step: f64,
    minimum: Interval,
}

impl Choice<'_> {
    /// Where the minimum lies for each code that the smallest weight may have.
    fn minima(&self, top: usize) -> impl Iterator<Item = (usize, Interval)> {
        (0..=top - self.reading.span).map(|first| {
            let up = self.step * first as f64;
            (first, Interval { low: self.minimum.low + up, high: self.minimum.high + up }.widened())
        })
    }
}

/// Sizes of a format.
#[derive(Clone, Copy)]
struct Sizes {
    /// Weights of a sub-block.
    len: usize,
    /// Largest code.
    top: usize,
    /// Largest integer.
    most: i16,
}

pub(super) fn encode<F: Form>(x: &[f32], stored: Stored, out: &mut [u8]) -> bool {
    let Factors::Shared { high: most, .. } = F::SCALES else { return false };
    let sizes = Sizes { len: F::SUB, top: F::nearest(1e9) as usize, most };
    let mut subs = Vec::with_capacity(x.len() / F::SUB);
    for x in x.chunks(F::SUB) {
        let Some(sub) = read(x, sizes.top, stored) else { return false };
        subs.push(sub);
    }
    let mut search =
        Search { sizes, subs: &subs, tries: 0, take: &mut |parts| write_if_same::<F>(parts, x, stored, out) };
    search.run()
}

struct Search<'a> {
    sizes: Sizes,
    subs: &'a [Sub],
    tries: usize,
    /// Writes the block and says whether it is right.
    take: &'a mut dyn FnMut(&Parts) -> bool,
}

impl<'a> Search<'a> {
    fn run(&mut self) -> bool {
        let readings = self.subs.iter().filter_map(|sub| match sub {
            Sub::Read(readings) => Some(readings),
            Sub::Constant(_) => None,
        });
        let few = |readings: &&'a Vec<Reading>| {
            let step = readings.first().map_or(Interval::ALL, |reading| reading.step);
            (readings.len(), (1e6 * step.radius() / step.high) as u64)
        };
        let Some(first) = readings.min_by_key(few) else {
            return self.with_step(0.0, &[]);
        };
        for reading in first {
            // Encoders give the largest step the largest integer, so large ones come first.
            for n in (1..=self.sizes.most).rev() {
                for d in reading.step.over(f64::from(n)).halves() {
                    self.tries += 1;
                    if self.tries > MOST_TRIES {
                        return false;
                    }
                    if let Some(choices) = self.choices(d.to_f64())
                        && self.with_step(d.to_f64(), &choices)
                    {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// The choices that each sub-block has with this common scale, but for constant ones; `None` if one has none.
    fn choices(&self, d: f64) -> Option<Vec<Vec<Choice<'a>>>> {
        let mut all = Vec::new();
        for sub in self.subs {
            let Sub::Read(readings) = sub else {
                all.push(Vec::new());
                continue;
            };
            let mut own = Vec::new();
            for reading in readings {
                for n in reading.step.over(d).widened().whole(1, self.sizes.most) {
                    let step = d * f64::from(n);
                    let minimum = reading.minimum(step);
                    if minimum.is_some() {
                        own.push(Choice { reading, n, step, minimum });
                    }
                }
            }
            if own.is_empty() {
                return None;
            }
            all.push(own);
        }
        Some(all)
    }

    /// Looks for the common scale of the minima. Without choices, all sub-blocks are constant.
    fn with_step(&mut self, d: f64, choices: &[Vec<Choice<'a>>]) -> bool {
        if self.with_minimum(d, 0.0, choices) {
            return true;
        }
        // The sub-block with the fewest possible minima, none of them zero.
        let top = self.sizes.top;
        let candidates = self.subs.iter().enumerate().filter_map(|(number, sub)| {
            let minima: Vec<Interval> = match sub {
                Sub::Constant(value) if choices.is_empty() => vec![Interval { low: -value.high, high: -value.low }],
                Sub::Constant(_) => return None,
                Sub::Read(_) => choices[number].iter().flat_map(|choice| choice.minima(top)).map(|(_, m)| m).collect(),
            };
            (!minima.iter().any(|minimum| minimum.contains(0.0))).then_some(minima)
        });
        let Some(minima) = candidates.min_by_key(Vec::len) else { return false };
        for minimum in minima.into_iter().filter(|minimum| minimum.low > 0.0) {
            for m in (1..=self.sizes.most).rev() {
                for dmin in minimum.over(f64::from(m)).halves() {
                    self.tries += 1;
                    if self.tries > MOST_TRIES {
                        return false;
                    }
                    if self.with_minimum(d, dmin.to_f64(), choices) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Fills in everything for two common scales, and has it checked.
    fn with_minimum(&mut self, d: f64, dmin: f64, choices: &[Vec<Choice<'a>>]) -> bool {
        let Sizes { len, top, most } = self.sizes;
        let mut parts = Parts::ZERO;
        (parts.scales.d[0], parts.mins.d[0]) = (d as f32, dmin as f32);
        let whole = |minimum: Interval| match dmin {
            0.0 => minimum.contains(0.0).then_some(0),
            _ => minimum.over(dmin).widened().whole(0, most).next(),
        };
        for (number, sub) in self.subs.iter().enumerate() {
            let levels = &mut parts.levels[number * len..][..len];
            match sub {
                Sub::Read(_) => {
                    let found = choices[number].iter().find_map(|choice| {
                        choice.minima(top).find_map(|(first, minimum)| Some((choice, first, whole(minimum)?)))
                    });
                    let Some((choice, first, m)) = found else { return false };
                    (parts.scales.n[number], parts.mins.n[number]) = (choice.n, m);
                    for (level, &code) in levels.iter_mut().zip(&choice.reading.codes) {
                        *level = (usize::from(code) + first) as f32;
                    }
                }
                Sub::Constant(value) => {
                    let Some((n, m, code)) = constant(*value, d, dmin, top, most) else { return false };
                    (parts.scales.n[number], parts.mins.n[number]) = (n, m);
                    levels.fill(f32::from(code));
                }
            }
        }
        (self.take)(&parts)
    }
}

/// Integers and a code that give a constant.
fn constant(value: Interval, d: f64, dmin: f64, top: usize, most: i16) -> Option<(i16, i16, i16)> {
    (0..=if dmin == 0.0 { 0 } else { most }).find_map(|m| {
        let left = Interval { low: value.low + dmin * f64::from(m), high: value.high + dmin * f64::from(m) }.widened();
        if left.contains(0.0) {
            return Some((0, m, 0));
        }
        if d == 0.0 {
            return None;
        }
        // A product of an integer and a code.
        (1..=top as i16).find_map(|code| {
            let n = left.over(d * f64::from(code)).whole(1, most).next()?;
            Some((n, m, code))
        })
    })
}

/// All readings of a sub-block; `None` if there are none.
fn read(x: &[f32], top: usize, stored: Stored) -> Option<Sub> {
    let (low, high) = x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    if low == high {
        return Some(Sub::Constant(Interval::around(low, stored)));
    }
    let mut around = [Interval::ALL; CODES];
    for (around, &x) in around.iter_mut().zip(x) {
        *around = Interval::around(x, stored);
    }
    let ends = (Interval::around(low, stored).reach(low), Interval::around(high, stored).reach(high));
    let (low, range) = (f64::from(low), f64::from(high) - f64::from(low));
    let readings: Vec<Reading> = (1..=top)
        .rev()
        .filter_map(|span| {
            let step = range / span as f64;
            let mut found = Reading { codes: [0; CODES], span, step: Interval::ALL, weights: [Interval::ALL; CODES] };
            for ((&x, around), code) in x.iter().zip(around).zip(&mut found.codes) {
                let above = f64::from(x) - low;
                let nearest = (above / step).round();
                // The step itself is off by what the ends of the range are off.
                let off = around.reach(x) + ends.0 + (ends.0 + ends.1) * nearest / span as f64;
                if (above - nearest * step).abs() > off {
                    return None;
                }
                *code = nearest as u8;
                found.weights[usize::from(*code)] = found.weights[usize::from(*code)].and(around);
            }
            for upper in 1..=span {
                for lower in 0..upper {
                    let (a, b) = (found.weights[lower], found.weights[upper]);
                    let apart = Interval { low: b.low - a.high, high: b.high - a.low };
                    found.step = found.step.and(apart.over((upper - lower) as f64));
                }
            }
            found.step = found.step.widened();
            (found.step.is_some() && found.step.high > 0.0).then_some(found)
        })
        .collect();
    (!readings.is_empty()).then_some(Sub::Read(readings))
}
