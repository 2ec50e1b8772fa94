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
use super::room::Room;
use super::snapshot::{Site, Snapshot, Trouble};
use super::streams::Shares;
use crate::audit::{ConfigChangeEvent, Recorder};
use crate::egress::Egress;
use crate::generated::codec::{self, Generated};
use crate::generated::{Kind, ObjectId};
use crate::seal::Sealer;
use crate::upstream::Timeouts;

/// Asks for an authority's keys again. Single-flight and rate-limited by whoever answers.
pub trait KeyRefresh: Send + Sync {
    /// A token names the key `kid`, which the authority lacks. Ends when a refresh has been applied to the gateway, or
    /// when none was due.
    fn refresh<'a>(&'a self, authority: &'a str, kid: &'a str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
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
}

/// The objects that are served, by kind and UID, as they were encoded: an unchanged object changes nothing.
#[derive(Default)]
struct Known(HashMap<(Kind, String), Vec<u8>>);

/// One change of what is served. Holds credentials, so it is never printed.
#[derive(Clone)]
pub enum Change {
    /// An encoded object, new or changed.
    Put(Vec<u8>),
    /// An object is gone.
    Remove(Kind, String),
    /// Until taken back, every call to every server is refused: `source` could not be read and never was.
    DenyAll {
        /// What could not be read.
        source: String,
        /// A stable word.
        reason: String,
    },
    /// Takes back [`Change::DenyAll`].
    Clear {
        /// What can be read, or is gone.
        source: String,
    },
}

impl Gateway {
    /// A gateway that serves nothing yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let limits = &parts.config.limits;
        let (calls, listeners) = (limits.calls_per_identity, limits.listeners_per_identity);
        Arc::new(Self {
            bodies: Room::new(limits.body_room, limits.body_bytes),
            large_answers: Room::new(limits.answer_room, limits.answer_bytes),
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
        let mut next = Snapshot::clone(&self.snapshot.load());
        let (mut changed, mut sites) = (false, false);
        for change in changes {
            let applied = self.apply_one(&mut known, &mut next, change);
            changed |= applied != Applied::Nothing;
            sites |= applied == Applied::Sites;
        }
        if !changed {
            return;
        }
        if sites {
            let before: Vec<Trouble> = next.troubles().cloned().collect();
            let timeouts = Timeouts { headers: self.config().limits.answer_timeout, ..Timeouts::default() };
            next.refresh(&self.parts.egress, timeouts, self.config().public_url.as_str());
            next.troubles().filter(|trouble| !before.contains(trouble)).for_each(|trouble| self.report(trouble));
        }
        self.metrics().unserved_objects.set(i64::try_from(next.troubles().count()).unwrap_or(i64::MAX));
        self.snapshot.store(Arc::new(next));
        self.changes.send_modify(|version| *version += 1);
    }

    fn apply_one(&self, known: &mut Known, next: &mut Snapshot, change: Change) -> Applied {
        match change {
            Change::Put(bytes) => match codec::decode(&bytes) {
                Ok(object) => self.put(known, next, object, bytes),
                Err(error) => {
                    // Who wrote it and what it governs is unknown: nothing may be served that it could narrow.
                    tracing::error!(reason = error.reason(), %error, "generated object refused");
                    next.fleet.deny_all("generated object", error.reason());
                    Applied::Fleet
                }
            },
            Change::Remove(kind, uid) => self.remove(known, next, kind, &uid),
            Change::DenyAll { source, reason } => {
                next.fleet.deny_all(&source, &reason);
                Applied::Fleet
            }
            Change::Clear { source } => {
                next.fleet.clear_denial(&source);
                Applied::Fleet
            }
        }
    }

    fn put(&self, known: &mut Known, next: &mut Snapshot, object: Generated, bytes: Vec<u8>) -> Applied {
        let (kind, id) = match &object {
            Generated::Server(server) => (Kind::Server, server.id.clone()),
            Generated::Policy(policy) => (Kind::Policy, policy.id.clone()),
            Generated::Authority(authority) => (Kind::Authority, authority.id.clone()),
        };
        let key = (kind, id.uid.clone());
        if known.0.get(&key) == Some(&bytes) {
            return Applied::Nothing;
        }
        known.0.insert(key, bytes);
        let mut refused = None;
        let applied = match object {
            Generated::Server(server) => {
                next.fleet.put_server(server);
                Applied::Sites
            }
            Generated::Policy(policy) => {
                let errors = next.fleet.put_policy(policy).err().unwrap_or_default();
                refused = errors.first().map(|error| error.reason());
                next.policy_put(&id, &errors);
                for error in errors {
                    tracing::error!(policy = id.display_name(), %error, "policy refused: what it governs denies");
                }
                Applied::Fleet
            }
            Generated::Authority(authority) => {
                next.fleet.put_authority(authority);
                Applied::Sites
            }
        };
        self.record(kind, &id, if refused.is_some() { "refused" } else { "applied" }, refused);
        applied
    }

    fn remove(&self, known: &mut Known, next: &mut Snapshot, kind: Kind, uid: &str) -> Applied {
        if known.0.remove(&(kind, uid.to_owned())).is_none() {
            return Applied::Nothing;
        }
        let gone = ObjectId { uid: uid.to_owned(), namespace: String::new(), name: String::new(), generation: 0 };
        self.record(kind, &gone, "removed", None);
        match kind {
            Kind::Server => next.fleet.remove_server(uid),
            Kind::Policy => {
                next.fleet.remove_policy(uid);
                next.policy_gone(uid);
                return Applied::Fleet;
            }
            Kind::Authority => next.fleet.remove_authority(uid),
        }
        Applied::Sites
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

/// What a change touched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Applied {
    Nothing,
    Fleet,
    Sites,
}

/// Unix seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
