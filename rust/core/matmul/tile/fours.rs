//! The panel kernel for machines with an instruction that multiplies four bytes by four others and adds all products to a
//! sum of 32 bits: AVX-512 VNNI, AVX-VNNI, and the dot products of NEON.
//!
//! Nothing overflows, so that every format goes the same way: signed codes, broadcast, against activations, which have
//! 128 added where the instruction wants them unsigned. Sums start with what takes that off again.

use super::{CODE, COLUMNS, Facts, GROUP, Quad, Row, SLAB, Scaling, Side, Slab, word};

/// Sums of 32 bits, one a column: 16, or the first 8 of them, as all else here.
pub(super) trait Sums: Copy {
    /// As many floats.
    type Floats: Copy;
    /// Whether activations are unsigned, with 128 added.
    const BIASED: bool;
    /// Instructions that scale sums and add them to others, if they fit 32 bits and no less.
    const SCALING_COST: usize;

    /// The same value in all lanes.
    fn splat(value: i32) -> Self;
    /// Adds the products of four signed codes, the lowest byte first, and those of each column.
    fn add_products(self, codes: i32, quad: &Quad) -> Self;
    /// Adds `sums * scale`. `NARROW` promises that sums and scale fit 16 bits, and that no more of `scale` is set.
    fn add_scaled<const NARROW: bool>(self, sums: Self, scale: i32) -> Self;
    /// Adds `pairs[i][0] * factors[0] + pairs[i][1] * factors[1]`.
    fn add_pairs(self, pairs: &[[i16; 2]; COLUMNS], factors: [i16; 2]) -> Self;
    /// As many numbers.
    fn load(from: &[f32; COLUMNS]) -> Self::Floats;
    /// Writes as many numbers.
    fn store(floats: Self::Floats, to: &mut [f32; COLUMNS]);
    /// `floats + (a * b) * self`: one product rounded, the other not.
    fn accumulate(self, floats: Self::Floats, a: f32, b: &[f32; COLUMNS]) -> Self::Floats;
    /// `floats + a * b` with one rounding.
    fn shift(floats: Self::Floats, a: f32, b: &[f32; COLUMNS]) -> Self::Floats;
}

/// Quads whose products are summed before they are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) quads: usize,
    /// Whether such a sum fits 16 bits: multiplying and adding it is one instruction then.
    pub(super) narrow: bool,
}

impl Depth {
    pub(super) const fn new(facts: &Facts, scaling_cost: usize) -> Self {
        let group = facts.group / 4;
        if let Scaling::Super = facts.scaling {
            let fitting = i16::MAX as i32 / (4 * facts.max * CODE);
            let mut quads = group;
            while quads > fitting as usize {
                quads /= 2;
            }
            if quads > 0 && group / quads < scaling_cost {
                return Self { quads, narrow: true };
            }
        }
        Self { quads: group, narrow: false }
    }
}

/// What the bias contributes to each four codes lies behind them.
const BIAS: usize = SLAB / 4;

impl Row {
    /// Word `at` of the codes.
    #[inline(always)]
    fn word(&self, at: usize) -> i32 {
        debug_assert!(at < 2 * SLAB / 4);
        // SAFETY: kernels ask for words of a slab's quads and for the biases behind them; bytes may lie anywhere.
        unsafe { self.codes.as_ptr().cast::<i32>().add(at).read_unaligned() }
    }
}

/// Lays out a row: signed codes, and biases at the first quad of each [`Depth`].
#[inline(always)]
pub(super) fn lay_out<S: Sums>(slab: &Slab, facts: &Facts, row: &mut Row) {
    let depth = Depth::new(facts, S::SCALING_COST);
    row.d = slab.d;
    row.m = slab.m;
    if facts.mins {
        row.mins = super::mins(slab, facts);
    }
    // Multiplied as pairs if sums are narrow: the upper half of a sum is all sign, and is not to count.
    row.scales = slab.scales.map(|scale| if depth.narrow { [scale, 0] } else { [scale, scale >> 15] });
    let (codes, biases) = row.codes.split_at_mut(SLAB);
    for (to, code) in codes.iter_mut().zip(slab.codes) {
        *to = code.wrapping_sub(facts.offset);
    }
    if S::BIASED {
        let biases = biases.as_chunks_mut::<4>().0.iter_mut().step_by(depth.quads);
        for (bias, codes) in biases.zip(codes.chunks_exact(4 * depth.quads)) {
            let sum: i32 = codes.iter().map(|&code| i32::from(code as i8)).sum();
            *bias = (-128 * sum).to_le_bytes();
        }
    }
}

