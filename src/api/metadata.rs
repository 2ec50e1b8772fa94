//! The metadata that people write, read as strictly as the rest.
//!
//! Invariant: a misspelled `labels` or `namespace` is refused, never dropped: rules reach objects by both.

use serde_json::Value;

use super::{
    FieldPath,
    schema::{Problem, ProblemKind, unknown},
};

/// The members of Kubernetes' ObjectMeta.
pub(super) const MEMBERS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Everything that is wrong with an object's metadata, apart from its name and namespace.
pub(super) fn check(object: &Value) -> Vec<Problem> {
    let path = FieldPath::of("metadata");
    let mut problems = Vec::new();
    for (name, member) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        match name.as_str() {
            "labels" => texts(member, &path.field(name), true, &mut problems),
            "annotations" => texts(member, &path.field(name), false, &mut problems),
            known if MEMBERS.contains(&known) => {}
            _ => problems.push(unknown(&path, name, MEMBERS.into_iter())),
        }
    }
    problems
}

/// A map of names to texts; those of labels are short and plain, or no selector could name them.
fn texts(value: &Value, path: &FieldPath, labels: bool, problems: &mut Vec<Problem>) {
    let mut problem = |path, kind, message: &str| problems.push(Problem::new(path, kind, message.to_owned()));
    let Some(members) = value.as_object() else {
        if !value.is_null() {
            problem(path.clone(), ProblemKind::Type, "expected a mapping of names to text");
        }
        return;
    };
    for (key, value) in members {
        let at = path.field(key);
        match value.as_str() {
            None => problem(at, ProblemKind::Type, "expected text (put it in quotes)"),
            Some(_) if labels && !is_label_key(key) => problem(at, ProblemKind::Value, NOT_A_KEY),
            Some(text) if labels && !is_label_value(text) => problem(at, ProblemKind::Value, NOT_A_VALUE),
            Some(_) => {}
        }
    }
}

/// What is wrong with a label's key that is none.
pub const NOT_A_KEY: &str =
    "not a label's key: letters, digits and - _ . inside, at most 63, perhaps after a DNS name and /";
/// What is wrong with a label's value that is none.
pub const NOT_A_VALUE: &str = "not a label's value: letters, digits and - _ . inside, at most 63";

/// Whether `text` can be the key of a label: a name, perhaps behind a DNS subdomain and a slash.
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(super::object::is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether `text` can be the value of a label; an empty one can.
pub fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63 && text.bytes().all(inner) && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_kubernetes_takes_for_labels() {
        let long = "a".repeat(64);
        for (text, key, value) in [
            ("tier", true, true),
            ("example.com/tier", true, false),
            ("a/b/c", false, false),
            ("/tier", false, false),
            ("example.com/", false, false),
            ("Ex_1.a-b", true, true),
            ("", false, true),
            ("gold ", false, false),
            ("-a", false, false),
            ("a.", false, false),
            ("caf\u{e9}", false, false),
            (long.as_str(), false, false),
        ] {
            assert_eq!((is_label_key(text), is_label_value(text)), (key, value), "{text:?}");
        }
    }
}
