//! Keys that tokens name and authorities lack: asked of the controller, through the proxy's report.
//!
//! Invariant: whatever key ids strangers invent, the report changes at most once per [`WINDOW`] and authority, names a
//! bounded number of them, and a caller waits for a bounded time; a key that was asked for and did not come is not asked
//! for again until the authority's keys change or [`UNKNOWN_FOR`] has passed.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::generated::Authority;
use crate::generated::authority::{KeySet, KeySource};
use crate::generated::report::{LONGEST_KEY_ID, MOST_WANTED};
use crate::proxy::gateway::{Gateway, KeyRefresh};

/// The least time between two questions about one authority.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a question stands in the report: the controller may have to wait before it fetches again.
const STANDS: Duration = Duration::from_secs(60);
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a key that did not come counts as unknown, and how many such keys are remembered.
const UNKNOWN_FOR: Duration = Duration::from_secs(300);
const MOST_UNKNOWN: usize = 256;

/// What is asked for, by authority.
pub type Questions = BTreeMap<String, String>;

/// Who asks.
#[derive(Default)]
pub struct Wanted {
    gateway: OnceLock<Weak<Gateway>>,
    authorities: Mutex<BTreeMap<String, Asked>>,
    questions: watch::Sender<Questions>,
}

/// What was asked of one authority's keys.
struct Asked {
    /// Those that it had.
    keys: Option<KeySet>,
    kid: String,
    at: Instant,
    unknown: VecDeque<(String, Instant)>,
}

impl Wanted {
    /// Says whose authorities are meant. Once; before that, nothing is asked.
    pub fn ask_for(&self, gateway: &Arc<Gateway>) {
        self.gateway.get_or_init(|| Arc::downgrade(gateway));
    }

    /// The questions, now and at every change.
    pub fn questions(&self) -> watch::Receiver<Questions> {
        self.questions.subscribe()
    }

    /// Takes back questions that were answered, or that have stood long enough.
    pub fn tidy(&self) {
        let Some(gateway) = self.gateway() else { return };
        let mut authorities = self.authorities();
        authorities.retain(|name, asked| {
            lacking(&gateway, name).is_some_and(|authority| authority.key_set == asked.keys)
                && asked.at.elapsed() < UNKNOWN_FOR
        });
        self.publish(&authorities);
    }

    fn gateway(&self) -> Option<Arc<Gateway>> {
        self.gateway.get().and_then(Weak::upgrade)
    }

    fn authorities(&self) -> MutexGuard<'_, BTreeMap<String, Asked>> {
        self.authorities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, authorities: &BTreeMap<String, Asked>) {
        let standing = authorities.iter().filter(|(_, asked)| asked.at.elapsed() < STANDS);
        let questions: Questions = standing.map(|(name, asked)| (name.clone(), asked.kid.clone())).collect();
        self.questions.send_if_modified(|known| {
            let changed = *known != questions;
            *known = questions;
            changed
        });
    }

    /// Whether the key is asked for now, by this caller or by another.
    fn ask(&self, authority: &Authority, kid: &str) -> bool {
        let (name, now) = (&authority.id.name, Instant::now());
        let mut authorities = self.authorities();
        if authorities.get(name).is_some_and(|asked| asked.keys != authority.key_set) {
            authorities.remove(name);
        }
        if authorities.len() >= MOST_WANTED && !authorities.contains_key(name) {
            return false;
        }
        let asked = match authorities.get_mut(name) {
            None => {
                let (keys, kid) = (authority.key_set.clone(), kid.to_owned());
                authorities.insert(name.clone(), Asked { keys, kid, at: now, unknown: VecDeque::new() });
                self.publish(&authorities);
                return true;
            }
            Some(asked) => asked,
        };
        asked.unknown.retain(|(_, since)| now.duration_since(*since) < UNKNOWN_FOR);
        if asked.unknown.iter().any(|(unknown, _)| unknown == kid) {
            return false;
        }
        let age = now.duration_since(asked.at);
        if asked.kid == kid && age < STANDS {
            return true;
        }
        if age < WINDOW {
            return false;
        }
        (asked.kid, asked.at) = (kid.to_owned(), now);
        self.publish(&authorities);
        true
    }

    fn did_not_come(&self, authority: &str, kid: &str) {
        if let Some(asked) = self.authorities().get_mut(authority) {
            if asked.unknown.len() == MOST_UNKNOWN {
                asked.unknown.pop_front();
            }
            asked.unknown.push_back((kid.to_owned(), Instant::now()));
        }
    }

    async fn want(&self, authority: &str, kid: &str) {
        let Some(gateway) = self.gateway().filter(|_| kid.len() <= LONGEST_KEY_ID) else { return };
        // Before the look, so that no change between the two is missed.
        let mut changes = gateway.changes();
        let Some(before) = lacking(&gateway, authority) else { return };
        if !self.ask(&before, kid) {
            return;
        }
        let answered = async {
            while changes.changed().await.is_ok() {
                if lacking(&gateway, authority).is_none_or(|now| now.key_set != before.key_set) {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, answered).await.is_err() {
            self.did_not_come(authority, kid);
        }
    }
}

/// The authority, if its keys are fetched. Those of the local one come with it, all of them.
fn lacking(gateway: &Gateway, name: &str) -> Option<Arc<Authority>> {
    let snapshot = gateway.snapshot();
    snapshot.fleet.authority(name).filter(|authority| authority.keys != KeySource::Local).cloned()
}

impl KeyRefresh for Wanted {
    fn refresh<'a>(&'a self, authority: &'a str, kid: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.want(authority, kid))
    }

    /// Keys come with their authority, from the controller, which tries to have them without being asked.
    fn first_keys<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str, jwks: &str) -> Authority {
        let key_set = Some(KeySet { jwks: jwks.into(), valid_until: i64::MAX });
        Authority { key_set, ..Authority::plain(name, "https://issuer.example") }
    }

    #[test]
    fn strangers_change_the_report_once_per_window_and_name_a_bounded_number() {
        let wanted = Wanted::default();
        let mut questions = wanted.questions();
        let corp = authority("corp", "1");
        assert!(wanted.ask(&corp, "a"));
        assert_eq!(*questions.borrow_and_update(), Questions::from([("corp".into(), "a".into())]));
        assert!(wanted.ask(&corp, "a"), "whoever asks for the same waits with the first");
        for other in 0..100 {
            assert!(!wanted.ask(&corp, &other.to_string()));
        }
        assert!(!questions.has_changed().unwrap());
        for other in 0..100 {
            wanted.ask(&authority(&format!("other-{other}"), "1"), "a");
        }
        assert_eq!(wanted.questions().borrow().len(), MOST_WANTED);
    }

    #[test]
    fn a_key_that_did_not_come_is_asked_for_again_when_the_keys_change() {
        let wanted = Wanted::default();
        assert!(wanted.ask(&authority("corp", "1"), "a"));
        wanted.did_not_come("corp", "a");
        assert!(!wanted.ask(&authority("corp", "1"), "a"));
        assert!(wanted.ask(&authority("corp", "2"), "a"));
        for other in 0..2 * MOST_UNKNOWN {
            wanted.did_not_come("corp", &other.to_string());
        }
        assert_eq!(wanted.authorities()["corp"].unknown.len(), MOST_UNKNOWN);
    }
}
