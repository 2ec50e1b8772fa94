//! Refused authentications, summed before they are recorded: a stranger cannot flood the journal.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::audit::{AuthFailureAggregator, Recorder};

/// How long failures of one kind are summed.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How many kinds are told apart in a window.
const KINDS: usize = 256;

/// The sums of the current window.
#[derive(Debug)]
pub struct Failures(Mutex<AuthFailureAggregator>);

impl Default for Failures {
    fn default() -> Self {
        let window = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
        Self(Mutex::new(AuthFailureAggregator::new(window, KINDS)))
    }
}

impl Failures {
    /// Counts one failure. `server` is `namespace/name`, or empty where the request came to none.
    pub fn note(&self, server: &str, reason: &'static str, peer: IpAddr) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.observe(now_ms(), server, reason, Some(peer));
    }

    /// Records what a window summed; `all` also what is not due yet, before the process ends.
    pub fn flush(&self, recorder: &Recorder, all: bool) {
        let due = {
            let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all { sums.flush() } else { sums.flush_if_over(now_ms()) }
        };
        due.iter().for_each(|failure| recorder.auth_failure(failure));
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
