//! The panel kernel for AVX2: 4 rows by 16 columns, which is 8 sums of 16 bits, two quads and a row in 16 registers.
//!
//! Intrinsics stand in loops and not in closures for `array::from_fn`: those are compiled on their own, without AVX2.

mod quads;
mod signs;

use std::arch::x86_64::*;
use std::ops::Range;

use super::{
    COLUMNS, Direct, Facts, GROUPS, Kernels, LayOut, Multiply, Pairing, Plan, Quad, Row, SLAB, Scaling, Side, Slab,
    word,
};
use crate::block::Format;

/// Rows in a tile.
const ROWS: usize = 4;
/// A register for each row and 8 columns: one or two of these, which kernels are generic over.
type Tile<const HALVES: usize> = [[__m256i; HALVES]; ROWS];

/// [`Kernels::few`] where weights need not be laid out: measured.
const FEW_DIRECT: usize = 5;

pub(super) fn kernels(facts: &Facts) -> Option<Kernels> {
    let plan = Plan::new(facts);
    let Plan { pairing, depth } = plan;
    use Pairing::{Biased, Signs, Unsigned, Wide};
    /// A kernel for 8 and for 16 columns, and the function that lays out for it.
    macro_rules! pair {
        ($kernel:ident $(, $constant:literal)*; $scaling:ident $pairing:ident $group:literal) => {
            (
                [$kernel::<$({ $constant },)* 1> as Multiply, $kernel::<$({ $constant },)* 2>],
                lay_out::<{ Scaling::$scaling as u8 }, { $pairing as u8 }, $group> as LayOut,
            )
        };
    }
    let (multiply, lay_out) = match (facts.scaling, pairing, depth, facts.group) {
        (Scaling::Super, Unsigned, 8, 32) => pair!(super_blocks, 8, false, 4; Super Unsigned 32),
        (Scaling::Super, Unsigned, 4, 32) => pair!(super_blocks, 4, false, 4; Super Unsigned 32),
        (Scaling::Super, Unsigned, 4, 16) => pair!(super_blocks, 4, false, 8; Super Unsigned 16),
        (Scaling::Super, Biased, 8, _) => pair!(super_blocks, 8, true, 0; Super Biased 0),
        (Scaling::Super, Biased, 4, _) => pair!(super_blocks, 4, true, 0; Super Biased 0),
        (Scaling::Super, Biased, 2, _) => pair!(super_blocks, 2, true, 0; Super Biased 0),
        (Scaling::Super, Biased, 1, _) => pair!(super_blocks, 1, true, 0; Super Biased 0),
        (Scaling::Super, Wide, ..) => pair!(wide_super_blocks; Super Wide 0),
        (Scaling::Groups, Unsigned, 8, 32) if facts.mins => pair!(groups, 8, 8, false, true; Groups Unsigned 32),
        (Scaling::Groups, Unsigned, 8, 32) => pair!(groups, 8, 8, false, false; Groups Unsigned 32),
        (Scaling::Groups, Unsigned, 4, 32) if facts.mins => pair!(groups, 4, 8, false, true; Groups Unsigned 32),
        (Scaling::Groups, Unsigned, 4, 32) => pair!(groups, 4, 8, false, false; Groups Unsigned 32),
        (Scaling::Groups, Biased, 8, 32) => pair!(groups, 8, 8, true, false; Groups Biased 32),
        (Scaling::Groups, Biased, 4, 32) => pair!(groups, 4, 8, true, false; Groups Biased 32),
        (Scaling::Groups, Biased, 4, 16) => pair!(groups, 4, 4, true, false; Groups Biased 16),
        (Scaling::Groups, Wide, _, 32) => pair!(wide_groups; Groups Wide 0),
        (Scaling::Groups, Signs, _, 32) => (
            [signs::laid_out::<8> as Multiply, signs::laid_out::<16>],
            lay_out::<{ Scaling::Groups as u8 }, { Signs as u8 }, 32> as LayOut,
        ),
        _ => return None,
    };
    let quads = if pairing == Wide { SLAB / 2 } else { SLAB / 4 };
    let direct = (facts.format == Format::Q8_0).then_some([signs::blocks::<8> as Direct, signs::blocks::<16>]);
    let few = if direct.is_some() { FEW_DIRECT } else { plan.few(facts) };
    Some(Kernels { quads, few, multiply, direct, lay_out, pack })
}

