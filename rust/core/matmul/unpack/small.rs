//! Formats without super-blocks: a float scale for each small group.

use super::Integers;
use super::look_up::LookUp;
use crate::block::layout::Layout;
use crate::block::{Format, fp4, iq4_nl, mxfp4, nvfp4, q1_0, q2_0, q4_0, q4_1, q5_0, q5_1, q8_0};
use crate::matmul::slab::{Facts, Scaling, Slab};
use crate::reference::nonlinear::VALUES;

/// Facts of a format with a float scale for each 32.
const fn facts(format: Format, mins: bool, offset: u8, max: i32) -> Facts {
    Facts { format, scaling: Scaling::Groups, group: 32, mins, offset, max }
}

/// Hands out blocks, the codes of each, and the number of the first 16 columns of each.
#[inline(always)]
fn blocks<B: Layout, const N: usize>(
    bytes: &[u8],
    slab: &mut Slab,
    unpack: impl Fn(B, &mut [u8; N], &mut [f32], &mut [f32]),
) {
    let groups = N / 16;
    for (i, (bytes, codes)) in bytes.chunks_exact(B::BYTES).zip(slab.codes.as_chunks_mut::<N>().0).enumerate() {
        unpack(B::read(bytes), codes, &mut slab.d[groups * i..][..groups], &mut slab.m[groups * i..][..groups]);
    }
}

/// Codes in half bytes: `j` in the lower half of byte `j`, `j + 16` in the upper.
#[inline(always)]
fn nibbles(qs: &[u8; 16], codes: &mut [u8; 32]) {
    for j in 0..16 {
        codes[j] = qs[j] & 15;
        codes[j + 16] = qs[j] >> 4;
    }
}

/// As [`nibbles`], with a fifth bit each.
#[inline(always)]
fn with_fifth<L: LookUp>(qs: &[u8; 16], qh: u32, codes: &mut [u8; 32]) {
    nibbles(qs, codes);
    L::add_fifth(qh, codes);
}

macro_rules! small {
    ($name:ident, $module:ident, $len:literal, $facts:expr, |$block:ident, $codes:ident| $unpack:expr, $d:expr $(, $m:expr)?) => {
        pub(super) struct $name;

        impl Integers for $name {
            const FACTS: Facts = $facts;

            #[inline(always)]
            fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
                blocks(bytes, slab, |$block: $module::Block, $codes: &mut [u8; $len], d, _m| {
                    $unpack;
                    d.fill($d);
                    $(_m.fill($m);)?
                });
            }
        }
    };
}

small!(Q4_0, q4_0, 32, facts(Format::Q4_0, false, 8, 8), |block, codes| nibbles(&block.qs, codes), L::widen(block.d));
small!(
    Q4_1,
    q4_1,
    32,
    facts(Format::Q4_1, true, 0, 15),
    |block, codes| nibbles(&block.qs, codes),
    L::widen(block.d),
    L::widen(block.m)
);
small!(
    Q5_0,
    q5_0,
    32,
    facts(Format::Q5_0, false, 16, 16),
    |block, codes| with_fifth::<L>(&block.qs, block.qh, codes),
    L::widen(block.d)
);
small!(
    Q5_1,
    q5_1,
    32,
    facts(Format::Q5_1, true, 0, 31),
    |block, codes| with_fifth::<L>(&block.qs, block.qh, codes),
    L::widen(block.d),
    L::widen(block.m)
);
small!(
    Q8_0,
    q8_0,
    32,
    facts(Format::Q8_0, false, 0, 128),
    |block, codes| for j in 0..32 {
        codes[j] = block.qs[j] as u8;
    },
    L::widen(block.d)
);
small!(
    IQ4_NL,
    iq4_nl,
    32,
    facts(Format::IQ4_NL, false, 0, 127),
    |block, codes| L::look_up(&VALUES, &block.qs, codes),
    L::widen(block.d)
);
small!(
    MXFP4,
    mxfp4,
    32,
    facts(Format::MXFP4, false, 0, 12),
    |block, codes| L::look_up(&fp4::DOUBLED, &block.qs, codes),
    mxfp4::half_scale(block.e)
);
small!(
    Q1_0,
    q1_0,
    128,
    facts(Format::Q1_0, false, 1, 1),
    |block, codes| for j in 0..128 {
        codes[j] = ((block.qs[j / 8] >> (j % 8)) & 1) << 1;
    },
    L::widen(block.d)
);
small!(
    Q2_0,
    q2_0,
    64,
    facts(Format::Q2_0, false, 1, 2),
    |block, codes| for j in 0..64 {
        codes[j] = (block.qs[j / 4] >> (2 * (j % 4))) & 3;
    },
    L::widen(block.d)
);

pub(super) struct NVFP4;

impl Integers for NVFP4 {
    const FACTS: Facts =
        Facts { format: Format::NVFP4, scaling: Scaling::Groups, group: 16, mins: false, offset: 0, max: 12 };

    #[inline(always)]
    fn unpack<L: LookUp>(bytes: &[u8], slab: &mut Slab) {
        blocks(bytes, slab, |block: nvfp4::Block, codes: &mut [u8; 64], d, _| {
            // Sub-blocks have 8 bytes: two at a time, the lower halves of both come first, then the upper ones.
            for (pair, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let mut found = [0; 32];
                L::look_up(&fp4::DOUBLED, &block.qs.as_chunks().0[pair], &mut found);
                for (to, from) in [0, 2, 1, 3].into_iter().enumerate() {
                    codes[8 * to..][..8].copy_from_slice(&found[8 * from..][..8]);
                }
            }
            d.copy_from_slice(&block.d.map(nvfp4::half_scale));
        });
    }
}
