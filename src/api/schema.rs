//! The structural schema of our kinds, held against what people write.
//!
//! Invariant: what passes here the API server's schema would pass too, apart from patterns, formats and CEL rules, which
//! `resolve` judges; and what the API server would silently drop is refused with the nearest known name. No message
//! quotes a value, only names of members.

use std::sync::OnceLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::{FieldPath, Kind, crd, metadata};

/// How deep a document may nest; our own schemas need less than half of it.
const MAX_DEPTH: usize = 32;

/// Something in an object that is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: FieldPath,
    /// What sort of problem.
    pub kind: ProblemKind,
    /// What is wrong, in words; never quotes a value.
    pub message: String,
}

/// The sort of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A member that the schema does not know.
    Unknown,
    /// A required member is missing.
    Missing,
    /// A value of the wrong type.
    Type,
    /// A value of the right type that is not allowed.
    Value,
    /// A value outside its bounds.
    Bounds,
    /// Two entries of a list with the same key.
    Duplicate,
}

impl Problem {
    pub(super) fn new(path: FieldPath, kind: ProblemKind, message: String) -> Self {
        Self { path, kind, message }
    }
}

/// Everything that is wrong with `value` by the schema of `kind`; of Kubernetes' own kinds, members that they lack.
pub(super) fn check(kind: Kind, value: &Value) -> Vec<Problem> {
    let mut problems = metadata::check(value);
    let Some(object) = value.as_object() else { return problems };
    let members = members(kind);
    for name in object.keys().filter(|name| !members.contains(&name.as_str())) {
        problems.push(unknown(&FieldPath::root(), name, members.iter().copied()));
    }
    if let Some(schema) = schema_of(kind) {
        match object.get("spec") {
            Some(spec) => walk(spec_of(schema), spec, &FieldPath::of("spec"), 0, &mut problems),
            None => problems.push(Problem::new(FieldPath::of("spec"), ProblemKind::Missing, "spec is missing".into())),
        }
    }
    problems
}

/// What objects of a kind consist of. A status is nobody's to write, and is passed over.
fn members(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Secret => &["apiVersion", "kind", "metadata", "data", "immutable", "stringData", "type"],
        Kind::ConfigMap => &["apiVersion", "kind", "metadata", "binaryData", "data", "immutable"],
        Kind::Namespace | Kind::McpAuthorizationServer | Kind::McpClient | Kind::McpPolicy | Kind::McpServer => {
            &["apiVersion", "kind", "metadata", "spec", "status"]
        }
    }
}

/// The known name nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    known
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

fn schema_of(kind: Kind) -> Option<&'static JSONSchemaProps> {
    static CRDS: OnceLock<Vec<CustomResourceDefinition>> = OnceLock::new();
    let crds = CRDS.get_or_init(crd::all);
    let crd = crds.iter().find(|c| c.spec.names.kind == kind.as_str())?;
    crd.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn spec_of(schema: &'static JSONSchemaProps) -> &'static JSONSchemaProps {
    schema.properties.as_ref().and_then(|p| p.get("spec")).unwrap_or(schema)
}

fn walk(schema: &JSONSchemaProps, value: &Value, path: &FieldPath, depth: usize, problems: &mut Vec<Problem>) {
    if depth > MAX_DEPTH {
        problems.push(Problem::new(path.clone(), ProblemKind::Bounds, format!("nested deeper than {MAX_DEPTH}")));
        return;
    }
    let wrong_type = |expected: &str| {
        Problem::new(path.clone(), ProblemKind::Type, format!("expected {expected}, found {}", type_name(value)))
    };
    match (schema.type_.as_deref(), value) {
        (Some("object"), Value::Object(members)) => object(schema, members, path, depth, problems),
        (Some("array"), Value::Array(entries)) => array(schema, entries, path, depth, problems),
        (Some("string"), Value::String(text)) => string(schema, text, path, problems),
        (Some("integer"), Value::Number(n)) if n.is_i64() => number(schema, n.as_f64(), path, problems),
        (Some("number"), Value::Number(n)) => number(schema, n.as_f64(), path, problems),
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some("object"), _) => problems.push(wrong_type("a mapping")),
        (Some("array"), _) => problems.push(wrong_type("a list")),
        (Some("boolean"), _) => problems.push(wrong_type("true or false")),
        (Some("integer"), _) => problems.push(wrong_type("a whole number")),
        (Some("string"), _) => problems.push(wrong_type("text (put it in quotes if it is meant as text)")),
        (Some(other), _) => problems.push(wrong_type(other)),
    }
}

