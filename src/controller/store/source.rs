//! An object that people write, as it was last seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use serde::Deserialize as _;
use serde_json::Value;

use crate::api::object::{self, Rejected};
use crate::api::v1alpha1::McpClientStatus;
use crate::api::{FieldPath, GROUP, Key, Kind, Object, VERSION};
use crate::controller::object::{Seen, version};
use crate::generated::{Authority, ObjectId};
use crate::resolve::{self, ClientKind, Finding, Findings, Lookup, Reason, RegisteredAs, Registration, Settings};

/// An object that people write.
#[derive(Clone, Debug)]
pub struct Source {
    /// Which.
    pub key: Key,
    /// Its UID and generation.
    pub id: ObjectId,
    /// Which state this is.
    pub seen: Seen,
    /// The object, or what is wrong with it if it cannot be read.
    pub read: Result<Arc<Object>, Findings>,
    /// What its status says.
    pub status: Value,
    /// In which state it says so: a later one than the rest, if this process wrote it and was not told yet.
    pub spoken: Seen,
    /// What others need to know of it.
    pub outline: Outline,
    /// Since when it is being deleted (Unix seconds).
    pub ending: Option<i64>,
    /// What keeps it from being gone.
    finalizers: Vec<String>,
    /// Annotations.
    annotations: BTreeMap<String, String>,
}

/// What others need to know of an object, whatever it refers to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outline {
    /// Nothing.
    None,
    /// A server that is valid in itself: its path.
    Path(String),
    /// A trust anchor that is valid in itself, without what changes and means nothing to others: generation, keys,
    /// revocations. And how clients are registered there, if it is an issuer.
    Authority(Arc<Authority>, Option<Arc<Registration>>),
    /// A client that is valid in itself. Its servers are not looked at here. And as whom it was registered, as this controller
    /// said of it.
    Client(Arc<ClientKind>, Option<RegisteredAs>),
}

impl Source {
    /// Reads an object of `kind`, told during or after this listing. `None` if the API server did not say what it always says.
    pub fn read(kind: Kind, object: DynamicObject, listing: u64, settings: &Settings<'_>) -> Option<Self> {
        let seen = Seen { listing, version: version(&object)? };
        let DynamicObject { mut metadata, mut data, .. } = object;
        metadata.managed_fields = None;
        let key = Key {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        };
        metadata.uid.as_ref()?;
        let id = resolve::object_id(&key, &metadata);
        let status = data.get_mut("status").map(Value::take).unwrap_or_default();
        let ending = metadata.deletion_timestamp.as_ref().map(|time| time.0.as_second());
        let finalizers = metadata.finalizers.clone().unwrap_or_default();
        let annotations = metadata.annotations.clone().unwrap_or_default();
        let read = read(kind, &metadata, data).map(Arc::new);
        let outline = Outline::None;
        let mut source = Self { key, id, seen, read, status, spoken: seen, outline, ending, finalizers, annotations };
        source.outline = outline_of(&source, settings);
        Some(source)
    }

    /// When it was made, in Unix seconds.
    pub fn created(&self) -> Option<i64> {
        let metadata = self.read.as_ref().ok()?.metadata();
        metadata.creation_timestamp.as_ref().map(|time| time.0.as_second())
    }

    /// Whether this finalizer keeps it.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|one| one == name)
    }

    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<String> {
        self.annotations.get(name).cloned()
    }

    /// What its status says, of a client; nothing, if it cannot be read.
    pub fn client_status(&self) -> McpClientStatus {
        McpClientStatus::deserialize(&self.status).unwrap_or_default()
    }

    /// The client, if it is one that can be read.
    pub fn client(&self) -> Option<&crate::api::McpClient> {
        match self.read.as_deref() {
            Ok(Object::Client(client)) => Some(client),
            _ => None,
        }
    }

    /// Whether its author changed something since `earlier`. Labels have no generation; and of an object that was restored
    /// nobody knows what its generation stands for.
    pub fn is_another_than(&self, earlier: &Source) -> bool {
        let labels = |source: &Source| source.read.as_ref().ok().and_then(|object| object.metadata().labels.clone());
        self.seen.version < earlier.seen.version
            || self.id != earlier.id
            || self.read.is_ok() != earlier.read.is_ok()
            || labels(self) != labels(earlier)
            || self.ending != earlier.ending
            || self.annotations != earlier.annotations
    }

    /// Whether its status is about the object as it is.
    pub fn is_told(&self) -> bool {
        self.status.get("observedGeneration").and_then(Value::as_i64) == Some(self.id.generation)
    }

    /// The server, if it is one that can be read.
    pub fn server(&self) -> Option<&crate::api::McpServer> {
        match self.read.as_deref() {
            Ok(Object::Server(server)) => Some(server),
            _ => None,
        }
    }

    /// The policy, if it is one that can be read.
    pub fn policy(&self) -> Option<&crate::api::McpPolicy> {
        match self.read.as_deref() {
            Ok(Object::Policy(policy)) => Some(policy),
            _ => None,
        }
    }

    /// The trust anchor, if it is one that can be read.
    pub fn authorization_server(&self) -> Option<&crate::api::McpAuthorizationServer> {
        match self.read.as_deref() {
            Ok(Object::AuthorizationServer(server)) => Some(server),
            _ => None,
        }
    }
}

fn read(kind: Kind, metadata: &ObjectMeta, mut data: Value) -> Result<Object, Findings> {
    let whole = serde_json::to_value(metadata).ok().zip(data.as_object_mut()).map(|(metadata, members)| {
        members.insert("apiVersion".to_owned(), format!("{GROUP}/{VERSION}").into());
        members.insert("kind".to_owned(), kind.as_str().into());
        members.insert("metadata".to_owned(), metadata);
    });
    let unreadable = || vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "the object cannot be read")];
    whole.ok_or_else(unreadable)?;
    object::read(&data).map_err(|rejected| match rejected {
        Rejected::Invalid { problems, .. } => problems.iter().map(Finding::from).collect(),
        Rejected::Unidentified(problem) => vec![Finding::from(&problem)],
        Rejected::Foreign { .. } => unreadable(),
    })
}

/// What others need to know of an object, as it is judged now.
pub(super) fn outline_of(source: &Source, settings: &Settings<'_>) -> Outline {
    match source.read.as_ref().map_or(Outline::None, |object| outline(object, settings)) {
        Outline::Client(client, _) => Outline::Client(client, RegisteredAs::of(&source.status)),
        outline => outline,
    }
}

fn outline(object: &Object, settings: &Settings<'_>) -> Outline {
    let nothing = Lookup::default();
    match object {
        Object::Server(server) => match resolve::server(server, settings, &nothing) {
            Ok(resolved) => Outline::Path(resolved.object.path),
            Err(_) => Outline::None,
        },
        Object::AuthorizationServer(server) => {
            match (resolve::authority(server, settings, &nothing), resolve::registration(server)) {
                (Ok(resolved), Ok(registration)) => {
                    let id = ObjectId { generation: 0, ..resolved.object.id };
                    let authority = Authority { id, key_set: None, revoked: Vec::new(), ..resolved.object };
                    Outline::Authority(Arc::new(authority), registration.map(Arc::new))
                }
                (Err(_), _) | (_, Err(_)) => Outline::None,
            }
        }
        Object::Client(client) => match resolve::client(client, settings, &nothing) {
            Ok(resolved) => Outline::Client(Arc::new(resolved.object), None),
            Err(_) => Outline::None,
        },
        Object::Policy(_) | Object::Secret(_) | Object::ConfigMap(_) | Object::Namespace(_) => Outline::None,
    }
}
