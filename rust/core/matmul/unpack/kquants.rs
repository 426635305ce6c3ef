//! Formats of super-blocks with codes in bit fields: k-quants, ternary ones, and IQ4_XS with its table of values.

use super::Integers;
use super::look_up::LookUp;
use crate::block::layout::Layout;
use crate::block::{Format, iq4_xs, q2_k, q3_k, q4_k, q5_k, q6_k, tq1_0, tq2_0};
use crate::matmul::slab::{Facts, SLAB, Scaling, Slab};
use crate::reference::nonlinear::VALUES;

/// Facts of a format with super-blocks.
const fn facts(format: Format, group: usize, mins: bool, offset: u8, max: i32) -> Facts {
    Facts { format, scaling: Scaling::Super, group, mins, offset, max }
}

/// Two-bit codes, four a byte: in each half of 128, codes `j`, `j + 32`, `j + 64` and `j + 96` share byte `j`.
#[inline(always)]
fn pairs(bytes: &[u8; 64], codes: &mut [u8; SLAB]) {
    for half in 0..2 {
        for part in 0..4 {
            for j in 0..32 {
                codes[128 * half + 32 * part + j] = (bytes[32 * half + j] >> (2 * part)) & 3;
            }
        }
    }
}

/// Scales and minima of Q4_K and Q5_K, one for each 32, written for each 16. Four 6-bit numbers are taken out at a time.
#[inline(always)]
fn scales_and_mins(packed: &[u8; 12], slab: &mut Slab) {
    let word = |i: usize| u32::from_le_bytes(packed.as_chunks::<4>().0[i]);
    let upper = |word: u32| (word >> 2) & 0x3030_3030;
    let halves = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let low = |word: u32| word & 0x3f3f_3f3f;
    let scales = halves(low(word(0)), (word(2) & 0x0f0f_0f0f) | upper(word(0)));
    let mins = halves(low(word(1)), ((word(2) >> 4) & 0x0f0f_0f0f) | upper(word(1)));
    slab.scales = std::array::from_fn(|j| i16::from(scales[j / 2]));
    slab.mins = std::array::from_fn(|j| i16::from(mins[j / 2]));
}

pub(super) struct Q2_K;

impl Integers for Q2_K {
    const FACTS: Facts = facts(Format::Q2_K, 16, true, 0, 3);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = q2_k::Block::read(bytes);
        pairs(&block.qs, &mut slab.codes);
        for j in 0..16 {
            slab.scales[j] = i16::from(block.scales[j] & 15);
            slab.mins[j] = i16::from(block.scales[j] >> 4);
        }
        slab.d[0] = L::widen(block.d);
        slab.m[0] = -L::widen(block.dmin);
    }
}

pub(super) struct Q3_K;

impl Integers for Q3_K {
    const FACTS: Facts = facts(Format::Q3_K, 16, false, 4, 4);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = q3_k::Block::read(bytes);
        for part in 0..8 {
            let (lower, codes) = (&block.qs[32 * (part / 4)..][..32], &mut slab.codes[32 * part..][..32]);
            for j in 0..32 {
                codes[j] = ((lower[j] >> (2 * (part % 4))) & 3) | (((block.hmask[j] >> part) & 1) << 2);
            }
        }
        // Four scales at a time: four bits of each in one word, two in another.
        let [a, b, c] = [0, 1, 2].map(|i| u32::from_le_bytes(block.scales.as_chunks::<4>().0[i]));
        let join = |lower: u32, upper: u32| (lower & 0x0f0f_0f0f) | ((upper & 0x0303_0303) << 4);
        let words = [join(a, c), join(b, c >> 2), join(a >> 4, c >> 4), join(b >> 4, c >> 6)];
        for (scales, word) in slab.scales.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *scales = word.to_le_bytes().map(|scale| i16::from(scale) - 32);
        }
        slab.d[0] = L::widen(block.d);
    }
}

pub(super) struct Q4_K;

