//! Formats whose magnitudes are points of a codebook, 8 or 4 at a time, with signs apart: IQ2_XXS to IQ3_S.
//!
//! Eight weights are chosen together, since they share signs or a point. For targets `y` and the quadratic form `Q` that
//! their errors count by, the best points under `diag(Q)` are found among all, and held against each other under `Q`.

use std::sync::LazyLock;

use super::dense::Dense;
use super::factor::{GROUP, WINDOW};
use super::form::{Factors, Form, Parts, Quad};
use crate::block::bits::nibble;
use crate::block::layout::Layout;
use crate::block::vector::{self, VectorCodes};
use crate::block::{Format, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};
use crate::reference::codebook::Signs;
use crate::reference::grid::codewords::{IQ2_MAGNITUDES, IQ3_XXS_MAGNITUDES};
use crate::reference::grid::{self, Grid, Place};
use crate::reference::rounding::to_half;
use half::f16;

/// What the levels of IQ3_S are worth.
const ODD: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// Points that are held against each other under the whole quadratic form, for each vector.
const FINALISTS: usize = 4;

/// A codebook as the search reads it: coordinate by coordinate.
struct Book {
    /// Number of points.
    points: usize,
    /// Magnitude of coordinate `i` of each point from `i * points` on.
    magnitudes: Vec<f32>,
}

impl Book {
    fn new<const N: usize>(grid: &Grid<N>, worth: &[f32]) -> Self {
        let points = grid.indices().len();
        let magnitudes =
            (0..N).flat_map(|i| grid.indices().map(move |index| worth[usize::from(grid.point(index)[i])])).collect();
        Self { points, magnitudes }
    }

    /// The points with the least `sum(q_i * (a_i - m_i)^2)`, best first.
    fn best(&self, dense: &Dense, a: &[f32], q: &[f32]) -> [usize; FINALISTS] {
        let mut costs = [0.0f32; 1024];
        let costs = &mut costs[..self.points];
        (dense.point_costs)(costs, &self.magnitudes, a, q);
        let mut best = [0; FINALISTS];
        for slot in &mut best {
            let mut least = f32::INFINITY;
            for (point, &cost) in costs.iter().enumerate() {
                if cost < least {
                    (least, *slot) = (cost, point);
                }
            }
            costs[*slot] = f32::INFINITY;
        }
        best
    }
    fn magnitude(&self, point: usize, i: usize) -> f32 {
        self.magnitudes[i * self.points + point]
    }
}

/// Chooses the levels of eight weights. `N` coordinates make a vector; `even` says that minus signs come in pairs.
fn choose<const N: usize>(dense: &Dense, book: &Book, even: bool, y: &[f32; GROUP], quad: &Quad) -> [f32; GROUP] {
    let mut signs = y.map(|v| if v < 0.0 { -1.0 } else { 1.0 });
    if even && signs.iter().filter(|&&s| s < 0.0).count() % 2 == 1 {
        let cost = |i: usize| quad[i][i] * y[i] * y[i];
        let cheapest = (1..GROUP).fold(0, |best, i| if cost(i) < cost(best) { i } else { best });
        signs[cheapest] = -signs[cheapest];
    }
    let a: [f32; GROUP] = std::array::from_fn(|i| signs[i] * y[i]);
    let q: [f32; GROUP] = std::array::from_fn(|i| quad[i][i]);
    let level = |points: [usize; 2]| -> [f32; GROUP] {
        std::array::from_fn(|i| signs[i] * book.magnitude(points[i / N], i % N))
    };
    let first = book.best(dense, &a[..N], &q[..N]);
    let second = if N < GROUP { book.best(dense, &a[N..], &q[N..]) } else { [0; FINALISTS] };
    let mut best = level([first[0], second[0]]);
    let mut least = f32::INFINITY;
    for one in first {
        for other in &second[..if N < GROUP { FINALISTS } else { 1 }] {
            let tried = level([one, *other]);
            let u: [f32; GROUP] = std::array::from_fn(|i| y[i] - tried[i]);
            let mut cost = 0.0;
            for i in 0..GROUP {
                let mut sum = 0.0;
                for j in 0..GROUP {
                    sum += quad[i][j] * u[j];
                }
                cost += u[i] * sum;
            }
            if cost < least {
                (least, best) = (cost, tried);
            }
        }
    }
    best
}

/// Index of the point with these magnitudes.
fn index<const N: usize>(grid: &Grid<N>, worth: &[f32], levels: &[f32]) -> u16 {
    let point = std::array::from_fn(|i| worth.iter().position(|&w| w == levels[i].abs()).unwrap_or(0) as u8);
    match grid.place(&point) {
        Place::OnGrid(index) => index,
        Place::Near(list) => list[0],
    }
}

/// Signs of eight levels, a set bit for a minus.
fn signs(levels: &[f32]) -> u8 {
    levels[..GROUP].iter().enumerate().fold(0, |bits, (i, level)| bits | u8::from(*level < 0.0) << i)
}

