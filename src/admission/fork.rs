//! The servers and rules before a change and after it.
//!
//! Invariant: both are made alike, from what the review says and what was looked up for it, so whatever differs between them is
//! the change; a server whose path another one claims too is served in neither of the two where it is so.

use std::collections::BTreeSet;

use super::named::named;
use super::reached::lock;
use super::review::Review;
use super::world::{Found, World, read};
use crate::api::{Kind, McpServer, Object};
use crate::fleet::{Fleet, Served};
use crate::generated::policy::Standing;
use crate::generated::{Policy, Server};
use crate::resolve;

/// A server's namespace and name.
type Name = (String, String);

/// Before and after.
pub(super) struct Forks {
    before: Fleet,
    after: Fleet,
    /// The servers that could be touched.
    pub(super) affected: BTreeSet<Name>,
    /// Those of them with a tool lock that was not looked up.
    pub(super) unlocked: BTreeSet<Name>,
    /// Whether the policy as it was is not what was in force of it.
    pub(super) stands_otherwise: bool,
}

impl Forks {
    /// Nothing for kinds of which nothing is told.
    pub(super) fn of(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Option<Self> {
        match review.key.kind {
            Kind::McpServer => Some(Self::of_server(review, new, world, found)),
            Kind::McpPolicy => Self::of_policy(review, new, world, found),
            _ => None,
        }
    }

    fn of_server(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Self {
        let (key, old) = (&review.key, old(review));
        let fork = |object: Option<&Object>| {
            let server = match object {
                Some(Object::Server(object)) => world.server(object, found).ok().map(|resolved| resolved.object),
                _ => None,
            };
            world.fleet_with(key, server)
        };
        let (before, after) = (fork(old.as_ref()), fork(new));
        let own = (key.namespace.clone(), key.name.clone());
        let mut affected = BTreeSet::from([own.clone()]);
        // Whoever has the same path is served or not by whether this one has it.
        for path in [&before, &after].iter().filter_map(|fleet| Some(&fleet.by_name(&own.0, &own.1)?.server.path)) {
            affected
                .extend([&before, &after].iter().flat_map(|fleet| fleet.claimants(path)).map(|server| name(server)));
        }
        let others = affected.iter().filter(|name| **name != own);
        let unlocked = others.filter(|name| is_unlocked(name, world, found)).cloned().collect();
        Self { before, after, affected, unlocked, stands_otherwise: false }
    }

    fn of_policy(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Option<Self> {
        let (key, old) = (&review.key, old(review));
        let resolved = |object: &Object| -> Option<Policy> {
            let Object::Policy(policy) = object else { return None };
            let names = named(object);
            Some(resolve::policy(policy, &world.settings(), &world.lookup(&names, found)).ok()?.object)
        };
        let uid = |object: &Object| resolve::object_id(key, object.metadata()).uid;
        let uids: Vec<String> = old.iter().chain(new).map(uid).collect();
        let mut before = world.fleet().clone();
        // One of the same name is gone by then, though the watch may not have told yet.
        let same = world.policies_of(&key.namespace).filter(|policy| policy.id.name == key.name);
        same.filter(|policy| !uids.contains(&policy.id.uid)).for_each(|policy| before.remove_policy(&policy.id.uid));
        let otherwise = stands_otherwise(review, world);
        // Nor of its last edit.
        if let Some(policy) = old.as_ref().filter(|_| !otherwise).and_then(resolved)
            && world.policy(&policy.id.uid) != Some(&policy)
        {
            drop(before.put_policy(policy));
        }
        let affected = affected(review, old.as_ref(), new, otherwise, world);
        for (namespace, name) in &affected {
            let Some(object) = world.server_of(namespace, name) else { continue };
            if lock(object).is_some_and(|key| found.was_asked(&key))
                && let Ok(resolved) = world.server(object, found)
            {
                before.put_server(resolved.object);
            }
        }
        let mut after = before.clone();
        match new {
            Some(new) => drop(after.put_policy(resolved(new)?)),
            None => uids.iter().for_each(|uid| after.remove_policy(uid)),
        }
        let unlocked = affected.iter().filter(|name| is_unlocked(name, world, found)).cloned().collect();
        Some(Self { before, after, affected, unlocked, stands_otherwise: otherwise })
    }

    /// A server before and after, as callers reach it.
    pub(super) fn versions(&self, namespace: &str, name: &str) -> (Option<Served<'_>>, Option<Served<'_>>) {
        (reached(&self.before, namespace, name), reached(&self.after, namespace, name))
    }
}

/// The server, unless another one claims its path too: then neither is served.
fn reached<'f>(fleet: &'f Fleet, namespace: &str, name: &str) -> Option<Served<'f>> {
    fleet.by_name(namespace, name).filter(|served| fleet.claimants(&served.server.path).nth(1).is_none())
}

fn name(server: &Server) -> Name {
    (server.id.namespace.clone(), server.id.name.clone())
}

fn is_unlocked((namespace, name): &Name, world: &World, found: &Found) -> bool {
    let locked = |object: &McpServer| lock(object).is_some_and(|key| !found.was_asked(&key));
    world.server_of(namespace, name).is_some_and(locked)
}

/// What a review replaces or removes, if it can be read.
pub(super) fn old(review: &Review) -> Option<Object> {
    review.old.as_ref().and_then(|old| read(old).ok())
}

/// Whether what a policy says before the change is not what is in force of it: the edit is invalid.
pub(super) fn stands_otherwise(review: &Review, world: &World) -> bool {
    let Some(before) = review.old.as_ref().filter(|_| review.key.kind == Kind::McpPolicy) else { return false };
    let Ok(object) = read(before) else { return true };
    let uid = resolve::object_id(&review.key, object.metadata()).uid;
    world.policy(&uid).is_some_and(|policy| policy.standing != Standing::InForce)
}

/// The servers that a policy could touch.
fn affected(
    review: &Review,
    old: Option<&Object>,
    new: Option<&Object>,
    otherwise: bool,
    world: &World,
) -> BTreeSet<Name> {
    let namespace = &review.key.namespace;
    let specs = old.into_iter().chain(new).filter_map(|object| match object {
        Object::Policy(policy) => Some(&policy.spec.targets),
        _ => None,
    });
    let specs: Vec<_> = specs.collect();
    let everywhere = specs.iter().any(|targets| targets.namespace_selector.is_some());
    // Of an edit that is invalid, what it reaches is not known from the edit: its namespace, or for a guardrail everything.
    let selects = specs.iter().any(|targets| targets.selector.is_some());
    if everywhere || otherwise && *namespace == world.settings().system_namespace {
        return world.server_names(None);
    }
    if selects || otherwise {
        return world.server_names(Some(namespace));
    }
    let names = specs.iter().flat_map(|targets| targets.servers.iter().flatten());
    names.map(|name| (namespace.clone(), name.clone())).collect()
}
