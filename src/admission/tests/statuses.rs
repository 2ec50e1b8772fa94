//! What upstreams list, and what the controller finds out about it, gives and takes no right to write.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

use super::*;

/// A server's tools, as a status may list them: those that rules name among them, in any class, and as reviewed or not.
fn status() -> impl Strategy<Value = Value> {
    let names = subsequence(vec!["get_a", "get_x", "put_a", "delete_a", "sync"], 0..=5);
    let tool = (
        option::of(select(&["ReadOnly", "Write", "Destructive"][..])),
        option::of(select(&["Changed", "New", "Gone"][..])),
    );
    (names, vec(tool, 5), 0..3u8).prop_map(|(names, tools, left_out)| {
        let listed = tools.iter().zip(&names).filter(|((_, drift), _)| *drift != Some("Gone")).count();
        let items: Vec<Value> = names
            .iter()
            .zip(tools)
            .map(|(name, (risk, drift))| {
                let mut item = json!({"name": name, "digest": "sha256:0"});
                patch(&mut item, &json!({"risk": risk, "drift": drift}));
                item
            })
            .collect();
        json!({"tools": {"count": listed + usize::from(left_out), "drifted": left_out, "items": items}})
    })
}

/// A rule of any effect, about tools by name, pattern or class.
fn some_rule() -> impl Strategy<Value = Value> {
    let tools = select(vec![
        json!({"names": ["get_a"]}),
        json!({"names": ["get_a", "sync"]}),
        json!({"patterns": ["*_a"]}),
        json!({"risk": ["ReadOnly"]}),
        json!({"risk": ["Destructive"]}),
    ]);
    (select(&["Allow", "Deny", "RequireApproval"][..]), tools)
        .prop_map(|(effect, tools)| json!({"effect": effect, "tools": [tools]}))
}

/// A policy at the servers of the world, or at one that is not there.
fn some_policy() -> impl Strategy<Value = Value> {
    let targets = select(vec![
        json!({"servers": ["a"]}),
        json!({"servers": ["a", "b"]}),
        json!({"servers": ["nobody"]}),
        json!({"selector": {"matchLabels": {"tier": "gold"}}}),
    ]);
    (targets, vec(some_rule(), 1..4), any::<bool>()).prop_map(|(targets, rules, shadow)| {
        let rules = rules.iter().enumerate().map(|(number, more)| rule(&format!("r{number}"), "Allow", more.clone()));
        let mut policy = policy("team", targets, rules.collect::<Vec<_>>().into());
        if shadow {
            policy["spec"]["mode"] = "Shadow".into();
        }
        policy
    })
}

/// The server `a` of the world, with a lock or classes of its own.
fn some_server() -> impl Strategy<Value = Value> {
    let tools = select(vec![
        json!({}),
        json!({"tools": {"lock": {"configMapName": "lock", "sha256": "0".repeat(64), "onChange": "Deny"}}}),
        json!({"tools": {"lock": {"configMapName": "lock", "sha256": "0".repeat(64), "onChange": "Warn"}}}),
        json!({"tools": {"risk": [{"name": "s", "match": ["sync"], "class": "Destructive"}]}}),
    ]);
    (select(&["gold", "tin"][..]), tools).prop_map(|(tier, tools)| server("a", json!({"tier": tier}), tools))
}

/// What is refused without any right, and with which words.
fn refusal(world: &World, old: Option<&Value>, new: Option<&Value>) -> Option<String> {
    // Whether there is anything to tell is another matter.
    let lacks = |need: &Need| need.right != crate::admission::grant::Right::See;
    answered(world, old, new, lacks).refusal().map(|refusal| refusal.message.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_upstreams_list_changes_no_answer_from_yes_to_no(
        policies in (option::of(some_policy()), option::of(some_policy())),
        servers in (some_server(), some_server()),
        statuses in vec(status(), 2),
    ) {
        let with = |objects: &[&Value], told: bool| {
            let mut world = world();
            for object in objects {
                put(&mut world, object);
            }
            for (server, status) in [servers.0.clone(), server("b", json!({}), json!({}))].iter().zip(&statuses) {
                let mut server = server.clone();
                if told {
                    server["status"] = status.clone();
                }
                put(&mut world, &server);
            }
            world
        };
        let (old, new) = (policies.0.as_ref(), policies.1.as_ref());
        if old.or(new).is_some() {
            let answer = |told| refusal(&with(old.as_slice(), told), old, new);
            prop_assert_eq!(answer(false), answer(true));
        }
        let others: Vec<&Value> = old.into_iter().collect();
        let whole = statuses[0]["tools"]["drifted"] == 0;
        prop_assert_eq!(with(&others, true).tools("team", "a").is_some(), whole, "a status is read, and known to be cut");
        let answer = |told| refusal(&with(&others, told), Some(&servers.0), Some(&servers.1));
        prop_assert_eq!(answer(false), answer(true));
    }
}
