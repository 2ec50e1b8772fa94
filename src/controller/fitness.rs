//! Whether this controller sees what people write, and can write what proxies serve.
//!
//! Invariant: who does not follow every collection is blind, and who has tried for a while to write generated objects of a
//! collection, had none taken, and was refused even an empty one is mute. Either gives no sign of life: for proxies take one
//! as the word that nothing is kept from them, and deny by themselves once there was none for long enough. An object that
//! alone is refused stops nobody, however quiet the rest is: its author cannot make the whole fleet deny.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::watches::Watched;
use crate::generated::{Collection, Kind};

/// Why a check is not ready, or no heartbeat was written.
pub const NOT_FOLLOWED: &str = "NotFollowed";
/// The same.
pub const NOT_WRITTEN: &str = "NotWritten";
/// For how long nothing could be written, before that counts.
pub const PERSISTS: Duration = Duration::from_secs(30);

/// What is known of it. Times are what has passed since some fixed moment.
#[derive(Debug, Default)]
pub struct Fitness {
    /// Why collections cannot be followed.
    failing: BTreeMap<Watched, String>,
    /// What the API server did not take.
    refused: HashMap<(Kind, String), Refused>,
    /// When it last took something, or would have.
    written: BTreeMap<Collection, Duration>,
    /// Of which collections it does not even take what nobody could object to.
    closed: BTreeSet<Collection>,
}

#[derive(Debug)]
struct Refused {
    since: Duration,
    reason: &'static str,
}

/// Nothing of a collection can be written. One of what should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mute {
    /// Its kind.
    pub kind: Kind,
    /// The UID of its source.
    pub uid: String,
    reason: &'static str,
}

impl fmt::Display for Mute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (collection, name) = (self.kind.collection(), self.kind.object_name(&self.uid));
        write!(f, "no {collection:?} that proxies serve can be written, such as {name} ({})", self.reason)
    }
}

impl Fitness {
    /// A collection cannot be followed. `true`: that is news.
    pub fn failed(&mut self, watched: Watched, error: String) -> bool {
        self.failing.insert(watched, error).is_none()
    }

    /// A collection was read to its end, and is followed. `true`: it was not before.
    pub fn followed(&mut self, watched: Watched) -> bool {
        self.failing.remove(&watched).is_some()
    }

    /// Whether a collection can be followed, as far as known.
    pub fn follows(&self, watched: Watched) -> bool {
        !self.failing.contains_key(&watched)
    }

    /// What cannot be followed, and why.
    pub fn blind(&self) -> Option<String> {
        let mut said = String::new();
        for (watched, error) in &self.failing {
            // Writing to a String cannot fail.
            write!(said, "{}{}: {error}", if said.is_empty() { "" } else { "; " }, watched.as_str())
                .unwrap_or_default();
        }
        (!said.is_empty()).then_some(said)
    }

    /// A generated object was not taken.
    pub fn refused(&mut self, kind: Kind, uid: &str, reason: &'static str, now: Duration) {
        self.refused.entry((kind, uid.to_owned())).or_insert(Refused { since: now, reason }).reason = reason;
    }

    /// A generated object was taken, or its removal was.
    pub fn written(&mut self, kind: Kind, uid: &str, now: Duration) {
        self.takes(kind.collection(), now);
        self.settled(kind, uid);
    }

    /// There is nothing to be written of a source any more.
    pub fn settled(&mut self, kind: Kind, uid: &str) {
        self.refused.remove(&(kind, uid.to_owned()));
    }

    /// How many generated objects are not as they should be, because they were not taken.
    pub fn unwritten(&self) -> usize {
        self.refused.len()
    }

    /// Something of a collection would be taken: what is refused is refused for what it is.
    pub fn takes(&mut self, collection: Collection, now: Duration) {
        self.written.insert(collection, now);
        self.closed.remove(&collection);
    }

    /// Nothing of a collection is taken.
    pub fn takes_nothing(&mut self, collection: Collection) {
        self.closed.insert(collection);
    }

