//! Everything that a policy refers to. All of it is known: servers, clients and trust anchors are watched.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::Key;
use crate::api::v1alpha1::McpPolicySpec;
use crate::controller::Context;
use crate::controller::store::{Reference, Source};
use crate::generated::{Authority, Policy};
use crate::resolve::{ClientKind, Lookup};

/// A policy, and what was found of what it refers to.
pub(super) struct Raw {
    pub(super) source: Arc<Source>,
    pub(super) previous: Option<Policy>,
    /// Servers of its namespace that it names and that exist.
    pub(super) servers: BTreeSet<String>,
    /// Those that it names, or that what stands of it names.
    pub(super) callers: Callers,
}

/// Whom rules can be about, as far as they are valid.
#[derive(Default)]
pub(super) struct Callers {
    /// Trust anchors.
    pub(super) authorities: Vec<Arc<Authority>>,
    /// McpClients of the policy's namespace.
    pub(super) clients: Vec<Arc<ClientKind>>,
}

impl Callers {
    /// As resolving needs them.
    pub(super) fn lookup(&self) -> Lookup<'_> {
        let mut lookup = Lookup::default();
        lookup.authorities.extend(self.authorities.iter().map(|a| (a.id.name.as_str(), a.as_ref())));
        let clients = self.clients.iter().map(|c| ((c.id().namespace.as_str(), c.id().name.as_str()), c.as_ref()));
        lookup.clients.extend(clients);
        lookup
    }
}

/// Looks up what a policy refers to, and asks to hear of changes to it: in one go, so that none is missed between.
pub(super) fn dereference(context: &Context, key: &Key) -> Option<Raw> {
    let mut store = context.store();
    let source = store.source(key)?;
    let previous = store.last_policy(&source.id.uid);
    let mut named = Names::default();
    if let Some(policy) = source.policy() {
        named.of_spec(&policy.spec);
    }
    if let Some(previous) = &previous {
        named.of_rules(previous);
    }
    let server = |name: &String| Reference::Server(key.namespace.clone(), name.clone());
    let client = |name: &String| Reference::Client(key.namespace.clone(), name.clone());
    let references = named.authorities.iter().cloned().map(Reference::Authority);
    let references = references.chain(named.servers.iter().map(server)).chain(named.clients.iter().map(client));
    let clients: Vec<_> = named.clients.iter().filter_map(|name| store.client(&key.namespace, name)).collect();
    // As which a client is registered counts at the issuer that its authority is.
    let theirs = clients.iter().map(|client| Reference::Authority(client.authority().to_owned()));
    store.follow(key, references.chain(theirs).collect());
    let authorities = named.authorities.iter().filter_map(|name| store.authority(name)).collect();
    let callers = Callers { authorities, clients };
    let servers = named.servers.into_iter().filter(|name| store.has_server(&key.namespace, name)).collect();
    Some(Raw { source, previous, servers, callers })
}

/// What a policy names.
#[derive(Default)]
struct Names {
    authorities: BTreeSet<String>,
    servers: BTreeSet<String>,
    clients: BTreeSet<String>,
}

impl Names {
    fn of_spec(&mut self, spec: &McpPolicySpec) {
        self.authorities.extend(spec.authority.clone());
        self.servers.extend(spec.targets.servers.iter().flatten().cloned());
        for entry in spec.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except)) {
            self.authorities.extend(entry.authority.clone());
            self.clients.extend(entry.mcp_clients.iter().flatten().cloned());
        }
    }

    /// What stands of an invalid edit names its own.
    fn of_rules(&mut self, policy: &Policy) {
        for entry in policy.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except)) {
            self.authorities.extend(entry.authority.clone());
            self.authorities.extend(entry.named.iter().filter_map(|named| named.authority.clone()));
            self.clients.extend(entry.named.iter().flat_map(|named| named.mcp_clients.iter().cloned()));
        }
    }
}
