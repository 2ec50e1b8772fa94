//! What the author of a change is told of it.

use serde_json::json;

use super::*;
use crate::admission::grant::Right;
use crate::admission::judge::wanted;
use crate::api::Object;
use crate::tools::digest::sha256;

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
fn a_client_is_who_it_is_registered_as() {
    let spec = json!({"authorizationServer": "corp", "registration": {}});
    let client = |status: Value| {
        let mut client = object("McpClient", Some("team"), "reports", json!({}), spec.clone());
        client["status"] = status;
        client
    };
    let narrow = json!({"tools": [{"names": ["get_repo"]}], "principals": [{"mcpClients": ["reports"]}]});
    let rule = one("Allow", narrow);
    let of = |issuer: &str| json!({"registration": {"method": "DCR", "issuer": issuer, "clientId": "c-1"}});
    for unknown in [json!({}), of("https://earlier.example.com")] {
        let said = told(&known(&client(unknown)), None, Some(&rule));
        assert!(said.len() == 2 && said[0].contains("has no id yet: nobody who calls through it is meant"), "{said:?}");
        assert_eq!(said[1], "+ any@corp via McpClient team/reports: get_repo on team/a (rule p/r)");
    }
    // Nor does an id count that its author gave it before, when its method was another.
    let given = |method: &str| json!({"registration": {"method": method, "issuer": "https://corp.example.com", "clientId": "c-1"}});
    for method in ["Preregistered", "CIMD"] {
        assert_eq!(told(&known(&client(given(method))), None, Some(&rule)).len(), 2, "{method}");
    }
    let mut world = known(&client(of("https://corp.example.com")));
    assert_eq!(told(&world, None, Some(&rule)), ["+ any@corp via c-1: get_repo on team/a (rule p/r)"]);
    // It is known of policies that are there already, too: as soon as it is registered, and no longer than that.
    put(&mut world, &client(json!({})));
    put(&mut world, &rule);
    let before = "- any@corp via McpClient team/reports: get_repo on team/a (rule p/r)";
    assert_eq!(told(&world, Some(&rule), None), [before]);
    put(&mut world, &client(of("https://corp.example.com")));
    assert_eq!(told(&world, Some(&rule), None), ["- any@corp via c-1: get_repo on team/a (rule p/r)"]);
    // Whatever it is registered as, who names it opens the server to somebody.
    for status in [json!({}), of("https://corp.example.com")] {
        let world = known(&client(status));
        let needs = judged(&world, None, Some(&rule)).needs().to_vec();
        assert!(needs.iter().any(|need| need.right == Right::Grant), "{needs:?}");
    }
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
        ["+ group:dev@corp: get_repo on team/a (Deny -> under a condition; rule p/r; if has(args.a))"]
    );
    assert_eq!(
        told(&known(&plain), Some(&plain), Some(&guarded)),
        ["- group:dev@corp: get_repo on team/a (Allow -> under a condition; rule p/r; if has(args.a))"]
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
    assert_eq!(lines, ["+ group:dev@corp: get_x on team/a (Deny -> under a condition; rule of a guardrail, p/r)"]);
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

#[test]
fn crossing_patterns_take_no_more_than_they_may() {
    let many = |stem: &str| -> Vec<Value> {
        let rule_of = |n: usize| {
            let patterns: Vec<String> = (0..64).map(|number| format!("*{stem}{n}_{number}*")).collect();
            rule(
                &format!("{stem}{n}"),
                if stem == "up" { "Allow" } else { "Deny" },
                json!({"tools": [{"patterns": patterns}]}),
            )
        };
        (0..15).map(rule_of).collect()
    };
    let rules = [many("up"), many("down")].concat();
    let mut crossing = policy("team", json!({"servers": ["a"]}), json!(rules));
    let lines = told(&world(), None, Some(&crossing));
    assert_eq!(lines.last().unwrap(), "these are not all changes: portcullis diff shows the rest");
    // What only records costs nothing and changes nothing.
    crossing["spec"]["mode"] = "Shadow".into();
    assert_eq!(told(&world(), None, Some(&crossing)), [""; 0]);
}

#[test]
fn what_only_a_guardrail_names_is_told_of_without_a_word() {
    let narrow = json!({
        "principals": [{"any": true}], "except": [{"groups": ["payroll-admins"]}], "tools": [{"patterns": ["*_payroll_*"]}],
        "notBefore": "2031-01-01T00:00:00Z"
    });
    let guard = policy(SYSTEM, json!({"selector": {}, "namespaceSelector": {}}), json!([rule("g", "Deny", narrow)]));
    let world = known(&guard);
    let open = one("Allow", json!({"principals": [{"any": true}], "tools": [{"patterns": ["*"]}]}));
    let answer = answer(&world, None, Some(&open));
    assert_eq!(
        answer.warnings(),
        ["+ any@corp: * on team/a (rule p/r)", "+ further callers or tools, by what guardrails except, on team/a"]
    );
    let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
    let record = sent["response"]["auditAnnotations"]["access-changes"].as_str().unwrap();
    assert!(record.contains("*_payroll_*"), "{record}");
    let mut now = guard.clone();
    now["spec"]["rules"][0]["notBefore"] = Value::Null;
    let lines = told(&known(&now), None, Some(&open));
    assert_eq!(
        lines,
        [
            "+ any@corp: * except what guardrails say on team/a (rule p/r)",
            "+ further callers or tools, by what guardrails except, on team/a"
        ]
    );
    // Whoever names it knows it.
    let dev =
        one("Allow", json!({"principals": [{"groups": ["payroll-admins"]}], "tools": [{"patterns": ["*_payroll_*"]}]}));
    assert_eq!(told(&known(&now), None, Some(&dev)), ["+ group:payroll-admins@corp: *_payroll_* on team/a (rule p/r)"]);
}

#[test]
fn what_others_grant_is_told_to_those_who_may_see_it_and_what_guardrails_grant_to_nobody() {
    let ask = one("RequireApproval", json!({"tools": [{"names": ["get_x"]}]}));
    let mut grant = policy(
        "team",
        json!({"servers": ["a"]}),
        json!([rule("g", "Allow", json!({"tools": [{"names": ["other"]}]}))]),
    );
    grant["metadata"]["name"] = "grant".into();
    grant["metadata"]["uid"] = "grant".into();
    let says = |world: &World, word: &str, sees: bool| {
        let answer = answered(world, None, Some(&ask), |need| !sees && need.right == Right::See);
        answer.warnings().iter().any(|line| line.contains(word))
    };
    for (world, word) in [(world(), "NothingAllowed"), (known(&grant), "ApprovalUnreachable")] {
        assert!(says(&world, word, true) && !says(&world, word, false), "{word}");
    }
    let open = json!([rule("g", "Allow", json!({"tools": [{"patterns": ["*"]}]}))]);
    let mut world = known(&grant);
    put(&mut world, &policy(SYSTEM, json!({"selector": {}, "namespaceSelector": {}}), open));
    assert!(!says(&world, "ApprovalUnreachable", true), "whatever it grants");
}

/// What somebody is told who may do everything, with what there is of what is asked for.
fn told_with(world: &World, old: Option<&Value>, new: Option<&Value>, there: &[Value]) -> Vec<String> {
    let review = review(old, new);
    let keys = wanted(&review, world);
    let there: Vec<Object> = there.iter().map(|object| crate::api::object::read(object).unwrap()).collect();
    let found: Vec<Object> = there.into_iter().filter(|object| keys.contains(&object.key())).collect();
    let found = looked_up(&review, world, &found);
    judge(&review, world, &found).decide(&[]).tell(&review, world, &found, 0).warnings().to_vec()
}

/// A server with a lock in which `get_x` was reviewed, and the ConfigMap.
fn locked(name: &str) -> (Value, Value) {
    let reviewed = json!({"name": "get_x", "digest": format!("sha256:{}", "0".repeat(64)), "risk": null});
    let text = json!({"format": 1, "definitions": false, "tools": [reviewed]}).to_string();
    let lock = json!({"configMapName": "lock", "sha256": sha256(text.as_bytes()).hex()});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lock", "namespace": "team"},
        "data": {"tools-lock.json": text}});
    (server(name, json!({}), json!({"tools": {"lock": lock}})), map)
}

