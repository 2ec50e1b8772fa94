//! Who opens a server needs the right to, and who narrows needs none.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::admission::grant;
use crate::generated::policy::{Effect, Selector, Standing, Targets};
use crate::policy::arbitrary;
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::request::{Facts, Request};

fn places(world: &World, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let place = |need: &grant::Need| match need.place.attributes() {
        ("", _) => "everywhere".to_owned(),
        (namespace, "") => namespace.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let judged = judged(world, old, new);
    judged.needs().iter().filter(|need| need.right != grant::Right::See).map(place).collect()
}

const NOBODY: [&str; 0] = [];

fn gold() -> Value {
    json!({"selector": {"matchLabels": {"tier": "gold"}}})
}

#[test]
fn who_allows_needs_the_right_where_the_policy_reaches() {
    let world = world();
    let made = |namespace: &str, targets: Value, effect: &str| {
        places(&world, None, Some(&policy(namespace, targets, json!([rule("r", effect, json!({}))]))))
    };
    assert_eq!(made("team", json!({"servers": ["a", "b"]}), "Allow"), ["team/a", "team/b"]);
    assert_eq!(made("team", json!({"servers": ["a", "nowhere"]}), "Allow"), ["team", "team/a"]);
    assert_eq!(made("team", gold(), "Allow"), ["team"]);
    let everywhere = json!({"selector": {}, "namespaceSelector": {}});
    assert_eq!(made(SYSTEM, everywhere.clone(), "Allow"), ["everywhere"]);
    for targets in [json!({"servers": ["a"]}), gold()] {
        assert_eq!(made("team", targets.clone(), "Deny"), NOBODY);
        assert_eq!(made("team", targets, "RequireApproval"), NOBODY);
    }
    assert_eq!(made(SYSTEM, everywhere, "Deny"), NOBODY);
}

#[test]
fn what_opens_a_policy_and_what_narrows_it() {
    let world = world();
    let of = |rules: Value, more: Value| {
        let mut whole = policy("team", json!({"servers": ["a"]}), rules);
        patch(&mut whole["spec"], &more);
        whole
    };
    let (yes, no) = (rule("yes", "Allow", json!({})), rule("no", "Deny", json!({"tools": [{"names": ["get_x"]}]})));
    let whole = of(json!([yes, no]), json!({}));
    let with = |change: Value| {
        let mut changed = whole.clone();
        patch(&mut changed["spec"], &change);
        places(&world, Some(&whole), Some(&changed))
    };
    let narrower = rule("yes", "Allow", json!({"tools": [{"names": ["get_a"]}]}));
    let wider = rule("yes", "Allow", json!({"tools": [{"patterns": ["*"]}]}));
    let guarded = rule("yes", "Allow", json!({"when": "has(args.a)"}));
    for (change, expected) in [
        (json!({}), &NOBODY[..]),
        (json!({"rules": [yes, no, rule("more", "Deny", json!({}))]}), &[]),
        (json!({"rules": [narrower, no]}), &[]),
        (json!({"rules": [guarded, no]}), &[]),
        (json!({"rules": [no]}), &[]),
        (json!({"rules": [rule("renamed", "Allow", json!({})), no]}), &[]),
        (json!({"rules": [yes, rule("no", "Deny", json!({}))]}), &[]),
        (json!({"rules": [wider, no]}), &["team/a"]),
        (json!({"rules": [yes]}), &["team/a"]),
        (json!({"rules": [yes, rule("no", "RequireApproval", json!({"tools": [{"names": ["get_x"]}]}))]}), &["team/a"]),
        (
            json!({"rules": [yes, rule("no", "Deny", json!({"tools": [{"names": ["get_x"]}], "when": "args.a"}))]}),
            &["team/a"],
        ),
        (json!({"mode": "Shadow"}), &["team/a"]),
        (json!({"targets": {"servers": ["a", "b"]}}), &["team/b"]),
        (json!({"targets": {"servers": ["b"]}}), &["team/a", "team/b"]),
        (json!({"targets": {"servers": ["a"], "selector": {}}}), &["team"]),
    ] {
        assert_eq!(with(change.clone()), expected, "{change}");
    }
    let shadow = of(json!([yes, no]), json!({"mode": "Shadow"}));
    assert_eq!(places(&world, None, Some(&shadow)), NOBODY);
    assert_eq!(places(&world, Some(&shadow), Some(&whole)), ["team/a"]);
    // A removed Deny opens; a removed Allow does not.
    assert_eq!(places(&world, Some(&whole), None), ["team/a"]);
    assert_eq!(places(&world, Some(&of(json!([yes]), json!({}))), None), NOBODY);
    // Nobody knows what is in force of one that is invalid.
    let mut invalid = whole.clone();
    invalid["spec"]["rules"][0]["whne"] = "x".into();
    assert_eq!(places(&world, Some(&invalid), Some(&whole)), ["team"]);
    assert_eq!(places(&world, Some(&invalid), None), ["team"]);
}

#[test]
fn an_exception_for_a_day_takes_the_verb_of_its_own_and_nothing_else_does() {
    let world = world();
    let rights = |old: Option<&Value>, new: &Value| -> Vec<grant::Right> {
        let judged = judged(&world, old, Some(new));
        judged.needs().iter().map(|need| need.right).filter(|right| *right != grant::Right::See).collect()
    };
    let glass = json!({"reason": "outage", "ticket": "INC-1"});
    let window = json!({"notBefore": "2026-01-01T00:00:00Z", "notAfter": "2026-01-01T08:00:00Z"});
    let plain = rule("other", "Allow", window.clone());
    let mut exception = rule("r", "Allow", window);
    exception["breakGlass"] = glass;
    let at = |targets: Value, rules: &[&Value]| policy("team", targets, json!(rules));
    for targets in [json!({"servers": ["a"]}), json!({"selector": {}}), json!({"servers": ["nobody-yet"]})] {
        assert_eq!(rights(None, &at(targets.clone(), &[&exception])), [grant::Right::BreakGlass], "{targets}");
        assert_eq!(rights(None, &at(targets.clone(), &[&exception, &plain])), [grant::Right::Grant], "{targets}");
        // What is recorded as an exception may not become one that is not.
        let mut for_good = exception.clone();
        for_good.as_object_mut().unwrap().remove("breakGlass");
        let (before, after) = (at(targets.clone(), &[&exception]), at(targets.clone(), &[&for_good]));
        assert_eq!(rights(Some(&before), &after), [grant::Right::Grant], "{targets}");
        assert_eq!(rights(Some(&after), &before), [], "{targets}");
    }
    let mut next = exception.clone();
    patch(&mut next, &json!({"name": "s", "notBefore": "2026-01-01T08:00:00Z", "notAfter": "2026-01-02T00:00:00Z"}));
    assert_eq!(rights(None, &at(json!({"servers": ["a"]}), &[&exception, &next])), [grant::Right::BreakGlass]);
    next["notAfter"] = "2026-01-02T00:00:01Z".into();
    assert_eq!(rights(None, &at(json!({"servers": ["a"]}), &[&exception, &next])), [grant::Right::Grant]);
    // Nor do they come one at a time.
    let before = at(json!({"servers": ["a"]}), &[&exception]);
    assert_eq!(rights(Some(&before), &at(json!({"servers": ["a"]}), &[&exception, &next])), [grant::Right::Grant]);
    let mut excused = exception.clone();
    excused["breakGlass"]["reason"] = "another".into();
    let after = at(json!({"servers": ["a"]}), &[&excused]);
    assert_eq!(
        rights(Some(&before), &after),
        [grant::Right::BreakGlass],
        "what is recorded is not for everybody to say"
    );
    let deny = rule("no", "Deny", json!({}));
    let (guarded, open) = (at(json!({"servers": ["a"]}), &[&deny]), at(json!({"servers": ["a"]}), &[&exception]));
    assert_eq!(rights(Some(&guarded), &open), [grant::Right::Grant]);
    let refused = answered(&world, None, Some(&open), |need| need.right == grant::Right::BreakGlass);
    let message = refused.refusal().unwrap().message.clone();
    assert!(message.contains("the verb break-glass or grant on McpServer team/a is needed"), "{message}");
}

#[test]
fn a_server_is_opened_by_its_labels_its_authorities_and_what_it_asks_of_callers() {
    let mut world = world();
    put(&mut world, &authority("other"));
    put(
        &mut world,
        &policy("team", gold(), json!([rule("gold", "Allow", json!({"tools": [{"risk": ["ReadOnly"]}]}))])),
    );
    let mut deny =
        policy("team", json!({"selector": {"matchLabels": {"stage": "prod"}}}), json!([rule("no", "Deny", json!({}))]));
    deny["metadata"]["name"] = "deny".into();
    deny["metadata"]["uid"] = "deny".into();
    put(&mut world, &deny);
    let guardrail = json!({"selector": {"matchLabels": {"guard": "on"}}, "namespaceSelector": {}});
    put(&mut world, &policy(SYSTEM, guardrail, json!([rule("g", "Deny", json!({}))])));
    let labels = json!({"tier": "gold", "stage": "prod", "guard": "on"});
    let spec = json!({
        "authorization": {"scopes": {"baseline": ["mcp:use"], "tools": [{"name": "w", "match": ["put_*"], "scopes": ["w"]}]}},
        "tools": {
            "lock": {"configMapName": "lock", "sha256": "0".repeat(64), "onChange": "Deny"},
            "risk": [{"name": "d", "match": ["del_*"], "class": "Destructive"}]
        }
    });
    let old = server("c", labels, spec);
    put(&mut world, &old);
    let changed = |change: Value| {
        let mut new = old.clone();
        patch(&mut new, &change);
        places(&world, Some(&old), Some(&new))
    };
    for (change, expected) in [
        (json!({"metadata": {"labels": {"more": "x"}}}), &NOBODY[..]),
        (json!({"metadata": {"labels": {"tier": "tin"}}}), &[]),
        (json!({"metadata": {"labels": {"stage": null}}}), &["team/c"]),
        (json!({"metadata": {"labels": {"guard": null}}}), &[SYSTEM]),
        (json!({"spec": {"authorization": {"servers": ["corp", "other"]}}}), &["team/c"]),
        (json!({"spec": {"authorization": {"servers": []}}}), &[]),
        (json!({"spec": {"authorization": {"audiences": ["https://aud"]}}}), &["team/c"]),
        (json!({"spec": {"authorization": {"scopes": {"baseline": ["mcp:use", "more"]}}}}), &[]),
        (json!({"spec": {"authorization": {"scopes": {"baseline": []}}}}), &["team/c"]),
        (json!({"spec": {"authorization": {"scopes": {"tools": []}}}}), &["team/c"]),
        (json!({"spec": {"tools": {"lock": null}}}), &["team/c"]),
        (json!({"spec": {"tools": {"lock": {"onChange": "Warn"}}}}), &["team/c"]),
        (json!({"spec": {"tools": {"lock": {"onChange": "Hide"}}}}), &[]),
        (json!({"spec": {"tools": {"lock": {"sha256": "1".repeat(64)}}}}), &["team/c"]),
        (json!({"spec": {"tools": {"risk": []}}}), &["team/c"]),
        (json!({"spec": {"tools": {"risk": [{"name": "w", "match": ["x*"], "class": "Write"}]}}}), &["team/c"]),
        (json!({"spec": {"authorization": {"servers": ["corp", "not-there-yet"]}}}), &["team/c"]),
        (json!({"spec": {"authorization": {"audiences": ["https://not-allowed-yet"]}}}), &["team/c"]),
        (json!({"spec": {"state": "Disabled"}}), &[]),
        // Tokens for that path would be taken.
        (json!({"spec": {"path": "/team/c2"}}), &["team/c"]),
        // Whatever its lock says: that is about tools, not about whose data they have.
        (json!({"spec": {"upstream": {"url": "https://another.example/mcp"}}}), &["team/c"]),
        (json!({"spec": {"upstream": {"tls": {"caRef": {"configMapName": "ca"}}}}}), &["team/c"]),
        // As another client, whether or not that is there: what its callers may do there is what that one may.
        (json!({"spec": {"upstream": {"credentials": {"none": null, "oauth": {"client": "gateway"}}}}}), &["team/c"]),
    ] {
        assert_eq!(changed(change.clone()), expected, "{change}");
    }
    let off = {
        let mut off = old.clone();
        off["spec"]["state"] = "Disabled".into();
        off
    };
    assert_eq!(places(&world, Some(&off), Some(&old)), ["team/c"]);
    // By way of a state in which it is unserved for want of a ConfigMap.
    let mut later = old.clone();
    later["spec"]["upstream"]["tls"] = json!({"caRef": {"configMapName": "later"}});
    assert_eq!(places(&world, Some(&off), Some(&later)), ["team/c"]);
    let plain = server("f", json!({"tier": "gold"}), json!({}));
    put(&mut world, &plain);
    let mut elsewhere = plain.clone();
    elsewhere["spec"]["upstream"]["url"] = "https://payroll.example/mcp".into();
    assert_eq!(places(&world, Some(&plain), Some(&elsewhere)), ["team/f"]);
    // Nor does one help that is written along with it.
    elsewhere["spec"]["tools"] = json!({"lock": {"configMapName": "mine", "sha256": "0".repeat(64)}});
    assert_eq!(places(&world, Some(&plain), Some(&elsewhere)), ["team/f"]);
    let mut classed = plain.clone();
    classed["spec"]["tools"] = json!({"lock": {"configMapName": "lock", "sha256": "0".repeat(64), "onChange": "Warn"}});
    assert_eq!(places(&world, Some(&plain), Some(&classed)), ["team/f"]);
    let oauth = |client: &str| json!({"upstream": {"credentials": {"none": null, "oauth": {"client": client}}}});
    let (one, other) =
        (server("f", json!({"tier": "gold"}), oauth("one")), server("f", json!({"tier": "gold"}), oauth("other")));
    assert_eq!(places(&world, Some(&one), Some(&other)), ["team/f"]);
    let (one, other) = (server("g", json!({}), oauth("one")), server("g", json!({}), oauth("other")));
    assert_eq!(places(&world, Some(&one), Some(&other)), NOBODY, "nobody may call it");
    // Made anew before the watch has told that the former one is gone.
    let mut anew = plain.clone();
    anew["metadata"]["uid"] = "another".into();
    assert_eq!(places(&world, None, Some(&anew)), ["team/f"]);
    // A server that nobody may call is opened by nothing that it says itself.
    assert_eq!(places(&world, None, Some(&server("d", json!({}), json!({})))), NOBODY);
    assert_eq!(places(&world, None, Some(&server("d", json!({"tier": "gold"}), json!({})))), ["team/d"]);
    assert_eq!(places(&world, Some(&old), None), NOBODY);
}

#[test]
fn a_server_that_nobody_may_call_yet_stays_under_its_guardrails() {
    let mut world = world();
    let guardrail = json!({"selector": {"matchLabels": {"guard": "on"}}, "namespaceSelector": {}});
    put(&mut world, &policy(SYSTEM, guardrail, json!([rule("g", "Deny", json!({}))])));
    let (under, out) = (server("d", json!({"guard": "on"}), json!({})), server("d", json!({}), json!({})));
    assert_eq!(places(&world, Some(&under), Some(&out)), [SYSTEM]);
    assert_eq!(places(&world, Some(&out), Some(&under)), NOBODY);
    // Nor is it made with a label that keeps it out.
    let unless = json!({"matchExpressions": [{"key": "exempt", "operator": "DoesNotExist"}]});
    let guardrail = json!({"selector": unless, "namespaceSelector": {}});
    let mut exempting = policy(SYSTEM, guardrail, json!([rule("g", "Deny", json!({}))]));
    exempting["metadata"]["name"] = "exempting".into();
    exempting["metadata"]["uid"] = "exempting".into();
    put(&mut world, &exempting);
    assert_eq!(places(&world, None, Some(&server("e", json!({"exempt": "1"}), json!({})))), [SYSTEM]);
    assert_eq!(places(&world, None, Some(&server("e", json!({}), json!({})))), NOBODY);
}

#[test]
fn who_leaves_a_path_to_another_server_opens_that() {
    let mut world = world();
    let twin = server("twin", json!({}), json!({"path": "/team/a"}));
    assert_eq!(places(&world, None, Some(&twin)), NOBODY);
    put(&mut world, &twin);
    assert_eq!(places(&world, Some(&twin), None), NOBODY, "nobody may call the other one");
    put(&mut world, &policy("team", json!({"servers": ["a"]}), json!([rule("r", "Allow", json!({}))])));
    assert_eq!(places(&world, Some(&twin), None), ["team/a"]);
    let third = server("third", json!({}), json!({"path": "/team/a"}));
    put(&mut world, &third);
    assert_eq!(places(&world, Some(&third), None), NOBODY, "two of them stay");
    world.remove(&crate::api::Key { kind: Kind::McpServer, namespace: "team".into(), name: "third".into() });
    let moved = server("twin", json!({}), json!({}));
    assert_eq!(places(&world, Some(&twin), Some(&moved)), ["team/a"]);
    let labelled = server("twin", json!({"l": "v"}), json!({"path": "/team/a"}));
    assert_eq!(places(&world, Some(&twin), Some(&labelled)), NOBODY);
}

#[test]
fn a_server_that_took_no_calls_for_a_reason_of_its_own_is_opened_by_taking_some() {
    let mut world = world();
    let mut twin = authority("twin");
    twin["spec"]["issuer"] = authority("corp")["spec"]["issuer"].clone();
    put(&mut world, &twin);
    put(&mut world, &policy("team", json!({"servers": ["g"]}), json!([rule("r", "Allow", json!({}))])));
    let ambiguous = server("g", json!({}), json!({"authorization": {"servers": ["corp", "twin"]}}));
    put(&mut world, &ambiguous);
    assert_eq!(places(&world, Some(&ambiguous), Some(&server("g", json!({}), json!({})))), ["team/g"]);
}

#[test]
fn a_server_that_was_invalid_is_judged_by_the_labels_that_it_had() {
    let mut world = world();
    let guardrail = json!({"selector": {"matchLabels": {"guard": "on"}}, "namespaceSelector": {}});
    put(&mut world, &policy(SYSTEM, guardrail, json!([rule("g", "Deny", json!({}))])));
    put(&mut world, &policy("team", json!({"servers": ["g"]}), json!([rule("r", "Allow", json!({}))])));
    let invalid = server("g", json!({"guard": "on"}), json!({"path": "/other/g"}));
    put(&mut world, &invalid);
    let places = places(&world, Some(&invalid), Some(&server("g", json!({}), json!({}))));
    assert_eq!(places, [SYSTEM, "team/g"], "out from under the guardrail, and open");
}

#[test]
fn a_name_that_is_dropped_is_not_saved_by_a_label_that_somebody_may_drop_at_the_same_time() {
    let world = world();
    let deny = |targets: Value| policy("team", targets, json!([rule("no", "Deny", json!({}))]));
    let selector = json!({"matchLabels": {"tier": "gold"}});
    let (both, by_label) = (deny(json!({"servers": ["a"], "selector": selector})), deny(json!({"selector": selector})));
    assert_eq!(places(&world, Some(&both), Some(&by_label)), ["team/a"]);
    assert_eq!(places(&world, Some(&by_label), Some(&both)), NOBODY);
    assert_eq!(places(&world, Some(&both), Some(&deny(json!({"selector": {}})))), NOBODY);
}

#[test]
fn a_server_that_is_found_by_name_has_its_name() {
    let world = world();
    let new = policy("team", json!({"servers": ["fresh"]}), json!([rule("r", "Allow", json!({}))]));
    let fresh = crate::api::object::read(&server("fresh", json!({}), json!({}))).unwrap();
    let place = |found: &[crate::api::Object]| {
        let review = review(None, Some(&new));
        let judged = judge(&review, &world, &looked_up(&review, &world, found));
        judged.needs()[0].place.attributes().1.to_owned()
    };
    assert_eq!((place(&[]), place(&[fresh])), (String::new(), "fresh".to_owned()));
}

#[test]
fn whoever_gives_an_object_to_the_garbage_collector_deletes_it() {
    let mut world = world();
    let owned = |mut object: Value, uid: &str| {
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": uid}]);
        object
    };
    let deny = policy("team", json!({"servers": ["a"]}), json!([rule("no", "Deny", json!({}))]));
    put(&mut world, &deny);
    assert_eq!(places(&world, Some(&deny), Some(&owned(deny.clone(), "1"))), ["team/a"]);
    assert_eq!(places(&world, Some(&owned(deny.clone(), "1")), Some(&owned(deny.clone(), "2"))), ["team/a"]);
    assert_eq!(places(&world, Some(&owned(deny.clone(), "1")), Some(&deny)), NOBODY);
    let mut both = owned(deny.clone(), "1");
    let owners = both["metadata"]["ownerReferences"].as_array_mut().unwrap();
    owners.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "stays", "uid": "2"}));
    let left = places(&world, Some(&both), Some(&owned(deny.clone(), "1")));
    assert_eq!(left, ["team/a"], "left to one that somebody can delete");
    assert_eq!(places(&world, None, Some(&owned(deny, "1"))), NOBODY);
    let allow = policy("team", json!({"servers": ["a"]}), json!([rule("yes", "Allow", json!({}))]));
    assert_eq!(places(&world, Some(&allow), Some(&owned(allow.clone(), "1"))), NOBODY);
}

