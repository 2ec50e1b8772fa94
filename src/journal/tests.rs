//! The journal against crashes, failing disks and clocks that step.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::storage::{Disk, Slab, Storage};
use super::*;

mod stall;

#[derive(Debug, Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn clock(at: u64) -> Arc<TestClock> {
    Arc::new(TestClock(AtomicU64::new(at)))
}

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        max_record_bytes: 2 << 10,
        sync: SyncPolicy { linger: Duration::from_millis(1), lazy: Duration::from_millis(1), ..SyncPolicy::default() },
        ..JournalConfig::new(dir.join("journal"), dir.join("key"))
    }
}

fn open(dir: &Path) -> (Journal, Recovery) {
    Journal::open(config(dir), clock(1_000)).unwrap()
}

fn wait(ticket: Ticket) -> Result<(), JournalError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket)
}

fn put(journal: &Journal, payload: &[u8]) {
    wait(journal.append(payload).unwrap()).unwrap();
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

fn all(dir: &Path) -> Vec<Record> {
    let mut reader = Reader::open(dir, 0);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn data(dir: &Path) -> Vec<Vec<u8>> {
    all(dir).into_iter().filter(|record| record.kind == Kind::Data).map(|record| record.payload).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A disk that can fail, and that keeps a second folder of what a power cut would leave: only what was synced.
struct TestDisk {
    durable: PathBuf,
    fail_sync: AtomicBool,
    full: AtomicBool,
}

impl TestDisk {
    fn new(durable: PathBuf) -> Arc<Self> {
        fs::create_dir_all(&durable).unwrap();
        Arc::new(Self { durable, fail_sync: AtomicBool::new(false), full: AtomicBool::new(false) })
    }
}

struct TestSlab {
    disk: Arc<TestDisk>,
    live: Box<dyn Slab>,
    durable: Box<dyn Slab>,
    pending: Mutex<Vec<(Vec<u8>, u64)>>,
}

struct Handle(Arc<TestDisk>);

impl Storage for Handle {
    fn prepare(&self, path: &Path, len: u64) -> io::Result<Box<dyn Slab>> {
        if self.0.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let durable = Disk.prepare(&self.0.durable.join(path.file_name().unwrap()), len)?;
        let live = Disk.prepare(path, len)?;
        Ok(Box::new(TestSlab { disk: Arc::clone(&self.0), live, durable, pending: Mutex::default() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let at = |path: &Path| self.0.durable.join(path.file_name().unwrap());
        Disk.rename(&at(from), &at(to))?;
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
}

impl Slab for TestSlab {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.pending.lock().unwrap().push((bytes.to_vec(), offset));
        self.live.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.fail_sync.load(Ordering::Relaxed) {
            return Err(io::Error::other("injected"));
        }
        for (bytes, offset) in self.pending.lock().unwrap().drain(..) {
            self.durable.write_at(&bytes, offset)?;
        }
        Ok(())
    }

    fn trim(&self, len: u64) -> io::Result<()> {
        self.live.trim(len)
    }
}

#[test]
fn what_was_acknowledged_is_read_back_in_order_over_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, recovery) = open(dir.path());
    assert_eq!((recovery.epoch, recovery.torn_bytes, recovery.lost_through), (1, 0, None));
    let records: Vec<_> = (0..100_u32).map(|n| vec![n as u8 + 1; 700]).collect();
    for record in &records {
        put(&journal, record);
    }
    let folder = dir.path().join("journal");
    assert_eq!(data(&folder), records, "also while it is written");
    journal.close();
    assert_eq!(data(&folder), records);
    assert!(list(&folder).unwrap().len() > 4);
    let seqs: Vec<_> = all(&folder).iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert!(matches!(journal.append(b"late"), Err(JournalError::Closed)));
}

#[test]
fn a_restart_goes_on_in_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    for epoch in 1..=3 {
        let (journal, recovery) = open(dir.path());
        assert_eq!(recovery.epoch, epoch);
        assert_eq!(recovery.torn_bytes, 0);
        put(&journal, format!("in {epoch}").as_bytes());
    }
    let records = all(&dir.path().join("journal"));
    let found: Vec<_> = records.iter().filter(|r| r.kind == Kind::Data).map(|r| (r.epoch, r.payload.clone())).collect();
    assert_eq!(found, [(1, b"in 1".to_vec()), (2, b"in 2".to_vec()), (3, b"in 3".to_vec())]);
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, _) = open(dir.path());
    assert!(is_live(&dir.path().join("journal")));
    let error = Journal::open(config(dir.path()), clock(0)).unwrap_err();
    assert_eq!(error.reason(), "JournalLocked");
}

#[test]
fn concurrent_appends_share_syncs_and_an_answer_means_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let durable = dir.path().join("durable");
    let disk = TestDisk::new(durable.clone());
    let (journal, _) = Journal::open_on(Arc::new(Handle(disk)), config(dir.path()), clock(0)).unwrap();
    thread::scope(|scope| {
        for producer in 0..8_u8 {
            let (journal, durable) = (&journal, &durable);
            scope.spawn(move || {
                for n in 0..40_u8 {
                    let _flight = journal.in_flight();
                    let payload = [producer + 1, n + 1, 0xAB];
                    put(journal, &payload);
                    if n % 10 == 0 {
                        assert!(data(durable).contains(&payload.to_vec()), "acknowledged before it was synced");
                    }
                }
            });
        }
    });
    let counters = journal.counters();
    assert_eq!((counters.written, counters.failed, counters.dropped), (320, 0, 0));
    assert!(counters.syncs < 320, "{counters:?}");
    let distinct: BTreeSet<_> = data(&durable).into_iter().collect();
    assert_eq!(distinct.len(), 320);
}

#[test]
fn a_failed_sync_is_told_to_all_who_waited_and_the_segment_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::new(dir.path().join("durable"));
    let (journal, _) = Journal::open_on(Arc::new(Handle(Arc::clone(&disk))), config(dir.path()), clock(0)).unwrap();
    put(&journal, b"before");
    let _others = [journal.in_flight(), journal.in_flight(), journal.in_flight()];
    disk.fail_sync.store(true, Ordering::Relaxed);
    // The first may be lost before the second comes: that is refused at once then, for the same reason.
    let tickets = [journal.append(b"lost 1"), journal.append(b"lost 2")];
    for ticket in tickets {
        assert_eq!(ticket.and_then(wait).unwrap_err().reason(), "JournalPoisoned");
    }
    assert!(journal.healthy().is_err());
    assert!(journal.append(b"refused").is_err());
    disk.fail_sync.store(false, Ordering::Relaxed);
    until("healthy again", || journal.healthy().is_ok());
    put(&journal, b"after");
    assert_eq!(journal.counters().failed, 3);
    assert!(journal.counters().poisoned >= 1);
    journal.close();
    assert_eq!(data(&dir.path().join("journal")), [b"before".to_vec(), b"after".to_vec()]);
    let (_journal, recovery) = open(dir.path());
    assert_eq!((recovery.lost_through, recovery.damaged_segments), (None, vec![]));
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::new(dir.path().join("durable"));
    let (journal, _) = Journal::open_on(Arc::new(Handle(Arc::clone(&disk))), config(dir.path()), clock(0)).unwrap();
    disk.full.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    let refusal = (0..200_u8).find_map(|n| {
        let payload = vec![n + 1; 1000];
        match journal.append(&payload).and_then(wait) {
            Ok(()) => {
                acknowledged.push(payload);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert_eq!(refusal.unwrap().reason(), "JournalFull");
    until("unhealthy", || journal.healthy().is_err());
    disk.full.store(false, Ordering::Relaxed);
    until("healthy again", || journal.healthy().is_ok());
    put(&journal, b"after");
    acknowledged.push(b"after".to_vec());
    let found = data(&dir.path().join("journal"));
    assert_eq!(found, acknowledged);
}

#[test]
fn a_batch_that_finds_the_disk_full_leaves_none_of_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TestDisk::new(dir.path().join("durable"));
    let sync = SyncPolicy { at: 5, linger: Duration::from_secs(60), lazy: Duration::from_secs(60) };
    let config = JournalConfig { sync, ..config(dir.path()) };
    let (journal, _) = Journal::open_on(Arc::new(Handle(Arc::clone(&disk))), config, clock(0)).unwrap();
    let _others: Vec<_> = (0..50).map(|_| journal.in_flight()).collect();
    disk.full.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    let refused = (1..=200_u8).find(|n| {
        let batch: Vec<_> = (0..5).map(|_| vec![*n; 1000]).collect();
        // What comes when it was found out already is refused at once.
        let tickets: Vec<_> = batch.iter().filter_map(|record| journal.append(record).ok()).collect();
        let kept = tickets.into_iter().map(wait).filter(Result::is_ok).count();
        acknowledged.extend(std::iter::repeat_n(*n, kept));
        kept < 5
    });
    assert!(refused.is_some());
    let found: Vec<_> = data(&dir.path().join("journal")).iter().map(|record| record[0]).collect();
    assert_eq!(found, acknowledged, "a refused call has no record of being allowed");
}

#[test]
fn what_nobody_waits_for_cannot_crowd_out_what_calls_wait_for() {
    let dir = tempfile::tempdir().unwrap();
    let lazy = SyncPolicy { at: 1000, linger: Duration::from_secs(60), lazy: Duration::from_secs(60) };
    let config = JournalConfig { buffer_bytes: 40_000, sync: lazy, ..config(dir.path()) };
    let shared = Arc::new(buffer::Shared::new(&config));
    let accepted = (0..100).filter(|_| shared.offer(&[1; 951], Room::Half)).count();
    assert_eq!(accepted, 20);
    assert_eq!(shared.sums.read().dropped, 80);
    let waiting: Vec<_> = (0..100).map_while(|_| shared.append(&[1; 951]).ok()).collect();
    assert_eq!(waiting.len(), 20);
    assert!(matches!(shared.append(&[1; 951]), Err(JournalError::Busy)));
    assert!(matches!(shared.append(&[1; 3000]), Err(JournalError::TooLarge { bytes: 3000, .. })));
}

#[test]
fn silence_is_proven_and_old_segments_leave_a_signed_note() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig {
        checkpoint_every: Duration::from_millis(2),
        rotate_every: Duration::from_millis(10),
        retain_bytes: 40_000,
        ..config(dir.path())
    };
    let clock = clock(5_000);
    let (journal, _) = Journal::open(config, Arc::clone(&clock) as _).unwrap();
    let folder = dir.path().join("journal");
    until("checkpoints in silence", || all(&folder).len() > 3);
    clock.0.store(10, Ordering::Relaxed);
    for n in 0..100_u8 {
        put(&journal, &[n; 1000]);
    }
    until("old segments removed", || list(&folder).unwrap().first().is_some_and(|file| file.number > 1));
    journal.close();
    let records = all(&folder);
    let note = records.iter().rfind(|record| record.kind == Kind::Retention).unwrap();
    let note = RetentionNote::parse(&note.payload).unwrap();
    assert!(note.is_signed());
    assert_eq!(note.through_segment + 1, list(&folder).unwrap()[0].number);
    assert_eq!(note.through_seq + 1, records[0].seq);
    assert!(
        records
            .iter()
            .filter(|r| r.kind == Kind::Checkpoint)
            .all(|r| Checkpoint::parse(&r.payload).unwrap().is_signed())
    );
    let anchor = Checkpoint::parse(&fs::read(folder.join("anchor.json")).unwrap()).unwrap();
    assert_eq!(Some(&anchor), journal.latest_checkpoint().as_ref());
    assert_eq!(anchor.seq + 1, records.last().unwrap().seq);
}

#[test]
fn age_removes_one_segment_at_a_time_and_a_clock_that_steps_back_removes_none() {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig { retain_for: Duration::from_secs(60), ..config(dir.path()) };
    let clock = clock(1_000_000);
    let (journal, _) = Journal::open(config, Arc::clone(&clock) as _).unwrap();
    let folder = dir.path().join("journal");
    let fill = |n: u8| (0..14).for_each(|_| put(&journal, &[n; 1000]));
    (1..4).for_each(fill);
    clock.0.store(0, Ordering::Relaxed);
    (4..8).for_each(fill);
    assert_eq!(list(&folder).unwrap()[0].number, 1);
    clock.0.store(10_000_000, Ordering::Relaxed);
    fill(8);
    assert_eq!(list(&folder).unwrap()[0].number, 2);
}

#[test]
fn a_rolled_back_journal_is_noticed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let (journal, _) = open(dir.path());
    put(&journal, b"one");
    journal.close();
    let anchor = Checkpoint::parse(&fs::read(folder.join("anchor.json")).unwrap()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&list(&folder).unwrap()[0].path).unwrap();
    file.set_len(segment::HEADER as u64).unwrap();
    let (_journal, recovery) = open(dir.path());
    assert_eq!(recovery.lost_through, Some(anchor.seq));
}

#[test]
fn a_journal_that_lost_its_name_finds_it_in_its_segments() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let (journal, before) = open(dir.path());
    put(&journal, b"one");
    journal.close();
    fs::remove_file(folder.join("instance")).unwrap();
    let (_journal, after) = open(dir.path());
    assert_eq!((after.instance, after.epoch), (before.instance.clone(), 2));
    assert_eq!(fs::read_to_string(folder.join("instance")).unwrap().trim(), before.instance);
}

