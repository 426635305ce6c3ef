//! Codes of 8 bits with a float scale for each 32: `w * x = (w * sign(x)) * |x|`, so that bytes can be multiplied.
//!
//! Two products fill 16 bits: `2 * 127 * 127 < 2^15`. So each pair is widened at once. That a code may be -128, which has
//! no opposite, is made up for in a place of its own. Codes are read where they lie: in rows that were laid out, or in
//! blocks of Q8_0. The loop over quads is assembly for the reasons in [`super::quads`].

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::{COLUMNS, GROUP, Quad, Row, SLAB, Side};

/// Registers of sums: of a row each, or of half of the columns of a row.
const SUMS: usize = 8;
type Sums = [__m256i; SUMS];
/// Blocks in a slab.
const PARTS: usize = SLAB / BLOCK;
/// Columns that share a scale.
const BLOCK: usize = 32;

/// Scales of each block of a slab, of [`GROUP`] rows each.
type Scales = [[f32; GROUP]; PARTS];

/// Where the codes and scales of a slab of [`GROUP`] rows are. All functions need AVX2 and F16C.
trait Rows: Copy {
    /// Bytes from the codes of a block to those of the next.
    const STEP: usize;
    /// Whether the rows come from memory, and the next slab should be asked for.
    const FETCHED: bool;
    /// Bytes from one row to the next.
    fn stride(&self) -> usize;
    /// The codes of a row.
    fn codes(&self, row: usize) -> *const u8;
    /// The scales of all blocks.
    unsafe fn scales(&self) -> Scales;
    /// Whether a code of `count` rows from `row` on is -128 in a block.
    unsafe fn any_lowest(&self, row: usize, count: usize, block: usize) -> bool;

    /// Bits of the codes of a block that are -128.
    #[inline(always)]
    unsafe fn lowest(&self, row: usize, block: usize) -> u32 {
        // SAFETY: there is a block; AVX2 by the trait's contract.
        unsafe {
            let codes = _mm256_loadu_si256(self.codes(row).add(block * Self::STEP).cast());
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(codes, _mm256_set1_epi8(i8::MIN))).cast_unsigned()
        }
    }
}

/// Rows that were laid out.
#[derive(Clone, Copy)]
struct LaidOut<'a>(&'a [Row; GROUP]);

impl Rows for LaidOut<'_> {
    const STEP: usize = BLOCK;
    const FETCHED: bool = false;

    fn stride(&self) -> usize {
        size_of::<Row>()
    }

    #[inline(always)]
    fn codes(&self, row: usize) -> *const u8 {
        self.0[row].codes.as_ptr()
    }

    #[inline(always)]
    unsafe fn scales(&self) -> Scales {
        let mut scales = [[0.0; GROUP]; PARTS];
        for (block, scales) in scales.iter_mut().enumerate() {
            for (scale, row) in scales.iter_mut().zip(self.0) {
                *scale = row.d[2 * block];
            }
        }
        scales
    }

    #[inline(always)]
    unsafe fn any_lowest(&self, row: usize, count: usize, block: usize) -> bool {
        self.0[row..][..count].iter().fold(0, |bits, row| bits | row.bias[0] & 1 << block) != 0
    }
}

/// Blocks of Q8_0: a scale, and 32 codes as they are multiplied. There is a whole slab of each row.
#[derive(Clone, Copy)]
struct Blocks {
    start: *const u8,
    stride: usize,
}

impl Rows for Blocks {
    const STEP: usize = 2 + BLOCK;
    const FETCHED: bool = true;

    fn stride(&self) -> usize {
        self.stride
    }

    #[inline(always)]
    fn codes(&self, row: usize) -> *const u8 {
        self.start.wrapping_add(2 + row * self.stride)
    }

    #[inline(always)]
    unsafe fn scales(&self) -> Scales {
        let mut scales = [[0.0; GROUP]; PARTS];
        for (block, scales) in scales.iter_mut().enumerate() {
            // SAFETY: there are all blocks of all rows; AVX2 and F16C by the trait's contract.
            unsafe {
                let at = |row: usize| self.start.add(row * self.stride + block * Self::STEP).cast::<i16>();
                let half = |row: usize| at(row).read_unaligned();
                let halves = _mm_setr_epi16(half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7));
                _mm256_storeu_ps(scales.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
        scales
    }

    #[inline(always)]
    unsafe fn any_lowest(&self, row: usize, count: usize, block: usize) -> bool {
        // SAFETY: there is a block of each row; AVX2 by the trait's contract.
        unsafe {
            let codes = |row: usize| _mm256_loadu_si256(self.codes(row).add(block * Self::STEP).cast());
            let mut least = codes(row);
            for row in row + 1..row + count {
                least = _mm256_min_epi8(least, codes(row));
            }
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_set1_epi8(i8::MIN))) != 0
        }
    }
}

/// Four codes of a row go to all lanes of `{w}`.
macro_rules! codes {
    ($row:literal) => {
        concat!("vpbroadcastd {w}, dword ptr [", $row, " + {code}]")
    };
}

