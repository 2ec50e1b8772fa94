//! The tokens with which one upstream is called.
//!
//! Invariant: a token belongs to one upstream as it is configured (its server, client, resource and scopes: another
//! configuration has another [`Tokens`]) and, where callers' tokens are exchanged, to one caller's token, and is used no longer
//! than that. Whoever needs one that is there reads it without a lock; whoever needs one that is not there waits for the one
//! request that is under way. What fails is not asked for again at once, and an issuer that is away by nobody.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use quick_cache::sync::Cache;

use super::token::{Granted, TokenClient, TokenFailure, now};
use super::{UpstreamError, trust};
use crate::egress::Egress;
use crate::generated::server::Oauth;
use crate::oauth::token_request::Token;
use crate::sensitive::Sensitive;

mod asking;
mod trouble;
mod turns;

use asking::{PAUSE, RETRY, Slot, Why, spread};
pub use trouble::Trouble;
use trouble::{Told, What};
use turns::Turns;

/// How many callers' tokens are kept for one upstream.
const MOST_CALLERS: usize = 1024;
/// How long a token is used of which nobody says how long it is good.
const UNSAID: Duration = Duration::from_secs(300);
/// So long before its end a token is not sent any more, or a fifth of its life if that is less.
const MARGIN: Duration = Duration::from_secs(10);
/// From this share of its life on, and a tenth more at the latest, a token that is used is renewed beside the calls.
const DUE: f64 = 0.6;
/// The word for scopes that no token has.
pub(super) const SCOPES_LACKING: &str = "UpstreamScopesLacking";
/// How many scopes are asked for because an upstream wanted them.
const MOST_SCOPES: usize = 64;

/// What is counted of tokens for upstreams.
#[derive(Clone, Debug, Default)]
pub struct TokenCounters {
    /// Requests for a token that got one.
    pub granted: Counter,
    /// Requests that the issuer refused, or that got a token that cannot be used.
    pub refused: Counter,
    /// Requests without an answer.
    pub unavailable: Counter,
    /// Tokens that are held.
    pub held: Gauge,
}

impl TokenCounters {
    fn asked(&self, outcome: &Result<Granted, TokenFailure>) {
        match outcome {
            Ok(_) => self.granted.inc(),
            Err(TokenFailure::Unavailable { .. }) => self.unavailable.inc(),
            Err(_) => self.refused.inc(),
        };
    }
}

/// Whose call it is, where tokens are got with callers' tokens.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The caller's token.
    pub token: Sensitive,
    /// The authority that it is of.
    pub authority: String,
    /// The issuer that it says, and was verified to be of.
    pub issuer: String,
    /// When it expires (Unix seconds).
    pub expires: i64,
}

/// A token that can be sent.
pub(super) struct Held {
    header: HeaderValue,
    scopes: Vec<String>,
    since: Instant,
    until: Instant,
    due: Instant,
    is_renewed: AtomicBool,
    counted: Gauge,
}

impl Held {
    /// Puts it on a request.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.header.clone());
    }

    fn has<'s>(&self, mut scopes: impl Iterator<Item = &'s String>) -> bool {
        scopes.all(|scope| self.scopes.contains(scope))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counted.dec();
    }
}

/// What was tried already for one call.
#[derive(Default)]
pub(super) struct Tried {
    replaced: bool,
    stepped: bool,
}

/// The tokens of one upstream.
pub(super) struct Tokens {
    client: TokenClient,
    counters: TokenCounters,
    own: Arc<Slot>,
    callers: Option<Cache<[u8; 32], Arc<Slot>>>,
    turns: Turns,
    told: Told,
}

impl Tokens {
    pub(super) fn new(oauth: &Oauth, egress: &Egress, counters: &TokenCounters) -> Result<Arc<Self>, UpstreamError> {
        let callers = oauth.grant.callers_of().map(|_| Cache::new(MOST_CALLERS));
        let client = TokenClient::new(oauth, egress)?;
        Ok(Arc::new(Self {
            client,
            counters: counters.clone(),
            own: Arc::default(),
            callers,
            turns: Turns::default(),
            told: Told::default(),
        }))
    }

    /// Whether a caller's token is needed to get one.
    pub(super) fn need_callers(&self) -> bool {
        self.callers.is_some()
    }

    /// What is wrong, if something is.
    pub(super) fn trouble(&self) -> Option<Arc<Trouble>> {
        self.told.now()
    }

    fn failed(&self, failure: &TokenFailure) {
        let code = match failure {
            // What is refused to one caller may be that caller's affair; and who was not asked has done nothing.
            TokenFailure::Refused { .. } if self.need_callers() => return,
            TokenFailure::Crowded => return,
            TokenFailure::Refused { error, .. } => Some(*error),
            _ => None,
        };
        self.told.tell(What::NoToken(failure.reason(), code));
    }

