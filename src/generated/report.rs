//! What a proxy says in its Lease, and what the controller says in its heartbeat.
//!
//! Invariant: a report claims only what is applied: an object of a collection is enforced by the proxy if the
//! collection's applied version is not below the object's resource version, and the object is not among those refused.
//! Resource versions of one collection grow and can be compared (KEP-5504).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::{Collection, Kind};

/// The heartbeat Lease of the gateway namespace: `renewTime` is when the leading controller last said that it lives.
pub const HEARTBEAT: &str = "portcullis-heartbeat";
/// The annotation of the heartbeat with the latest version that the controller writes ([`super::codec::VERSION`]).
pub const WRITES: &str = "portcullis.dev/writes";
/// The label of a proxy's Lease, with value `proxy`. The Lease has the name of the proxy's Pod after [`LEASE_PREFIX`].
pub const REPORTS: &str = "portcullis.dev/reports";
/// See [`REPORTS`].
pub const LEASE_PREFIX: &str = "proxy-";
/// The annotation of a proxy's Lease that holds its [`Report`] as JSON.
pub const REPORT: &str = "portcullis.dev/report";

/// How many refused objects a report names.
pub const MOST_REFUSED: usize = 200;
/// How many servers a report names that are not called as their upstreams want.
pub const MOST_TROUBLED: usize = 100;
/// The longest text about one of them.
pub const LONGEST_TROUBLE: usize = 300;
/// How many authorities a report asks keys of.
pub const MOST_WANTED: usize = 16;
/// The longest key id that a report asks for: a stranger wrote it.
pub const LONGEST_KEY_ID: usize = 256;

/// What one proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The latest version of the encoding that it reads: what came later it does not see.
    #[serde(default)]
    pub reads: u32,
    /// Up to which resource version it has applied each collection; absent until the collection was read once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub applied: BTreeMap<Collection, u64>,
    /// Objects that it could not load, by the UID of their source, with a stable word: what they govern is denied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// Servers that are not called as their upstreams want, by the UID of their source: a stable word, and the scopes that are
    /// asked for and that no token has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub troubled: BTreeMap<String, String>,
    /// More are refused than are named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_refused: bool,
    /// It denies everything, since its configuration is too old.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Keys that tokens name and authorities lack: by authority, the key id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub wanted: BTreeMap<String, String>,
}

/// Whether a proxy enforces an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforces {
    /// As it was written.
    Yes,
    /// It has not seen it yet, or denies everything.
    NotYet,
    /// It could not load it, and denies what it governs: a stable word.
    Refused(String),
    /// It refuses more objects than it names.
    Unknown,
}

impl Report {
    /// Whether the proxy enforces the object of this kind and source, written at `version` of its collection.
    pub fn enforces(&self, uid: &str, kind: Kind, version: u64) -> Enforces {
        let is_behind = self.applied.get(&kind.collection()).is_none_or(|applied| *applied < version);
        if self.stale || is_behind || self.reads < kind.version() {
            return Enforces::NotYet;
        }
        match self.refused.get(uid) {
            Some(reason) => Enforces::Refused(reason.clone()),
            None if self.more_refused => Enforces::Unknown,
            None => Enforces::Yes,
        }
    }
}

/// A resource version as a number; `None` if it is none, and then nothing can be said about its order.
pub fn resource_version(text: &str) -> Option<u64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_applied_is_enforced() {
        let applied = BTreeMap::from([(Collection::Secrets, 7)]);
        let report = Report { reads: 1, applied, ..Report::default() };
        assert_eq!(report.enforces("u", Kind::Server, 7), Enforces::Yes);
        assert_eq!(report.enforces("u", Kind::Server, 8), Enforces::NotYet);
        assert_eq!(report.enforces("u", Kind::Policy, 1), Enforces::NotYet);
        let stale = Report { stale: true, ..report.clone() };
        assert_eq!(stale.enforces("u", Kind::Server, 7), Enforces::NotYet);
        let refused = BTreeMap::from([("u".to_owned(), "Word".to_owned())]);
        let refusing = Report { refused, more_refused: true, ..report };
        assert_eq!(refusing.enforces("u", Kind::Server, 7), Enforces::Refused("Word".into()));
        assert_eq!(refusing.enforces("v", Kind::Server, 7), Enforces::Unknown);
    }

    /// A proxy of an earlier build applies the collection, and knows nothing of the kind.
    #[test]
    fn what_came_later_than_a_proxy_is_not_taken_to_be_served_by_it() {
        let applied = BTreeMap::from([(Collection::ConfigMaps, 7)]);
        let earlier = Report { reads: 1, applied, ..Report::default() };
        assert_eq!(earlier.enforces("u", Kind::Policy, 7), Enforces::Yes);
        assert_eq!(earlier.enforces("u", Kind::Client, 7), Enforces::NotYet);
        assert_eq!(Report { reads: 2, ..earlier }.enforces("u", Kind::Client, 7), Enforces::Yes);
    }

    #[test]
    fn a_report_is_short_and_read_back() {
        let report = Report { reads: 1, applied: BTreeMap::from([(Collection::Secrets, 7)]), ..Report::default() };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(text, r#"{"reads":1,"applied":{"Secrets":7}}"#);
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(serde_json::from_str::<Report>(r#"{"reads":2,"new":true}"#).unwrap().reads, 2);
    }
}
