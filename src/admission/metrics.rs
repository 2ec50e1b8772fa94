//! What the webhook counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::desk::Unanswered;
use super::response::Response;
use super::review::Review;
use crate::api::Kind;
use crate::process::metrics::CounterSet;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Seconds: the API server waits ten at most.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The counters and gauges of a webhook. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<Labels<3>, Counter>,
    failures: CounterSet,
    seconds: Histogram,
    objects: Family<Labels<1>, Gauge>,
    followed: Family<Labels<1>, Gauge>,
    expires: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let reviews = Family::<Labels<3>, Counter>::default();
        registry.register("reviews", "Reviews that were answered", reviews.clone());
        let help = "Reviews that were not answered, which the API server takes for a refusal or lets pass";
        let failures = CounterSet::register(registry, "review_failures", help, "reason", &Unanswered::REASONS);
        let seconds = Histogram::new(BUCKETS);
        registry.register("review_seconds", "How long a review took, with its body", seconds.clone());
        let (objects, followed) = (Family::<Labels<1>, Gauge>::default(), Family::<Labels<1>, Gauge>::default());
        registry.register("webhook_objects", "Objects that the webhook knows", objects.clone());
        registry.register("webhook_followed", "1 while this collection is followed", followed.clone());
        let expires = Gauge::<f64, AtomicU64>::default();
        let help = "Until when the webhook's certificate holds, in seconds since 1970";
        registry.register("webhook_certificate_expiry_seconds", help, expires.clone());
        Self { reviews, failures, seconds, objects, followed, expires }
    }

    /// A review was answered.
    pub fn answered(&self, review: &Review, response: &Response) {
        let labels = [
            ("kind", review.key.kind.as_str()),
            ("operation", review.operation.as_str()),
            ("answer", response.outcome()),
        ];
        self.reviews.get_or_create(&labels).inc();
    }

    /// A review was not answered.
    pub fn failed(&self, reason: &'static str) {
        if let Some(counter) = self.failures.get(reason) {
            counter.inc();
        }
    }

    /// How long one took.
    pub fn took(&self, seconds: f64) {
        self.seconds.observe(seconds);
    }

    /// What is known of a kind.
    pub fn knows(&self, kind: Kind, count: usize, followed: bool) {
        let labels = [("kind", kind.as_str())];
        self.objects.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        self.followed.get_or_create(&labels).set(followed.into());
    }

    /// Until when the certificate holds.
    pub fn expires(&self, at: i64) {
        #[expect(clippy::cast_precision_loss, reason = "exact for another 285 million years")]
        self.expires.set(at as f64);
    }
}
