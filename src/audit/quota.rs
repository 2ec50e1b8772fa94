//! Refusals, summed: whoever sends a hundred thousand bad requests a second gets a bounded number of records and a
//! bounded amount of memory.
//!
//! Pure: time comes in, records come out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::event::AuthFailureEvent;

/// How often something happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// How often.
    pub count: u64,
    /// The first time, in milliseconds since 1970.
    pub first_unix_ms: u64,
    /// The last time.
    pub last_unix_ms: u64,
}

/// What happened in a window, by kind, of which there is a bounded number.
#[derive(Debug)]
pub struct Sums<K, V> {
    window_ms: u64,
    max_kinds: usize,
    kinds: HashMap<K, (V, Sum)>,
    overflow: Option<Sum>,
    begun: Option<u64>,
}

impl<K: Eq + Hash, V> Sums<K, V> {
    /// What is beyond `max_kinds` kinds in a window has one sum together.
    pub fn new(window_ms: u64, max_kinds: usize) -> Self {
        Self { window_ms, max_kinds, kinds: HashMap::new(), overflow: None, begun: None }
    }

    /// Counts one. `about` is asked once for each kind.
    pub fn observe(&mut self, now_unix_ms: u64, kind: K, about: impl FnOnce() -> V) {
        self.begun.get_or_insert(now_unix_ms);
        let fresh = Sum { count: 0, first_unix_ms: now_unix_ms, last_unix_ms: now_unix_ms };
        let room = self.kinds.len() < self.max_kinds;
        let sum = match self.kinds.get_mut(&kind) {
            Some((_, sum)) => sum,
            None if room => &mut self.kinds.entry(kind).or_insert((about(), fresh)).1,
            None => self.overflow.get_or_insert(fresh),
        };
        sum.count += 1;
        sum.last_unix_ms = now_unix_ms;
    }

    /// The kinds of this window.
    pub fn kinds(&self) -> impl Iterator<Item = &K> {
        self.kinds.keys()
    }

    /// Whether the window is over, or the clock stepped back behind its start.
    pub fn is_due(&self, now_unix_ms: u64) -> bool {
        self.begun.is_some_and(|begun| now_unix_ms < begun || now_unix_ms - begun >= self.window_ms)
    }

    /// The window's sums, in no particular order, and that of everything beyond the bound. A new window begins with
    /// the next event.
    pub fn take(&mut self) -> (Vec<(K, V, Sum)>, Option<Sum>) {
        self.begun = None;
        (self.kinds.drain().map(|(kind, (about, sum))| (kind, about, sum)).collect(), self.overflow.take())
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    server: String,
    reason: &'static str,
    prefix: String,
}

/// Sums failures per server, reason and address block over a window.
#[derive(Debug)]
pub struct AuthFailureAggregator(Sums<Key, ()>);

impl AuthFailureAggregator {
    /// One record per key and window; failures beyond `max_keys` keys in a window share one record.
    pub fn new(window_ms: u64, max_keys: usize) -> Self {
        Self(Sums::new(window_ms, max_keys))
    }

    /// Counts one failure. `server` is `namespace/name` of a server that exists, or empty: never a path that the
    /// stranger chose.
    pub fn observe(&mut self, now_unix_ms: u64, server: &str, reason: &'static str, client: Option<IpAddr>) {
        let key = Key { server: server.to_owned(), reason, prefix: client.map(prefix).unwrap_or_default() };
        self.0.observe(now_unix_ms, key, || ());
    }

    /// The window's records if it is over, or if the clock stepped back behind its start; else nothing.
    pub fn flush_if_over(&mut self, now_unix_ms: u64) -> Vec<AuthFailureEvent> {
        if self.0.is_due(now_unix_ms) { self.flush() } else { Vec::new() }
    }

    /// The window's records, whether it is over or not; a new window begins with the next failure.
    pub fn flush(&mut self) -> Vec<AuthFailureEvent> {
        let event = |server, reason: &str, client_prefix, sum: Sum| AuthFailureEvent {
            server,
            reason: reason.to_owned(),
            client_prefix,
            count: sum.count,
            first_unix_ms: sum.first_unix_ms,
            last_unix_ms: sum.last_unix_ms,
        };
        let (mut sums, overflow) = self.0.take();
        sums.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let sums = sums.into_iter().map(|(key, (), sum)| event(key.server, key.reason, key.prefix, sum));
        sums.chain(overflow.map(|sum| event(String::new(), "Various", String::new(), sum))).collect()
    }
}

/// IPv4 /24, IPv6 /48: what one stranger usually holds.
fn prefix(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_of_one_kind_are_one_record() {
        let mut failures = AuthFailureAggregator::new(1000, 10);
        for n in 0..100_000 {
            failures.observe(n / 1000, "a/b", "Expired", ip(&format!("10.1.2.{}", n % 256)));
        }
        failures.observe(100, "a/b", "BadSignature", ip("::ffff:10.1.2.3"));
        failures.observe(100, "a/b", "BadSignature", ip("2001:db8:1:2::3"));
        assert_eq!(failures.flush_if_over(500), []);
        let events = failures.flush_if_over(1000);
        let found: Vec<_> = events.iter().map(|e| (&*e.reason, &*e.client_prefix, e.count)).collect();
        assert_eq!(
            found,
            [
                ("BadSignature", "10.1.2.0/24", 1),
                ("BadSignature", "2001:db8:1::/48", 1),
                ("Expired", "10.1.2.0/24", 100_000)
            ]
        );
        assert_eq!((events[2].first_unix_ms, events[2].last_unix_ms), (0, 99));
        assert_eq!(failures.flush(), []);
    }

    #[test]
    fn more_keys_than_allowed_share_a_record() {
        let mut failures = AuthFailureAggregator::new(1000, 2);
        for n in 0..=255 {
            failures.observe(5, "a/b", "Expired", ip(&format!("10.1.{n}.1")));
        }
        let events = failures.flush();
        assert_eq!(events.len(), 3);
        assert_eq!((&*events[2].reason, events[2].count), ("Various", 254));
    }

    #[test]
    fn a_clock_that_steps_back_ends_the_window() {
        let mut failures = AuthFailureAggregator::new(1000, 2);
        failures.observe(5000, "", "Expired", None);
        assert_eq!(failures.flush_if_over(10).len(), 1);
    }
}
