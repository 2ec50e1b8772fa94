//! What is to be looked at: each thing once, when it is due.
//!
//! Invariant: one thing is looked at by one worker at a time, however often it is asked for meanwhile; what was asked for
//! meanwhile is looked at again; what fails is tried again ever more rarely, but for ever; and what somebody changed waits
//! for nothing but changes, however much there is to say of the rest of the fleet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::Key;
use crate::generated::Kind;

/// The wait after a first failure, and the longest one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An object that people write.
    Source(Key),
    /// A generated object whose source, by its UID, is gone.
    Stray(Kind, String),
    /// A client that is registered at an authorization server.
    Registered(Key),
    /// Registrations whose owner, by its UID, is gone.
    Unowned(String),
    /// Policies of a namespace that may come to something else by what changed around them.
    Near(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Source(key) => key.fmt(f),
            Subject::Stray(kind, uid) => write!(f, "generated object {}", kind.object_name(uid)),
            Subject::Registered(key) => write!(f, "registration of {key}"),
            Subject::Unowned(uid) => write!(f, "registrations of {uid}"),
            Subject::Near(namespace) => write!(f, "policies of {namespace}"),
        }
    }
}

/// How much of it is to be looked at; what is deeper comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// What proxies make of it: nothing is resolved again.
    Status,
    /// All of it, though nobody is known to have changed anything: time has passed, or another leads.
    Sweep,
    /// All of it, since something changed: a revocation may be in it.
    Whole,
}

/// How looking at something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Until something changes.
    Settled,
    /// It is looked at again after this time, whatever happens.
    Again(Duration),
    /// It is tried again.
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Duration,
    depth: Depth,
    place: Place,
}

/// Where it waits.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among what is not due yet, by the time and in the order of asking.
    Later(Duration, u64),
    /// Among what is due, the deepest first and in the order of asking.
    Ready(Reverse<Depth>, u64),
}

/// The queue as plain data: the time is given, as what has passed since some fixed moment.
#[derive(Debug, Default)]
pub struct Agenda {
    waiting: HashMap<Subject, Waiting>,
    later: BTreeMap<(Duration, u64), Subject>,
    ready: BTreeMap<(Reverse<Depth>, u64), Subject>,
    running: HashMap<Subject, Depth>,
    failures: HashMap<Subject, u32>,
    places: u64,
}

impl Agenda {
    /// Asks for a look at `subject` once `due` has come; an earlier time and a greater depth win.
    pub fn add(&mut self, subject: Subject, depth: Depth, due: Duration) {
        let (mut depth, mut due) = (depth, due);
        if let Some(waiting) = self.waiting.get(&subject) {
            if waiting.due <= due && waiting.depth >= depth {
                return;
            }
            (depth, due) = (depth.max(waiting.depth), due.min(waiting.due));
            match waiting.place {
                Place::Later(at, number) => drop(self.later.remove(&(at, number))),
                Place::Ready(depth, number) => drop(self.ready.remove(&(depth, number))),
            }
        }
        let number = self.next_number();
        self.later.insert((due, number), subject.clone());
        self.waiting.insert(subject, Waiting { due, depth, place: Place::Later(due, number) });
    }

    /// The next thing that is due and that nobody looks at.
    ///
    /// # Errors
    /// If there is none: how long until one is due, as far as known.
    pub fn take(&mut self, now: Duration) -> Result<(Subject, Depth), Option<Duration>> {
        self.make_ready(now);
        // What is being looked at is passed over; there is no more of it than workers.
        let free = self.ready.iter().find(|(_, subject)| !self.running.contains_key(*subject));
        let Some((at, subject)) = free.map(|(at, subject)| (*at, subject.clone())) else {
            return Err(self.later.first_key_value().map(|((due, _), _)| due.saturating_sub(now)));
        };
        self.ready.remove(&at);
        self.waiting.remove(&subject);
        let (Reverse(depth), _) = at;
        self.running.insert(subject.clone(), depth);
        Ok((subject, depth))
    }

