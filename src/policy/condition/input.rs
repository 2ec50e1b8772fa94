//! What a condition sees: the caller, and the arguments as decoded once by a strict reader.
//!
//! Invariant: a value that an upstream could read otherwise is an error, wherever in the arguments it stands: numbers
//! that do not survive a double (RFC 8259 section 6), names that differ only by case from one that the condition asks
//! for. What the condition does not ask for is read past without being kept.

use std::collections::HashMap;
use std::fmt;

use cel::ExecutionError;
use cel::common::traits::Indexer;
use cel::common::types::{self, CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, Type};
use cel::common::value::{CowVal, Val};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::check::Uses;
use crate::identity::principal::{Groups, Principal};

/// The largest integer that every JSON implementation keeps: 2^53 - 1.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;
/// The most values that are kept.
const MAX_VALUES: usize = 4096;
/// The longest string, and the largest list or object, that is kept; if the condition has a comprehension, and if not.
const LOOP_LIMITS: Limits = Limits { bytes: 4 << 10, elements: 256 };
const PLAIN_LIMITS: Limits = Limits { bytes: 16 << 10, elements: 1024 };

#[derive(Clone, Copy)]
struct Limits {
    bytes: usize,
    elements: usize,
}

type Decoded<'v> = Box<dyn Val + 'v>;

/// The arguments of a call that has none.
pub(super) fn empty<'v>() -> CelMap<'v> {
    CelMap::from(HashMap::new())
}

/// Decodes what a condition asks for of an arguments object.
pub(super) fn decode<'v>(text: &'v str, uses: &Uses) -> Result<CelMap<'v>, serde_json::Error> {
    let mut reader = Reader { uses, limits: if uses.loops { LOOP_LIMITS } else { PLAIN_LIMITS }, values: 0 };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let arguments = deserializer.deserialize_map(ArgumentsVisitor(&mut reader))?;
    deserializer.end()?;
    Ok(arguments)
}

struct Reader<'u> {
    uses: &'u Uses,
    limits: Limits,
    values: usize,
}

impl Reader<'_> {
    fn keep_one<E: Error>(&mut self) -> Result<(), E> {
        self.values += 1;
        if self.values > MAX_VALUES { Err(E::custom("too many values")) } else { Ok(()) }
    }

    fn check_name<E: Error>(&self, name: &str) -> Result<(), E> {
        let clashes = self.uses.names.iter().any(|asked| asked != name && fold_eq(asked, name));
        if clashes { Err(E::custom("a member differs only by case from one that is asked for")) } else { Ok(()) }
    }
}

/// Whether two names are equal to a reader that ignores case.
fn fold_eq(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    // Up, then down: so that also the characters with a case of their own meet (long s, Kelvin sign).
    let fold = |s: &str| s.to_uppercase().to_lowercase();
    fold(a) == fold(b)
}

struct ArgumentsVisitor<'r, 'u>(&'r mut Reader<'u>);

impl<'de> Visitor<'de> for ArgumentsVisitor<'_, '_> {
    type Value = CelMap<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of arguments")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let uses = self.0.uses;
        members(self.0, map, |name| uses.all_members || uses.members.iter().any(|member| member == name))
    }
}

fn members<'de, A: MapAccess<'de>>(
    reader: &mut Reader<'_>,
    mut map: A,
    is_kept: impl Fn(&str) -> bool,
) -> Result<CelMap<'de>, A::Error> {
    let mut kept = HashMap::new();
    while let Some(name) = map.next_key_seed(Name { reader, is_kept: &is_kept })? {
        let keep = name.is_some();
        let value = map.next_value_seed(Element { reader, keep })?;
        let (Some(name), Some(value)) = (name, value) else { continue };
        if kept.insert(CelMapKey::String(name), value).is_some() {
            return Err(A::Error::custom("a member occurs twice"));
        }
        if kept.len() > reader.limits.elements {
            return Err(A::Error::custom("an object has too many members"));
        }
    }
    Ok(CelMap::from(kept))
}

