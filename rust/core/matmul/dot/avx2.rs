//! Dot products for AVX2. Columns are lanes here, in integers, where the order of additions is free.

use std::arch::x86_64::*;

use super::{Dot, Facts, ROWS, Rounded, SLAB, Scaling, Slab};

/// Registers that a slab's codes take, and groups of 32 in it.
const PARTS: usize = SLAB / 32;

pub(super) fn dot(facts: &Facts) -> Dot {
    let signed = facts.offset == 0 && !facts.mins;
    match (facts.scaling, signed, facts.mins, facts.group) {
        (Scaling::Super, true, ..) => super_blocks::<true, false>,
        (Scaling::Super, false, true, _) => super_blocks::<false, true>,
        (Scaling::Super, false, false, _) => super_blocks::<false, false>,
        (Scaling::Groups, _, _, 16) => groups::<true, false, 16>,
        (Scaling::Groups, true, ..) => groups::<true, false, 32>,
        (Scaling::Groups, false, true, _) => groups::<false, true, 32>,
        (Scaling::Groups, false, false, _) => groups::<false, false, 32>,
    }
}

/// Pairs of products of part `j`, in 16 bits. Two products of codes of 8 bits fit: `2 * 128 * 127 < 2^15`.
#[inline(always)]
fn products<const SIGNED: bool>(slab: &Slab, x: &Rounded, j: usize) -> __m256i {
    // SAFETY: every caller has AVX2 enabled; both hold 8 parts, aligned.
    unsafe {
        let codes = _mm256_load_si256(slab.codes.as_ptr().cast::<__m256i>().add(j));
        let x = _mm256_load_si256(x.codes.as_ptr().cast::<__m256i>().add(j));
        if SIGNED {
            // The sign goes over to the activation, which is never -128.
            _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
        } else {
            _mm256_maddubs_epi16(codes, x)
        }
    }
}

#[inline(always)]
fn load16(numbers: &[i16; 16]) -> __m256i {
    // SAFETY: every caller has AVX2 enabled; 16 numbers are one register.
    unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
}

/// For each of four registers the sum of its lanes.
#[inline(always)]
fn totals(parts: &[__m256i; ROWS]) -> __m128i {
    // SAFETY: every caller has AVX2 enabled.
    unsafe {
        let (low, high) = (_mm256_hadd_epi32(parts[0], parts[1]), _mm256_hadd_epi32(parts[2], parts[3]));
        let both = _mm256_hadd_epi32(low, high);
        _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both))
    }
}

/// Which bytes of 8 scales go to the lanes of a part: one scale for each half of it.
const SCALE_LANES: [[u8; 32]; 4] = {
    let mut lanes = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        lanes[i / 32][i % 32] = (4 * (i / 32) + 2 * (i % 32 / 16) + i % 2) as u8;
        i += 1;
    }
    lanes
};

/// The whole number that a slab of a super-block format contributes, spread over lanes.
#[inline(always)]
fn whole<const SIGNED: bool>(slab: &Slab, x: &Rounded, offset: __m256i) -> __m256i {
    // SAFETY: every caller has AVX2 enabled; the masks are one register each.
    unsafe {
        let scales = load16(&slab.scales);
        let halves =
            [_mm256_permute2x128_si256::<0x00>(scales, scales), _mm256_permute2x128_si256::<0x11>(scales, scales)];
        let mut sum = _mm256_setzero_si256();
        for j in 0..PARTS {
            let lanes = _mm256_loadu_si256(SCALE_LANES[j % 4].as_ptr().cast());
            let scales = _mm256_shuffle_epi8(halves[j / 4], lanes);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products::<SIGNED>(slab, x, j), scales));
        }
        if !SIGNED {
            // What the offset adds to every code: nothing for formats with minima, whose offset is 0.
            let excess = _mm256_madd_epi16(scales, load16(&x.sums));
            sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(excess, offset));
        }
        sum
    }
}

/// `sums + d * x * whole`, lanes being rows.
#[inline(always)]
fn accumulate(sums: __m128, d: [f32; ROWS], x: f32, whole: __m128i) -> __m128 {
    // SAFETY: every caller has AVX2 and FMA enabled; `d` is one register.
    unsafe {
        let factors = _mm_mul_ps(_mm_loadu_ps(d.as_ptr()), _mm_set1_ps(x));
        _mm_fmadd_ps(factors, _mm_cvtepi32_ps(whole), sums)
    }
}

