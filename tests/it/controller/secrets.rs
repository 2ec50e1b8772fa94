//! Secrets that the controller may not read.

use serde_json::json;

use super::{Controller, VERSION, message, server, trust, wait_condition};
use crate::chart::installed;
use crate::support::wait::until;

#[test]
fn a_secret_that_may_not_be_read_closes_its_server_alone_and_the_status_holds_the_role_binding() {
    let cluster = installed();
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
