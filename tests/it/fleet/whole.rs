//! The controller and a proxy of the real binary: from a manifest to a call, and back to what the manifest's status says.

use std::sync::Arc;

use portcullis::generated::codec::Generated;
use serde_json::{Value, json};

use super::house::{House, PUBLIC_URL, RULES};
use crate::support::gateway::{policy, server};
use crate::support::issuer::Issuer;
use crate::support::kube::{Cluster, SYSTEM};
use crate::support::process::{Process, portcullis};
use crate::support::token::Key;
use crate::support::wait::{PATIENCE, until, until_within};

const VERSION: &str = "portcullis.dev/v1alpha1";

/// A controller that may do everything: what it may not do is other tests' matter.
fn controller(cluster: &Cluster) -> Process {
    let mut command = portcullis();
    command.args(["controller", "--public-url", PUBLIC_URL, "--allow-private-upstreams=127.0.0.0/8"]);
    command.env("KUBECONFIG", cluster.kubeconfig());
    Process::start(command)
}

fn governed(issuer: &Issuer) -> (House, Process) {
    governed_by(issuer, controller, &[])
}

/// A house in which only what a person wrote and the controller made of it is there.
pub(super) fn governed_by<T>(issuer: &Issuer, controller: impl FnOnce(&Cluster) -> T, flags: &[&str]) -> (House, T) {
    let mut house = House::build();
    house.stop_beating();
    house.remove(&Generated::Server(house.server.clone()));
    house.remove(&Generated::Policy(house.policy.clone()));
    house.remove(&Generated::Authority(house.authority.clone()));
    let controller = controller(&house.cluster);
    house.cluster.apply_yaml(&format!(
        "apiVersion: {VERSION}\nkind: McpAuthorizationServer\nmetadata: {{name: local}}\nspec: {{issuer: \"{}\"}}\n",
        issuer.url()
    ));
    house.cluster.apply_yaml(&server("items", house.upstream.url()));
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    house.start(flags);
    (house, controller)
}

pub(super) fn wait_condition(house: &House, kind: &str, name: &str, condition: &str, status: &str) {
    wait_condition_in(house, "default", kind, name, condition, status);
}

/// Waits until a condition of an object, as it is now, has this status.
fn wait_condition_in(house: &House, namespace: &str, kind: &str, name: &str, condition: &str, status: &str) {
    until(&format!("{kind} {namespace}/{name} to be {condition}={status}"), || {
        let object = house.cluster.get(VERSION, kind, Some(namespace), name)?;
        let is_it = |one: &&Value| {
            one["type"] == condition
                && one["status"] == status
                && one["observedGeneration"] == object["metadata"]["generation"]
        };
        object["status"]["conditions"].as_array()?.iter().find(is_it).map(drop)
    });
}

#[test]
fn a_manifest_is_enforced_when_its_status_says_so() {
    let issuer = Issuer::start();
    let (house, _controller) = governed(&issuer);
    wait_condition(&house, "McpServer", "items", "Programmed", "True");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    let resource = format!("{PUBLIC_URL}/default/items");
    let (ana, ben) = (issuer.token("ana", &resource, "", &[]), issuer.token("ben", &resource, "", &[]));
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));
    house.cluster.apply_yaml(&policy("persons", "items", &RULES.replace("[ana]", "[ben]")));
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(house.is_allowed(&ben) && !house.is_allowed(&ana), "what is said to be enforced is enforced");

    // A proxy that the network has cut off.
    house.process().signal("STOP");
    house.cluster.apply_yaml(&policy("persons", "items", RULES));
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "False");
    house.process().signal("CONT");
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));
    house.cluster.delete(VERSION, "McpPolicy", Some("default"), "persons");
    house.wait_denied(&ana);
}

#[test]
fn a_key_that_an_issuer_changed_to_reaches_the_proxy_that_asked_for_it() {
    let issuer = Issuer::start();
    let (house, _controller) = governed(&issuer);
    let resource = format!("{PUBLIC_URL}/default/items");
    house.wait_ready();
    house.wait_allowed(&issuer.token("ana", &resource, "", &[]));
    issuer.set_keys(vec![Arc::new(Key::es256("new"))]);
    // It is not fetched again before it is asked for, and then not more often than the controller's window allows: three quarters
    // of a minute, at worst.
    let token = issuer.token("ana", &resource, "", &[]);
    until_within(2 * PATIENCE, "the new key to be believed", || house.is_allowed(&token).then_some(()));
}

