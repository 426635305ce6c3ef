//! The inner loop: products of quads with four rows, added in 16 bits.
//!
//! It is assembly, since compilers put the products of several quads with one row together, have too few registers for that,
//! and spend a third of the instructions on moving sums about. Half tiles are compiled from the same arithmetic in
//! intrinsics, [`super::times`].

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::{Pairing, Quad, Row};
use super::{ROWS, Tile};

/// The products of one row with a quad become sums; `$first` and `$second` are the operands for each half.
macro_rules! start {
    ($row:literal, $multiply:literal, $add:literal, $first:literal, $second:literal) => {
        concat!(
            "vpbroadcastd {w}, dword ptr [{codes} + {at_",
            $row,
            "}]\n",
            $multiply,
            " {",
            $row,
            "0}, ",
            $first,
            "\n",
            $multiply,
            " {",
            $row,
            "1}, ",
            $second
        )
    };
}

/// The products of one row with a quad are added to sums.
macro_rules! add {
    ($row:literal, $multiply:literal, $add:literal, $first:literal, $second:literal) => {
        concat!(
            "vpbroadcastd {w}, dword ptr [{codes} + {at_",
            $row,
            "}]\n",
            $multiply,
            " {t}, ",
            $first,
            "\n",
            $multiply,
            " {w}, ",
            $second,
            "\n",
            $add,
            " {",
            $row,
            "0}, {",
            $row,
            "0}, {t}\n",
            $add,
            " {",
            $row,
            "1}, {",
            $row,
            "1}, {w}"
        )
    };
}

/// The products of one row with a quad are multiplied by the row's scale and added to sums in 32 bits.
macro_rules! scale {
    ($row:literal, $multiply:literal, $add:literal, $first:literal, $second:literal) => {
        concat!(
            "vpbroadcastd {w}, dword ptr [{codes} + {at_",
            $row,
            "}]\n",
            $multiply,
            " {t}, ",
            $first,
            "\n",
            $multiply,
            " {w}, ",
            $second,
            "\n",
            "vpmaddwd {t}, {t}, {scale_",
            $row,
            "}\n",
            "vpmaddwd {w}, {w}, {scale_",
            $row,
            "}\n",
            $add,
            " {",
            $row,
            "0}, {",
            $row,
            "0}, {t}\n",
            $add,
            " {",
            $row,
            "1}, {",
            $row,
            "1}, {w}"
        )
    };
}

/// Four codes of each row with quad number `$at`: `$step` for each row, with these instructions and operands. The unsigned
/// operand of a product of bytes comes first: activations if they are biased.
macro_rules! quad {
    (
        $step:ident $multiply:literal $add:literal $first:literal $second:literal,
        $rows:ident, $quads:ident, $at:ident, $($operand:tt)*
    ) => {
        asm!(
            "vmovdqa {x0}, ymmword ptr [{quads} + {at}]",
            "vmovdqa {x1}, ymmword ptr [{quads} + {at} + 32]",
            $step!("a", $multiply, $add, $first, $second),
            $step!("b", $multiply, $add, $first, $second),
            $step!("c", $multiply, $add, $first, $second),
            $step!("d", $multiply, $add, $first, $second),
            codes = in(reg) $rows,
            quads = in(reg) $quads,
            at = const size_of::<Quad>() * $at,
            at_a = const 4 * $at,
            at_b = const 4 * $at + size_of::<Row>(),
            at_c = const 4 * $at + 2 * size_of::<Row>(),
            at_d = const 4 * $at + 3 * size_of::<Row>(),
            x0 = out(ymm_reg) _,
            x1 = out(ymm_reg) _,
            w = out(ymm_reg) _,
            $($operand)*
            options(nostack, preserves_flags, readonly)
        )
    };
}

/// As [`quad`], `$step` being done as a pairing wants.
macro_rules! paired {
    ($pairing:ident, $step:ident, $add:literal, $($rest:tt)*) => {
        if $pairing == Pairing::Biased as u8 {
            quad!($step "vpmaddubsw" $add "{x0}, {w}" "{x1}, {w}", $($rest)*)
        } else if $pairing == Pairing::Unsigned as u8 {
            quad!($step "vpmaddubsw" $add "{w}, {x0}" "{w}, {x1}", $($rest)*)
        } else {
            quad!($step "vpmaddwd" "vpaddd" "{w}, {x0}" "{w}, {x1}", $($rest)*)
        }
    };
}

/// The sums of a tile of 16 columns, row after row.
type Sums = [__m256i; 2 * ROWS];

/// The products of the first of `quads`.
///
/// # Safety
/// AVX2; a quad at `quads`, four bytes at `codes`, and at as many rows as a tile has from there on.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn first<const PAIRING: u8>(codes: *const u8, quads: *const Quad) -> Sums {
    const AT: usize = 0;
    let [a0, a1, b0, b1, c0, c1, d0, d1]: Sums;
    // SAFETY: what is read is there, by this function's contract.
    unsafe {
        paired!(
            PAIRING, start, "", codes, quads, AT,
            a0 = out(ymm_reg) a0, a1 = out(ymm_reg) a1, b0 = out(ymm_reg) b0, b1 = out(ymm_reg) b1,
            c0 = out(ymm_reg) c0, c1 = out(ymm_reg) c1, d0 = out(ymm_reg) d0, d1 = out(ymm_reg) d1,
        );
    }
    [a0, a1, b0, b1, c0, c1, d0, d1]
}

