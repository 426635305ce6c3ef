//! Formats whose sub-blocks have integer scales and share one or two `f16`: Q2_K to Q6_K, IQ4_XS.

use super::factor::WINDOW;
use super::form::{Factors, Form, Parts, nearest_whole};
use super::legacy::{nearest_value, value_codes};
use crate::block::bits::{pack_nibbles, pair, unpack_nibbles};
use crate::block::layout::Layout;
use crate::block::{Format, iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k, scale_min};
use crate::kernel::scale_min::ScaleMin;
use crate::kernel::signed::Signed;
use crate::reference::nonlinear::VALUES;
use crate::reference::rounding::to_half;

/// Levels of a window, as codes.
fn codes(parts: &Parts, offset: f32) -> [u8; WINDOW] {
    parts.levels.map(|level| (level + offset) as u8)
}

/// Integers of the first `N` sub-blocks, as codes.
fn integers<const N: usize>(n: &[i16], offset: i16) -> [u8; N] {
    std::array::from_fn(|j| (n[j] + offset) as u8)
}

const fn shared(low: i16, high: i16) -> Factors {
    Factors::Shared { low, high, step: 1, unit: 1.0 }
}

/// 16 sub-blocks with 4-bit scales and minima.
pub(crate) struct Q2_K;

impl Form for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const SUB: usize = 16;
    const SCALES: Factors = shared(0, 15);
    const MINS: Factors = shared(0, 15);

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        nearest_whole(y, 0.0, 3.0)
    }

    fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
        let stored = q2_k::Block::read(bytes);
        parts.scales.d[0] = stored.d.to_f32();
        parts.mins.d[0] = stored.dmin.to_f32();
        for j in 0..16 {
            parts.scales.n[j] = i16::from(stored.scales[j] & 15);
            parts.mins.n[j] = i16::from(stored.scales[j] >> 4);
        }
        parts.levels = std::array::from_fn(|i| f32::from(pair(&stored.qs, i)));
    }

    fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
        let (scales, mins) = (integers(&parts.scales.n, 0), integers(&parts.mins.n, 0));
        let scales = <q2_k::Q2_K as ScaleMin<16>>::by_codes(parts.scales.d[0], parts.mins.d[0], &scales, &mins);
        <q2_k::Q2_K as ScaleMin<16>>::pack(&scales, &codes(parts, 0.0)).write(bytes);
    }
}

/// 16 sub-blocks with 6-bit signed scales.
pub(crate) struct Q3_K;

impl Form for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const SUB: usize = 16;
    const SCALES: Factors = shared(-32, 31);
    const MINS: Factors = Factors::Absent;

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        nearest_whole(y, -4.0, 3.0)
    }

    fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
        let stored = q3_k::Block::read(bytes);
        parts.scales.d[0] = stored.d.to_f32();
        for j in 0..16 {
            parts.scales.n[j] = q3_k::unpack_scale(&stored.scales, j) as i16;
        }
        parts.levels = std::array::from_fn(|i| {
            let upper = (stored.hmask[i % 32] >> (i / 32)) & 1;
            f32::from(pair(&stored.qs, i) | (upper << 2)) - 4.0
        });
    }

    fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
        let scales = q3_k::Q3_K::by_codes(parts.scales.d[0], &integers(&parts.scales.n, 32));
        <q3_k::Q3_K as Signed>::pack(&scales, &codes(parts, 4.0)).write(bytes);
    }
}

