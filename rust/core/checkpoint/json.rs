//! JSON from strangers: bounded in size and depth before anything is built from it.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// Checks that `bytes` is one JSON document whose arrays and objects nest at most `max_depth` deep, without building it.
///
/// Meant for documents that other code will parse (`tokenizer.json`, `config.json`), so that no parser meets one that
/// makes it recurse without end. More than 127 levels are refused whatever `max_depth` says. Bound the size by reading
/// through [`read`].
///
/// # Errors
/// What is wrong, with line and column.
pub fn check(bytes: &[u8], max_depth: usize) -> Result<(), String> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    Depth(max_depth).deserialize(&mut parser).and_then(|()| parser.end()).map_err(|error| error.to_string())
}

/// Reads a JSON file of at most `max_bytes` and checks it with [`check`].
///
/// # Errors
/// `Io`; `Malformed` if it is too large, too deep, or not JSON.
pub fn read(path: &Path, max_bytes: u64, max_depth: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| Error::io(path, "open", error))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits, whatever its metadata say.
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| Error::io(path, "read", error))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::malformed(path, format!("is larger than {max_bytes} bytes, the most that is read as JSON")));
    }
    check(&bytes, max_depth).map_err(|what| Error::malformed(path, format!("is not usable JSON: {what}")))?;
    Ok(bytes)
}

/// Accepts any value, with as many levels of nesting as the number says.
struct Depth(usize);

impl Depth {
    fn inner<E: serde::de::Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom("arrays and objects nest too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.inner::<A::Error>()?;
        while items.next_element_seed(Depth(inner))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.inner::<A::Error>()?;
        // Keys are strings, so they need no depth of their own.
        while entries.next_key_seed(Depth(0))?.is_some() {
            entries.next_value_seed(Depth(inner))?;
        }
        Ok(())
    }
}

/// A value of a JSON object whose type may depend on its key.
pub(crate) trait Entry<'de>: Sized {
    /// Reads the value that belongs to `key`.
    fn read<A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error>;
}

impl<'de> Entry<'de> for String {
    fn read<A: MapAccess<'de>>(_key: &str, map: &mut A) -> Result<Self, A::Error> {
        map.next_value()
    }
}

/// A JSON object as a list of its entries in file order. A repeated key is an error, since readers disagree about which
/// of the two counts.
pub(crate) struct Entries<T>(pub(crate) Vec<(String, T)>);

impl<'de, T: Entry<'de>> serde::Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);

        impl<'de, T: Entry<'de>> Visitor<'de> for Visit<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("'{key}' appears twice")));
                    }
                    let value = T::read(&key, &mut map)?;
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Visit(PhantomData))
    }
}
