//! What is to be looked at: each thing once, when it is due.
//!
//! Invariant: one thing is looked at by one worker at a time, however often it is asked for meanwhile; what was asked for
//! meanwhile is looked at again; what fails is tried again ever more rarely, but for ever; and what somebody changed waits
//! for nothing but changes, however much there is to say of the rest of the fleet. Where a namespace has a share, it has no more
//! workers than that, however many of its things hang.

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

impl Subject {
    /// Whose it is, if it is somebody's.
    fn namespace(&self) -> Option<&str> {
        match self {
            Subject::Source(key) | Subject::Registered(key) => Some(&key.namespace),
            Subject::Near(namespace) => Some(namespace),
            Subject::Stray(..) | Subject::Unowned(_) => None,
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
    /// Among what is due, in the same order, until its namespace has less under way.
    Held(Reverse<Depth>, u64),
}

/// What is due, the deepest first and in the order of asking.
type Due = BTreeMap<(Reverse<Depth>, u64), Subject>;

/// The queue as plain data: the time is given, as what has passed since some fixed moment.
#[derive(Debug, Default)]
pub struct Agenda {
    waiting: HashMap<Subject, Waiting>,
    later: BTreeMap<(Duration, u64), Subject>,
    ready: Due,
    running: HashMap<Subject, Depth>,
    failures: HashMap<Subject, u32>,
    places: u64,
    /// How many things of one namespace may be looked at at once; `None`: any number.
    share: Option<usize>,
    /// How many are, where a namespace has a share.
    busy: HashMap<String, usize>,
    held: HashMap<String, Due>,
}

impl Agenda {
    /// One in which at most `share` things of a namespace are looked at at once.
    pub fn shared(share: usize) -> Self {
        Self { share: Some(share), ..Self::default() }
    }

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
                Place::Held(depth, number) => {
                    let held = subject.namespace().and_then(|namespace| self.held.get_mut(namespace));
                    held.map(|held| held.remove(&(depth, number)));
                }
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
        loop {
            // What is being looked at is passed over; there is no more of it than workers.
            let free = self.ready.iter().find(|(_, subject)| !self.running.contains_key(*subject));
            let Some((at, subject)) = free.map(|(at, subject)| (*at, subject.clone())) else {
                return Err(self.later.first_key_value().map(|((due, _), _)| due.saturating_sub(now)));
            };
            self.ready.remove(&at);
            if self.is_full(&subject) {
                self.hold(at, subject);
                continue;
            }
            self.waiting.remove(&subject);
            let (Reverse(depth), _) = at;
            if let Some(namespace) = self.shared_by(&subject) {
                *self.busy.entry(namespace.to_owned()).or_default() += 1;
            }
            self.running.insert(subject.clone(), depth);
            return Ok((subject, depth));
        }
    }

    /// The namespace whose share it takes, if it takes one.
    fn shared_by<'s>(&self, subject: &'s Subject) -> Option<&'s str> {
        subject.namespace().filter(|_| self.share.is_some())
    }

    fn is_full(&self, subject: &Subject) -> bool {
        let busy = subject.namespace().and_then(|namespace| self.busy.get(namespace));
        self.share.zip(busy).is_some_and(|(share, busy)| *busy >= share)
    }

    /// Puts aside what is due, until less of its namespace is under way: whoever looks for work does not pass over it each time.
    fn hold(&mut self, at: (Reverse<Depth>, u64), subject: Subject) {
        let Some(namespace) = subject.namespace().map(str::to_owned) else { return };
        if let Some(waiting) = self.waiting.get_mut(&subject) {
            waiting.place = Place::Held(at.0, at.1);
            self.held.entry(namespace).or_default().insert(at, subject);
        }
    }

    /// One thing of this namespace is not looked at any more: another one may be.
    fn release(&mut self, namespace: &str) {
        if let Some(busy) = self.busy.get_mut(namespace) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(namespace);
            }
        }
        let Some(held) = self.held.get_mut(namespace) else { return };
        let first = held.pop_first();
        if held.is_empty() {
            self.held.remove(namespace);
        }
        let Some((at, subject)) = first else { return };
        if let Some(waiting) = self.waiting.get_mut(&subject) {
            waiting.place = Place::Ready(at.0, at.1);
            self.ready.insert(at, subject);
        }
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
        let running = self.running.remove(&subject);
        if running.is_some()
            && let Some(namespace) = self.shared_by(&subject)
        {
            self.release(namespace);
        }
        let depth = running.unwrap_or(Depth::Whole);
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
    /// One of which each namespace has at most `share` workers at once.
    pub fn shared(share: usize) -> Self {
        Self { agenda: Mutex::new(Agenda::shared(share)), ..Self::default() }
    }

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
    fn a_namespace_has_no_more_than_its_share_and_nothing_of_it_is_forgotten() {
        let of = |namespace: &str, name: &str| {
            let key = Key { kind: crate::api::Kind::McpServer, namespace: namespace.to_owned(), name: name.to_owned() };
            Subject::Source(key)
        };
        let mut agenda = Agenda::shared(2);
        let names: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        names.iter().for_each(|name| agenda.add(of("a", name), Depth::Sweep, seconds(0)));
        agenda.add(of("b", "other"), Depth::Sweep, seconds(0));
        agenda.add(thing("of nobody"), Depth::Sweep, seconds(0));
        let take = |agenda: &mut Agenda| agenda.take(seconds(1)).map(|(subject, _)| subject);
        assert_eq!(take(&mut agenda), Ok(of("a", "00")));
        assert_eq!(take(&mut agenda), Ok(of("a", "01")));
        assert_eq!(take(&mut agenda), Ok(of("b", "other")), "whatever of a hangs");
        assert_eq!(take(&mut agenda), Ok(thing("of nobody")));
        assert_eq!((take(&mut agenda), agenda.len()), (Err(None), 48));
        agenda.done(of("b", "other"), Outcome::Settled, seconds(1), 0.0);
        agenda.done(thing("of nobody"), Outcome::Settled, seconds(1), 0.0);
        assert_eq!(take(&mut agenda), Err(None), "what others leave is not for a");
        // What was asked for again while it is looked at takes no place of those that wait.
        agenda.add(of("a", "00"), Depth::Sweep, seconds(1));
        // A change comes before the others of its namespace all the same.
        agenda.add(of("a", "30"), Depth::Whole, seconds(1));
        let mut seen = Vec::new();
        let mut running = vec![of("a", "00"), of("a", "01")];
        while let Some(done) = running.pop() {
            agenda.done(done.clone(), Outcome::Settled, seconds(1), 0.0);
            seen.push(done);
            while let Ok(next) = take(&mut agenda) {
                running.push(next);
            }
            assert!(running.len() == 2 || agenda.len() <= 1, "{} beside {running:?}", agenda.len());
        }
        assert_eq!(seen[1], of("a", "30"));
        let all: std::collections::HashSet<_> = seen.iter().cloned().collect();
        assert_eq!((seen.len(), all.len()), (51, 50), "00 twice");
        assert!(agenda.held.is_empty() && agenda.busy.is_empty() && agenda.ready.is_empty());
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
