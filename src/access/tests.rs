//! The table and the evaluator, held together.

mod changes;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::explain::{Verdict, explain};
use super::targets::Tool;
use super::who_can::{Row, Table, who_can};
use super::*;
use crate::fleet::Fleet;
use crate::fleet::tests::server;
use crate::generated::authority::{KeySource, TokenRules, TypRule};
use crate::generated::policy::{Mode, Selector, Standing, Targets};
use crate::generated::server::{Lock, LockedTool, OnChange};
use crate::generated::{Authority, Digest, Labels, ObjectId, Policy};
use crate::identity::principal::{Groups, Kind, Principal};
use crate::policy::arbitrary;
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::request::{Facts, Request, Target};
use crate::tools::risk::KnownRisk;

fn fleet(policies: &[Policy]) -> Fleet {
    let mut fleet = Fleet::default();
    fleet.put_server(server("team", "a", Labels::new(), None));
    for policy in policies {
        fleet.put_policy(policy.clone()).unwrap();
    }
    fleet
}

/// Whether a principal is what a row says, and perhaps more.
fn is_covered(row: &Row, principal: &Principal) -> bool {
    let (parts, authority) = row.principal.rsplit_once('@').unwrap();
    let has = |part: &str| match part.split_once(':') {
        None => part == "any",
        Some(("user", subject)) => principal.kind == Kind::User && *principal.subject == *subject,
        Some(("client", id)) => principal.kind == Kind::Client && principal.client.as_deref() == Some(id),
        Some(("serviceaccount", account)) => {
            let subject = format!("system:serviceaccount:{}", account.replace('/', ":"));
            principal.kind == Kind::ServiceAccount && *principal.subject == *subject
        }
        Some(("group", group)) => match &principal.groups {
            Groups::Known(groups) => groups.iter().any(|g| **g == *group),
            Groups::Unknown => false,
        },
        Some(other) => panic!("{other:?}"),
    };
    // `+` occurs in no name of these tests but between parts.
    *principal.authority == *authority
        && parts.split('+').all(has)
        && row.via.as_deref().is_none_or(|via| principal.client.as_deref() == Some(via))
        && match (&row.actor, &principal.actor) {
            (None, None) => true,
            (Some(named), Some(actor)) => named == "*" || **named == *actor.subject,
            _ => false,
        }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    #[test]
    fn whoever_can_is_in_the_table(
        policies in arbitrary::policies(3),
        principal in arbitrary::principal(),
        tool in prop::sample::select(&arbitrary::TOOLS[..]),
        risk in arbitrary::risk(),
        arguments in arbitrary::arguments(),
    ) {
        let (fleet, facts) = (fleet(&policies), Facts { now: 1 });
        let served = fleet.by_name("team", "a").unwrap();
        let keys = PrincipalKeys::of(&principal);
        let request = Request { principal: &principal, keys: &keys, target: Target::Tool { name: tool, risk }, arguments };
        let decision = evaluate(served.layers, &request, &facts);
        let table = who_can(served, Some(&[Tool { name: tool.to_owned(), risk: Some(risk) }]), &facts);
        let rows: Vec<&Row> = table.rows.iter().filter(|r| r.kind == "Tool" && is_covered(r, &principal)).collect();
        if decision.effect != Effect::Deny {
            prop_assert!(rows.iter().any(|row| row.answer != Answer::Deny), "{decision:?} is not in {table:#?}");
        }
        // A rule that the table names as deciding exists, and is said once.
        for row in &rows {
            prop_assert_eq!(row.rules.iter().collect::<BTreeSet<_>>().len(), row.rules.len());
        }
    }

    #[test]
    fn an_explanation_is_the_decision_with_reasons(
        policies in arbitrary::policies(3),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
        now in 0..4i64,
    ) {
        let (fleet, facts) = (fleet(&policies), Facts { now });
        let served = fleet.by_name("team", "a").unwrap();
        let keys = PrincipalKeys::of(&principal);
        let request = Request { principal: &principal, keys: &keys, target, arguments };
        let decision = evaluate(served.layers, &request, &facts);
        let explanation = explain(served, &request, &facts);
        prop_assert_eq!(explanation.answer, decision.effect.into());
        prop_assert_eq!(explanation.visible, decision.visible);
        if served.layers.denied.is_none() {
            let counts = |effect| explanation.rules.iter().any(|r| r.counts && !r.shadow && r.effect == effect);
            let told = match (counts(Answer::Deny), counts(Answer::Allow), counts(Answer::RequireApproval)) {
                (true, ..) | (_, false, _) => Answer::Deny,
                (_, _, true) => Answer::RequireApproval,
                _ => Answer::Allow,
            };
            prop_assert_eq!(told, explanation.answer, "the reasons add up to the decision: {:#?}", explanation.rules);
        }
        if let Some(rule) = &explanation.rule {
            prop_assert!(explanation.rules.iter().any(|r| r.rule == *rule && r.counts));
        }
    }
}

