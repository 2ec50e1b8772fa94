//! The same Git tree ends in the same state, in whatever order it is applied.

use std::collections::BTreeMap;
use std::path::Path;

use portcullis::api::Kind;
use serde_json::{Value, json};

use super::house::{House, VERSION};
use crate::controller::USER;
use crate::controller::random::Numbers;
use crate::support::kube::SYSTEM;
use crate::support::wait::until;

/// In how many orders; `PORTCULLIS_ORDERS` says how many others. `make soak` has fifty.
fn orders() -> usize {
    const ORDERS: usize = 5;
    std::env::var("PORTCULLIS_ORDERS").map_or(ORDERS, |orders| orders.parse().unwrap())
}

/// Fisher and Yates.
pub(super) fn shuffle(list: &mut [Value], numbers: &mut Numbers) {
    for last in (1..list.len()).rev() {
        let other = numbers.below(u64::try_from(last).unwrap() + 1);
        list.swap(last, usize::try_from(other).unwrap());
    }
}

/// Everything of `examples/`, as one tree. GitOps engines apply Namespaces, rights and ConfigMaps before other objects; what
/// is of our own kinds comes in any order.
pub(super) fn examples() -> (Vec<Value>, Vec<Value>) {
    let inside = |folder: &Path| {
        let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    };
    let folders = inside(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"));
    let files = folders.iter().flat_map(|folder| inside(folder));
    let mut documents: Vec<Value> = files
        .flat_map(|file| serde_saphyr::from_multiple::<Value>(&std::fs::read_to_string(file).unwrap()).unwrap())
        .collect();
    documents.sort_by_key(|document| document["kind"] != "Namespace");
    documents.into_iter().partition(|document| document["apiVersion"] != VERSION)
}

/// Objects of which each is right in itself, and that are at odds with each other.
pub(super) fn faults() -> (Vec<Value>, Vec<Value>) {
    let object = |kind: &str, namespace: Option<&str>, name: &str, spec: Value| json!({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec});
    let anchor = |name: &str, issuer: &str| object("McpAuthorizationServer", None, name, json!({"issuer": issuer}));
    let server = |name: &str, more: Value| {
        let mut spec = json!({"upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
            "authorization": {"servers": ["one"]}});
        for (member, value) in more.as_object().unwrap() {
            spec[member] = value.clone();
        }
        object("McpServer", Some("team"), name, spec)
    };
    let policy = |namespace: &str, name: &str, authority: &str, targets: Value, who: Value| {
        let rules = json!([{"name": "r", "effect": "Allow", "principals": [who], "tools": [{"names": ["t"]}]}]);
        object("McpPolicy", Some(namespace), name, json!({"authority": authority, "targets": targets, "rules": rules}))
    };
    let named = |server: &str| json!({"servers": [server]});
    let ours = vec![
        anchor("one", "https://one.example"),
        // One issuer twice: whoever trusts both takes no calls.
        anchor("again", "https://one.example"),
        server("plain", json!({})),
        server("both", json!({"authorization": {"servers": ["one", "again"]}})),
        server("nobodys", json!({"authorization": {"servers": ["missing"]}})),
        server("twin", json!({"path": "/team/plain"})),
        server("locked", json!({"tools": {"lock": {"configMapName": "no-such", "sha256": "0".repeat(64)}}})),
        policy("team", "good", "one", named("plain"), json!({"users": ["ana"]})),
        policy("team", "nowhere", "one", named("missing"), json!({"users": ["ana"]})),
        policy("team", "stranger", "missing", named("plain"), json!({"users": ["ana"]})),
        policy("team", "no-client", "one", named("plain"), json!({"mcpClients": ["missing"]})),
        policy("team", "groups", "one", named("plain"), json!({"groups": ["nobody-is-in-one"]})),
        policy(SYSTEM, "guard", "one", json!({"selector": {}, "namespaceSelector": {}}), json!({"users": ["root"]})),
        // These two are refused, whenever they come.
        policy("team", "reaches-out", "one", json!({"selector": {}, "namespaceSelector": {}}), json!({"users": ["x"]})),
        object(
            "McpPolicy",
            Some("team"),
            "never",
            json!({"authority": "one", "targets": named("plain"), "rules": [
            {"name": "yes", "effect": "Allow", "principals": [{"users": ["ana"]}], "tools": [{"names": ["t"]}]},
            {"name": "no", "effect": "Deny", "principals": [{"any": true}], "tools": [{"patterns": ["*"]}]}]}),
        ),
    ];
    let spaces = vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})];
    (spaces, ours)
}

