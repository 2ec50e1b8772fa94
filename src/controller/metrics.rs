//! What the controller counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::error::Failure;
use super::queue::{Outcome, Subject};
use super::registrations::{PURPOSES, WORDS};
use crate::api;
use crate::generated::Kind;
use crate::process::metrics::CounterSet;
use crate::registration::call::{Heard, Purpose};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type FloatGauge = Gauge<f64, AtomicU64>;

const RESULTS: [&str; 2] = ["done", "failed"];
const STRAY: &str = "generated object";
const NEAR: &str = "policies of a namespace";
const REGISTRATION: &str = "registration";

/// The counters and gauges of a controller. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<Labels<2>, Counter>,
    errors: CounterSet,
    writes: CounterSet,
    statuses: CounterSet,
    objects: Family<Labels<1>, Gauge>,
    inventories: Family<Labels<1>, Counter>,
    requests: Family<Labels<2>, Counter>,
    registrations: Family<Labels<1>, Counter>,
    followed: Family<Labels<1>, Gauge>,
    /// How many generated objects the API server does not take.
    pub unwritten: Gauge,
    /// How many ledgers of registrations are another installation's.
    pub ledgers_elsewhere: Gauge,
    /// Clients that may be left at authorization servers.
    pub orphaned: Gauge,
    /// How many things wait to be looked at.
    pub queue: Gauge,
    /// Whether this process leads.
    pub leader: Gauge,
    /// How many proxies could be serving.
    pub proxies: Gauge,
    /// For how long the proxy has been silent that has been so the longest.
    pub silence: FloatGauge,
}

fn kinds() -> impl Iterator<Item = &'static str> {
    api::Kind::OURS.into_iter().map(api::Kind::as_str)
}

fn count(counters: &CounterSet, word: &str) {
    if let Some(counter) = counters.get(word) {
        counter.inc();
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let reconciles = Family::<Labels<2>, Counter>::default();
        for kind in kinds().chain([STRAY, NEAR, REGISTRATION]) {
            for result in RESULTS {
                drop(reconciles.get_or_create(&[("kind", kind), ("result", result)]));
            }
        }
        registry.register("reconciles", "Looks at objects, by how they ended", reconciles.clone());
        let objects = Family::<Labels<1>, Gauge>::default();
        kinds().for_each(|kind| drop(objects.get_or_create(&[("kind", kind)])));
        registry.register("objects", "Objects that people wrote", objects.clone());
        let errors = CounterSet::register(
            registry,
            "reconcile_errors",
            "Steps that could not be taken",
            "reason",
            &Failure::REASONS,
        );
        let ours: Vec<&'static str> = kinds().collect();
        let writes =
            CounterSet::register(registry, "generated_writes", "Generated objects written or deleted", "kind", &ours);
        let statuses = CounterSet::register(registry, "status_writes", "Statuses written", "kind", &ours);
        let inventories = Family::<Labels<1>, Counter>::default();
        for result in RESULTS {
            drop(inventories.get_or_create(&[("result", result)]));
        }
        registry.register("inventories", "Times that an upstream was asked for its tools", inventories.clone());
        let (requests, registrations) =
            (Family::<Labels<2>, Counter>::default(), Family::<Labels<1>, Counter>::default());
        for purpose in PURPOSES {
            for result in ["answered", "failed"] {
                drop(requests.get_or_create(&[("purpose", purpose.as_str()), ("result", result)]));
            }
        }
        let help = "Requests to authorization servers about clients, by what they were for";
        registry.register("registration_requests", help, requests.clone());
        WORDS.into_iter().for_each(|word| drop(registrations.get_or_create(&[("event", word)])));
        let help = "What happened to registered clients; `lost` ones may be left at an authorization server";
        registry.register("registration_events", help, registrations.clone());
        let (followed, unwritten) = (Family::<Labels<1>, Gauge>::default(), Gauge::default());
        let help = "1 while this collection is followed; while one is not, no heartbeat is written";
        registry.register("followed", help, followed.clone());
        let help = "Generated objects that the API server does not take";
        registry.register("generated_unwritten", help, unwritten.clone());
        let ledgers_elsewhere = Gauge::default();
        let help = "Ledgers of another installation's registrations: nothing is done with them";
        registry.register("registration_ledgers_elsewhere", help, ledgers_elsewhere.clone());
        let orphaned = Gauge::default();
        let help = "Clients that may be left at authorization servers, and cannot be removed from here";
        registry.register("registrations_orphaned", help, orphaned.clone());
        let (queue, leader, proxies) = (Gauge::default(), Gauge::default(), Gauge::default());
        let silence = FloatGauge::default();
        registry.register("queue_depth", "Objects that wait to be looked at", queue.clone());
        registry.register("leader", "1 while this controller leads and writes", leader.clone());
        registry.register("proxies", "Proxies that could be serving", proxies.clone());
        registry.register("proxy_silence_seconds", "Since the most silent proxy was last heard", silence.clone());
        Self {
            reconciles,
            errors,
            writes,
            statuses,
            objects,
            inventories,
            requests,
            registrations,
            followed,
            unwritten,
            ledgers_elsewhere,
            orphaned,
            queue,
            leader,
            proxies,
            silence,
        }
    }

    /// A look has ended.
    pub fn reconciled(&self, subject: &Subject, outcome: Outcome) {
        let kind = match subject {
            Subject::Source(key) => key.kind.as_str(),
            Subject::Stray(..) => STRAY,
            Subject::Near(_) => NEAR,
            Subject::Registered(_) | Subject::Unowned(_) => REGISTRATION,
        };
        let result = if outcome == Outcome::Failed { "failed" } else { "done" };
        self.reconciles.get_or_create(&[("kind", kind), ("result", result)]).inc();
    }

    /// A step could not be taken.
    pub fn failed(&self, failure: &Failure) {
        count(&self.errors, failure.reason());
    }

    /// An upstream was asked for its tools.
    pub fn inventory(&self, done: bool) {
        self.inventories.get_or_create(&[("result", if done { "done" } else { "failed" })]).inc();
    }

    /// An authorization server was asked about a client.
    pub fn registration_request(&self, purpose: Purpose, heard: &Heard) {
        let failed = matches!(heard, Heard::Unknown(_) | Heard::Unsent(_) | Heard::Lacking(_) | Heard::Later { .. });
        let result = if failed { "failed" } else { "answered" };
        self.requests.get_or_create(&[("purpose", purpose.as_str()), ("result", result)]).inc();
    }

    /// Something happened to a registered client.
    pub fn registration_news(&self, word: &'static str) {
        self.registrations.get_or_create(&[("event", word)]).inc();
    }

    /// Whether a collection is followed.
    pub fn follows(&self, collection: &'static str, follows: bool) {
        self.followed.get_or_create(&[("collection", collection)]).set(follows.into());
    }

    /// A generated object was written or deleted.
    pub fn wrote(&self, kind: Kind) {
        count(&self.writes, kind.api_kind());
    }

    /// A status was written.
    pub fn spoke(&self, kind: api::Kind) {
        count(&self.statuses, kind.as_str());
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: api::Kind, count: usize) {
        self.objects.get_or_create(&[("kind", kind.as_str())]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
