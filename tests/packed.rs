//! Packed codes: streams of bits of every width, and blocks that are found on a format's own grid.

use ggquant::Format;
use ggquant::encode::{Run, Weights, decode, encode};
use ggquant::packed::bits::{Width, pack, unpack};
use ggquant::packed::blocks::{BLOCK, Target, read, write};
use ggquant::packed::lattice::{self, FORMATS, Stored};
use half::{bf16, f16};
use proptest::prelude::*;

const TARGETS: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];

fn values(format: Format, block: &[u8]) -> [f32; BLOCK] {
    let mut x = [0.0; BLOCK];
    decode(format, block, BLOCK, &mut x, Run::default()).unwrap();
    x
}

fn rounded(x: [f32; BLOCK], stored: Stored) -> [f32; BLOCK] {
    x.map(|x| match stored {
        Stored::F32 => x,
        Stored::F16 => f16::from_f32(x).to_f32(),
        Stored::BF16 => bf16::from_f32(x).to_f32(),
    })
}

proptest! {
    #[test]
    fn streams_of_bits_round_trip(bits in 1_u64..=8, codes in prop::collection::vec(any::<u8>(), 0..200)) {
        let width = Width::new(bits).unwrap();
        let codes: Vec<u8> = codes.into_iter().map(|code| code & width.max()).collect();
        let mut data = vec![0xaa; 4 * width.words(codes.len())];
        pack(&codes, width, &mut data);
        // The stream as one long number, a bit at a time.
        for (i, &code) in codes.iter().enumerate() {
            for bit in 0..width.bits() {
                let at = i * width.bits() + bit;
                prop_assert_eq!(data[at / 8] >> (at % 8) & 1, code >> bit & 1);
            }
        }
        let mut back = vec![0xff; codes.len()];
        unpack(&data, width, &mut back);
        prop_assert_eq!(back, codes);
    }

    #[test]
    fn blocks_hold_codes_and_scales(
        which in 0..5_usize,
        codes in prop::array::uniform32(any::<u8>()),
        scale in 1_u16..0x6000,
        zero in 0_i32..16,
    ) {
        let target = Target::of(TARGETS[which]).unwrap();
        let (max, zero) = match target {
            Target::Q4_0 => (15, 8),
            Target::Q5_0 => (31, 16),
            Target::Q8_0 => (255, 128),
            Target::Q4_1 => (15, zero),
            Target::Q5_1 => (31, zero),
        };
        let codes = codes.map(|code| code & max);
        let scale = f16::from_bits(scale).to_f32();
        let mut block = vec![0; target.format().info().block_bytes];
        write(target, &codes, scale, zero, &mut block).unwrap();
        let mut back = [0; BLOCK];
        let (d, m) = read(target, &block, &mut back);
        prop_assert_eq!(back, codes);
        prop_assert_eq!(d.to_f32(), scale);
        if matches!(target, Target::Q4_1 | Target::Q5_1) {
            prop_assert_eq!(m, f16::from_f32(-(zero as f32) * scale));
        } else {
            // The format's own decoder agrees on what they mean.
            let expected = codes.map(|code| (i32::from(code) - zero) as f32 * scale);
            prop_assert_eq!(values(target.format(), &block), expected);
        }
    }

    #[test]
    fn values_of_a_format_are_found_on_its_grid(
        which in 0..5_usize,
        codes in prop::array::uniform32(any::<u8>()),
        // Normal halves, with room for codes of 8 bits below the largest.
        scale in 0x0400_u16..0x5800,
        zero in 0_i32..16,
        kind in 0..3_usize,
    ) {
        let target = Target::of(TARGETS[which]).unwrap();
        let (max, zero) = match target {
            Target::Q4_0 => (15, 8),
            Target::Q5_0 => (31, 16),
            Target::Q8_0 => (255, 128),
            Target::Q4_1 => (15, zero),
            Target::Q5_1 => (31, zero),
        };
        let codes = codes.map(|code| code & max);
        let scale = f16::from_bits(scale).to_f32();
        let mut block = vec![0; target.format().info().block_bytes];
        write(target, &codes, scale, zero, &mut block).unwrap();
        let stored = [Stored::F32, Stored::F16, Stored::BF16][kind];
        let x = rounded(values(target.format(), &block), stored);
        prop_assert!(lattice::encode(target.format(), &x, stored, &mut block));
        prop_assert_eq!(rounded(values(target.format(), &block), stored), x);
    }

    #[test]
    fn any_minimum_is_found(
        five_bits in any::<bool>(),
        data in prop::array::uniform20(any::<u8>()),
        // The scale is not below a minimum's last bit, so that codes can be told apart.
        scale in 0x2400_u16..0x3c00,
        minimum in 0x2000_u16..0x3c00,
        negative in any::<bool>(),
        kind in 0..2_usize,
    ) {
        let target = Target::of(if five_bits { Format::Q5_1 } else { Format::Q4_1 }).unwrap();
        let mut block = vec![0; target.format().info().block_bytes];
        block[..2].copy_from_slice(&scale.to_le_bytes());
        block[2..4].copy_from_slice(&(minimum | u16::from(negative) << 15).to_le_bytes());
        let len = block.len() - 4;
        block[4..].copy_from_slice(&data[..len]);
        let stored = [Stored::F32, Stored::BF16][kind];
        let x = rounded(values(target.format(), &block), stored);
        prop_assume!(x.iter().any(|&other| other != x[0]));
        prop_assert!(lattice::encode(target.format(), &x, stored, &mut block));
        prop_assert_eq!(rounded(values(target.format(), &block), stored), x);
    }

    #[test]
    fn other_weights_are_not_touched(x in prop::array::uniform32(-1.0_f32..1.0)) {
        for format in TARGETS {
            let target = Target::of(format).unwrap();
            let mut block = vec![0x55; format.info().block_bytes];
            let before = block.clone();
            if !lattice::encode(target.format(), &x, Stored::F32, &mut block) {
                prop_assert_eq!(block, before);
            }
        }
    }
}

