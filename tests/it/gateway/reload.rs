//! Changes of manifests and tokens, while the gateway serves.

use serde_json::json;

use super::house::{House, RULES};
use crate::support::gateway::policy;
use crate::support::http;
use crate::support::wait::until;

#[test]
fn a_changed_policy_reaches_open_sessions() {
    let house = House::build();
    let session = house.session(&house.ben);
    let call =
        || session.request(&house.ben, "tools/call", json!({"name": "get_item", "arguments": {"id": "1"}})).json();
    assert_eq!(call()["error"]["code"], -32602);
    house.gateway.write("policy.yaml", &policy("persons", "items", &RULES.replace("[echo]", "[echo, get_item]")));
    until("the new grant", || call().get("result").map(drop));
    house.gateway.remove("policy.yaml");
    until("the grant to be gone", || (call()["error"]["code"] == -32602).then_some(()));
}

#[test]
fn a_broken_policy_is_named_and_only_narrows() {
    let house = House::build();
    house.gateway.write("policy.yaml", &policy("persons", "items", &RULES.replace("when:", "whne:")));
    let report = until("the broken policy to be named", || {
        let (ready, report) = house.gateway.readyz();
        (!ready).then_some(report)
    });
    let text = report.to_string();
    assert!(text.contains("policy.yaml:") && text.contains("when"), "{text}");
    assert!(house.gateway.metrics().contains("portcullis_manifest_errors 1"), "{}", house.gateway.metrics());
    // Allow rules stop, the last accepted Deny stays in force.
    assert_eq!(house.call(&house.ana, "echo", json!({})).json()["error"]["code"], -32602);
    house.gateway.write(
        "other.yaml",
        &policy(
            "other",
            "items",
            "  - {name: all, effect: Allow, principals: [{users: [ana]}], tools: [{patterns: [\"*\"]}]}\n",
        ),
    );
    until("the other policy", || house.call(&house.ana, "echo", json!({})).json().get("result").map(drop));
    assert_eq!(house.call(&house.ana, "delete_item", json!({"id": "1"})).json()["result"]["isError"], true);
    house.gateway.write("policy.yaml", &policy("persons", "items", RULES));
    house.gateway.wait_ready();
    assert!(house.call(&house.ben, "echo", json!({})).json().get("result").is_some());
}

#[test]
fn a_file_that_was_never_read_denies_every_server() {
    let house = House::build();
    house.gateway.write("new.yaml", "kind: McpPolicy\n  nonsense: [");
    let report = until("the file to be named", || {
        let (ready, report) = house.gateway.readyz();
        (!ready).then_some(report.to_string())
    });
    assert!(report.contains("new.yaml:"), "{report}");
    until("every call to be denied", || {
        (house.call(&house.ana, "echo", json!({})).json()["error"]["code"] == -32602).then_some(())
    });
    house.gateway.remove("new.yaml");
    house.gateway.wait_ready();
    assert!(house.call(&house.ana, "echo", json!({})).json().get("result").is_some());
}

#[test]
fn a_revoked_token_is_refused_and_its_streams_are_closed() {
    let house = House::build();
    let (token, id) = house.gateway.issue("ana", "items", &[]);
    let session = house.session(&token);
    let bearer = format!("Bearer {token}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Mcp-Session-Id", session.id.as_str()),
        ("Accept", "text/event-stream"),
        ("MCP-Protocol-Version", "2025-11-25"),
    ];
    let mut stream = http::Connection::open(&house.gateway.address().to_string());
    stream.write(&http::request("GET", &house.url(), &headers, b""));
    assert_eq!(stream.read_head().status, 200);
    house.gateway.revoke(&id);
    until("the token to be refused", || (house.call(&token, "echo", json!({})).status == 401).then_some(()));
    // Reads to the end: it comes only if the gateway ends the stream.
    while stream.read_some().is_some() {}
    assert!(house.call(&house.ana, "echo", json!({})).json().get("result").is_some(), "her other token still works");
}

#[test]
fn a_missing_secret_closes_its_server_alone() {
    let house = House::build();
    let server = crate::support::gateway::server("other", house.upstream.url())
        .replace("none: {}", "headers: [{name: X-Api-Key, secretKeyRef: {name: gone, key: k}}]");
    house.gateway.write("other.yaml", &server);
    let url = house.gateway.url("other");
    until("the other server to be known", || (http::post(&url, None, &[], b"{}").status == 401).then_some(()));
    let token = house.gateway.token("ana", "other");
    let refused = http::post_2026(&url, Some(&token), "tools/list", &json!({}));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(!refused.text().contains("gone"), "callers do not learn names of Secrets: {}", refused.text());
    assert!(house.call(&house.ana, "echo", json!({})).json().get("result").is_some());
}

#[test]
fn sigterm_lets_calls_under_way_end() {
    let mut house = House::build();
    let (url, token) = (house.url(), house.ana.clone());
    let call = std::thread::spawn(move || {
        http::post_2026(&url, Some(&token), "tools/call", &json!({"name": "wait", "arguments": {"ms": 700}}))
    });
    house.upstream.seen().wait_calls(1);
    house.gateway.process().signal("TERM");
    assert!(call.join().unwrap().json().get("result").is_some());
    assert!(house.gateway.process_mut().wait_exit().success());
}
