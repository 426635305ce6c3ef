//! Formats without minima: `x = d * n * level`, `n` being an integer for each sub-block (always 1 where a block has but
//! its own scale), and levels whole numbers or entries of a table.
//!
//! The largest weight of a sub-block has one of the levels; each gives a scale, and the other weights must be levels at this
//! scale, up to what rounding may have moved them. That leaves few readings, mostly one. Every weight then says between which
//! numbers the scale lies. With one sub-block's integer guessed, `d` is one of a few halves; for it, all other scales must
//! be whole multiples of it.

use super::interval::Interval;
use super::{Stored, write_if_same};
use crate::gptq::form::{Factors, Form, Parts};

/// Common scales tried in a block before it counts as off the grid.
const MOST_TRIES: usize = 1 << 13;

/// One way to see the weights of a sub-block: their levels, and where the scale lies.
struct Reading {
    levels: [f32; 32],
    scale: Interval,
    /// The largest weight has a negative level.
    ends_low: bool,
}

/// What is known of a sub-block; weights that are all zero have no readings and need none.
struct Sub {
    readings: Vec<Reading>,
}

pub(super) fn encode<F: Form>(x: &[f32], stored: Stored, out: &mut [u8]) -> bool {
    let levels: Vec<f32> = (-128..=127).map(|y| y as f32).filter(|&y| F::nearest(y) == y && y != 0.0).collect();
    let (low, high) = match F::SCALES {
        Factors::Shared { low, high, .. } => (low, high),
        Factors::Own | Factors::Absent => (1, 1),
    };
    let mut subs = Vec::with_capacity(x.len() / F::SUB);
    for x in x.chunks(F::SUB) {
        let Some(sub) = read::<F>(x, stored, &levels) else { return false };
        subs.push(sub);
    }
    let few = |sub: &&Sub| (sub.readings.len(), sub.readings.first().map_or(0, |r| (1e6 * relative(r.scale)) as u64));
    let Some(first) = subs.iter().filter(|sub| !sub.readings.is_empty()).min_by_key(few) else {
        return write_if_same::<F>(&Parts::ZERO, x, stored, out);
    };
    // Encoders give the largest scale the largest integer, so large ones come first.
    let mut integers: Vec<i16> = (low..=high).filter(|&n| n != 0).collect();
    integers.sort_by_key(|n| -n.abs());
    let mut tries = 0;
    for reading in &first.readings {
        for &n in &integers {
            for d in reading.scale.over(f64::from(n)).halves() {
                tries += 1;
                if tries > MOST_TRIES {
                    return false;
                }
                // Factors may all have the other sign; codes are more likely those that an encoder chose.
                let filled = [d, -d].map(|d| fill(&subs, F::SUB, d.to_f32(), (low, high)));
                let likely = filled.into_iter().flatten().min_by_key(|(unlikely, parts)| (*unlikely, !ends_low(parts)));
                if likely.is_some_and(|(_, parts)| write_if_same::<F>(&parts, x, stored, out)) {
                    return true;
                }
            }
        }
    }
    false
}

/// Whether the largest integer is negative, as encoders have it.
fn ends_low(parts: &Parts) -> bool {
    parts.scales.n.iter().copied().fold(0, |a: i16, b| if b.abs() > a.abs() { b } else { a }) <= 0
}

/// Levels and integers of all sub-blocks for a common scale, if it is that of all, and in how many of them the largest weight
/// has no negative level, where encoders put it.
fn fill(subs: &[Sub], len: usize, d: f32, (low, high): (i16, i16)) -> Option<(usize, Parts)> {
    let (mut parts, mut unlikely) = (Parts::ZERO, 0);
    parts.scales.d[0] = d;
    for (number, sub) in subs.iter().enumerate() {
        if sub.readings.is_empty() {
            continue;
        }
        let (reading, n) = sub.readings.iter().find_map(|reading| {
            let n = reading.scale.over(f64::from(d)).widened().whole(low, high).find(|&n| n != 0)?;
            Some((reading, n))
        })?;
        parts.levels[number * len..][..len].copy_from_slice(&reading.levels[..len]);
        parts.scales.n[number] = n;
        unlikely += usize::from(!reading.ends_low);
    }
    Some((unlikely, parts))
}

/// All readings of a sub-block; `None` if there are none.
fn read<F: Form>(x: &[f32], stored: Stored, levels: &[f32]) -> Option<Sub> {
    let extreme = x.iter().copied().fold(0.0_f32, |a, b| if b.abs() > a.abs() { b } else { a });
    if extreme == 0.0 {
        return Some(Sub { readings: Vec::new() });
    }
    let mut around = [Interval::ALL; 32];
    for (around, &x) in around.iter_mut().zip(x) {
        *around = Interval::around(x, stored);
    }
    let off = Interval::around(extreme, stored).reach(extreme);
    let readings: Vec<Reading> = levels
        .iter()
        .filter_map(|&top| {
            let step = f64::from(extreme) / f64::from(top);
            let mut found = Reading { levels: [0.0; 32], scale: Interval::ALL, ends_low: top < 0.0 };
            for ((&x, around), level) in x.iter().zip(around).zip(&mut found.levels) {
                *level = F::nearest((f64::from(x) / step) as f32);
                let distance = (f64::from(x) - f64::from(*level) * step).abs();
                if distance > around.reach(x) + off * f64::from((*level / top).abs()) {
                    return None;
                }
                if *level != 0.0 {
                    found.scale = found.scale.and(around.over(f64::from(*level)));
                } else if !around.contains(0.0) {
                    return None;
                }
            }
            found.scale = found.scale.widened();
            found.scale.is_some().then_some(found)
        })
        .collect();
    (!readings.is_empty()).then_some(Sub { readings })
}

fn relative(interval: Interval) -> f64 {
    interval.radius() / interval.low.abs().max(interval.high.abs())
}