fn policy(rules: serde_json::Value) -> Policy {
    let defaults = serde_json::json!({"except": [], "tools": [], "resources": [], "prompts": [], "when": null,
        "not_before": null, "not_after": null, "break_glass": null, "message": null});
    let fill = |rule: &serde_json::Value| {
        let mut filled = defaults.as_object().unwrap().clone();
        filled.extend(rule.as_object().unwrap().clone());
        serde_json::from_value(filled.into()).unwrap()
    };
    Policy {
        id: ObjectId { uid: "uid".into(), namespace: "team".into(), name: "policy".into(), generation: 1 },
        guardrail: false,
        targets: Targets { selector: Some(Selector::default()), ..Targets::default() },
        mode: Mode::Enforce,
        standing: Standing::InForce,
        rules: rules.as_array().unwrap().iter().map(fill).collect(),
    }
}

fn whom(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut entry = serde_json::json!({"authority": "corp", "any": false, "users": [], "groups": [], "clients": [],
        "via": [], "service_account": null, "actor": null});
    entry[field] = value;
    entry
}

fn tools(names: &[&str], patterns: &[&str]) -> serde_json::Value {
    serde_json::json!([{"names": names, "patterns": patterns, "risk": []}])
}

/// A server `team/a` with a policy of every sort.
pub(crate) fn example() -> Fleet {
    let mut fleet = fleet(&[policy(serde_json::json!([
        {"name": "read", "effect": "Allow", "principals": [whom("groups", ["dev"].as_slice().into())],
         "tools": tools(&[], &["get_*"])},
        {"name": "write", "effect": "Allow", "principals": [whom("users", ["alice"].as_slice().into())],
         "tools": tools(&["create_issue"], &[]), "when": "args.repo == \"acme/x\"", "not_after": 1000},
        {"name": "freeze", "effect": "Deny", "principals": [whom("any", true.into())],
         "except": [whom("groups", ["sre"].as_slice().into())], "tools": tools(&[], &["*"]),
         "not_before": 500, "message": "frozen"},
        {"name": "interns", "effect": "Deny", "principals": [whom("groups", ["interns"].as_slice().into())],
         "tools": tools(&[], &["*"])},
    ]))]);
    fleet.put_authority(corp());
    fleet
}

fn corp() -> Authority {
    Authority {
        id: ObjectId { uid: "corp".into(), namespace: String::new(), name: "corp".into(), generation: 1 },
        issuer: "https://corp".into(),
        rules: TokenRules {
            typ: TypRule::AccessTokenJwt,
            algorithms: vec!["ES256".into()],
            skew_seconds: 30,
            max_lifetime_seconds: None,
            subject_claim: "sub".into(),
            tenant_claim: None,
            client_claims: vec!["client_id".into()],
            groups_claim: Some("groups".into()),
            allowed_audiences: vec![],
        },
        keys: KeySource::Local,
        key_set: None,
        revoked: vec![],
        clients: None,
    }
}

fn table(now: i64) -> Table {
    let fleet = example();
    who_can(fleet.by_name("team", "a").unwrap(), None, &Facts { now })
}

fn found<'t>(table: &'t Table, principal: &str, target: &str) -> &'t Row {
    table.rows.iter().find(|row| row.principal == principal && row.target == target).unwrap()
}

