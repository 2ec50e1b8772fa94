//! The contract between what resolves resources (standalone, controller) and the proxy that serves them.
//!
//! Invariant: everything that a proxy serves has passed through [`codec`], so what `resolve` admits is what the proxy
//! can load. The types are plain data: no references are left to follow, nothing is optional that was not optional to
//! the author, and no field is present that the proxy ignores, but for the names by which [`policy::Named`] entries are
//! resolved again.

pub mod authority;
pub mod client;
pub mod codec;
pub mod digest;
pub mod kind;
pub mod policy;
pub mod report;
pub mod server;

pub use authority::Authority;
pub use client::Client;
pub use digest::Digest;
pub use kind::{Collection, Kind};
pub use policy::Policy;
pub use server::Server;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// Which object this was resolved from. Two objects are the same object only if their UIDs are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectId {
    /// The API server's UID; for manifests in a folder, a UUIDv5-like digest of kind, namespace and name.
    pub uid: String,
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
    /// The generation of the spec that was resolved; grows with every change.
    pub generation: i64,
}

impl ObjectId {
    /// `namespace/name`, or the bare name for cluster-scoped kinds: how people refer to the object.
    pub fn display_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// Reads an optional member that must be there, if only as null: a rule that has lost its condition is another rule.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// Labels as Kubernetes means them.
pub type Labels = BTreeMap<String, String>;

/// The label that Kubernetes gives every namespace: its name.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The risk of a tool, ordered: a higher class includes what a lower one may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Risk {
    /// Reads and changes nothing.
    ReadOnly,
    /// Creates or changes.
    Write,
    /// Removes, overwrites, or cannot be undone.
    Destructive,
}

impl Risk {
    /// The name used in manifests and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Risk::ReadOnly => "ReadOnly",
            Risk::Write => "Write",
            Risk::Destructive => "Destructive",
        }
    }
}

impl std::fmt::Display for Risk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
