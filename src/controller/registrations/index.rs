//! Which ledgers there are, and whose they are.
//!
//! Invariant: it is read whole before anything is registered, and kept by whoever writes ledgers, which is this process alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{AUTHORITY_ANNOTATION, ISSUER_ANNOTATION};
use crate::generated::kind::SOURCE;
use crate::registration::Ledger;

/// Where a ledger belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct Entry {
    /// The McpAuthorizationServer.
    pub(super) authority: String,
    /// Its issuer.
    pub(super) issuer: String,
    /// Its owner's namespace and name.
    pub(super) owner: (String, String),
    /// The id of the client that is managed here, once there is one.
    client_id: Option<String>,
    /// Whether what was registered has ended: it is kept for what was lost alone, until that is forgotten.
    pub(super) is_over: bool,
    /// How many clients may be left at the server that cannot be removed from here.
    losses: u64,
}

impl Entry {
    /// Where this one belongs.
    pub(super) fn of(ledger: &Ledger) -> Self {
        Self {
            authority: ledger.authority.clone(),
            issuer: ledger.issuer.clone(),
            owner: (ledger.owner.namespace.clone(), ledger.owner.name.clone()),
            // Whoever only says which id it has holds nothing by that.
            client_id: (ledger.current.as_ref().filter(|_| !ledger.is_only_told()))
                .map(|current| current.client_id.clone()),
            is_over: ledger.is_at_an_end(),
            losses: ledger.losses(),
        }
    }

    /// Where one belongs that cannot be read, as its Secret's annotations say.
    pub(super) fn told(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let (namespace, name) = annotations.get(SOURCE)?.split_once('/')?;
        Some(Self {
            authority: annotations.get(AUTHORITY_ANNOTATION)?.clone(),
            issuer: annotations.get(ISSUER_ANNOTATION)?.clone(),
            owner: (namespace.to_owned(), name.to_owned()),
            client_id: None,
            is_over: false,
            losses: 0,
        })
    }
}

/// All ledgers, by their owner's UID and by their name.
#[derive(Debug, Default)]
pub(super) struct Index {
    owners: HashMap<String, BTreeMap<String, Entry>>,
    /// What tells this installation from others at the same server, once all ledgers that are stored were read.
    pub(super) cluster: Option<String>,
    /// Names of those that are another installation's: nothing is done with them.
    pub(super) elsewhere: BTreeSet<String>,
    /// Names of those that cannot be read, and do not say whose they are; and the version in which that was so.
    pub(super) nobodys: BTreeMap<String, String>,
    /// How many clients may be left at servers that cannot be removed from here.
    losses: u64,
}

impl Index {
    /// There is one of the owner with this UID.
    pub(super) fn know(&mut self, uid: &str, name: &str, entry: Entry) {
        self.nobodys.remove(name);
        let more = entry.losses;
        let before = self.owners.entry(uid.to_owned()).or_default().insert(name.to_owned(), entry);
        self.losses = (self.losses - before.map_or(0, |before| before.losses)).saturating_add(more);
    }

    /// How many clients of all owners may be left at servers that cannot be removed from here.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// There is none any more.
    pub(super) fn forget(&mut self, uid: &str, name: &str) {
        if let Some(names) = self.owners.get_mut(uid) {
            self.losses -= names.remove(name).map_or(0, |entry| entry.losses);
            if names.is_empty() {
                self.owners.remove(uid);
            }
        }
    }

    /// Whether an owner has one.
    pub(super) fn has_any(&self, uid: &str) -> bool {
        self.owners.contains_key(uid)
    }

    /// Those of an owner.
    pub(super) fn of(&self, uid: &str) -> BTreeMap<String, Entry> {
        self.owners.get(uid).cloned().unwrap_or_default()
    }

    /// Every name that is known, be it another installation's.
    pub(super) fn names(&self) -> HashSet<String> {
        let ours = self.owners.values().flat_map(|names| names.keys());
        ours.chain(&self.elsewhere).chain(self.nobodys.keys()).cloned().collect()
    }