/// A member's name: checked, and kept if its value will be.
struct Name<'r, 'u, F> {
    reader: &'r Reader<'u>,
    is_kept: &'r F,
}

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Name<'_, '_, F> {
    type Value = Option<CelString<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Name<'_, '_, F> {
    type Value = Option<CelString<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        self.reader.check_name(name)?;
        Ok((self.is_kept)(name).then(|| CelString::from(name)))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        self.reader.check_name(name)?;
        Ok((self.is_kept)(name).then(|| CelString::from(name.to_owned())))
    }
}

/// A value at any depth: kept, or checked and dropped.
struct Element<'r, 'u> {
    reader: &'r mut Reader<'u>,
    keep: bool,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_> {
    type Value = Option<Decoded<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Element<'_, '_> {
    fn done<'de, E: Error>(self, value: impl Val + 'de) -> Result<Option<Decoded<'de>>, E> {
        if !self.keep {
            return Ok(None);
        }
        self.reader.keep_one()?;
        Ok(Some(Box::new(value)))
    }

    fn check_length<E: Error>(&self, text: &str) -> Result<(), E> {
        let too_long = self.keep && text.len() > self.reader.limits.bytes;
        if too_long { Err(E::custom("a string is too long")) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Element<'_, '_> {
    type Value = Option<Decoded<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.done(CelNull)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.done(CelBool::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        if !(-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&value) {
            return Err(E::custom("an integer is beyond 2^53 - 1"));
        }
        self.done(CelInt::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        // Beyond 2^53 every double is an integer. `1.0` and `1` are one number in JSON, and one here.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "within +-2^53 both are exact"
        )]
        match value {
            _ if !value.is_finite() || value.abs() > MAX_SAFE_INTEGER as f64 => {
                Err(E::custom("a number is beyond 2^53 - 1"))
            }
            _ if value.fract() == 0.0 => self.done(CelInt::from(value as i64)),
            _ => self.done(CelDouble::from(value)),
        }
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Self::Value, E> {
        self.check_length(value)?;
        self.done(CelString::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        self.check_length(value)?;
        if !self.keep {
            return Ok(None);
        }
        self.done(CelString::from(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut kept: Vec<Decoded<'de>> = Vec::new();
        while let Some(value) = seq.next_element_seed(Element { reader: self.reader, keep: self.keep })? {
            kept.extend(value);
            if kept.len() > self.reader.limits.elements {
                return Err(A::Error::custom("a list has too many elements"));
            }
        }
        self.done(CelList::from(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let keep = self.keep;
        let kept = members(self.reader, map, |_| keep)?;
        self.done(kept)
    }
}

/// The caller, as conditions see it. A member that the caller does not have is absent.
#[derive(Clone, Copy)]
pub(super) struct Caller<'p>(pub(super) &'p Principal);

impl fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("principal")
    }
}

impl Val for Caller<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &types::MAP_TYPE
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(*self)
    }
}

impl Indexer for Caller<'_> {
    fn get<'b, 'w>(&'b self, member: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let Caller(principal) = *self;
        let name = member.downcast_ref::<CelString<'_>>().map(CelString::inner).unwrap_or_default();
        let text = match (name, &principal.groups) {
            ("subject", _) => Some(&*principal.subject),
            ("kind", _) => Some(principal.kind.as_str()),
            ("client", _) => principal.client.as_deref(),
            ("authority", _) => Some(&*principal.authority),
            ("groups", Groups::Known(groups)) => {
                let groups = groups.iter().map(|g| Box::new(CelString::from(&**g)) as Box<dyn Val>);
                return Ok(CowVal::owned(CelList::from(groups.collect::<Vec<_>>())));
            }
            _ => None,
        };
        match text {
            Some(text) => Ok(CowVal::owned(CelString::from(text))),
            None => Err(ExecutionError::no_such_key(name)),
        }
    }

    fn steal<'w>(self: Box<Self>, member: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(member).map(CowVal::into_owned)
    }
}
