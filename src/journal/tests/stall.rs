//! A disk that answers neither yes nor no.

use super::super::testing::Gate;
use super::*;

/// A journal whose disk hangs, and whoever was refused because of that.
fn stalled(dir: &Path, gate: &Gate) -> Journal {
    let config = JournalConfig { patience: Duration::from_secs(1), buffer_bytes: 10_000, ..config(dir) };
    let (journal, _) = gate.open_journal(config, clock(0)).unwrap();
    put(&journal, b"before");
    gate.shut();
    let written = journal.append(b"being written").unwrap();
    until("the disk hangs", || gate.holds());
    let behind: Vec<_> = (0..3_u8).map(|n| journal.append(&[b'0' + n]).unwrap()).collect();
    for ticket in std::iter::once(written).chain(behind) {
        let error = wait(ticket).unwrap_err();
        assert_eq!((error.reason(), error.is_open()), ("JournalStalled", true));
    }
    journal
}

#[test]
fn those_who_wait_for_a_disk_that_hangs_are_refused_and_nobody_else_begins_to_wait() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let journal = stalled(dir.path(), &gate);
    assert_eq!(journal.healthy().unwrap_err().reason(), "JournalStalled");
    assert_eq!(journal.append(b"refused").unwrap_err().reason(), "JournalStalled");
    assert!(journal.offer(b"taken in", Room::Whole), "what follows from an earlier record has its place");
    assert_eq!(journal.counters().failed, 5);

    gate.open(false);
    until("healthy again", || journal.healthy().is_ok());
    put(&journal, b"after");
    journal.close();
    let expected = [&b"before"[..], b"being written", b"0", b"1", b"2", b"taken in", b"after"];
    assert_eq!(data(&dir.path().join("journal")), expected, "late, and in their order");
    let counters = journal.counters();
    assert_eq!((counters.written, counters.failed, counters.dropped), (7, 5, 0));
}

#[test]
fn a_hanging_disk_that_fails_in_the_end_keeps_nothing_of_what_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let journal = stalled(dir.path(), &gate);
    assert!(journal.offer(b"taken in", Room::Whole));
    gate.open(true);
    until("healthy again", || journal.healthy().is_ok() && journal.counters().poisoned == 1);
    put(&journal, b"after");
    journal.close();
    assert_eq!(data(&dir.path().join("journal")), [b"before".to_vec(), b"after".to_vec()]);
    let counters = journal.counters();
    assert_eq!((counters.failed, counters.dropped), (4, 1), "nobody is told twice, no record is counted twice");
}

#[test]
fn what_is_owed_is_taken_in_however_full_the_buffer_is() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let journal = stalled(dir.path(), &gate);
    while journal.offer(&[1; 2000], Room::Whole) {}
    assert!(journal.offer(&[2; 2000], Room::Owed));
    gate.open(false);
    until("healthy again", || journal.healthy().is_ok());
    journal.close();
    assert!(data(&dir.path().join("journal")).contains(&vec![2; 2000]));
}

#[test]
fn a_close_does_not_wait_for_a_disk_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    stalled(dir.path(), &gate).close();
    assert!(gate.holds());
    gate.open(false);
    until("the lock is free", || !is_live(&dir.path().join("journal")));
}
