//! When an issuer's keys are fetched.
//!
//! Invariant: however many callers ask, attempts are at least a window apart. Pure: the time is given, as what has
//! passed since some fixed moment.

use std::time::Duration;

/// The times that govern fetching and trusting a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The shortest time for which a set is taken to be fresh, whatever its `Cache-Control` says.
    pub min_fresh: Duration,
    /// The longest.
    pub max_fresh: Duration,
    /// How long after that a set may still be used while its issuer cannot be reached.
    pub max_stale: Duration,
    /// The least time between two attempts.
    pub window: Duration,
    /// For one document.
    pub fetch_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            min_fresh: Duration::from_secs(5 * 60),
            max_fresh: Duration::from_secs(24 * 3600),
            max_stale: Duration::from_secs(6 * 3600),
            window: Duration::from_secs(30),
            fetch_timeout: Duration::from_secs(10),
        }
    }
}

impl Timing {
    /// How long a response is fresh (RFC 9111 section 5.2.2): `max-age` within the bounds; none of it means the lower.
    pub(super) fn freshness(&self, cache_control: Option<&str>) -> Duration {
        let directives = || cache_control.unwrap_or_default().split(',').map(str::trim);
        if directives().any(|d| d.eq_ignore_ascii_case("no-store") || d.eq_ignore_ascii_case("no-cache")) {
            return self.min_fresh;
        }
        let max_age = directives().find_map(|directive| {
            let (name, value) = directive.split_once('=')?;
            name.trim().eq_ignore_ascii_case("max-age").then(|| value.trim().trim_matches('"').parse().ok())?
        });
        Duration::from_secs(max_age.unwrap_or(0)).clamp(self.min_fresh, self.max_fresh)
    }
}

/// When the next attempt is due, and when one is allowed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    due: Duration,
    allowed: Duration,
    failures: u32,
}

impl Schedule {
    pub(super) fn until_due(&self, now: Duration) -> Duration {
        self.due.saturating_sub(now)
    }

    pub(super) fn allows(&self, now: Duration) -> bool {
        now >= self.allowed
    }

    /// An attempt starts. `jitter` in 0..=1 spreads the fleet over a fifth of the window.
    pub(super) fn start(&mut self, now: Duration, timing: &Timing, jitter: f64) {
        self.allowed = now + timing.window.mul_f64(1.0 + 0.2 * jitter);
    }

    /// The attempt brought a set that is fresh for `fresh`.
    pub(super) fn succeed(&mut self, now: Duration, fresh: Duration, jitter: f64) {
        self.failures = 0;
        // Earlier, never later: a set should be replaced before it is stale.
        self.due = (now + fresh.mul_f64(1.0 - 0.1 * jitter)).max(self.allowed);
    }

    /// The attempt failed: the next one after one window, then two, four, at most ten.
    pub(super) fn fail(&mut self, now: Duration, timing: &Timing, jitter: f64) {
        let windows = 2_u32.saturating_pow(self.failures).min(10);
        self.failures = self.failures.saturating_add(1);
        self.due = (now + timing.window.mul_f64(f64::from(windows) * (1.0 + 0.2 * jitter))).max(self.allowed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn cache_control_counts_within_bounds() {
        let timing = Timing::default();
        for (header, seconds) in [
            (None, 300),
            (Some("max-age=10"), 300),
            (Some("public, max-age=3600, must-revalidate"), 3600),
            (Some("Max-Age=\"600\""), 600),
            (Some("max-age=99999999"), 86400),
            (Some("no-store, max-age=3600"), 300),
            (Some("max-age=-1"), 300),
            (Some("s-maxage=3600"), 300),
        ] {
            assert_eq!(timing.freshness(header), s(seconds), "{header:?}");
        }
    }

    #[test]
    fn attempts_are_a_window_apart_and_failures_back_off() {
        let timing = Timing::default();
        let mut schedule = Schedule::default();
        assert!(schedule.allows(s(0)) && schedule.until_due(s(0)).is_zero());
        schedule.start(s(0), &timing, 1.0);
        schedule.succeed(s(1), s(300), 1.0);
        assert!(!schedule.allows(s(35)) && schedule.allows(s(36)));
        assert_eq!(schedule.until_due(s(1)), s(270));
        let mut waits = Vec::new();
        for _ in 0..6 {
            schedule.start(s(1000), &timing, 0.0);
            schedule.fail(s(1000), &timing, 0.0);
            waits.push(schedule.until_due(s(1000)).as_secs());
        }
        assert_eq!(waits, [30, 60, 120, 240, 300, 300]);
        schedule.succeed(s(2000), s(300), 0.0);
        schedule.fail(s(2000), &timing, 0.0);
        assert_eq!(schedule.until_due(s(2000)), s(30));
    }
}
