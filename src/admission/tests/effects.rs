//! What the author of a change is told of it.

use serde_json::json;

use super::*;
use crate::admission::grant::Right;

/// What somebody is told who may do everything.
fn told(world: &World, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    answer(world, old, new).warnings().to_vec()
}

fn one(effect: &str, more: Value) -> Value {
    policy("team", json!({"servers": ["a"]}), json!([rule("r", effect, more)]))
}

/// Puts the object too.
fn known(object: &Value) -> World {
    let mut world = world();
    put(&mut world, object);
    world
}

#[test]
fn who_gains_and_who_loses_is_told_riskiest_first() {
    let new = one("Allow", json!({"tools": [{"names": ["delete_repo", "get_repo"]}]}));
    assert_eq!(
        told(&world(), None, Some(&new)),
        [
            "+ group:dev@corp: delete_repo [Destructive] on team/a (rule p/r)",
            "+ group:dev@corp: get_repo on team/a (rule p/r)",
        ]
    );
    let less = one("Allow", json!({"tools": [{"names": ["get_repo"]}]}));
    let world = known(&new);
    assert_eq!(
        told(&world, Some(&new), Some(&less)),
        ["- group:dev@corp: delete_repo [Destructive] on team/a (rule p/r)"]
    );
    assert_eq!(told(&world, Some(&new), None).len(), 2);
    assert_eq!(told(&world, Some(&new), Some(&new)), [""; 0]);
}

#[test]
fn conditions_approvals_and_times_are_told() {
    let narrow = json!({"tools": [{"names": ["get_repo"]}]});
    let with = |effect: &str, more: Value| {
        let mut whole = narrow.clone();
        patch(&mut whole, &more);
        one(effect, whole)
    };
    let plain = with("Allow", json!({}));
    let guarded = with("Allow", json!({"when": "has(args.a)"}));
    assert_eq!(
        told(&world(), None, Some(&guarded)),
        ["+ group:dev@corp: get_repo on team/a (Deny -> Depends; rule p/r; if has(args.a))"]
    );
    assert_eq!(
        told(&known(&plain), Some(&plain), Some(&guarded)),
        ["- group:dev@corp: get_repo on team/a (Allow -> Depends; rule p/r; if has(args.a))"]
    );
    let later = with("Allow", json!({"notBefore": "2030-01-01T00:00:00Z"}));
    assert_eq!(
        told(&world(), None, Some(&later)),
        ["+ group:dev@corp: get_repo on team/a (rule p/r; from 2030-01-01T00:00:00Z)"]
    );
}

#[test]
fn a_server_that_labels_open_is_told_too() {
    let by_label =
        policy("team", json!({"selector": {"matchLabels": {"tier": "gold"}}}), json!([rule("r", "Allow", json!({}))]));
    let world = known(&by_label);
    let (plain, gold) = (server("b", json!({}), json!({})), server("b", json!({"tier": "gold"}), json!({})));
    assert_eq!(told(&world, Some(&plain), Some(&gold)), ["+ group:dev@corp: get_* on team/b (rule p/r)"]);
    assert_eq!(told(&world, None, Some(&server("c", json!({"tier": "gold"}), json!({})))).len(), 1);
}

#[test]
fn who_may_not_see_policies_is_told_nothing_of_them_and_the_audit_log_all() {
    let policies_of_team = |need: &Need| need.right == Right::See && need.place.attributes() == ("team", "");
    let answer = answered(&world(), None, Some(&one("Allow", json!({}))), policies_of_team);
    assert_eq!((answer.refusal(), answer.warnings()), (None, &[][..]));
    let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
    assert_eq!(
        sent["response"]["auditAnnotations"]["access-changes"],
        "+ group:dev@corp: get_* on team/a (rule p/r)\n"
    );
}

#[test]
fn a_guardrail_is_told_of_to_those_who_see_every_namespace_and_is_nameless_to_others() {
    let guard = policy(
        SYSTEM,
        json!({"selector": {}, "namespaceSelector": {}}),
        json!([rule("hidden-name", "Deny", json!({"tools": [{"names": ["get_x"]}], "when": "args.hidden == 1"}))]),
    );
    let allow = one("Allow", json!({"tools": [{"names": ["get_x"]}]}));
    let world = known(&guard);
    let lines = told(&world, None, Some(&allow));
    assert_eq!(
        lines,
        ["+ group:dev@corp: get_x on team/a (Deny -> Depends; rule of a guardrail, p/r; under a condition)"]
    );
    let judged = judged(&known(&allow), None, Some(&guard));
    assert!(judged.needs().iter().any(|need| need.right == Right::See && need.place.attributes() == ("", "")));
    let lines = told(&known(&allow), None, Some(&guard));
    assert!(
        lines.iter().any(|line| line.starts_with("- group:dev@corp: get_x") && line.contains("sys/p/hidden-name")),
        "{lines:?}"
    );
}

#[test]
fn what_is_too_large_to_be_compared_while_somebody_waits_is_said_to_be() {
    let patterns = |stem: &str| -> Vec<String> { (0..64).map(|number| format!("{stem}{number}*x")).collect() };
    let rules: Vec<Value> = (0..32)
        .map(|n| {
            let (name, effect) = (format!("r{n}"), if n % 2 == 0 { "Allow" } else { "Deny" });
            rule(&name, effect, json!({"tools": [{"patterns": patterns(&format!("{name}_"))}]}))
        })
        .collect();
    let large = policy("team", json!({"servers": ["a"]}), json!(rules));
    let lines = told(&world(), None, Some(&large));
    assert_eq!(lines, ["these are not all changes: portcullis diff shows the rest"]);
}

#[test]
fn beyond_a_size_it_is_summed_up() {
    let mut world = world();
    for number in 0..80 {
        put(&mut world, &server(&format!("s{number}"), json!({}), json!({})));
    }
    let all = policy("team", json!({"selector": {}}), json!([rule("r", "Allow", json!({}))]));
    let answer = answer(&world, None, Some(&all));
    assert_eq!(answer.warnings().len(), 65);
    assert_eq!(answer.warnings()[64], "18 more McpServers are touched, of which no change is shown here");
    let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
    let sent = sent["response"]["warnings"].as_array().unwrap().clone();
    let length: usize = sent.iter().map(|line| line.as_str().unwrap().len()).sum();
    assert!(length < 4096 && sent.len() <= 66, "{length} in {}", sent.len());
}
