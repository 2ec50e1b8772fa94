//! The handle that the proxy records through: renders into a buffer of the thread, and hands the bytes to the journal.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::event::{
    AuditId, AuthFailureEvent, CompletionEvent, ConfigChangeEvent, DecisionEvent, Delivery, Outcome, RefusalEvent,
    Verdict,
};
use super::record::{Context, SHUTDOWN, STARTUP};
use super::redact::DigestKey;
use super::ship::stdout::Lane;
use super::unfinished;
use crate::journal::{
    Checkpoint, Clock, InFlight, Journal, JournalConfig, JournalError, ReadError, Recovery, Room, Ticket,
};

/// Where and how records are kept. Administrators only.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// The journal.
    pub journal: JournalConfig,
    /// The key of all digests, made with mode 0600 if it does not exist.
    pub digest_key_file: PathBuf,
    /// OpenTelemetry resource attributes for every record, such as `k8s.pod.uid`.
    pub resource: Vec<(String, String)>,
    /// Copy every record to standard output, holding at most so many bytes for a slow reader.
    pub stdout_bytes: Option<usize>,
}

impl AuditConfig {
    /// The defaults: everything below `state_dir`, nothing on standard output.
    pub fn in_state_dir(state_dir: &Path) -> Self {
        Self {
            journal: JournalConfig::new(state_dir.join("journal"), state_dir.join("journal.key")),
            digest_key_file: state_dir.join("audit-digest.key"),
            resource: Vec::new(),
            stdout_bytes: None,
        }
    }
}

/// Why something could not be recorded. A call that waited for it must be refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The journal refused or lost it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What earlier runs left cannot be read.
    #[error("the audit journal could not be read: {0}")]
    Unreadable(Arc<ReadError>),
    /// The digest key cannot be used.
    #[error("the audit digest key {path} cannot be used: {detail}")]
    DigestKey {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Standard output cannot be served.
    #[error("no thread for the copy of records on standard output: {0}")]
    Stdout(String),
}

impl AuditError {
    /// Stable CamelCase reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Journal(error) => error.reason(),
            Self::Unreadable(error) => error.reason(),
            Self::DigestKey { .. } => "AuditDigestKey",
            Self::Stdout(_) => "AuditStdout",
        }
    }
}

/// The promise of one decision's record.
///
/// A call that was to go on and is not made after all, because its record was not kept in time or because its caller
/// went away before, gets that said in a completion: on disk or not, its decision never stands alone.
#[derive(Debug)]
#[must_use = "a durable decision is durable only when its receipt says so"]
pub struct Receipt {
    id: AuditId,
    promise: Promise,
    /// Who takes the decision back unless the call is made.
    owed: Option<Recorder>,
}

#[derive(Debug)]
enum Promise {
    /// `BestEffort`: nothing to wait for.
    Kept,
    Waiting(Ticket),
    Broken(JournalError),
}

impl Receipt {
    /// The id that the completion carries.
    pub fn id(&self) -> AuditId {
        self.id
    }

    /// Answers when the record is on disk (at once for `BestEffort`), or why it will not be, or not in time: then the
    /// call must be refused. Cancel-safe: dropping it stops the wait and not the record.
    pub async fn durable(mut self) -> Result<(), AuditError> {
        let kept = match &mut self.promise {
            Promise::Kept => Ok(()),
            Promise::Waiting(ticket) => ticket.await,
            Promise::Broken(error) => Err(error.clone()),
        };
        let owed = self.owed.take();
        if let (Err(error), Some(recorder)) = (&kept, owed) {
            recorder.take_back(self.id, error.reason(), error.is_open());
        }
        Ok(kept?)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(recorder) = self.owed.take() {
            recorder.take_back(self.id, "CallerGone", matches!(self.promise, Promise::Waiting(_)));
        }
    }
}

/// Sums since start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records on disk.
    pub written: u64,
    /// Records that nobody waited for and that had no room, or were lost with their batch.
    pub dropped: u64,
    /// Records that were waited for and refused, or lost with their batch.
    pub failed: u64,
    /// Completions among `dropped`: calls that took effect and whose end is not recorded.
    pub completions_dropped: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Their duration, summed, in microseconds.
    pub sync_us: u64,
    /// Journal segments given up after a failed write or sync.
    pub poisoned: u64,
    /// Lines that standard output did not take.
    pub stdout_dropped: u64,
}

/// The handle that every call records through: cheap to clone, never blocks.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    context: Context,
    clock: Arc<dyn Clock>,
    ids: Ids,
    stdout: Option<Lane>,
    epoch: u64,
    completions_dropped: AtomicU64,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Renders into the thread's buffer. While a thread ends, its buffer may be gone already: then into one of its own.
