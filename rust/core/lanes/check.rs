//! Every operation of an instruction set against its meaning, lane by lane.

use half::f16;

use super::portable::Floats;
use super::{F32Lanes, I32Lanes, MAX_LANES, Mask};
use crate::reference::rounding::nearest_int;

/// Values at which operations differ if they can.
const VALUES: [f32; 29] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.1,
    3.3333333,
    -7.7,
    1e-40,
    -1e-40,
    1e-45,
    1.1754944e-38,
    3.4028235e38,
    -3.4028235e38,
    4_194_303.0,
    4_194_303.5,
    4_194_304.0,
    -4_194_304.0,
    8_388_607.5,
    1e10,
    -1e10,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    123.456,
];

fn floats<F: F32Lanes>(value: F) -> Vec<u32> {
    let mut all = [0.0; MAX_LANES];
    value.store(&mut all);
    // Which NaN comes out of arithmetic is left open.
    all[..F::LEN].iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

fn ints<I: I32Lanes>(value: I) -> Vec<i32> {
    let mut all = [0; MAX_LANES];
    value.store(&mut all);
    all[..<I::Float as F32Lanes>::LEN].to_vec()
}

/// Results of all operations on three vectors, in a fixed order.
fn results<F: F32Lanes>(a: &[f32], b: &[f32], c: &[f32]) -> (Vec<Vec<u32>>, Vec<Vec<i32>>, Vec<u32>) {
    let (a, b, c) = (F::load(a), F::load(b), F::load(c));
    let (i, j, k) = (a.as_int(), b.as_int(), c.as_int());
    let mask = a.lt(c);
    let mut bits = [0; MAX_LANES];
    j.store(&mut bits);
    let words = bits.map(|bits| bits as u16);
    let halves = words.map(f16::from_bits);
    // A table that repeats.
    let mut table = [0.0; MAX_LANES];
    b.store(&mut table);
    let table = F::load(&std::array::from_fn::<_, MAX_LANES, _>(|i| table[i % F::LEN.min(8)]));
    let float = [
        a,
        F::splat(0.1),
        a + b,
        a - b,
        a * b,
        a / b,
        a * b + c,
        a.lesser(b),
        a.greater(b),
        a.abs(),
        a.neg(),
        a.sqrt(),
        a.round(),
        (a * F::splat(0.3)).round(),
        F::load_half(&halves),
        F::select(mask, b, c),
        i.to_float(),
        (i ^ j).as_float(),
        a.abs().lesser(F::splat(4e6)).nearest_code(-4.0, 3.0),
        c.look_up_4(i),
        (i & F::Int::splat(15)).look_up_16(&std::array::from_fn(|i| i as f32 + 0.25)),
        if F::LEN < 8 { table } else { table.look_up_8(i.shr::<21>()) },
        // NaN, which this may not see, is left out by either order of the two.
        F::splat(F::select(a.eq(a), a, c).lesser(F::splat(1e9)).least()),
    ];
    let int = [
        F::Int::splat(-7),
        i + j,
        i - j,
        i & j,
        i | j,
        i ^ j,
        i.min(j),
        i.max(j),
        i.unsigned_min(j),
        i.clamp(-5, 1_000_000),
        i.shl::<8>(),
        i.shr::<7>(),
        F::Int::load(&bits),
        F::Int::load_u16(&words),
        F::Int::select(mask, j, k),
        F::Int::minus_one(mask),
        a.nearest_int(),
        a.truncate(),
    ];
    let masks = [a.lt(b), a.gt(b), a.eq(b), i.eq(j), a.lt(b) & b.lt(c), a.lt(b) | b.lt(c), a.lt(b) ^ b.lt(c), !mask];
    let any = masks.map(|mask| u32::from(mask.any()));
    let bits = masks.map(|mask| mask.bits());
    (float.map(floats).to_vec(), int.map(ints).to_vec(), [bits, any].concat())
}

/// Compares all operations of `F` with plain Rust at the same width.
pub(crate) fn operations<F: F32Lanes, const N: usize>() {
    assert_eq!(F::LEN, N);
    let turned = |by: usize| -> Vec<f32> { (0..N).map(|i| VALUES[(i + by) % VALUES.len()]).collect() };
    for first in 0..VALUES.len() {
        for second in 0..VALUES.len() {
            let (a, b, c) = (turned(first), turned(second), turned(first + 2 * second + 1));
            assert_eq!(results::<F>(&a, &b, &c), results::<Floats<N>>(&a, &b, &c), "{a:?} {b:?} {c:?}");
        }
    }
}

/// Operations whose results are not lanes.
pub(crate) fn conversions<F: F32Lanes>() {
    for (turn, &value) in VALUES.iter().enumerate() {
        assert_eq!(F::to_half(value).to_bits(), crate::reference::rounding::to_half(value).to_bits(), "{value}");
        let words: Vec<i32> = (0..32).map(|i| VALUES[(i + turn) % VALUES.len()].to_bits() as i32 >> i).collect();
        let vectors: Vec<F::Int> = words.chunks(F::LEN).map(F::Int::load).collect();
        let mut bytes = [0; 32];
        F::Int::store_limited(&vectors, &mut bytes);
        assert_eq!(F::Int::high_bits(&bytes), (0..32).map(|i| u32::from(bytes[i] >> 7) << i).sum::<u32>());
        assert!(bytes.iter().zip(&words).all(|(byte, word)| i32::from(*byte) == (*word).clamp(0, 255)), "{words:?}");
        let turned: [f32; MAX_LANES] = std::array::from_fn(|i| VALUES[(i + turn) % VALUES.len()]);
        let mut halves = [f16::ZERO; MAX_LANES];
        F::load(&turned).store_half(&mut halves);
        for (half, value) in halves.iter().zip(turned).take(F::LEN).filter(|(_, value)| !value.is_nan()) {
            assert_eq!(half.to_bits(), crate::reference::rounding::to_half(value).to_bits(), "{value}");
        }
    }
    for count in 0..=F::LEN {
        assert_eq!(F::first(count).bits(), (1 << count) - 1);
    }
}

/// A square turned over.
pub(crate) fn transposition<F: F32Lanes>() {
    let mut square = [F::splat(0.0); MAX_LANES];
    for (j, row) in square[..F::LEN].iter_mut().enumerate() {
        *row = F::load(&std::array::from_fn::<_, MAX_LANES, _>(|i| (100 * j + i) as f32));
    }
    F::transpose(&mut square[..F::LEN]);
    for (j, row) in square[..F::LEN].iter().enumerate() {
        let expected: Vec<u32> = (0..F::LEN).map(|i| ((100 * i + j) as f32).to_bits()).collect();
        assert_eq!(floats(*row), expected);
    }
}

#[test]
fn rounding_is_that_of_the_reference() {
    for values in VALUES.as_chunks::<4>().0 {
        assert_eq!(ints(Floats::<4>::load(values).nearest_int()), values.map(nearest_int));
        let small = values.map(|v| if v.abs() <= 4_194_303.0 { v } else { 0.0 });
        let codes = small.map(|v| (nearest_int(v).clamp(-32, 31) as f32).to_bits());
        // Adding zero takes the sign of a negative one away.
        let zero = Floats::splat(0.0);
        assert_eq!(floats(Floats::<4>::load(&small).nearest_code(-32.0, 31.0) + zero), codes);
        let codes = small.map(|v| (nearest_int(v).clamp(0, 15) as f32).to_bits());
        assert_eq!(floats(Floats::<4>::load(&small).nearest_code(0.0, 15.0)), codes);
    }
}