#[target_feature(enable = "avx2,fma")]
fn super_blocks<const SIGNED: bool, const MINS: bool>(
    facts: &Facts,
    rows: [&[Slab]; ROWS],
    x: &[Rounded],
    sums: &mut [f32; ROWS],
) {
    let rows = rows.map(|slabs| &slabs[..x.len()]);
    let offset = _mm256_set1_epi32(i32::from(facts.offset));
    // SAFETY: four sums are one register.
    let mut own = unsafe { _mm_loadu_ps(sums.as_ptr()) };
    for (i, x) in x.iter().enumerate() {
        let mut parts = [_mm256_setzero_si256(); ROWS];
        for r in 0..ROWS {
            parts[r] = whole::<SIGNED>(&rows[r][i], x, offset);
        }
        let d = [rows[0][i].d[0], rows[1][i].d[0], rows[2][i].d[0], rows[3][i].d[0]];
        own = accumulate(own, d, x.d[0], totals(&parts));
        if MINS {
            for r in 0..ROWS {
                parts[r] = _mm256_madd_epi16(load16(&rows[r][i].mins), load16(&x.sums));
            }
            let m = [rows[0][i].m[0], rows[1][i].m[0], rows[2][i].m[0], rows[3][i].m[0]];
            own = accumulate(own, m, x.d[0], totals(&parts));
        }
    }
    // SAFETY: as above.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), own) };
}

/// The whole number that each group of `GROUP` columns contributes, in order.
#[inline(always)]
fn group_totals<const SIGNED: bool, const GROUP: usize>(slab: &Slab, x: &Rounded, offset: __m256i) -> [i32; 16] {
    let mut totals = [0; 16];
    // SAFETY: every caller has AVX2 enabled; 16 numbers are two registers.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut quarters = [_mm256_setzero_si256(); 2];
        for half in 0..2 {
            let mut pairs = [_mm256_setzero_si256(); 2];
            for j in 0..2 {
                let first = 4 * half + 2 * j;
                let low = _mm256_madd_epi16(products::<SIGNED>(slab, x, first), ones);
                let high = _mm256_madd_epi16(products::<SIGNED>(slab, x, first + 1), ones);
                pairs[j] = _mm256_hadd_epi32(low, high);
            }
            // Sums of the first 16 columns of four parts, then of their last 16.
            quarters[half] = _mm256_hadd_epi32(pairs[0], pairs[1]);
        }
        let to = totals.as_mut_ptr().cast::<__m256i>();
        let firsts = _mm256_permute2x128_si256::<0x20>(quarters[0], quarters[1]);
        let lasts = _mm256_permute2x128_si256::<0x31>(quarters[0], quarters[1]);
        if GROUP == 32 {
            let mut sums = _mm256_add_epi32(firsts, lasts);
            if !SIGNED {
                let excess = _mm256_madd_epi16(load16(&x.sums), ones);
                sums = _mm256_sub_epi32(sums, _mm256_mullo_epi32(excess, offset));
            }
            _mm256_storeu_si256(to, sums);
        } else {
            let (low, high) = (_mm256_unpacklo_epi32(firsts, lasts), _mm256_unpackhi_epi32(firsts, lasts));
            _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
    totals
}

#[target_feature(enable = "avx2,fma")]
fn groups<const SIGNED: bool, const MINS: bool, const GROUP: usize>(
    facts: &Facts,
    rows: [&[Slab]; ROWS],
    x: &[Rounded],
    sums: &mut [f32; ROWS],
) {
    let rows = rows.map(|slabs| &slabs[..x.len()]);
    let offset = _mm256_set1_epi32(i32::from(facts.offset));
    let mut own = *sums;
    for (i, x) in x.iter().enumerate() {
        let mut whole = [[0; 16]; ROWS];
        for r in 0..ROWS {
            whole[r] = group_totals::<SIGNED, GROUP>(&rows[r][i], x, offset);
        }
        for j in 0..SLAB / GROUP {
            let (entry, block) = (j * GROUP / 16, j * GROUP / 32);
            for r in 0..ROWS {
                let slab = &rows[r][i];
                own[r] = (slab.d[entry] * x.d[block]).mul_add(whole[r][j] as f32, own[r]);
                if MINS {
                    own[r] = slab.m[entry].mul_add(x.s[block], own[r]);
                }
            }
        }
    }
    *sums = own;
}