    /// Of these, by name and version, the names of those that are to be read: nothing is known of them, or somebody may have
    /// mended them.
    pub(super) fn unread(&self, all: Vec<(String, String)>) -> Vec<String> {
        let known = self.names();
        let is_another = |name: &String, version: String| self.nobodys.get(name).is_some_and(|read| *read != version);
        let unread = all.into_iter().filter_map(|(name, version)| {
            let is_unread = !known.contains(&name) || is_another(&name, version);
            is_unread.then_some(name)
        });
        unread.collect()
    }

    /// Who else than the owner with this UID has that client of an issuer: their UIDs, and where their ledgers belong.
    pub(super) fn holders(&self, issuer: &str, client_id: &str, uid: &str) -> impl Iterator<Item = (&String, &Entry)> {
        let others = self.owners.iter().filter(move |(other, _)| *other != uid);
        let entries = others.flat_map(|(other, names)| names.values().map(move |entry| (other, entry)));
        entries.filter(move |(_, entry)| entry.issuer == issuer && entry.client_id.as_deref() == Some(client_id))
    }

    /// The names of those at an issuer by which there may be a client.
    pub(super) fn at(&self, issuer: &str) -> Vec<String> {
        let all = self.owners.values().flatten();
        all.filter(|(_, entry)| entry.issuer == issuer && !entry.is_over).map(|(name, _)| name.clone()).collect()
    }

    /// Every owner, with its namespace and name.
    pub(super) fn owners(&self) -> Vec<(String, (String, String))> {
        let first = |names: &BTreeMap<String, Entry>| names.values().next().map(|entry| entry.owner.clone());
        self.owners.iter().filter_map(|(uid, names)| Some((uid.clone(), first(names)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ledgers::tests::ledger;
    use super::*;
    use crate::registration::Method;
    use crate::registration::ledger::Step;

    #[test]
    fn what_is_lost_is_counted_once_whatever_is_learned_of_it_again() {
        let mut index = Index::default();
        let entry = |losses| Entry { losses, ..Entry::of(&ledger()) };
        index.know("one", "a", entry(2));
        index.know("one", "b", entry(1));
        index.know("other", "c", entry(0));
        assert_eq!(index.losses(), 3);
        index.know("one", "a", entry(5));
        assert_eq!(index.losses(), 6);
        index.forget("one", "a");
        index.forget("one", "a");
        index.forget("nobody", "a");
        assert_eq!(index.losses(), 1);
        index.know("one", "b", entry(0));
        assert_eq!(index.losses(), 0);
    }

    #[test]
    fn whoever_only_says_which_id_it_has_holds_no_client_by_that() {
        let current = json!({"client_id": "c", "client_secret": null, "secret_expires_at": null, "secret_since": 0,
            "registered_at": 0, "updated_at": 0, "handle": {"Given": {"is_believed": false}}, "digest": "", "kids": [],
            "substituted": []});
        let mut theirs = ledger();
        theirs.current = Some(serde_json::from_value(current).unwrap());
        for (method, holds) in [(Method::Dcr, true), (Method::Preregistered, false), (Method::Cimd, false)] {
            theirs.method = method;
            let mut index = Index::default();
            index.know("theirs", "registration-theirs-0", Entry::of(&theirs));
            assert_eq!(index.holders(&theirs.issuer, "c", "ours").count(), usize::from(holds), "{method:?}");
            assert_eq!(index.holders(&theirs.issuer, "c", "theirs").count(), 0);
        }
    }

    #[test]
    fn one_that_has_ended_is_over_whether_or_not_what_was_lost_is_forgotten() {
        let mut ended = ledger();
        assert!(!Entry::of(&ended).is_over);
        ended.released = Some(1);
        assert!(Entry::of(&ended).is_over && ended.losses() == 0);
        ended.step = Step::Creating { since: 1 };
        assert!(!Entry::of(&ended).is_over, "a client may be there");
    }
}
