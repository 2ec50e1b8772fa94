//! Whose turn it is to ask the issuer for a token of one upstream, and when it is nobody's.
//!
//! Invariant: however many callers there are, so many requests are under way at once; and while the issuer is away, or has asked
//! to be left alone, there are none. What it refuses to one caller is that caller's affair, and keeps nobody else waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::asking::{Failures, RETRY};
use crate::upstream::token::TokenFailure;

/// So many requests at once.
pub(super) const AT_ONCE: usize = 16;
/// So long it is waited for a turn: a call waits for that.
const PATIENCE: Duration = Duration::from_secs(15);
/// However long the issuer wants to be left alone, it is asked again after this.
const LONGEST: Duration = Duration::from_secs(300);

pub(super) struct Turns {
    places: Semaphore,
    away: Mutex<Away>,
}

#[derive(Default)]
struct Away {
    failures: Failures,
    /// When the last one was heard of: those that were under way by then say nothing new.
    heard: Option<Instant>,
    /// Whether it said for how long it wants to be left alone.
    is_asked: bool,
}

/// One request.
pub(super) struct Turn<'t> {
    turns: &'t Turns,
    begun: Instant,
    _place: SemaphorePermit<'t>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), away: Mutex::default() }
    }
}

impl Turns {
    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<Instant, TokenFailure> {
        let now = Instant::now();
        self.away().failures.check(now).map(|()| now)
    }

    /// Waits for a turn.
    pub(super) async fn take(&self) -> Result<Turn<'_>, TokenFailure> {
        self.check()?;
        let place = tokio::time::timeout(PATIENCE, self.places.acquire()).await;
        let Ok(Ok(place)) = place else {
            return Err(TokenFailure::Crowded);
        };
        // Whoever was before may have heard that it is away.
        Ok(Turn { turns: self, begun: self.check()?, _place: place })
    }

    /// How long nobody asks.
    #[cfg(test)]
    pub(super) fn left(&self) -> Duration {
        self.away().failures.left()
    }

    #[cfg(test)]
    pub(super) fn forget(&self) {
        *self.away() = Away::default();
    }
}

impl Turn<'_> {
    /// The issuer works: what another one has heard meanwhile was that one's affair, unless the issuer asked to be left alone.
    pub(super) fn answered(self) {
        let mut away = self.turns.away();
        if !away.is_asked || away.is_news_of(self.begun) {
            *away = Away::default();
        }
    }

    /// There is no token. How long whoever asked, among others, should wait before the next request: longer than they do, so that
    /// one for whom the issuer fails does not take each turn before they can.
    pub(super) fn failed(self, failure: &TokenFailure) -> Duration {
        let TokenFailure::Unavailable { retry_after, .. } = failure else {
            self.answered();
            return Duration::ZERO;
        };
        let mut away = self.turns.away();
        if away.is_news_of(self.begun) {
            away.failures.add(failure, retry_after.unwrap_or_default().min(LONGEST));
            away.heard = Some(Instant::now());
            away.is_asked = retry_after.is_some();
        }
        away.failures.left() + RETRY.0
    }
}

impl Away {
    /// Whether a request that was begun then says more than is known.
    fn is_news_of(&self, begun: Instant) -> bool {
        self.heard.is_none_or(|heard| heard <= begun)
    }
}
