//! Who depends on what.
//!
//! Invariant: both directions agree, so a change finds exactly those that looked at what changed, and one that is gone is
//! asked for nothing.

use std::collections::{BTreeSet, HashMap};

use crate::api::Key;

/// Something that objects look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A trust anchor, by name: whether it is valid, and its rules.
    Authority(String),
    /// The labels of a namespace.
    Namespace(String),
    /// Whether a server exists: namespace and name.
    Server(String, String),
    /// What a server says: namespace and name.
    ServerItself(String, String),
    /// A client: namespace and name.
    Client(String, String),
}

/// Who looked at what.
#[derive(Debug, Default)]
pub struct Interest {
    of: HashMap<Key, BTreeSet<Reference>>,
    followers: HashMap<Reference, BTreeSet<Key>>,
}

impl Interest {
    /// `key` looks at these, and at nothing else any more.
    pub fn set(&mut self, key: &Key, references: BTreeSet<Reference>) {
        let earlier = self.of.remove(key).unwrap_or_default();
        for reference in earlier.difference(&references) {
            if let Some(keys) = self.followers.get_mut(reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.followers.remove(reference);
                }
            }
        }
        for reference in references.difference(&earlier) {
            self.followers.entry(reference.clone()).or_default().insert(key.clone());
        }
        if !references.is_empty() {
            self.of.insert(key.clone(), references);
        }
    }

    /// Who looks at this.
    pub fn followers(&self, reference: &Reference) -> impl Iterator<Item = &Key> {
        self.followers.get(reference).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn a_change_finds_those_that_look_now() {
        let key = |name: &str| Key { kind: Kind::McpServer, namespace: "team".into(), name: name.into() };
        let (corp, team) = (Reference::Authority("corp".into()), Reference::Namespace("team".into()));
        let mut interest = Interest::default();
        interest.set(&key("a"), BTreeSet::from([corp.clone(), team.clone()]));
        interest.set(&key("b"), BTreeSet::from([corp.clone()]));
        let found = |interest: &Interest, reference| {
            interest.followers(reference).map(|key| key.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found(&interest, &corp), ["a", "b"]);
        interest.set(&key("a"), BTreeSet::from([team.clone()]));
        assert_eq!(found(&interest, &corp), ["b"]);
        assert_eq!(found(&interest, &team), ["a"]);
        interest.set(&key("a"), BTreeSet::new());
        interest.set(&key("b"), BTreeSet::new());
        assert!(interest.of.is_empty() && interest.followers.is_empty());
    }
}
