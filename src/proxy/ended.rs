//! Sessions that their owners ended, before their ids expired.
//!
//! Invariant: bounded. An id carries all that its session is, so that it has ended must be remembered, until it expires
//! by itself. Where the upstream ends its own session, that one forgets too, at every replica and across restarts; this
//! memory is of one process, and beyond its bound the oldest entries go.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use aws_lc_rs::digest;
use tokio::sync::watch;

/// How many are remembered: some megabytes.
const MOST: usize = 64 * 1024;

type Digest = [u8; 32];

/// The sessions of late that were ended.
#[derive(Debug)]
pub struct Ended {
    most: usize,
    /// While none was ended, nobody takes the lock.
    any: AtomicBool,
    known: RwLock<Known>,
    /// Tells open streams when to look.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    digests: HashSet<Digest>,
    /// In the order in which they were ended, which is nearly that in which they expire.
    order: VecDeque<(Digest, i64)>,
}

impl Default for Ended {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Ended {
    fn new(most: usize) -> Self {
        Self { most, any: AtomicBool::new(false), known: RwLock::default(), changes: watch::Sender::new(()) }
    }

    /// Remembers that the session with this id was ended at `now`; the id opens until `expires` at the latest (Unix
    /// seconds).
    pub fn note(&self, id: &str, now: i64, expires: i64) {
        let digest = digest_of(id);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.digests.contains(&digest) {
            return;
        }
        while known.order.front().is_some_and(|(_, expires)| *expires <= now) || known.order.len() >= self.most {
            let Some((oldest, _)) = known.order.pop_front() else { break };
            known.digests.remove(&oldest);
        }
        known.digests.insert(digest);
        known.order.push_back((digest, expires));
        drop(known);
        self.any.store(true, Ordering::Release);
        self.changes.send_replace(());
    }

    /// Whether the session with this id was ended.
    pub fn contains(&self, id: &str) -> bool {
        self.any.load(Ordering::Acquire) && self.has(&digest_of(id))
    }

    /// Waits until the session with this id is ended.
    pub async fn wait(&self, id: &str) {
        let digest = digest_of(id);
        let mut changes = self.changes.subscribe();
        while !self.has(&digest) && changes.changed().await.is_ok() {}
    }

    fn has(&self, digest: &Digest) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).digests.contains(digest)
    }
}

fn digest_of(id: &str) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest::digest(&digest::SHA256, id.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_of_his_own_session() {
        let ended = std::sync::Arc::new(Ended::new(9));
        let waiting = tokio::spawn({
            let ended = ended.clone();
            async move { ended.wait("a").await }
        });
        ended.note("b", 0, 10);
        ended.note("a", 0, 10);
        waiting.await.unwrap();
        ended.wait("b").await;
    }

    #[test]
    fn duty_74_ended_sessions_are_remembered_until_they_expire_and_only_so_many() {
        let ended = Ended::new(2);
        assert!(!ended.contains("a"));
        ended.note("a", 0, 10);
        ended.note("a", 1, 11);
        ended.note("b", 2, 12);
        assert!(ended.contains("a") && ended.contains("b") && !ended.contains("c"));
        ended.note("c", 3, 13);
        assert!(!ended.contains("a") && ended.contains("b") && ended.contains("c"), "the oldest went");
        ended.note("d", 13, 23);
        assert!(!ended.contains("b") && !ended.contains("c") && ended.contains("d"));
        let known = ended.known.read().unwrap();
        assert_eq!((known.digests.len(), known.order.len()), (1, 1));
    }
}