type State = BTreeMap<String, Vec<String>>;

/// Every object of our own kinds and what its conditions say, if all of them are about the objects as they are.
fn state(house: &House) -> Option<State> {
    let mut state = State::new();
    for kind in Kind::OURS {
        for object in house.cluster.list(VERSION, kind.as_str(), None) {
            let (metadata, status) = (&object["metadata"], &object["status"]);
            if status["observedGeneration"] != metadata["generation"] {
                return None;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let say = |c: &Value| format!("{}={} {}", text(&c["type"]), text(&c["status"]), text(&c["reason"]));
            let conditions: Vec<String> = status["conditions"].as_array().unwrap().iter().map(say).collect();
            if conditions.iter().any(|said| said.ends_with(" Fetching")) {
                return None;
            }
            let key = format!("{} {}/{}", kind.as_str(), text(&metadata["namespace"]), text(&metadata["name"]));
            state.insert(key, conditions);
        }
    }
    Some(state)
}

/// Applies a tree, and says which of its objects were refused.
fn apply(house: &House, ours: &[Value]) -> Vec<String> {
    let mut refused = Vec::new();
    for object in ours {
        if crate::support::runtime().block_on(house.cluster.try_apply(object)).is_err() {
            refused.push(format!("{} {}", object["kind"], object["metadata"]["name"]));
        }
    }
    refused.sort();
    refused
}

fn clear(house: &House) {
    for kind in Kind::OURS {
        for object in house.cluster.list(VERSION, kind.as_str(), None) {
            let namespace = object["metadata"]["namespace"].as_str();
            house.cluster.delete(VERSION, kind.as_str(), namespace, object["metadata"]["name"].as_str().unwrap());
        }
    }
    // Nobody collects garbage here: a Secret that outlives its McpClient is somebody else's to the next one of the name.
    for secret in house.cluster.list("v1", "Secret", Some("demo")) {
        house.cluster.delete("v1", "Secret", Some("demo"), secret["metadata"]["name"].as_str().unwrap());
    }
    until("everything to be gone", || state(house).filter(State::is_empty));
}

fn holds_in_every_order(name: &str, (first, mut ours): (Vec<Value>, Vec<Value>), refusals: usize) {
    let house = House::build();
    first.iter().for_each(|object| drop(house.cluster.apply(object)));
    // The API server knows of rights a moment after they are written, and the controller looks again ten seconds later.
    for binding in first.iter().filter(|object| object["kind"] == "RoleBinding") {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap();
        let (verb, of) = match binding["roleRef"]["name"].as_str().unwrap() {
            "portcullis-secret-reader" => ("get", ("", "secrets")),
            "portcullis-token-writer" => ("create", ("", "secrets")),
            "portcullis-upstream-isolation" => ("create", ("networking.k8s.io", "networkpolicies")),
            _ => continue,
        };
        house.cluster.wait_may(USER, verb, of, namespace);
    }
    let mut numbers = Numbers(5);
    let mut expected: Option<(Vec<String>, State)> = None;
    for order in 0..orders() {
        let refused = apply(&house, &ours);
        assert_eq!(refused.len(), refusals, "{refused:?}");
        let (first_refused, first_state) = expected.get_or_insert_with(|| {
            // It has ended when it was looked at often, and nothing changed.
            let (mut last, mut looks) = (None, 0);
            let settled = until("the first order to end", || {
                let now = state(&house)?;
                looks = if last.as_ref() == Some(&now) { looks + 1 } else { 0 };
                last = Some(now);
                last.clone().filter(|_| looks > 40)
            });
            (refused.clone(), settled)
        });
        assert_eq!(&refused, first_refused);
        let mut seen = None;
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the same state", || {
                seen = state(&house);
                (seen.as_ref() == Some(first_state)).then_some(())
            });
        }));
        assert!(waited.is_ok(), "{name}, order {order}: {seen:#?} instead of {first_state:#?}");
        // Applied again, nothing of it is refused that was not before.
        assert_eq!(&apply(&house, &ours), first_refused);
        clear(&house);
        shuffle(&mut ours, &mut numbers);
    }
}

#[test]
fn the_examples_end_in_one_state_in_whatever_order() {
    holds_in_every_order("examples", examples(), 0);
}

#[test]
fn a_tree_at_odds_with_itself_ends_in_one_state_in_whatever_order() {
    holds_in_every_order("faults", faults(), 2);
}