#[test]
fn locks_are_looked_at_on_both_sides() {
    let allow = one("Allow", json!({"tools": [{"names": ["get_x", "get_y"]}]}));
    let (server_a, map) = locked("a");
    let map = [map];
    let mut world = known(&allow);
    put(&mut world, &server_a);
    let mut touched = server_a.clone();
    touched["metadata"]["labels"] = json!({"tier": "silver"});
    assert_eq!(told_with(&world, Some(&server_a), Some(&touched), &map), [""; 0]);
    let open = server("a", json!({}), json!({}));
    let gained = ["+ group:dev@corp: get_y on team/a (rule p/r)"];
    assert_eq!(told_with(&world, Some(&server_a), Some(&open), &map), gained);
    let lost = told_with(&known(&allow), Some(&open), Some(&server_a), &map);
    assert_eq!(lost, ["- group:dev@corp: get_y on team/a (rule p/r)"]);
    // What a lock refuses, nobody gains.
    world.remove(&review(None, Some(&allow)).key);
    let lines = told_with(&world, None, Some(&allow), &map);
    assert!(lines[0].contains("ToolNotFound"), "{lines:?}");
    assert_eq!(lines[1..], ["+ group:dev@corp: get_x on team/a (rule p/r)"]);
    put(&mut world, &allow);
    assert_eq!(told_with(&world, Some(&allow), None, &map), ["- group:dev@corp: get_x on team/a (rule p/r)"]);
}

