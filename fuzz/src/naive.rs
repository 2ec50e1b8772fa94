//! JSON as serde_json reads it, with the one rule that it lacks: no object names a member twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What the reference says of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Opinion {
    /// JSON, and no member twice.
    Accepts,
    /// Not JSON, or a member twice.
    Refuses,
    /// A number is too large for a double: serde_json reads no further, and knows nothing of the rest.
    Unknown,
}

/// Judges a whole text.
pub fn opinion(text: &[u8]) -> Opinion {
    match serde_json::from_slice::<Unique>(text) {
        Ok(_) => Opinion::Accepts,
        Err(error) if error.to_string().starts_with("number out of range") => Opinion::Unknown,
        Err(_) => Opinion::Refuses,
    }
}

struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        deserializer.deserialize_any(Naive)
    }
}

struct Naive;

impl<'de> Visitor<'de> for Naive {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom("duplicate"));
            }
            names.push(name);
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        while seq.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}