#[target_feature(enable = "avx2,fma,f16c")]
fn pack(x: &[f32], cols: usize, slab: Range<usize>, facts: &Facts, quads: &mut [Quad], side: &mut Side) {
    super::pack(x, cols, slab, Plan::new(facts).pairing, facts, quads, side);
}

/// Lays out with the facts that steer it known to the compiler; `GROUP` 0 where it makes no difference.
#[target_feature(enable = "avx2,fma,f16c")]
fn lay_out<const SCALING: u8, const PAIRING: u8, const GROUP: usize>(slab: &Slab, facts: &Facts, row: &mut Row) {
    let scaling = if SCALING == Scaling::Super as u8 { Scaling::Super } else { Scaling::Groups };
    let pairing = match PAIRING {
        pairing if pairing == Pairing::Unsigned as u8 => Pairing::Unsigned,
        pairing if pairing == Pairing::Biased as u8 => Pairing::Biased,
        pairing if pairing == Pairing::Signs as u8 => Pairing::Signs,
        _ => Pairing::Wide,
    };
    let group = if GROUP == 0 { facts.group } else { GROUP };
    let mins = if scaling == Scaling::Super { pairing == Pairing::Unsigned } else { facts.mins };
    let facts = Facts { scaling, group, mins, ..*facts };
    // The function by its name would be called through one that is compiled without AVX2.
    #[expect(clippy::redundant_closure)]
    super::lay_out(slab, pairing, &facts, row, |codes| sums_of_16(codes));
}

/// Sums of each 16 signed codes.
#[inline(always)]
fn sums_of_16(codes: &[u8; SLAB]) -> [i32; GROUPS] {
    let mut sums = [0; GROUPS];
    // SAFETY: every caller has AVX2 enabled; codes are eight registers, and sums two.
    unsafe {
        let (from, to) = (codes.as_ptr().cast::<__m256i>(), sums.as_mut_ptr().cast::<__m256i>());
        // With 128 added, signed bytes are unsigned ones; their sums come eight at a time.
        let mut eights = [_mm256_setzero_ps(); SLAB / 32];
        for i in 0..SLAB / 32 {
            let unsigned = _mm256_xor_si256(_mm256_loadu_si256(from.add(i)), _mm256_set1_epi8(i8::MIN));
            eights[i] = _mm256_castsi256_ps(_mm256_sad_epu8(unsigned, _mm256_setzero_si256()));
        }
        for i in 0..2 {
            let own = &eights[4 * i..][..4];
            let low = _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(own[0], own[1]));
            let high = _mm256_castps_si256(_mm256_shuffle_ps::<0x88>(own[2], own[3]));
            // Even ones in the lower half, odd ones in the upper.
            let apart = _mm256_hadd_epi32(low, high);
            let own = _mm256_permutevar8x32_epi32(apart, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(to.add(i), _mm256_sub_epi32(own, _mm256_set1_epi32(16 * 128)));
        }
    }
    sums
}

#[inline(always)]
fn zero<const HALVES: usize>() -> Tile<HALVES> {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { [[_mm256_setzero_si256(); HALVES]; ROWS] }
}

