//! The handle, and the one thread that writes.
//!
//! Invariant: `Chain` moves only after a successful sync. Whatever fails before that is given up with its segment, and
//! the next segment's header names the chain as it was.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::buffer::{Counters, InFlight, Room, Shared, Sums, Taken, Work, count};
use super::chain::Head;
use super::checkpoint::{Checkpoint, RetentionNote, SigningKey};
use super::recover::{Found, Recovery, recover};
use super::segment::{HEADER, Header, Kind, MAX_PAYLOAD, PREFIX, SUFFIX, file_name, frame_len, push_frame, seal};
use super::storage::{Disk, Slab, Storage};
use super::ticket::Ticket;
use super::{Clock, JournalConfig, JournalError, is_full, lock};

/// Kept free at a segment's end for the writer's own: a retention note or a checkpoint, and the checkpoint that closes.
const OWN_ROOM: u64 = 2048;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// A journal open for writing: cheap to clone. It is closed by [`Journal::close`], or when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    latest: Arc<Mutex<Option<Checkpoint>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dir: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn close(&self) {
        self.shared.close();
        let Some(thread) = lock(&self.thread).take() else { return };
        if !self.shared.wait_for_end() {
            tracing::error!("the journal was left before its disk had answered: its last records may be lost");
        } else if thread.join().is_err() {
            tracing::error!("the journal's writer had panicked");
        }
    }
}

impl Journal {
    /// Opens the journal in `config.dir` for writing: finds the end of what is there, and begins a new epoch behind it.
    /// Blocks for as long as it takes to read the last segment and to zero a new one.
    pub fn open(config: JournalConfig, clock: Arc<dyn Clock>) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(Arc::new(Disk), config, clock)
    }

    pub(super) fn open_on(
        storage: Arc<dyn Storage>,
        mut config: JournalConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovery), JournalError> {
        config.max_record_bytes = config.max_record_bytes.min(MAX_PAYLOAD);
        let longest = count(PREFIX + config.max_record_bytes + SUFFIX);
        config.segment_bytes = config.segment_bytes.max(4 * longest).max(16 << 10);
        // Whatever waits fits into one segment.
        let half = usize::try_from(config.segment_bytes / 2).unwrap_or(usize::MAX);
        config.buffer_bytes = config.buffer_bytes.min(half).max(2 * (PREFIX + config.max_record_bytes + SUFFIX));
        make_private(&config.dir).map_err(|e| JournalError::io("make its folder", &e))?;
        let held = hold(&config.dir)?;
        let had_key = config.key_file.exists();
        let key = SigningKey::load_or_create(&config.key_file).map_err(|e| JournalError::io("load its key", &e))?;
        let found = recover(&config.dir)
            .map_err(|e| JournalError::Io { what: "read what is there", detail: e.to_string().into() })?;
        let recovery = found.recovery.clone();
        if !had_key && found.previous > 0 {
            let file = config.key_file.display();
            tracing::error!(
                "{file} was missing, so a new key signs the journal: verification will name where it begins"
            );
        }
        let shared = Arc::new(Shared::new(&config));
        let latest = Arc::default();
        let dir = config.dir.clone();
        let mut writer = Writer::new(config, storage, clock, key, found, Arc::clone(&shared), Arc::clone(&latest));
        writer.begin_segment()?;
        writer.checkpoint()?;
        let last_word = LastWord(Arc::clone(&shared));
        let run = move || {
            writer.run();
            drop(writer.spare.take().map(JoinHandle::join));
            drop((last_word, held));
        };
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let started = thread::Builder::new().name(name.to_owned()).spawn(run);
            started.map_err(|e| JournalError::io("start its writer", &e))
        };
        let watched = Arc::clone(&shared);
        start("journal-watch", Box::new(move || watched.watch()))?;
        let thread = start("journal", Box::new(run))?;
        Ok((Self { inner: Arc::new(Inner { shared, latest, thread: Mutex::new(Some(thread)), dir }) }, recovery))
    }

    /// Appends a record that must be on disk before its ticket answers. Never blocks on I/O.
    pub fn append(&self, payload: &[u8]) -> Result<Ticket, JournalError> {
        self.inner.shared.append(payload)
    }

    /// Appends a record that nobody waits for; `false` if it was dropped (and counted).
    pub fn offer(&self, payload: &[u8], room: Room) -> bool {
        self.inner.shared.offer(payload, room)
    }

    /// Tells the writer that a call is under way which may append soon.
    pub fn in_flight(&self) -> InFlight {
        self.inner.shared.enter()
    }

    /// Whether records are accepted now, or why not.
    pub fn healthy(&self) -> Result<(), JournalError> {
        self.inner.shared.healthy()
    }

    /// Sums since it was opened.
    pub fn counters(&self) -> Counters {
        self.inner.shared.sums.read()
    }

    /// The latest signed checkpoint: what to keep elsewhere.
    pub fn latest_checkpoint(&self) -> Option<Checkpoint> {
        lock(&self.inner.latest).clone()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Writes what was accepted, a last checkpoint, and ends the writer. Blocks until then, unless the disk does not
    /// answer; records offered later are refused.
    pub fn close(&self) {
        self.inner.close();
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::metadata(dir)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Takes the folder for this process. A reader may look at the lock for a moment, so one refusal is not final.
fn hold(dir: &Path) -> Result<File, JournalError> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"));
    let file = open.map_err(|e| JournalError::io("open its lock", &e))?;
    for _ in 0..10 {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(20)),
            Err(fs::TryLockError::Error(e)) => return Err(JournalError::io("take its lock", &e)),
        }
    }
    Err(JournalError::Locked { dir: dir.display().to_string().into() })
}

