//! Since which version proxies are told what generated trust anchors say, of themselves and of their clients.
//!
//! Invariant: keys and lists change without anybody having edited what an author asks about, so whoever has applied the
//! version from which on a thing is said enforces it, however often its object was written since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::controller::client::next::Listed;
use crate::controller::object::Present;
use crate::generated::Authority;
use crate::generated::codec::Generated;

/// What generated trust anchors say, by the UID of their source.
#[derive(Default)]
pub(super) struct Told {
    authorities: HashMap<String, Says>,
    /// Ids of clients, by the version since which they are listed as they are.
    clients: BTreeMap<u64, BTreeSet<String>>,
}

/// What one of them says.
pub(super) struct Says {
    /// Without keys and clients.
    itself: Authority,
    since: u64,
    /// From when on a client's tokens count, and since which version that is said.
    clients: BTreeMap<String, (i64, u64)>,
}

impl Told {
    /// A generated trust anchor is there.
    pub(super) fn put(&mut self, uid: &str, present: &Present) {
        let earlier = self.gone(uid);
        // A cluster that was restored counts from an earlier number on.
        let version = present.seen.version;
        let Some(Generated::Authority(authority)) = present.decoded() else { return };
        let clients = authority.clients.clone().unwrap_or_default();
        let itself = Authority { key_set: None, clients: None, ..authority };
        let before = |id: &String| earlier.as_ref().and_then(|earlier| earlier.clients.get(id)).copied();
        let since = |id: &String, after: i64| {
            before(id).filter(|(was, _)| *was == after).map_or(version, |(_, since)| since.min(version))
        };
        let clients = clients.into_iter().map(|(id, after)| {
            let since = since(&id, after);
            (id, (after, since))
        });
        let clients: BTreeMap<_, _> = clients.collect();
        for (id, (_, since)) in &clients {
            self.clients.entry(*since).or_default().insert(id.clone());
        }
        let same = earlier.filter(|earlier| earlier.itself == itself);
        let since = same.map_or(version, |earlier| earlier.since.min(version));
        self.authorities.insert(uid.to_owned(), Says { itself, since, clients });
    }

    /// A generated trust anchor is gone.
    pub(super) fn gone(&mut self, uid: &str) -> Option<Says> {
        let says = self.authorities.remove(uid)?;
        for (id, (_, since)) in &says.clients {
            if let Some(ids) = self.clients.get_mut(since) {
                ids.remove(id);
                if ids.is_empty() {
                    self.clients.remove(since);
                }
            }
        }
        Some(says)
    }

    /// Since which version a trust anchor says what it says of itself.
    pub(super) fn itself(&self, uid: &str) -> Option<u64> {
        self.authorities.get(uid).map(|says| says.since)
    }

    /// Since which version a trust anchor lists a client like this.
    pub(super) fn lists(&self, uid: &str, client: &Listed) -> Option<u64> {
        let listed = self.authorities.get(uid)?.clients.get(&client.client_id);
        listed.filter(|(after, _)| *after == client.valid_after).map(|(_, since)| *since)
    }

    /// Ids of clients that are listed as they are since a version above `after` and up to `upto`.
    pub(super) fn listed_since(&self, after: u64, upto: u64) -> impl Iterator<Item = &String> {
        self.clients
            .range((Bound::Excluded(after), Bound::Unbounded))
            .take_while(move |(since, _)| **since <= upto)
            .flat_map(|(_, ids)| ids)
    }
}