    /// Moves what is due by now to where it is taken from.
    fn make_ready(&mut self, now: Duration) {
        while let Some(first) = self.later.first_entry() {
            if first.key().0 > now {
                return;
            }
            let ((_, number), subject) = first.remove_entry();
            if let Some(waiting) = self.waiting.get_mut(&subject) {
                let at = (Reverse(waiting.depth), number);
                waiting.place = Place::Ready(at.0, number);
                self.ready.insert(at, subject);
            }
        }
    }

    fn next_number(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// Says how a look ended. `jitter` is in 0..=1.
    pub fn done(&mut self, subject: Subject, outcome: Outcome, now: Duration, jitter: f64) {
        let depth = self.running.remove(&subject).unwrap_or(Depth::Whole);
        if outcome != Outcome::Failed {
            self.failures.remove(&subject);
        }
        match outcome {
            Outcome::Settled => {}
            // Those that were looked at together come back one after the other.
            Outcome::Again(after) => self.add(subject, Depth::Sweep, now + after.mul_f64(0.9 + 0.2 * jitter)),
            Outcome::Failed => {
                let failures = self.failures.entry(subject.clone()).or_default();
                *failures += 1;
                let wait = FIRST_WAIT.saturating_mul(1 << (*failures - 1).min(20)).min(LONGEST_WAIT);
                // All of it; and what was changed is no less urgent for that.
                self.add(subject, depth.max(Depth::Sweep), now + wait.mul_f64(0.5 + 0.5 * jitter));
            }
        }
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// An [`Agenda`] that workers share.
#[derive(Debug)]
pub struct Queue {
    agenda: Mutex<Agenda>,
    wake: Notify,
    start: Instant,
}

impl Default for Queue {
    fn default() -> Self {
        Self { agenda: Mutex::default(), wake: Notify::new(), start: Instant::now() }
    }
}

impl Queue {
    /// Asks for a look now.
    pub fn add(&self, subject: Subject, depth: Depth) {
        let now = self.start.elapsed();
        self.agenda().add(subject, depth, now);
        self.wake.notify_one();
    }

    /// Waits for the next thing to look at. Whoever takes it says [`Queue::done`] of it.
    pub async fn next(&self) -> (Subject, Depth) {
        loop {
            let taken = self.agenda().take(self.start.elapsed());
            let wait = match taken {
                Ok(taken) => {
                    // One waker may have stood for several things: the next worker looks for itself.
                    self.wake.notify_one();
                    return taken;
                }
                Err(wait) => wait,
            };
            match wait {
                Some(wait) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Says how a look ended.
    pub fn done(&self, subject: Subject, outcome: Outcome) {
        let now = self.start.elapsed();
        self.agenda().done(subject, outcome, now, jitter());
        self.wake.notify_one();
    }

    /// How many things wait.
    pub fn depth(&self) -> usize {
        self.agenda().len()
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uniform in 0..=1.
pub fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and nothing else is wrong.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.0;
    }
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(name: &str) -> Subject {
        Subject::Stray(Kind::Server, name.to_owned())
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_thing_is_looked_at_once_at_a_time_and_again_if_asked_for_meanwhile() {
        let mut agenda = Agenda::default();
        agenda.add(thing("a"), Depth::Status, seconds(0));
        agenda.add(thing("a"), Depth::Whole, seconds(0));
        agenda.add(thing("b"), Depth::Status, seconds(0));
        assert_eq!(agenda.len(), 2);
        assert_eq!(agenda.take(seconds(0)), Ok((thing("a"), Depth::Whole)));
        agenda.add(thing("a"), Depth::Status, seconds(1));
        assert_eq!(agenda.take(seconds(1)), Ok((thing("b"), Depth::Status)));
        assert_eq!(agenda.take(seconds(1)), Err(None), "a is being looked at");
        agenda.done(thing("a"), Outcome::Settled, seconds(1), 0.0);
        assert_eq!(agenda.take(seconds(1)), Ok((thing("a"), Depth::Status)));
    }

    #[test]
    fn an_earlier_time_wins_and_what_is_due_first_comes_first() {
        let mut agenda = Agenda::default();
        agenda.add(thing("late"), Depth::Whole, seconds(60));
        agenda.add(thing("soon"), Depth::Whole, seconds(5));
        assert_eq!(agenda.take(seconds(0)), Err(Some(seconds(5))));
        agenda.add(thing("late"), Depth::Status, seconds(1));
        agenda.add(thing("soon"), Depth::Status, seconds(30));
        assert_eq!(agenda.take(seconds(1)), Ok((thing("late"), Depth::Whole)));
        assert_eq!(agenda.take(seconds(1)), Err(Some(seconds(4))));
        assert!(agenda.later.len() + agenda.ready.len() == agenda.waiting.len() && !agenda.is_empty());
    }

    #[test]
    fn what_was_changed_waits_behind_no_status_and_no_sweep() {
        let mut agenda = Agenda::default();
        for number in 0..10_000 {
            agenda.add(
                thing(&number.to_string()),
                if number % 2 == 0 { Depth::Status } else { Depth::Sweep },
                seconds(0),
            );
        }
        assert_eq!(agenda.take(seconds(0)), Ok((thing("1"), Depth::Sweep)));
        agenda.add(thing("deny"), Depth::Whole, seconds(1));
        // One that only its status was asked of.
        agenda.add(thing("5000"), Depth::Whole, seconds(1));
        assert_eq!(agenda.take(seconds(1)), Ok((thing("deny"), Depth::Whole)));
        assert_eq!(agenda.take(seconds(1)), Ok((thing("5000"), Depth::Whole)));
        agenda.done(thing("deny"), Outcome::Failed, seconds(1), 0.0);
        assert_eq!(agenda.take(seconds(2)), Ok((thing("deny"), Depth::Whole)), "a failure makes it no less urgent");
        assert_eq!(agenda.take(seconds(2)), Ok((thing("3"), Depth::Sweep)));
        assert_eq!((agenda.len(), agenda.waiting.len()), (agenda.ready.len(), 9_997));
    }

    #[test]
    fn failures_are_tried_ever_more_rarely_and_success_forgets_them() {
        let mut agenda = Agenda::default();
        let mut now = seconds(0);
        let mut waits = Vec::new();
        agenda.add(thing("a"), Depth::Status, now);
        for _ in 0..15 {
            agenda.take(now).unwrap();
            agenda.done(thing("a"), Outcome::Failed, now, 1.0);
            let wait = agenda.take(now).unwrap_err().unwrap();
            waits.push(wait);
            now += wait;
        }
        assert_eq!(waits[0], FIRST_WAIT);
        assert!(waits.is_sorted() && waits[1] == 2 * waits[0], "{waits:?}");
        assert_eq!(waits.last(), Some(&LONGEST_WAIT));
        assert_eq!(agenda.take(now), Ok((thing("a"), Depth::Sweep)), "all of it is tried again");
        agenda.done(thing("a"), Outcome::Again(seconds(60)), now, 0.5);
        assert_eq!(agenda.take(now), Err(Some(seconds(60))));
        assert!(agenda.failures.is_empty());
    }

    #[tokio::test]
    async fn workers_are_woken_for_everything_that_was_added() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let (subject, _) = queue.next().await;
                    queue.done(subject.clone(), Outcome::Settled);
                    subject
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c"] {
            queue.add(thing(name), Depth::Whole);
        }
        let mut seen = Vec::new();
        for worker in workers {
            seen.push(worker.await.unwrap());
        }
        seen.sort();
        assert_eq!(seen, ["a", "b", "c"].map(thing));
    }
}
