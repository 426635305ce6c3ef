//! Formats whose codes are points of a codebook, with signs.
//!
//! Scale codes `s` stand for `2 * s + 1` here, and the power of two that is left goes into the float scale.

use super::Integers;
use super::look_up::LookUp;
use super::tables::{self, negate};
use crate::block::layout::Layout;
use crate::block::{Format, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};
use crate::matmul::slab::{Facts, Scaling, Slab};

/// Facts of a codebook format.
const fn facts(format: Format, group: usize, offset: u8, max: i32) -> Facts {
    Facts { format, scaling: Scaling::Super, group, mins: false, offset, max }
}

#[inline(always)]
fn odd(code: u8) -> i16 {
    i16::from(2 * (code & 15) + 1)
}

/// Scale codes in half bytes, one for each 16 columns.
#[inline(always)]
fn scales16(bytes: &[u8; 8], slab: &mut Slab) {
    for j in 0..16 {
        slab.scales[j] = odd(bytes[j / 2] >> (j % 2 * 4));
    }
}

/// One scale for each 32 columns.
#[inline(always)]
fn scale32(slab: &mut Slab, j: usize, scale: i16) {
    (slab.scales[2 * j], slab.scales[2 * j + 1]) = (scale, scale);
}

/// Writes point number `k` of 8 coordinates.
#[inline(always)]
fn put(slab: &mut Slab, k: usize, point: u64) {
    slab.codes.as_chunks_mut::<8>().0[k] = point.to_le_bytes();
}

/// Two points of 4 coordinates as one of 8.
#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

pub(super) struct IQ2_XXS;

impl Integers for IQ2_XXS {
    const FACTS: Facts = facts(Format::IQ2_XXS, 32, 0, 43);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq2_xxs::Block::read(bytes);
        for (j, [points, signs]) in block.qs.into_iter().enumerate() {
            for k in 0..4 {
                let point = tables::IQ2_XXS[(points >> (8 * k)) as usize & 255];
                put(slab, 4 * j + k, negate(point, tables::EVEN_SIGNS[(signs >> (7 * k)) as usize & 127]));
            }
            scale32(slab, j, odd((signs >> 28) as u8));
        }
        slab.d[0] = L::widen(block.d) * 0.125;
    }
}

pub(super) struct IQ2_XS;

impl Integers for IQ2_XS {
    const FACTS: Facts = facts(Format::IQ2_XS, 16, 0, 43);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq2_xs::Block::read(bytes);
        for (k, code) in block.qs.into_iter().enumerate() {
            let (point, signs) = (usize::from(code & 511), usize::from(code >> 9));
            put(slab, k, negate(tables::IQ2_XS[point], tables::EVEN_SIGNS[signs]));
        }
        scales16(&block.scales, slab);
        slab.d[0] = L::widen(block.d) * 0.125;
    }
}

pub(super) struct IQ2_S;

impl Integers for IQ2_S {
    const FACTS: Facts = facts(Format::IQ2_S, 16, 0, 43);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq2_s::Block::read(bytes);
        for k in 0..32 {
            let high = usize::from((block.qh[k / 4] >> (2 * (k % 4))) & 3);
            let point = tables::IQ2_S[usize::from(block.qs[k]) | (high << 8)];
            put(slab, k, negate(point, tables::SIGNS[usize::from(block.signs[k])]));
        }
        scales16(&block.scales, slab);
        slab.d[0] = L::widen(block.d) * 0.125;
    }
}

pub(super) struct IQ3_XXS;

impl Integers for IQ3_XXS {
    const FACTS: Facts = facts(Format::IQ3_XXS, 32, 0, 62);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq3_xxs::Block::read(bytes);
        for j in 0..8 {
            let word = block.signs_and_scales[j];
            for k in 0..4 {
                let point = |i: usize| tables::IQ3_XXS[usize::from(block.qs[j][2 * k + i])];
                let signs = tables::EVEN_SIGNS[(word >> (7 * k)) as usize & 127];
                put(slab, 4 * j + k, negate(join(point(0), point(1)), signs));
            }
            scale32(slab, j, odd((word >> 28) as u8));
        }
        slab.d[0] = L::widen(block.d) * 0.25;
    }
}

pub(super) struct IQ3_S;

impl Integers for IQ3_S {
    const FACTS: Facts = facts(Format::IQ3_S, 32, 0, 15);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq3_s::Block::read(bytes);
        for j in 0..8 {
            for k in 0..4 {
                let point = |i: usize| {
                    let ninth = usize::from((block.qh[j] >> i) & 1);
                    tables::IQ3_S[usize::from(block.qs[j][i]) | (ninth << 8)]
                };
                let signs = tables::SIGNS[usize::from(block.signs[j][k])];
                put(slab, 4 * j + k, negate(join(point(2 * k), point(2 * k + 1)), signs));
            }
            scale32(slab, j, odd(block.scales[j / 2] >> (j % 2 * 4)));
        }
        slab.d[0] = L::widen(block.d);
    }
}

/// What a shift up adds to each code; a shift down adds nothing.
const UP: u64 = 0x0202_0202_0202_0202;

/// Eight times the weights of the 1-bit formats: `8 * (level - 1) + 1` or `- 1`. The code is 9 more than that.
#[inline(always)]
fn shifted(index: usize, down: bool) -> u64 {
    tables::IQ1[index] + if down { 0 } else { UP }
}

pub(super) struct IQ1_S;

impl Integers for IQ1_S {
    const FACTS: Facts = facts(Format::IQ1_S, 32, 9, 9);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq1_s::Block::read(bytes);
        for j in 0..8 {
            let high = block.qh[j];
            for k in 0..4 {
                let index = usize::from(block.qs[j][k]) | usize::from((high >> (3 * k)) & 7) << 8;
                put(slab, 4 * j + k, shifted(index, high >> 15 == 1));
            }
            scale32(slab, j, odd((high >> 12) as u8 & 7));
        }
        slab.d[0] = L::widen(block.d) * 0.125;
    }
}

pub(super) struct IQ1_M;

impl Integers for IQ1_M {
    const FACTS: Facts = facts(Format::IQ1_M, 16, 9, 9);

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        let block = iq1_m::Block::read(bytes);
        for j in 0..16 {
            for k in 0..2 {
                let high = block.qh[j] >> (4 * k);
                let index = usize::from(block.qs[j][k]) | usize::from(high & 7) << 8;
                put(slab, 2 * j + k, shifted(index, high & 8 != 0));
            }
            slab.scales[j] = odd((block.scales[j / 4] >> (3 * (j % 4))) as u8 & 7);
        }
        slab.d[0] = L::widen(iq1_m::super_scale(&block)) * 0.125;
    }
}