/// Sums of the products of `QUADS` quads, the first of which is quad `at` of its slab.
#[inline(always)]
fn products<S: Sums, const R: usize, const QUADS: usize>(rows: &[Row; R], at: usize, quads: &[Quad; QUADS]) -> [S; R] {
    let mut sums = [S::splat(0); R];
    if S::BIASED {
        for r in 0..R {
            sums[r] = S::splat(rows[r].word(BIAS + at));
        }
    }
    for i in 0..QUADS {
        for r in 0..R {
            sums[r] = sums[r].add_products(rows[r].word(at + i), &quads[i]);
        }
    }
    sums
}

/// Super-blocks: `QUADS` quads between scales, `PAIRS` pairs of minima, `R` rows at a time.
#[inline(always)]
pub(super) fn super_blocks<S: Sums, const R: usize, const QUADS: usize, const NARROW: bool, const PAIRS: usize>(
    panel: &[Row],
    quads: &[Quad],
    side: &Side,
    sums: &mut [[f32; COLUMNS]],
) {
    const { assert!(GROUP.is_multiple_of(R)) };
    for (rows, sums) in panel.as_chunks::<R>().0.iter().zip(sums.as_chunks_mut::<R>().0) {
        let mut whole = [S::splat(0); R];
        for (i, quads) in quads.as_chunks::<QUADS>().0.iter().enumerate() {
            let part = products::<S, R, QUADS>(rows, i * QUADS, quads);
            for r in 0..R {
                whole[r] = whole[r].add_scaled::<NARROW>(part[r], word(rows[r].scales[i * QUADS / 4]));
            }
        }
        for r in 0..R {
            let mut floats = whole[r].accumulate(S::load(&sums[r]), rows[r].d[0], &side.d[0]);
            if PAIRS > 0 {
                let mut mins = S::splat(0);
                for j in 0..PAIRS {
                    mins = mins.add_pairs(&side.sums[j], rows[r].mins[j]);
                }
                floats = mins.accumulate(floats, rows[r].m[0], &side.d[0]);
            }
            S::store(floats, &mut sums[r]);
        }
    }
}

/// Groups of `QUADS` quads with a float scale each, `R` rows at a time.
#[inline(always)]
pub(super) fn groups<S: Sums, const R: usize, const QUADS: usize, const MINS: bool>(
    panel: &[Row],
    quads: &[Quad],
    side: &Side,
    sums: &mut [[f32; COLUMNS]],
) {
    const { assert!(GROUP.is_multiple_of(R)) };
    for (rows, sums) in panel.as_chunks::<R>().0.iter().zip(sums.as_chunks_mut::<R>().0) {
        let mut floats = [S::load(&[0.0; COLUMNS]); R];
        for r in 0..R {
            floats[r] = S::load(&sums[r]);
        }
        for (i, quads) in quads.as_chunks::<QUADS>().0.iter().enumerate() {
            let (entry, block) = (i * QUADS / 4, i * QUADS / 8);
            let part = products::<S, R, QUADS>(rows, i * QUADS, quads);
            for r in 0..R {
                floats[r] = part[r].accumulate(floats[r], rows[r].d[entry], &side.d[block]);
                if MINS {
                    floats[r] = S::shift(floats[r], rows[r].m[entry], &side.s[block]);
                }
            }
        }
        for r in 0..R {
            S::store(floats[r], &mut sums[r]);
        }
    }
}

/// A kernel for 8 and for 16 columns.
macro_rules! pair {
    ($half:ty, $whole:ty; $kernel:ident $($constant:literal),*) => {
        [$kernel::<$half, $($constant),*> as Multiply, $kernel::<$whole, $($constant),*>]
    };
}
pub(super) use pair;

