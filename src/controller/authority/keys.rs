//! The keys of other issuers, as the leading controller fetches them for all proxies.
//!
//! Invariant: one issuer is asked by one controller, however many proxies there are; what became known is written through
//! the queue like any other change; and nothing of an authority that is gone is fetched any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Key;
use crate::controller::queue::{Depth, Queue, Subject};
use crate::egress::{Egress, TlsOptions};
use crate::generated::Authority;
use crate::generated::authority::{KeySet, KeySource};
use crate::issuer::{JwksError, JwksSource, KeyState, SystemClock, Timing};

/// What is known of an authority's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supply {
    /// Those that were fetched, if any were.
    pub key_set: Option<KeySet>,
    /// Why the last attempt failed, if it did: a stable word, and in words.
    pub failure: Option<(&'static str, String)>,
    /// Keys of before must not be used either.
    pub distrusted: bool,
}

/// The keys of all authorities.
pub struct Keys {
    egress: Egress,
    queue: Arc<Queue>,
    held: Mutex<BTreeMap<String, Held>>,
}

struct Held {
    issuer: String,
    from: KeySource,
    source: JwksSource,
    stop: CancellationToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Keys {
    /// Nothing is fetched yet. What becomes known is put into `queue`.
    pub fn new(egress: Egress, queue: Arc<Queue>) -> Self {
        Self { egress, queue, held: Mutex::default() }
    }

    /// Begins to fetch the keys of an authority, unless they are being fetched, and says what is known of them.
    pub fn follow(&self, key: &Key, authority: Option<&Authority>) -> Supply {
        let ca_pem = match authority.map(|authority| &authority.keys) {
            Some(KeySource::Discovery { ca_pem }) => ca_pem.clone(),
            Some(KeySource::Local | KeySource::Kubernetes) | None => {
                self.forget(&key.name);
                return Supply::default();
            }
        };
        let Some(authority) = authority else { return Supply::default() };
        let mut held = self.held();
        let same = |held: &Held| held.issuer == authority.issuer && held.from == authority.keys;
        if !held.get(&key.name).is_some_and(same) {
            let fetcher = match self.egress.fetcher(&TlsOptions { ca_pem, server_name: None }) {
                Ok(fetcher) => fetcher,
                Err(error) => {
                    held.remove(&key.name);
                    return Supply { failure: Some((error.reason(), error.to_string())), ..Supply::default() };
                }
            };
            let clock = Arc::new(SystemClock::default());
            let source = JwksSource::new(authority.issuer.clone(), fetcher, Timing::default(), clock);
            let stop = CancellationToken::new();
            // Before the first attempt, so that its end is not missed.
            let state = source.subscribe();
            tokio::spawn(source.clone().run(stop.clone()));
            tokio::spawn(tell(state, Subject::Source(key.clone()), self.queue.clone(), stop.clone()));
            let (issuer, from) = (authority.issuer.clone(), authority.keys.clone());
            held.insert(key.name.clone(), Held { issuer, from, source, stop });
        }
        let Some(held) = held.get(&key.name) else { return Supply::default() };
        let state = held.source.subscribe().borrow().clone();
        let distrusted = state.failure.as_ref().is_some_and(JwksError::is_fatal);
        let failure = state.failure.map(|failure| (failure.reason(), failure.to_string()));
        Supply { key_set: state.key_set, failure, distrusted }
    }

    /// An authority is gone, or needs no keys.
    pub fn forget(&self, name: &str) {
        self.held().remove(name);
    }

    /// A token names a key that the authority lacks: its issuer is asked, if that is allowed now. `false`: its keys are not
    /// fetched from here.
    pub fn ask(&self, name: String, kid: String) -> bool {
        let source = self.held().get(&name).map(|held| held.source.clone());
        let Some(source) = source else { return false };
        // Whether it is there is told by the look that follows every attempt.
        tokio::spawn(async move { source.unknown_kid(&kid).await });
        true
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for a look at the authority whenever an attempt to fetch its keys has ended.
async fn tell(mut state: watch::Receiver<KeyState>, subject: Subject, queue: Arc<Queue>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
        queue.add(subject.clone(), Depth::Whole);
    }
}
