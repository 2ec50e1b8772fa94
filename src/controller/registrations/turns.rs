//! Whose turn it is to go on with what is registered.
//!
//! Invariant: one look at a time goes on with what an owner has registered. No authorization server has more looks at once
//! than it has places, so one that hangs keeps none of the others waiting; and neither a server nor an owner is asked for more
//! than its share of requests. Whoever has no turn comes again, and holds nothing up meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many looks go on with clients of one server at once.
const PLACES: usize = 8;
/// Whoever has no turn comes again after this.
const COME_AGAIN: Duration = Duration::from_secs(1);
/// An owner has so much sent for it at once, and as much as this again after each wait of so long.
const OWNER: Share = Share { at_once: 12, each: Duration::from_secs(5) };
/// The same of a server.
const SERVER: Share = Share { at_once: 250, each: Duration::from_millis(20) };
/// So many shares are remembered before those are dropped that nobody has used.
const MOST_REMEMBERED: usize = 4096;

/// How many requests may be sent.
struct Share {
    at_once: u32,
    each: Duration,
}

/// For whom, or to whom, requests are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Party {
    /// The owner's namespace and name: another object of that name is no other.
    Owner(String, String),
    /// An McpAuthorizationServer.
    Server(String),
}

impl Party {
    fn share(&self) -> &'static Share {
        match self {
            Party::Owner(..) => &OWNER,
            Party::Server(_) => &SERVER,
        }
    }
}

/// Who has a turn, and what was sent.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    owners: HashSet<String>,
    servers: HashMap<String, usize>,
    /// When all that was sent would have been sent, if it had been sent evenly.
    paid_until: HashMap<Party, Duration>,
}

/// A turn. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::controller) struct Turn<'t> {
    turns: &'t Turns,
    uid: String,
    servers: Vec<String>,
}

impl Turns {
    /// A turn to go on with what the owner with this UID has at these servers, as of `now`.
    ///
    /// # Errors
    /// When to come again.
    pub(super) fn take(
        &self,
        uid: &str,
        (namespace, name): (&str, &str),
        servers: impl IntoIterator<Item = String>,
        now: Duration,
    ) -> Result<Turn<'_>, Duration> {
        let mut servers: Vec<String> = servers.into_iter().collect();
        servers.sort_unstable();
        servers.dedup();
        let mut lists = self.lists();
        let owner = Party::Owner(namespace.to_owned(), name.to_owned());
        let parties = servers.iter().cloned().map(Party::Server).chain([owner]);
        if let Some(wait) = parties.filter_map(|party| lists.wait(&party, now)).max() {
            return Err(wait.max(COME_AGAIN));
        }
        let is_full = |server: &String| lists.servers.get(server).is_some_and(|looks| *looks >= PLACES);
        if lists.owners.contains(uid) || servers.iter().any(is_full) {
            return Err(COME_AGAIN);
        }
        lists.owners.insert(uid.to_owned());
        servers.iter().for_each(|server| *lists.servers.entry(server.clone()).or_default() += 1);
        Ok(Turn { turns: self, uid: uid.to_owned(), servers })
    }

    /// A request is sent.
    pub(super) fn spend(&self, (namespace, name): (&str, &str), server: &str, now: Duration) {
        self.lists().spend(Party::Owner(namespace.to_owned(), name.to_owned()), now);
        self.spend_at(server, now);
    }

    /// A request is sent for no owner.
    pub(super) fn spend_at(&self, server: &str, now: Duration) {
        self.lists().spend(Party::Server(server.to_owned()), now);
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lists {
    /// How long until a request may be sent for, or to, this party; `None`: one may.
    fn wait(&self, party: &Party, now: Duration) -> Option<Duration> {
        let Share { at_once, each } = party.share();
        let ahead = self.paid_until.get(party)?.saturating_sub(now);
        ahead.checked_sub(*each * (at_once - 1)).filter(|wait| !wait.is_zero())
    }

    fn spend(&mut self, party: Party, now: Duration) {
        if self.paid_until.len() >= MOST_REMEMBERED {
            self.paid_until.retain(|_, until| *until > now);
        }
        let each = party.share().each;
        let until = self.paid_until.entry(party).or_default();
        *until = (*until).max(now) + each;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lists = self.turns.lists();
        lists.owners.remove(&self.uid);
        for server in &self.servers {
            if let Some(looks) = lists.servers.get_mut(server) {
                *looks -= 1;
                if *looks == 0 {
                    lists.servers.remove(server);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn take<'t>(turns: &'t Turns, uid: &str, servers: &[&str]) -> Result<Turn<'t>, Duration> {
        turns.take(uid, ("team", uid), servers.iter().map(|&server| server.to_owned()), NOW)
    }

    #[test]
    fn one_look_at_a_time_goes_on_with_an_owner() {
        let turns = Turns::default();
        let first = take(&turns, "a", &["corp"]).unwrap();
        assert_eq!(take(&turns, "a", &["other"]).unwrap_err(), COME_AGAIN);
        drop(first);
        assert!(take(&turns, "a", &["other"]).is_ok());
        assert!(turns.lists().owners.is_empty() && turns.lists().servers.is_empty());
    }

    #[test]
    fn a_server_that_hangs_keeps_none_of_the_others_waiting() {
        let turns = Turns::default();
        let hanging: Vec<_> = (0..PLACES).map(|n| take(&turns, &n.to_string(), &["hangs"]).unwrap()).collect();
        assert_eq!(take(&turns, "next", &["hangs", "corp"]).unwrap_err(), COME_AGAIN);
        let others: Vec<_> = (10..10 + PLACES).map(|n| take(&turns, &n.to_string(), &["corp"])).collect();
        assert!(others.iter().all(Result::is_ok), "and whoever waits for it has no place there");
        drop(hanging);
        assert!(take(&turns, "next", &["hangs"]).is_ok());
    }

    #[test]
    fn an_owner_that_wants_something_else_all_the_time_has_its_share_and_takes_nobody_elses() {
        let turns = Turns::default();
        for _ in 0..OWNER.at_once {
            assert!(take(&turns, "a", &["corp"]).is_ok());
            turns.spend(("team", "a"), "corp", NOW);
        }
        assert_eq!(take(&turns, "a", &["corp"]).unwrap_err(), OWNER.each);
        assert!(take(&turns, "b", &["corp"]).is_ok());
        // One of the same name, made anew, is no other.
        assert!(turns.take("other", ("team", "a"), ["corp".to_owned()], NOW).is_err());
        assert!(turns.take("a", ("team", "a"), ["corp".to_owned()], NOW + OWNER.each).is_ok());
    }

    #[test]
    fn a_server_is_asked_for_no_more_than_it_bears_and_what_was_long_ago_is_not_remembered() {
        let turns = Turns::default();
        for n in 0..SERVER.at_once {
            turns.spend(("team", &n.to_string()), "corp", NOW);
        }
        assert_eq!(take(&turns, "a", &["corp"]).unwrap_err(), COME_AGAIN);
        assert!(take(&turns, "a", &["other"]).is_ok());
        for n in 0..2 * MOST_REMEMBERED {
            turns.spend(("team", &n.to_string()), "corp", NOW + OWNER.each * u32::try_from(n).unwrap());
        }
        assert!(turns.lists().paid_until.len() <= MOST_REMEMBERED);
    }
}