#[test]
fn the_table_names_who_what_when_and_why() {
    let table = table(0);
    let read = found(&table, "group:dev@corp", "get_*");
    assert_eq!((read.answer, &*read.rules), (Answer::Allow, &["team/policy/read".to_owned()][..]));
    assert_eq!(read.unless, ["team/policy/interns"]);
    let write = found(&table, "user:alice@corp", "create_issue");
    assert_eq!((write.answer, &*write.conditions), (Answer::Depends, &["args.repo == \"acme/x\"".to_owned()][..]));
    assert_eq!(write.windows[0].not_after, Some(1000));
    assert_eq!(found(&table, "group:interns@corp", "get_*").answer, Answer::Deny);
    assert_eq!(table.dormant.iter().map(|d| d.rule.as_str()).collect::<Vec<_>>(), ["team/policy/freeze"]);
}

/// Tokens of an authority that the server does not accept get as far as no rule: nobody of it can do anything.
#[test]
fn whoever_is_not_accepted_is_in_no_row() {
    let mut fleet = example();
    let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
    server.authorities = vec!["other".into()];
    fleet.put_server(server);
    let table = who_can(fleet.by_name("team", "a").unwrap(), None, &Facts { now: 600 });
    assert_eq!(table.strangers, ["corp"]);
    assert!(table.rows.iter().all(|row| row.answer == Answer::Deny && row.principal.ends_with("@other")), "{table:#?}");
}

#[test]
fn exceptions_show_as_combinations() {
    let table = table(600);
    assert_eq!(found(&table, "group:dev@corp", "get_*").answer, Answer::Deny);
    let excepted = found(&table, "group:dev+group:sre@corp", "get_*");
    assert_eq!((excepted.answer, &*excepted.unless), (Answer::Allow, &["team/policy/interns".to_owned()][..]));
    assert_eq!(found(&table, "user:alice+group:sre@corp", "create_issue").answer, Answer::Depends);
}

#[test]
fn an_explanation_says_what_spoke_for_and_against() {
    let fleet = example();
    let principal = Principal {
        authority: "corp".into(),
        issuer: "https://corp".into(),
        tenant: None,
        subject: "alice".into(),
        kind: Kind::User,
        client: None,
        groups: Groups::Unknown,
        actor: None,
    };
    let keys = PrincipalKeys::of(&principal);
    let target = Target::Tool { name: "create_issue", risk: KnownRisk::default() };
    let request = Request { principal: &principal, keys: &keys, target, arguments: Some(r#"{"repo":"acme/x"}"#) };
    let explanation = explain(fleet.by_name("team", "a").unwrap(), &request, &Facts { now: 600 });
    assert_eq!((explanation.answer, explanation.message.as_deref()), (Answer::Deny, Some("frozen")));
    let verdicts: Vec<_> = explanation.rules.iter().map(|r| (r.rule.as_str(), r.counts, r.matches)).collect();
    assert_eq!(
        verdicts,
        [
            ("team/policy/write", true, Verdict::Yes),
            ("team/policy/freeze", true, Verdict::Unknown),
            ("team/policy/interns", true, Verdict::Unknown),
            ("team/policy/read", false, Verdict::No),
        ]
    );
}

#[test]
fn a_lock_that_refuses_says_which_tools_there_are() {
    let mut fleet = example();
    let mut server = crate::generated::Server::clone(fleet.by_name("team", "a").unwrap().server);
    let locked = LockedTool(Digest([7; 32]), None);
    let tools: std::collections::BTreeMap<_, _> =
        ["create_issue", "unheard_of"].map(|name| (name.to_owned(), locked)).into();
    for on_change in [OnChange::Hide, OnChange::Deny, OnChange::Warn] {
        server.lock = Some(Lock { on_change, tools: tools.clone() });
        fleet.put_server(server.clone());
        let served = fleet.by_name("team", "a").unwrap();
        let rows = who_can(served, None, &Facts { now: 600 }).rows;
        let asked: BTreeSet<&str> =
            rows.iter().filter(|row| row.kind == "Tool").map(|row| row.target.as_str()).collect();
        assert_eq!(asked == BTreeSet::from(["create_issue", "unheard_of"]), on_change != OnChange::Warn, "{asked:?}");
        let other = [Tool { name: "get_x".to_owned(), risk: None }];
        let rows = who_can(served, Some(&other), &Facts { now: 600 }).rows;
        let rows: Vec<&Row> = rows.iter().filter(|row| row.kind == "Tool").collect();
        assert_eq!(rows.iter().any(|row| row.answer != Answer::Deny), on_change == OnChange::Warn);
        assert_eq!(rows.iter().any(|row| row.listed), on_change != OnChange::Hide);
    }
}
