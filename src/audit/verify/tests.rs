//! Every way to tamper that we know, each named.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::journal::testing::forge;
use crate::journal::{Journal, JournalConfig, Kind, Position, Reader, Record, SegmentFile, SystemClock, list};

const HEADER: usize = 128;
const PREFIX: usize = 13;
const SUFFIX: usize = 36;

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        max_record_bytes: 2 << 10,
        ..JournalConfig::new(dir.join("journal"), dir.join("key"))
    }
}

fn write(config: JournalConfig, records: u64) -> Journal {
    let (journal, _) = Journal::open(config, Arc::new(SystemClock)).unwrap();
    for n in 0..records {
        let payload = format!("{{\"event.name\":\"x\",\"n\":{n:04},\"pad\":\"{}\"}}", "p".repeat(900));
        journal.append(payload.as_bytes()).unwrap().wait().unwrap();
    }
    journal
}

struct Log {
    _dir: tempfile::TempDir,
    folder: PathBuf,
    anchor: Checkpoint,
}

impl Log {
    /// Several closed segments, with the anchor that somebody kept.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = write(config(dir.path()), 60);
        journal.close();
        let log = Self { folder: dir.path().join("journal"), anchor: journal.latest_checkpoint().unwrap(), _dir: dir };
        assert!(log.files().len() >= 5);
        log
    }

    fn files(&self) -> Vec<SegmentFile> {
        list(&self.folder).unwrap()
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:016}.seg"))
    }

    fn records(&self) -> Vec<Record> {
        let mut reader = Reader::open(&self.folder, 0);
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    fn edit(&self, segment: u64, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(segment)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(segment), bytes).unwrap();
    }

    fn verify(&self) -> Report {
        let expectation = Expectation { anchor: Some(self.anchor.clone()), public_key: None };
        super::verify(&self.folder, &expectation).unwrap()
    }

    fn first(&self) -> Finding {
        let report = self.verify();
        assert_eq!(report.completeness, Completeness::NotProven);
        report.findings.into_iter().next().unwrap()
    }
}

fn span(record: &Record) -> std::ops::Range<usize> {
    let at = record.position.offset as usize;
    at..at + PREFIX + record.payload.len() + SUFFIX
}

#[test]
fn an_untouched_log_is_complete_up_to_its_anchor_and_not_proven_without() {
    let log = Log::new();
    let report = log.verify();
    assert_eq!((&*report.findings, &*report.notes), (&[][..], &[][..]));
    assert_eq!(report.completeness.to_string(), format!("complete up to anchor {}", log.anchor.seq));
    assert_eq!((report.first_seq, report.last_seq), (Some(1), Some(log.anchor.seq + 1)));
    let report = super::verify(&log.folder, &Expectation::default()).unwrap();
    assert!(report.holds());
    assert_eq!(report.completeness.to_string(), "completeness not proven");
    assert_eq!(report.notes, [Note::KeyUnpinned]);
}

#[test]
fn a_log_that_is_being_written_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let journal = write(config(dir.path()), 20);
    let report = super::verify(&dir.path().join("journal"), &Expectation::default()).unwrap();
    assert!(report.holds(), "{report:?}");
    assert!(report.notes.contains(&Note::Live));
    journal.close();
}

#[test]
fn every_flipped_byte_is_named() {
    let log = Log::new();
    let records = log.records();
    let record = records.iter().find(|r| r.position.segment == 2 && r.kind == Kind::Data).unwrap();
    let position = record.position;
    for at in span(record).step_by(7).chain([span(record).end - 1]) {
        log.edit(2, |bytes| bytes[at] ^= 0x10);
        let finding = log.first();
        let named = match finding {
            Finding::Damaged { seq, position: at } | Finding::Rewritten { seq, position: at } => (seq, at),
            other => panic!("byte {at}: {other}"),
        };
        assert_eq!(named, (record.seq, position));
        log.edit(2, |bytes| bytes[at] ^= 0x10);
    }
    for at in 0..HEADER {
        log.edit(3, |bytes| bytes[at] ^= 1);
        assert_eq!(log.first(), Finding::HeaderDamaged { segment: 3 });
        log.edit(3, |bytes| bytes[at] ^= 1);
    }
    assert!(log.verify().holds());
}

