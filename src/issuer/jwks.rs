//! The key sets of other issuers: fetched in the background, kept, and given up when too old.
//!
//! Invariant: no caller of the gateway can make it fetch more often than once per window, whatever key ids it invents;
//! a failure leaves the last good set in use until [`KeySet::valid_until`], and nothing after that. Only an issuer that
//! publishes private keys is not believed from then on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::CACHE_CONTROL;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::schedule::{Schedule, Timing};
use crate::egress::{FetchError, Fetched, Fetcher, Limits};
use crate::generated::authority::KeySet;
use crate::identity::keys::{KeySetError, MAX_JWKS_BYTES, key_ids};
use crate::oauth::DocumentError;
use crate::oauth::json::JsonError;
use crate::oauth::server_metadata::{self, discovery_urls};

/// Key ids longer than this are nobody's.
const MAX_KID: usize = 256;
/// How many key ids are remembered as unknown, and for how long.
const MAX_UNKNOWN: usize = 256;
const UNKNOWN_FOR: Duration = Duration::from_secs(300);
/// How long a caller with an unknown key id waits for the refresh that it caused or found under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time, as far as key sets need it.
pub trait Clock: Send + Sync {
    /// Unix seconds.
    fn unix(&self) -> i64;
    /// What has passed since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn unix(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Why a key set could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JwksError {
    /// The issuer is not a URL under which metadata can be found.
    #[error("the issuer is not an https URL without query and fragment")]
    Issuer,
    /// No metadata document of the issuer could be fetched.
    #[error("no authorization server metadata was found (RFC 8414, OpenID Connect Discovery): {0}")]
    Metadata(FetchError),
    /// A metadata document was found that speaks for another issuer.
    #[error("the metadata at {url} names another issuer than the configured one: set spec.issuer to its exact value")]
    OtherIssuer {
        /// Where it was found.
        url: String,
    },
    /// A metadata document was found that is not usable.
    #[error("the metadata at {url} cannot be used: {cause}")]
    Malformed {
        /// Where it was found.
        url: String,
        /// What is wrong with it.
        cause: DocumentError,
    },
    /// The key set could not be fetched.
    #[error("the key set could not be fetched: {0}")]
    Keys(FetchError),
    /// The key set is not acceptable.
    #[error("the document at jwks_uri cannot be used: {0}")]
    KeySet(KeySetError),
}

impl JwksError {
    /// A stable word for conditions, checks and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            JwksError::Issuer => "IssuerInvalid",
            JwksError::Metadata(_) => "IssuerMetadataUnavailable",
            JwksError::OtherIssuer { .. } => "IssuerMismatch",
            JwksError::Malformed { .. } => "IssuerMetadataMalformed",
            JwksError::Keys(_) => "KeySetUnavailable",
            JwksError::KeySet(cause) => cause.reason(),
        }
    }

    /// Whether the last good set must not be used either: private keys lie open, and they may be those of that set.
    pub fn is_fatal(&self) -> bool {
        matches!(self, JwksError::KeySet(KeySetError::SecretMembers { .. }))
    }
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct KeyState {
    /// The last good set; `None` until the first fetch. No failure prolongs it: whoever uses it stops at its
    /// `valid_until`.
    pub key_set: Option<KeySet>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<JwksError>,
    /// How many attempts have ended.
    pub attempts: u64,
}

/// One issuer's keys. Clones are the same source.
#[derive(Clone)]
pub struct JwksSource {
    shared: Arc<Shared>,
}

struct Shared {
    issuer: String,
    fetcher: Fetcher,
    timing: Timing,
    clock: Arc<dyn Clock>,
    wanted: Notify,
    state: watch::Sender<KeyState>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    schedule: Schedule,
    under_way: bool,
    kids: BTreeSet<String>,
    unknown: VecDeque<(String, Duration)>,
}

impl std::fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwksSource").field("issuer", &self.shared.issuer).finish_non_exhaustive()
    }
}

