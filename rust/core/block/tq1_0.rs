//! TQ1_0: ternary weights in blocks of 256, `x = d * (q - 1)` with `q` in `0..=2`, five to a byte, and an `f16` scale.
//! 1.6875 bpw. For models trained to be ternary (BitNet b1.58, TriLM).
//!
//! A byte holds the five trits as the fraction `trits / 3^5` of 256, rounded up, so that multiplying by three brings one
//! trit after the other out at the top. `d` is the largest magnitude. An importance matrix changes nothing.

use half::f16;

use super::scalar::{ScalarCodes, steps};
use super::layout::{Layout, block_layout, decode_blocks, encode_blocks, finite, group, validate_blocks};
use super::{BlockFault, BlockFormat, FormatInfo, ImatrixUse};
use crate::kernel::plain::{Rule, Scaled};
use crate::lanes::F32Lanes;
use crate::reference::rounding::to_half;
use crate::reference::symmetric;

block_layout! {
    struct Block, 54 bytes {
        /// 240 codes: weights `j + 32 * n` of the first 160 in byte `j`, then `160 + j + 16 * n` in byte `32 + j`.
        qs: [u8; 48],
        /// 16 codes, four a byte: weights `240 + j + 4 * n` in byte `j`.
        qh: [u8; 4],
        /// Scale.
        d: f16,
    }
}

/// Five trits, first in the most significant place, as a rounded-up fraction of 256.
#[inline(always)]
fn pack_trits(trits: [u8; 5]) -> u8 {
    let value = trits.into_iter().fold(0u8, |value, trit| value.wrapping_mul(3).wrapping_add(trit));
    (u16::from(value) * 256).div_ceil(243) as u8
}

/// Packs a stretch of `COUNT` bytes that starts with weight `first`. A byte of four trits has a zero in the fifth place.
#[inline(always)]
fn pack_stretch<const COUNT: usize>(codes: &[u8; 256], first: usize, trits: usize) -> [u8; COUNT] {
    let mut bytes = [0; COUNT];
    for j in 0..COUNT {
        let code = |n: usize| if n < trits { codes[first + j + n * COUNT] } else { 0 };
        bytes[j] = pack_trits([code(0), code(1), code(2), code(3), code(4)]);
    }
    bytes
}

#[inline(always)]
fn pack(d: f16, codes: &[u8; 256]) -> Block {
    let mut qs = [0; 48];
    qs[..32].copy_from_slice(&pack_stretch::<32>(codes, 0, 5));
    qs[32..].copy_from_slice(&pack_stretch::<16>(codes, 160, 5));
    Block { qs, qh: pack_stretch(codes, 240, 4), d }
}

/// Trit `n` of a byte.
#[inline(always)]
pub(crate) fn trit(byte: u8, n: usize) -> u8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8
}

fn encode(x: &[f32; 256]) -> Block {
    let (d, codes) = symmetric::to_trits(x);
    pack(to_half(d), &codes)
}

/// Undoes [`pack_stretch`].
#[inline(always)]
fn unpack_stretch(bytes: &[u8], codes: &mut [u8]) {
    for (n, codes) in codes.chunks_exact_mut(bytes.len()).enumerate() {
        for j in 0..bytes.len() {
            codes[j] = trit(bytes[j], n);
        }
    }
}

#[inline(always)]
fn decode(block: &Block, out: &mut [f32; 256]) {
    let (d, mut codes) = (block.d.to_f32(), [0; 256]);
    unpack_stretch(&block.qs[..32], &mut codes[..160]);
    unpack_stretch(&block.qs[32..], &mut codes[160..240]);
    unpack_stretch(&block.qh, &mut codes[240..]);
    for i in 0..256 {
        out[i] = (i32::from(codes[i]) - 1) as f32 * d;
    }
}

/// Ternary, 5 weights in 8 bits.
pub struct TQ1_0;

impl Scaled<256> for TQ1_0 {
    type Block = Block;
    const RULE: Rule = Rule::Magnitude { divisor: 1.0, offset: 1 };

    #[inline(always)]
    fn pack<F: F32Lanes>(d: f16, _m: f16, codes: &[u8; 256]) -> Block {
        pack(d, codes)
    }

    fn reference(x: &[f32; 256]) -> Block {
        encode(x)
    }
}

impl BlockFormat for TQ1_0 {
    const INFO: FormatInfo = FormatInfo {
        name: "TQ1_0",
        ggml_type: 34,
        block_len: 256,
        block_bytes: 54,
        imatrix: ImatrixUse::Ignored,
        storage: true,
        summary: "ternary, 5 weights in 8 bits",
    };

    fn encode_row(x: &[f32], _imatrix: Option<&[f32]>, out: &mut [u8]) {
        encode_blocks(x, out, encode);
    }

    #[inline(always)]
    fn decode_row(data: &[u8], out: &mut [f32]) {
        decode_blocks!(data, out, decode);
    }

    fn validate_row(data: &[u8]) -> Result<(), BlockFault> {
        validate_blocks(data, |block: &Block| finite("scale d", block.d))
    }
}

impl ScalarCodes for TQ1_0 {
    const SUB_LEN: usize = 256;
    const TABLE: &'static [i8] = &steps::<3>(-1);

    fn grid(block: &[u8], scale: &mut [f32], _offset: &mut [f32]) {
        scale[0] = Block::read(block).d.to_f32();
    }

    fn set_codes(block: &mut [u8], codes: &[u8]) {
        pack(Block::read(block).d, group(codes, 0)).write(block);
    }
}
