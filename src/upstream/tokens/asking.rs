//! Where one token is, and what is known of earlier requests for it.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::Held;
use crate::upstream::token::{Audience, TokenFailure};

/// How long after a failure it is asked again, at first and at most.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A token that an upstream does not take is replaced, and one that lacks scopes asked for, no more often than this.
pub(super) const PAUSE: Duration = Duration::from_secs(30);
/// So many sets of scopes that were not to be had are known; in that time, no further ones are asked for.
const MOST_LACKED: usize = 16;

/// Why another token is wanted.
pub(super) enum Why {
    /// There is none.
    Missing,
    /// It will soon be none any more.
    Due(Arc<Held>),
    /// The upstream does not take it.
    Rejected(Arc<Held>),
    /// The upstream wants one with these scopes besides.
    Lacks(Arc<Held>, Vec<String>),
}

/// Where one token is.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) held: ArcSwapOption<Held>,
    /// Locked while a token is asked for.
    pub(super) asking: Mutex<Asking>,
}

impl Slot {
    pub(super) fn usable(&self) -> Option<Arc<Held>> {
        self.held.load_full().filter(|held| Instant::now() < held.until)
    }
}

/// What is known of earlier requests.
#[derive(Default)]
pub(super) struct Asking {
    /// Scopes that the upstream wanted besides those that are configured.
    pub(super) more: BTreeSet<String>,
    /// For whom a token without those was.
    pub(super) plain: Audience,
    pub(super) failures: Failures,
    /// When a token was replaced that the upstream did not take, for the last time.
    pub(super) replaced: Option<Instant>,
    pub(super) lacked: Lacked,
}

/// The last failure, how many there were in a row, and until when it counts.
#[derive(Default)]
pub(super) struct Failures {
    last: Option<(TokenFailure, Instant)>,
    in_a_row: u32,
}

impl Failures {
    /// The last failure, if it still counts.
    pub(super) fn check(&self, now: Instant) -> Result<(), TokenFailure> {
        match &self.last {
            Some((failure, until)) if now < *until => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// One more, which counts for longer than the last, and not less than so long.
    pub(super) fn add(&mut self, failure: &TokenFailure, at_least: Duration) {
        let wait = RETRY.0.saturating_mul(1 << self.in_a_row.min(16)).min(RETRY.1).mul_f64(spread(0.8, 1.2));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some((failure.clone(), Instant::now() + wait.max(at_least)));
    }

    /// How long the last one counts still.
    pub(super) fn left(&self) -> Duration {
        self.last.as_ref().map_or(Duration::ZERO, |(_, until)| until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Sets of scopes that were not to be had lately. Several callers use one token: what one of them lacks is not what another does.
#[derive(Default)]
pub(super) struct Lacked(VecDeque<(BTreeSet<String>, Instant)>);

impl Lacked {
    /// Whether these may be asked for.
    pub(super) fn is_open(&mut self, scopes: &BTreeSet<String>, now: Instant) -> bool {
        self.0.retain(|(_, at)| now < *at + PAUSE);
        self.0.len() < MOST_LACKED && self.0.iter().all(|(lacked, _)| lacked != scopes)
    }

    /// These are not to be had.
    pub(super) fn add(&mut self, scopes: BTreeSet<String>) {
        self.0.truncate(MOST_LACKED - 1);
        self.0.push_front((scopes, Instant::now()));
    }
}

/// Somewhere between the two: what begins together does not come back together.
pub(super) fn spread(from: f64, to: f64) -> f64 {
    let random = RandomState::new().hash_one(0_u8) % 1024;
    from + (to - from) * (random as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_to_be_had_is_asked_for_again_after_a_while_and_no_other_ones_without_bound() {
        let set = |name: String| BTreeSet::from([name]);
        let (mut lacked, now) = (Lacked::default(), Instant::now());
        for n in 0..MOST_LACKED {
            let scopes = set(format!("scope-{n}"));
            assert!(lacked.is_open(&scopes, now));
            lacked.add(scopes.clone());
            assert!(!lacked.is_open(&scopes, now));
        }
        let other = set("other".to_owned());
        assert!(!lacked.is_open(&other, now), "nobody asks for ever new ones");
        assert!(lacked.is_open(&other, Instant::now() + PAUSE));
        assert!(lacked.is_open(&set("scope-0".to_owned()), Instant::now() + PAUSE));
    }

    #[test]
    fn failures_count_for_longer_each_time_and_a_minute_at_most() {
        let failure = TokenFailure::Ended;
        let mut failures = Failures::default();
        let counts = |failures: &Failures, wait| failures.check(Instant::now() + wait).is_err();
        for seconds in [1_u64, 2, 4, 8, 16, 32, 60, 60] {
            failures.add(&failure, Duration::ZERO);
            let wait = Duration::from_secs(seconds);
            assert!(counts(&failures, wait.mul_f64(0.7)) && !counts(&failures, wait.mul_f64(1.2)), "{seconds}");
        }
        failures.clear();
        assert!(!counts(&failures, Duration::ZERO));
        failures.add(&failure, Duration::from_secs(200));
        assert!(counts(&failures, Duration::from_secs(199)), "it asked to be left alone for longer");
    }
}