impl JwksSource {
    /// A source that has fetched nothing; [`JwksSource::run`] does.
    pub fn new(issuer: impl Into<String>, fetcher: Fetcher, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            issuer: issuer.into(),
            fetcher,
            timing,
            clock,
            wanted: Notify::new(),
            state: watch::Sender::new(KeyState::default()),
            inner: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The state now and at every change: every attempt that ends is one.
    pub fn subscribe(&self) -> watch::Receiver<KeyState> {
        self.shared.state.subscribe()
    }

    /// Fetches at once, then whenever a refresh is due or [`JwksSource::unknown_kid`] asks for one, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let due = self.lock().schedule.until_due(self.shared.clock.monotonic());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.wanted.notified() => {}
                () = tokio::time::sleep(due) => {}
            }
            if self.begin() {
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = self.fetch() => outcome,
                };
                self.end(outcome);
            }
        }
    }

    /// Ends when the first attempt has ended, whatever came of it; or when callers have waited long enough.
    pub async fn attempted(&self) {
        let mut state = self.subscribe();
        if tokio::time::timeout(PATIENCE, state.wait_for(|state| state.attempts > 0)).await.is_err() {
            tracing::debug!(issuer = %self.shared.issuer, "the first fetch takes longer than callers wait");
        }
    }

    /// A token names a key that the set lacks. Asks for a refresh, if one is allowed now, and waits for it; says
    /// whether the key is there afterwards. Costs a look-up when the id is known to be unknown.
    pub async fn unknown_kid(&self, kid: &str) -> bool {
        if kid.len() > MAX_KID {
            return false;
        }
        let mut state = self.subscribe();
        {
            let now = self.shared.clock.monotonic();
            let mut inner = self.lock();
            if inner.kids.contains(kid) {
                return true;
            }
            inner.unknown.retain(|(_, until)| *until > now);
            if inner.unknown.iter().any(|(unknown, _)| unknown == kid) {
                return false;
            }
            if !inner.under_way {
                if !inner.schedule.allows(now) {
                    return false;
                }
                self.shared.wanted.notify_one();
            }
        }
        if tokio::time::timeout(PATIENCE, state.changed()).await.is_err() {
            tracing::debug!(issuer = %self.shared.issuer, "a refresh takes longer than callers wait");
        }
        let mut inner = self.lock();
        let known = inner.kids.contains(kid);
        if !known {
            if inner.unknown.len() == MAX_UNKNOWN {
                inner.unknown.pop_front();
            }
            inner.unknown.push_back((kid.to_owned(), self.shared.clock.monotonic() + UNKNOWN_FOR));
        }
        known
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the window's one attempt, if it is still to be had.
    fn begin(&self) -> bool {
        let now = self.shared.clock.monotonic();
        let mut inner = self.lock();
        if !inner.schedule.allows(now) {
            return false;
        }
        inner.schedule.start(now, &self.shared.timing, jitter());
        inner.under_way = true;
        true
    }

    fn end(&self, outcome: Result<(KeySet, BTreeSet<String>, Duration), JwksError>) {
        let now = self.shared.clock.monotonic();
        let mut inner = self.lock();
        inner.under_way = false;
        let (key_set, failure) = match outcome {
            Ok((key_set, kids, fresh)) => {
                inner.schedule.succeed(now, fresh, jitter());
                if inner.kids != kids {
                    inner.unknown.clear();
                    inner.kids = kids;
                }
                (Some(key_set), None)
            }
            Err(error) => {
                inner.schedule.fail(now, &self.shared.timing, jitter());
                if error.is_fatal() {
                    inner.kids.clear();
                }
                tracing::warn!(issuer = %self.shared.issuer, reason = error.reason(), %error, "keys not refreshed");
                (None, Some(error))
            }
        };
        self.shared.state.send_modify(|state| {
            let kept = state.key_set.take().filter(|_| !failure.as_ref().is_some_and(JwksError::is_fatal));
            state.key_set = key_set.or(kept);
            state.failure = failure;
            state.attempts += 1;
        });
    }

    async fn fetch(&self) -> Result<(KeySet, BTreeSet<String>, Duration), JwksError> {
        let jwks_uri = self.discover().await?;
        let fetched = self.get(&jwks_uri).await.map_err(JwksError::Keys)?;
        let (jwks, kids) = parse(&fetched.body).map_err(JwksError::KeySet)?;
        let cache_control = fetched.headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
        let fresh = self.shared.timing.freshness(cache_control);
        let lifetime = i64::try_from((fresh + self.shared.timing.max_stale).as_secs()).unwrap_or(i64::MAX);
        let valid_until = self.shared.clock.unix().saturating_add(lifetime);
        Ok((KeySet { jwks, valid_until }, kids, fresh))
    }

    /// The issuer's `jwks_uri`, from the first location whose document speaks for it. A document that speaks for
    /// another is reported in preference to locations that do not answer: it is what a person has to mend.
    async fn discover(&self) -> Result<String, JwksError> {
        let mut failure = None;
        for url in discovery_urls(&self.shared.issuer).map_err(|_| JwksError::Issuer)? {
            let error = match self.get(&url).await {
                Err(error) => JwksError::Metadata(error),
                Ok(fetched) => match server_metadata::jwks_uri(&fetched.body, &self.shared.issuer) {
                    Ok(jwks_uri) => return Ok(jwks_uri),
                    Err(DocumentError::Mismatch { .. }) => JwksError::OtherIssuer { url },
                    Err(cause) => JwksError::Malformed { url, cause },
                },
            };
            if !matches!(failure, Some(JwksError::OtherIssuer { .. } | JwksError::Malformed { .. })) {
                failure = Some(error);
            }
        }
        Err(failure.unwrap_or(JwksError::Issuer))
    }

    async fn get(&self, url: &str) -> Result<Fetched, FetchError> {
        self.shared
            .fetcher
            .get(url, Limits { max_bytes: MAX_JWKS_BYTES, timeout: self.shared.timing.fetch_timeout })
            .await
    }
}

/// A document as text, and the ids of its keys. Which keys fit a token is judged where tokens are.
fn parse(document: &[u8]) -> Result<(String, BTreeSet<String>), KeySetError> {
    let text = std::str::from_utf8(document).map_err(|_| KeySetError::Json(JsonError::Malformed))?;
    Ok((text.to_owned(), key_ids(text)?))
}

/// Uniform in 0..=1.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and nothing else is wrong.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.0;
    }
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
