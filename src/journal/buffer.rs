//! Where producers and the writer meet: one buffer under one short lock, and one batch per sync.
//!
//! Invariant: the lock is held for a copy of the record and never for hashing or I/O, and what the writer takes is taken
//! whole: the records of a batch share one fate. Nobody waits longer than the disk is given: one watcher for all waits
//! ([`Shared::watch`]) tells them, so that a call needs no timer of its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::segment::{Kind, PREFIX, SUFFIX, push_frame};
use super::ticket::{Batch, Ticket};
use super::{JournalConfig, JournalError, SyncPolicy, lock};

/// Room for records that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Half of the buffer: such records can never crowd out those that calls wait for.
    Half,
    /// All of the buffer: for records that follow from one that was waited for.
    Whole,
    /// Always: for the record that takes back one whose fate is open. There is one at most for each record that was
    /// let in, and it is the shorter of the two.
    Owed,
}

/// Sums since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records on disk.
    pub written: u64,
    /// Records that were offered without waiting and had no room, or were lost with their batch.
    pub dropped: u64,
    /// Records that were waited for and refused, lost with their batch, or not on disk in time.
    pub failed: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Their duration, summed, in microseconds.
    pub sync_us: u64,
    /// Segments given up after a failed write or sync.
    pub poisoned: u64,
}

#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_us: AtomicU64,
    pub(super) poisoned: AtomicU64,
}

impl Sums {
    pub(super) fn add(sum: &AtomicU64, by: u64) {
        sum.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Counters {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Counters {
            written: read(&self.written),
            dropped: read(&self.dropped),
            failed: read(&self.failed),
            syncs: read(&self.syncs),
            sync_us: read(&self.sync_us),
            poisoned: read(&self.poisoned),
        }
    }
}

#[derive(Debug, Default)]
struct Buffer {
    frames: Vec<u8>,
    records: usize,
    waiting: usize,
    /// Of the records, those whose callers were told of a stall and wait no more.
    told: usize,
    first_waiter: Option<Instant>,
    first_record: Option<Instant>,
    batch: Arc<Batch>,
    down: Option<JournalError>,
    closing: bool,
    /// What the writer is at; none while it waits for work.
    work: Option<UnderWay>,
    /// That work has lasted longer than the disk is given, and everyone who waited was told.
    stalled: bool,
    /// The writer is no more.
    ended: bool,
    /// How many waited for the batch before; `None`: there was none.
    company: Option<usize>,
}

/// As many wait for one sync where it is worth the whole linger.
const FULL_COMPANY: usize = 5;

#[derive(Debug)]
struct UnderWay {
    since: Instant,
    batch: Arc<Batch>,
    waiting: usize,
}

/// What the writer is asked to do next.
pub(super) enum Work {
    /// Write these.
    Batch(Taken),
    /// Nothing came in until the given instant.
    Tick,
    /// Write these and end.
    Close(Taken),
}

/// Everything that was in the buffer.
pub(super) struct Taken {
    pub(super) frames: Vec<u8>,
    pub(super) records: usize,
    pub(super) waiting: usize,
    /// Of the records, those that were counted as failed while they were still in the buffer.
    told: usize,
    pub(super) batch: Arc<Batch>,
}

impl Drop for Taken {
    /// A writer that ends in a panic must not leave calls waiting for ever.
    fn drop(&mut self) {
        self.batch.complete(Err(JournalError::Closed), || ());
    }
}

/// The meeting place.
#[derive(Debug)]
pub(super) struct Shared {
    buffer: Mutex<Buffer>,
    wake: Condvar,
    /// Told when the disk stalls and when the writer ends.
    turn: Condvar,
    in_flight: AtomicUsize,
    /// Copy of `Buffer::waiting` that a departing call reads without the lock.
    waiting: AtomicUsize,
    pub(super) sums: Sums,
    policy: SyncPolicy,
    patience: Duration,
    buffer_bytes: usize,
    max_record: usize,
}

impl Shared {
    pub(super) fn new(config: &JournalConfig) -> Self {
        Self {
            buffer: Mutex::default(),
            wake: Condvar::new(),
            turn: Condvar::new(),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            sums: Sums::default(),
            policy: config.sync,
            patience: config.patience,
            buffer_bytes: config.buffer_bytes,
            max_record: config.max_record_bytes,
        }
    }

