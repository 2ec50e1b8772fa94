//! Whether the journal is what the proxy wrote: every finding names a place.
//!
//! A chain proves that nothing inside it was changed, moved, removed or put in. It cannot prove that its end was not cut
//! off; a checkpoint kept elsewhere (an *anchor*) can, up to itself. So the answer has two halves: the findings, and how
//! far completeness is proven.

mod finding;
mod scan;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use finding::{Completeness, Finding, Note};

use crate::journal::{Checkpoint, Head, ReadError};

/// What to verify against.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// A checkpoint that was kept out of the proxy's reach.
    pub anchor: Option<Checkpoint>,
    /// The journal's public key (base64url), if known from elsewhere. Without it and without an anchor, the journal's
    /// first checkpoint says which key it is, which a forger can too.
    pub public_key: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose journal.
    pub instance: Option<String>,
    /// Segments read.
    pub segments: u64,
    /// Records that hold, in their places.
    pub records: u64,
    /// The first of them.
    pub first_seq: Option<u64>,
    /// The last of them.
    pub last_seq: Option<u64>,
    /// Chain hash after the last.
    pub head: Option<Head>,
    /// Signed checkpoints that hold.
    pub checkpoints: u64,
    /// The last record that a checkpoint in the journal vouches for.
    pub checkpointed_seq: Option<u64>,
    /// Decisions among the records.
    pub decisions: u64,
    /// Completions among the records.
    pub completions: u64,
    /// Calls that were let through and have no completion: under way, or dropped with their completion.
    pub decisions_without_completion: u64,
    /// Completions whose decision is not there: removed by retention, or a dropped `BestEffort` decision.
    pub completions_without_decision: u64,
    /// Records that are no events of ours.
    pub unreadable: u64,
    /// What is wrong, in the order of the journal: the first is the first bad place.
    pub findings: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<Note>,
    /// How far completeness is proven.
    pub completeness: Completeness,
}

impl Report {
    /// Whether nothing is wrong. It does not say that nothing is missing at the end: see `completeness`.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Verifies the journal in `dir`. A journal that is being written may be verified too.
pub fn verify(dir: &Path, expectation: &Expectation) -> Result<Report, ReadError> {
    scan::Scan::new(expectation).run(dir)
}
