//! From the recorder through the journal to the questions.

use std::path::Path;
use std::sync::Arc;

use super::query::{Filter, Tail, query};
use super::verify::{Expectation, verify};
use super::*;
use crate::journal::testing::Gate;
use crate::journal::{JournalConfig, SystemClock};

fn open(dir: &Path) -> (Recorder, u64) {
    let (recorder, recovery) = Recorder::open(AuditConfig::in_state_dir(dir), Arc::new(SystemClock)).unwrap();
    let unfinished = recorder.start(&recovery).unwrap();
    (recorder, unfinished)
}

fn event<'a>(subject: &'a str, tool: &'a str, verdict: Verdict) -> DecisionEvent<'a> {
    DecisionEvent {
        method: "tools/call",
        target: Target::Tool(tool),
        principal: Some(PrincipalFields { authority: "corp", subject, kind: "User", ..PrincipalFields::default() }),
        server: ServerFields { uid: "u", namespace: "team-a", name: "github" },
        verdict: Some(verdict),
        reason: "Because",
        ..DecisionEvent::default()
    }
}

fn completion(outcome: Outcome) -> CompletionEvent<'static> {
    CompletionEvent {
        outcome,
        delivery: Delivery::Durable,
        reason: None,
        rpc_status: None,
        upstream_status: Some(200),
        duration_us: 10,
        response_bytes: 2,
        result: None,
        redact: None,
    }
}

async fn decide(recorder: &Recorder, event: &DecisionEvent<'_>) -> AuditId {
    let receipt = recorder.decision(Delivery::Durable, event);
    let id = receipt.id();
    receipt.durable().await.unwrap();
    id
}

#[tokio::test]
async fn a_call_is_two_records_that_questions_find_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("journal");
    let (recorder, _) = open(dir.path());
    let mut tail =
        Tail::open(&folder, Filter { principal: Some("corp:ann".into()), ..Filter::default() }, false).unwrap();
    let id = decide(&recorder, &event("ann", "get_issue", Verdict::Allow)).await;
    recorder.completion(id, &completion(Outcome::Error));
    let other = decide(&recorder, &event("bob", "get_issue", Verdict::Allow)).await;
    recorder.completion(other, &completion(Outcome::Result));
    decide(&recorder, &event("ann", "delete_issue", Verdict::Deny)).await;
    recorder.close();
    assert_eq!(recorder.counters().written, 7);

    let ask = |filter: Filter| -> Vec<_> {
        let calls = query(&folder, &filter, 10).unwrap().calls;
        calls.into_iter().map(|call| (call.entry.fields.tool, call.completion.and_then(|c| c.fields.outcome))).collect()
    };
    let get = (Some("get_issue".to_owned()), Some("error".to_owned()));
    let delete = (Some("delete_issue".to_owned()), None);
    assert_eq!(ask(Filter { principal: Some("ann".into()), ..Filter::default() }), [get.clone(), delete.clone()]);
    assert_eq!(ask(Filter { outcome: Some("error".into()), ..Filter::default() }), vec![get.clone()]);
    assert_eq!(ask(Filter { decision: Some("deny".into()), ..Filter::default() }), vec![delete.clone()]);
    assert_eq!(ask(Filter { target: Some("delete_issue".into()), ..Filter::default() }), vec![delete.clone()]);
    assert_eq!(ask(Filter { server: Some("team-a/github".into()), ..Filter::default() }).len(), 3);
    assert_eq!(ask(Filter { server: Some("team-b/github".into()), ..Filter::default() }), []);
    assert_eq!(ask(Filter { principal: Some("other:ann".into()), ..Filter::default() }), []);
    assert_eq!(ask(Filter { until_unix_ms: Some(1), ..Filter::default() }), []);
    assert_eq!(ask(Filter { since_unix_ms: Some(1), event: Some(STARTUP.into()), ..Filter::default() }).len(), 1);
    let newest = query(&folder, &Filter { event: Some(DECISION.into()), ..Filter::default() }, 1).unwrap();
    assert!(newest.truncated);
    assert_eq!(newest.calls[0].entry.fields.tool.as_deref(), Some("delete_issue"));

    let followed: Vec<_> = std::iter::from_fn(|| tail.poll().unwrap()).map(|entry| entry.fields.event).collect();
    assert_eq!(followed, [DECISION, COMPLETION, DECISION]);

    let report = verify(&folder, &Expectation::default()).unwrap();
    assert!(report.holds());
    assert_eq!((report.decisions, report.completions), (3, 2));
    assert_eq!((report.decisions_without_completion, report.completions_without_decision), (0, 0));
}

#[tokio::test]
async fn calls_that_a_run_left_open_end_as_unknown_once() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, unfinished) = open(dir.path());
    assert_eq!(unfinished, 0);
    let done = decide(&recorder, &event("ann", "a", Verdict::Allow)).await;
    let left = decide(&recorder, &event("ann", "b", Verdict::Allow)).await;
    decide(&recorder, &event("ann", "c", Verdict::Deny)).await;
    recorder.completion(done, &completion(Outcome::Result));
    drop(recorder);

    // A run that ended before it had closed them: the next one still finds them.
    drop(Recorder::open(AuditConfig::in_state_dir(dir.path()), Arc::new(SystemClock)).unwrap());
    let (recorder, unfinished) = open(dir.path());
    assert_eq!(unfinished, 1);
    drop(recorder);
    let (recorder, unfinished) = open(dir.path());
    assert_eq!(unfinished, 0);
    drop(recorder);

    let filter = Filter { outcome: Some("unknown".into()), ..Filter::default() };
    let calls = query(&dir.path().join("journal"), &filter, 10).unwrap().calls;
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].entry.fields.id, Some(left.to_string()));
}