    /// Takes a record that somebody will wait for.
    pub(super) fn append(&self, payload: &[u8]) -> Result<Ticket, JournalError> {
        let mut buffer = lock(&self.buffer);
        let admitted = stalled(&buffer).and_then(|()| self.admit(&buffer, payload, self.buffer_bytes));
        if let Err(error) = admitted {
            drop(buffer);
            Sums::add(&self.sums.failed, 1);
            return Err(error);
        }
        push(&mut buffer, payload);
        buffer.waiting += 1;
        self.waiting.store(buffer.waiting, Ordering::Relaxed);
        let first = buffer.waiting == 1;
        if first {
            buffer.first_waiter = Some(Instant::now());
        }
        let batch = Arc::clone(&buffer.batch);
        let wake = first || self.is_due(buffer.waiting);
        drop(buffer);
        if wake {
            self.wake.notify_one();
        }
        Ok(Ticket::of(batch))
    }

    /// Takes a record that nobody will wait for; `false` if there was no room for it.
    pub(super) fn offer(&self, payload: &[u8], room: Room) -> bool {
        let limit = match room {
            Room::Half => self.buffer_bytes / 2,
            Room::Whole => self.buffer_bytes,
            Room::Owed => usize::MAX,
        };
        let mut buffer = lock(&self.buffer);
        let admitted = self.admit(&buffer, payload, limit).is_ok();
        let mut wake = false;
        if admitted {
            wake = buffer.records == 0;
            push(&mut buffer, payload);
            wake |= buffer.frames.len() > self.buffer_bytes / 8;
        }
        drop(buffer);
        if wake {
            self.wake.notify_one();
        }
        if !admitted {
            Sums::add(&self.sums.dropped, 1);
        }
        admitted
    }

    fn admit(&self, buffer: &Buffer, payload: &[u8], limit: usize) -> Result<(), JournalError> {
        if let Some(error) = &buffer.down {
            return Err(error.clone());
        }
        if buffer.closing {
            return Err(JournalError::Closed);
        }
        if payload.is_empty() || payload.len() > self.max_record {
            return Err(JournalError::TooLarge { bytes: payload.len(), limit: self.max_record });
        }
        if buffer.frames.len() + PREFIX + payload.len() + SUFFIX > limit {
            return Err(JournalError::Busy);
        }
        Ok(())
    }

    fn is_due(&self, waiting: usize) -> bool {
        waiting >= self.policy.at || waiting >= self.in_flight.load(Ordering::Relaxed)
    }

    /// Waits for work, at most until `tick`. `reuse` becomes the next buffer.
    pub(super) fn next(&self, tick: Instant, mut reuse: Vec<u8>) -> Work {
        reuse.clear();
        let mut buffer = lock(&self.buffer);
        buffer.work = None;
        if std::mem::take(&mut buffer.stalled) {
            // Without the lock: a log that nobody reads must hold up no call.
            drop(buffer);
            tracing::info!("the journal's disk answers again");
            buffer = lock(&self.buffer);
        }
        let work = loop {
            let now = Instant::now();
            if buffer.closing {
                break Work::Close(self.take(&mut buffer, reuse));
            }
            let ready_at = self.ready_at(&buffer, now);
            if ready_at.is_some_and(|at| at <= now) {
                break Work::Batch(self.take(&mut buffer, reuse));
            }
            if tick <= now {
                break Work::Tick;
            }
            let until = ready_at.map_or(tick, |at| at.min(tick));
            let wait = until.saturating_duration_since(now).max(Duration::from_micros(1));
            buffer = self.wake.wait_timeout(buffer, wait).unwrap_or_else(PoisonError::into_inner).0;
        };
        let (batch, waiting) = match &work {
            Work::Batch(taken) | Work::Close(taken) => (Arc::clone(&taken.batch), taken.waiting),
            Work::Tick => (Arc::default(), 0),
        };
        buffer.work = Some(UnderWay { since: Instant::now(), batch, waiting });
        work
    }