fn rendered<T>(render: impl FnOnce(&mut Vec<u8>), keep: impl FnOnce(&[u8]) -> T) -> T {
    let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
    buffer.clear();
    render(&mut buffer);
    let kept = keep(&buffer);
    // The same: nothing is lost but the allocation.
    drop(BUFFER.try_with(|home| home.replace(buffer)));
    kept
}

impl Recorder {
    /// Opens the journal for writing. Blocks; call it before serving, then [`Recorder::start`].
    pub fn open(config: AuditConfig, clock: Arc<dyn Clock>) -> Result<(Self, Recovery), AuditError> {
        let (journal, recovery) = Journal::open(config.journal.clone(), Arc::clone(&clock))?;
        Ok((Self::over(journal, &recovery, config, clock)?, recovery))
    }

    /// Records into a journal that is open.
    pub(super) fn over(
        journal: Journal,
        recovery: &Recovery,
        config: AuditConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let path = config.digest_key_file;
        let key = DigestKey::load_or_create(&path)
            .map_err(|error| AuditError::DigestKey { path, detail: error.to_string() })?;
        let stdout = config.stdout_bytes.map(Lane::stdout).transpose();
        let inner = Inner {
            context: Context::new(key, &recovery.instance, &config.resource),
            ids: Ids::new(uuid::Uuid::new_v7(uuid::Timestamp::now(uuid::NoContext)).as_u128()),
            stdout: stdout.map_err(|error| AuditError::Stdout(error.to_string()))?,
            epoch: recovery.epoch,
            completions_dropped: AtomicU64::new(0),
            journal,
            clock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Gives every call that an earlier run left open its completion with outcome `unknown`, then records the start.
    /// Answers how many there were. Reads the journal back to the last start, so it blocks.
    pub fn start(&self, recovery: &Recovery) -> Result<u64, AuditError> {
        let inner = &*self.inner;
        let open = unfinished::before(inner.journal.dir(), inner.epoch);
        let open = open.map_err(|error| AuditError::Unreadable(Arc::new(error)))?;
        let count = open.len() as u64;
        // A batch at a time: they share its sync, and fit into the buffer.
        for ids in open.chunks(1000) {
            let kept = ids
                .iter()
                .map(|id| self.keep(|out, now| inner.context.ended(out, *id, now, Outcome::Unknown, "ProxyEnded")));
            let tickets: Vec<_> = kept.collect::<Result<_, _>>()?;
            tickets.into_iter().try_for_each(Ticket::wait)?;
        }
        let facts = [
            ("portcullis.epoch", inner.epoch),
            ("portcullis.unfinished", count),
            ("portcullis.journal.torn_bytes", recovery.torn_bytes),
            ("portcullis.journal.lost_through", recovery.lost_through.unwrap_or(0)),
            ("portcullis.journal.damaged_segments", recovery.damaged_segments.len() as u64),
        ];
        self.keep(|out, now| inner.context.lifecycle(out, STARTUP, now, &facts))?.wait()?;
        Ok(count)
    }

    fn keep(&self, render: impl FnOnce(&mut Vec<u8>, u64)) -> Result<Ticket, JournalError> {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        rendered(
            |out| render(out, now),
            |record| {
                inner.copy(record);
                inner.journal.append(record)
            },
        )
    }

    /// A call is under way: hold the guard from the request's arrival until its answer begins to stream. The journal
    /// syncs at once when every call under way waits for it.
    pub fn in_flight(&self) -> InFlight {
        self.inner.journal.in_flight()
    }

    /// Records a decision. Never blocks; await [`Receipt::durable`] before forwarding. A denial needs no completion.
    pub fn decision(&self, delivery: Delivery, event: &DecisionEvent<'_>) -> Receipt {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        let id = inner.ids.next(now);
        let render = |out: &mut Vec<u8>| inner.context.decision(out, id, now, event);
        let promise = rendered(render, |record| {
            inner.copy(record);
            match delivery {
                Delivery::Durable => inner.journal.append(record).map_or_else(Promise::Broken, Promise::Waiting),
                Delivery::BestEffort => {
                    // What is dropped is counted there.
                    inner.journal.offer(record, Room::Half);
                    Promise::Kept
                }
            }
        });
        let waits = delivery == Delivery::Durable && event.verdict == Some(Verdict::Allow);
        Receipt { id, promise, owed: waits.then(|| self.clone()) }
    }

    /// Says that a call was not made whose decision let it go on. In the journal only if that decision may be there.
    fn take_back(&self, id: AuditId, reason: &'static str, journal: bool) {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        let render = |out: &mut Vec<u8>| inner.context.ended(out, id, now, Outcome::Denied, reason);
        let kept = rendered(render, |record| {
            inner.copy(record);
            !journal || inner.journal.offer(record, Room::Owed)
        });
        if !kept {
            inner.completions_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records how a call ended. Never waits, so it may be called from `Drop`.
    pub fn completion(&self, id: AuditId, event: &CompletionEvent<'_>) {
        let inner = &*self.inner;
        let room = match event.delivery {
            Delivery::Durable => Room::Whole,
            Delivery::BestEffort => Room::Half,
        };
        let now = inner.clock.unix_ms();
        if !rendered(|out| inner.context.completion(out, id, now, event), |record| inner.offer(record, room)) {
            inner.completions_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records failed authentications, already summed by [`super::AuthFailureAggregator`].
    pub fn auth_failure(&self, event: &AuthFailureEvent) {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        rendered(|out| inner.context.auth_failure(out, now, event), |record| inner.offer(record, Room::Half));
    }

    /// Records refusals of a known caller's requests, already summed.
    pub fn refusal(&self, event: &RefusalEvent<'_>) {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        rendered(|out| inner.context.refusal(out, now, event), |record| inner.offer(record, Room::Half));
    }

    /// Records a change of what is enforced.
    pub fn config_change(&self, event: &ConfigChangeEvent<'_>) {
        let inner = &*self.inner;
        let now = inner.clock.unix_ms();
        rendered(|out| inner.context.config_change(out, now, event), |record| inner.offer(record, Room::Whole));
    }

    /// Whether durable decisions can be recorded now; otherwise what is wrong, for `/readyz`.
    pub fn healthy(&self) -> Result<(), AuditError> {
        Ok(self.inner.journal.healthy()?)
    }

    /// Sums since start.
    pub fn counters(&self) -> Counters {
        let journal = self.inner.journal.counters();
        Counters {
            written: journal.written,
            dropped: journal.dropped,
            failed: journal.failed,
            completions_dropped: self.inner.completions_dropped.load(Ordering::Relaxed),
            syncs: journal.syncs,
            sync_us: journal.sync_us,
            poisoned: journal.poisoned,
            stdout_dropped: self.inner.stdout.as_ref().map_or(0, Lane::dropped),
        }
    }

    /// The latest signed checkpoint: what to keep elsewhere as an anchor.
    pub fn latest_checkpoint(&self) -> Option<Checkpoint> {
        self.inner.journal.latest_checkpoint()
    }

    /// Records the end, writes out what was accepted with a last checkpoint, and closes the journal. Blocks; what is
    /// recorded later is dropped or refused.
    pub fn close(&self) {
        let inner = &*self.inner;
        let facts = [("portcullis.epoch", inner.epoch), ("portcullis.dropped", self.counters().dropped)];
        let now = inner.clock.unix_ms();
        rendered(|out| inner.context.lifecycle(out, SHUTDOWN, now, &facts), |record| inner.offer(record, Room::Whole));
        inner.journal.close();
        if let Some(stdout) = &inner.stdout {
            stdout.flush(Duration::from_secs(1));
        }
    }
}

impl Inner {
    fn offer(&self, record: &[u8], room: Room) -> bool {
        self.copy(record);
        self.journal.offer(record, room)
    }

    fn copy(&self, record: &[u8]) {
        if let Some(stdout) = &self.stdout {
            stdout.offer(record);
        }
    }
}

/// Ids that sort by time and never repeat, whatever the clock does: RFC 9562 6.2 method 1 with 12 bits of counter in
/// `rand_a`. A full counter and a clock that steps back both go on from the latest id (6.2, "counter rollover" and
/// "clock rollback"). `rand_b` is a bijection of that under a random seed, which keeps the ids of two runs apart. Asking
/// the system for randomness costs more than the record.
#[derive(Debug)]
struct Ids {
    seed: u64,
    /// Milliseconds and counter of the latest id.
    latest: AtomicU64,
}

impl Ids {
    fn new(random: u128) -> Self {
        let seed = u64::try_from(random & u128::from(u64::MAX)).unwrap_or_default();
        Self { seed, latest: AtomicU64::new(0) }
    }

    fn next(&self, unix_ms: u64) -> AuditId {
        let after = |latest: u64| latest.max(unix_ms << 12).wrapping_add(1);
        let advance = self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(after(latest)));
        let this = after(advance.unwrap_or_default());
        // The finalizer of SplitMix64, a bijection on 64 bits.
        let mut mixed = this.wrapping_add(self.seed);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let [high, low] = u16::try_from(this & 0x0fff).unwrap_or_default().to_be_bytes();
        let [a, b, c, d, e, f, g, h] = mixed.to_be_bytes();
        let random = [high, low, a, b, c, d, e, f, g, h];
        AuditId(uuid::Builder::from_unix_timestamp_millis(this >> 12, &random).into_uuid())
    }
}

/// Whether a decision with this verdict is followed by a completion.
pub(super) fn expects_completion(verdict: &str) -> bool {
    verdict == Verdict::Allow.as_str()
}

/// Whether a completion says that the call never ran: it may follow a denial, which needs none.
pub(super) fn is_refusal(outcome: &str) -> bool {
    outcome == Outcome::Denied.as_str()
}
