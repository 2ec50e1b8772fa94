//! Bytes that must survive: segments, group commit, hash chain, checkpoints.
//!
//! Invariant: a [`Ticket`] that answered `Ok` names a record that is on disk, in the chain, and readable after any
//! crash; file order is chain order. What a failed write or sync touched is never written again: its segment is given
//! up, everyone who waited is told, and a fresh segment begins where the last synced record ends.
//!
//! ```text
//! DIR/lock                      held by the one writer
//! DIR/instance                  whose journal this is
//! DIR/anchor.json               the latest checkpoint, for whoever keeps anchors elsewhere
//! DIR/spare                     the next segment, zeroed ahead of its use
//! DIR/0000000000000001.seg ...  segments
//! ```
//!
//! **When to sync.** A sync costs more than everything else in a call, so records share one. The writer syncs at once
//! when every call under way ([`Journal::in_flight`]) waits for it, else when [`SyncPolicy::at`] records wait, else
//! [`SyncPolicy::linger`] after the first began to wait, at once if the last to wait was alone. Records that nobody waits
//! for ride along, or go after [`SyncPolicy::lazy`].
//!
//! **A disk that hangs** answers neither way. After [`JournalConfig::patience`] everyone who waits is refused, and the
//! fate of their records is open: they may be on disk when it answers again. Until then nobody may begin to wait, and
//! what nobody waits for is still taken in, behind them.
//!
//! **Segments.** Written in place over zeros that were synced ahead of use: appending to a growing file costs twice the
//! CPU per sync. A closed segment is trimmed to what it holds and later deleted, never reused, since a reader may have
//! it open.

mod buffer;
mod chain;
mod checkpoint;
mod reader;
mod recover;
mod segment;
mod storage;
mod ticket;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use buffer::{Counters, InFlight, Room};
pub use chain::Head;
pub use checkpoint::{Checkpoint, RetentionNote, SigningKey};
pub(crate) use checkpoint::{refuse_shared, write_private};
pub use reader::{Position, ReadError, Reader, Record, SegmentFile, SegmentReader, Step, is_live, list};
pub use recover::{Recovery, highest_checkpoint};
pub use segment::{Header, Kind};
pub use ticket::Ticket;
pub use writer::Journal;

/// Locks, also after a panic elsewhere: what these locks guard is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock, as records and checkpoints state it. It may step in either direction: order comes from the chain.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// When the writer syncs; the module's documentation says how they work together.
#[derive(Clone, Copy, Debug)]
pub struct SyncPolicy {
    /// Sync when so many records wait.
    pub at: usize,
    /// Sync so long after the first record began to wait; sooner where few waited for the last sync.
    pub linger: Duration,
    /// Write what nobody waits for after so long.
    pub lazy: Duration,
}

impl Default for SyncPolicy {
    fn default() -> Self {
        Self { at: 32, linger: Duration::from_micros(600), lazy: Duration::from_millis(50) }
    }
}

/// Where a journal lies and how it behaves. [`JournalConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The folder, made with mode 0700 if it does not exist.
    pub dir: PathBuf,
    /// The key that signs checkpoints, made with mode 0600 if it does not exist.
    pub key_file: PathBuf,
    /// Size of a segment file. At least 16 KiB and four of the longest records are used.
    pub segment_bytes: u64,
    /// The longest record.
    pub max_record_bytes: usize,
    /// Records that are accepted and not yet written, in bytes: at most half a segment, and at least two of the longest.
    /// Records that nobody waits for get half of it.
    pub buffer_bytes: usize,
    /// When to sync.
    pub sync: SyncPolicy,
    /// How long the disk may take for what it was given. Then everyone who waits is refused, and a close does not wait
    /// for it any longer.
    pub patience: Duration,
    /// A new segment after so long.
    pub rotate_every: Duration,
    /// A checkpoint after so long, also when nothing happened: that proves silence.
    pub checkpoint_every: Duration,
    /// Closed segments are deleted, oldest first, while all together are larger.
    pub retain_bytes: u64,
    /// Closed segments are deleted when so old by the clock; one at a time, so that a leap of the clock is survivable.
    pub retain_for: Duration,
}

impl JournalConfig {
    /// The defaults, for a journal in `dir` with the key in `key_file`.
    pub fn new(dir: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            key_file: key_file.into(),
            segment_bytes: 16 << 20,
            max_record_bytes: 1 << 20,
            buffer_bytes: 8 << 20,
            sync: SyncPolicy::default(),
            patience: Duration::from_secs(5),
            rotate_every: Duration::from_secs(3600),
            checkpoint_every: Duration::from_secs(10),
            retain_bytes: 10 << 30,
            retain_for: Duration::from_secs(400 * 24 * 3600),
        }
    }
}

/// Why a record could not be kept, or a journal not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no space for the next segment. The writer tries again by itself.
    #[error("the journal's disk is full ({detail}); free space in {dir} or lower the retention")]
    Full {
        /// The journal's folder.
        dir: Arc<str>,
        /// What the system said.
        detail: Arc<str>,
    },
    /// A write or sync failed, so the open segment was given up. The writer opens a fresh one by itself.
    #[error("journal segment {segment} was given up after a failed write or sync: {detail}")]
    Poisoned {
        /// The segment.
        segment: u64,
        /// What the system said.
        detail: Arc<str>,
    },
    /// Some other operation failed.
    #[error("the journal could not {what}: {detail}")]
    Io {
        /// The operation.
        what: &'static str,
        /// What the system said.
        detail: Arc<str>,
    },
    /// More records wait than the buffer holds.
    #[error("the journal's buffer is full: its disk is slower than the calls")]
    Busy,
    /// The disk has not answered for [`JournalConfig::patience`]. A record that was waited for may reach it later.
    #[error("the journal's disk has not answered a write or sync for {seconds} seconds")]
    Stalled {
        /// How long.
        seconds: u64,
    },
    /// The record is longer than the journal accepts.
    #[error("a record of {bytes} bytes is longer than the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// Another process writes this journal.
    #[error("the journal in {dir} has a writer already; give every process a journal of its own")]
    Locked {
        /// The journal's folder.
        dir: Arc<str>,
    },
}

impl JournalError {
    /// Stable CamelCase reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "JournalFull",
            Self::Poisoned { .. } => "JournalPoisoned",
            Self::Io { .. } => "JournalIo",
            Self::Busy => "JournalBusy",
            Self::Stalled { .. } => "JournalStalled",
            Self::TooLarge { .. } => "JournalRecordTooLarge",
            Self::Closed => "JournalClosed",
            Self::Locked { .. } => "JournalLocked",
        }
    }

    /// Whether the record may come to be in the journal all the same.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Stalled { .. })
    }

    fn io(what: &'static str, error: &std::io::Error) -> Self {
        Self::Io { what, detail: error.to_string().into() }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