/// The products of the codes in `{w}` with a register of activations are added to a register of sums.
macro_rules! product {
    ($sum:literal, $magnitudes:literal, $register:literal) => {
        concat!(
            "vpsignb {t}, {w}, ymmword ptr [{x} + {at} + 32 * ",
            $register,
            "]\n",
            "vpmaddubsw {t}, {",
            $magnitudes,
            "}, {t}\n",
            "vpmaddwd {t}, {t}, {ones}\n",
            "vpaddd {",
            $sum,
            "}, {",
            $sum,
            "}, {t}"
        )
    };
}

/// A step over codes: of 8 rows, each in one register of sums.
macro_rules! eight_rows {
    ($step:ident) => {
        $step!(
            "/* {v} */",
            codes!("{codes}"),
            product!("a", "u", "0"),
            codes!("{codes} + {stride}"),
            product!("b", "u", "0"),
            codes!("{codes} + 2 * {stride}"),
            product!("c", "u", "0"),
            codes!("{codes} + {thrice}"),
            product!("d", "u", "0"),
            codes!("{fifth}"),
            product!("e", "u", "0"),
            codes!("{fifth} + {stride}"),
            product!("f", "u", "0"),
            codes!("{fifth} + 2 * {stride}"),
            product!("g", "u", "0"),
            codes!("{fifth} + {thrice}"),
            product!("h", "u", "0")
        )
    };
}

/// A step over codes: of 4 rows, each in two registers of sums.
macro_rules! four_rows {
    ($step:ident) => {
        $step!(
            "vpabsb {v}, ymmword ptr [{x} + {at} + 32]",
            codes!("{codes}"),
            product!("a", "u", "0"),
            product!("b", "v", "1"),
            codes!("{codes} + {stride}"),
            product!("c", "u", "0"),
            product!("d", "v", "1"),
            codes!("{codes} + 2 * {stride}"),
            product!("e", "u", "0"),
            product!("f", "v", "1"),
            codes!("{codes} + {thrice}"),
            product!("g", "u", "0"),
            product!("h", "v", "1"),
            "/* {fifth} */"
        )
    };
}

/// Quad `AT`: products of four codes of each row are added to `sums`, which are those of 8 rows, or of 4 rows where there are
/// 16 columns.
///
/// # Safety
/// AVX2; so many rows from `codes` on, `stride` apart, each with so many codes, and as many of each column at `x`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add<const COUNT: usize, const AT: usize>(sums: &mut Sums, codes: *const u8, stride: usize, x: *const Quad) {
    let ones = _mm256_set1_epi16(1);
    let fifth = codes.wrapping_add(4 * stride);
    let [a, b, c, d, e, f, g, h] = sums;
    macro_rules! step {
        ($($line:expr),+) => {
            asm!(
                "vpabsb {u}, ymmword ptr [{x} + {at}]",
                $($line,)+
                codes = in(reg) codes,
                stride = in(reg) stride,
                thrice = in(reg) 3 * stride,
                fifth = in(reg) fifth,
                x = in(reg) x,
                at = const size_of::<Quad>() * AT,
                code = const 4 * AT,
                ones = in(ymm_reg) ones,
                u = out(ymm_reg) _,
                v = out(ymm_reg) _,
                w = out(ymm_reg) _,
                t = out(ymm_reg) _,
                a = inout(ymm_reg) *a, b = inout(ymm_reg) *b, c = inout(ymm_reg) *c, d = inout(ymm_reg) *d,
                e = inout(ymm_reg) *e, f = inout(ymm_reg) *f, g = inout(ymm_reg) *g, h = inout(ymm_reg) *h,
                options(nostack, preserves_flags, readonly)
            )
        };
    }
    // SAFETY: what is read is there, by this function's contract.
    unsafe {
        match COUNT {
            8 => eight_rows!(step),
            _ => four_rows!(step),
        }
    }
}

/// What a block of each of some rows contributes, from row `row` on.
///
/// # Safety
/// There are so many rows, and 32 codes of each of `COUNT` columns at `x`; AVX2.
#[inline(always)]
unsafe fn whole<R: Rows, const COUNT: usize>(rows: R, row: usize, block: usize, x: *const Quad) -> Sums {
    let (codes, stride) = (rows.codes(row).wrapping_add(block * R::STEP), rows.stride());
    let count = SUMS / registers(COUNT);
    // SAFETY: by this function's contract.
    unsafe {
        if R::FETCHED {
            fetch_next(codes, stride);
            if count > 4 {
                fetch_next(codes.wrapping_add(4 * stride), stride);
            }
        }
        let mut sums = [_mm256_setzero_si256(); SUMS];
        add::<COUNT, 0>(&mut sums, codes, stride, x);
        add::<COUNT, 1>(&mut sums, codes, stride, x);
        add::<COUNT, 2>(&mut sums, codes, stride, x);
        add::<COUNT, 3>(&mut sums, codes, stride, x);
        add::<COUNT, 4>(&mut sums, codes, stride, x);
        add::<COUNT, 5>(&mut sums, codes, stride, x);
        add::<COUNT, 6>(&mut sums, codes, stride, x);
        add::<COUNT, 7>(&mut sums, codes, stride, x);
        if rows.any_lowest(row, count, block) {
            let mut lowest = [0; SUMS];
            for r in 0..count {
                lowest[r] = rows.lowest(row + r, block);
            }
            sums = corrected::<COUNT>(sums, &lowest, x);
        }
        sums
    }
}

