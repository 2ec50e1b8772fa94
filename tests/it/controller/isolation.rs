//! The NetworkPolicy that keeps an upstream in the cluster from being called around the gateway.

use portcullis::controller::server::isolation::NOTED;
use portcullis::generated::codec::Generated;
use portcullis::generated::server::State;
use serde_json::{Value, json};

use super::{Controller, USER, condition, generated_of, message, object, server, trust, wait_condition};
use crate::chart::{installed, installed_with};
use crate::support::kube::Cluster;
use crate::support::wait::until;

const NOTES: (&str, Option<&str>, &str) = ("McpServer", Some("team"), "notes");
const POLICY: &str = "notes-gateway-only";

/// A namespace with a server's trust anchor and a Service, and nothing that asks for anything yet.
fn world(cluster: &Cluster) {
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    service(cluster, &json!({"selector": {"app": "notes"}, "ports": [{"port": 80, "targetPort": "mcp"}]}));
}

fn service(cluster: &Cluster, spec: &Value) {
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "team", "name": "notes-svc"},
        "spec": spec}));
}

/// A server before that Service. A label changes when `looks` does, so that it is looked at.
fn notes(reachable_from: &str, looks: u32) -> Value {
    let service = json!({"name": "notes-svc", "port": 80, "reachableFrom": reachable_from});
    let mut notes = server("team", "notes", &json!({"upstream": {"service": service, "credentials": {"none": {}}}}));
    notes["metadata"]["labels"] = json!({"looks": looks.to_string()});
    notes
}

fn policy(cluster: &Cluster) -> Option<Value> {
    cluster.get("networking.k8s.io/v1", "NetworkPolicy", Some("team"), POLICY)
}

#[test]
fn who_asks_for_it_is_closed_to_all_but_the_gateway_until_it_asks_no_more() {
    let cluster = installed_with("upstream-isolation");
    world(&cluster);
    cluster.apply(&notes("GatewayOnly", 0));
    let controller = Controller::start(&cluster);
    let told = wait_condition(&cluster, NOTES, ("Isolated", "True", "Isolated"));
    assert_eq!(told["status"][NOTED], POLICY);
    let written = policy(&cluster).unwrap();
    let peer = |namespace: &str, component: &str| {
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "portcullis", "app.kubernetes.io/component": component}}})
    };
    let spec = json!({"podSelector": {"matchLabels": {"app": "notes"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer("portcullis-gateway", "proxy"), peer("portcullis-system", "controller")],
            "ports": [{"protocol": "TCP", "port": "mcp"}]}]});
    assert_eq!(written["spec"], spec);
    assert_eq!(written["metadata"]["ownerReferences"][0]["uid"], told["metadata"]["uid"]);
    // Who takes over knows what to remove, whenever this one dies.
    let writes = cluster.writes();
    let first = |resource: &str, name: &str| {
        let is = |write: &crate::support::kube::Write| write.resource == resource && write.name == name;
        writes.iter().position(|write| is(write) && write.user == USER).unwrap()
    };
    assert!(first("mcpservers/status", "notes") < first("networkpolicies", POLICY), "{writes:#?}");

    // What somebody made of it is overruled, and what the Service says now counts.
    let restored = |what: &str, spec: &Value| until(what, || (policy(&cluster)?["spec"] == *spec).then_some(()));
    cluster.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "team", "name": POLICY}, "spec": {"ingress": [{}], "policyTypes": ["Ingress"],
            "podSelector": {"matchLabels": {"app": "another"}}}}));
    cluster.wait_remembered("networking.k8s.io/v1", "NetworkPolicy", Some("team"), POLICY);
    cluster.apply(&notes("GatewayOnly", 1));
    restored("an edit to be overruled", &spec);
    cluster.delete("networking.k8s.io/v1", "NetworkPolicy", Some("team"), POLICY);
    cluster.wait_remembered("networking.k8s.io/v1", "NetworkPolicy", Some("team"), POLICY);
    cluster.apply(&notes("GatewayOnly", 2));
    restored("it to be written again", &spec);
    service(
        &cluster,
        &json!({"selector": {"app": "notes", "tier": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}),
    );
    cluster.wait_remembered("v1", "Service", Some("team"), "notes-svc");
    cluster.apply(&notes("GatewayOnly", 3));
    let mut moved = spec;
    moved["podSelector"]["matchLabels"]["tier"] = "web".into();
    moved["ingress"][0]["ports"][0]["port"] = 8080.into();
    restored("the Service's new Pods to be closed", &moved);

    // Another process looks, and writes nothing.
    controller.stop();
    let before = cluster.writes().len();
    let controller = Controller::start(&cluster);
    controller.wait_leading();
    until("the server to be looked at", || {
        (controller.metric("portcullis_reconciles_total{kind=\"McpServer\",result=\"done\"}") >= 1.0).then_some(())
    });
    let ours = ["networkpolicies", "mcpservers/status"];
    let writes = cluster.writes();
    let written: Vec<_> = writes[before..].iter().filter(|write| ours.contains(&write.resource.as_str())).collect();
    assert!(written.is_empty(), "{written:#?}");

    // An edit that is not accepted opens nothing.
    let mut broken = notes("Anyone", 3);
    broken["spec"]["path"] = "/elsewhere/notes".into();
    cluster.apply(&broken);
    wait_condition(&cluster, NOTES, ("Isolated", "Unknown", "NotAccepted"));
    assert_eq!(policy(&cluster).unwrap()["spec"], moved);

    cluster.apply(&notes("Anyone", 3));
    until("nothing to be left of it", || {
        let told = object(&cluster, NOTES.0, NOTES.1, NOTES.2)?;
        condition(&told, "Accepted").filter(|accepted| accepted.0 == "True")?;
        (policy(&cluster).is_none() && told["status"][NOTED].is_null() && condition(&told, "Isolated").is_none())
            .then_some(())
    });
}

