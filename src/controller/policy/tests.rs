//! From a policy and what was found of what it refers to, to what is written and said.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::build::{Verdict, build};
use super::dereference::Callers;
use super::status;
use super::validate::Validated;
use crate::api::{self, FieldPath, Key};
use crate::controller::apply::{Applied, Prepared};
use crate::controller::conditions::{self, ACCEPTED, EFFECTIVE, ENFORCED, READY, Statement, Truth};
use crate::controller::proxies::Programming;
use crate::controller::store::Reaching;
use crate::generated::codec::{self, Generated, MOST_BYTES};
use crate::generated::policy::Standing;
use crate::generated::{Authority, ObjectId, Policy};
use crate::resolve::{self, Cluster, Finding, Findings, Lookup, PublicUrl, Reason, Resolved, Settings};

fn public_url() -> PublicUrl {
    PublicUrl::parse("https://mcp.example.com").unwrap()
}

/// Trust anchors and McpClients that are there.
fn callers(authorities: &[&str], clients: &[&str]) -> Callers {
    let (public_url, cluster) = (public_url(), Cluster::presumed());
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    let authority = |name: &&str| Arc::new(Authority::plain(name, &format!("https://{name}.example")));
    let client = |uid: &&str| {
        let object = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"namespace": "team", "name": "agent", "uid": uid},
            "spec": {"method": "Token", "authorizationServer": "corp", "token": {"subject": "a", "servers": ["s"]}}});
        let Ok(api::Object::Client(client)) = api::object::read(&object) else { panic!("{object}") };
        Arc::new(resolve::client(&client, &settings, &Lookup::default()).unwrap().object)
    };
    Callers { authorities: authorities.iter().map(authority).collect(), clients: clients.iter().map(client).collect() }
}

fn resolved_by(callers: &Callers) -> Resolved<Policy> {
    let rule = |name: &str, effect: &str| json!({"name": name, "effect": effect, "principals": [{"users": ["ana"]}], "tools": [{"names": ["t"]}]});
    let mut allow = rule("a", "Allow");
    allow["tools"][0]["names"] = json!(["t", "u"]);
    let mut of_client = rule("c", "Deny");
    of_client["principals"] = json!([{"mcpClients": ["agent"]}]);
    of_client["except"] = json!([{"mcpClients": ["agent"], "users": ["bob"]}]);
    let object = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"namespace": "team", "name": "p", "uid": "u", "generation": 1},
        "spec": {"authority": "corp", "targets": {"selector": {}},
            "rules": [allow, rule("d", "Deny"), rule("r", "RequireApproval"), of_client]}});
    let Ok(api::Object::Policy(policy)) = api::object::read(&object) else { panic!("{object}") };
    let public_url = public_url();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    resolve::policy(&policy, &settings, &callers.lookup()).unwrap()
}

fn resolved() -> Resolved<Policy> {
    resolved_by(&callers(&["corp"], &["aaaaaaaa-1"]))
}

fn validated(outcome: Result<Resolved<Policy>, Findings>, previous: Option<Policy>) -> Validated {
    let key = Key { kind: api::Kind::McpPolicy, namespace: "team".into(), name: "p".into() };
    let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "p".into(), generation: 2 };
    Validated { key, id, guardrail: false, outcome, previous, callers: callers(&["corp"], &["aaaaaaaa-1"]) }
}

/// What is written, and read back.
fn built(validated: Validated) -> (Prepared<Verdict>, Policy) {
    let prepared = build(validated).unwrap();
    let wanted = prepared.generated.as_ref().unwrap();
    assert!(wanted.fits());
    let Generated::Policy(policy) = codec::decode(&wanted.bytes).unwrap() else { panic!() };
    (prepared, policy)
}

/// What is made of an invalid edit while these callers are there, if this was written before.
fn stands(written: &Policy, callers: Callers) -> (Prepared<Verdict>, Policy) {
    built(Validated { callers, ..validated(invalid(), Some(written.clone())) })
}

fn invalid() -> Result<Resolved<Policy>, Findings> {
    Err(vec![Finding::new(Reason::RuleEmpty, FieldPath::of("spec.rules").index(0).field("tools"), "about nothing")])
}