/// Asks for what lies a slab further on in four rows, too far from the next row's for the machine to guess. Assembly, since
/// the compiler would keep an address for each row.
#[inline(always)]
fn fetch_next(codes: *const u8, stride: usize) {
    // SAFETY: SSE is part of x86-64, and a prefetch reads nothing, wherever it points.
    unsafe {
        asm!(
            "prefetcht0 [{codes} + {slab}]",
            "prefetcht0 [{codes} + {stride} + {slab}]",
            "prefetcht0 [{codes} + 2 * {stride} + {slab}]",
            "prefetcht0 [{codes} + {thrice} + {slab}]",
            codes = in(reg) codes,
            stride = in(reg) stride,
            thrice = in(reg) 3 * stride,
            slab = const PARTS * Blocks::STEP,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Registers that sums of a row take.
const fn registers(count: usize) -> usize {
    count.div_ceil(8)
}

/// With what codes of -128 contribute, which were multiplied as if they were their own opposites: `2 * 128 * x` where `x` is
/// negative, for each of them.
///
/// # Safety
/// 32 codes of each column at `x`; AVX2.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx2")]
unsafe fn corrected<const COUNT: usize>(mut sums: Sums, lowest: &[u32; SUMS], x: *const Quad) -> Sums {
    for (i, sum) in sums.iter_mut().enumerate() {
        let mut bits = lowest[i / registers(COUNT)];
        while bits != 0 {
            let k = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let at = 2 * (k / 4) + i % registers(COUNT);
            // SAFETY: by this function's contract.
            let x = unsafe { _mm256_load_si256(x.cast::<__m256i>().add(at)) };
            let x = _mm256_srai_epi32::<24>(_mm256_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * (k % 4) as i32)));
            let negative = _mm256_min_epi32(x, _mm256_setzero_si256());
            *sum = _mm256_sub_epi32(*sum, _mm256_slli_epi32::<8>(negative));
        }
    }
    sums
}

/// Products of [`GROUP`] rows with a slab of up to `COUNT` columns, 8 or 16.
///
/// # Safety
/// There are so many rows; AVX2, FMA and F16C.
#[inline(always)]
unsafe fn lanes<R: Rows, const COUNT: usize>(rows: R, quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]; GROUP]) {
    const { assert!(COUNT == 8 || COUNT == 16) };
    let registers = registers(COUNT);
    // SAFETY: by this function's contract.
    let scales = unsafe { rows.scales() };
    for (part, sums) in sums.chunks_exact_mut(SUMS / registers).enumerate() {
        let first = part * SUMS / registers;
        for (i, quads) in quads.as_chunks::<{ BLOCK / 4 }>().0.iter().enumerate() {
            // SAFETY: by this function's contract; 16 numbers are two registers.
            unsafe {
                let whole = whole::<R, COUNT>(rows, first, i, quads.as_ptr());
                for (r, sums) in sums.iter_mut().enumerate() {
                    let scale = _mm256_set1_ps(scales[i][first + r]);
                    for c in 0..registers {
                        let to = sums.as_mut_ptr().add(8 * c);
                        let factor = _mm256_mul_ps(scale, _mm256_loadu_ps(side.d[i].as_ptr().add(8 * c)));
                        let own = _mm256_cvtepi32_ps(whole[r * registers + c]);
                        _mm256_storeu_ps(to, _mm256_fmadd_ps(factor, own, _mm256_loadu_ps(to)));
                    }
                }
            }
        }
    }
}

/// Rows that were laid out.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn laid_out<const COUNT: usize>(rows: &[Row], quads: &[Quad], side: &Side, sums: &mut [[f32; COLUMNS]]) {
    for (rows, sums) in rows.as_chunks::<GROUP>().0.iter().zip(sums.as_chunks_mut().0) {
        // SAFETY: so many rows; AVX2, FMA and F16C are enabled.
        unsafe { lanes::<_, COUNT>(LaidOut(rows), quads, side, sums) };
    }
}

/// Blocks of Q8_0.
///
/// # Safety
/// As [`super::super::Direct`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn blocks<const COUNT: usize>(
    start: *const u8,
    stride: usize,
    quads: &[Quad],
    side: &Side,
    sums: &mut [[f32; COLUMNS]; GROUP],
) {
    // SAFETY: by this function's contract; AVX2, FMA and F16C are enabled.
    unsafe { lanes::<_, COUNT>(Blocks { start, stride }, quads, side, sums) };
}
