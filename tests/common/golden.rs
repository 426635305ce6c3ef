//! Readers of the files in `tests/data/golden`.

use std::collections::BTreeMap;
use std::fs;

/// What ggml gave for a fixed set of rows; see `flatten.py`.
pub(crate) struct Golden {
    /// 28 rows of weights.
    pub(crate) rows: Vec<Vec<f32>>,
    /// What each row is.
    pub(crate) names: Vec<String>,
    /// One importance a column.
    pub(crate) imatrix: Vec<f32>,
    /// Blocks of all rows, by format, and by `format/imatrix`.
    pub(crate) blocks: BTreeMap<String, Vec<u8>>,
}

impl Golden {
    /// Reads `blocks.bin`.
    pub(crate) fn read() -> Self {
        let file = fs::read("tests/data/golden/blocks.bin").expect("blocks.bin is in the repository");
        let mut rest = file.as_slice();
        let mut take = |n: usize| rest.split_off(..n).expect("blocks.bin is whole");
        let mut blocks = BTreeMap::new();
        let mut left = file.len();
        while left > 0 {
            let name_len = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
            let name = String::from_utf8(take(name_len).to_vec()).unwrap();
            let data_len = u64::from_le_bytes(take(8).try_into().unwrap()) as usize;
            blocks.insert(name, take(data_len).to_vec());
            left -= 12 + name_len + data_len;
        }
        let mut floats = |name: &str| -> Vec<f32> {
            let data = blocks.remove(name).unwrap();
            data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        let (x, imatrix) = (floats("x"), floats("imatrix"));
        let names = String::from_utf8(blocks.remove("names").unwrap()).unwrap();
        Self {
            rows: x.chunks_exact(imatrix.len()).map(<[f32]>::to_vec).collect(),
            names: names.lines().map(str::to_owned).collect(),
            imatrix,
            blocks,
        }
    }
}

/// Digests by format, `plain`, `imatrix` or `decode`, and kind of row; see `adversarial.py`.
pub(crate) fn adversarial() -> BTreeMap<(String, String, u64), u64> {
    let text = fs::read_to_string("tests/data/golden/adversarial.txt").expect("adversarial.txt is in the repository");
    let parse = |line: &str| {
        let fields: Vec<_> = line.split(' ').collect();
        let key = (fields[0].to_owned(), fields[1].to_owned(), fields[2].parse().unwrap());
        (key, u64::from_str_radix(fields[3], 16).unwrap())
    };
    text.lines().map(parse).collect()
}

/// FNV-1a over values, one step each.
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    /// The digest of nothing.
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Takes values in.
    pub(crate) fn update(&mut self, values: impl IntoIterator<Item = u64>) {
        for value in values {
            self.0 = (self.0 ^ value).wrapping_mul(0x100_0000_01b3);
        }
    }
}