/// Reasons of `Accepted` and `Enforced`, and the message of the first.
fn said(prepared: Prepared<Verdict>) -> (String, String, String) {
    let Prepared { key, id, kind, generated, document: _, verdict } = prepared;
    let applied = Applied { key, id, generated: generated.map(|_| kind), verdict };
    let statement = status(&applied, Some(Programming::Everywhere(1)), &Reaching::Unsaid, &Value::Null);
    let one = |type_: &str| statement.said(type_).unwrap().clone();
    (one(ACCEPTED).reason, one(ENFORCED).reason, one(ACCEPTED).message)
}

#[test]
fn what_it_comes_to_is_kept_until_it_is_known_anew_and_is_no_part_of_ready() {
    let (prepared, _) = built(validated(Ok(resolved()), None));
    let Prepared { key, id, kind, mut verdict, .. } = prepared;
    verdict.warnings.clear();
    let applied = Applied { key, id, generated: Some(kind), verdict };
    let finding = Finding::new(Reason::ToolNotFound, FieldPath::of("spec.rules"), "no such tool");
    let before = |generation: i64| {
        let mut statement = Statement::new(generation, Vec::new());
        statement.beside(conditions::effective(std::slice::from_ref(&finding)));
        statement.status(&Value::Null, Timestamp::UNIX_EPOCH).unwrap()
    };
    let said = |reaching: &Reaching, before: &Value| {
        let statement = status(&applied, Some(Programming::Everywhere(1)), reaching, before);
        assert_eq!(statement.said(READY).unwrap().truth, Truth::True);
        statement.said(EFFECTIVE).cloned()
    };
    assert_eq!(said(&Reaching::NotYet, &before(2)), Some(conditions::effective(std::slice::from_ref(&finding))));
    assert_eq!(said(&Reaching::NotYet, &before(1)), None, "it was said of another generation");
    assert_eq!(said(&Reaching::NotYet, &Value::Null), None);
    assert_eq!(said(&Reaching::Unsaid, &before(2)), None);
    let refused = Verdict { errors: vec![finding.clone()], ..applied.verdict.clone() };
    let refused = Applied { verdict: refused, ..applied.clone() };
    let statement = status(&refused, Some(Programming::Everywhere(1)), &Reaching::NotYet, &before(2));
    assert_eq!(statement.said(EFFECTIVE), None, "what is in force is not this policy");
}

#[test]
fn an_accepted_policy_is_written_as_it_is() {
    let (prepared, policy) = built(validated(Ok(resolved()), None));
    assert_eq!(policy, resolved().object);
    let (accepted, enforced, notes) = said(prepared);
    assert_eq!((accepted.as_str(), enforced.as_str()), ("Accepted", "Enforced"));
    assert!(notes.contains("ApprovalsUnavailable"), "{notes}");
}

#[test]
fn of_an_invalid_edit_what_narrowed_stays_also_when_it_is_edited_again() {
    let accepted = resolved().object;
    let (prepared, policy) = built(validated(invalid(), Some(accepted.clone())));
    assert_eq!(policy.standing, Standing::NarrowingOnly { reason: "RuleEmpty".into() });
    assert_eq!(policy.rules, accepted.rules[1..], "what is not written of it is what it allowed");
    let (accepted, enforced, message) = said(prepared);
    assert_eq!((accepted.as_str(), enforced.as_str()), ("RuleEmpty", "RuleEmpty"));
    assert!(message.contains("spec.rules[0].tools") && message.contains("stay in force (3)"), "{message}");
    assert!(!message.contains("missing"), "{message}");
    let (_, again) = built(validated(invalid(), Some(policy.clone())));
    assert_eq!(again.rules, policy.rules);
}

#[test]
fn an_authority_that_goes_meanwhile_widens_what_denies_until_it_is_back() {
    let accepted = resolved().object;
    let (prepared, policy) = stands(&accepted, Callers::default());
    assert!(policy.rules.iter().all(|rule| rule.principals[0].authority.is_none() && rule.principals[0].any));
    let (_, _, message) = said(prepared);
    assert!(message.contains("missing: McpAuthorizationServer corp, McpClient team/agent."), "{message}");
    // Whoever leads by now knows nothing but what was written.
    let (_, back) = stands(&policy, callers(&["corp"], &["aaaaaaaa-1"]));
    assert_eq!(back.rules, accepted.rules[1..]);
    // Accepted while it was not there.
    let (_, back) = stands(&resolved_by(&Callers::default()).object, callers(&["corp"], &["aaaaaaaa-1"]));
    assert_eq!(back.rules, accepted.rules[1..]);
}

