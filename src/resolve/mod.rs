//! From what people write to what the proxy serves, with every finding on the way.
//!
//! Invariant: what resolves without an error finding encodes, decodes and loads. Webhook, `validate`, controller and
//! standalone obtain every finding from here. An *error* is wrong in the object itself; what depends on other objects is
//! a *warning*, and what is resolved meanwhile is the safe choice: a server is unserved, an Allow matches nothing, a
//! Deny or RequireApproval matches everything that it could. Pure: no clock, no I/O.

mod authority;
mod client;
mod client_keys;
mod client_metadata;
mod cluster;
mod cover;
mod lint;
mod lock;
mod pattern;
mod policy;
mod principal;
mod public_url;
pub mod reach;
mod reason;
mod redirect;
mod registered;
mod registration;
mod server;
mod tree;
mod upstream;
mod upstream_oauth;
mod value;

pub use authority::authority;
pub use client::{Client, ClientKind, Grant, RegisteredAs, client, client_id};
pub use cluster::{Cluster, ServiceAccounts, UPSTREAM_ACCOUNT};
pub use cover::Comparison;
pub use lock::required;
pub use policy::{LONGEST_BREAK_GLASS, edit, judged_again, missing, policy};
pub use public_url::{PublicUrl, PublicUrlError};
pub use reason::{Finding, Findings, Reason, Severity};
pub use registered::RegisteredClient;
pub use registration::{Admin, Registration, registration};
pub use server::{asked_of, risk_class, server};
pub use tree::{
    Accepted, ObjectFinding, Observed, Resolution, conflicted, invalidity_findings, reason_of, tree, unserved,
};
pub use upstream_oauth::secrets_of;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    api::{
        Key, McpClient,
        core::{ConfigMap, Secret},
    },
    generated::{Authority, Labels, ObjectId, Server},
    oauth::upstream_trust,
    sensitive::Sensitive,
};

/// Something resolved, and what its author should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved<T> {
    /// What the proxy serves.
    pub object: T,
    /// Findings of severity Warning.
    pub warnings: Findings,
}

/// What an administrator has set for the whole installation.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Where clients reach the gateway.
    pub public_url: &'a PublicUrl,
    /// The namespace whose policies are guardrails.
    pub system_namespace: &'a str,
    /// The cluster that the gateway runs in; `None`: it stands alone.
    pub cluster: Option<&'a Cluster>,
}

/// The other objects that an object may refer to, as far as they exist. Keys are (namespace, name).
#[derive(Clone, Debug, Default)]
pub struct Lookup<'a> {
    /// Labels of the namespaces that are known.
    pub namespaces: BTreeMap<&'a str, Labels>,
    /// Trust anchors that have been resolved.
    pub authorities: BTreeMap<&'a str, &'a Authority>,
    /// For McpClients: how they are registered at those of them that are issuers.
    pub registrations: BTreeMap<&'a str, &'a Registration>,
    /// Servers, valid or not.
    pub servers: BTreeSet<(&'a str, &'a str)>,
    /// Secrets.
    pub secrets: BTreeMap<(&'a str, &'a str), &'a Secret>,
    /// Secrets that whoever resolves may not read.
    pub forbidden_secrets: BTreeSet<(&'a str, &'a str)>,
    /// Whoever resolves sees no Secrets at all, which is no proof that one is missing: what they hold is presumed to be there
    /// and right.
    pub secrets_presumed: bool,
    /// ConfigMaps.
    pub config_maps: BTreeMap<(&'a str, &'a str), &'a ConfigMap>,
    /// For McpServers: tokens of [`UPSTREAM_ACCOUNT`] that were got for them.
    pub upstream_tokens: BTreeMap<(&'a str, &'a str), Sensitive>,
    /// For McpServers: McpClients as they are written.
    pub client_objects: BTreeMap<(&'a str, &'a str), &'a McpClient>,
    /// For McpServers: issuers to which what proves an McpClient may be sent, where it is known to be registered: that one, and
    /// that to which its author has agreed.
    pub client_issuers: BTreeMap<(&'a str, &'a str), BTreeSet<String>>,
    /// For McpServers: whom their upstreams trust. `None`: nobody asks them, for nothing is served of what is resolved.
    pub discovered: Option<BTreeMap<(&'a str, &'a str), &'a upstream_trust::Known>>,
    /// For McpClients: servers that have been resolved.
    pub resolved: BTreeMap<(&'a str, &'a str), &'a Server>,
    /// For McpPolicies: clients that have been resolved.
    pub clients: BTreeMap<(&'a str, &'a str), &'a ClientKind>,
}

impl Lookup<'_> {
    /// The issuer that an McpAuthorizationServer is now, if clients can be registered there.
    pub fn issuer_of(&self, authority: &str) -> Option<&str> {
        Some(self.registrations.get(authority)?.issuer.as_str())
    }
}

/// In place of what a Secret holds that is presumed to be there.
fn presumed() -> Sensitive {
    Sensitive::new("presumed")
}

/// The identity of an object; where no API server gave it a UID, one made from its key.
pub fn object_id(key: &Key, metadata: &ObjectMeta) -> ObjectId {
    ObjectId {
        uid: metadata.uid.clone().filter(|uid| !uid.is_empty()).unwrap_or_else(|| key.stable_uid()),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        generation: metadata.generation.unwrap_or(1),
    }
}

#[cfg(test)]
pub(crate) mod tests;
