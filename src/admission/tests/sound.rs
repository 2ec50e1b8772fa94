//! What holds of every answer, whatever is asked.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{Object, object};
use crate::generated::codec::{self, Generated};
use crate::generated::policy::Standing;
use crate::resolve::tests::arbitrary::documents;
use crate::resolve::{self, Lookup};

/// A time of which nobody else speaks.
const CANARY_TIME: &str = "2041-05-06T07:08:09Z";

fn is_quiet(said: &str) -> bool {
    !said.contains("canary") && !said.contains(CANARY_TIME)
}

/// With a UID, as the API server gives one.
fn born(document: &Value) -> Value {
    let mut whole = document.clone();
    let uid = format!("{}-{}-{}", document["kind"], document["metadata"]["namespace"], document["metadata"]["name"]);
    whole["metadata"]["uid"] = uid.into();
    if whole["kind"] == "McpAuthorizationServer" {
        whole["metadata"]["namespace"] = Value::Null;
    }
    whole
}

/// What a proxy would be given of an object, and whether it loads.
fn loads(world: &World, document: &Value) -> bool {
    let (settings, nothing) = (world.settings(), Lookup::default());
    let generated = match object::read(document).unwrap() {
        Object::AuthorizationServer(object) => {
            Generated::Authority(resolve::authority(&object, &settings, &nothing).unwrap().object)
        }
        Object::Policy(object) => Generated::Policy(resolve::policy(&object, &settings, &nothing).unwrap().object),
        Object::Server(object) => Generated::Server(resolve::server(&object, &settings, &nothing).unwrap().object),
        _ => return true,
    };
    let decoded = codec::decode(&codec::encode(&generated).unwrap());
    decoded.ok().as_ref() == Some(&generated)
        && match generated {
            Generated::Policy(policy) => crate::fleet::Fleet::default().put_policy(policy).is_ok(),
            _ => true,
        }
}

/// Texts of somebody else, which no tenant of `team` may read: each holds `canary`.
fn with_secrets_of_others() -> World {
    let mut world = world();
    world.put(Kind::Namespace, json!({"metadata": {"name": "canary-space", "labels": {"canary": "x"}}}));
    let elsewhere = |mut object: Value, name: &str, namespace: &str| {
        object["metadata"]["namespace"] = namespace.into();
        object["metadata"]["name"] = name.into();
        object["metadata"]["uid"] = format!("canary-{namespace}-{name}").into();
        object
    };
    let theirs = server("s", json!({"canary": "x"}), json!({"upstream": {"url": "https://canary.example/mcp"}}));
    put(&mut world, &elsewhere(theirs.clone(), "canary-server", "canary-space"));
    put(&mut world, &elsewhere(theirs, "s", "canary-space"));
    let rules = json!([rule(
        "canary-rule",
        "Allow",
        json!({
            "principals": [{"groups": ["canary-group"]}], "tools": [{"names": ["canary_tool"]}]
        })
    )]);
    put(&mut world, &elsewhere(policy("x", json!({"servers": ["s"]}), rules), "canary-policy", "canary-space"));
    let guardrail = json!([
        rule(
            "canary-deny",
            "Deny",
            json!({
                "tools": [{"patterns": ["get_*"]}], "when": "args.canary == 'x'", "message": "canary"
            })
        ),
        rule("canary-allow", "Allow", json!({"principals": [{"groups": ["dev"]}], "tools": [{"names": ["t"]}]})),
        rule(
            "canary-narrow",
            "Deny",
            json!({
                "principals": [{"any": true}], "tools": [{"patterns": ["*_canary_*", "*x"], "names": ["canary_too"]}],
                "except": [
                    {"groups": ["canary-group"]}, {"users": ["canary-user"]}, {"groups": ["dev"], "via": ["canary-client"]},
                    {"groups": ["dev"], "actor": {"subjects": ["canary-actor"]}}
                ],
                "notBefore": CANARY_TIME
            })
        ),
        rule(
            "canary-open",
            "Allow",
            json!({
                "principals": [{"users": ["canary-user"]}, {"groups": ["canary-group"]}], "tools": [{"names": ["canary_open"]}]
            })
        )
    ]);
    let everywhere = json!({"selector": {}, "namespaceSelector": {}});
    put(&mut world, &elsewhere(policy("x", everywhere, guardrail), "canary-guardrail", SYSTEM));
    assert!(world.policies_of(SYSTEM).all(|policy| policy.standing == Standing::InForce));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_admitted_loads_and_its_changes_and_its_end_are_answered(documents in documents()) {
        let mut world = nothing_known();
        let mut before: Option<Value> = None;
        for document in documents.iter().map(born) {
            if object::read(&document).is_err() {
                // The API server's own schema refuses most of these; what slips through is refused here.
                prop_assert_eq!(answer(&world, None, Some(&document)).outcome(), "Invalid");
                continue;
            }
            let said = answer(&world, None, Some(&document));
            if said.refusal().is_none() {
                prop_assert!(loads(&world, &document), "{document}");
                prop_assert_eq!(answer(&world, Some(&document), Some(&document)).outcome(), "Admitted");
            }
            // Of one object, and not twice the same, which is never refused.
            let is_edit = |before: &Value| before["metadata"] == document["metadata"] && before["spec"] != document["spec"];
            if let Some(before) = before.filter(is_edit) {
                prop_assert_eq!(answer(&world, Some(&before), Some(&document)).refusal().is_some(), said.refusal().is_some());
            }
            put(&mut world, &document);
            prop_assert!(answer(&world, Some(&document), None).refusal().is_none());
            before = Some(document);
        }
    }

    #[test]
    fn nothing_of_others_is_in_any_answer(documents in documents()) {
        let world = with_secrets_of_others();
        let mine = documents.iter().map(born).filter(|document| document["metadata"]["namespace"] == "team");
        for document in mine {
            for (old, new) in [(None, Some(&document)), (Some(&document), None)] {
                for answer in [answer(&world, old, new), answered(&world, old, new, |_| true)] {
                    let said = format!("{:?}{:?}", answer.refusal(), answer.warnings());
                    prop_assert!(is_quiet(&said), "{said}");
                }
            }
        }
    }
}

#[test]
fn nothing_of_others_is_in_an_answer_that_depends_on_them() {
    let world = with_secrets_of_others();
    let tools = json!([{"patterns": ["*"]}]);
    let who = json!([{"any": true}, {"groups": ["dev"], "actor": {"any": true}}]);
    let open = policy(
        "team",
        json!({"selector": {}}),
        json!([rule("r", "Allow", json!({"principals": who, "tools": tools}))]),
    );
    let guessed = policy("team", json!({"servers": ["canary-serve"]}), json!([rule("r", "Allow", json!({}))]));
    let moved = server("a", json!({}), json!({}));
    let gold = server("a", json!({"tier": "gold"}), json!({}));
    // Administrators are told all of it.
    let record = String::from_utf8(answer(&world, None, Some(&open)).encode()).unwrap();
    for part in ["canary-group", "canary-user", "canary-client", "canary-actor", "_canary_", CANARY_TIME] {
        assert!(record.contains(part), "{part}: {record}");
    }
    for (old, new) in [(None, Some(&open)), (None, Some(&guessed)), (Some(&gold), Some(&moved)), (Some(&gold), None)] {
        for answer in [answer(&world, old, new), answered(&world, old, new, |_| true)] {
            let said = format!("{:?}{:?}", answer.refusal(), answer.warnings())
                .replace("canary-serve\\", "")
                .replace("team/canary-serve", "");
            assert!(is_quiet(&said), "{said}");
        }
    }
}