    /// The upstream is not content with a token. With a caller's, that may be that caller's affair as well: others need not be told.
    fn is_refused(&self, what: What) {
        if !self.need_callers() {
            self.told.tell(what);
        }
    }

    /// A token to call with.
    pub(super) async fn token(self: &Arc<Self>, caller: Option<&Subject>) -> Result<Arc<Held>, TokenFailure> {
        let slot = self.slot(caller)?;
        let Some(held) = slot.usable() else {
            let none = || TokenFailure::Unavailable { detail: "there is none".to_owned(), retry_after: None };
            return self.instead(caller, Why::Missing).await.and_then(|held| held.ok_or_else(none));
        };
        if Instant::now() >= held.due && !held.is_renewed.swap(true, Ordering::Relaxed) {
            self.renew(slot, caller, held.clone());
        }
        Ok(held)
    }

    /// The token with which a call is to be sent again, by what the upstream answered to it with another; `None`: the answer
    /// stands, whatever it is.
    pub(super) async fn after(
        self: &Arc<Self>,
        caller: Option<&Subject>,
        token: Arc<Held>,
        status: StatusCode,
        headers: &HeaderMap,
        tried: &mut Tried,
    ) -> Result<Option<Arc<Held>>, UpstreamError> {
        match status {
            StatusCode::UNAUTHORIZED => {
                let is_tried = std::mem::replace(&mut tried.replaced, true);
                let other = if is_tried { None } else { self.instead(caller, Why::Rejected(token)).await? };
                if other.is_none() {
                    self.is_refused(What::NotTaken);
                }
                Ok(other)
            }
            StatusCode::FORBIDDEN => {
                let scopes = trust::challenge(headers).map(|asked| asked.lacking().to_vec()).unwrap_or_default();
                if scopes.is_empty() {
                    return Ok(None);
                }
                let is_tried = std::mem::replace(&mut tried.stepped, true);
                let wanted = Why::Lacks(token, scopes.clone());
                let other = if is_tried { Ok(None) } else { self.ask(self.slot(caller)?, caller, wanted).await };
                let why = match other {
                    Ok(Some(other)) => return Ok(Some(other)),
                    Ok(None) => None,
                    Err(failure) => Some(failure),
                };
                let scopes = scopes.join(" ");
                self.is_refused(What::Lacking(scopes.clone()));
                Err(UpstreamError::ScopesLacking { scopes, why })
            }
            _ => {
                self.told.is_taken(token.since, &token.scopes);
                Ok(None)
            }
        }
    }

    async fn instead(self: &Arc<Self>, caller: Option<&Subject>, why: Why) -> Result<Option<Arc<Held>>, TokenFailure> {
        let asked = self.ask(self.slot(caller)?, caller, why).await;
        asked.inspect_err(|failure| self.failed(failure))
    }