#[test]
fn many_servers_are_asked_about_as_all_of_them() {
    let mut world = world();
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    names.iter().for_each(|name| put(&mut world, &server(name, json!({}), json!({}))));
    let allow = |names: &[String]| policy("team", json!({"servers": names}), json!([rule("r", "Allow", json!({}))]));
    assert_eq!(places(&world, None, Some(&allow(&names))), ["team"]);
    assert_eq!(places(&world, None, Some(&allow(&names[..16]))).len(), 16);
}

#[test]
fn a_trust_anchor_that_servers_trust_is_everybodys() {
    let mut world = world();
    assert_eq!(places(&world, None, Some(&authority("unused"))), NOBODY);
    put(&mut world, &server("e", json!({}), json!({"authorization": {"servers": ["later"]}})));
    assert_eq!(places(&world, None, Some(&authority("later"))), ["everywhere"]);
    let old = authority("corp");
    let mut revoked = old.clone();
    revoked["spec"]["revoked"] = json!([{"jti": "x"}]);
    assert_eq!(places(&world, Some(&old), Some(&revoked)), NOBODY);
    assert_eq!(places(&world, Some(&revoked), Some(&old)), ["everywhere"]);
    assert_eq!(places(&world, Some(&old), None), NOBODY);
    let mut twin = authority("twin");
    twin["spec"]["issuer"] = old["spec"]["issuer"].clone();
    put(&mut world, &twin);
    assert_eq!(places(&world, Some(&old), None), ["everywhere"]);
    // A Deny about an anchor that is not there counts for everybody.
    let deny = rule("no", "Deny", json!({"principals": [{"groups": ["dev"], "authority": "absent"}]}));
    put(&mut world, &policy("team", json!({"servers": ["a"]}), json!([deny])));
    assert_eq!(places(&world, None, Some(&authority("absent"))), ["everywhere"]);
}