impl Integers for Q4_K {
    const FACTS: Facts = facts(Format::Q4_K, 32, true, 0, 15);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = q4_k::Block::read(bytes);
        for part in 0..4 {
            for j in 0..32 {
                slab.codes[64 * part + j] = block.qs[32 * part + j] & 15;
                slab.codes[64 * part + 32 + j] = block.qs[32 * part + j] >> 4;
            }
        }
        scales_and_mins(&block.scales, slab);
        slab.d[0] = L::widen(block.d);
        slab.m[0] = -L::widen(block.dmin);
    }
}

pub(super) struct Q5_K;

impl Integers for Q5_K {
    const FACTS: Facts = facts(Format::Q5_K, 32, true, 0, 31);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = q5_k::Block::read(bytes);
        for part in 0..4 {
            for j in 0..32 {
                let (byte, fifth) = (block.qs[32 * part + j], block.qh[j] >> (2 * part));
                slab.codes[64 * part + j] = (byte & 15) | ((fifth & 1) << 4);
                slab.codes[64 * part + 32 + j] = (byte >> 4) | ((fifth & 2) << 3);
            }
        }
        scales_and_mins(&block.scales, slab);
        slab.d[0] = L::widen(block.d);
        slab.m[0] = -L::widen(block.dmin);
    }
}

pub(super) struct Q6_K;

impl Integers for Q6_K {
    const FACTS: Facts = facts(Format::Q6_K, 16, false, 32, 32);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = q6_k::Block::read(bytes);
        for half in 0..2 {
            for part in 0..4 {
                let lower = &block.ql[64 * half + 32 * (part % 2)..][..32];
                let upper = &block.qh[32 * half..][..32];
                let codes = &mut slab.codes[128 * half + 32 * part..][..32];
                for j in 0..32 {
                    codes[j] = ((lower[j] >> (part / 2 * 4)) & 15) | (((upper[j] >> (2 * part)) & 3) << 4);
                }
            }
        }
        for j in 0..16 {
            slab.scales[j] = i16::from(block.scales[j]);
        }
        slab.d[0] = L::widen(block.d);
    }
}

pub(super) struct TQ1_0;

impl Integers for TQ1_0 {
    const FACTS: Facts = facts(Format::TQ1_0, 32, false, 1, 1);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = tq1_0::Block::read(bytes);
        for n in 0..5 {
            for j in 0..32 {
                slab.codes[32 * n + j] = tq1_0::trit(block.qs[j], n);
            }
            for j in 0..16 {
                slab.codes[160 + 16 * n + j] = tq1_0::trit(block.qs[32 + j], n);
            }
        }
        for n in 0..4 {
            for j in 0..4 {
                slab.codes[240 + 4 * n + j] = tq1_0::trit(block.qh[j], n);
            }
        }
        slab.scales = [1; 16];
        slab.d[0] = L::widen(block.d);
    }
}

pub(super) struct TQ2_0;

impl Integers for TQ2_0 {
    // Code 3 is never encoded, but it decodes.
    const FACTS: Facts = facts(Format::TQ2_0, 32, false, 1, 2);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = tq2_0::Block::read(bytes);
        pairs(&block.qs, &mut slab.codes);
        slab.scales = [1; 16];
        slab.d[0] = L::widen(block.d);
    }
}

pub(super) struct IQ4_XS;

impl Integers for IQ4_XS {
    const FACTS: Facts = facts(Format::IQ4_XS, 32, false, 0, 127);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq4_xs::Block::read(bytes);
        for j in 0..8 {
            L::look_up(&VALUES, &block.qs[j], &mut slab.codes.as_chunks_mut().0[j]);
            let low = (block.scales_l[j / 2] >> (j % 2 * 4)) & 15;
            let high = ((block.scales_h >> (2 * j)) & 3) as u8;
            let scale = i16::from(low | (high << 4)) - 32;
            (slab.scales[2 * j], slab.scales[2 * j + 1]) = (scale, scale);
        }
        slab.d[0] = L::widen(block.d);
    }
}