/// Adds the products of quad `AT`: bytes in 16 bits, others in 32.
///
/// # Safety
/// As [`first`], with `AT` more quads and four times as many codes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add<const PAIRING: u8, const AT: usize>(sums: &mut Sums, codes: *const u8, quads: *const Quad) {
    let [a0, a1, b0, b1, c0, c1, d0, d1] = sums;
    // SAFETY: what is read is there, by this function's contract.
    unsafe {
        paired!(
            PAIRING, add, "vpaddw", codes, quads, AT, t = out(ymm_reg) _,
            a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1,
            c0 = inout(ymm_reg) *c0, c1 = inout(ymm_reg) *c1, d0 = inout(ymm_reg) *d0, d1 = inout(ymm_reg) *d1,
        );
    }
}

/// Adds the products of quad `AT`, times a scale for each row, in 32 bits.
///
/// # Safety
/// As [`add`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_scaled<const PAIRING: u8, const AT: usize>(
    sums: &mut Sums,
    codes: *const u8,
    quads: *const Quad,
    scales: &[__m256i; ROWS],
) {
    let [a0, a1, b0, b1, c0, c1, d0, d1] = sums;
    // SAFETY: what is read is there, by this function's contract.
    unsafe {
        paired!(
            PAIRING, scale, "vpaddd", codes, quads, AT, t = out(ymm_reg) _,
            a0 = inout(ymm_reg) *a0, a1 = inout(ymm_reg) *a1, b0 = inout(ymm_reg) *b0, b1 = inout(ymm_reg) *b1,
            c0 = inout(ymm_reg) *c0, c1 = inout(ymm_reg) *c1, d0 = inout(ymm_reg) *d0, d1 = inout(ymm_reg) *d1,
            scale_a = in(ymm_reg) scales[0], scale_b = in(ymm_reg) scales[1],
            scale_c = in(ymm_reg) scales[2], scale_d = in(ymm_reg) scales[3],
        );
    }
}

fn flat([[a0, a1], [b0, b1], [c0, c1], [d0, d1]]: Tile<2>) -> Sums {
    [a0, a1, b0, b1, c0, c1, d0, d1]
}

fn tile([a0, a1, b0, b1, c0, c1, d0, d1]: Sums) -> Tile<2> {
    [[a0, a1], [b0, b1], [c0, c1], [d0, d1]]
}

/// Where the codes of quad `at` are in the first of `rows`.
fn codes(rows: &[Row; ROWS], at: usize) -> *const u8 {
    const { assert!(std::mem::offset_of!(Row, codes) == 0) };
    rows.as_ptr().cast::<u8>().wrapping_add(4 * at)
}

/// Sums in 16 bits of the products of `quads`, of which there are 1, 2, 4 or 8, the first of which is quad `at` of its slab.
///
/// # Safety
/// AVX2; so many quads in a slab.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn narrow<const DEPTH: usize, const PAIRING: u8>(
    rows: &[Row; ROWS],
    at: usize,
    quads: &[Quad; DEPTH],
) -> Tile<2> {
    const { assert!(matches!(DEPTH, 1 | 2 | 4 | 8)) };
    let (codes, quads) = (codes(rows, at), quads.as_ptr());
    // SAFETY: by this function's contract.
    unsafe {
        let mut sums = first::<PAIRING>(codes, quads);
        if DEPTH > 1 {
            add::<PAIRING, 1>(&mut sums, codes, quads);
        }
        if DEPTH > 2 {
            add::<PAIRING, 2>(&mut sums, codes, quads);
            add::<PAIRING, 3>(&mut sums, codes, quads);
        }
        if DEPTH > 4 {
            add::<PAIRING, 4>(&mut sums, codes, quads);
            add::<PAIRING, 5>(&mut sums, codes, quads);
            add::<PAIRING, 6>(&mut sums, codes, quads);
            add::<PAIRING, 7>(&mut sums, codes, quads);
        }
        tile(sums)
    }
}

/// Adds the products of four quads of 16-bit codes to sums in 32 bits.
///
/// # Safety
/// As [`narrow`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_wide(sums: Tile<2>, rows: &[Row; ROWS], at: usize, quads: &[Quad; 4]) -> Tile<2> {
    const WIDE: u8 = Pairing::Wide as u8;
    let (mut sums, codes, quads) = (flat(sums), codes(rows, at), quads.as_ptr());
    // SAFETY: by this function's contract.
    unsafe {
        add::<WIDE, 0>(&mut sums, codes, quads);
        add::<WIDE, 1>(&mut sums, codes, quads);
        add::<WIDE, 2>(&mut sums, codes, quads);
        add::<WIDE, 3>(&mut sums, codes, quads);
    }
    tile(sums)
}

/// Adds the products of four quads, times a scale for each row, to sums in 32 bits.
///
/// # Safety
/// As [`narrow`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_each_scaled<const PAIRING: u8>(
    sums: Tile<2>,
    rows: &[Row; ROWS],
    at: usize,
    quads: &[Quad; 4],
    scales: &[__m256i; ROWS],
) -> Tile<2> {
    let (mut sums, codes, quads) = (flat(sums), codes(rows, at), quads.as_ptr());
    // SAFETY: by this function's contract.
    unsafe {
        add_scaled::<PAIRING, 0>(&mut sums, codes, quads, scales);
        add_scaled::<PAIRING, 1>(&mut sums, codes, quads, scales);
        add_scaled::<PAIRING, 2>(&mut sums, codes, quads, scales);
        add_scaled::<PAIRING, 3>(&mut sums, codes, quads, scales);
    }
    tile(sums)
}
