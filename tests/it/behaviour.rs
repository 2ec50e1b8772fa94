//! The behaviour table, offline and at the evaluator that the proxy asks: what `validate` says, and what an object does that
//! came there unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use portcullis::api::object::{self, Object, Rejected};
use portcullis::api::{Invalidity, Key};
use portcullis::cli::{load, validate};
use portcullis::fleet::Fleet;
use portcullis::generated::policy::{Effect, Standing};
use portcullis::generated::server::State;
use portcullis::policy::decision::{Decision, Reason};
use portcullis::policy::evaluate::evaluate;
use portcullis::policy::index::PrincipalKeys;
use portcullis::policy::list::{Visibility, list};
use portcullis::policy::request::{Facts, Request, Target};
use portcullis::resolve::{self, Accepted, Cluster, Observed, PublicUrl, Resolution, Settings};
use portcullis::tools::risk::KnownRisk;
use serde_json::Value;

use crate::support::behaviour::{Answer, Call, Case, Expect, Listed, authors, cases, edits, world};

const SYSTEM: &str = "portcullis-system";

fn with_settings<T>(ask: impl FnOnce(&Settings<'_>) -> T) -> T {
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let cluster = Cluster::presumed();
    ask(&Settings { public_url: &public_url, system_namespace: SYSTEM, cluster: Some(&cluster) })
}

/// Everything that is there in a case, with one object in the place of its own key.
fn objects(case: &Case, object: Value) -> Vec<Value> {
    let is_it = |other: &Value| {
        let id = |object: &Value| {
            let metadata = &object["metadata"];
            [&object["kind"], &metadata["namespace"], &metadata["name"]].map(Value::to_string)
        };
        id(other) == id(&object)
    };
    let mut all: Vec<Value> =
        world().into_iter().chain(case.given.iter().cloned()).filter(|other| !is_it(other)).collect();
    all.push(object);
    all
}

#[test]
fn the_table_holds_what_it_is_meant_to_hold() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "every case has a name of its own");
    assert!(cases.len() >= 64, "{}", cases.len());
    for case in &cases {
        assert_eq!(case.expect == Expect::Accept, case.reason.is_none(), "{}", case.name);
        let known = |word: &&str| resolve::Reason::ALL.iter().any(|reason| reason.as_str() == *word);
        assert!(case.words().iter().all(known), "{}: {:?}", case.name, case.words());
    }
    for expect in [Expect::Accept, Expect::Warn, Expect::Reject] {
        assert!(cases.iter().filter(|case| case.expect == expect).count() >= 12, "{expect:?}");
    }
}

/// The word for a right that is missing, which is no finding.
const GRANT_MISSING: &str = "GrantMissing";

#[test]
fn the_cases_of_rights_and_changes_hold_what_they_are_meant_to_hold() {
    let (cases, edits) = (cases(), edits());
    let names = cases.iter().map(|case| case.name.as_str()).chain(edits.iter().map(|edit| edit.name.as_str()));
    assert_eq!(names.collect::<BTreeSet<_>>().len(), cases.len() + edits.len(), "every case has a name of its own");
    let bound = authors().into_iter().flat_map(|one| one["subjects"].as_array().cloned().unwrap_or_default());
    let bound: BTreeSet<String> = bound.map(|subject| subject["name"].as_str().unwrap().to_owned()).collect();
    let writing: BTreeSet<String> = edits.iter().map(|edit| edit.author.clone()).collect();
    assert_eq!(bound, writing, "every author may do something, and does");
    for edit in &edits {
        let known = |word: &&str| *word == GRANT_MISSING || resolve::Reason::ALL.iter().any(|r| r.as_str() == *word);
        assert!(edit.words().iter().all(known), "{}: {:?}", edit.name, edit.words());
        let wrong = edit.given.iter().find(|given| object::read(given).is_err());
        assert!(wrong.is_none(), "{}: {wrong:?}", edit.name);
        let lacks = edit.reason.as_deref() == Some(GRANT_MISSING);
        assert_eq!(lacks, !edit.needs.is_empty(), "{}", edit.name);
        match edit.expect {
            Expect::Reject => {
                assert_ne!(edit.policy.is_some(), edit.reason.is_some(), "{}: one of both refuses", edit.name);
                assert!(edit.changes.is_empty(), "{}: nothing changes", edit.name);
            }
            Expect::Accept => assert!(edit.words().is_empty() && edit.policy.is_none(), "{}", edit.name),
            Expect::Warn => assert!(edit.reason.is_some() && edit.policy.is_none() && !lacks, "{}", edit.name),
        }
    }
    assert!(edits.iter().filter(|edit| !edit.needs.is_empty()).count() >= 25);
    assert!(edits.iter().filter(|edit| edit.expect != Expect::Reject).count() >= 15);
}

