//! Strict JSON for security documents.
//!
//! Invariant: a value that this module returns came from one JSON text without duplicate member names at any depth,
//! without trailing data, and no deeper than the caller allows. Two parsers can therefore not read it differently
//! (RFC 7515 section 4 and RFC 7519 section 4 leave duplicates to the reader; refusing is the safe reading).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The deepest accepted nesting of arrays and objects.
pub const MAX_DEPTH: u8 = 16;

/// Why a text is not acceptable JSON. Carries no content of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, not UTF-8, a number out of range, or trailing data.
    #[error("not valid JSON")]
    Malformed,
    /// The same member name twice in one object, after unescaping.
    #[error("duplicate member name")]
    DuplicateMember,
    /// Nested deeper than allowed.
    #[error("nested too deeply")]
    TooDeep,
    /// The outermost value is not an object.
    #[error("not an object")]
    NotAnObject,
}

impl JsonError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            JsonError::Malformed => "JsonMalformed",
            JsonError::DuplicateMember => "JsonDuplicateMember",
            JsonError::TooDeep => "JsonTooDeep",
            JsonError::NotAnObject => "JsonNotAnObject",
        }
    }
}

/// Decodes one JSON object from `text`, refusing whatever two parsers could read differently.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, JsonError> {
    object_within(text, MAX_DEPTH)
}

/// The same for documents that may be nested up to `deepest`.
pub fn object_within(text: &[u8], deepest: u8) -> Result<Map<String, Value>, JsonError> {
    let mut fault = None;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { left: deepest, fault: &mut fault }.deserialize(&mut reader);
    match (value, reader.end()) {
        (Ok(Value::Object(members)), Ok(())) => Ok(members),
        (Ok(_), Ok(())) => Err(JsonError::NotAnObject),
        _ => Err(fault.unwrap_or(JsonError::Malformed)),
    }
}

/// Decodes one value; what serde's error type cannot say is left in `fault`.
struct Strict<'f> {
    /// How much deeper it may go.
    left: u8,
    fault: &'f mut Option<JsonError>,
}

impl Strict<'_> {
    fn inner(&mut self) -> Strict<'_> {
        Strict { left: self.left.saturating_sub(1), fault: self.fault }
    }

    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.left == 0 { self.refuse(JsonError::TooDeep) } else { Ok(()) }
    }

    fn refuse<T, E: serde::de::Error>(&mut self, error: JsonError) -> Result<T, E> {
        *self.fault = Some(error);
        Err(E::custom(error))
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        self.enter()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return self.refuse(JsonError::DuplicateMember);
            }
            let value = map.next_value_seed(self.inner())?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duplicates_are_refused_at_any_depth_and_after_unescaping() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#, r#"{"x":{"y":{"a":{},"a":{}}}}"#] {
            assert_eq!(object(text.as_bytes()), Err(JsonError::DuplicateMember), "{text}");
        }
        assert!(object(br#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded_exactly() {
        let nested = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        let most = usize::from(MAX_DEPTH) - 1;
        assert!(object(nested(most).as_bytes()).is_ok());
        assert_eq!(object(nested(most + 1).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(object(nested(100_000).as_bytes()), Err(JsonError::TooDeep));
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in
            ["", "{", "{} {}", "{}x", r#"{"a":1e400}"#, r#"{"a":"\ud800"}"#, "\u{feff}{}", "{'a':1}", "{\"a\":NaN}"]
        {
            assert_eq!(object(text.as_bytes()), Err(JsonError::Malformed), "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(JsonError::Malformed));
        for text in ["[]", "1", "null", "\"{}\""] {
            assert_eq!(object(text.as_bytes()), Err(JsonError::NotAnObject), "{text}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e300..1e300).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_unambiguous_reads_as_anywhere_else(value in any_value()) {
            let text = Value::Object([("a".to_owned(), value)].into_iter().collect()).to_string();
            let plain: Map<String, Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(object(text.as_bytes()), Ok(plain));
        }

        #[test]
        fn arbitrary_bytes_never_read_as_more_than_anywhere_else(text in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(read) = object(&text) {
                prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&text).ok(), Some(read));
            }
        }
    }
}
