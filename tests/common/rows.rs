//! Adversarial rows and importance matrices, the same on every machine and in `tests/data/golden/adversarial.py`.
//!
//! Everything is made from integers, bit patterns, and at most one rounding, so both sides agree bit for bit.

/// Finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Random numbers by position.
#[derive(Clone, Copy)]
struct Stream(u64);

impl Stream {
    fn new(seed: u64, index: u64) -> Self {
        Self(mix(mix(seed).wrapping_add(index.wrapping_mul(GOLDEN))))
    }

    fn at(self, position: u64) -> u64 {
        mix(self.0.wrapping_add((position + 1).wrapping_mul(GOLDEN)))
    }

    /// Parameters of the row as a whole.
    fn param(self, k: u64) -> u64 {
        self.at((1 << 32) + k)
    }

    /// A parameter in `low..low + span`.
    fn ranged(self, k: u64, low: i32, span: u64) -> i32 {
        low + (self.param(k) % span) as i32
    }
}

/// `2^e` for normal exponents.
fn pow2(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// Uniform in [-1, 1), 24 bits.
fn unit(h: u64) -> f32 {
    ((h >> 40) as i32 - (1 << 23)) as f32 * pow2(-23)
}

/// Bell-shaped in (-2, 2), 18 bits.
fn bell(h: u64) -> f32 {
    let sum: u64 = (0..4).map(|k| (h >> (16 * k)) & 0xffff).sum();
    (sum as i32 - 131_070) as f32 * pow2(-16)
}

/// Any finite float.
fn any(h: u64) -> f32 {
    let bits = h as u32;
    f32::from_bits(if bits & 0x7f80_0000 == 0x7f80_0000 { bits & !0x4000_0000 } else { bits })
}

/// A float with this biased exponent and the sign and mantissa of `h`.
fn with_exponent(h: u64, exponent: u32) -> f32 {
    f32::from_bits((h as u32 & 0x807f_ffff) | (exponent << 23))
}

/// Number of kinds of rows.
pub(crate) const KINDS: u64 = 24;
/// Number of kinds of importance matrices.
pub(crate) const WEIGHT_KINDS: u64 = 10;

/// Row number `index` of a seed; the kind of row is `index % KINDS`.
pub(crate) fn row(seed: u64, index: u64, len: usize) -> Vec<f32> {
    let s = Stream::new(seed, index);
    let moderate = pow2(s.ranged(0, -20, 25));
    let wide = pow2(s.ranged(1, -126, 252));
    let constant = any(s.param(2));
    let exponent = 1 + (s.param(3) % 246) as u32;
    let hot = (s.param(4) % len as u64) as usize;
    let value = |i: usize| {
        let h = s.at(i as u64);
        let of_group = |size: usize| mix(s.at((1 << 33) + (i / size) as u64));
        match index % KINDS {
            0 => bell(h) * moderate,
            1 => unit(h) * wide,
            2 => any(h),
            3 => with_exponent(h, exponent + (h >> 32) as u32 % 8),
            // Signed zeros.
            4 => f32::from_bits((h as u32) & 0x8000_0000),
            5 => constant,
            6 => {
                if i == hot {
                    constant
                } else {
                    0.0
                }
            }
            // Half-way between codes.
            7 => ((h % 33) as i32 - 16) as f32 * (0.5 * moderate),
            // Subnormals.
            8 => f32::from_bits(h as u32 & 0x807f_ffff),
            // Alternating signs, nearly constant.
            9 => f32::from_bits(
                (((i as u32) & 1) << 31) | (exponent << 23) | (s.param(5) as u32 & 0x7f_fff8) | (h as u32 & 7),
            ),
            // Outliers.
            10 => bell(h) * if mix(h).is_multiple_of(61) { 1024.0 * moderate } else { moderate },
            // One sign throughout.
            11 => (unit(h) + if s.param(6).is_multiple_of(2) { 4.0 } else { -4.0 }) * moderate,
            // Just below and above a power of two.
            12 => {
                let below = (of_group(32) % 100 + h % 4) as u32;
                f32::from_bits(((exponent << 23) + 8 - below) | ((h >> 32) as u32 & 0x8000_0000))
            }
            // A scale for each group of 16.
            13 => unit(h) * pow2((of_group(16) % 40) as i32 - 20),
            // Ternary.
            14 => ((h % 3) as i32 - 1) as f32 * moderate,
            // Around the threshold below which a group counts as zero.
            15 => unit(h) * pow2(-51 + (of_group(16) % 4) as i32),
            // Near the largest float.
            16 => with_exponent(h, 249 + (h >> 32) as u32 % 6),
            // Scales around the ends of the range of halves.
            17 => unit(h) * pow2(if s.param(7).is_multiple_of(2) { s.ranged(8, 12, 13) } else { s.ranged(8, -30, 24) }),
            18 => (i as i32 - (len / 2) as i32) as f32 * moderate,
            // Weights of a bf16 checkpoint.
            19 => f32::from_bits((bell(h) * moderate).to_bits() & 0xffff_0000),
            // Groups of zeros.
            20 => {
                if of_group(32).is_multiple_of(2) {
                    unit(h) * moderate
                } else {
                    0.0
                }
            }
            // Subnormals and zeros among ordinary weights.
            21 => match h % 4 {
                0 => f32::from_bits((h >> 32) as u32 & 0x807f_ffff),
                1 => f32::from_bits((h >> 32) as u32 & 0x8000_0000),
                _ => bell(mix(h)) * moderate,
            },
            // Several weights of the largest magnitude, of both signs.
            22 => match h % 5 {
                0 => moderate,
                1 => -moderate,
                _ => unit(mix(h)) * moderate,
            },
            // Exactly on a grid that starts at zero.
            _ => (h % 16) as f32 * moderate,
        }
    };
    (0..len).map(value).collect()
}

/// Importance matrix number `index` of a seed: finite, not negative.
pub(crate) fn weights(seed: u64, index: u64, len: usize) -> Vec<f32> {
    let s = Stream::new(!seed, index);
    let value = |i: usize| {
        let h = s.at(i as u64);
        let fraction = (h >> 40) as f32 * pow2(-24);
        match s.param(0) % WEIGHT_KINDS {
            0 => 1.0,
            1 => fraction,
            // Mostly zero.
            2 => {
                if h.is_multiple_of(8) {
                    fraction
                } else {
                    0.0
                }
            }
            3 => 0.0,
            4 => fraction * pow2((h % 40) as i32 - 20),
            5 => any(h).abs(),
            6 => with_exponent(h, 240 + (h >> 32) as u32 % 15).abs(),
            7 => with_exponent(h, (h >> 32) as u32 % 20).abs(),
            // Groups that count for nothing.
            8 => {
                if mix(s.at((1 << 33) + (i / 32) as u64)).is_multiple_of(2) {
                    fraction
                } else {
                    0.0
                }
            }
            // Mean squares of activations.
            _ => bell(h) * bell(h),
        }
    };
    (0..len).map(value).collect()
}

/// Random bytes number `index` of a seed.
pub(crate) fn random_bytes(seed: u64, index: u64, len: usize) -> Vec<u8> {
    let s = Stream::new(seed, index);
    (0..len as u64).map(|i| s.at(i / 8).to_le_bytes()[i as usize % 8]).collect()
}