/// A segment that is no longer written.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) last_seq: u64,
    pub(super) head: Head,
    pub(super) closed_unix_ms: u64,
}

/// How far the journal reaches on disk.
#[derive(Clone, Copy, Debug)]
struct Chain {
    segment: u64,
    /// End of the last synced record in that segment.
    len: u64,
    next_seq: u64,
    head: Head,
}

struct Open {
    slab: Box<dyn Slab>,
    since: Instant,
}

type Spare = JoinHandle<io::Result<Box<dyn Slab>>>;

struct Writer {
    config: JournalConfig,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    key: SigningKey,
    shared: Arc<Shared>,
    latest: Arc<Mutex<Option<Checkpoint>>>,
    instance: uuid::Uuid,
    epoch: u64,
    /// The number that the next segment gets: also those that failed to open have used one.
    next_segment: u64,
    chain: Chain,
    open: Option<Open>,
    spare: Option<Spare>,
    closed: Vec<Closed>,
    checkpoint_at: Instant,
    backoff: Duration,
}

impl Writer {
    fn new(
        config: JournalConfig,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        key: SigningKey,
        found: Found,
        shared: Arc<Shared>,
        latest: Arc<Mutex<Option<Checkpoint>>>,
    ) -> Self {
        let Found { recovery, instance, next_segment, previous, previous_len, seq, head, closed } = found;
        Self {
            config,
            storage,
            clock,
            key,
            shared,
            latest,
            instance,
            epoch: recovery.epoch,
            next_segment,
            chain: Chain { segment: previous, len: previous_len, next_seq: seq, head },
            open: None,
            spare: None,
            closed,
            checkpoint_at: Instant::now(),
            backoff: FIRST_BACKOFF,
        }
    }

    fn run(&mut self) {
        let mut reuse = Vec::new();
        loop {
            match self.shared.next(self.checkpoint_at, std::mem::take(&mut reuse)) {
                Work::Batch(mut taken) => {
                    self.write_batch(&mut taken);
                    reuse = std::mem::take(&mut taken.frames);
                }
                Work::Tick => self.tick(),
                Work::Close(mut taken) => {
                    self.write_batch(&mut taken);
                    if self.open.is_some()
                        && let Err(error) = self.checkpoint()
                    {
                        tracing::error!(%error, "the journal could not be closed with a checkpoint");
                    }
                    self.trim();
                    return;
                }
            }
        }
    }

    fn write_batch(&mut self, taken: &mut Taken) {
        if taken.records == 0 {
            return;
        }
        match self.commit(&mut taken.frames) {
            Ok(()) => {
                Sums::add(&self.shared.sums.written, count(taken.records));
                taken.batch.complete(Ok(()), || ());
            }
            Err(error) => self.go_down(&error, Some(taken)),
        }
    }

    /// Refuses records until a fresh segment is open. First refuses, then tells: who hears of the loss finds the journal
    /// down. The log comes last, so that one which nobody reads holds up no call.
    fn go_down(&mut self, error: &JournalError, lost: Option<&Taken>) {
        self.open = None;
        self.shared.refuse(error);
        if let Some(lost) = lost {
            self.shared.lose(lost, error);
        }
        self.checkpoint_at = Instant::now();
        tracing::error!(%error, "the journal refuses records until a fresh segment is open");
    }

    /// The time of the next checkpoint, or of the next attempt to open a segment, has come.
    fn tick(&mut self) {
        if self.open.is_none() {
            return self.come_back();
        }
        let result = if self.is_old() || self.room() == 0 { self.rotate() } else { self.checkpoint() };
        if let Err(error) = result.and_then(|()| self.retain()) {
            self.go_down(&error, None);
        }
    }

