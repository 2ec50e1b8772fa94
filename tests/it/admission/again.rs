//! What was accepted is accepted again, whatever upstreams did meanwhile.

use std::collections::BTreeMap;

use kube::Client;
use kube::api::{Patch, PatchParams};
use portcullis::api::Kind;
use serde_json::{Value, json};

use super::author::{Deed, done, tried};
use super::house::{House, VERSION};
use super::orders::{examples, faults, shuffle};
use crate::controller::random::Numbers;
use crate::support::kube::SYSTEM;
use crate::support::runtime;
use crate::support::wait::until;

const ROUNDS: u64 = 6;
/// Whose guardrails and trust anchors the tree has, and who may open no server but those of these namespaces.
const SPACES: [&str; 5] = ["default", "demo", "payments", "team", "team-a"];
/// The server whose status is written last.
const LAST: &str = "McpServer demo/notes";
const RBAC: &str = "rbac.authorization.k8s.io";

/// A GitOps engine that may write our kinds, and open the servers of the tree's own namespaces.
fn engine(house: &House) -> Client {
    let subjects = json!([{"kind": "User", "name": "engine", "apiGroup": RBAC}]);
    let object = |kind: &str, namespace: Option<&str>, more: (&str, Value)| {
        let mut object = json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind,
            "metadata": {"name": "engine", "namespace": namespace}});
        if kind.ends_with("Binding") {
            object["subjects"] = subjects.clone();
        }
        object[more.0] = more.1;
        house.cluster.apply(&object);
    };
    let role = |kind: &str| ("roleRef", json!({"apiGroup": RBAC, "kind": kind, "name": "engine"}));
    let ours = ["mcpservers", "mcppolicies", "mcpclients", "mcpauthorizationservers"];
    let rules = json!([
        {"apiGroups": ["portcullis.dev"], "resources": ours, "verbs": ["get", "create", "update", "patch"]},
        {"apiGroups": ["portcullis.dev"], "resources": ["mcpauthorizationservers"], "resourceNames": ["local", "vendor"],
            "verbs": ["issue"]}]);
    object("ClusterRole", None, ("rules", rules));
    object("ClusterRoleBinding", None, role("ClusterRole"));
    let grant = json!([{"apiGroups": ["portcullis.dev"], "resources": ["mcpservers"], "verbs": ["grant"]}]);
    for namespace in SPACES {
        object("Role", Some(namespace), ("rules", grant.clone()));
        object("RoleBinding", Some(namespace), role("Role"));
    }
    house.cluster.wait_may("engine", "patch", ("portcullis.dev", "mcpauthorizationservers"), "");
    for namespace in SPACES {
        house.cluster.wait_may("engine", "grant", ("portcullis.dev", "mcpservers"), namespace);
    }
    house.cluster.as_user("engine", &["system:authenticated"])
}

/// Both trees, without what of them is refused whoever writes it, or opens servers everywhere; and what has to be there before.
fn tree() -> (Vec<Value>, Vec<Value>) {
    let ((mut first, mut ours), (spaces, with_faults)) = (examples(), faults());
    first.extend(spaces);
    let left_out = ["reaches-out", "never", "guard"];
    ours.extend(with_faults.into_iter().filter(|object| !left_out.contains(&text(&object["metadata"]["name"]))));
    (first, ours)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn named(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{} {}/{}", text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]))
}

/// What was written of every object of ours, and which writing it is: its UID and generation.
fn written(house: &House) -> BTreeMap<String, (Value, Value)> {
    let all = Kind::OURS.iter().flat_map(|kind| house.cluster.list(VERSION, kind.as_str(), None));
    all.map(|object| {
        let metadata = &object["metadata"];
        let content = json!([metadata["labels"], metadata["annotations"], object["spec"]]);
        (named(&object), (content, json!([metadata["uid"], metadata["generation"]])))
    })
    .collect()
}

/// The tools that an upstream lists in a round: some of those that policies name, in any class, reviewed or not, and one that was
/// never there before.
fn status(round: u64, numbers: &mut Numbers) -> Value {
    const NAMES: [&str; 9] = [
        "create_note",
        "delete_all_notes",
        "delete_note",
        "get_note",
        "list_bookings",
        "list_notes",
        "refund_payment",
        "sync",
        "t",
    ];
    let mut some = |of: &[&str]| of[usize::try_from(numbers.below(of.len() as u64)).unwrap()].to_owned();
    let mut items = vec![json!({"name": format!("get_round_{round}"), "risk": "ReadOnly"})];
    for name in NAMES {
        if some(&["listed", "not"]) == "not" {
            continue;
        }
        let mut item = json!({"name": name, "digest": format!("sha256:{}", some(&["0", "1"]).repeat(64))});
        for (member, values) in
            [("risk", &["", "ReadOnly", "Write", "Destructive"]), ("drift", &["", "Changed", "New", "Gone"])]
        {
            let value = some(values);
            if !value.is_empty() {
                item[member] = value.into();
            }
        }
        items.push(item);
    }
    let listed = items.iter().filter(|item| item["drift"] != "Gone").count();
    let drifted = items.iter().filter(|item| !item["drift"].is_null()).count();
    json!({"status": {"tools": {"count": listed, "drifted": drifted, "items": items}}})
}

/// Writes what the controller would have found out, and waits until the webhook has heard of all of it: a policy that would allow
/// every tool of the server that is written last is answered with what is there.
fn upstreams_change(house: &House, ours: &[Value], round: u64, numbers: &mut Numbers) {
    let (last, others): (Vec<&Value>, Vec<&Value>) =
        ours.iter().filter(|object| object["kind"] == "McpServer").partition(|server| named(server) == LAST);
    for server in others.into_iter().chain(last.iter().copied()) {
        let (namespace, name) = (text(&server["metadata"]["namespace"]), text(&server["metadata"]["name"]));
        let api = house.cluster.api(VERSION, "McpServer", Some(namespace));
        let change = Patch::Merge(status(round, numbers));
        runtime().block_on(api.patch_status(name, &PatchParams::default(), &change)).unwrap();
    }
    let probe = json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"name": "probe", "namespace": "demo"},
        "spec": {"authority": "local", "targets": {"servers": ["notes"]}, "rules": [
            {"name": "all", "effect": "Allow", "principals": [{"users": ["probe"]}], "tools": [{"patterns": ["*"]}]}]}});
    until("the webhook to know what upstreams list", || {
        let answer = tried(&house.cluster.client(), Deed::Write(&probe), "probe");
        assert!(answer.is_taken(), "{answer:?}");
        let newest = format!("+ user:probe@local: get_round_{round} [ReadOnly] on demo/notes (rule probe/all)");
        answer.warnings.contains(&newest).then_some(())
    });
    assert_eq!(last.len(), 1);
}

