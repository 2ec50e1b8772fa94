//! The proxy's shared state, and the one way to change what it serves.
//!
//! Invariant: changes are applied one batch at a time and published at once; a call sees one snapshot from its first
//! check to its decision.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::Response;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authenticate::{Caller, Callers, TOKENS};
use super::body::Body;
use super::config::Config;
use super::ended::Ended;
use super::failures::Failures;
use super::metrics::Metrics;
use super::refusals::Refusals;
use super::respond::Refused;
use super::review::{Reviews, TokenReviewer};
use super::room::Room;
use super::snapshot::{Site, Snapshot, Trouble};
use super::streams::Shares;
use crate::audit::{ConfigChangeEvent, Recorder};
use crate::egress::Egress;
use crate::generated::codec::{self, CodecError, Generated};
use crate::generated::{Kind, ObjectId};
use crate::seal::Sealer;
use crate::upstream::{Means, Timeouts};

/// Asks for an authority's keys again. Single-flight and rate-limited by whoever answers.
pub trait KeyRefresh: Send + Sync {
    /// A token names the key `kid`, which the authority lacks. Ends when a refresh has been applied to the gateway, or
    /// when none was due.
    fn refresh<'a>(&'a self, authority: &'a str, kid: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// The authority has no keys that may be used. Ends when the first attempt to have them has been applied to the
    /// gateway: at once, if that was long ago.
    fn first_keys<'a>(&'a self, authority: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// What a gateway is made of.
pub struct Parts {
    /// The administrator's settings.
    pub config: Config,
    /// Where calls are recorded.
    pub recorder: Recorder,
    /// The dialer.
    pub egress: Egress,
    /// What seals ids that leave the gateway.
    pub sealer: Sealer,
    /// Who fetches keys.
    pub keys: Arc<dyn KeyRefresh>,
    /// Who asks the API server about tokens; `None`: there is no API server.
    pub reviewer: Option<Arc<dyn TokenReviewer>>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The proxy's shared state.
pub struct Gateway {
    parts: Parts,
    snapshot: ArcSwap<Snapshot>,
    writing: std::sync::Mutex<Known>,
    changes: watch::Sender<u64>,
    listening: CancellationToken,
    /// Tokens that were verified.
    pub callers: Callers,
    /// Streams that only listen, by identity.
    pub listeners: Shares,
    /// Calls under way, by identity.
    pub calls: Shares,
    /// Refused authentications, summed.
    pub failures: Failures,
    /// Refused requests of known callers, summed.
    pub refusals: Refusals,
    /// Sessions that were ended before their time.
    pub ended: Ended,
    /// Room for the large bodies of requests.
    pub bodies: Room,
    /// Room for large answers.
    pub large_answers: Room,
    /// Tokens of which the API server is asked.
    pub reviews: Arc<Reviews>,
}

/// Digests of the objects as they were encoded, by kind and UID: an unchanged object changes nothing.
#[derive(Default)]
struct Known(HashMap<(Kind, String), Digest>);

/// One change of what is served. Holds credentials, so it is never printed.
#[derive(Clone)]
pub enum Change {
    /// The object of this kind and UID is new or changed: as it was encoded.
    Put(Kind, String, Vec<u8>),
    /// It cannot be read, and why not, without content: what it governs is denied until it is put or removed.
    Unreadable(Kind, String, &'static str),
    /// It is gone.
    Remove(Kind, String),
    /// Until taken back, every call to every server is refused.
    DenyAll {
        /// Who says so.
        source: &'static str,
        /// A stable word.
        reason: &'static str,
    },
    /// Takes back [`Change::DenyAll`].
    Clear {
        /// Who said so.
        source: &'static str,
    },
}

impl Change {
    /// An object, encoded.
    ///
    /// # Errors
    /// If it cannot be.
    pub fn put(object: &Generated) -> Result<Self, CodecError> {
        let (kind, id) = object.identity();
        Ok(Change::Put(kind, id.uid.clone(), codec::encode(object)?))
    }
}

impl Gateway {
    /// A gateway that serves nothing yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let limits = &parts.config.limits;
        let (calls, listeners) = (limits.calls_per_identity, limits.listeners_per_identity);
        Arc::new(Self {
            bodies: Room::new(limits.body_room, limits.body_bytes),
            large_answers: Room::new(limits.answer_room, limits.answer_bytes),
            reviews: Reviews::new(
                parts.reviewer.clone(),
                limits.token_review_window,
                parts.metrics.token_reviews.clone(),
            ),
            parts,
            snapshot: ArcSwap::default(),
            writing: std::sync::Mutex::default(),
            changes: watch::Sender::new(0),
            listening: CancellationToken::new(),
            callers: Callers::new(TOKENS),
            listeners: Shares::new(listeners),
            calls: Shares::new(calls),
            failures: Failures::default(),
            refusals: Refusals::default(),
            ended: Ended::default(),
        })
    }

