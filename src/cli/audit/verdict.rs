//! What verification found, in words.

use serde::Serialize;

use super::SHOWN;
use crate::audit::verify::{Completeness, Report};
use crate::cli::output::counted;

/// A report, ready to be printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    pub(super) holds: bool,
    completeness: String,
    /// Whether an anchor would prove more, and none was given.
    #[serde(skip)]
    pub(super) wants_anchor: bool,
    /// The anchor's key and the journal's, where they differ: then each finding says that and no more.
    #[serde(skip)]
    pub(super) other_key: Option<[String; 2]>,
    journal: Option<String>,
    segments: u64,
    records: u64,
    checkpoints: u64,
    last_record: Option<u64>,
    decisions: u64,
    completions: u64,
    decisions_without_completion: u64,
    findings: Vec<Found>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    reason: &'static str,
    message: String,
}

impl Verdict {
    pub(super) fn of(report: &Report) -> Self {
        let found = report.findings.iter();
        Self {
            holds: report.holds(),
            completeness: report.completeness.to_string(),
            wants_anchor: report.completeness == Completeness::NotProven,
            other_key: None,
            journal: report.instance.clone(),
            segments: report.segments,
            records: report.records,
            checkpoints: report.checkpoints,
            last_record: report.last_seq,
            decisions: report.decisions,
            completions: report.completions,
            decisions_without_completion: report.decisions_without_completion,
            findings: found.map(|finding| Found { reason: finding.reason(), message: finding.to_string() }).collect(),
            notes: report.notes.iter().map(ToString::to_string).collect(),
        }
    }
}

pub(super) fn verdict_text(verdict: &Verdict) -> String {
    if let Some([anchor, journal]) = &verdict.other_key {
        return format!(
            "The journal does NOT hold against this anchor: the anchor's key is {anchor}, this journal's is {journal}. Is \
             the anchor of another gateway, or was the state folder made anew?"
        );
    }
    let mut lines = Vec::new();
    match verdict.findings.split_first() {
        None => lines.push("The journal holds.".to_owned()),
        Some((first, rest)) => {
            lines.push(format!("The journal does NOT hold: {} ({})", first.message, first.reason));
            let also =
                rest.iter().take(SHOWN).map(|finding| format!("  also: {} ({})", finding.message, finding.reason));
            lines.extend(also);
            if let Some(more) = rest.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                lines.push(format!("  and {more} more: -o json has them all"));
            }
        }
    }
    let mut completeness = verdict.completeness.clone();
    if let Some(first) = completeness.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let remedy = match verdict.wants_anchor {
        false => "",
        true => " Keep what `audit checkpoint` prints elsewhere, and give it with --anchor.",
    };
    lines.push(format!("{completeness}.{remedy}"));
    let many = |n: u64, one: &str| counted(usize::try_from(n).unwrap_or(usize::MAX), one);
    lines.push(format!(
        "{} in {}, {}; {}, {}, {} without one.",
        many(verdict.records, "record"),
        many(verdict.segments, "segment"),
        many(verdict.checkpoints, "checkpoint"),
        many(verdict.decisions, "decision"),
        many(verdict.completions, "completion"),
        many(verdict.decisions_without_completion, "decision"),
    ));
    lines.extend(verdict.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}
