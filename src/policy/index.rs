//! From a principal to the rules that could be about it, without looking at the others.
//!
//! Invariant: a layer finds every rule that could match a principal (and perhaps a few that turn out not to): keys only
//! select candidates, every candidate is then compared in full, so a hash collision can never decide anything.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::rule::Rule;
use crate::identity::principal::{Groups, Kind, Principal};

/// A place in the index: a hash of what a principal matcher asks for.
pub(crate) type Key = u64;

/// What a principal matcher asks for, as far as the index cares.
#[derive(Hash)]
pub(crate) enum Facet<'a> {
    /// Every authenticated principal, of any authority.
    Anyone,
    /// Every principal of an authority.
    OfAuthority(&'a str),
    /// A person.
    User(&'a str, &'a str),
    /// A client acting for itself.
    Client(&'a str, &'a str),
    /// A ServiceAccount, by its subject.
    ServiceAccount(&'a str, &'a str),
    /// A member of a group.
    Group(&'a str, &'a str),
    /// A principal whose groups are unknown: it may be in every group.
    UnknownGroups(&'a str),
    /// A principal that presents itself through a client.
    Via(&'a str, &'a str),
}

impl Facet<'_> {
    pub(crate) fn key(&self) -> Key {
        // Fixed keys: equal in every process and version of a snapshot, so a cached principal stays valid for ever.
        let mut hasher = std::hash::DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Everything under which the index could know a principal. Computed once per verified token; valid for every snapshot,
/// before and after any change of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalKeys(Box<[Key]>);

impl PrincipalKeys {
    /// The keys of a principal.
    pub fn of(principal: &Principal) -> Self {
        let authority = &*principal.authority;
        let mut keys = vec![Facet::Anyone.key(), Facet::OfAuthority(authority).key()];
        match principal.kind {
            Kind::User => keys.push(Facet::User(authority, &principal.subject).key()),
            Kind::ServiceAccount => keys.push(Facet::ServiceAccount(authority, &principal.subject).key()),
            Kind::Client => keys.extend(principal.client.as_deref().map(|c| Facet::Client(authority, c).key())),
        }
        keys.extend(principal.client.as_deref().map(|c| Facet::Via(authority, c).key()));
        match &principal.groups {
            Groups::Known(groups) => keys.extend(groups.iter().map(|g| Facet::Group(authority, g).key())),
            Groups::Unknown => keys.push(Facet::UnknownGroups(authority).key()),
        }
        keys.sort_unstable();
        keys.dedup();
        Self(keys.into_boxed_slice())
    }

    pub(crate) fn as_slice(&self) -> &[Key] {
        &self.0
    }
}

/// Rules that reach a server together, found by principal. Shared by all servers that they reach; immutable.
#[derive(Debug, Default)]
pub struct Layer {
    pub(crate) edges: Vec<(Key, Arc<Rule>)>,
}

/// The layers of one server, in no particular order: fleet, namespace, own. Borrowed from a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// The layers; each may be empty.
    pub layers: [&'a Layer; 3],
    /// Why every call is denied, whatever the rules say: an invalid, never accepted policy reaches this server.
    pub denied: Option<&'a str>,
}