#[test]
fn a_flipped_byte_before_a_checkpoint_is_not_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let (journal, _) = open(dir.path());
    put(&journal, b"one");
    journal.close();
    fs::remove_file(folder.join("anchor.json")).unwrap();
    let path = &list(&folder).unwrap()[0].path;
    let mut bytes = fs::read(path).unwrap();
    bytes[segment::HEADER + 20] ^= 1;
    fs::write(path, bytes).unwrap();
    let (_journal, recovery) = open(dir.path());
    assert!(recovery.torn_bytes > 0);
    assert_eq!(recovery.lost_through, Some(2), "the closing checkpoint still vouches for record 2");
}

/// The property test below tries cuts by chance, and goes on from them; this one tries all of a small journal.
#[test]
fn a_write_torn_at_any_byte_leaves_the_records_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let (journal, _) = open(dir.path());
    let mut ends = vec![];
    for n in 1..=3_u8 {
        put(&journal, &[n; 20]);
        let last = all(&folder).pop().unwrap();
        ends.push((last.position.offset as usize + segment::PREFIX + 20 + segment::SUFFIX, last.seq, last.head));
    }
    journal.close();
    fs::remove_file(folder.join("anchor.json")).unwrap();
    let path = list(&folder).unwrap().pop().unwrap().path;
    let whole = fs::read(&path).unwrap();
    let first = all(&folder).remove(0);
    assert_eq!(first.kind, Kind::Checkpoint);
    for cut in segment::HEADER..=ends[2].0 {
        // What lies behind the cut: nothing, zeros, or what the sector held before.
        for behind in [&[][..], &[0; 64], &[0xa5; 64]] {
            let left = [&whole[..cut], behind].concat();
            fs::write(&path, &left).unwrap();
            let found = recover::recover(&folder).unwrap();
            // What lies behind may happen to be what was to be written.
            let kept = ends.iter().rfind(|(end, ..)| left.get(..*end) == Some(&whole[..*end]));
            let expected = match kept {
                Some((_, seq, head)) => (seq + 1, *head),
                None if found.seq == 1 => (1, Head::of_header(&whole[..segment::HEADER])),
                None => (2, first.head),
            };
            assert_eq!((found.seq, found.head), expected, "cut at {cut}");
            assert_eq!(found.recovery.lost_through, None, "cut at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever byte the disk stopped at, and whatever the sectors behind it hold: the journal opens again, holds every
    /// record that was acknowledged by then, in order, and goes on.
    #[test]
    fn a_crash_at_any_byte_loses_nothing_acknowledged(
        sizes in prop::collection::vec(1_usize..1500, 1..25),
        cut in 0.0_f64..1.0,
        garbage in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("journal");
        let (journal, _) = open(dir.path());
        let mut acknowledged = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let payload = vec![n as u8 + 1; *size];
            put(&journal, &payload);
            let at = all(&folder).last().unwrap().position;
            acknowledged.push((payload, at, segment::PREFIX + size + segment::SUFFIX));
        }
        let crashed = tempfile::tempdir().unwrap();
        copy(&folder, &crashed.path().join("journal"));
        fs::copy(dir.path().join("key"), crashed.path().join("key")).unwrap();
        journal.close();
        let crashed_folder = crashed.path().join("journal");
        fs::remove_file(crashed_folder.join("anchor.json")).unwrap();

        let last = list(&crashed_folder).unwrap().pop().unwrap();
        let mut bytes = fs::read(&last.path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let kept = segment::HEADER + ((used - segment::HEADER) as f64 * cut) as usize;
        bytes.truncate(kept);
        bytes.extend(garbage);
        fs::write(&last.path, bytes).unwrap();

        let (journal, _) = open(crashed.path());
        put(&journal, b"goes on");
        let mut expected: Vec<_> = acknowledged
            .into_iter()
            .filter(|(_, at, len)| at.segment < last.number || at.offset as usize + len <= kept)
            .map(|(payload, _, _)| payload)
            .collect();
        expected.push(b"goes on".to_vec());
        prop_assert_eq!(data(&crashed_folder), expected);
    }
}

const CHILD: &str = "PORTCULLIS_TEST_JOURNAL_CHILD";

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let (journal, _) = open(Path::new(&dir));
    let acknowledged = Path::new(&dir).join("acknowledged");
    for n in 1_u64.. {
        put(&journal, &n.to_le_bytes());
        fs::write(&acknowledged, n.to_string()).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_every_acknowledged_record() {
    let dir = tempfile::tempdir().unwrap();
    let name = "journal::tests::child_that_is_killed";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let acknowledged = || -> u64 {
        fs::read_to_string(dir.path().join("acknowledged")).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    until("the child writes", || acknowledged() > 300);
    child.kill().unwrap();
    child.wait().unwrap();
    let acknowledged = acknowledged();
    let (_journal, recovery) = open(dir.path());
    assert_eq!((recovery.epoch, recovery.lost_through), (2, None));
    let found: Vec<_> = data(&dir.path().join("journal"));
    assert!(found.len() as u64 >= acknowledged);
    let expected: Vec<_> = (1..=found.len() as u64).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(found, expected);
}