/// The reviewed definitions are others, are gone, or are those that were reviewed.
fn locks_change(house: &House, first: &[Value], numbers: &mut Numbers) {
    for lock in first.iter().filter(|object| object["kind"] == "ConfigMap") {
        let (namespace, name) = (text(&lock["metadata"]["namespace"]), text(&lock["metadata"]["name"]));
        let mut other = lock.clone();
        other["data"] = json!({"tools-lock.json": r#"{"format": 1, "tools": []}"#});
        match numbers.below(3) {
            0 => house.cluster.delete("v1", "ConfigMap", Some(namespace), name),
            1 => drop(house.cluster.apply(&other)),
            _ => drop(house.cluster.apply(lock)),
        }
    }
}

/// How many reviews there were of an operation.
fn reviews(house: &House, operation: &str) -> u64 {
    let metrics = house.metrics();
    let is_it = |line: &&str| line.starts_with("portcullis_reviews_total{") && line.contains(operation);
    let counts = metrics.lines().filter(is_it);
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn what_was_accepted_is_accepted_again_whatever_upstreams_did() {
    let house = House::build();
    let (first, mut ours) = tree();
    first.iter().for_each(|object| drop(house.cluster.apply(object)));
    let engine = engine(&house);
    // Trust anchors first: who adds one that a server names already needs the right to open all servers.
    ours.sort_by_key(|object| (object["kind"] != "McpAuthorizationServer", object["kind"] != "McpServer"));
    let apply = |object: &Value, id: &str| {
        let answer = done(&engine, Deed::Write(object), id);
        assert!(answer.is_taken(), "{id}: {}: {answer:#?}", named(object));
    };
    ours.iter().for_each(|object| apply(object, "at first"));
    let contents = || written(&house).into_iter().map(|(name, (content, _))| (name, content));
    let accepted: BTreeMap<String, Value> = contents().collect();
    let before = (reviews(&house, "Update"), reviews(&house, "Delete"));
    let (mut numbers, mut labelled, mut deleted) = (Numbers(7), 0, 0);
    for round in 0..ROUNDS {
        upstreams_change(&house, &ours, round, &mut numbers);
        locks_change(&house, &first, &mut numbers);
        shuffle(&mut ours, &mut numbers);
        let before = written(&house);
        ours.iter().for_each(|object| apply(object, &format!("again-{round}")));
        assert_eq!(written(&house), before, "round {round}: something is written anew");
        // What is as it was is not even asked about. So somebody has labelled it, or it is gone.
        for object in &ours {
            let chance = numbers.below(4);
            match text(&object["kind"]) {
                _ if chance > 1 => continue,
                "McpServer" | "McpPolicy" | "McpClient" if chance == 0 => {
                    let metadata = &object["metadata"];
                    let (kind, namespace, name) =
                        (text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"]));
                    house.cluster.delete(VERSION, kind, Some(namespace), name);
                    // A client that is registered waits for that to be taken back.
                    let gone = || house.cluster.get(VERSION, kind, Some(namespace), name).is_none().then_some(());
                    until(&format!("{} to be gone", named(object)), gone);
                    deleted += 1;
                }
                _ => {
                    let mut by_hand = object.clone();
                    by_hand["metadata"]["labels"]["example.com/by-hand"] = format!("round-{round}").into();
                    house.cluster.apply(&by_hand);
                    labelled += 1;
                }
            }
            apply(object, &format!("corrected-{round}"));
        }
        assert_eq!(contents().collect::<BTreeMap<_, _>>(), accepted, "round {round}");
    }
    // The webhook was asked each time: about the label and its loss, or the deletion; twice, if a status was written meanwhile.
    let asked = (reviews(&house, "Update") - before.0, reviews(&house, "Delete") - before.1);
    assert!(asked.0 >= 2 * labelled && asked.1 >= deleted, "{asked:?} {labelled} {deleted}");
    assert!(labelled > 30 && deleted > 15, "{labelled} {deleted}");
    // The engine has no more rights than it had.
    let guardrail = json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"name": "g", "namespace": SYSTEM}, "spec": {
        "authority": "corp", "targets": {"selector": {}, "namespaceSelector": {}}, "rules": [
            {"name": "all", "effect": "Allow", "principals": [{"any": true}], "tools": [{"names": ["t"]}]}]}});
    let answer = done(&engine, Deed::Write(&guardrail), "beyond");
    assert!(answer.code == 403 && answer.message.contains("GrantMissing"), "{answer:?}");
}