/// Four bytes of each row, starting at byte `4 * quad`, times a quad.
#[inline(always)]
fn times<const HALVES: usize>(
    rows: &[Row; ROWS],
    at: usize,
    quad: &Quad,
    mut product: impl FnMut(usize, usize, __m256i, __m256i),
) {
    // SAFETY: every caller has AVX2 enabled; a quad holds two registers, and codes hold `4 * at + 4` bytes, since `at` is
    // below the number of quads in a slab.
    unsafe {
        let start = quad.0.as_ptr().cast::<__m256i>();
        let mut halves = [_mm256_setzero_si256(); HALVES];
        for c in 0..HALVES {
            halves[c] = _mm256_load_si256(start.add(c));
        }
        for r in 0..ROWS {
            let codes = _mm256_set1_epi32(rows[r].codes.as_ptr().cast::<i32>().add(at).read_unaligned());
            for c in 0..HALVES {
                product(r, c, codes, halves[c]);
            }
        }
    }
}

/// A tile of both halves, where that is what `HALVES` says.
#[inline(always)]
fn from_both<const HALVES: usize>(both: Tile<2>) -> Tile<HALVES> {
    let mut tile = zero::<HALVES>();
    for r in 0..ROWS {
        tile[r].copy_from_slice(&both[r][..HALVES]);
    }
    tile
}

/// The reverse of [`from_both`].
#[inline(always)]
fn to_both<const HALVES: usize>(tile: Tile<HALVES>) -> Tile<2> {
    let mut both = zero::<2>();
    for r in 0..ROWS {
        both[r][..HALVES].copy_from_slice(&tile[r]);
    }
    both
}

/// `N`, hidden from the compiler if it is large: it would unroll the loop over quads, reorder it by rows, and run out of
/// registers.
#[inline(always)]
fn rolled<const N: usize>() -> usize {
    if N > 2 { std::hint::black_box(N) } else { N }
}

/// Sums in 16 bits of the products of `quads`, the first of which is quad `at` of its slab.
#[inline(always)]
fn narrow<const DEPTH: usize, const BIASED: bool, const HALVES: usize>(
    rows: &[Row; ROWS],
    at: usize,
    quads: &[Quad; DEPTH],
) -> Tile<HALVES> {
    let mut sums = zero::<HALVES>();
    if HALVES == 2 {
        // SAFETY: every caller has AVX2 enabled, and quads of a slab.
        return from_both(unsafe {
            match BIASED {
                true => quads::narrow::<DEPTH, { Pairing::Biased as u8 }>(rows, at, quads),
                false => quads::narrow::<DEPTH, { Pairing::Unsigned as u8 }>(rows, at, quads),
            }
        });
    }
    for (i, quad) in quads[..rolled::<DEPTH>()].iter().enumerate() {
        // SAFETY: every caller has AVX2 enabled.
        times::<HALVES>(rows, at + i, quad, |r, c, codes, x| unsafe {
            let products = if BIASED { _mm256_maddubs_epi16(x, codes) } else { _mm256_maddubs_epi16(codes, x) };
            sums[r][c] = _mm256_add_epi16(sums[r][c], products);
        });
    }
    sums
}

/// Pairs of 16-bit sums times `factor`, added to `sums`.
#[inline(always)]
fn widen<const HALVES: usize>(sums: &mut [__m256i; HALVES], narrow: &[__m256i; HALVES], factor: __m256i) {
    for c in 0..HALVES {
        // SAFETY: every caller has AVX2 enabled.
        sums[c] = unsafe { _mm256_add_epi32(sums[c], _mm256_madd_epi16(narrow[c], factor)) };
    }
}

/// `pair` in all lanes.
#[inline(always)]
fn splat(pair: [i16; 2]) -> __m256i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe { _mm256_set1_epi32(word(pair)) }
}

/// `to + (a * b) * whole`, where `b` and `to` are one of two halves of 16 columns.
#[inline(always)]
fn accumulate(to: &mut [f32; COLUMNS], half: usize, a: f32, b: &[f32; COLUMNS], whole: __m256i) {
    // SAFETY: every caller has AVX2 and FMA enabled; both halves lie in 16 columns.
    unsafe {
        let to = to.as_mut_ptr().add(8 * half);
        let factor = _mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(b.as_ptr().add(8 * half)));
        _mm256_storeu_ps(to, _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(whole), _mm256_loadu_ps(to)));
    }
}