/// Weights as a format stores them: what its own encoder makes of `x`, decoded and stored in full precision.
fn published(format: Format, x: &[f32], stored: Stored) -> Vec<f32> {
    let info = format.info();
    let mut blocks = vec![0; x.len() / info.block_len * info.block_bytes];
    encode(format, Weights::F32(x), x.len(), None, &mut blocks, Run::default()).unwrap();
    let mut decoded = vec![0.0; x.len()];
    decode(format, &blocks, x.len(), &mut decoded, Run::default()).unwrap();
    decoded.iter().map(|&x| rounded([x; BLOCK], stored)[0]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn blocks_that_encoders_made_are_found(
        which in 0..FORMATS.len(),
        x in prop::collection::vec(-1.0_f32..1.0, 256),
        size in -12_i32..4,
        shift in prop::array::uniform16(-0.2_f32..0.2),
        kind in 0..3_usize,
    ) {
        let (format, stored) = (FORMATS[which], [Stored::F32, Stored::F16, Stored::BF16][kind]);
        // Rather normal than uniform, and never twice alike.
        let x: Vec<f32> =
            x.iter().enumerate().map(|(i, &x)| (x * x * x + shift[i / 16]) * (size as f32).exp2()).collect();
        let x = published(format, &x, stored);
        let info = format.info();
        for x in x.chunks(info.block_len) {
            let mut block = vec![0; info.block_bytes];
            prop_assert!(lattice::encode(format, x, stored, &mut block), "{} {:?} {:?}", format, stored, x);
            let mut back = vec![0.0; x.len()];
            decode(format, &block, x.len(), &mut back, Run::default()).unwrap();
            let back: Vec<f32> = back.iter().map(|&x| rounded([x; BLOCK], stored)[0]).collect();
            prop_assert_eq!(&back, x);
        }
    }

    #[test]
    fn weights_in_no_format_are_left_alone(x in prop::collection::vec(-1.0_f32..1.0, 256)) {
        for format in FORMATS {
            let info = format.info();
            let mut block = vec![0x55; info.block_bytes];
            prop_assert!(!lattice::encode(format, &x[..info.block_len], Stored::BF16, &mut block));
            prop_assert!(block.iter().all(|&byte| byte == 0x55));
        }
    }
}

#[test]
fn blocks_of_zeros_and_of_infinities() {
    for format in FORMATS {
        let info = format.info();
        let mut block = vec![0x55; info.block_bytes];
        let mut x = vec![0.0; info.block_len];
        assert!(lattice::encode(format, &x, Stored::BF16, &mut block), "{format}");
        let mut back = vec![1.0; info.block_len];
        decode(format, &block, x.len(), &mut back, Run::default()).unwrap();
        assert_eq!(back, x, "{format}");
        for bad in [f32::INFINITY, f32::NAN] {
            x[3] = bad;
            assert!(!lattice::encode(format, &x, Stored::BF16, &mut block));
        }
    }
}
