//! ServiceAccounts' tokens of which the API server is asked too, because their authority wants it (TokenReview).
//!
//! Invariant: such a caller is believed only within the window after a question that the API server answered for it; for
//! want of an answer nobody is. However many calls one token makes, there is at most one question about it at a time and,
//! once it was answered, in a window; and at most [`AT_ONCE`] about all tokens together. Within the window a call costs an
//! atomic load.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::metrics::TokenReviews;
use crate::identity::cache::TokenDigest;
use crate::identity::token::review::{Answer, ReviewError};
use crate::sensitive::Sensitive;

/// How many questions may be under way at once: strangers with many genuine tokens do not flood the API server.
const AT_ONCE: usize = 32;
/// How long a caller waits for an answer, its turn to ask included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a token is not asked about again after a question without an answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is logged that questions are not answered, for each cause.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What the API server is asked.
#[derive(Debug)]
pub struct Question {
    /// The token: a genuine one of the cluster's own issuer.
    pub token: Sensitive,
    /// Its audiences that the server accepts, one at least.
    pub audiences: Vec<String>,
}

/// Why there is no answer. Never holds any of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// This gateway has no API server to ask.
    #[error("this gateway knows no API server to ask: run it in a cluster, or remove tokenReview of the authority")]
    Nobody,
    /// The proxies' ServiceAccount may not ask.
    #[error(
        "the API server does not let this proxy create tokenreviews.authentication.k8s.io: set proxy.tokenReview.enabled of \
         the chart to true, or remove tokenReview of the authority"
    )]
    Forbidden,
    /// It could not be reached, or what it said could not be read.
    #[error("the API server cannot be asked: {0}")]
    Failed(String),
    /// No answer, or no turn to ask, in time.
    #[error("the API server did not answer within {} s, or too many tokens were asked about: look at its load", PATIENCE.as_secs())]
    TooLate,
}

impl NoAnswer {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            NoAnswer::Nobody => "NobodyToAsk",
            NoAnswer::Forbidden => "TokenReviewForbidden",
            NoAnswer::Failed(_) => "TokenReviewFailed",
            NoAnswer::TooLate => "TokenReviewTimeout",
        }
    }
}

/// Asks the API server. Dropping what is returned takes the question back.
pub trait TokenReviewer: Send + Sync {
    /// Asks once.
    fn review(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, NoAnswer>> + Send>>;
}

/// Why a caller is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbelieved {
    /// The API server's answer is against it.
    Refused(ReviewError),
    /// There is no answer.
    Unavailable,
}

impl Unbelieved {
    /// A stable word for records.
    pub fn reason(self) -> &'static str {
        match self {
            Unbelieved::Refused(error) => error.reason(),
            Unbelieved::Unavailable => "TokenReviewUnavailable",
        }
    }
}

type Outcome = Result<(), Unbelieved>;

/// What is known of one token, at whichever server it is used: that it is meant for that one was proven offline, and is judged
/// on every call; what only the API server knows is whether it has ended.
#[derive(Debug)]
pub struct Standing {
    /// Kept to be asked about again while streams of its caller are open.
    token: Sensitive,
    /// Until when it is believed, in milliseconds of [`Reviews::now`].
    believed_until: AtomicU64,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    /// Where the outcome of the question under way will be told.
    under_way: Option<watch::Receiver<Option<Outcome>>>,
    /// Why it is not believed, and until when nobody asks again.
    against: Option<(Unbelieved, u64)>,
}

impl Standing {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks, and what came of it.
pub struct Reviews {
    reviewer: Option<Arc<dyn TokenReviewer>>,
    window: Duration,
    patience: Duration,
    turns: Semaphore,
    started: Instant,
    known: Mutex<HashMap<TokenDigest, Weak<Standing>>>,
    /// When each cause of silence was logged last.
    said: Mutex<HashMap<&'static str, Instant>>,
    counts: TokenReviews,
}

impl Reviews {
    /// Asks `reviewer` (`None`: there is nobody to ask); what it answers counts for `window`.
    pub fn new(reviewer: Option<Arc<dyn TokenReviewer>>, window: Duration, counts: TokenReviews) -> Arc<Self> {
        Arc::new(Self::with(reviewer, window, PATIENCE, counts))
    }

    fn with(
        reviewer: Option<Arc<dyn TokenReviewer>>,
        window: Duration,
        patience: Duration,
        counts: TokenReviews,
    ) -> Self {
        Self {
            reviewer,
            window,
            patience,
            turns: Semaphore::new(AT_ONCE),
            started: Instant::now(),
            known: Mutex::default(),
            said: Mutex::default(),
            counts,
        }
    }