    /// The administrator's settings.
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// Where calls are recorded.
    pub fn recorder(&self) -> &Recorder {
        &self.parts.recorder
    }

    /// What seals ids that leave the gateway.
    pub fn sealer(&self) -> &Sealer {
        &self.parts.sealer
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// Who fetches keys.
    pub fn keys(&self) -> &dyn KeyRefresh {
        &*self.parts.keys
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether this is what is served now. Costs less than [`Gateway::snapshot`].
    pub fn is_current(&self, snapshot: &Arc<Snapshot>) -> bool {
        Arc::ptr_eq(&self.snapshot.load(), snapshot)
    }

    /// Counts and notes a refusal before any decision, and hands out what the caller is told.
    pub(super) fn refuse(&self, site: &Arc<Site>, caller: &Arc<Caller>, refused: Refused) -> Response<Body> {
        self.metrics().refused(refused.response.status()).inc();
        self.refusals.note(site, caller, refused.reason);
        *refused.response
    }

    /// Records what was summed of refusals; `all` also what is not due yet, before the process ends.
    pub fn flush_sums(&self, all: bool) {
        self.failures.flush(self.recorder(), all);
        self.refusals.flush(self.recorder(), all);
    }

    /// Tells open streams when to look again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Cancelled when streams that only listen are to end. Poll a child of it, not the token that all share.
    pub fn listening(&self) -> &CancellationToken {
        &self.listening
    }

    /// Ends streams that only listen: the gateway stops, and they are no calls under way.
    pub fn end_listening(&self) {
        self.listening.cancel();
    }

    /// Applies a batch and publishes the outcome. An object that cannot be loaded is logged, and denies what it
    /// would have governed.
    pub fn apply(&self, changes: Vec<Change>) {
        let mut known = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.snapshot.load_full();
        let mut next = Snapshot::clone(&before);
        let mut changed = false;
        for change in changes {
            changed |= self.apply_one(&mut known, &mut next, change);
        }
        if !changed {
            return;
        }
        let timeouts = Timeouts { headers: self.config().limits.answer_timeout, ..Timeouts::default() };
        let means = Means { egress: &self.parts.egress, timeouts, tokens: &self.metrics().upstream_tokens };
        next.settle(&means, self.config().public_url.as_str());
        next.new_troubles(&before).for_each(|trouble| self.report(trouble));
        self.metrics().unserved_objects.set(i64::try_from(next.troubles().len()).unwrap_or(i64::MAX));
        self.snapshot.store(Arc::new(next));
        self.changes.send_modify(|version| *version += 1);
    }

    /// Whether anything changed.
    fn apply_one(&self, known: &mut Known, next: &mut Snapshot, change: Change) -> bool {
        match change {
            Change::Put(kind, uid, bytes) => return self.put(known, next, kind, uid, &bytes),
            Change::Unreadable(kind, uid, reason) => {
                next.refuse(kind, &uid, reason, "it cannot be read, so what it governs is denied");
                // Never equal to what is put next.
                known.0.remove(&(kind, uid));
            }
            Change::Remove(kind, uid) => {
                known.0.remove(&(kind, uid.clone()));
                let gone = ObjectId { uid, namespace: String::new(), name: String::new(), generation: 0 };
                next.remove(kind, &gone.uid);
                self.record(kind, &gone, "removed", None);
            }
            Change::DenyAll { source, reason } => next.fleet.deny_all(source, reason),
            Change::Clear { source } => next.fleet.clear_denial(source),
        }
        true
    }

    fn put(&self, known: &mut Known, next: &mut Snapshot, kind: Kind, uid: String, bytes: &[u8]) -> bool {
        let digest = digest(bytes);
        let key = (kind, uid);
        if known.0.get(&key) == Some(&digest) {
            return false;
        }
        match codec::decode_as(kind, &key.1, bytes) {
            Ok(object) => {
                let id = object.identity().1.clone();
                next.put(object);
                self.record(kind, &id, "applied", None);
            }
            Err(error) => next.refuse(kind, &key.1, error.reason(), &format!("{error}, so what it governs is denied")),
        }
        known.0.insert(key, digest);
        true
    }

    /// Says once that an object cannot be served.
    fn report(&self, trouble: &Trouble) {
        let (object, reason) = (trouble.id.display_name(), &*trouble.reason);
        tracing::error!(kind = trouble.kind.api_kind(), object, reason, "{}", trouble.message);
        if trouble.refused {
            self.record(trouble.kind, &trouble.id, "refused", Some(reason));
        }
    }

    fn record(&self, kind: Kind, id: &ObjectId, change: &str, reason: Option<&str>) {
        self.recorder().config_change(&ConfigChangeEvent {
            kind: kind.api_kind(),
            namespace: &id.namespace,
            name: &id.name,
            uid: &id.uid,
            generation: id.generation,
            change,
            reason,
        });
    }
}

/// The SHA-256 of an encoded object: the object itself holds credentials, and need not be kept.
type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.iter_mut().zip(found.as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

/// Unix seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