/// The levels of a block.
fn read<F: VectorCodes, const N: usize>(bytes: &[u8], grid: &Grid<N>, worth: &[f32], levels: &mut [f32; WINDOW]) {
    let (mut points, mut signs) = ([0; WINDOW / 4], [0; WINDOW / GROUP]);
    vector::codes_of_block::<F>(bytes, &mut points[..WINDOW / N], &mut signs);
    for (k, level) in levels.iter_mut().enumerate() {
        let magnitude = worth[usize::from(grid.point(points[k / N])[k % N])];
        *level = if signs[k / GROUP] >> (k % GROUP) & 1 == 1 { -magnitude } else { magnitude };
    }
}

/// Puts levels into a block.
fn write<F: VectorCodes, const N: usize>(levels: &[f32; WINDOW], grid: &Grid<N>, worth: &[f32], bytes: &mut [u8]) {
    let points: [u16; WINDOW / 4] =
        std::array::from_fn(|k| levels.get(N * k..N * k + N).map_or(0, |levels| index(grid, worth, levels)));
    let signs: [u8; WINDOW / GROUP] = std::array::from_fn(|k| signs(&levels[GROUP * k..]));
    vector::set_codes_of_block::<F>(bytes, &points[..WINDOW / N], &signs);
}

/// Scale codes `s` of integers `2 s + 1`.
fn scale_code(n: i16) -> u8 {
    (n / 2) as u8
}

fn scale_integer(code: u8) -> i16 {
    2 * i16::from(code) + 1
}

macro_rules! form {
    ($form:ident, $module:ident, $unit:literal, $worth:expr,
     |$stored:ident, $j:ident| $code:expr, |$codes:ident| $empty:expr) => {
        #[doc = concat!("[`", stringify!($module), "`]")]
        pub(super) struct $form;

        impl Form for $form {
            const FORMAT: Format = Format::$form;
            const SUB: usize = <$module::$form as VectorCodes>::SUB_LEN;
            const JOINT: bool = true;
            const SCALES: Factors = Factors::Shared { low: 1, high: 31, step: 2, unit: $unit };
            const MINS: Factors = Factors::Absent;

            fn nearest(y: f32) -> f32 {
                y
            }
            fn choose(dense: &Dense, y: &[f32; GROUP], quad: &Quad) -> [f32; GROUP] {
                static BOOK: LazyLock<Book> = LazyLock::new(|| Book::new(&grid::$form, $worth));
                let even = <$module::$form as VectorCodes>::SIGNS == Some(Signs::Even);
                choose::<{ <$module::$form as VectorCodes>::DIMS }>(dense, &BOOK, even, y, quad)
            }

            fn read(bytes: &[u8], _block: usize, parts: &mut Parts) {
                let $stored = $module::Block::read(bytes);
                parts.scales.d[0] = $stored.d.to_f32();
                for $j in 0..WINDOW / Self::SUB {
                    parts.scales.n[$j] = scale_integer($code);
                }
                read::<$module::$form, _>(bytes, &grid::$form, $worth, &mut parts.levels);
            }

            fn write(parts: &Parts, _block: usize, bytes: &mut [u8]) {
                let $codes: [u8; WINDOW / Self::SUB] = std::array::from_fn(|j| scale_code(parts.scales.n[j]));
                let mut block = $empty;
                block.d = to_half(parts.scales.d[0]);
                block.write(bytes);
                write::<$module::$form, _>(&parts.levels, &grid::$form, $worth, bytes);
            }
        }
    };
}

/// Two codes of 4 bits to a byte, the first one below.
fn pairs<const N: usize>(codes: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| codes[2 * i] | codes[2 * i + 1] << 4)
}

const ZERO: f16 = f16::ZERO;

form!(IQ2_XXS, iq2_xxs, 0.125, &IQ2_MAGNITUDES, |stored, j| (stored.qs[j][1] >> 28) as u8, |codes| {
    iq2_xxs::Block { d: ZERO, qs: codes.map(|code| [0, u32::from(code) << 28]) }
});

form!(IQ2_XS, iq2_xs, 0.125, &IQ2_MAGNITUDES, |stored, j| nibble(&stored.scales, j), |codes| {
    iq2_xs::Block { d: ZERO, qs: [0; 32], scales: pairs(&codes) }
});

form!(IQ2_S, iq2_s, 0.125, &IQ2_MAGNITUDES, |stored, j| nibble(&stored.scales, j), |codes| {
    iq2_s::Block { d: ZERO, qs: [0; 32], signs: [0; 32], qh: [0; 8], scales: pairs(&codes) }
});

form!(IQ3_XXS, iq3_xxs, 0.25, &IQ3_XXS_MAGNITUDES, |stored, j| (stored.signs_and_scales[j] >> 28) as u8, |codes| {
    iq3_xxs::Block { d: ZERO, qs: [[0; 8]; 8], signs_and_scales: codes.map(|code| u32::from(code) << 28) }
});

form!(IQ3_S, iq3_s, 1.0, &ODD, |stored, j| nibble(&stored.scales, j), |codes| {
    iq3_s::Block { d: ZERO, qs: [[0; 8]; 8], qh: [0; 8], signs: [[0; 4]; 8], scales: pairs(&codes) }
});
