//! Failed authentications, summed: a stranger who sends a hundred thousand bad tokens a second gets a bounded number of
//! records and a bounded amount of memory.
//!
//! Pure: time comes in, records come out.

use std::collections::HashMap;
use std::net::IpAddr;

use super::event::AuthFailureEvent;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    server: String,
    reason: &'static str,
    prefix: String,
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    count: u64,
    first: u64,
    last: u64,
}

impl Sum {
    fn add(&mut self, now: u64) {
        self.count += 1;
        self.last = now;
    }
}

/// Sums failures per server, reason and address block over a window.
#[derive(Debug)]
pub struct AuthFailureAggregator {
    window_ms: u64,
    max_keys: usize,
    sums: HashMap<Key, Sum>,
    overflow: Option<Sum>,
    begun: Option<u64>,
}

impl AuthFailureAggregator {
    /// One record per key and window; failures beyond `max_keys` keys in a window share one record.
    pub fn new(window_ms: u64, max_keys: usize) -> Self {
        Self { window_ms, max_keys, sums: HashMap::new(), overflow: None, begun: None }
    }

    /// Counts one failure. `server` is `namespace/name` of a server that exists, or empty: never a path that the
    /// stranger chose.
    pub fn observe(&mut self, now_unix_ms: u64, server: &str, reason: &'static str, client: Option<IpAddr>) {
        self.begun.get_or_insert(now_unix_ms);
        let fresh = Sum { count: 0, first: now_unix_ms, last: now_unix_ms };
        let key = Key { server: server.to_owned(), reason, prefix: client.map(prefix).unwrap_or_default() };
        let room = self.sums.len() < self.max_keys;
        match self.sums.get_mut(&key) {
            Some(sum) => sum.add(now_unix_ms),
            None if room => self.sums.entry(key).or_insert(fresh).add(now_unix_ms),
            None => self.overflow.get_or_insert(fresh).add(now_unix_ms),
        }
    }

    /// The window's records if it is over, or if the clock stepped back behind its start; else nothing.
    pub fn flush_if_over(&mut self, now_unix_ms: u64) -> Vec<AuthFailureEvent> {
        let over = |begun: u64| now_unix_ms < begun || now_unix_ms - begun >= self.window_ms;
        if self.begun.is_some_and(over) { self.flush() } else { Vec::new() }
    }

    /// The window's records, whether it is over or not; a new window begins with the next failure.
    pub fn flush(&mut self) -> Vec<AuthFailureEvent> {
        self.begun = None;
        let event = |server, reason: &str, client_prefix, sum: Sum| AuthFailureEvent {
            server,
            reason: reason.to_owned(),
            client_prefix,
            count: sum.count,
            first_unix_ms: sum.first,
            last_unix_ms: sum.last,
        };
        let sums = self.sums.drain().map(|(key, sum)| event(key.server, key.reason, key.prefix, sum));
        let mut events: Vec<_> = sums.collect();
        events.sort_by(|a, b| (&a.server, &a.reason, &a.client_prefix).cmp(&(&b.server, &b.reason, &b.client_prefix)));
        events.extend(self.overflow.take().map(|sum| event(String::new(), "Various", String::new(), sum)));
        events
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
