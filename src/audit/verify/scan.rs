//! One pass over the journal, oldest segment first.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Completeness, Expectation, Finding, Note, Report};
use crate::audit::unfinished::Calls;
use crate::journal::{
    Checkpoint, Head, Header, Kind, Position, ReadError, Record, RetentionNote, SegmentFile, SegmentReader, Step,
    highest_checkpoint, is_live, list,
};

/// A live writer may be in the middle of a write: its last record is looked at again so often.
const LIVE_LOOKS: usize = 50;

/// Where the pass stands.
#[derive(Clone, Copy, Debug)]
struct Reached {
    segment: u64,
    /// The number that the next record has.
    next_seq: u64,
    /// Chain hash there; none behind something damaged.
    head: Option<Head>,
    /// Where reading ended.
    len: u64,
}

pub(super) struct Scan<'a> {
    expectation: &'a Expectation,
    report: Report,
    reached: Option<Reached>,
    first: Option<Header>,
    /// Segments that are there and cannot be read: found wrong already, so not missing besides.
    refused: BTreeSet<u64>,
    notes: Vec<RetentionNote>,
    key: Option<String>,
    calls: Calls,
    /// The first record behind the last checkpoint.
    unsigned: Option<(u64, Position)>,
    /// It lies in a segment that is over: what comes next must be a checkpoint.
    overdue: bool,
    anchor_met: bool,
    live: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(expectation: &'a Expectation) -> Self {
        let anchor_key = expectation.anchor.as_ref().map(|anchor| anchor.key.clone());
        Self {
            expectation,
            report: Report::default(),
            reached: None,
            first: None,
            refused: BTreeSet::new(),
            notes: Vec::new(),
            key: expectation.public_key.clone().or(anchor_key),
            calls: Calls::default(),
            unsigned: None,
            overdue: false,
            anchor_met: false,
            live: false,
        }
    }

    pub(super) fn run(mut self, dir: &Path) -> Result<Report, ReadError> {
        self.live = is_live(dir);
        if self.live {
            self.report.notes.push(Note::Live);
        }
        if self.key.is_none() {
            self.report.notes.push(Note::KeyUnpinned);
        }
        let files = list(dir).map_err(|error| ReadError::Io { path: dir.to_owned(), error })?;
        let mut segments = Vec::new();
        for file in files {
            match self.admit(&file)? {
                Some(segment) => segments.push((file, segment)),
                None => {
                    self.refused.insert(file.number);
                }
            }
        }
        let mut segments = segments.into_iter().peekable();
        while let Some((file, segment)) = segments.next() {
            let next = segments.peek().map(|(_, next)| next.header().clone());
            self.segment(&file, segment, next.as_ref())?;
        }
        self.judge_own_anchor(dir);
        Ok(self.finish())
    }

    /// Opens a segment whose header stands in the right file.
    fn admit(&mut self, file: &SegmentFile) -> Result<Option<SegmentReader>, ReadError> {
        let segment = match SegmentReader::open(&file.path) {
            Ok(segment) => segment,
            Err(ReadError::Header { .. }) => {
                self.report.findings.push(Finding::HeaderDamaged { segment: file.number });
                return Ok(None);
            }
            // Retention was faster.
            Err(ReadError::Io { error, .. }) if self.live && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let header = segment.header();
        if header.segment != file.number {
            self.report.findings.push(Finding::SegmentMisplaced { file: file.number, claims: header.segment });
            return Ok(None);
        }
        let instance = self.first.get_or_insert_with(|| header.clone()).instance;
        if header.instance != instance {
            let instance = header.instance.to_string();
            self.report.findings.push(Finding::Foreign { segment: file.number, instance });
            return Ok(None);
        }
        Ok(Some(segment))
    }

    fn segment(
        &mut self,
        file: &SegmentFile,
        mut segment: SegmentReader,
        next: Option<&Header>,
    ) -> Result<(), ReadError> {
        self.report.segments += 1;
        self.link(segment.header(), segment.offset());
        if !self.reached.is_some_and(|reached| reached.head.is_some() && reached.segment + 1 == file.number) {
            // Behind a gap or damage, which is named, nothing can be said.
            self.unsigned = None;
        }
        self.overdue = self.unsigned.is_some();
        let end = next.filter(|next| next.previous == file.number).map(|next| next.previous_len);
        if let Some(end) = end {
            segment.end_at(end);
        }
        let whole = self.records(&mut segment, next.is_none())?;
        self.reached = Some(Reached {
            segment: file.number,
            next_seq: segment.next_seq(),
            head: whole.then(|| segment.head()),
            len: segment.offset(),
        });
        if whole {
            self.remains(file.number, &segment, end)?;
        }
        Ok(())
    }

    /// Compares a segment's header with where the pass stands.
    fn link(&mut self, header: &Header, offset: u64) {
        let expected = self.reached.map_or(1, |reached| reached.segment + 1);
        if header.segment > expected {
            let missing = !(expected..header.segment).all(|segment| self.refused.contains(&segment));
            let finding = Finding::SegmentsMissing { from: expected, through: header.segment - 1 };
            return self.report.findings.extend(missing.then_some(finding));
        }
        let Some(reached) = self.reached else { return };
        let position = Position { segment: header.segment, offset };
        if header.first_seq < reached.next_seq {
            self.report.findings.push(Finding::Fork { seq: header.first_seq, position });
        } else if header.previous != reached.segment
            || reached.head.is_some_and(|head| {
                (head, reached.next_seq, reached.len) != (header.previous_head, header.first_seq, header.previous_len)
            })
        {
            self.report.findings.push(Finding::Unlinked { segment: header.segment });
        }
    }

    /// Reads a segment's records up to its end; `false` if it stops before.
    fn records(&mut self, segment: &mut SegmentReader, last: bool) -> Result<bool, ReadError> {
        let mut looks = if self.live && last { LIVE_LOOKS } else { 0 };
        let mut before = segment.head();
        loop {
            let position = Position { segment: segment.header().segment, offset: segment.offset() };
            let seq = segment.next_seq();
            let finding = match segment.step()? {
                Step::Record(record) => {
                    self.record(&record, before);
                    before = record.head;
                    continue;
                }
                Step::End => return Ok(true),
                _ if looks > 0 => {
                    looks -= 1;
                    std::thread::yield_now();
                    continue;
                }
                Step::Damaged => Finding::Damaged { seq, position },
                Step::Misplaced { expected, found } if found < expected => Finding::Fork { seq: found, position },
                Step::Misplaced { expected, found } => Finding::Gap { expected, found, position },
                Step::Unchained { seq } => Finding::Rewritten { seq, position },
            };
            self.report.findings.push(finding);
            return Ok(false);
        }
    }

    /// What lies behind the end: nothing, a write that was never acknowledged, or records that someone disowned.
    fn remains(&mut self, number: u64, segment: &SegmentReader, end: Option<u64>) -> Result<(), ReadError> {
        if self.live && end.is_none() {
            return Ok(());
        }
        let remains = segment.remains()?;
        if remains.is_empty() {
            return Ok(());
        }
        let next_seq = segment.next_seq();
        if let Some(through) = highest_checkpoint(&remains).filter(|seq| *seq >= next_seq) {
            self.report.findings.push(Finding::Lost { through, segment: number });
        } else if end.is_some() {
            self.report.notes.push(Note::Unacknowledged { segment: number, bytes: remains.len() as u64 });
        } else {
            let position = Position { segment: number, offset: segment.offset() };
            self.report.findings.push(Finding::Damaged { seq: next_seq, position });
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, before: Head) {
        self.report.records += 1;
        self.report.first_seq.get_or_insert(record.seq);
        self.report.last_seq = Some(record.seq);
        self.report.head = Some(record.head);
        self.sign(record);
        match record.kind {
            Kind::Data => self.calls.observe(&record.payload),
            Kind::Checkpoint => self.checkpoint(record, before),
            Kind::Retention => self.retention(record),
        }
        self.meet_anchor(record, before);
    }

    /// Follows how far checkpoints reach. A forger without the key can make the chain anew, and no checkpoint.
    fn sign(&mut self, record: &Record) {
        let signed = record.kind == Kind::Checkpoint;
        if let Some((seq, position)) = self.unsigned.filter(|_| std::mem::take(&mut self.overdue) && !signed) {
            self.report.findings.push(Finding::Unsigned { seq, position });
        }
        self.unsigned = if signed { None } else { self.unsigned.or(Some((record.seq, record.position))) };
    }

    /// The anchor's head is that of its record or, if it was signed at the beginning of a segment, that of the segment's
    /// header, which the next record stands behind.
    fn meet_anchor(&mut self, record: &Record, before: Head) {
        let Some(anchor) = &self.expectation.anchor else { return };
        let head = Head::parse(&anchor.head);
        if record.seq == anchor.seq {
            self.anchor_met |= head == Some(record.head);
        } else if record.seq == anchor.seq + 1 {
            self.anchor_met |= head == Some(before);
            if !self.anchor_met {
                self.report.findings.push(Finding::RolledBack { seq: anchor.seq });
            }
        }
    }

    /// A checkpoint stands right behind the record that it vouches for.
    fn checkpoint(&mut self, record: &Record, before: Head) {
        let said = Checkpoint::parse(&record.payload).ok().filter(Checkpoint::is_signed);
        let holds = said.is_some_and(|said| {
            self.is_ours(&said.key, &said.instance)
                && said.seq + 1 == record.seq
                && (said.epoch, said.segment) == (record.epoch, record.position.segment)
                && Head::parse(&said.head) == Some(before)
        });
        if !holds {
            return self.report.findings.push(Finding::BadStatement { seq: record.seq });
        }
        self.report.checkpoints += 1;
        self.report.checkpointed_seq = Some(record.seq - 1);
    }

    fn retention(&mut self, record: &Record) {
        let said = RetentionNote::parse(&record.payload).ok().filter(RetentionNote::is_signed);
        match said {
            Some(said) if self.is_ours(&said.key, &said.instance) => self.notes.push(said),
            _ => self.report.findings.push(Finding::BadStatement { seq: record.seq }),
        }
    }

    fn is_ours(&mut self, key: &str, instance: &str) -> bool {
        let known = self.key.get_or_insert_with(|| key.to_owned());
        known == key && self.first.as_ref().is_some_and(|first| first.instance.to_string() == instance)
    }

    fn finish(mut self) -> Report {
        self.explain_gaps();
        self.judge_anchor();
        if let Some((seq, _)) = self.unsigned.filter(|_| !self.live) {
            self.report.notes.push(Note::Unsigned { seq });
        }
        let Self { mut report, calls, first, .. } = self;
        report.instance = first.map(|header| header.instance.to_string());
        report.decisions = calls.decisions;
        report.completions = calls.completions;
        report.decisions_without_completion = calls.open.len() as u64;
        report.completions_without_decision = calls.orphans.len() as u64;
        report.unreadable = calls.unreadable;
        report
    }

    /// A missing segment is retention's if a signed note says so, and the first one kept continues what the note names.
    fn explain_gaps(&mut self) {
        let Some(noted) = self.notes.iter().max_by_key(|note| note.through_segment) else { return };
        let first = self.first.as_ref();
        let continues = first.is_none_or(|first| {
            first.first_seq == noted.through_seq + 1 && Head::parse(&noted.head) == Some(first.previous_head)
        });
        self.report.findings.retain(|finding| match finding {
            // The last segment that was removed borders on the first one kept: there the chain must go on.
            Finding::SegmentsMissing { from: 1, through } if *through == noted.through_segment => !continues,
            Finding::SegmentsMissing { through, .. } => *through > noted.through_segment,
            _ => true,
        });
        let (through_segment, through_seq) = (noted.through_segment, noted.through_seq);
        self.report.notes.push(Note::Retained { through_segment, through_seq });
    }

    /// The journal's own copy of its latest checkpoint proves nothing, but a cut that forgot it is a cut.
    fn judge_own_anchor(&mut self, dir: &Path) {
        if self.expectation.anchor.is_some() || self.live {
            return;
        }
        let own = std::fs::read(dir.join("anchor.json")).ok().and_then(|json| Checkpoint::parse(&json).ok());
        let last = self.report.last_seq.unwrap_or(0);
        if let Some(own) = own.filter(|own| own.seq > last && own.is_signed()) {
            self.report.findings.push(Finding::CutTail { last, anchor: own.seq });
        }
    }

    fn judge_anchor(&mut self) {
        let Some(anchor) = &self.expectation.anchor else { return };
        let instance = self.first.as_ref().map(|header| header.instance.to_string());
        let key_differs = self.expectation.public_key.as_ref().is_some_and(|key| *key != anchor.key);
        let findings = &mut self.report.findings;
        if !anchor.is_signed() || key_differs {
            return findings.push(Finding::BadAnchor);
        }
        if let Some(instance) = instance.filter(|instance| *instance != anchor.instance) {
            return findings.push(Finding::OtherJournal { anchor: anchor.instance.clone(), instance });
        }
        let last = self.report.last_seq.unwrap_or(0);
        if last < anchor.seq {
            return findings.push(Finding::CutTail { last, anchor: anchor.seq });
        }
        if self.report.first_seq.is_some_and(|first| first > anchor.seq) && anchor.seq > 0 {
            return self.report.notes.push(Note::AnchorRetired { seq: anchor.seq });
        }
        if last == anchor.seq && anchor.seq > 0 && !self.anchor_met {
            return findings.push(Finding::RolledBack { seq: anchor.seq });
        }
        if findings.is_empty() && (self.anchor_met || anchor.seq == 0) {
            self.report.completeness = Completeness::UpToAnchor { seq: anchor.seq };
        }
    }
}
