//! Key-value metadata: typed values in file order, found by key in constant time.

use super::index::NameIndex;
use crate::error::{At, Error, Result};

/// An array of one element type. Strings are bytes, since GGUF does not promise UTF-8.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each variant is the element type it names.
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<Vec<u8>>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // Each variant is the type it names.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Names of the value types, at the index of their id in the file.
const TYPE_NAMES: [&str; 13] =
    ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"];

impl Array {
    /// Type id of the elements, as stored in files.
    pub fn element_type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Name of the element type: `u8`, `string`, `array` ...
    pub fn element_type_name(&self) -> &'static str {
        TYPE_NAMES[self.element_type_id() as usize]
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::Array(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// Type id as stored in files.
    pub fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Name of the type: `u8`, `string`, `array` ...
    pub fn type_name(&self) -> &'static str {
        TYPE_NAMES[self.type_id() as usize]
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.as_bytes().to_vec())
    }
}

/// Metadata in file order.
///
/// There are two ways to change a key, because the two writers of GGUF files differ: the Python one replaces a value
/// where it stands ([`Metadata::set`]), ggml's removes the key and appends it ([`Metadata::set_last`]).
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: NameIndex,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// Whether `key` is present.
    pub fn contains(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets `key`: in place if present, otherwise at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.index.insert(&key, self.entries.len(), |at| &self.entries[at].0) {
            Some(at) => self.entries[at].1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Sets `key` and moves it to the end, as ggml does when it changes a value.
    pub fn set_last(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        self.remove(&key);
        self.set(key, value);
    }

    /// Appends every entry of `other` as ggml copies metadata from one file to another: existing keys move to the end,
    /// and strings end at their first NUL byte, because there they pass through C strings.
    ///
    /// # Errors
    /// `Unsupported` for a nested array, which ggml cannot hold.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        for (key, value) in other.iter() {
            let value = match value {
                Value::String(text) => Value::String(c_string(text).to_vec()),
                Value::Array(Array::String(texts)) => {
                    Value::Array(Array::String(texts.iter().map(|text| c_string(text).to_vec()).collect()))
                }
                Value::Array(Array::Array(_)) => {
                    let what =
                        format!("metadata '{key}' is an array of arrays, which ggml cannot copy; remove the key");
                    return Err(Error::Unsupported { at: At::default(), what });
                }
                other => other.clone(),
            };
            self.set_last(key, value);
        }
        Ok(())
    }

    /// Removes `key` and returns its value. Takes time in proportion to the entries after it.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key, |at| &self.entries[at].0)?;
        Some(self.entries.remove(at).1)
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.index.find(key, |at| &self.entries[at].0)
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text of `key`, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is not a string, or not UTF-8.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(bytes)) => {
                std::str::from_utf8(bytes).map(Some).map_err(|_| wrong(format!("metadata '{key}' is not UTF-8")))
            }
            Some(other) => Err(wrong_type(key, "string", other)),
        }
    }

    /// The flag `key`, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is of another type.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(v)) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "bool", other)),
        }
    }

    /// The number `key` of any integer type, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is not an integer or is negative.
    pub fn get_uint(&self, key: &str) -> Result<Option<u64>> {
        let signed = |v: i64| u64::try_from(v).map_err(|_| wrong(format!("metadata '{key}' is {v}, below zero")));
        match self.get(key) {
            None => Ok(None),
            Some(&Value::U8(v)) => Ok(Some(v.into())),
            Some(&Value::U16(v)) => Ok(Some(v.into())),
            Some(&Value::U32(v)) => Ok(Some(v.into())),
            Some(&Value::U64(v)) => Ok(Some(v)),
            Some(&Value::I8(v)) => signed(v.into()).map(Some),
            Some(&Value::I16(v)) => signed(v.into()).map(Some),
            Some(&Value::I32(v)) => signed(v.into()).map(Some),
            Some(&Value::I64(v)) => signed(v).map(Some),
            Some(other) => Err(wrong_type(key, "integer", other)),
        }
    }

    /// The `u32` under `key`, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is of another type.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::U32(v)) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "u32", other)),
        }
    }

    /// The `f32` under `key`, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is of another type.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::F32(v)) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "f32", other)),
        }
    }

    /// The array of strings under `key`, or `None` if it is absent.
    ///
    /// # Errors
    /// `Malformed` if the value is of another type.
    pub fn get_strings(&self, key: &str) -> Result<Option<&[Vec<u8>]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(wrong_type(key, "array of strings", other)),
        }
    }
}

/// The part of `bytes` that a C string keeps.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

fn wrong(what: String) -> Error {
    Error::Malformed { at: At::default(), what }
}

fn wrong_type(key: &str, wanted: &str, got: &Value) -> Error {
    wrong(match got {
        Value::Array(array) => format!("metadata '{key}' is an array of {}, not {wanted}", array.element_type_name()),
        other => format!("metadata '{key}' is of type {}, not {wanted}", other.type_name()),
    })
}