#[test]
fn without_the_right_the_server_is_served_and_its_status_holds_the_role_binding() {
    let cluster = installed();
    world(&cluster);
    cluster.apply(&notes("GatewayOnly", 0));
    let _controller = Controller::start(&cluster);
    let told = wait_condition(&cluster, NOTES, ("Isolated", "False", "IsolationForbidden"));
    assert_eq!(condition(&told, "ResolvedRefs"), Some(("True".into(), "ResolvedRefs".into())));
    assert_eq!(condition(&told, "Ready"), Some(("False".into(), "IsolationForbidden".into())));
    let Some(Generated::Server(served)) = generated_of(&cluster, "server", &told) else { panic!("{told}") };
    assert_eq!(served.state, State::Enabled);
    assert!(told["status"][NOTED].is_null(), "{told}");
    let said = message(&told, "Isolated");
    assert!(said.contains("controller.upstreamIsolation.enabled"), "{said}");
    let (_, binding) = said.split_once("applies:\n").unwrap();
    cluster.apply_yaml(binding);
    wait_condition(&cluster, NOTES, ("Isolated", "True", "Isolated"));
    assert!(policy(&cluster).is_some());

    // The right goes, and then the wish: what is left is named until it can be removed.
    cluster.delete("rbac.authorization.k8s.io/v1", "RoleBinding", Some("team"), "portcullis-upstream-isolation");
    cluster.wait_may_not(USER, "get", ("networking.k8s.io", "networkpolicies"), "team");
    cluster.apply(&notes("Anyone", 0));
    let told = wait_condition(&cluster, NOTES, ("Isolated", "False", "IsolationForbidden"));
    assert!(message(&told, "Isolated").contains("NetworkPolicy team/notes-gateway-only"), "{told}");
    assert_eq!(told["status"][NOTED], POLICY);
    assert!(policy(&cluster).is_some());
    cluster.apply_yaml(binding);
    until("it to be removed", || policy(&cluster).is_none().then_some(()));
    until("nothing to be said of it", || {
        object(&cluster, NOTES.0, NOTES.1, NOTES.2)?["status"][NOTED].is_null().then_some(())
    });
}

#[test]
fn what_is_in_the_way_is_named_and_a_policy_of_somebody_elses_is_left_alone() {
    let cluster = installed_with("upstream-isolation");
    world(&cluster);
    cluster.delete("v1", "Service", Some("team"), "notes-svc");
    cluster.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "team", "name": POLICY, "labels": {"portcullis.dev/isolation": "upstream"}},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}));
    let theirs = policy(&cluster).unwrap();
    cluster.apply(&notes("GatewayOnly", 0));
    let _controller = Controller::start(&cluster);
    let told = wait_condition(&cluster, NOTES, ("Isolated", "False", "NetworkPolicyConflict"));
    assert_eq!(condition(&told, "Ready"), Some(("False".into(), "NetworkPolicyConflict".into())));
    cluster.apply(&notes("Anyone", 0));
    until("nobody to ask for it any more", || {
        condition(&object(&cluster, NOTES.0, NOTES.1, NOTES.2)?, "Isolated").is_none().then_some(())
    });
    assert_eq!(policy(&cluster).unwrap(), theirs);

    cluster.apply(&notes("GatewayOnly", 0));
    wait_condition(&cluster, NOTES, ("Isolated", "False", "NetworkPolicyConflict"));
    cluster.delete("networking.k8s.io/v1", "NetworkPolicy", Some("team"), POLICY);
    // From here on it is the controller that looks again.
    let told = wait_condition(&cluster, NOTES, ("Isolated", "False", "ServiceNotFound"));
    assert!(message(&told, "Isolated").contains("no Service team/notes-svc"), "{told}");
    service(&cluster, &json!({"ports": [{"port": 80}]}));
    wait_condition(&cluster, NOTES, ("Isolated", "False", "ServiceWithoutSelector"));
    service(&cluster, &json!({"selector": {"app": "notes"}, "ports": [{"port": 81}]}));
    wait_condition(&cluster, NOTES, ("Isolated", "False", "ServicePortNotFound"));
    assert!(policy(&cluster).is_none());
    service(&cluster, &json!({"selector": {"app": "notes"}, "ports": [{"port": 80}]}));
    wait_condition(&cluster, NOTES, ("Isolated", "True", "Isolated"));
    let written = policy(&cluster).unwrap();
    assert_eq!(written["spec"]["ingress"][0]["ports"], json!([{"protocol": "TCP", "port": 80}]));
}

/// What the documentation has a newcomer apply, on a release with nothing but what one cannot do without.
#[test]
fn the_first_example_brings_the_rights_that_its_isolation_needs() {
    let cluster = installed();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/cluster/first-server.yaml");
    cluster.kubectl(&["apply", "-f", example]);
    let _controller = Controller::start(&cluster);
    let told = wait_condition(&cluster, ("McpServer", Some("demo"), "notes"), ("Isolated", "True", "Isolated"));
    let policy = cluster.get("networking.k8s.io/v1", "NetworkPolicy", Some("demo"), "notes-gateway-only").unwrap();
    assert_eq!(policy["metadata"]["ownerReferences"][0]["uid"], told["metadata"]["uid"]);
    assert_eq!(policy["spec"]["ingress"][0]["ports"], json!([{"protocol": "TCP", "port": "mcp"}]));
}