#[test]
fn a_flipped_byte_in_the_last_record_is_named() {
    let log = Log::new();
    let last = log.records().pop().unwrap();
    log.edit(last.position.segment, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_eq!(log.first(), Finding::Rewritten { seq: last.seq, position: last.position });
    log.edit(last.position.segment, |bytes| bytes[span(&last)].fill(0));
    assert_eq!(log.verify().last_seq, Some(last.seq - 1), "zeros at the end are a shorter log");
}

#[test]
fn swapped_records_are_named() {
    let log = Log::new();
    let records = log.records();
    let pair: Vec<_> = records.iter().filter(|r| r.position.segment == 2 && r.kind == Kind::Data).take(2).collect();
    let (a, b) = (span(pair[0]), span(pair[1]));
    log.edit(2, |bytes| {
        let (first, second) = (bytes[a.clone()].to_vec(), bytes[b.clone()].to_vec());
        bytes[a].copy_from_slice(&second);
        bytes[b].copy_from_slice(&first);
    });
    let expected = Finding::Gap { expected: pair[0].seq, found: pair[1].seq, position: pair[0].position };
    assert_eq!(log.first(), expected);
}

#[test]
fn a_record_taken_out_and_a_record_repeated_are_named() {
    let log = Log::new();
    let records = log.records();
    let pair: Vec<_> = records.iter().filter(|r| r.position.segment == 2).take(2).collect();
    let untouched = fs::read(log.path(2)).unwrap();
    log.edit(2, |bytes| drop(bytes.drain(span(pair[0]))));
    assert_eq!(log.first(), Finding::Gap { expected: pair[0].seq, found: pair[1].seq, position: pair[0].position });
    fs::write(log.path(2), untouched).unwrap();
    log.edit(2, |bytes| {
        let copy = bytes[span(pair[0])].to_vec();
        let at = span(pair[1]).start;
        bytes.splice(at..at, copy);
    });
    assert_eq!(log.first(), Finding::Fork { seq: pair[0].seq, position: pair[1].position });
}

#[test]
fn swapped_replayed_and_deleted_segments_are_named() {
    let log = Log::new();
    let (two, three) = (fs::read(log.path(2)).unwrap(), fs::read(log.path(3)).unwrap());
    fs::write(log.path(2), &three).unwrap();
    fs::write(log.path(3), &two).unwrap();
    assert_eq!(log.first(), Finding::SegmentMisplaced { file: 2, claims: 3 });
    fs::write(log.path(2), &two).unwrap();
    assert_eq!(log.first(), Finding::SegmentMisplaced { file: 3, claims: 2 });
    fs::remove_file(log.path(3)).unwrap();
    assert_eq!(log.first(), Finding::SegmentsMissing { from: 3, through: 3 });
    fs::write(log.path(3), &three).unwrap();
    assert!(log.verify().holds());
    fs::remove_file(log.path(1)).unwrap();
    assert_eq!(log.first(), Finding::SegmentsMissing { from: 1, through: 1 });
}

#[test]
fn a_segment_of_another_journal_is_named() {
    let (log, other) = (Log::new(), Log::new());
    fs::copy(other.path(3), log.path(3)).unwrap();
    assert!(matches!(log.first(), Finding::Foreign { segment: 3, .. }));
    let other_anchor = Expectation { anchor: Some(other.anchor), public_key: None };
    let report = super::verify(&log.folder, &other_anchor).unwrap();
    assert!(report.findings.iter().any(|finding| matches!(finding, Finding::OtherJournal { .. })));
}

#[test]
fn a_cut_tail_is_named_by_the_anchor_alone() {
    let log = Log::new();
    let records = log.records();
    let last = log.files().pop().unwrap();
    fs::remove_file(log.folder.join("anchor.json")).unwrap();
    let cut = records.iter().rfind(|r| r.position.segment == last.number && r.seq <= log.anchor.seq).unwrap();
    log.edit(last.number, |bytes| bytes.truncate(cut.position.offset as usize));
    assert!(super::verify(&log.folder, &Expectation::default()).unwrap().holds(), "a chain cannot know its end");
    assert_eq!(log.first(), Finding::CutTail { last: cut.seq - 1, anchor: log.anchor.seq });
    fs::remove_file(&last.path).unwrap();
    assert!(matches!(log.first(), Finding::CutTail { .. }), "whole segments too");
    log.files().iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    assert_eq!(log.first(), Finding::CutTail { last: 0, anchor: log.anchor.seq });
}

#[test]
fn a_journal_that_was_rolled_back_and_written_anew_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    write(config(dir.path()), 5).close();
    let kept: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).map(|p| (p.clone(), fs::read(p).unwrap())).collect();
    let journal = write(config(dir.path()), 20);
    journal.close();
    let anchor = journal.latest_checkpoint().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    kept.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    write(config(dir.path()), 40).close();
    let seq = anchor.seq;
    let expectation = Expectation { anchor: Some(anchor), public_key: None };
    let report = super::verify(&folder, &expectation).unwrap();
    assert_eq!(report.findings, [Finding::RolledBack { seq }]);
    assert!(super::verify(&folder, &Expectation::default()).unwrap().holds(), "only the anchor knows");
}