    fn slot(&self, caller: Option<&Subject>) -> Result<Arc<Slot>, TokenFailure> {
        let Some(callers) = &self.callers else { return Ok(self.own.clone()) };
        let caller = caller.ok_or(TokenFailure::NoCaller)?;
        // A caller's token goes to its own issuer and nowhere else: not to one that its authority had before, either.
        let Oauth { grant, issuer, .. } = &self.client.oauth;
        if grant.callers_of() != Some(&caller.authority) || *issuer != caller.issuer {
            return Err(TokenFailure::ForeignCaller { authority: caller.authority.clone() });
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, caller.token.expose().as_bytes()).as_ref());
        let Ok(slot) = callers.get_or_insert_with(&key, || Ok::<_, Infallible>(Arc::default()));
        Ok(slot)
    }

    /// Asks beside the calls. What fails is tried again after a while, as long as the token is used.
    fn renew(self: &Arc<Self>, slot: Arc<Slot>, caller: Option<&Subject>, held: Arc<Held>) {
        let (tokens, caller) = (self.clone(), caller.cloned());
        tokio::spawn(async move {
            if let Err(error) = tokens.ask_in_turn(&slot, caller.as_ref(), Why::Due(held.clone())).await {
                tokens.failed(&error);
                tokio::time::sleep(RETRY.0).await;
                held.is_renewed.store(false, Ordering::Relaxed);
            }
        });
    }

    /// Asks in a task of its own: whoever waits may go away, and others wait as well.
    async fn ask(
        self: &Arc<Self>,
        slot: Arc<Slot>,
        caller: Option<&Subject>,
        why: Why,
    ) -> Result<Option<Arc<Held>>, TokenFailure> {
        let (tokens, caller) = (self.clone(), caller.cloned());
        let asked = tokio::spawn(async move { tokens.ask_in_turn(&slot, caller.as_ref(), why).await });
        let lost = || TokenFailure::Unavailable { detail: "it was not waited for".to_owned(), retry_after: None };
        asked.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn ask_in_turn(
        &self,
        slot: &Slot,
        caller: Option<&Subject>,
        why: Why,
    ) -> Result<Option<Arc<Held>>, TokenFailure> {
        let mut asking = slot.asking.lock().await;
        let now = Instant::now();
        let (mut wanted, mut lacking) = (asking.more.clone(), BTreeSet::new());
        match (&why, slot.usable()) {
            (Why::Missing, Some(held)) => return Ok(Some(held)),
            (Why::Due(old) | Why::Rejected(old), Some(held)) if !Arc::ptr_eq(old, &held) => {
                return Ok(Some(held));
            }
            (Why::Lacks(old, scopes), Some(held)) if held.has(scopes.iter()) => {
                // The issuer says that it has them: once more would change nothing.
                return Ok((!Arc::ptr_eq(old, &held)).then_some(held));
            }
            (Why::Rejected(_), _) => {
                if asking.replaced.is_some_and(|at| now < at + PAUSE) {
                    return Ok(None);
                }
            }
            (Why::Lacks(old, scopes), held) => {
                let has = &held.as_ref().unwrap_or(old).scopes;
                lacking.extend(scopes.iter().filter(|scope| !has.contains(scope)).cloned());
                wanted.extend(lacking.iter().cloned());
                if !asking.lacked.is_open(&lacking, now) || wanted.len() > MOST_SCOPES {
                    return Ok(None);
                }
            }
            (Why::Missing | Why::Due(_), _) => {}
        }
        asking.failures.check(now)?;
        let configured = &self.client.oauth.scopes;
        let besides: Vec<&String> = wanted.iter().filter(|scope| !configured.contains(scope)).collect();
        let scopes: Vec<String> = configured.iter().chain(besides.iter().copied()).cloned().collect();
        let before = (!besides.is_empty()).then_some(&asking.plain);
        let turn = self.turns.take().await?;
        let answer = self.client.ask(caller.map(|caller| &caller.token), &scopes, before).await;
        self.counters.asked(&answer);
        match answer {
            Ok(Granted { token, audience }) => {
                turn.answered();
                let held = self.held(&token, scopes, caller)?;
                if !held.has(lacking.iter()) {
                    asking.lacked.add(lacking);
                    return Err(TokenFailure::Narrower);
                }
                if before.is_none() {
                    asking.plain = audience;
                }
                slot.held.store(Some(held.clone()));
                asking.failures.clear();
                asking.more = wanted;
                if matches!(why, Why::Rejected(_)) {
                    asking.replaced = Some(now);
                }
                self.told.is_got();
                Ok(Some(held))
            }
            // What there is is good for everything else.
            Err(failure) if matches!(why, Why::Lacks(..)) => {
                // Some fail by a scope that they do not know. Who asks to be left alone is.
                if matches!(failure, TokenFailure::Unavailable { retry_after: Some(_), .. }) {
                    turn.failed(&failure);
                }
                asking.lacked.add(lacking);
                Err(failure)
            }
            Err(failure) => {
                use TokenFailure::{OtherAudience, Refused};
                // Without what the upstream chose, there may be one.
                if matches!(failure, Refused { error: "invalid_scope", .. } | OtherAudience { .. }) {
                    asking.more.clear();
                }
                if matches!(why, Why::Due(_)) {
                    tracing::warn!(reason = failure.reason(), error = %failure, "a token for an upstream was not renewed");
                }
                let others = turn.failed(&failure);
                asking.failures.add(&failure, if self.need_callers() { others } else { Duration::ZERO });
                Err(failure)
            }
        }
    }

    /// What there is now; `scopes` were asked for.
    fn held(
        &self,
        token: &Token,
        mut scopes: Vec<String>,
        caller: Option<&Subject>,
    ) -> Result<Arc<Held>, TokenFailure> {
        // RFC 6749 section 3.3: it may give fewer, and says so.
        if let Some(given) = &token.scopes {
            scopes.retain(|scope| given.contains(scope));
        }
        let left = |expires: i64| Duration::from_secs(u64::try_from(expires.saturating_sub(now())).unwrap_or_default());
        // A year at most: what is added to a time must be one.
        let own = token.expires_at.map_or(UNSAID, left).min(Duration::from_secs(365 * 86_400));
        let callers = caller.map_or(Duration::MAX, |caller| left(caller.expires));
        let life = own.min(callers);
        // Where the caller's token ends first, another one would last no longer.
        let due = if callers < own { life } else { life.mul_f64(spread(DUE, DUE + 0.1)) };
        let header = HeaderValue::from_str(&format!("Bearer {}", token.access_token.expose()));
        let mut header = header.map_err(|_| crate::oauth::token_request::TokenError::Malformed("access_token"))?;
        header.set_sensitive(true);
        let now = Instant::now();
        self.counters.held.inc();
        Ok(Arc::new(Held {
            header,
            scopes,
            since: now,
            until: now + life.saturating_sub(MARGIN.min(life / 5)),
            due: now + due,
            is_renewed: AtomicBool::new(false),
            counted: self.counters.held.clone(),
        }))
    }
}

#[cfg(test)]
mod tests;