/// The one call there is: its decision, how it ended, and why.
fn only_call(dir: &Path) -> [Option<String>; 3] {
    let filter = Filter { event: Some(DECISION.into()), ..Filter::default() };
    let [call] = query(&dir.join("journal"), &filter, 10).unwrap().calls.try_into().unwrap();
    let end = call.completion.unwrap().fields;
    [call.entry.fields.decision, end.outcome, end.error]
}

#[tokio::test]
async fn a_call_that_is_refused_because_the_disk_hangs_is_never_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let config = AuditConfig::in_state_dir(dir.path());
    let journal = JournalConfig { patience: std::time::Duration::from_secs(1), ..config.journal.clone() };
    let (journal, recovery) = gate.open_journal(journal, Arc::new(SystemClock)).unwrap();
    let recorder = Recorder::over(journal, &recovery, config, Arc::new(SystemClock)).unwrap();
    recorder.start(&recovery).unwrap();
    gate.shut();
    let receipt = recorder.decision(Delivery::Durable, &event("ann", "a", Verdict::Allow));
    assert_eq!(receipt.durable().await.unwrap_err().reason(), "JournalStalled");
    assert_eq!(recorder.healthy().unwrap_err().reason(), "JournalStalled");
    let late = recorder.decision(Delivery::Durable, &event("ann", "b", Verdict::Allow));
    assert_eq!(late.durable().await.unwrap_err().reason(), "JournalStalled", "and leaves no record at all");

    gate.open(false);
    while recorder.healthy().is_err() {
        tokio::task::yield_now().await;
    }
    recorder.close();
    assert_eq!(only_call(dir.path()), ["allow", "denied", "JournalStalled"].map(|word| Some(word.to_owned())));
    let report = verify(&dir.path().join("journal"), &Expectation::default()).unwrap();
    assert_eq!((report.holds(), report.decisions_without_completion), (true, 0));
    assert_eq!(open(dir.path()).1, 0, "nothing is left open for the next start");
}

#[tokio::test]
async fn a_journal_whose_disk_failed_in_between_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let config = AuditConfig::in_state_dir(dir.path());
    let (journal, recovery) = gate.open_journal(config.journal.clone(), Arc::new(SystemClock)).unwrap();
    let recorder = Recorder::over(journal, &recovery, config, Arc::new(SystemClock)).unwrap();
    recorder.start(&recovery).unwrap();
    for _ in 0..2 {
        decide(&recorder, &event("ann", "a", Verdict::Deny)).await;
        gate.shut();
        let receipt = recorder.decision(Delivery::Durable, &event("ann", "b", Verdict::Deny));
        while !gate.holds() {
            tokio::task::yield_now().await;
        }
        gate.open(true);
        assert_eq!(receipt.durable().await.unwrap_err().reason(), "JournalPoisoned");
        while recorder.healthy().is_err() {
            tokio::task::yield_now().await;
        }
    }
    recorder.close();
    let report = verify(&dir.path().join("journal"), &Expectation::default()).unwrap();
    assert_eq!((report.findings, report.decisions), (vec![], 2));
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_record_is_kept_leaves_no_call_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let config = AuditConfig::in_state_dir(dir.path());
    let (journal, recovery) = gate.open_journal(config.journal.clone(), Arc::new(SystemClock)).unwrap();
    let recorder = Recorder::over(journal, &recovery, config, Arc::new(SystemClock)).unwrap();
    recorder.start(&recovery).unwrap();
    gate.shut();
    let mut leaving = Box::pin(recorder.decision(Delivery::Durable, &event("ann", "a", Verdict::Allow)).durable());
    assert!(futures_util::poll!(&mut leaving).is_pending());
    drop(leaving);
    gate.open(false);
    recorder.close();
    assert_eq!(only_call(dir.path()), ["allow", "denied", "CallerGone"].map(|word| Some(word.to_owned())));
    assert_eq!(open(dir.path()).1, 0);
}

#[tokio::test]
async fn a_closed_journal_refuses_durable_decisions_and_counts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, _) = open(dir.path());
    assert!(recorder.healthy().is_ok());
    recorder.close();
    let event = event("ann", "a", Verdict::Allow);
    let receipt = recorder.decision(Delivery::Durable, &event);
    assert_eq!(receipt.durable().await.unwrap_err().reason(), "JournalClosed");
    let receipt = recorder.decision(Delivery::BestEffort, &event);
    let id = receipt.id();
    assert!(receipt.durable().await.is_ok());
    recorder.completion(id, &completion(Outcome::Result));
    let counters = recorder.counters();
    assert_eq!((counters.failed, counters.dropped, counters.completions_dropped), (1, 2, 1));
    assert!(recorder.healthy().is_err());
}

/// A clock that steps: two milliseconds forward, and now and then an hour back.
#[derive(Debug, Default)]
struct Stepping(std::sync::atomic::AtomicU64);

impl crate::journal::Clock for Stepping {
    fn unix_ms(&self) -> u64 {
        let turn = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        1_700_000_000_000 + turn / 5000 - (turn / 1000 % 2) * 3_600_000
    }
}

#[test]
fn ids_are_version_7_distinct_and_sorted_within_a_run_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditConfig::in_state_dir(dir.path());
    let (recorder, _) = Recorder::open(config, Arc::new(Stepping::default())).unwrap();
    let event = event("ann", "a", Verdict::Deny);
    let ids: Vec<_> = (0..20_000).map(|_| recorder.decision(Delivery::BestEffort, &event).id()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "and so distinct");
    assert!(ids.iter().all(|id| AuditId::parse(&id.to_string()) == Some(*id) && id.to_string().as_bytes()[14] == b'7'));
}