#[test]
fn a_client_that_goes_or_is_made_anew_meanwhile_stays_denied() {
    let via = |policy: &Policy| {
        let rule = policy.rules.iter().find(|rule| rule.name == "c").unwrap().clone();
        (rule.principals[0].via.clone(), rule.principals[0].any, rule.except[0].via.clone())
    };
    let ids = |short: &str| vec![format!("team/agent/{short}")];
    let accepted = resolved().object;
    assert_eq!(via(&accepted), (ids("aaaaaaaa"), false, ids("aaaaaaaa")));
    let (prepared, gone) = stands(&accepted, callers(&["corp"], &[]));
    let (denied, anyone, excepted) = via(&gone);
    assert!(denied.is_empty() && anyone && excepted.len() == 1 && !excepted[0].contains("agent/"), "{excepted:?}");
    assert!(said(prepared).2.contains("missing: McpClient team/agent."));
    let (_, anew) = stands(&gone, callers(&["corp"], &["bbbbbbbb-2"]));
    assert_eq!(via(&anew), (ids("bbbbbbbb"), false, ids("bbbbbbbb")));
    // Another look comes in between only sometimes.
    assert_eq!(stands(&accepted, callers(&["corp"], &["bbbbbbbb-2"])).1.rules, anew.rules);
}

#[test]
fn what_an_earlier_build_wrote_stands_as_it_was_resolved() {
    let mut document: serde_json::Value =
        serde_json::from_slice(&codec::encode(&Generated::Policy(resolved().object)).unwrap()).unwrap();
    for rule in document["object"]["rules"].as_array_mut().unwrap() {
        for list in ["principals", "except"] {
            for entry in rule[list].as_array_mut().unwrap() {
                entry.as_object_mut().unwrap().remove("named");
            }
        }
    }
    let Generated::Policy(earlier) = codec::decode(document.to_string().as_bytes()).unwrap() else { panic!() };
    let (_, policy) = stands(&earlier, callers(&["corp"], &["bbbbbbbb-2"]));
    assert_eq!(policy.rules, earlier.rules[1..]);
}

#[test]
fn one_that_was_never_accepted_denies_its_namespace() {
    let (prepared, policy) = built(validated(invalid(), None));
    assert!(matches!(policy.standing, Standing::DenyAll { .. }));
    let (_, _, message) = said(prepared);
    assert!(message.contains("every call to servers of the namespace team is denied"), "{message}");
}

#[test]
fn one_that_is_too_large_to_store_is_an_invalid_edit() {
    let large = || {
        let mut large = resolved();
        large.object.rules[0].message = Some("x".repeat(MOST_BYTES));
        Ok(large)
    };
    let (prepared, policy) = built(validated(large(), Some(resolved().object)));
    assert_eq!(policy.standing, Standing::NarrowingOnly { reason: "ObjectTooLarge".into() });
    assert_eq!(said(prepared).0, "ObjectTooLarge");
    let (_, policy) = built(validated(large(), None));
    assert!(matches!(policy.standing, Standing::DenyAll { .. }));
    // What was accepted, and no longer fits once it says what was lost.
    let mut full = stands(&resolved().object, callers(&["corp"], &["aaaaaaaa-1"])).1;
    let room = MOST_BYTES - codec::encode(&Generated::Policy(full.clone())).unwrap().len();
    full.rules[0].message = Some("x".repeat(room));
    assert!(matches!(stands(&full, callers(&["corp"], &["aaaaaaaa-1"])).1.standing, Standing::NarrowingOnly { .. }));
    let (prepared, lost) = stands(&full, Callers::default());
    assert!(matches!(lost.standing, Standing::DenyAll { .. }));
    assert!(said(prepared).2.contains("ObjectTooLarge"));
}
