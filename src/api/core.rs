//! The few kinds of Kubernetes itself that manifests refer to.
//!
//! Invariant: the content of a Secret is in no `Debug` output and in no message.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::{
    FieldPath,
    schema::{Problem, ProblemKind},
};

/// A Secret, with its values decoded.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// Name, namespace and annotations.
    pub metadata: ObjectMeta,
    /// The decoded values.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("Secret").field("name", &self.metadata.name).field("keys", &keys).finish_non_exhaustive()
    }
}

/// A ConfigMap. Binary data is not read: nothing refers to it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ConfigMap {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// The values.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
}

/// A Namespace: its labels are what `namespaceSelector` matches.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Namespace {
    /// Name and labels.
    pub metadata: ObjectMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSecret {
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    #[serde(default)]
    string_data: Option<BTreeMap<String, String>>,
}

/// Reads a Secret as the API server does: `data` is base64, and `stringData` wins over it.
pub(super) fn secret(value: &Value) -> Result<Secret, Vec<Problem>> {
    // serde's message could quote a value.
    let raw = RawSecret::deserialize(value).map_err(|_| {
        vec![Problem::new(
            FieldPath::root(),
            ProblemKind::Type,
            "not a Secret: data and stringData map names to strings".into(),
        )]
    })?;
    let mut data = BTreeMap::new();
    let mut problems = Vec::new();
    for (key, text) in raw.data.unwrap_or_default() {
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        match BASE64_STANDARD.decode(compact) {
            Ok(bytes) => {
                data.insert(key, bytes);
            }
            Err(_) => problems.push(Problem::new(
                FieldPath::of("data").field(&key),
                ProblemKind::Value,
                "not base64; plain text belongs in stringData".into(),
            )),
        }
    }
    for (key, text) in raw.string_data.unwrap_or_default() {
        data.insert(key, text.into_bytes());
    }
    if problems.is_empty() { Ok(Secret { metadata: raw.metadata, data }) } else { Err(problems) }
}

/// Reads a ConfigMap.
pub(super) fn config_map(value: &Value) -> Result<ConfigMap, Vec<Problem>> {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut()
        && map.get("data").is_some_and(Value::is_null)
    {
        map.remove("data");
    }
    ConfigMap::deserialize(&value).map_err(|_| {
        vec![Problem::new(FieldPath::root(), ProblemKind::Type, "not a ConfigMap: data maps names to strings".into())]
    })
}

/// Reads a Namespace.
pub(super) fn namespace(value: &Value) -> Result<Namespace, Vec<Problem>> {
    Namespace::deserialize(value)
        .map_err(|_| vec![Problem::new(FieldPath::of("metadata"), ProblemKind::Type, "not a Namespace".into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_decoded_and_string_data_wins() {
        let value = serde_json::json!({
            "metadata": {"name": "s"},
            "data": {"a": "aHVudGVyMg==", "b": "eA=="},
            "stringData": {"b": "plain"}
        });
        let secret = secret(&value).unwrap();
        assert_eq!(secret.data["a"], b"hunter2");
        assert_eq!(secret.data["b"], b"plain");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn neither_broken_base64_nor_an_ill_typed_value_is_quoted() {
        for value in [
            serde_json::json!({"metadata": {"name": "s"}, "data": {"a": "hunter2!"}}),
            serde_json::json!({"metadata": {"name": "s"}, "stringData": {"a": 424_242}}),
            serde_json::json!({"metadata": {"name": "s"}, "stringData": "hunter2"}),
        ] {
            let problems = secret(&value).unwrap_err();
            let text = format!("{problems:?}");
            assert!(!text.contains("hunter2") && !text.contains("424242"), "{text}");
        }
    }
}
