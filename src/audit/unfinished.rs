//! Which calls an earlier run left open: decided to go on, and no end recorded.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use super::event::AuditId;
use super::record::{COMPLETION, DECISION, STARTUP};
use super::recorder::{expects_completion, is_refusal};
use crate::journal::{Kind, ReadError, Reader, SegmentReader, list};

/// What a record says about a call's life.
#[derive(Deserialize)]
struct Life<'a> {
    #[serde(rename = "event.name", borrow)]
    event: &'a str,
    #[serde(rename = "audit.id", borrow, default)]
    id: Option<&'a str>,
    #[serde(rename = "portcullis.decision", borrow, default)]
    decision: Option<&'a str>,
    #[serde(rename = "portcullis.outcome", borrow, default)]
    outcome: Option<&'a str>,
}

/// Follows calls from decision to completion: memory grows with the calls that are open at once.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) open: HashSet<AuditId>,
    /// Completions whose decision was not seen before them.
    pub(super) orphans: HashSet<AuditId>,
    pub(super) decisions: u64,
    pub(super) completions: u64,
    pub(super) starts: u64,
    pub(super) unreadable: u64,
}

impl Calls {
    pub(super) fn observe(&mut self, payload: &[u8]) {
        let Ok(life) = serde_json::from_slice::<Life<'_>>(payload) else {
            self.unreadable += 1;
            return;
        };
        let id = life.id.and_then(AuditId::parse);
        match (life.event, id) {
            (DECISION, Some(id)) => {
                self.decisions += 1;
                if life.decision.is_some_and(expects_completion) {
                    self.open.insert(id);
                }
            }
            (COMPLETION, Some(id)) => {
                self.completions += 1;
                if !self.open.remove(&id) && !life.outcome.is_some_and(is_refusal) {
                    self.orphans.insert(id);
                }
            }
            (STARTUP, _) => self.starts += 1,
            _ => {}
        }
    }
}

/// Calls left open before `epoch`, oldest first. A run that recorded its start had closed all calls before itself, so
/// reading goes back no further than the last such run.
pub(super) fn before(dir: &Path, epoch: u64) -> Result<Vec<AuditId>, ReadError> {
    let mut first_segments = Vec::new();
    let files = list(dir).map_err(|error| ReadError::Io { path: dir.to_owned(), error })?;
    for file in files {
        // A damaged header is the verifier's to name; the segment's calls stay as they are.
        let Ok(segment) = SegmentReader::open(&file.path) else { continue };
        let of = segment.header().epoch;
        if of < epoch && first_segments.last().is_none_or(|(last, _)| *last != of) {
            first_segments.push((of, file.number));
        }
    }
    let mut open = HashSet::new();
    let mut completed = HashSet::new();
    for (of, segment) in first_segments.into_iter().rev() {
        let calls = calls_of(dir, of, segment);
        completed.extend(calls.orphans);
        open.extend(calls.open.into_iter().filter(|id| !completed.contains(id)));
        if calls.starts > 0 {
            break;
        }
    }
    let mut open: Vec<_> = open.into_iter().collect();
    open.sort_unstable();
    Ok(open)
}

fn calls_of(dir: &Path, epoch: u64, first: u64) -> Calls {
    let mut calls = Calls::default();
    let mut reader = Reader::open(dir, first);
    loop {
        match reader.next() {
            Ok(Some(record)) if record.epoch > epoch => return calls,
            Ok(Some(record)) if record.kind == Kind::Data => calls.observe(&record.payload),
            Ok(Some(_)) => {}
            Ok(None) => return calls,
            // What is damaged is passed over, and said: the start must not hang on it.
            Err(error) => {
                tracing::warn!(%error, "part of the audit journal cannot be read");
                if matches!(error, ReadError::Io { .. }) {
                    return calls;
                }
            }
        }
    }
}