macro_rules! six_bit_pairs {
    ($form:ident, $module:ident, $max_code:literal, |$stored:ident, $i:ident, $code:ident| $whole:expr) => {
        /// 8 sub-blocks with 6-bit scales and minima.
        pub(crate) struct $form;

        impl Form for $form {
            const FORMAT: Format = Format::$form;
            const SUB: usize = 32;
            const SCALES: Factors = shared(0, 63);
            const MINS: Factors = shared(0, 63);

            #[inline(always)]
            fn nearest(y: f32) -> f32 {
                nearest_whole(y, 0.0, $max_code)
            }

            fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
                let $stored = $module::Block::read(bytes);
                parts.scales.d[0] = $stored.d.to_f32();
                parts.mins.d[0] = $stored.dmin.to_f32();
                for j in 0..8 {
                    let (scale, min) = scale_min::unpack(&$stored.scales, j);
                    (parts.scales.n[j], parts.mins.n[j]) = (i16::from(scale), i16::from(min));
                }
                unpack_nibbles::<32>(&$stored.qs, |$i, $code| parts.levels[$i] = f32::from($whole));
            }

            fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
                let (scales, mins) = (integers(&parts.scales.n, 0), integers(&parts.mins.n, 0));
                let scales =
                    <$module::$form as ScaleMin<8>>::by_codes(parts.scales.d[0], parts.mins.d[0], &scales, &mins);
                <$module::$form as ScaleMin<8>>::pack(&scales, &codes(parts, 0.0)).write(bytes);
            }
        }
    };
}

six_bit_pairs!(Q4_K, q4_k, 15.0, |stored, i, code| code);
six_bit_pairs!(Q5_K, q5_k, 31.0, |stored, i, code| code + ((stored.qh[i % 32] >> (i / 32) & 1) << 4));

/// 16 sub-blocks with 8-bit signed scales.
pub(crate) struct Q6_K;

impl Form for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const SUB: usize = 16;
    const SCALES: Factors = shared(-128, 127);
    const MINS: Factors = Factors::Absent;

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        nearest_whole(y, -32.0, 31.0)
    }

    fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
        let stored = q6_k::Block::read(bytes);
        parts.scales.d[0] = stored.d.to_f32();
        parts.scales.n = stored.scales.map(i16::from);
        unpack_nibbles::<64>(&stored.ql, |i, lower| {
            parts.levels[i] = f32::from(lower | (pair(&stored.qh, i) << 4)) - 32.0;
        });
    }

    fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
        let scales = (to_half(parts.scales.d[0]), parts.scales.n.map(|n| n as i8));
        <q6_k::Q6_K as Signed>::pack(&scales, &codes(parts, 32.0)).write(bytes);
    }
}

/// 8 sub-blocks with 6-bit signed scales, levels from the non-linear table.
pub(crate) struct IQ4_XS;

impl Form for IQ4_XS {
    const FORMAT: Format = Format::IQ4_XS;
    const SUB: usize = 32;
    const SCALES: Factors = shared(-32, 31);
    const MINS: Factors = Factors::Absent;

    #[inline(always)]
    fn nearest(y: f32) -> f32 {
        nearest_value(y)
    }

    fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
        let stored = iq4_xs::Block::read(bytes);
        parts.scales.d[0] = stored.d.to_f32();
        for j in 0..8 {
            let low = stored.scales_l[j / 2] >> (j % 2 * 4) & 15;
            let high = (stored.scales_h >> (2 * j) & 3) as u8;
            parts.scales.n[j] = i16::from(low | high << 4) - 32;
            unpack_nibbles::<16>(&stored.qs[j], |i, code| {
                parts.levels[32 * j + i] = f32::from(VALUES[usize::from(code)]);
            });
        }
    }

    fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
        let mut stored =
            iq4_xs::Block { d: to_half(parts.scales.d[0]), scales_h: 0, scales_l: [0; 4], qs: [[0; 16]; 8] };
        for j in 0..8 {
            let scale = (parts.scales.n[j] + 32) as u8;
            stored.scales_l[j / 2] |= (scale & 15) << (j % 2 * 4);
            stored.scales_h |= u16::from(scale >> 4) << (2 * j);
            pack_nibbles::<16>(&value_codes(&parts.levels[32 * j..]), &mut stored.qs[j]);
        }
        stored.write(bytes);
    }
}
