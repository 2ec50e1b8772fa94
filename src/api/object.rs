//! One object as people write it, read strictly.
//!
//! Invariant: an object is only ever accepted under the identity (kind, namespace, name) that it claims, so an edit
//! that is wrong in itself can be held against what was accepted before.

use std::fmt;

use aws_lc_rs::digest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    FieldPath, GROUP, VERSION,
    core::{self, ConfigMap, Namespace, Secret},
    metadata::MEMBERS,
    schema::{self, Problem, ProblemKind, nearest},
    v1alpha1::{McpAuthorizationServer, McpClient, McpPolicy, McpServer},
};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A trust anchor.
    McpAuthorizationServer,
    /// An application that calls servers.
    McpClient,
    /// Rules.
    McpPolicy,
    /// A governed server.
    McpServer,
    /// Kubernetes' own.
    Secret,
    /// Kubernetes' own.
    ConfigMap,
    /// Kubernetes' own.
    Namespace,
}

impl Kind {
    /// The kinds of our group.
    pub const OURS: [Kind; 4] = [Kind::McpAuthorizationServer, Kind::McpClient, Kind::McpPolicy, Kind::McpServer];

    /// The kind as manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::McpAuthorizationServer => "McpAuthorizationServer",
            Kind::McpClient => "McpClient",
            Kind::McpPolicy => "McpPolicy",
            Kind::McpServer => "McpServer",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::Namespace => "Namespace",
        }
    }

    /// Whether objects of this kind lie in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::McpAuthorizationServer | Kind::Namespace)
    }
}

/// Which object: at any time there is at most one per key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A UID for objects that no API server gave one to: a UUID (version 8, RFC 9562) made of the first half of
    /// SHA-256 over kind, namespace and name. Equal keys have equal UIDs, on every machine.
    pub fn stable_uid(&self) -> String {
        let text = format!("{}\u{0}{}\u{0}{}", self.kind.as_str(), self.namespace, self.name);
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        let mut bytes = [0u8; 16];
        for (to, from) in bytes.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.as_str())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object that has passed its schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A trust anchor.
    AuthorizationServer(Box<McpAuthorizationServer>),
    /// An application that calls servers.
    Client(Box<McpClient>),
    /// Rules.
    Policy(Box<McpPolicy>),
    /// A governed server.
    Server(Box<McpServer>),
    /// Kubernetes' own.
    Secret(Secret),
    /// Kubernetes' own.
    ConfigMap(ConfigMap),
    /// Kubernetes' own.
    Namespace(Namespace),
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::AuthorizationServer(_) => Kind::McpAuthorizationServer,
            Object::Client(_) => Kind::McpClient,
            Object::Policy(_) => Kind::McpPolicy,
            Object::Server(_) => Kind::McpServer,
            Object::Secret(_) => Kind::Secret,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::Namespace(_) => Kind::Namespace,
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Object::AuthorizationServer(o) => &o.metadata,
            Object::Client(o) => &o.metadata,
            Object::Policy(o) => &o.metadata,
            Object::Server(o) => &o.metadata,
            Object::Secret(o) => &o.metadata,
            Object::ConfigMap(o) => &o.metadata,
            Object::Namespace(o) => &o.metadata,
        }
    }

    /// The object's metadata, to be completed by whoever stores it (UID, generation).
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::AuthorizationServer(o) => &mut o.metadata,
            Object::Client(o) => &mut o.metadata,
            Object::Policy(o) => &mut o.metadata,
            Object::Server(o) => &mut o.metadata,
            Object::Secret(o) => &mut o.metadata,
            Object::ConfigMap(o) => &mut o.metadata,
            Object::Namespace(o) => &mut o.metadata,
        }
    }

    /// Which object this is.
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        let namespace = if self.kind().is_namespaced() {
            metadata.namespace.clone().unwrap_or_else(|| "default".to_owned())
        } else {
            String::new()
        };
        Key { kind: self.kind(), namespace, name: metadata.name.clone().unwrap_or_default() }
    }
}

/// Why an edit of an object counts as invalid, though nothing could be resolved from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Invalidity {
    /// It is wrong in itself.
    Problems(Vec<Problem>),
    /// The source that it was last read from cannot be read any more.
    Unreadable,
    /// Two sources claim to be it.
    Duplicate,
}

