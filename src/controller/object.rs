//! A generated object as a Kubernetes object: how it is written, and how what is there is read.
//!
//! Invariant: what is there counts as ours only if labels, annotation and content are, byte for byte; so whoever edits one
//! of them by hand is overruled, and what is as it should be is not written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::generated::codec::{self, CodecError, Generated, MOST_BYTES};
use crate::generated::kind::{GENERATED, OBJECT_KEY, SOURCE, SOURCE_UID};
use crate::generated::{Collection, Kind, ObjectId};

/// Who writes, as managed fields call it.
pub const FIELD_MANAGER: &str = "portcullis";

/// A generated object as it should be.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What it is.
    pub kind: Kind,
    /// The UID of its source.
    pub uid: String,
    /// Its source's name, for people.
    pub source: String,
    /// The encoded object. It may hold credentials.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("kind", &self.kind).field("source", &self.source).finish_non_exhaustive()
    }
}

impl Wanted {
    /// Encodes an object.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn new(kind: Kind, id: &ObjectId, object: &Generated) -> Result<Self, CodecError> {
        let bytes = codec::encode(object)?.into();
        Ok(Self { kind, uid: id.uid.clone(), source: id.display_name(), bytes })
    }

    /// Whether the API server takes it.
    pub fn fits(&self) -> bool {
        self.bytes.len() <= MOST_BYTES
    }

    /// Its name in the gateway namespace.
    pub fn name(&self) -> String {
        self.kind.object_name(&self.uid)
    }

    /// What is applied.
    pub fn manifest(&self, namespace: &str) -> Value {
        let content = match self.kind.collection() {
            Collection::Secrets => BASE64_STANDARD.encode(&self.bytes),
            Collection::ConfigMaps => String::from_utf8_lossy(&self.bytes).into_owned(),
        };
        json!({
            "apiVersion": "v1",
            "kind": object_kind(self.kind.collection()),
            "metadata": {
                "name": self.name(),
                "namespace": namespace,
                "labels": self.labels(),
                "annotations": {SOURCE: self.source},
            },
            "data": {OBJECT_KEY: content},
        })
    }

    fn labels(&self) -> BTreeMap<&str, &str> {
        BTreeMap::from([(GENERATED, self.kind.label()), (SOURCE_UID, self.uid.as_str())])
    }
}

/// The Kubernetes kind of a collection's objects.
pub fn object_kind(collection: Collection) -> &'static str {
    match collection {
        Collection::Secrets => "Secret",
        Collection::ConfigMaps => "ConfigMap",
    }
}

/// Which state of an object was told. Versions can be compared only within one listing of its collection and what was told
/// since: before the next one the cluster may have been restored, and counts from an earlier number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// How many listings of the collection had begun.
    pub listing: u64,
    /// The object's version.
    pub version: u64,
}

/// A generated object as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Present {
    /// The object's own UID.
    pub own_uid: String,
    /// Which state this is.
    pub seen: Seen,
    /// Its content, if it has any.
    pub bytes: Option<Arc<[u8]>>,
    /// Whether labels and annotation say these.
    marks: [Option<String>; 3],
}

impl Present {
    /// Reads what is there. Nothing in it is trusted to be readable.
    pub fn read(object: &DynamicObject, collection: Collection) -> Option<Self> {
        let metadata = &object.metadata;
        let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
        let source = metadata.annotations.as_ref().and_then(|all| all.get(SOURCE)).cloned();
        let content = object.data.get("data").and_then(|data| data.get(OBJECT_KEY)).and_then(Value::as_str);
        let bytes = content.and_then(|text| match collection {
            Collection::Secrets => BASE64_STANDARD.decode(text).ok(),
            Collection::ConfigMaps => Some(text.as_bytes().to_vec()),
        });
        Some(Self {
            own_uid: metadata.uid.clone()?,
            seen: Seen { listing: 0, version: version(object)? },
            bytes: bytes.map(Arc::from),
            marks: [label(GENERATED), label(SOURCE_UID), source],
        })
    }

    /// Whether it is as it should be.
    pub fn is(&self, wanted: &Wanted) -> bool {
        let [kind, uid, source] = &self.marks;
        kind.as_deref() == Some(wanted.kind.label())
            && uid.as_deref() == Some(&wanted.uid)
            && source.as_deref() == Some(&wanted.source)
            && self.bytes.as_deref() == Some(&*wanted.bytes)
    }

    /// What it holds, if that can be read.
    pub fn decoded(&self) -> Option<Generated> {
        self.bytes.as_deref().and_then(|bytes| codec::decode(bytes).ok())
    }
}

/// The resource version of an object. Those of one collection can be compared (KEP-5504).
pub fn version(object: &DynamicObject) -> Option<u64> {
    crate::generated::report::resource_version(object.metadata.resource_version.as_deref()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> (ObjectId, Generated) {
        let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "p".into(), generation: 1 };
        let policy = crate::resolve::edit(None, id.clone(), false, Err(crate::resolve::Reason::ConditionInvalid));
        (id, Generated::Policy(policy))
    }

    fn as_stored(wanted: &Wanted) -> DynamicObject {
        let mut object: DynamicObject = serde_json::from_value(wanted.manifest("gateway")).unwrap();
        object.metadata.uid = Some("own".into());
        object.metadata.resource_version = Some("7".into());
        object
    }

    #[test]
    fn what_was_written_is_recognized_and_whatever_was_edited_is_not() {
        let (id, object) = policy();
        // The same content, once where Secrets are: they are told apart by nothing but their kind.
        for kind in [Kind::Policy, Kind::Server] {
            let wanted = Wanted::new(kind, &id, &object).unwrap();
            let stored = as_stored(&wanted);
            let present = Present::read(&stored, kind.collection()).unwrap();
            assert!(present.is(&wanted) && present.seen.version == 7);
            assert_eq!(present.decoded(), Some(object.clone()));

            type Edit = fn(&mut DynamicObject);
            let edits: [Edit; 4] = [
                |o| o.data["data"][OBJECT_KEY] = "e30=".into(),
                |o| o.data["data"] = Value::Null,
                |o| drop(o.metadata.labels.as_mut().unwrap().insert(SOURCE_UID.into(), "v".into())),
                |o| o.metadata.annotations = None,
            ];
            for edit in edits {
                let mut edited = stored.clone();
                edit(&mut edited);
                assert!(!Present::read(&edited, kind.collection()).unwrap().is(&wanted));
            }
        }
    }

    #[test]
    fn content_is_in_no_debug_output() {
        let (id, object) = policy();
        let wanted = Wanted::new(Kind::Policy, &id, &object).unwrap();
        assert!(!format!("{wanted:?}").contains("DenyAll"));
    }
}
