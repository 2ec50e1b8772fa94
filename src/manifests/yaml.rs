//! YAML to JSON values with the position of every member.
//!
//! Invariant: a text means here what it means to `kubectl`: bare `yes` and `on` are true, and duplicate keys, which
//! `kubectl` refuses too when it is strict, are an error. No message quotes a value.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_saphyr::{Location, Options, Spanned};

use super::Position;
use crate::api::FieldPath;

/// One document of a file.
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) positions: BTreeMap<FieldPath, Position>,
}

/// Why a text is not YAML.
#[derive(Debug)]
pub(super) struct YamlError {
    pub(super) position: Option<Position>,
    pub(super) message: String,
}

/// How deep a text may nest: CustomResourceDefinitions, which may lie beside our manifests, need about 40.
const MAX_DEPTH: usize = 64;

/// The stack on which texts are read, in bytes: reading recurses, by up to 40 KiB a level without optimization.
const STACK: usize = 16 << 20;

/// Reads all documents of a text; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, YamlError> {
    let failed = || YamlError { position: None, message: "could not be read: no memory for a thread".to_owned() };
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || read(text));
        reader.map_err(|_| failed())?.join().unwrap_or_else(|_| Err(failed()))
    })
}

fn read(text: &str) -> Result<Vec<Document>, YamlError> {
    let nodes: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| yaml_error(&e))?;
    let mut documents = Vec::with_capacity(nodes.len());
    for node in nodes {
        if matches!(node.value, Node::Null) {
            continue;
        }
        let mut positions = BTreeMap::new();
        let start = position(&node.referenced);
        let value = plain(node.value, &FieldPath::root(), &mut positions);
        positions.extend(start.map(|p| (FieldPath::root(), p)));
        documents.push(Document { value, positions });
    }
    Ok(documents)
}

/// The limits that keep a hostile file from costing more than reading it (alias bombs, deep nesting).
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2_000_000,
            max_nodes: 1_000_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
            max_depth: MAX_DEPTH,
            max_documents: 20_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
    }
}

fn yaml_error(error: &serde_saphyr::Error) -> YamlError {
    let position = error.location().as_ref().and_then(position);
    // The error's own text could quote the file.
    let message = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {:?} is given twice", key.chars().take(64).collect::<String>())
        }
        serde_saphyr::Error::DuplicateMappingKey { .. } => "a key is given twice".to_owned(),
        serde_saphyr::Error::Budget { .. } => "too large or too deeply nested for a manifest".to_owned(),
        _ => "not valid YAML here or just before; check indentation, colons and quotes".to_owned(),
    };
    YamlError { position, message }
}

fn position(location: &Location) -> Option<Position> {
    (*location != Location::UNKNOWN).then(|| Position { line: location.line(), column: location.column() })
}

/// A value, spelled out so that every member keeps its position.
enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn plain(node: Node, path: &FieldPath, positions: &mut BTreeMap<FieldPath, Position>) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Bool(b) => Value::Bool(b),
        Node::Number(n) => Value::Number(n),
        Node::String(s) => Value::String(s),
        Node::List(entries) => {
            let entries = entries.into_iter().enumerate().map(|(i, entry)| {
                let path = path.index(i);
                positions.extend(position(&entry.referenced).map(|p| (path.clone(), p)));
                plain(entry.value, &path, positions)
            });
            Value::Array(entries.collect())
        }
        Node::Map(members) => {
            let members = members.into_iter().map(|(key, member)| {
                let path = path.field(&key.value);
                let at = position(&key.referenced).or_else(|| position(&member.referenced));
                positions.extend(at.map(|p| (path.clone(), p)));
                (key.value, plain(member.value, &path, positions))
            });
            Value::Object(members.collect())
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Node, E> {
        Ok(Node::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Node, E> {
        Ok(Node::Number(n.into()))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Node, E> {
        Ok(Node::Number(n.into()))
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<Node, E> {
        Number::from_f64(n).map(Node::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            entries.push(entry);
        }
        Ok(Node::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Map(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(text: &str) -> Vec<Document> {
        documents(text).unwrap()
    }

    fn at(document: &Document, path: &FieldPath) -> (u64, u64) {
        let position = document.positions[path];
        (position.line, position.column)
    }

    #[test]
    fn every_member_has_the_position_of_its_key() {
        let all = all_of("a: 1\nb:\n  - c: x\n    d: [w, z]\n---\n# none\n---\n  e: {f: g}\n");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].value, serde_json::json!({"a": 1, "b": [{"c": "x", "d": ["w", "z"]}]}));
        assert_eq!(at(&all[0], &FieldPath::of("a")), (1, 1));
        let entry = FieldPath::of("b").index(0);
        assert_eq!(at(&all[0], &entry.field("d")), (4, 5));
        assert_eq!(at(&all[0], &entry.field("d").index(1)), (4, 12));
        assert_eq!(at(&all[1], &FieldPath::of("e.f")), (8, 7));
    }

    #[test]
    fn json_is_read_too() {
        let all = all_of("{\"a\": {\"b\": [true, null, 1.5, \"x\"]}}");
        assert_eq!(all[0].value, serde_json::json!({"a": {"b": [true, null, 1.5, "x"]}}));
        assert_eq!(at(&all[0], &FieldPath::of("a.b")), (1, 8));
    }

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        let value = &all_of("a: yes\nb: \"yes\"\nc: on\nd: null\ne:\nf: 1.0.0\ng: 5\n")[0].value;
        let want = serde_json::json!({"a": true, "b": "yes", "c": true, "d": null, "e": null, "f": "1.0.0", "g": 5});
        assert_eq!(*value, want);
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_never_quoted() {
        for (text, line) in [
            ("a: 1\na: hunter2\n", 2),
            ("a: [hunter2\nb: 1\n", 2),
            ("a: b: hunter2\n", 1),
            ("a: \"hunter2\nb: 1\n", 0),
            ("a: &x [*x, hunter2]\n", 0),
            ("a: .nan\nb: hunter2\n", 0),
        ] {
            let error = documents(text).err().unwrap();
            assert!(!error.message.contains("hunter2"), "{}", error.message);
            if line > 0 {
                assert_eq!(error.position.map(|p| p.line), Some(line), "{text}");
            }
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let alias = format!("*a{}", i - 1);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", ")));
        }
        assert!(documents(&bomb).is_err());
        assert!(documents(&"[".repeat(10_000)).is_err());
        assert!(documents(&"- ".repeat(10_000)).is_err());
    }
}
