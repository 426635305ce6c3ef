//! Tensor type ids as stored in GGUF files: the block formats, plain integers, and ids that were removed.

use std::fmt;

use crate::block::Format;

/// A `ggml_type` id. Any number can be held, so that a file with a type from the future can still be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GgmlType(pub u32);

/// Types that are not block formats of this crate: id, name, block length, block bytes.
const PLAIN: &[(u32, &str, usize, usize)] =
    &[(24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8)];

/// Ids that files once used: id, name, and what to do.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl GgmlType {
    /// The block format of this id, if it is one.
    pub fn format(self) -> Option<Format> {
        Format::from_ggml_type(self.0)
    }

    /// Name in capitals, `removed type ...` or `unknown type ...`.
    pub fn name(self) -> String {
        if let Some(format) = self.format() {
            return format.info().name.to_owned();
        }
        if let Some(plain) = PLAIN.iter().find(|p| p.0 == self.0) {
            return plain.1.to_owned();
        }
        match REMOVED.iter().find(|r| r.0 == self.0) {
            Some(removed) => format!("removed type {} ({})", removed.0, removed.1),
            None => format!("unknown type {}", self.0),
        }
    }

    /// The type called `name` (in any case): a block format or a plain integer or float type.
    pub fn from_name(name: &str) -> Option<Self> {
        if let Ok(format) = name.parse::<Format>() {
            return Some(format.into());
        }
        PLAIN.iter().find(|p| p.1.eq_ignore_ascii_case(name)).map(|p| Self(p.0))
    }

    /// Weights and bytes of a block, `None` for ids whose layout is not known.
    pub fn block(self) -> Option<(usize, usize)> {
        if let Some(format) = self.format() {
            return Some((format.info().block_len, format.info().block_bytes));
        }
        PLAIN.iter().find(|p| p.0 == self.0).map(|p| (p.2, p.3))
    }

    /// Whether this id is known to have been removed from the format.
    pub fn is_removed(self) -> bool {
        REMOVED.iter().any(|r| r.0 == self.0)
    }
}

impl From<Format> for GgmlType {
    fn from(format: Format) -> Self {
        Self(format.info().ggml_type)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}
