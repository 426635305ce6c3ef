//! Codes in streams of bits and back.
//!
//! Words are 32 bits, little-endian, as safetensors stores them; a stream is addressed by its bytes.

/// Codes that share a word of AWQ.
pub const AWQ_CODES: usize = 8;

/// Where in a word of AWQ the code of each of 8 neighbouring outputs lies, counted in nibbles from the lowest.
pub const AWQ_PLACE: [usize; AWQ_CODES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The width in bits of a code, 1 to 8.
///
/// Kept apart from other numbers since every function here relies on the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width(u8);

impl Width {
    /// A width.
    ///
    /// # Errors
    /// What is wrong with it, if it is not 1 to 8.
    pub fn new(bits: u64) -> Result<Self, String> {
        match bits {
            1..=8 => Ok(Self(bits as u8)),
            _ => Err(format!("codes of {bits} bits; there are 1 to 8")),
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> usize {
        self.0 as usize
    }

    /// The largest code.
    pub const fn max(self) -> u8 {
        (0xff_u16 >> (8 - self.0)) as u8
    }

    /// Words that hold `codes` codes back to back.
    pub const fn words(self, codes: usize) -> usize {
        // Cannot overflow for lengths of things in memory, but lengths come from files.
        (codes / 32).saturating_mul(self.bits()).saturating_add((codes % 32 * self.bits()).div_ceil(32))
    }

    /// Words that hold `codes` codes, none of which crosses from one word to the next.
    pub const fn aligned_words(self, codes: usize) -> usize {
        codes.div_ceil(32 / self.bits())
    }
}

/// Takes codes apart that lie back to back, the lowest bits first. `data` holds at least as many as `codes`.
#[inline(always)] // so that it is compiled with the features of its caller
pub fn unpack(data: &[u8], width: Width, codes: &mut [u8]) {
    match width.0 {
        1 => unpack_octets::<1>(data, codes),
        2 => unpack_octets::<2>(data, codes),
        3 => unpack_octets::<3>(data, codes),
        4 => unpack_halves(data, codes),
        5 => unpack_octets::<5>(data, codes),
        6 => unpack_octets::<6>(data, codes),
        7 => unpack_octets::<7>(data, codes),
        _ => codes.copy_from_slice(&data[..codes.len()]),
    }
}

/// Undoes [`unpack`]. `data` is whole words, with zeros after the last code.
pub fn pack(codes: &[u8], width: Width, data: &mut [u8]) {
    match width.0 {
        1 => pack_octets::<1>(codes, data),
        2 => pack_octets::<2>(codes, data),
        3 => pack_octets::<3>(codes, data),
        4 => pack_octets::<4>(codes, data),
        5 => pack_octets::<5>(codes, data),
        6 => pack_octets::<6>(codes, data),
        7 => pack_octets::<7>(codes, data),
        _ => {
            data[..codes.len()].copy_from_slice(codes);
            data[codes.len()..].fill(0);
        }
    }
}

/// Takes codes apart of which each word holds as many as fit, with unused bits above: compressed-tensors before it
/// packed densely.
pub fn unpack_aligned(data: &[u8], width: Width, codes: &mut [u8]) {
    let each = 32 / width.bits();
    for (word, codes) in data.as_chunks().0.iter().zip(codes.chunks_mut(each)) {
        let word = u32::from_le_bytes(*word);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i * width.bits())) as u8 & width.max();
        }
    }
}

/// Takes the codes of one output out of words that hold eight outputs each; `output` counts within them.
pub fn unpack_awq(words: &[u8], output: usize, codes: &mut [u8]) {
    let shift = 4 * AWQ_PLACE[output % AWQ_CODES];
    for (word, code) in words.as_chunks().0.iter().zip(codes) {
        *code = (u32::from_le_bytes(*word) >> shift) as u8 & 15;
    }
}

/// Two codes a byte.
#[inline(always)]
fn unpack_halves(data: &[u8], codes: &mut [u8]) {
    let (pairs, last) = codes.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(data) {
        *pair = [byte & 15, byte >> 4];
    }
    if let ([code], Some(&byte)) = (last, data.get(pairs.len())) {
        *code = byte & 15;
    }
}

/// Eight codes of `B` bits fill `B` bytes exactly.
#[inline(always)]
fn unpack_octets<const B: usize>(data: &[u8], codes: &mut [u8]) {
    let apart = |bytes: &[u8]| -> [u8; 8] {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        std::array::from_fn(|i| (word >> (i * B)) as u8 & ((1 << B) - 1))
    };
    let whole = codes.len() / 8;
    let (octets, rest) = codes.as_chunks_mut::<8>();
    for (octet, bytes) in octets.iter_mut().zip(data.as_chunks::<B>().0) {
        *octet = apart(bytes);
    }
    if !rest.is_empty() {
        let bytes = &data[whole * B..];
        let last = apart(&bytes[..bytes.len().min(B)]);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

fn pack_octets<const B: usize>(codes: &[u8], data: &mut [u8]) {
    let (octets, rest) = codes.as_chunks::<8>();
    let (full, tail) = data.split_at_mut(octets.len() * B);
    for (octet, bytes) in octets.iter().zip(full.as_chunks_mut::<B>().0) {
        bytes.copy_from_slice(&together::<B>(*octet)[..B]);
    }
    tail.fill(0);
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let len = (rest.len() * B).div_ceil(8);
    tail[..len].copy_from_slice(&together::<B>(last)[..len]);
}

/// Eight codes of `B` bits back to back: all pairs at once, then all fours, then both halves.
#[inline(always)]
fn together<const B: usize>(codes: [u8; 8]) -> [u8; 8] {
    const BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    const PAIRS: u64 = 0x0000_ffff_0000_ffff;
    let word = u64::from_le_bytes(codes);
    let pairs = (word & BYTES) | (word >> 8 & BYTES) << B;
    let fours = (pairs & PAIRS) | (pairs >> 16 & PAIRS) << (2 * B);
    let eight = (fours & u64::from(u32::MAX)) | (fours >> 32) << (4 * B);
    eight.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(data: &[u8]) -> Vec<u32> {
        data.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    #[test]
    fn words_that_the_formats_publish() {
        let codes = [0, 1, 2, 3, 4, 5, 6, 7];
        let mut data = [0; 4];
        pack(&codes, Width(4), &mut data);
        assert_eq!(words(&data), [0x7654_3210]);
        let mut word = 0_u32;
        for (output, code) in codes.iter().enumerate() {
            word |= u32::from(*code) << (4 * AWQ_PLACE[output]);
        }
        assert_eq!(word, 0x7531_6420);
    }

    #[test]
    fn three_bits_run_across_words() {
        // Code 10 has two bits in the first word and one in the second, code 21 one and two.
        let mut codes = [0; 32];
        codes[10] = 7;
        codes[21] = 7;
        let mut data = [0xff; 12];
        pack(&codes, Width(3), &mut data);
        assert_eq!(words(&data), [3 << 30, 1 | 1 << 31, 3]);
    }

    #[test]
    fn aligned_words_leave_bits_over() {
        let width = Width(3);
        assert_eq!((width.words(32), width.aligned_words(32)), (3, 4));
        let data: Vec<u8> = [0o7654321076_u32, 0o12].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut codes = [0; 12];
        unpack_aligned(&data, width, &mut codes);
        assert_eq!(codes, [6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 2, 1]);
    }
}