#[test]
fn more_locks_than_can_be_looked_at_are_said_to_be_left_out() {
    let mut world = world();
    for number in 0..33 {
        put(&mut world, &locked(&format!("s{number}")).0);
    }
    let all =
        policy("team", json!({"selector": {}}), json!([rule("r", "Allow", json!({"tools": [{"names": ["get_x"]}]}))]));
    let lines = told_with(&world, None, Some(&all), &[]);
    assert_eq!(
        lines.last().unwrap(),
        "tool locks that are not looked at here, and may refuse more: those of 33 McpServer(s)"
    );
}

#[test]
fn a_certificate_that_is_missing_is_missing_before_and_after() {
    let tls = json!({"upstream": {"tls": {"caRef": {"configMapName": "ca"}}}});
    let (gold, plain) = (server("a", json!({"tier": "gold"}), tls.clone()), server("a", json!({}), tls));
    let mut world = known(&one("Allow", json!({})));
    put(&mut world, &gold);
    let lines = told_with(&world, Some(&gold), Some(&plain), &[]);
    assert!(lines.iter().all(|line| line.contains("ConfigMapNotFound")), "{lines:?}");
}

#[test]
fn whoever_takes_a_path_takes_it_from_both() {
    let world = known(&one("Allow", json!({})));
    let mut twin = server("twin", json!({}), json!({"path": "/team/a"}));
    let lines = told(&world, None, Some(&twin));
    assert!(lines.contains(&"- group:dev@corp: get_* on team/a (rule p/r)".to_owned()), "{lines:?}");
    let mut both = world;
    put(&mut both, &twin);
    assert_eq!(told(&both, Some(&twin), None), ["+ group:dev@corp: get_* on team/a (rule p/r)"]);
    let before = twin.clone();
    twin["spec"]["path"] = "/team/twin".into();
    assert_eq!(told(&both, Some(&before), Some(&twin)), ["+ group:dev@corp: get_* on team/a (rule p/r)"]);
}

#[test]
fn a_server_without_a_trust_anchor_is_not_served_for_want_of_a_secret_either() {
    let headers = json!([{"name": "authorization", "secretKeyRef": {"name": "s", "key": "k"}}]);
    let more = json!({"upstream": {"credentials": {"none": null, "headers": headers}}, "authorization": {"servers": ["nobody"]}});
    let mut world = known(&one("Allow", json!({})));
    put(&mut world, &server("a", json!({}), more));
    let served = world.fleet().by_name("team", "a").unwrap();
    assert!(matches!(served.server.state, crate::generated::server::State::Unserved { .. }));
}

#[test]
fn what_an_invalid_policy_does_is_said_not_to_be_known() {
    let mut world = world();
    let mut invalid = one("Allow", json!({}));
    invalid["spec"]["rules"][0]["whne"] = "x".into();
    put(&mut world, &invalid);
    let mended = one("Allow", json!({}));
    let lines = told(&world, Some(&invalid), Some(&mended));
    let note = "an invalid McpPolicy is involved: what of it is in force is not known here";
    assert_eq!(lines, ["+ group:dev@corp: get_* on team/a (rule p/r)", note]);
    // A neighbour denies its whole namespace.
    let mut other = policy("team", json!({"servers": ["b"]}), json!([rule("r", "Allow", json!({}))]));
    other["metadata"]["name"] = "other".into();
    other["metadata"]["uid"] = "other".into();
    assert_eq!(told(&world, None, Some(&other)), [note]);
    // What was known of it before is.
    let mut world = known(&mended);
    put(&mut world, &invalid);
    assert_eq!(told(&world, Some(&invalid), Some(&mended)).last().unwrap(), note);
}
