//! Who writes, among several controllers: pure decisions about a Lease that all of them see.
//!
//! Invariant: two candidates never both take themselves for the leader. A lease is taken only once it has not changed
//! for its whole duration by the taker's own monotonic clock (as client-go does: clocks of machines may differ), and only
//! by a write that names the version which was seen, so of two takers one fails. The leader stops writing when a
//! shorter time has passed since it *sent* its last successful renewal.

use std::time::Duration;

/// The times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease holds after it was last renewed.
    pub duration: Duration,
    /// How often its holder renews it.
    pub renew: Duration,
    /// How long after its last renewal the holder still writes: shorter than `duration` by what a write may take.
    pub deadline: Duration,
    /// How often others look.
    pub poll: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(3),
            deadline: Duration::from_secs(10),
            poll: Duration::from_secs(2),
        }
    }
}

/// A lease as one candidate has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; `None`: it was given back.
    pub holder: Option<String>,
    /// The version that a write must name.
    pub version: String,
    /// How long it holds, as its holder says.
    pub duration: Duration,
    /// When this candidate first saw this version, by its own monotonic clock.
    pub since: Duration,
}

impl Seen {
    /// What is seen now, given what was seen before: the time counts from the first sight of a version.
    #[must_use]
    pub fn after(self, earlier: Option<&Seen>) -> Seen {
        match earlier {
            Some(earlier) if earlier.version == self.version => Seen { since: earlier.since, ..self },
            _ => self,
        }
    }
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes itself into the lease, which is nobody's.
    Acquire,
    /// Writes its own lease anew.
    Renew,
    /// Looks again after this time.
    Wait(Duration),
}

/// What `me` does at `now`, having seen this of the lease (`None`: there is none).
pub fn decide(seen: Option<&Seen>, me: &str, terms: &Terms, now: Duration) -> Step {
    let Some(seen) = seen else { return Step::Acquire };
    let Some(holder) = &seen.holder else { return Step::Acquire };
    let age = now.saturating_sub(seen.since);
    if holder == me {
        return if age >= terms.renew { Step::Renew } else { Step::Wait(terms.renew - age) };
    }
    // A holder that claims less than everyone's duration is not believed: its own deadline may be later.
    let holds = seen.duration.max(terms.duration);
    if age >= holds { Step::Acquire } else { Step::Wait((holds - age).min(terms.poll)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn seen(holder: Option<&str>, since: u64) -> Seen {
        Seen { holder: holder.map(str::to_owned), version: "1".into(), duration: seconds(15), since: seconds(since) }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_has_not_changed_for_its_time() {
        let terms = Terms::default();
        let step = |seen: Option<Seen>, now| decide(seen.as_ref(), "me", &terms, seconds(now));
        assert_eq!(step(None, 0), Step::Acquire);
        assert_eq!(step(Some(seen(None, 0)), 0), Step::Acquire);
        assert_eq!(step(Some(seen(Some("other"), 10)), 10), Step::Wait(seconds(2)));
        assert_eq!(step(Some(seen(Some("other"), 10)), 24), Step::Wait(seconds(1)));
        assert_eq!(step(Some(seen(Some("other"), 10)), 25), Step::Acquire);
        assert_eq!(step(Some(seen(Some("me"), 10)), 12), Step::Wait(seconds(1)));
        assert_eq!(step(Some(seen(Some("me"), 10)), 13), Step::Renew);
        let brief = Seen { duration: seconds(1), ..seen(Some("other"), 10) };
        assert_eq!(step(Some(brief), 12), Step::Wait(seconds(2)));
        let long = Seen { duration: seconds(60), ..seen(Some("other"), 10) };
        assert_eq!(step(Some(long), 60), Step::Wait(seconds(2)));
    }

    #[test]
    fn the_time_counts_from_the_first_sight_of_a_version() {
        let first = seen(Some("other"), 3);
        assert_eq!(seen(Some("other"), 9).after(Some(&first)).since, seconds(3));
        let newer = Seen { version: "2".into(), ..seen(Some("other"), 9) };
        assert_eq!(newer.after(Some(&first)).since, seconds(9));
    }

    /// The lease at the API server.
    #[derive(Clone, Default)]
    struct Server {
        version: u64,
        holder: Option<usize>,
    }

    /// One candidate: what it last saw, until when it writes, and a write that is under way.
    #[derive(Clone, Default)]
    struct Candidate {
        seen: Option<Seen>,
        writes_until: Duration,
        under_way: Option<(u64, Duration)>,
    }

    /// Writes arrive late, answers are lost, clocks start at different times, and candidates fall silent.
    fn run(script: Vec<(usize, u8, u16)>) -> (usize, usize) {
        let terms = Terms::default();
        let offsets = [seconds(0), seconds(1000), seconds(77)];
        let mut server = Server::default();
        let mut candidates: [Candidate; 3] = Default::default();
        let (mut now, mut led, mut most) = (Duration::ZERO, 0, 0);
        for (who, what, millis) in script {
            now += Duration::from_millis(u64::from(millis));
            let clock = now + offsets[who];
            let me = who.to_string();
            let candidate = &mut candidates[who];
            match what {
                // It looks, and perhaps sends a write.
                0..=4 if candidate.under_way.is_none() => {
                    let found = (server.version > 0).then(|| Seen {
                        holder: server.holder.map(|holder| holder.to_string()),
                        version: server.version.to_string(),
                        duration: terms.duration,
                        since: clock,
                    });
                    candidate.seen = found.map(|found| found.after(candidate.seen.as_ref()));
                    if !matches!(decide(candidate.seen.as_ref(), &me, &terms, clock), Step::Wait(_)) {
                        candidate.under_way = Some((server.version, now));
                    }
                }
                // Its write arrives; the answer may be lost.
                5..=8 => {
                    if let Some((version, sent)) = candidate.under_way.take()
                        && version == server.version
                    {
                        server = Server { version: version + 1, holder: Some(who) };
                        if what != 8 {
                            candidate.writes_until = sent + terms.deadline;
                            led += 1;
                        }
                    }
                }
                _ => {}
            }
            most = most.max(candidates.iter().filter(|candidate| now < candidate.writes_until).count());
        }
        (led, most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn there_are_never_two_writers(script in prop::collection::vec((0..3usize, 0..10u8, 0..6000u16), 1..400)) {
            let (_, most) = run(script);
            prop_assert!(most <= 1, "{most} writers at once");
        }
    }

    #[test]
    fn the_model_does_elect_and_hand_over() {
        let looks_and_writes = |who| [(who, 0, 1000), (who, 5, 10)];
        let mut script = Vec::new();
        script.extend((0..5).flat_map(|_| looks_and_writes(0)));
        // The first one dies; the second one looks on until the lease has run out.
        script.extend((0..40).flat_map(|_| looks_and_writes(1)));
        let (led, most) = run(script);
        assert!(led > 3 && most == 1, "{led} {most}");
    }
}