#[test]
fn a_missing_right_is_forbidden_and_says_which_and_no_guardrails_name() {
    let mut world = world();
    let guardrail = json!({"selector": {"matchLabels": {"guard": "on"}}, "namespaceSelector": {}});
    put(&mut world, &policy(SYSTEM, guardrail, json!([rule("secret-name", "Allow", json!({}))])));
    let answer = answered(&world, None, Some(&server("d", json!({"guard": "on"}), json!({}))), |_| true);
    let refusal = answer.refusal().unwrap();
    assert_eq!(refusal.reason, "Forbidden");
    assert!(refusal.message.contains("the verb grant on McpServer team/d is needed"), "{}", refusal.message);
    assert!(!refusal.message.contains("secret-name") && !refusal.message.contains(SYSTEM), "{}", refusal.message);
}

/// Named servers, and the tier that is selected; of no tier: every server.
const TARGETS: &[(&[&str], Option<&str>)] = &[
    (&["a"], None),
    (&["b"], None),
    (&["a", "b"], None),
    (&[], Some("")),
    (&[], Some("gold")),
    (&["b"], Some("gold")),
];

fn in_force() -> impl Strategy<Value = crate::generated::Policy> {
    let targets = select(TARGETS);
    (arbitrary::policy(), targets).prop_map(|(policy, (names, tier))| {
        let selector = tier.map(|tier| Selector {
            match_labels: Some(tier)
                .filter(|tier| !tier.is_empty())
                .map(|t| ("tier".into(), t.into()))
                .into_iter()
                .collect(),
            match_expressions: vec![],
        });
        let mut policy = policy;
        policy.targets = Targets { servers: names.iter().map(|n| (*n).into()).collect(), selector, namespaces: None };
        policy.standing = Standing::InForce;
        policy.guardrail = false;
        policy.id.uid = "p".into();
        policy.id.name = "p".into();
        // Nothing of this build allows them.
        policy.rules.iter_mut().for_each(|rule| {
            rule.resources.clear();
            rule.prompts.clear();
        });
        policy.rules.retain(|rule| !rule.tools.is_empty());
        policy
    })
}