#[test]
fn a_neighbours_policy_never_reaches_a_server_and_a_guardrail_is_not_dodged_by_who_owns_it() {
    let issuer = Issuer::start();
    let (house, _controller) = governed(&issuer);
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    let resource = format!("{PUBLIC_URL}/default/items");
    let (ana, ben) = (issuer.token("ana", &resource, "", &[]), issuer.token("ben", &resource, "", &[]));
    let neighbour = |name: &str, targets: Value, effect: &str, who: &str| {
        json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"name": name, "namespace": "neighbour"},
            "spec": {"authority": "local", "targets": targets, "rules": [{"name": "reach", "effect": effect,
                "principals": [{"users": [who]}], "tools": [{"patterns": ["*"]}]}]}})
    };
    house.cluster.namespace("neighbour", &[]);
    house.cluster.apply(&neighbour("grants", json!({"servers": ["items"], "selector": {}}), "Allow", "ben"));
    house.cluster.apply(&neighbour("denies", json!({"selector": {}}), "Deny", "ana"));
    house.cluster.apply(&neighbour("widens", json!({"selector": {}, "namespaceSelector": {}}), "Deny", "ana"));
    for name in ["grants", "denies"] {
        wait_condition_in(&house, "neighbour", "McpPolicy", name, "Enforced", "True");
    }
    wait_condition_in(&house, "neighbour", "McpPolicy", "widens", "Accepted", "False");
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));

    // A guardrail that selects by the namespace alone, and its tools by a risk of which the server's owner may speak.
    house.cluster.apply(&json!({"apiVersion": VERSION, "kind": "McpPolicy",
        "metadata": {"name": "nothing-is-read", "namespace": SYSTEM},
        "spec": {"targets": {"namespaceSelector": {"matchLabels": {"tier": "production"}}, "selector": {}},
            "rules": [{"name": "nothing-is-read", "effect": "Deny", "principals": [{"any": true}],
                "tools": [{"risk": ["ReadOnly"]}]}]}}));
    wait_condition_in(&house, SYSTEM, "McpPolicy", "nothing-is-read", "Enforced", "True");
    assert!(house.is_allowed(&ana), "the namespace is not of that tier");
    let labelled = |tier: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": {"tier": tier}}});
    let held = || until("the guardrail to hold", || (!house.is_allowed(&ana)).then_some(()));
    house.cluster.apply(&labelled("production"));
    held();
    house.cluster.apply(&labelled("development"));
    house.wait_allowed(&ana);
    // A reference that no object can have holds up nothing else about the server.
    let unreadable = server("items", house.upstream.url())
        + "  tools: {lock: {configMapName: \"a b\", sha256: \"LOCK\", onChange: Warn}}\n";
    let unreadable = unreadable.replace("LOCK", &"0".repeat(64));
    house.cluster.apply_yaml(&unreadable);
    house.cluster.apply(&labelled("production"));
    wait_condition(&house, "McpServer", "items", "ResolvedRefs", "False");
    held();
    // Who owns the namespace says that the tool does more than read, puts other labels on the server, and allows everything.
    let grave = server("items", house.upstream.url())
        + "  tools: {risk: [{name: grave, match: [\"*\"], class: Destructive}]}\n";
    let grave = grave.replace("namespace: default}", "namespace: default, labels: {tier: development}}");
    house.cluster.apply_yaml(&grave);
    wait_condition(&house, "McpServer", "items", "Programmed", "True");
    assert!(!house.is_allowed(&ana), "its owner's word has lifted a guardrail");
    house.cluster.apply_yaml(&policy(
        "persons",
        "items",
        &RULES.replace("users: [ana]", "any: true, authority: local"),
    ));
    wait_condition(&house, "McpPolicy", "persons", "Enforced", "True");
    assert!(!house.is_allowed(&ana) && !house.is_allowed(&ben), "an Allow has lifted a Deny");
    house.cluster.apply(&labelled("development"));
    house.wait_allowed(&ana);
}