/// Defines `kernels` for one instruction set: the sums of 8 and of 16 columns, the rows in a tile, and the features that all
/// of this needs, if any.
macro_rules! kernels {
    ($half:ty, $whole:ty, $rows:literal $(, $features:literal)?) => {
        /// Kernels for a format.
        pub(in $crate::matmul::tile) fn kernels(facts: &Facts) -> Option<Kernels> {
            $(#[target_feature(enable = $features)])?
            fn lay_out(slab: &Slab, facts: &Facts, row: &mut Row) {
                fours::lay_out::<$whole>(slab, facts, row);
            }
            $(#[target_feature(enable = $features)])?
            fn pack(x: &[f32], cols: usize, slab: Range<usize>, facts: &Facts, quads: &mut [Quad], side: &mut Side) {
                let pairing = if <$whole as Sums>::BIASED { Pairing::Biased } else { Pairing::Unsigned };
                $crate::matmul::tile::pack(x, cols, slab, pairing, facts, quads, side);
            }
            $(#[target_feature(enable = $features)])?
            fn super_blocks<S: Sums, const QUADS: usize, const NARROW: bool, const PAIRS: usize>(
                panel: &[Row],
                quads: &[Quad],
                side: &Side,
                sums: &mut [[f32; COLUMNS]],
            ) {
                fours::super_blocks::<S, $rows, QUADS, NARROW, PAIRS>(panel, quads, side, sums);
            }
            $(#[target_feature(enable = $features)])?
            fn groups<S: Sums, const QUADS: usize, const MINS: bool>(
                panel: &[Row],
                quads: &[Quad],
                side: &Side,
                sums: &mut [[f32; COLUMNS]],
            ) {
                fours::groups::<S, $rows, QUADS, MINS>(panel, quads, side, sums);
            }
            let Depth { quads, narrow } = Depth::new(facts, <$whole as Sums>::SCALING_COST);
            let multiply = match (facts.scaling, quads, narrow, facts.mins, facts.group) {
                (Scaling::Super, 8, false, true, 32) => pair!($half, $whole; super_blocks 8, false, 4),
                (Scaling::Super, 4, false, true, 16) => pair!($half, $whole; super_blocks 4, false, 8),
                (Scaling::Super, 8, false, false, 32) => pair!($half, $whole; super_blocks 8, false, 0),
                (Scaling::Super, 4, false, false, 16) => pair!($half, $whole; super_blocks 4, false, 0),
                (Scaling::Super, 4, true, true, 32) => pair!($half, $whole; super_blocks 4, true, 4),
                (Scaling::Super, 4, true, true, 16) => pair!($half, $whole; super_blocks 4, true, 8),
                (Scaling::Super, 8, true, false, 32) => pair!($half, $whole; super_blocks 8, true, 0),
                (Scaling::Super, 4, true, false, _) => pair!($half, $whole; super_blocks 4, true, 0),
                (Scaling::Super, 2, true, false, _) => pair!($half, $whole; super_blocks 2, true, 0),
                (Scaling::Groups, 8, false, true, 32) => pair!($half, $whole; groups 8, true),
                (Scaling::Groups, 8, false, false, 32) => pair!($half, $whole; groups 8, false),
                (Scaling::Groups, 4, false, false, 16) => pair!($half, $whole; groups 4, false),
                _ => return None,
            };
            Some(Kernels { quads: SLAB / 4, few: Plan::new(facts).few(facts), multiply, direct: None, lay_out, pack })
        }
    };
}
pub(super) use kernels;

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::super::{Kernels, Multiply, PANEL, Pairing, Plan, fours};
    use super::*;
    use crate::arch::Isa;
    use crate::block::Format;
    use crate::matmul::activation::Rounded;
    use crate::matmul::dot;
    use crate::matmul::unpack::integers;

    /// Plain Rust, which checks what is promised.
    #[derive(Clone, Copy)]
    struct Portable<const BIASED: bool, const WIDTH: usize>([i32; WIDTH]);

    impl<const BIASED: bool, const WIDTH: usize> Sums for Portable<BIASED, WIDTH> {
        type Floats = [f32; WIDTH];
        const BIASED: bool = BIASED;
        const SCALING_COST: usize = if BIASED { 3 } else { 1 };

        fn splat(value: i32) -> Self {
            Self([value; WIDTH])
        }

        fn add_products(self, codes: i32, quad: &Quad) -> Self {
            let mut own = self;
            for (own, x) in own.0.iter_mut().zip(quad.0.as_chunks::<4>().0) {
                for (code, &x) in codes.to_le_bytes().into_iter().zip(x) {
                    *own += i32::from(code as i8) * if BIASED { i32::from(x) } else { i32::from(x as i8) };
                }
            }
            own
        }

        fn add_scaled<const NARROW: bool>(self, sums: Self, scale: i32) -> Self {
            if NARROW {
                assert!(sums.0.iter().all(|&sum| i16::try_from(sum).is_ok()), "{sums:?}", sums = sums.0);
            }
            let scale = if NARROW { i32::from(u16::try_from(scale).unwrap() as i16) } else { scale };
            Self(std::array::from_fn(|i| self.0[i] + sums.0[i] * scale))
        }

        fn add_pairs(self, pairs: &[[i16; 2]; COLUMNS], factors: [i16; 2]) -> Self {
            let product = |pair: [i16; 2], k: usize| i32::from(pair[k]) * i32::from(factors[k]);
            Self(std::array::from_fn(|i| self.0[i] + product(pairs[i], 0) + product(pairs[i], 1)))
        }

        fn load(from: &[f32; COLUMNS]) -> [f32; WIDTH] {
            std::array::from_fn(|i| from[i])
        }

        fn store(floats: [f32; WIDTH], to: &mut [f32; COLUMNS]) {
            to[..WIDTH].copy_from_slice(&floats);
        }

        fn accumulate(self, floats: [f32; WIDTH], a: f32, b: &[f32; COLUMNS]) -> [f32; WIDTH] {
            std::array::from_fn(|i| (a * b[i]).mul_add(self.0[i] as f32, floats[i]))
        }

        fn shift(floats: [f32; WIDTH], a: f32, b: &[f32; COLUMNS]) -> [f32; WIDTH] {
            std::array::from_fn(|i| a.mul_add(b[i], floats[i]))
        }
    }

    mod biased {
        use super::*;
        kernels!(Portable<true, 8>, Portable<true, 16>, 8);
    }

    mod signed {
        use super::*;
        kernels!(Portable<false, 8>, Portable<false, 16>, 4);
    }

    /// Every panel kernel that this machine has, and both in plain Rust.
    fn kernels_of(facts: &Facts) -> Vec<(String, Option<Kernels>)> {
        let mut all =
            vec![("biased".to_owned(), biased::kernels(facts)), ("signed".to_owned(), signed::kernels(facts))];
        #[cfg(target_arch = "x86_64")]
        {
            use super::super::{avx2, vnni};
            if Isa::Avx2.is_available() {
                all.push(("AVX2".to_owned(), avx2::kernels(facts)));
            }
            if Isa::Avx512.is_available() && std::arch::is_x86_feature_detected!("avx512vnni") {
                all.push(("AVX-512 VNNI".to_owned(), vnni::avx512::kernels(facts)));
            }
            if Isa::Avx2.is_available() && std::arch::is_x86_feature_detected!("avxvnni") {
                all.push(("AVX-VNNI".to_owned(), vnni::avx::kernels(facts)));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            all.push(("NEON".to_owned(), super::super::neon::kernels(facts)));
        }
        all
    }

    #[test]
    fn panels_give_what_dot_products_give() {
        let mut state = 5u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for &format in Format::ALL {
            let Ok(Some(unpacker)) = integers(format, Isa::Scalar) else { continue };
            let facts = unpacker.facts;
            let info = format.info();
            // Random bits, then codes and scales at their ends; activations at their ends, then random.
            let slabs: Vec<Slab> = (0..PANEL)
                .map(|i| {
                    let bytes: Vec<u8> = (0..info.row_bytes(SLAB).unwrap())
                        .map(|_| match i % 8 {
                            0 => 0xff,
                            1 => 0x00,
                            2 => 0x7f,
                            _ => random(),
                        })
                        .collect();
                    let mut slab = [Slab::ZERO];
                    (unpacker.unpack)(&bytes, &mut slab);
                    // Scales that stay finite: codes are what is tested.
                    slab[0].d = slab[0].d.map(|d| if d.is_finite() { d } else { 1.5 });
                    slab[0].m = slab[0].m.map(|m| if m.is_finite() { m } else { -0.5 });
                    slab[0]
                })
                .collect();
            let x: Vec<f32> = (0..COLUMNS * SLAB)
                .map(|i| match i / SLAB {
                    0 => 1.0,
                    1 => -1.0,
                    2 => [1.0, -1.0][i % 2],
                    _ => f32::from(random() as i8),
                })
                .collect();
            for (name, kernels) in kernels_of(&facts) {
                let kernels = kernels.unwrap_or_else(|| panic!("{format} has no kernel for {name}"));
                let mut quads = vec![Quad::ZERO; kernels.quads];
                let mut side = Side::ZERO;
                let mut panel = [Row::ZERO; PANEL];
                // SAFETY: `kernels_of` has asked what this machine has; so below.
                unsafe { (kernels.pack)(&x, SLAB, 0..SLAB, &facts, &mut quads, &mut side) };
                for (slab, row) in slabs.iter().zip(&mut panel) {
                    // SAFETY: as above.
                    unsafe { (kernels.lay_out)(slab, &facts, row) };
                }
                for (multiply, columns) in kernels.multiply.into_iter().zip([COLUMNS / 2, COLUMNS]) {
                    let mut sums = [[0.25; COLUMNS]; PANEL];
                    // SAFETY: as above.
                    unsafe { multiply(&panel, &quads, &side, &mut sums) };
                    for (column, x) in x.chunks(SLAB).take(columns).enumerate() {
                        let x = [Rounded::new(&facts, x)];
                        for (rows, own) in slabs.as_chunks::<{ dot::ROWS }>().0.iter().zip(sums.chunks(dot::ROWS)) {
                            let mut wanted = [0.25; dot::ROWS];
                            dot::portable(&facts, rows.each_ref().map(std::slice::from_ref), &x, &mut wanted);
                            for (own, wanted) in own.iter().zip(wanted) {
                                let own = own[column].to_bits();
                                assert_eq!(own, wanted.to_bits(), "{format} {name} column {column} of {columns}");
                            }
                        }
                    }
                }
            }
        }
    }
}
