//! Waiting on conditions: a test says what it waits for, and never for how long something usually takes.

use std::time::{Duration, Instant};

/// Far above anything that a loaded machine needs; reaching it is a failure, not a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two questions, at least and at most.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(100);

/// Asks until the answer is there; panics with `what` when patience ends.
pub(crate) fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, ask)
}

/// [`until`], for what takes a whole core for seconds before it answers at all.
pub(crate) fn until_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        let waited = start.elapsed();
        assert!(waited < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(pause(waited));
    }
}

/// Whoever is asked has less time for what is waited for: so it is asked the more rarely the longer it takes, and nobody is
/// late by more than a tenth.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(SHORTEST, LONGEST)
}