    /// What is known of a token: one for all callers that present it.
    pub fn standing(&self, digest: TokenDigest, token: &str) -> Arc<Standing> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = known.get(&digest).and_then(Weak::upgrade) {
            return standing;
        }
        if known.len() == known.capacity() {
            // About to grow: tokens that no caller holds need not be known.
            known.retain(|_, standing| standing.strong_count() > 0);
        }
        let token = Sensitive::new(token);
        let standing = Arc::new(Standing { token, believed_until: AtomicU64::new(0), asked: Mutex::default() });
        known.insert(digest, Arc::downgrade(&standing));
        standing
    }

    /// For how long a token is still believed; `None`: the API server has to be asked first.
    pub fn believed_for(&self, standing: &Standing) -> Option<Duration> {
        let left = standing.believed_until.load(Ordering::Acquire).checked_sub(self.now())?;
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// Asks about a token, together with whoever else does now. `judge` is given what was asked and what was answered.
    pub async fn ask<J>(self: Arc<Self>, standing: Arc<Standing>, audiences: Vec<String>, judge: J) -> Outcome
    where
        J: FnOnce(&[String], &Answer) -> Result<(), ReviewError> + Send + 'static,
    {
        if audiences.is_empty() {
            // The API server would take it for a question about its own credentials.
            return Err(Unbelieved::Refused(ReviewError::Audience));
        }
        let mut told = {
            let mut asked = standing.asked();
            if self.believed_for(&standing).is_some() {
                return Ok(());
            }
            if let Some((why, _)) = asked.against.filter(|(_, until)| self.now() < *until) {
                return Err(why);
            }
            // One whose teller is gone ended with the runtime that it ran in.
            match asked.under_way.clone().filter(|told| told.has_changed().is_ok()) {
                Some(told) => told,
                None => {
                    let (tell, told) = watch::channel(None);
                    asked.under_way = Some(told.clone());
                    // A task of its own: a caller who goes away leaves the outcome to the next.
                    tokio::spawn(self.clone().question(standing.clone(), audiences, judge, tell));
                    told
                }
            }
        };
        let outcome = told.wait_for(Option::is_some).await.map(|outcome| *outcome);
        outcome.ok().flatten().unwrap_or(Err(Unbelieved::Unavailable))
    }

    /// One question, and what follows from it.
    async fn question<J>(
        self: Arc<Self>,
        standing: Arc<Standing>,
        audiences: Vec<String>,
        judge: J,
        tell: watch::Sender<Option<Outcome>>,
    ) where
        J: FnOnce(&[String], &Answer) -> Result<(), ReviewError>,
    {
        let answered = timeout(self.patience, self.answer(&standing, &audiences)).await;
        let outcome = match answered.unwrap_or(Err(NoAnswer::TooLate)) {
            Ok((asked_at, answer)) => judge(&audiences, &answer).map(|()| asked_at).map_err(Unbelieved::Refused),
            Err(silence) => {
                self.say(&silence);
                Err(Unbelieved::Unavailable)
            }
        };
        self.count(outcome);
        let mut asked = standing.asked();
        asked.under_way = None;
        let believed_until = match outcome {
            Ok(asked_at) => asked_at.saturating_add(millis(self.window)),
            Err(why) => {
                let pause = if why == Unbelieved::Unavailable { PAUSE } else { self.window };
                asked.against = Some((why, self.now().saturating_add(millis(pause))));
                0
            }
        };
        standing.believed_until.store(believed_until, Ordering::Release);
        drop(asked);
        tell.send_replace(Some(outcome.map(drop)));
    }

    /// When it was asked, and the answer.
    async fn answer(&self, standing: &Standing, audiences: &[String]) -> Result<(u64, Answer), NoAnswer> {
        let reviewer = self.reviewer.as_ref().ok_or(NoAnswer::Nobody)?;
        // Nobody closes it.
        let _turn = self.turns.acquire().await.map_err(|_| NoAnswer::TooLate)?;
        let asked_at = self.now();
        let question = Question { token: standing.token.clone(), audiences: audiences.to_vec() };
        Ok((asked_at, reviewer.review(question).await?))
    }

    fn count(&self, outcome: Result<u64, Unbelieved>) {
        let count = match outcome {
            Ok(_) => &self.counts.believed,
            Err(Unbelieved::Refused(_)) => &self.counts.refused,
            Err(Unbelieved::Unavailable) => &self.counts.unavailable,
        };
        count.inc();
    }

    /// Logs why there is no answer: not for every call, and the metric counts them.
    fn say(&self, silence: &NoAnswer) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(silence.reason()).is_some_and(|at| now.duration_since(*at) < SAY_EVERY) {
            return;
        }
        said.insert(silence.reason(), now);
        let reason = silence.reason();
        tracing::error!(reason, error = %silence, "ServiceAccounts are not let in: their tokens cannot be reviewed");
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