/// The same policy with a rule less, a rule more, or a part of a rule changed: what is proven to narrow is rarely random.
fn edited() -> impl Strategy<Value = (crate::generated::Policy, crate::generated::Policy)> {
    (in_force(), in_force(), 0u8..6, any::<prop::sample::Index>()).prop_map(|(old, other, how, at)| {
        let mut new = old.clone();
        match how {
            0 => return (old, other),
            1 if !new.rules.is_empty() => drop(new.rules.remove(at.index(old.rules.len()))),
            2 => new.rules.extend(other.rules),
            3 => new.targets = other.targets,
            4 => new.mode = other.mode,
            _ if !new.rules.is_empty() && !other.rules.is_empty() => {
                let index = at.index(old.rules.len());
                let (rule, with) = (&mut new.rules[index], &other.rules[0]);
                match with.name.len() % 3 + usize::from(with.not_before.is_some()) {
                    0 => rule.principals.clone_from(&with.principals),
                    1 => rule.tools.clone_from(&with.tools),
                    2 => rule.when.clone_from(&with.when),
                    _ => rule.except.clone_from(&with.except),
                }
            }
            _ => {}
        }
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    #[test]
    fn what_needs_no_right_opens_nothing(
        (old, new) in edited(),
        calls in vec((arbitrary::principal(), arbitrary::target(), arbitrary::arguments(), 0i64..4), 40),
    ) {
        let world = world();
        let places: Vec<_> = grant::of_policy("team", Some(Some(old.clone())), Some(&new), &world);
        let fleet = |policy: &crate::generated::Policy| world.fleet().with(|fleet| drop(fleet.put_policy(policy.clone())));
        let (before, after) = (fleet(&old), fleet(&new));
        for name in ["a", "b"] {
            let needed = places.iter().any(|need| matches!(need.place.attributes(), ("team", n) if n.is_empty() || n == name));
            if needed {
                continue;
            }
            for (principal, target, arguments, now) in &calls {
                let decide = |fleet: &crate::fleet::Fleet| {
                    let keys = PrincipalKeys::of(principal);
                    let request = Request { principal, keys: &keys, target: *target, arguments: *arguments };
                    evaluate(fleet.by_name("team", name).unwrap().layers, &request, &Facts { now: *now }).effect
                };
                let rank = |effect| match effect { Effect::Deny => 0, Effect::RequireApproval => 1, Effect::Allow => 2 };
                prop_assert!(rank(decide(&after)) <= rank(decide(&before)), "{name} {principal:?} {target:?} {arguments:?}");
            }
        }
    }
}
