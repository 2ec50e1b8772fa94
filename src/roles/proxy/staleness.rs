//! How old the configuration may be. Pure.
//!
//! Invariant: no jump of a clock makes it younger. What counts is the greatest of: the time since the heartbeat says that
//! it was written, the time since it was seen to change, and the time since a collection could last be followed.

use std::collections::BTreeMap;
use std::time::Duration;

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Servers and sealing keys.
    Secrets,
    /// Policies and authorities.
    ConfigMaps,
    /// The controller's sign of life.
    Heartbeat,
}

/// Two clocks, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix seconds: comparable between machines, and may jump.
    pub unix: i64,
    /// Since some fixed moment: never goes back.
    pub monotonic: Duration,
}

/// What is known of the configuration's age.
#[derive(Debug, Default)]
pub struct Staleness {
    heartbeat: Option<Heartbeat>,
    failing: BTreeMap<Source, Duration>,
}

#[derive(Debug)]
struct Heartbeat {
    /// As it says, in Unix microseconds.
    renewed: i64,
    /// Monotonic, when it was first seen to say so.
    seen: Duration,
}

impl Staleness {
    /// The heartbeat says that it was written at `renewed` (Unix microseconds).
    pub fn beat(&mut self, renewed: i64, now: Now) {
        if self.heartbeat.as_ref().is_none_or(|known| known.renewed != renewed) {
            self.heartbeat = Some(Heartbeat { renewed, seen: now.monotonic });
        }
    }

    /// A source cannot be followed.
    pub fn failed(&mut self, source: Source, now: Now) {
        self.failing.entry(source).or_insert(now.monotonic);
    }

    /// A source was read to its end, and is followed.
    pub fn followed(&mut self, source: Source) {
        self.failing.remove(&source);
    }

    /// How old the configuration may be. Without a heartbeat, as old as time.
    pub fn age(&self, now: Now) -> Duration {
        let renewed = self.heartbeat.as_ref().map_or(0, |heartbeat| heartbeat.renewed / 1_000_000);
        let said = Duration::from_secs(u64::try_from(now.unix.saturating_sub(renewed)).unwrap_or(0));
        let seen = self.heartbeat.as_ref().map(|heartbeat| heartbeat.seen);
        let since = seen.into_iter().chain(self.failing.values().copied()).min().unwrap_or(now.monotonic);
        said.max(now.monotonic.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: i64 = 1_800_000_000;

    fn at(seconds: u64) -> Now {
        Now { unix: EPOCH + i64::try_from(seconds).unwrap(), monotonic: Duration::from_secs(seconds) }
    }

    fn beats(at: i64) -> i64 {
        (EPOCH + at) * 1_000_000
    }

    #[test]
    fn without_a_heartbeat_it_is_as_old_as_time() {
        assert!(Staleness::default().age(at(5)).as_secs() > 1_000_000_000);
    }

    #[test]
    fn an_old_heartbeat_is_old_at_first_sight_and_a_new_one_heals() {
        let mut staleness = Staleness::default();
        staleness.beat(beats(-3600), at(1));
        assert_eq!(staleness.age(at(1)).as_secs(), 3601);
        staleness.beat(beats(2), at(2));
        assert_eq!(staleness.age(at(2)).as_secs(), 0);
    }

    #[test]
    fn a_heartbeat_that_does_not_change_ages_however_often_it_is_told() {
        let mut staleness = Staleness::default();
        // Written by a clock that is an hour ahead.
        staleness.beat(beats(3600), at(0));
        for second in 0..60 {
            staleness.beat(beats(3600), at(second));
            assert_eq!(staleness.age(at(second)).as_secs(), second);
        }
    }

    #[test]
    fn no_jump_of_the_clock_opens_anything() {
        let mut staleness = Staleness::default();
        staleness.beat(beats(0), at(0));
        let back = Now { unix: EPOCH - 100_000, ..at(50) };
        assert_eq!(staleness.age(back).as_secs(), 50);
        let ahead = Now { unix: EPOCH + 100_000, ..at(50) };
        assert_eq!(staleness.age(ahead).as_secs(), 100_000);
    }

    #[test]
    fn what_cannot_be_followed_ages_although_the_heart_beats() {
        let mut staleness = Staleness::default();
        for second in 0..=30_i64 {
            let now = at(u64::try_from(second).unwrap());
            staleness.beat(beats(second), now);
            if second >= 10 {
                staleness.failed(Source::Secrets, now);
            }
        }
        assert_eq!(staleness.age(at(30)).as_secs(), 20);
        staleness.failed(Source::ConfigMaps, at(30));
        staleness.followed(Source::Secrets);
        assert_eq!(staleness.age(at(31)).as_secs(), 1);
    }
}