/// Calls `tile` for four rows at a time.
#[inline(always)]
fn tiles(rows: &[Row], sums: &mut [[f32; COLUMNS]], tile: impl Fn(&[Row; ROWS], &mut [[f32; COLUMNS]; ROWS])) {
    const { assert!(super::GROUP.is_multiple_of(ROWS)) };
    for (rows, sums) in rows.as_chunks::<ROWS>().0.iter().zip(sums.as_chunks_mut::<ROWS>().0) {
        tile(rows, sums);
    }
}

/// Super-blocks with codes of few bits: `DEPTH` quads between widenings, `PAIRS` pairs of minima.
#[target_feature(enable = "avx2,fma")]
fn super_blocks<const DEPTH: usize, const BIASED: bool, const PAIRS: usize, const HALVES: usize>(
    rows: &[Row],
    quads: &[Quad],
    side: &Side,
    sums: &mut [[f32; COLUMNS]],
) {
    tiles(rows, sums, |rows, sums| {
        let mut whole = zero::<HALVES>();
        for r in 0..ROWS {
            if BIASED {
                whole[r] = [_mm256_set1_epi32(rows[r].bias[0]); HALVES];
            }
        }
        if DEPTH == 1 && HALVES == 2 {
            const { assert!(DEPTH > 1 || BIASED) };
            for (i, quads) in quads.as_chunks::<4>().0.iter().enumerate() {
                let mut scales = [_mm256_setzero_si256(); ROWS];
                for r in 0..ROWS {
                    scales[r] = splat(rows[r].scales[i]);
                }
                // SAFETY: AVX2 is enabled, and these are quads of a slab.
                whole = from_both(unsafe {
                    quads::add_each_scaled::<{ Pairing::Biased as u8 }>(to_both(whole), rows, 4 * i, quads, &scales)
                });
            }
        } else {
            for (i, quads) in quads.as_chunks::<DEPTH>().0.iter().enumerate() {
                let narrow = narrow::<DEPTH, BIASED, HALVES>(rows, i * DEPTH, quads);
                for r in 0..ROWS {
                    widen(&mut whole[r], &narrow[r], splat(rows[r].scales[i * DEPTH / 4]));
                }
            }
        }
        for r in 0..ROWS {
            for c in 0..HALVES {
                accumulate(&mut sums[r], c, rows[r].d[0], &side.d[0], whole[r][c]);
            }
        }
        if PAIRS == 0 {
            return;
        }
        for r in 0..ROWS {
            let mut whole = [_mm256_setzero_si256(); HALVES];
            for j in 0..PAIRS {
                widen(&mut whole, &load::<HALVES>(&side.sums[j]), splat(rows[r].mins[j]));
            }
            for c in 0..HALVES {
                accumulate(&mut sums[r], c, rows[r].m[0], &side.d[0], whole[c]);
            }
        }
    });
}

#[inline(always)]
fn load<const HALVES: usize>(pairs: &[[i16; 2]; COLUMNS]) -> [__m256i; HALVES] {
    // SAFETY: every caller has AVX2 enabled; 16 pairs are two registers.
    unsafe {
        let start = pairs.as_ptr().cast::<__m256i>();
        let mut halves = [_mm256_setzero_si256(); HALVES];
        for c in 0..HALVES {
            halves[c] = _mm256_loadu_si256(start.add(c));
        }
        halves
    }
}