#[test]
fn a_forged_checkpoint_key_and_a_forged_anchor_are_named() {
    let log = Log::new();
    let (_, other) = (0, Log::new());
    let expectation = Expectation { anchor: None, public_key: Some(other.anchor.key.clone()) };
    let report = super::verify(&log.folder, &expectation).unwrap();
    assert!(matches!(report.findings.first(), Some(Finding::BadStatement { .. })));
    let forged = Checkpoint { seq: 3, ..log.anchor.clone() };
    let report = super::verify(&log.folder, &Expectation { anchor: Some(forged), public_key: None }).unwrap();
    assert!(report.findings.contains(&Finding::BadAnchor));
}

/// Whoever may write to the disk and has not the key can take a record out and make the chain anew: what they cannot make
/// is a checkpoint.
#[test]
fn a_chain_made_anew_without_the_key_is_named() {
    let log = Log::new();
    fs::remove_file(log.folder.join("anchor.json")).unwrap();
    let removed = log.records().into_iter().find(|r| r.position.segment == 2 && r.kind == Kind::Data).unwrap().seq;
    // Without any checkpoint behind the forgery, and without any at all.
    for from in [removed, 0] {
        let copy = tempfile::tempdir().unwrap();
        for file in log.files() {
            fs::copy(&file.path, copy.path().join(file.path.file_name().unwrap())).unwrap();
        }
        forge(copy.path(), |record| record.seq != removed && (record.kind == Kind::Data || record.seq < from));
        for public_key in [None, Some(log.anchor.key.clone())] {
            let report = super::verify(copy.path(), &Expectation { anchor: None, public_key }).unwrap();
            let named = report.findings.first().map(Finding::reason);
            assert_eq!(named, Some("RecordsUnsigned"), "{report:?}");
        }
    }
}

#[test]
fn a_crash_is_a_finding_until_the_next_start_accounts_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    write(config(dir.path()), 3).close();
    let path = list(&folder).unwrap().pop().unwrap().path;
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[9, 0, 0, 0, 1, 2, 3]);
    fs::write(&path, bytes).unwrap();
    let report = super::verify(&folder, &Expectation::default()).unwrap();
    assert!(
        matches!(*report.findings, [Finding::Damaged { seq: 6, position: Position { segment: 1, .. } }]),
        "{report:?}"
    );
    write(config(dir.path()), 3).close();
    let report = super::verify(&folder, &Expectation::default()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.notes.contains(&Note::Unacknowledged { segment: 1, bytes: 7 }));
}

#[test]
fn damage_before_a_checkpoint_cannot_pass_for_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    write(config(dir.path()), 3).close();
    let path = list(&folder).unwrap().pop().unwrap().path;
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    write(config(dir.path()), 3).close();
    let report = super::verify(&folder, &Expectation::default()).unwrap();
    assert_eq!(report.findings, [Finding::Lost { through: 4, segment: 1 }]);
}

#[test]
fn what_retention_removed_is_no_cut_and_more_than_that_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let config =
        JournalConfig { retain_bytes: 40_000, checkpoint_every: Duration::from_millis(1), ..config(dir.path()) };
    write(config, 100).close();
    let report = super::verify(&folder, &Expectation::default()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.notes.iter().any(|note| matches!(note, Note::Retained { .. })));
    let first = list(&folder).unwrap().remove(0);
    fs::remove_file(&first.path).unwrap();
    let report = super::verify(&folder, &Expectation::default()).unwrap();
    assert_eq!(report.findings, [Finding::SegmentsMissing { from: 1, through: first.number }]);
}
