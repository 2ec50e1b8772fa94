//! What is counted. No label is ever chosen by a stranger: names of tools, principals and clients are in the records.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::upstream::TokenCounters;

/// Handles to the proxy's counters: looking a label up costs more than counting.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Calls that were allowed.
    pub allowed: Counter,
    /// Calls that a rule, or the want of one, refused.
    pub denied: Counter,
    /// Calls that a tool lock refused.
    pub locked: Counter,
    /// Calls that went on although their tool is not as it was reviewed.
    pub drifted: Counter,
    /// Calls that wait for a person, which this build refuses.
    pub approval_required: Counter,
    /// Requests without an acceptable token.
    pub unauthenticated: Counter,
    /// Requests that lacked scopes.
    pub insufficient_scope: Counter,
    /// Requests that were refused before any decision: form, protocol, size.
    pub malformed: Counter,
    /// Requests over a limit that will pass.
    pub too_many: Counter,
    /// Requests to servers that are not served now.
    pub not_served: Counter,
    /// Calls refused because they could not be recorded.
    pub unrecorded: Counter,
    /// Calls to which the upstream gave no usable answer.
    pub upstream_failed: Counter,
    /// Messages of upstreams that were dropped from streams.
    pub dropped_messages: Counter,
    /// Streams that are open.
    pub open_streams: Gauge,
    /// Servers, policies and authorities that cannot be served as they are.
    pub unserved_objects: Gauge,
    /// Questions to the API server about ServiceAccounts' tokens.
    pub token_reviews: TokenReviews,
    /// Tokens for upstreams.
    pub upstream_tokens: TokenCounters,
}

/// Questions to the API server about ServiceAccounts' tokens, by what came of them.
#[derive(Clone, Debug, Default)]
pub struct TokenReviews {
    /// It stands by the token.
    pub believed: Counter,
    /// It does not.
    pub refused: Counter,
    /// It gave no answer.
    pub unavailable: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    decision: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnDrift {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reviewed {
    outcome: &'static str,
}

impl Metrics {
    /// Creates the counters and puts them into `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let decisions = Family::<Decision, Counter>::default();
        registry.register("decisions", "Calls decided, by decision", decisions.clone());
        let refusals = Family::<Refusal, Counter>::default();
        registry.register("refused_requests", "Requests refused without a decision", refusals.clone());
        let decision = |decision| decisions.get_or_create(&Decision { decision }).clone();
        let refusal = |reason| refusals.get_or_create(&Refusal { reason }).clone();
        let mut metrics = Self {
            allowed: decision("allow"),
            denied: decision("deny"),
            approval_required: decision("require_approval"),
            unauthenticated: refusal("unauthenticated"),
            insufficient_scope: refusal("insufficient_scope"),
            malformed: refusal("malformed"),
            too_many: refusal("too_many"),
            not_served: refusal("not_served"),
            unrecorded: refusal("unrecorded"),
            ..Self::default()
        };
        let drift = Family::<OnDrift, Counter>::default();
        registry.register("tool_drift_calls", "Calls of tools that are not as they were reviewed", drift.clone());
        let on_drift = |outcome| drift.get_or_create(&OnDrift { outcome }).clone();
        metrics.locked = on_drift("refused");
        metrics.drifted = on_drift("passed");
        registry.register(
            "upstream_failures",
            "Calls to which the upstream gave no usable answer",
            metrics.upstream_failed.clone(),
        );
        registry.register(
            "dropped_messages",
            "Messages of upstreams that were dropped from streams",
            metrics.dropped_messages.clone(),
        );
        registry.register("open_streams", "Event streams that are open", metrics.open_streams.clone());
        registry.register(
            "unserved_objects",
            "Servers and authorities that cannot be served as they are, and policies that cannot be enforced",
            metrics.unserved_objects.clone(),
        );
        metrics.token_reviews = TokenReviews::register(registry);
        metrics.upstream_tokens = upstream_tokens(registry);
        metrics
    }

    /// The counter of refusals with this status, before any decision.
    pub fn refused(&self, status: StatusCode) -> &Counter {
        match status {
            StatusCode::UNAUTHORIZED => &self.unauthenticated,
            StatusCode::FORBIDDEN => &self.insufficient_scope,
            StatusCode::TOO_MANY_REQUESTS => &self.too_many,
            StatusCode::SERVICE_UNAVAILABLE => &self.not_served,
            _ => &self.malformed,
        }
    }
}

fn upstream_tokens(registry: &mut Registry) -> TokenCounters {
    let requests = Family::<Reviewed, Counter>::default();
    let help = "Requests for tokens for upstreams, by outcome";
    registry.register("upstream_token_requests", help, requests.clone());
    let outcome = |outcome| requests.get_or_create(&Reviewed { outcome }).clone();
    let counters = TokenCounters {
        granted: outcome("granted"),
        refused: outcome("refused"),
        unavailable: outcome("unavailable"),
        held: Gauge::default(),
    };
    registry.register("upstream_tokens", "Tokens for upstreams that are held", counters.held.clone());
    counters
}

impl TokenReviews {
    fn register(registry: &mut Registry) -> Self {
        let reviews = Family::<Reviewed, Counter>::default();
        let help = "Questions to the API server about ServiceAccounts' tokens, by outcome";
        registry.register("token_reviews", help, reviews.clone());
        let outcome = |outcome| reviews.get_or_create(&Reviewed { outcome }).clone();
        Self { believed: outcome("believed"), refused: outcome("refused"), unavailable: outcome("unavailable") }
    }
}
