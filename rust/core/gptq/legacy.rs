//! Formats whose blocks of 32 weights have a scale of their own: Q4_0 to Q5_1, Q8_0, IQ4_NL.

use super::form::{Factors, Form, Parts, nearest_whole};
use crate::block::bits::{fifth_bit, pack_fifth_bits, pack_nibbles, unpack_nibbles};
use crate::block::layout::Layout;
use crate::block::{Format, iq4_nl, q4_0, q4_1, q5_0, q5_1, q8_0};
use crate::reference::nonlinear::{VALUES, nearest_entry};
use crate::reference::rounding::to_half;

/// Weights in a block.
const LEN: usize = 32;

/// Levels of a block, as codes.
fn codes(parts: &Parts, block: usize, offset: f32) -> [u8; LEN] {
    std::array::from_fn(|i| (parts.levels[LEN * block + i] + offset) as u8)
}

fn nibbles(codes: &[u8; LEN]) -> [u8; 16] {
    let mut qs = [0; 16];
    pack_nibbles::<16>(&codes.map(|code| code & 15), &mut qs);
    qs
}

macro_rules! form {
    ($form:ident, $module:ident, $mins:expr, $nearest:expr, $read:expr, $write:expr) => {
        #[doc = concat!("[`", stringify!($module), "`]")]
        pub(crate) struct $form;

        impl Form for $form {
            const FORMAT: Format = Format::$form;
            const SUB: usize = LEN;
            const SCALES: Factors = Factors::Own;
            const MINS: Factors = $mins;

            #[inline(always)]
            fn nearest(y: f32) -> f32 {
                $nearest(y)
            }

            fn read(bytes: &[u8], block: usize, parts: &mut Parts) {
                $read(&$module::Block::read(bytes), block, parts);
            }

            fn write(parts: &Parts, block: usize, bytes: &mut [u8]) {
                let stored: $module::Block = $write(parts, block);
                stored.write(bytes);
            }
        }
    };
}

form!(
    Q4_0,
    q4_0,
    Factors::Absent,
    |y| nearest_whole(y, -8.0, 7.0),
    |stored: &q4_0::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        unpack_nibbles::<16>(&stored.qs, |i, code| parts.levels[LEN * block + i] = f32::from(code) - 8.0);
    },
    |parts: &Parts, block: usize| q4_0::Block {
        d: to_half(parts.scales.d[block]),
        qs: nibbles(&codes(parts, block, 8.0))
    }
);

form!(
    Q4_1,
    q4_1,
    Factors::Own,
    |y| nearest_whole(y, 0.0, 15.0),
    |stored: &q4_1::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        parts.mins.d[block] = -stored.m.to_f32();
        unpack_nibbles::<16>(&stored.qs, |i, code| parts.levels[LEN * block + i] = f32::from(code));
    },
    |parts: &Parts, block: usize| q4_1::Block {
        d: to_half(parts.scales.d[block]),
        m: to_half(-parts.mins.d[block]),
        qs: nibbles(&codes(parts, block, 0.0)),
    }
);

form!(
    Q5_0,
    q5_0,
    Factors::Absent,
    |y| nearest_whole(y, -16.0, 15.0),
    |stored: &q5_0::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        unpack_nibbles::<16>(&stored.qs, |i, code| {
            parts.levels[LEN * block + i] = f32::from(code | fifth_bit(stored.qh, i)) - 16.0;
        });
    },
    |parts: &Parts, block: usize| {
        let codes = codes(parts, block, 16.0);
        q5_0::Block { d: to_half(parts.scales.d[block]), qh: pack_fifth_bits(&codes), qs: nibbles(&codes) }
    }
);

form!(
    Q5_1,
    q5_1,
    Factors::Own,
    |y| nearest_whole(y, 0.0, 31.0),
    |stored: &q5_1::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        parts.mins.d[block] = -stored.m.to_f32();
        unpack_nibbles::<16>(&stored.qs, |i, code| {
            parts.levels[LEN * block + i] = f32::from(code | fifth_bit(stored.qh, i));
        });
    },
    |parts: &Parts, block: usize| {
        let codes = codes(parts, block, 0.0);
        q5_1::Block {
            d: to_half(parts.scales.d[block]),
            m: to_half(-parts.mins.d[block]),
            qh: pack_fifth_bits(&codes),
            qs: nibbles(&codes),
        }
    }
);

form!(
    Q8_0,
    q8_0,
    Factors::Absent,
    // -128 exists, but the encoder never writes it.
    |y| nearest_whole(y, -127.0, 127.0),
    |stored: &q8_0::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        for (level, &q) in parts.levels[LEN * block..].iter_mut().zip(&stored.qs) {
            *level = f32::from(q);
        }
    },
    |parts: &Parts, block: usize| q8_0::Block {
        d: to_half(parts.scales.d[block]),
        qs: std::array::from_fn(|i| parts.levels[LEN * block + i] as i8),
    }
);

/// The entry of the non-linear table nearest to `y`.
#[inline(always)]
pub(super) fn nearest_value(y: f32) -> f32 {
    f32::from(VALUES[usize::from(nearest_entry(y))])
}

/// Codes of 32 levels that are entries of the non-linear table.
pub(super) fn value_codes(levels: &[f32]) -> [u8; LEN] {
    std::array::from_fn(|i| nearest_entry(levels[i]))
}

form!(
    IQ4_NL,
    iq4_nl,
    Factors::Absent,
    nearest_value,
    |stored: &iq4_nl::Block, block: usize, parts: &mut Parts| {
        parts.scales.d[block] = stored.d.to_f32();
        unpack_nibbles::<16>(&stored.qs, |i, code| {
            parts.levels[LEN * block + i] = f32::from(VALUES[usize::from(code)]);
        });
    },
    |parts: &Parts, block: usize| iq4_nl::Block {
        d: to_half(parts.scales.d[block]),
        qs: nibbles(&value_codes(&parts.levels[LEN * block..])),
    }
);
