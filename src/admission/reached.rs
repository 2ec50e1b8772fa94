//! A policy and the servers that it reaches.
//!
//! Invariant: what is said here is what `portcullis validate` says of the same objects; of a policy that reaches more servers
//! than can be looked at while somebody waits, nothing is said.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::world::{Found, World};
use crate::api::{Key, Kind, McpPolicy, McpServer};
use crate::generated::{Policy, Server};
use crate::policy::selector::matches;
use crate::resolve::reach::{MOST_SERVERS, Place, of_policy};
use crate::resolve::{self, Findings};

/// The ConfigMap with the tool lock of a server, if it has one.
pub(super) fn lock(server: &McpServer) -> Option<Key> {
    let lock = server.spec.tools.as_ref()?.lock.as_ref()?;
    let namespace = server.metadata.namespace.clone().unwrap_or_default();
    Some(Key { kind: Kind::ConfigMap, namespace, name: lock.config_map_name.clone() })
}

/// The ConfigMaps with the tool locks of the servers that versions of a policy reach, if they are few. What the first reaches
/// comes first.
pub(super) fn locks<'p>(versions: impl Iterator<Item = &'p McpPolicy>, world: &World) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for policy in versions.filter_map(|object| resolved(object, world, &Found::default())) {
        let both = &keys | &servers(&policy, world).into_iter().filter_map(lock).collect();
        if both.len() <= MOST_SERVERS {
            keys = both;
        }
    }
    keys
}

/// What a policy comes to at the servers that it reaches.
pub(super) fn findings(policy: &Policy, world: &World, found: &Found) -> Findings {
    let names = Default::default();
    let lookup = world.lookup(&names, found);
    let place = |object: &McpServer| -> Option<(Server, _)> {
        let server = world.server(object, found).ok()?.object;
        let lock = object.spec.tools.as_ref().and_then(|tools| tools.lock.as_ref());
        let is_read = server.lock.as_ref().is_some_and(|lock| !lock.tools.is_empty());
        let required = lock.filter(|_| is_read).map(|lock| resolve::required(lock, &policy.id.namespace, &lookup));
        Some((server, required.unwrap_or_default()))
    };
    let known: Vec<_> = servers(policy, world).into_iter().filter_map(place).collect();
    let places: Vec<Place<'_>> =
        known.iter().map(|(server, required)| Place::of(server, Cow::Borrowed(required))).collect();
    let system = world.settings().system_namespace;
    let others = world.policies_of(&policy.id.namespace).filter(|other| other.id.uid != policy.id.uid);
    let others = others.filter(|other| other.targets.namespaces.is_none());
    let guardrails = world.policies_of(system).filter(|other| other.targets.namespaces.is_some());
    let all = std::iter::once(policy).chain(others).chain(guardrails);
    of_policy(policy, all, &places.iter().collect::<Vec<_>>())
}

fn resolved(object: &McpPolicy, world: &World, found: &Found) -> Option<Policy> {
    let names = Default::default();
    let lookup = world.lookup(&names, found);
    resolve::policy(object, &world.settings(), &lookup).ok().map(|resolved| resolved.object)
}

/// The servers that a policy reaches; none, if they are too many, or if it chooses namespaces.
fn servers<'w>(policy: &Policy, world: &'w World) -> Vec<&'w McpServer> {
    if policy.targets.namespaces.is_some() {
        return Vec::new();
    }
    let (namespace, targets) = (&policy.id.namespace, &policy.targets);
    let Some(selector) = &targets.selector else {
        return few(targets.servers.iter().filter_map(|name| world.server_of(namespace, name)));
    };
    let nothing = Default::default();
    few(world.servers_of(namespace).filter(|server| {
        let labels = server.metadata.labels.as_ref().unwrap_or(&nothing);
        matches(selector, labels) || targets.servers.iter().any(|name| server.metadata.name.as_ref() == Some(name))
    }))
}

/// All of them, unless they are too many.
fn few<'w>(servers: impl Iterator<Item = &'w McpServer>) -> Vec<&'w McpServer> {
    let reached: Vec<&McpServer> = servers.take(MOST_SERVERS + 1).collect();
    if reached.len() > MOST_SERVERS { Vec::new() } else { reached }
}
