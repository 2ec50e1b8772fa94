//! What the controller may do, and no more: the chart gives it the same.

use serde_json::{Value, json};

use super::{ACCOUNT, Controller, VERSION, message, server, trust, wait_condition};
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::wait::until;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// What the controller's ServiceAccount may do.
pub(super) fn grant(cluster: &Cluster) {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let named = |mut rule: Value, name: &str| {
        rule["resourceNames"] = json!([name]);
        rule
    };
    let ours = ["mcpservers", "mcppolicies", "mcpauthorizationservers", "mcpclients"];
    let statuses = ours.map(|resource| format!("{resource}/status"));
    let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
    let (leases, events) = ("coordination.k8s.io", "events.k8s.io");
    let everywhere = json!([
        rule("portcullis.dev", &ours, &["list", "watch"]),
        rule("portcullis.dev", &statuses, &["patch"]),
        rule("", &["namespaces"], &["list", "watch"]),
        // Certificates that objects refer to, and the metadata document beside a server.
        rule("", &["configmaps"], &["get", "create", "patch", "delete"]),
        rule(events, &["events"], &["create", "patch"]),
        // Who issues ServiceAccount tokens.
        json!({"nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"]}),
    ]);
    let gateway = json!([
        rule("", &["secrets", "configmaps"], &["list", "watch", "create", "patch", "delete"]),
        named(rule("", &["secrets"], &["get", "update"]), "portcullis-sealing"),
        rule(leases, &["leases"], &["list", "watch", "delete"]),
        named(rule(leases, &["leases"], &["patch"]), "portcullis-heartbeat"),
        rule(leases, &["leases"], &["create"]),
        rule("", &["pods"], &["list", "watch"]),
        named(rule("", &["serviceaccounts/token"], &["create"]), "portcullis-upstream"),
    ]);
    let system = json!([
        rule(leases, &["leases"], &["create"]),
        named(rule(leases, &["leases"], &["get", "update"]), "portcullis-leader"),
        // Signing keys.
        rule("", &["secrets"], &["get", "create"]),
    ]);
    let secrets = json!([rule("", &["secrets"], &["get", "watch"])]);
    let tokens = json!([rule("", &["secrets"], &["get", "create", "patch", "delete"])]);
    let subject = json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}]);
    let role = |kind: &str, name: &str, namespace: Option<&str>, rules: &Value| {
        cluster.apply(
            &json!({"apiVersion": RBAC, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": rules}),
        );
    };
    let bind = |kind: &str, role: &str, namespace: Option<&str>| {
        cluster.apply(&json!({"apiVersion": RBAC, "kind": format!("{kind}Binding"),
            "metadata": {"name": ACCOUNT, "namespace": namespace}, "subjects": subject,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}}));
    };
    role("ClusterRole", ACCOUNT, None, &everywhere);
    bind("ClusterRole", ACCOUNT, None);
    role("ClusterRole", "portcullis-secret-reader", None, &secrets);
    role("ClusterRole", "portcullis-token-writer", None, &tokens);
    for (namespace, rules) in [(GATEWAY, &gateway), (SYSTEM, &system)] {
        role("Role", ACCOUNT, Some(namespace), rules);
        bind("Role", ACCOUNT, Some(namespace));
    }
}

#[test]
fn a_secret_that_may_not_be_read_closes_its_server_alone_and_the_status_holds_the_role_binding() {
    let cluster = Cluster::acquire();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "team",
        "annotations": {"portcullis.dev/allowed-hosts": "vendor.example"}}, "stringData": {"token": "hunter2"}}));
    let header = json!({"headers": [{"name": "x-key", "secretKeyRef": {"name": "key", "key": "token"}}]});
    let upstream = json!({"url": "https://vendor.example/mcp", "credentials": header});
    cluster.apply(&server("team", "closed", &json!({"upstream": upstream})));
    cluster.apply(&server("team", "open", &json!({})));
    let controller = Controller::start(&cluster);

    let closed = ("McpServer", Some("team"), "closed");
    let told = wait_condition(&cluster, closed, ("ResolvedRefs", "False", "SecretForbidden"));
    wait_condition(&cluster, ("McpServer", Some("team"), "open"), ("ResolvedRefs", "True", "ResolvedRefs"));
    let (_, binding) =
        message(&told, "ResolvedRefs").split_once("applies:\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    cluster.apply_yaml(&binding);
    let served = wait_condition(&cluster, closed, ("ResolvedRefs", "True", "ResolvedRefs"));
    assert_eq!(served["status"]["resource"], "https://mcp.example.com/team/closed");

    // Nothing of the Secret is anywhere but in what the proxies are given.
    let secret = super::generated_of(&cluster, "server", &served).unwrap();
    assert!(codec_text(&secret).contains("hunter2"));
    for (version, kind) in [(VERSION, "McpServer"), ("v1", "ConfigMap"), ("events.k8s.io/v1", "Event")] {
        let all = cluster.list(version, kind, None);
        assert!(!json!(all).to_string().contains("hunter2"), "{kind}");
    }
    let events = until("an event to tell of it", || {
        let events = cluster.list("events.k8s.io/v1", "Event", Some("team"));
        (!events.is_empty()).then_some(events)
    });
    let reasons: Vec<&str> = events.iter().map(|event| event["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["SecretForbidden"]);
    assert!(!controller.process.stderr().contains("hunter2"));
}

fn codec_text(object: &portcullis::generated::codec::Generated) -> String {
    String::from_utf8(portcullis::generated::codec::encode(object).unwrap()).unwrap()
}