    /// Looks after the writer until it ends: a disk that does not answer must not hold calls for ever. Those who wait
    /// are refused and nobody may begin to wait until it answers again. Their records stay where they are and may reach
    /// the disk later: whoever was refused says so in a record behind them ([`Room::Owed`]).
    pub(super) fn watch(&self) {
        let mut buffer = lock(&self.buffer);
        while !buffer.ended {
            let late = self.late(&mut buffer);
            if !late.is_empty() {
                drop(buffer);
                self.turn.notify_all();
                self.give_up(&late);
                buffer = lock(&self.buffer);
                continue;
            }
            let look = (self.patience / 8).max(Duration::from_millis(1));
            buffer = self.turn.wait_timeout(buffer, look).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Those whose wait has become too long: what the writer is at, and what waits behind it.
    fn late(&self, buffer: &mut Buffer) -> Vec<(Arc<Batch>, usize)> {
        let Some(work) = buffer.work.as_mut().filter(|work| !buffer.stalled && work.since.elapsed() > self.patience)
        else {
            return Vec::new();
        };
        let written = (Arc::clone(&work.batch), std::mem::take(&mut work.waiting));
        buffer.stalled = true;
        buffer.first_waiter = None;
        self.waiting.store(0, Ordering::Relaxed);
        let behind = std::mem::take(&mut buffer.waiting);
        buffer.told += behind;
        vec![written, (std::mem::take(&mut buffer.batch), behind)]
    }

    /// Tells them, without the lock: what a waker does is the caller's own.
    fn give_up(&self, late: &[(Arc<Batch>, usize)]) {
        let error = JournalError::Stalled { seconds: self.patience.as_secs() };
        for (batch, waiting) in late {
            batch.complete(Err(error.clone()), || Sums::add(&self.sums.failed, count(*waiting)));
        }
        tracing::error!(%error, "calls that must be recorded are refused until it answers");
    }

    /// When what is in the buffer should be written.
    fn ready_at(&self, buffer: &Buffer, now: Instant) -> Option<Instant> {
        if buffer.records == 0 {
            return None;
        }
        if buffer.frames.len() > self.buffer_bytes / 8 || (buffer.waiting > 0 && self.is_due(buffer.waiting)) {
            return Some(now);
        }
        let lingered = buffer.first_waiter.map(|at| at + self.linger(buffer.company));
        let lazy = buffer.first_record.map(|at| at + self.policy.lazy);
        [lingered, lazy].into_iter().flatten().min()
    }

    /// Waiting for others is worth as much of the linger as there were others the last time: a lone call is not held
    /// up for nobody, and where many come, a sync serves more of them the longer it waits.
    fn linger(&self, company: Option<usize>) -> Duration {
        let others = company.map_or(FULL_COMPANY, |company| company.min(FULL_COMPANY)).saturating_sub(1);
        let shares = u32::try_from(FULL_COMPANY - 1).unwrap_or(u32::MAX);
        self.policy.linger / shares * u32::try_from(others).unwrap_or_default()
    }

    fn take(&self, buffer: &mut Buffer, reuse: Vec<u8>) -> Taken {
        self.waiting.store(0, Ordering::Relaxed);
        if buffer.waiting > 0 {
            buffer.company = Some(buffer.waiting);
        }
        buffer.first_waiter = None;
        buffer.first_record = None;
        Taken {
            frames: std::mem::replace(&mut buffer.frames, reuse),
            records: std::mem::take(&mut buffer.records),
            waiting: std::mem::take(&mut buffer.waiting),
            told: std::mem::take(&mut buffer.told),
            batch: std::mem::take(&mut buffer.batch),
        }
    }

    /// Refuses every record from now on, and tells those who came since the writer last took.
    pub(super) fn refuse(&self, error: &JournalError) {
        let mut buffer = lock(&self.buffer);
        buffer.down = Some(error.clone());
        let taken = self.take(&mut buffer, Vec::new());
        drop(buffer);
        self.lose(&taken, error);
    }

    /// Tells everyone in a batch that it is lost, and counts them: each record once, so those who were told before are
    /// left out.
    pub(super) fn lose(&self, taken: &Taken, error: &JournalError) {
        Sums::add(&self.sums.dropped, count(taken.records - taken.waiting - taken.told));
        taken.batch.complete(Err(error.clone()), || Sums::add(&self.sums.failed, count(taken.waiting)));
    }

    /// Accepts records again.
    pub(super) fn accept(&self) {
        lock(&self.buffer).down = None;
    }

    pub(super) fn close(&self) {
        lock(&self.buffer).closing = true;
        self.wake.notify_one();
    }

    /// The writer's last word: refuses everything, and lets go of those who wait for its end.
    pub(super) fn end(&self) {
        self.refuse(&JournalError::Closed);
        lock(&self.buffer).ended = true;
        self.turn.notify_all();
    }

    /// Waits until the writer has ended; `false` if it cannot, because the disk does not answer.
    pub(super) fn wait_for_end(&self) -> bool {
        let waits = |buffer: &mut Buffer| !buffer.ended && !buffer.stalled;
        let waited = self.turn.wait_while(lock(&self.buffer), waits);
        waited.unwrap_or_else(PoisonError::into_inner).ended
    }

    pub(super) fn healthy(&self) -> Result<(), JournalError> {
        let buffer = lock(&self.buffer);
        match &buffer.down {
            Some(error) => Err(error.clone()),
            None if buffer.closing => Err(JournalError::Closed),
            None => stalled(&buffer),
        }
    }

    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { shared: Arc::clone(self) }
    }
}

fn stalled(buffer: &Buffer) -> Result<(), JournalError> {
    match &buffer.work {
        Some(work) if buffer.stalled => Err(JournalError::Stalled { seconds: work.since.elapsed().as_secs() }),
        _ => Ok(()),
    }
}

fn push(buffer: &mut Buffer, payload: &[u8]) {
    if buffer.records == 0 {
        buffer.first_record = Some(Instant::now());
    }
    push_frame(&mut buffer.frames, Kind::Data, payload);
    buffer.records += 1;
}

pub(super) fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

/// Held by a call that may soon append a record, or waits for one: see the module's policy on when to sync. Let go of it
/// when the call will only stream from now on.
#[derive(Debug)]
pub struct InFlight {
    shared: Arc<Shared>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        // A wake-up lost to the race with `append` costs one linger, so the lock is not worth taking.
        if waiting > 0 && waiting >= before.saturating_sub(1) {
            self.shared.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy whose clock never strikes: only counts decide.
    fn shared(at: usize) -> Arc<Shared> {
        let never = Duration::from_secs(3600);
        with(SyncPolicy { at, linger: never, lazy: never })
    }

    fn with(sync: SyncPolicy) -> Arc<Shared> {
        Arc::new(Shared::new(&JournalConfig { sync, ..JournalConfig::new("", "") }))
    }

    fn taken(shared: &Shared) -> Option<(usize, usize)> {
        match shared.next(Instant::now(), Vec::new()) {
            Work::Batch(taken) | Work::Close(taken) => Some((taken.records, taken.waiting)),
            Work::Tick => None,
        }
    }

    #[test]
    fn it_is_time_when_every_call_under_way_waits() {
        let shared = shared(32);
        let _waits = [shared.enter(), shared.enter()];
        let leaves = shared.enter();
        let _tickets = [shared.append(b"a").unwrap(), shared.append(b"b").unwrap()];
        assert_eq!(taken(&shared), None, "the third call may append soon");
        drop(leaves);
        assert_eq!(taken(&shared), Some((2, 2)));
        let _ticket = shared.append(b"c").unwrap();
        assert_eq!(taken(&shared), None);
    }

    #[test]
    fn it_is_time_when_enough_wait() {
        let shared = shared(3);
        let _others: Vec<_> = (0..100).map(|_| shared.enter()).collect();
        assert!(shared.offer(b"rides", Room::Half));
        let _tickets = [shared.append(b"a").unwrap(), shared.append(b"b").unwrap()];
        assert_eq!(taken(&shared), None);
        let _third = shared.append(b"c").unwrap();
        assert_eq!(taken(&shared), Some((4, 3)), "what nobody waits for rides along");
    }

    #[test]
    fn it_is_time_after_the_linger_and_without_guards_at_once() {
        let shared = with(SyncPolicy { linger: Duration::ZERO, ..SyncPolicy::default() });
        let _others = [shared.enter(), shared.enter()];
        let _ticket = shared.append(b"a").unwrap();
        assert_eq!(taken(&shared), Some((1, 1)));
        let shared = self::shared(32);
        let _ticket = shared.append(b"a").unwrap();
        assert_eq!(taken(&shared), Some((1, 1)));
    }

    #[test]
    fn who_was_alone_is_not_held_up_and_company_is_waited_for() {
        let shared = shared(32);
        let alone = shared.enter();
        let _first = shared.append(b"a").unwrap();
        assert_eq!(taken(&shared), Some((1, 1)));
        // Others are under way, at their upstreams for long perhaps.
        let _others: Vec<_> = (0..9).map(|_| shared.enter()).collect();
        let _second = shared.append(b"b").unwrap();
        assert_eq!(taken(&shared), Some((1, 1)), "the last one was alone");
        drop(alone);
        let _many: Vec<_> = (0..9).map(|_| shared.append(b"c").unwrap()).collect();
        assert_eq!(taken(&shared), Some((9, 9)), "all under way wait");
        let _more: Vec<_> = (0..8).map(|_| shared.append(b"d").unwrap()).collect();
        assert_eq!(taken(&shared), None, "the ninth may come");
        assert_eq!(shared.linger(None), shared.policy.linger, "nobody knows yet");
    }

    #[test]
    fn a_writer_that_ends_leaves_nobody_waiting() {
        let shared = shared(1);
        let ticket = shared.append(b"a").unwrap();
        drop(shared.next(Instant::now(), Vec::new()));
        assert!(matches!(ticket.wait(), Err(JournalError::Closed)));
    }
}
