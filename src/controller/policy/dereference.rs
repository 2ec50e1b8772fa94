//! Everything that a policy refers to. All of it is known: servers and trust anchors are watched.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::Key;
use crate::api::v1alpha1::McpPolicySpec;
use crate::controller::Context;
use crate::controller::store::{Reference, Source};
use crate::generated::{Authority, Policy};
use crate::resolve::Client;

/// A policy, and what was found of what it refers to.
pub(super) struct Raw {
    pub(super) source: Arc<Source>,
    pub(super) previous: Option<Policy>,
    pub(super) authorities: Vec<Arc<Authority>>,
    /// Servers of its namespace that it names and that exist.
    pub(super) servers: BTreeSet<String>,
    /// McpClients of its namespace that it names and that are valid.
    pub(super) clients: Vec<Arc<Client>>,
}

/// Looks up what a policy refers to, and asks to hear of changes to it: in one go, so that none is missed between.
pub(super) fn dereference(context: &Context, key: &Key) -> Option<Raw> {
    let mut store = context.store();
    let source = store.source(key)?;
    let previous = store.last_policy(&source.id.uid);
    let (authorities, servers) = match source.policy() {
        Some(policy) => names(&policy.spec, previous.as_ref()),
        None => (of_rules(previous.as_ref()), BTreeSet::new()),
    };
    let of_namespace = |name: &String| Reference::Server(key.namespace.clone(), name.clone());
    let clients = source.policy().map(|policy| client_names(&policy.spec)).unwrap_or_default();
    let client = |name: &String| Reference::Client(key.namespace.clone(), name.clone());
    let references = authorities.iter().cloned().map(Reference::Authority);
    store.follow(key, references.chain(servers.iter().map(of_namespace)).chain(clients.iter().map(client)).collect());
    Some(Raw {
        authorities: authorities.iter().filter_map(|name| store.authority(name)).collect(),
        servers: servers.into_iter().filter(|name| store.has_server(&key.namespace, name)).collect(),
        clients: clients.iter().filter_map(|name| store.client(&key.namespace, name)).collect(),
        previous,
        source,
    })
}

/// The McpClients that a policy names.
fn client_names(spec: &McpPolicySpec) -> BTreeSet<String> {
    let entries = spec.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except));
    entries.flat_map(|entry| entry.mcp_clients.iter().flatten().cloned()).collect()
}

/// The trust anchors and servers that a policy names. What stands of an invalid edit names its own.
fn names(spec: &McpPolicySpec, previous: Option<&Policy>) -> (BTreeSet<String>, BTreeSet<String>) {
    let entries = spec.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except));
    let named = entries.filter_map(|entry| entry.authority.clone()).chain(spec.authority.clone());
    let authorities = named.chain(of_rules(previous)).collect();
    (authorities, spec.targets.servers.iter().flatten().cloned().collect())
}

fn of_rules(policy: Option<&Policy>) -> BTreeSet<String> {
    let rules = policy.into_iter().flat_map(|policy| &policy.rules);
    rules.flat_map(|rule| &rule.principals).filter_map(|entry| entry.authority.clone()).collect()
}