    /// What keeps this controller from writing at all.
    pub fn mute(&self, now: Duration) -> Option<Mute> {
        self.suspect(now).filter(|mute| self.closed.contains(&mute.kind.collection()))
    }

    /// What has waited the longest to be written, if nothing of its collection was since: whether anything would be is to be
    /// found out.
    pub fn suspect(&self, now: Duration) -> Option<Mute> {
        let waiting = self.refused.iter().filter(|((kind, _), refused)| {
            let written = self.written.get(&kind.collection());
            now.saturating_sub(refused.since) >= PERSISTS && written.is_none_or(|written| *written < refused.since)
        });
        let ((kind, uid), refused) = waiting.min_by_key(|(_, refused)| refused.since)?;
        Some(Mute { kind: *kind, uid: uid.clone(), reason: refused.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn who_cannot_follow_a_collection_is_blind_until_it_was_read_again() {
        let mut fitness = Fitness::default();
        let policies = Watched::Sources(api::Kind::McpPolicy);
        assert_eq!(fitness.blind(), None);
        assert!(fitness.failed(policies, "cannot list (403)".into()));
        assert!(!fitness.failed(policies, "cannot list (500)".into()));
        fitness.failed(Watched::Pods, "away".into());
        assert_eq!(fitness.blind().as_deref(), Some("McpPolicy: cannot list (500); Pods: away"));
        assert!(fitness.followed(Watched::Pods) && fitness.followed(policies) && !fitness.followed(policies));
        assert!(fitness.blind().is_none() && fitness.follows(policies));
    }

    #[test]
    fn who_is_refused_one_object_in_a_quiet_fleet_is_mute_only_if_an_empty_one_is_refused_too() {
        let mut fitness = Fitness::default();
        fitness.refused(Kind::Server, "s", "ApiRefused", seconds(10));
        assert!(fitness.suspect(seconds(40)).is_some() && fitness.mute(seconds(40)).is_none());
        fitness.takes_nothing(Kind::Server.collection());
        assert_eq!(fitness.mute(seconds(40)).map(|mute| mute.uid).as_deref(), Some("s"));
        fitness.takes(Kind::Server.collection(), seconds(50));
        assert!(fitness.suspect(seconds(5000)).is_none() && fitness.mute(seconds(5000)).is_none());
        assert_eq!(fitness.unwritten(), 1);
    }

    #[test]
    fn who_has_nothing_taken_for_a_while_is_mute_and_one_object_that_is_refused_makes_nobody_so() {
        let mut fitness = Fitness::default();
        let uid = |fitness: &Fitness, now| fitness.suspect(seconds(now)).map(|mute| mute.uid);
        fitness.refused(Kind::Policy, "p", "ApiForbidden", seconds(10));
        fitness.refused(Kind::Policy, "q", "ApiForbidden", seconds(20));
        assert_eq!(uid(&fitness, 39), None);
        // Another collection says nothing of this one.
        fitness.written(Kind::Server, "s", seconds(39));
        assert_eq!(uid(&fitness, 40).as_deref(), Some("p"));
        let said = fitness.suspect(seconds(40)).unwrap().to_string();
        assert!(said.contains("policy-p") && said.contains("ApiForbidden"), "{said}");
        fitness.written(Kind::Authority, "a", seconds(45));
        assert_eq!((uid(&fitness, 500), fitness.unwritten()), (None, 2), "the others are refused for what they are");
        // What is refused from now on is another matter.
        fitness.refused(Kind::Policy, "r", "ApiUnreachable", seconds(500));
        assert_eq!((uid(&fitness, 529), uid(&fitness, 530).as_deref()), (None, Some("r")));
        fitness.settled(Kind::Policy, "r");
        assert_eq!((uid(&fitness, 600), fitness.unwritten()), (None, 2));
        fitness.written(Kind::Policy, "p", seconds(600));
        fitness.written(Kind::Policy, "q", seconds(601));
        assert_eq!(fitness.unwritten(), 0);
    }
}