#[test]
fn the_table_holds_offline() {
    let wrong: Vec<String> =
        cases().iter().filter_map(|case| differs_offline(case).map(|how| format!("{}: {how}", case.name))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How `validate` differs from what a case expects of it.
fn differs_offline(case: &Case) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<String> = objects(case, case.object()).iter().map(Value::to_string).collect();
    std::fs::write(folder.path().join("all.yaml"), all.join("\n---\n")).unwrap();
    let report = with_settings(|settings| validate::report(&[folder.path().to_owned()], settings));
    let severity = match case.expect {
        Expect::Accept => None,
        Expect::Warn => Some("Warning"),
        Expect::Reject => Some("Error"),
    };
    let called = case.called();
    let mut words: Vec<&str> = report.findings.iter().map(|line| line.reason).collect();
    words.sort_unstable();
    let found = report.findings.iter().find(|line| Some(line.reason) == case.reason.as_deref());
    let field = found.map(|line| line.field.as_str()).filter(|field| !field.is_empty());
    let holds = words == case.words()
        && found.map(|line| line.severity) == severity
        && field == case.field.as_deref()
        && report.findings.iter().all(|line| line.object.as_deref() == Some(&*called))
        && (report.errors > 0) == (case.expect == Expect::Reject)
        && report.notes.is_empty();
    (!holds).then(|| format!("{:#?}", report.findings))
}

/// What the controller and standalone make of objects, whoever let them in.
fn resolved(documents: &[Value], previous: &Accepted) -> Resolution {
    let mut objects: Vec<Object> = Vec::new();
    let mut invalid: BTreeMap<Key, Invalidity> = BTreeMap::new();
    for document in documents {
        match object::read(document) {
            Ok(object) => objects.push(object),
            Err(Rejected::Invalid { key, problems }) => {
                invalid.insert(key, Invalidity::Problems(problems));
            }
            Err(other) => panic!("{other:?}: {document}"),
        }
    }
    with_settings(|settings| resolve::tree(settings, &objects, &invalid, false, previous, Observed::default()))
}

/// The fleet that a proxy has after the case's object came to it, over what it replaced.
fn slipped_past(case: &Case) -> Fleet {
    let before = case.before.clone().map(|before| resolved(&objects(case, before), &Accepted::default()));
    let previous = before.map(|before| before.accepted).unwrap_or_default();
    load::joined(resolved(&objects(case, case.object()), &previous)).unwrap().fleet
}

fn decide(fleet: &Fleet, call: &Call) -> (Answer, Option<Decision>, Listed) {
    let (namespace, name) = call.to.split_once('/').unwrap();
    let Some(served) = fleet.by_name(namespace, name) else { return (Answer::NotServed, None, Listed::No) };
    if served.server.state != State::Enabled {
        return (Answer::NotServed, None, Listed::No);
    }
    let principal = call.principal();
    let keys = PrincipalKeys::of(&principal);
    let target = Target::Tool { name: &call.tool, risk: KnownRisk { own: call.risk, guardrail: call.risk } };
    let arguments = call.arguments.as_ref().map(Value::to_string);
    let facts = Facts { now: call.time() };
    let request = Request { principal: &principal, keys: &keys, target, arguments: arguments.as_deref() };
    let decision = evaluate(served.layers, &request, &facts);
    let answer = match decision.effect {
        _ if !decision.visible => Answer::UnknownTool,
        Effect::Allow => Answer::Allowed,
        Effect::Deny => Answer::Refused,
        Effect::RequireApproval => Answer::Approval,
    };
    let listed = match list(served.layers, &principal, &keys, target, &facts) {
        Visibility::Visible => Listed::Yes,
        Visibility::Hidden => Listed::No,
        Visibility::DependsOnArguments => Listed::Depends,
    };
    (answer, Some(decision), listed)
}

#[test]
fn the_table_holds_at_the_proxy_after_slipping_past_the_webhook() {
    let (mut calls, mut wrong) = (0, Vec::new());
    for case in cases() {
        let fleet = slipped_past(&case);
        for call in &case.calls {
            let (answer, decision, listed) = decide(&fleet, call);
            let is_hidden = matches!(answer, Answer::UnknownTool | Answer::NotServed);
            let holds = answer == call.answer
                && call.listed.is_none_or(|want| want == listed)
                && (listed == Listed::No) == is_hidden;
            if !holds {
                wrong.push(format!("{}: {call:?}: {answer:?}, listed {listed:?}, {decision:?}", case.name));
            }
            calls += 1;
        }
        match case.expect {
            Expect::Reject => what_is_refused_grants_nothing(&case, &fleet),
            Expect::Accept | Expect::Warn => {
                let is_in_force = fleet.policies().all(|policy| policy.standing == Standing::InForce);
                assert!(is_in_force, "{}: what is accepted loads", case.name);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(calls >= 60, "{calls}");
}

/// Design 4: an invalid policy leaves what narrowed of it; never accepted, it denies its namespace. An invalid server takes
/// no calls, and of an invalid trust anchor no token is believed.
fn what_is_refused_grants_nothing(case: &Case, fleet: &Fleet) {
    let object = case.object();
    let name = object["metadata"]["name"].as_str().unwrap();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    match object["kind"].as_str().unwrap() {
        "McpPolicy" => {
            let policy = fleet.policies().find(|p| p.id.name == name && p.id.namespace == namespace).unwrap();
            if case.before.is_some() {
                assert!(matches!(policy.standing, Standing::NarrowingOnly { .. }), "{}", case.name);
                assert!(policy.rules.iter().all(|rule| rule.effect != Effect::Allow), "{}", case.name);
                return;
            }
            assert!(matches!(policy.standing, Standing::DenyAll { .. }), "{}", case.name);
            let reached = fleet.servers().filter(|s| namespace == SYSTEM || s.server.id.namespace == namespace);
            let denied: Vec<bool> = reached.map(|served| served.layers.denied.is_some()).collect();
            assert!(!denied.contains(&false), "{}", case.name);
            let refused = case.calls.iter().filter_map(|call| decide(fleet, call).1);
            assert!(refused.into_iter().all(|decision| decision.reason == Reason::PolicyInvalid), "{}", case.name);
        }
        "McpServer" => {
            let served = fleet.by_name(namespace, name).filter(|served| served.server.state == State::Enabled);
            assert!(served.is_none(), "{}", case.name);
        }
        "McpAuthorizationServer" => assert!(fleet.authority(name).is_none(), "{}", case.name),
        // Its tokens are the controller's to make, and it makes none of what is invalid.
        "McpClient" => {}
        other => panic!("{}: {other}", case.name),
    }
}

/// Whoever reads the table finds every member explained.
#[test]
fn the_table_is_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour");
    let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for word in [
        "name",
        "rules",
        "apply",
        "given",
        "before",
        "expect",
        "reason",
        "field",
        "also",
        "calls",
        "user",
        "client",
        "serviceAccount",
        "authority",
        "groups",
        "via",
        "actor",
        "groupsUnknown",
        "tool",
        "risk",
        "arguments",
        "at",
        "needs",
        "policy",
        "changes",
        "told",
        "everywhere",
        "as",
        "to",
        "allowed",
        "refused",
        "unknown tool",
        "approval",
        "not served",
        "listed",
        "accept",
        "warn",
        "reject",
        "depends",
    ] {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}