    fn come_back(&mut self) {
        match self.begin_segment().and_then(|()| self.checkpoint()) {
            Ok(()) => {
                self.backoff = FIRST_BACKOFF;
                self.shared.accept();
                tracing::info!(segment = self.chain.segment, "the journal accepts records again");
            }
            Err(error) => {
                self.open = None;
                self.shared.refuse(&error);
                self.checkpoint_at = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
            }
        }
    }

    fn is_old(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.since.elapsed() >= self.config.rotate_every)
    }

    /// Seals frames into the chain, writes and syncs them: in one segment, so that they share one fate also where there is
    /// no space for the next. Only what no segment holds, which a disk that hung may leave behind, is parted.
    fn commit(&mut self, frames: &mut [u8]) -> Result<(), JournalError> {
        if count(frames.len()) > self.room() {
            self.rotate()?;
            self.retain()?;
        }
        let mut rest = frames;
        while !rest.is_empty() {
            let fits = whole_frames(rest, usize::try_from(self.room()).unwrap_or(usize::MAX));
            if fits == 0 {
                self.rotate()?;
                self.retain()?;
                continue;
            }
            let (now, later) = rest.split_at_mut(fits);
            self.write_frames(now)?;
            rest = later;
        }
        Ok(())
    }

    /// Writes frames that fit into the open segment. Only a synced write moves the chain.
    fn write_frames(&mut self, frames: &mut [u8]) -> Result<(), JournalError> {
        let mut chain = self.chain;
        let offset = chain.len;
        let mut rest = &mut *frames;
        while let Some(len) = frame_len(rest) {
            let (frame, later) = rest.split_at_mut(len);
            chain.head = seal(frame, chain.next_seq, chain.head);
            chain.next_seq += 1;
            chain.len += count(len);
            rest = later;
        }
        let Some(open) = &self.open else { return Err(JournalError::Closed) };
        let begun = Instant::now();
        if let Err(error) = open.slab.write_at(frames, offset).and_then(|()| open.slab.sync()) {
            Sums::add(&self.shared.sums.poisoned, 1);
            self.open = None;
            return Err(self.poisoned(&error));
        }
        Sums::add(&self.shared.sums.syncs, 1);
        Sums::add(&self.shared.sums.sync_us, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.chain = chain;
        Ok(())
    }

    fn poisoned(&self, error: &io::Error) -> JournalError {
        if is_full(error) {
            return self.full(error);
        }
        JournalError::Poisoned { segment: self.chain.segment, detail: error.to_string().into() }
    }

    fn full(&self, error: &io::Error) -> JournalError {
        JournalError::Full { dir: self.config.dir.display().to_string().into(), detail: error.to_string().into() }
    }

    fn write_own(&mut self, kind: Kind, payload: &[u8]) -> Result<(), JournalError> {
        let mut frame = Vec::with_capacity(PREFIX + payload.len() + SUFFIX);
        push_frame(&mut frame, kind, payload);
        self.write_frames(&mut frame)
    }

    /// Signs how far the journal reaches.
    fn checkpoint(&mut self) -> Result<(), JournalError> {
        self.checkpoint_at = Instant::now() + self.config.checkpoint_every;
        let Chain { segment, next_seq, head, .. } = self.chain;
        let reach = (self.epoch, segment, next_seq - 1);
        let checkpoint = Checkpoint::sign(&self.key, self.instance, reach, head, self.clock.unix_ms());
        let json = checkpoint.to_json();
        self.write_own(Kind::Checkpoint, &json)?;
        self.publish(checkpoint, &json);
        Ok(())
    }

    /// Shows a checkpoint to whoever keeps anchors. The journal's own truth does not hang on it.
    fn publish(&self, checkpoint: Checkpoint, json: &[u8]) {
        let path = self.config.dir.join("anchor.json");
        let temporary = self.config.dir.join("anchor.new");
        let write = || {
            let new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
            new?.write_all(json)?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "the latest checkpoint could not be written to anchor.json");
        }
        *lock(&self.latest) = Some(checkpoint);
    }

    /// Room in the open segment besides what closing it needs.
    fn room(&self) -> u64 {
        (self.config.segment_bytes - OWN_ROOM).saturating_sub(self.chain.len)
    }

    /// Closes the open segment with a checkpoint and goes over into the next.
    fn rotate(&mut self) -> Result<(), JournalError> {
        self.checkpoint()?;
        self.trim();
        self.begin_segment()
    }

    /// Gives back what a closed segment does not use. If that fails, zeros stay behind its end.
    fn trim(&self) {
        if let Some(open) = &self.open
            && let Err(error) = open.slab.trim(self.chain.len)
        {
            tracing::warn!(%error, segment = self.chain.segment, "a closed journal segment could not be trimmed");
        }
    }

    /// Opens the next segment behind the chain's end. It gets its name only when its header is synced; an attempt that
    /// fails leaves the chain as it was, and the next attempt takes the same name.
    fn begin_segment(&mut self) -> Result<(), JournalError> {
        self.open = None;
        let header = Header {
            instance: self.instance,
            segment: self.next_segment,
            epoch: self.epoch,
            first_seq: self.chain.next_seq,
            created_unix_ms: self.clock.unix_ms(),
            previous: self.chain.segment,
            previous_len: self.chain.len,
            previous_head: self.chain.head,
        };
        let bytes = header.encode();
        let path = self.config.dir.join(file_name(header.segment));
        let slab = self.take_spare().map_err(|e| self.not_begun("make a segment", &e))?;
        let begun = slab.write_at(&bytes, 0).and_then(|()| slab.sync());
        let begun = begun.and_then(|()| self.storage.rename(&self.spare_path(), &path));
        begun.map_err(|e| self.not_begun("begin a segment", &e))?;
        self.remember_closed(header.created_unix_ms);
        self.chain = Chain {
            segment: header.segment,
            len: HEADER as u64,
            next_seq: header.first_seq,
            head: Head::of_header(&bytes),
        };
        self.next_segment += 1;
        self.open = Some(Open { slab, since: Instant::now() });
        self.spare = self.prepare_spare();
        Ok(())
    }

    fn not_begun(&self, what: &'static str, error: &io::Error) -> JournalError {
        if is_full(error) { self.full(error) } else { JournalError::io(what, error) }
    }

    fn spare_path(&self) -> PathBuf {
        self.config.dir.join("spare")
    }

    /// The segment that was zeroed ahead, or one zeroed now.
    fn take_spare(&mut self) -> io::Result<Box<dyn Slab>> {
        let ahead = self.spare.take().and_then(|spare| spare.join().ok()).and_then(Result::ok);
        ahead.map_or_else(|| self.storage.prepare(&self.spare_path(), self.config.segment_bytes), Ok)
    }

    /// Zeroes the next segment while this one fills. Without a thread, it is zeroed when it is needed.
    fn prepare_spare(&self) -> Option<Spare> {
        let (storage, path, len) = (Arc::clone(&self.storage), self.spare_path(), self.config.segment_bytes);
        thread::Builder::new().name("journal-spare".to_owned()).spawn(move || storage.prepare(&path, len)).ok()
    }

    fn remember_closed(&mut self, closed_unix_ms: u64) {
        let Chain { segment, next_seq, head, .. } = self.chain;
        if segment == 0 {
            return;
        }
        let bytes = fs::metadata(self.config.dir.join(file_name(segment))).map_or(0, |metadata| metadata.len());
        self.closed.push(Closed { number: segment, bytes, last_seq: next_seq - 1, head, closed_unix_ms });
    }

    /// Deletes what is beyond the retention: first a signed note, then the files, so that no cut is left unexplained.
    fn retain(&mut self) -> Result<(), JournalError> {
        let due = self.beyond_retention();
        let Some(last) = due.checked_sub(1).and_then(|last| self.closed.get(last)).cloned() else { return Ok(()) };
        if self.room() == 0 {
            self.rotate()?;
        }
        let through = (last.number, last.last_seq);
        let note = RetentionNote::sign(&self.key, self.instance, through, last.head, self.clock.unix_ms());
        self.write_own(Kind::Retention, &note.to_json())?;
        for closed in self.closed.drain(..due) {
            let path = self.config.dir.join(file_name(closed.number));
            match self.storage.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, segment = closed.number, "an old journal segment could not be removed");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// How many of the oldest closed segments are to go.
    fn beyond_retention(&self) -> usize {
        let total: u64 = self.closed.iter().map(|closed| closed.bytes).sum();
        let mut excess = total.saturating_sub(self.config.retain_bytes);
        let mut due = 0;
        for closed in &self.closed {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(closed.bytes);
            due += 1;
        }
        let age = |closed: &Closed| self.clock.unix_ms().saturating_sub(closed.closed_unix_ms);
        let old = |closed: &Closed| u128::from(age(closed)) >= self.config.retain_for.as_millis();
        if due == 0 && self.closed.first().is_some_and(old) { 1 } else { due }
    }
}

/// Tells everyone if the writer ends in a way that it should not.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// How many bytes of `frames` are whole frames that fit into `room`.
fn whole_frames(frames: &[u8], room: usize) -> usize {
    let mut end = 0;
    while let Some(len) = frames.get(end..).and_then(frame_len).filter(|len| end + len <= room) {
        end += len;
    }
    end
}