/// Groups of `QUADS` quads with a float scale each, and codes of few bits. Unsigned codes come with minima or an offset.
#[target_feature(enable = "avx2,fma")]
fn groups<const DEPTH: usize, const QUADS: usize, const BIASED: bool, const MINS: bool, const HALVES: usize>(
    rows: &[Row],
    quads: &[Quad],
    side: &Side,
    sums: &mut [[f32; COLUMNS]],
) {
    tiles(rows, sums, |rows, sums| {
        for (i, quads) in quads.as_chunks::<QUADS>().0.iter().enumerate() {
            let (group, block) = (i * QUADS / 4, i * QUADS / 8);
            let mut whole = zero::<HALVES>();
            for r in 0..ROWS {
                if BIASED {
                    whole[r] = [_mm256_set1_epi32(rows[r].bias[group]); HALVES];
                } else if !MINS {
                    whole[r] = load::<HALVES>(&side.sums[block]);
                }
            }
            for (j, quads) in quads.as_chunks::<DEPTH>().0.iter().enumerate() {
                let narrow = narrow::<DEPTH, BIASED, HALVES>(rows, i * QUADS + j * DEPTH, quads);
                for r in 0..ROWS {
                    widen(&mut whole[r], &narrow[r], splat([1, 1]));
                }
            }
            for r in 0..ROWS {
                for c in 0..HALVES {
                    accumulate(&mut sums[r], c, rows[r].d[group], &side.d[block], whole[r][c]);
                }
                if MINS {
                    shift::<HALVES>(&mut sums[r], rows[r].m[group], &side.s[block]);
                }
            }
        }
    });
}

/// `to + a * b`.
#[inline(always)]
fn shift<const HALVES: usize>(to: &mut [f32; COLUMNS], a: f32, b: &[f32; COLUMNS]) {
    for c in 0..HALVES {
        // SAFETY: every caller has AVX2 and FMA enabled; both halves lie in 16 columns.
        unsafe {
            let to = to.as_mut_ptr().add(8 * c);
            let b = _mm256_loadu_ps(b.as_ptr().add(8 * c));
            _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_set1_ps(a), b, _mm256_loadu_ps(to)));
        }
    }
}

/// Sums in 32 bits of the products of quads of two columns each.
#[inline(always)]
fn wide<const HALVES: usize>(rows: &[Row; ROWS], at: usize, quads: &[Quad]) -> Tile<HALVES> {
    let mut sums = zero::<HALVES>();
    if HALVES == 2 {
        for (i, quads) in quads.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: every caller has AVX2 enabled, and fours of quads of a slab.
            sums = from_both(unsafe { quads::add_wide(to_both(sums), rows, at + 4 * i, quads) });
        }
        return sums;
    }
    for (i, quad) in quads.iter().enumerate() {
        // SAFETY: every caller has AVX2 enabled.
        times::<HALVES>(rows, at + i, quad, |r, c, codes, x| unsafe {
            sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(codes, x));
        });
    }
    sums
}

/// Super-blocks with codes of 8 bits.
#[target_feature(enable = "avx2,fma")]
fn wide_super_blocks<const HALVES: usize>(rows: &[Row], quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]]) {
    tiles(rows, sums, |rows, sums| {
        let whole = wide::<HALVES>(rows, 0, quads);
        for r in 0..ROWS {
            for c in 0..HALVES {
                accumulate(&mut sums[r], c, rows[r].d[0], &side.d[0], whole[r][c]);
            }
        }
    });
}

/// Groups of 32 with a float scale each, and codes of 8 bits.
#[target_feature(enable = "avx2,fma")]
fn wide_groups<const HALVES: usize>(rows: &[Row], quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]]) {
    tiles(rows, sums, |rows, sums| {
        for (i, quads) in quads.as_chunks::<16>().0.iter().enumerate() {
            let whole = wide::<HALVES>(rows, 16 * i, quads);
            for r in 0..ROWS {
                for c in 0..HALVES {
                    accumulate(&mut sums[r], c, rows[r].d[2 * i], &side.d[i], whole[r][c]);
                }
            }
        }
    });
}