/// Why a document is not an [`Object`].
#[derive(Clone, Debug, PartialEq)]
pub enum Rejected {
    /// It is of a kind that is none of our business.
    Foreign {
        /// `apiVersion` and `kind`, as written.
        what: String,
    },
    /// It cannot be told which object it is: the whole source must be taken as broken.
    Unidentified(Problem),
    /// It is this object, but wrong in itself.
    Invalid {
        /// Which object.
        key: Key,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

/// Reads one document.
pub fn read(value: &Value) -> Result<Object, Rejected> {
    let kind = kind_of(value)?;
    let key = key_of(kind, value)?;
    let invalid = |problems| Rejected::Invalid { key: key.clone(), problems };
    let problems = schema::check(kind, value);
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let mut object = match kind {
        Kind::McpAuthorizationServer => typed(value).map(|o| Object::AuthorizationServer(Box::new(o))),
        Kind::McpClient => typed(value).map(|o| Object::Client(Box::new(o))),
        Kind::McpPolicy => typed(value).map(|o| Object::Policy(Box::new(o))),
        Kind::McpServer => typed(value).map(|o| Object::Server(Box::new(o))),
        Kind::Secret => core::secret(value).map(Object::Secret),
        Kind::ConfigMap => core::config_map(value).map(Object::ConfigMap),
        Kind::Namespace => core::namespace(value).map(Object::Namespace),
    }
    .map_err(invalid)?;
    object.metadata_mut().namespace = kind.is_namespaced().then(|| key.namespace.clone());
    Ok(object)
}

fn typed<T: for<'de> Deserialize<'de>>(value: &Value) -> Result<T, Vec<Problem>> {
    let mut value = value.clone();
    if let Some(members) = value.as_object_mut() {
        // Nobody's to write: the API server drops it too.
        members.remove("status");
    }
    drop_nulls(&mut value);
    // The schema has passed, so what is left is ill-typed metadata.
    T::deserialize(value)
        .map_err(|e| vec![Problem::new(FieldPath::of("metadata"), ProblemKind::Type, format!("ill-typed: {e}"))])
}

/// Where the schema asks for no null, one is as good as nothing, and a default takes its place: so says the API server.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(entries) => entries.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn kind_of(value: &Value) -> Result<Kind, Rejected> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let unidentified =
        |field: &str, kind, message: String| Rejected::Unidentified(Problem::new(FieldPath::of(field), kind, message));
    let Some(api_version) = text("apiVersion") else {
        let message = format!("apiVersion is missing; for our kinds it is {GROUP}/{VERSION}");
        return Err(unidentified("apiVersion", ProblemKind::Missing, message));
    };
    let Some(kind) = text("kind") else {
        return Err(unidentified("kind", ProblemKind::Missing, "kind is missing".into()));
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group == GROUP {
        if version != VERSION {
            let message = format!("this build knows {GROUP}/{VERSION} only");
            return Err(unidentified("apiVersion", ProblemKind::Value, message));
        }
        let known = Kind::OURS.iter().map(|k| k.as_str());
        return Kind::OURS.into_iter().find(|k| k.as_str() == kind).ok_or_else(|| {
            let hint = match nearest(kind, known.clone()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
            };
            unidentified("kind", ProblemKind::Value, format!("no such kind in {GROUP}; {hint}"))
        });
    }
    let near = group.is_empty() || nearest(group, [GROUP].into_iter()).is_some();
    if Kind::OURS.iter().any(|k| k.as_str() == kind) && near {
        let message = format!("no such group; did you mean {GROUP}/{VERSION}?");
        return Err(unidentified("apiVersion", ProblemKind::Value, message));
    }
    match (api_version, kind) {
        ("v1", "Secret") => Ok(Kind::Secret),
        ("v1", "ConfigMap") => Ok(Kind::ConfigMap),
        ("v1", "Namespace") => Ok(Kind::Namespace),
        ("v1", list) if list.ends_with("List") => {
            Err(unidentified("kind", ProblemKind::Value, "a List is not read; separate its items by ---".into()))
        }
        ("v1", other) if let Some(near) = nearest(other, ["ConfigMap", "Namespace", "Secret"].into_iter()) => {
            Err(unidentified("kind", ProblemKind::Value, format!("no such kind in v1; did you mean {near}?")))
        }
        _ => Err(Rejected::Foreign { what: format!("{} {}", shortened(api_version), shortened(kind)) }),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn key_of(kind: Kind, value: &Value) -> Result<Key, Rejected> {
    let metadata = FieldPath::of("metadata");
    let get = |name: &str| value.get("metadata").and_then(|m| m.get(name));
    let text = |name: &str| match get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        Some(_) => Err(Rejected::Unidentified(Problem::new(
            metadata.field(name),
            ProblemKind::Type,
            "expected text (put it in quotes)".into(),
        ))),
    };
    let name = text("name")?.ok_or_else(|| {
        Rejected::Unidentified(Problem::new(
            metadata.field("name"),
            ProblemKind::Missing,
            "metadata.name is missing".into(),
        ))
    })?;
    let namespace = text("namespace")?;
    if kind.is_namespaced()
        && namespace.is_none()
        && let Some(misspelled) = misspelled_namespace(value)
    {
        let message = format!("unknown field {misspelled:?}; did you mean \"namespace\"?");
        return Err(Rejected::Unidentified(Problem::new(metadata.field(misspelled), ProblemKind::Unknown, message)));
    }
    if !is_dns_subdomain(&name) {
        let message = "not a valid name: lower-case letters, digits, '-' and '.', at most 253".to_owned();
        return Err(Rejected::Unidentified(Problem::new(metadata.field("name"), ProblemKind::Value, message)));
    }
    if let Some(namespace) = &namespace
        && !is_dns_label(namespace)
    {
        let message = "not a valid namespace: lower-case letters, digits and '-', at most 63".to_owned();
        return Err(Rejected::Unidentified(Problem::new(metadata.field("namespace"), ProblemKind::Value, message)));
    }
    let namespace =
        if kind.is_namespaced() { namespace.unwrap_or_else(|| "default".to_owned()) } else { String::new() };
    Ok(Key { kind, namespace, name })
}

/// A member of the metadata that is nothing else than a misspelled `namespace`.
fn misspelled_namespace(value: &Value) -> Option<&str> {
    let members = value.get("metadata")?.as_object()?.keys().map(String::as_str);
    let mut unknown = members.filter(|name| !MEMBERS.contains(name));
    unknown.find(|name| nearest(name, MEMBERS.into_iter()) == Some("namespace"))
}

/// Whether `text` is a DNS label (RFC 1123), as names of namespaces are.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label(text)
}

/// Whether `text` is a DNS subdomain as Kubernetes means it, as names of most objects are.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}