fn object(
    schema: &JSONSchemaProps,
    members: &serde_json::Map<String, Value>,
    path: &FieldPath,
    depth: usize,
    problems: &mut Vec<Problem>,
) {
    if let Some(max) = schema.max_properties
        && members.len() as i64 > max
    {
        problems.push(bounds(path, format!("has {} members, at most {max} are allowed", members.len())));
        return;
    }
    for name in schema.required.iter().flatten() {
        if members.get(name).is_none_or(Value::is_null) {
            problems.push(Problem::new(path.field(name), ProblemKind::Missing, format!("{name} is missing")));
        }
    }
    for (name, member) in members {
        let known = schema.properties.as_ref().and_then(|p| p.get(name));
        match (known, &schema.additional_properties) {
            // What is required is judged above; else null is as good as absent.
            (Some(_), _) if member.is_null() => {}
            (Some(known), _) => walk(known, member, &path.field(name), depth + 1, problems),
            (None, Some(JSONSchemaPropsOrBool::Schema(of_any))) => {
                walk(of_any, member, &path.field(name), depth + 1, problems);
            }
            // `oauth` takes anything, since using it at all is refused by `resolve`.
            (None, _) if schema.properties.is_none() && schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
            (None, _) => {
                let names = schema.properties.iter().flat_map(|p| p.keys().map(String::as_str));
                problems.push(unknown(path, name, names));
            }
        }
    }
}

fn array(schema: &JSONSchemaProps, entries: &[Value], path: &FieldPath, depth: usize, problems: &mut Vec<Problem>) {
    let count = entries.len() as i64;
    if let Some(max) = schema.max_items
        && count > max
    {
        problems.push(bounds(path, format!("has {count} entries, at most {max} are allowed")));
        return;
    }
    if let Some(min) = schema.min_items
        && count < min
    {
        problems.push(bounds(path, format!("has {count} entries, at least {min} is needed")));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        for (i, entry) in entries.iter().enumerate() {
            walk(item, entry, &path.index(i), depth + 1, problems);
        }
    }
    duplicates(schema, entries, path, problems);
}

/// List types `set` and `map` (merge keys): the API server refuses entries with the same key.
fn duplicates(schema: &JSONSchemaProps, entries: &[Value], path: &FieldPath, problems: &mut Vec<Problem>) {
    let keys: &[String] = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let is_set = schema.x_kubernetes_list_type.as_deref() == Some("set");
    if !is_set && keys.is_empty() {
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, entry) in entries.iter().enumerate() {
        let key = if is_set {
            entry.to_string()
        } else {
            keys.iter()
                .map(|k| entry.get(k).map(Value::to_string).unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\u{0}")
        };
        if !seen.insert(key) {
            let (at, message) = match keys.first() {
                Some(name) => (path.index(i).field(name), format!("another entry of the list has the same {name}")),
                None => (path.index(i), "the list already has this entry".to_owned()),
            };
            problems.push(Problem::new(at, ProblemKind::Duplicate, message));
        }
    }
}

fn string(schema: &JSONSchemaProps, text: &str, path: &FieldPath, problems: &mut Vec<Problem>) {
    if let Some(allowed) = &schema.enum_ {
        let names: Vec<&str> = allowed.iter().filter_map(|a| a.0.as_str()).collect();
        if !names.contains(&text) {
            let hint = nearest(text, names.iter().copied()).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            let message = format!("must be one of {}{hint}", names.join(", "));
            problems.push(Problem::new(path.clone(), ProblemKind::Value, message));
        }
        return;
    }
    let count = text.chars().count() as i64;
    if let Some(max) = schema.max_length
        && count > max
    {
        problems.push(bounds(path, format!("has {count} characters, at most {max} are allowed")));
    }
    if let Some(min) = schema.min_length
        && count < min
    {
        let message = if count == 0 { "is empty".to_owned() } else { format!("needs at least {min} characters") };
        problems.push(bounds(path, message));
    }
}

fn number(schema: &JSONSchemaProps, value: Option<f64>, path: &FieldPath, problems: &mut Vec<Problem>) {
    let Some(value) = value else { return };
    if let Some(min) = schema.minimum
        && value < min
    {
        problems.push(bounds(path, format!("must be at least {min}")));
    }
    if let Some(max) = schema.maximum
        && value > max
    {
        problems.push(bounds(path, format!("must be at most {max}")));
    }
}

fn bounds(path: &FieldPath, message: String) -> Problem {
    Problem::new(path.clone(), ProblemKind::Bounds, message)
}

pub(super) fn unknown<'a>(path: &FieldPath, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let short: String = name.chars().take(64).collect();
    let message = match nearest(name, known.clone()) {
        Some(near) => format!("unknown field {short:?}; did you mean {near:?}?"),
        None => format!("unknown field {short:?}; known here: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(path.field(name), ProblemKind::Unknown, message)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false (YAML reads bare yes, no, on and off so)",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
