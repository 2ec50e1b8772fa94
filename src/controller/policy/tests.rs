//! From a policy and what was found of what it refers to, to what is written and said.

use serde_json::json;

use super::build::{Verdict, build};
use super::status;
use super::validate::Validated;
use crate::api::{self, FieldPath, Key};
use crate::controller::apply::{Applied, Prepared};
use crate::controller::conditions::{ACCEPTED, ENFORCED};
use crate::controller::proxies::Programming;
use crate::generated::codec::{self, Generated, MOST_BYTES};
use crate::generated::policy::{Effect, Standing};
use crate::generated::{Authority, ObjectId, Policy};
use crate::resolve::{self, Finding, Findings, Lookup, PublicUrl, Reason, Resolved, Settings};

fn resolved() -> Resolved<Policy> {
    let rule = |name: &str, effect: &str| json!({"name": name, "effect": effect, "principals": [{"users": ["ana"]}], "tools": [{"names": ["t"]}]});
    let object = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"namespace": "team", "name": "p", "uid": "u", "generation": 1},
        "spec": {"authority": "corp", "targets": {"selector": {}},
            "rules": [rule("a", "Allow"), rule("d", "Deny"), rule("r", "RequireApproval")]}});
    let Ok(api::Object::Policy(policy)) = api::object::read(&object) else { panic!("{object}") };
    let trust = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer",
        "metadata": {"name": "corp"}, "spec": {"issuer": "https://corp.example"}});
    let Ok(api::Object::AuthorizationServer(trust)) = api::object::read(&trust) else { panic!("{trust}") };
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    let corp: Authority = resolve::authority(&trust, &settings, &Lookup::default()).unwrap().object;
    let mut lookup = Lookup::default();
    lookup.authorities.insert("corp", &corp);
    resolve::policy(&policy, &settings, &lookup).unwrap()
}

fn validated(outcome: Result<Resolved<Policy>, Findings>, previous: Option<Policy>) -> Validated {
    let key = Key { kind: api::Kind::McpPolicy, namespace: "team".into(), name: "p".into() };
    let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "p".into(), generation: 2 };
    Validated { key, id, guardrail: false, outcome, previous, authorities: vec!["corp".into()] }
}

fn built(validated: Validated) -> (Prepared<Verdict>, Policy, Option<Policy>) {
    let (prepared, stands) = build(validated).unwrap();
    let wanted = prepared.generated.as_ref().unwrap();
    assert!(wanted.fits());
    let Generated::Policy(policy) = codec::decode(&wanted.bytes).unwrap() else { panic!() };
    (prepared, policy, stands)
}

fn invalid() -> Result<Resolved<Policy>, Findings> {
    Err(vec![Finding::new(Reason::RuleEmpty, FieldPath::of("spec.rules").index(0).field("tools"), "about nothing")])
}

/// Reasons of `Accepted` and `Enforced`, and the message of the first.
fn said(prepared: Prepared<Verdict>) -> (String, String, String) {
    let Prepared { key, id, kind, generated, document: _, verdict } = prepared;
    let applied = Applied { key, id, generated: generated.map(|_| kind), verdict };
    let statement = status(&applied, Some(Programming::Everywhere(1)));
    let one = |type_: &str| statement.said(type_).unwrap().clone();
    (one(ACCEPTED).reason, one(ENFORCED).reason, one(ACCEPTED).message)
}

#[test]
fn an_accepted_policy_is_written_as_it_is() {
    let (prepared, policy, stands) = built(validated(Ok(resolved()), None));
    assert_eq!((policy, stands), (resolved().object, None));
    let (accepted, enforced, notes) = said(prepared);
    assert_eq!((accepted.as_str(), enforced.as_str()), ("Accepted", "Enforced"));
    assert!(notes.contains("ApprovalsUnavailable"), "{notes}");
}

#[test]
fn of_an_invalid_edit_what_narrowed_stays_also_when_it_is_edited_again() {
    let accepted = resolved().object;
    let (prepared, policy, stands) = built(validated(invalid(), Some(accepted)));
    assert_eq!(policy.standing, Standing::NarrowingOnly { reason: "RuleEmpty".into() });
    let effects: Vec<Effect> = policy.rules.iter().map(|rule| rule.effect).collect();
    assert_eq!(effects, [Effect::Deny, Effect::RequireApproval]);
    let (accepted, enforced, message) = said(prepared);
    assert_eq!((accepted.as_str(), enforced.as_str()), ("RuleEmpty", "RuleEmpty"));
    assert!(message.contains("spec.rules[0].tools") && message.contains("stay in force (2)"), "{message}");
    let (_, again, _) = built(validated(invalid(), stands));
    assert_eq!(again.rules, policy.rules);
}

#[test]
fn an_authority_that_goes_meanwhile_widens_what_denies_until_it_is_back() {
    let accepted = resolved().object;
    let gone = Validated { authorities: Vec::new(), ..validated(invalid(), Some(accepted)) };
    let (_, policy, stands) = built(gone);
    assert!(policy.rules.iter().all(|rule| rule.principals[0].authority.is_none() && rule.principals[0].any));
    let (_, back, _) = built(validated(invalid(), stands));
    assert_eq!(back.rules[0].principals[0].authority.as_deref(), Some("corp"));
}

#[test]
fn one_that_was_never_accepted_denies_its_namespace() {
    let (prepared, policy, _) = built(validated(invalid(), None));
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
    let (prepared, policy, _) = built(validated(large(), Some(resolved().object)));
    assert_eq!(policy.standing, Standing::NarrowingOnly { reason: "ObjectTooLarge".into() });
    assert_eq!(said(prepared).0, "ObjectTooLarge");
    let (_, policy, _) = built(validated(large(), None));
    assert!(matches!(policy.standing, Standing::DenyAll { .. }));
}
