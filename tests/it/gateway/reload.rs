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
fn a_change_that_cannot_be_kept_is_served_as_soon_as_it_can() {
    let house = House::build();
    let call = || house.call(&house.ben, "get_item", json!({"id": "1"})).json();
    // A folder stands where the state would be written.
    let obstacle = house.gateway.state().join("accepted.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    house.gateway.write("policy.yaml", &policy("persons", "items", &RULES.replace("[echo]", "[echo, get_item]")));
    until("the state to be named", || {
        let (ready, report) = house.gateway.readyz();
        (!ready && report.to_string().contains("StateNotWritable")).then_some(())
    });
    assert_eq!(call()["error"]["code"], -32602, "nothing is served that a restart would forget");
    std::fs::remove_dir(&obstacle).unwrap();
    until("the new grant", || call().get("result").map(drop));
    house.gateway.wait_ready();
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

/// A replica that goes away must not close a connection under a request that is on its way: no client repeats a POST.
#[test]
fn sigterm_ends_kept_connections_with_an_answer() {
    let mut house = House::build();
    let url = house.url().replace("/default/", "/.well-known/oauth-protected-resource/default/");
    let mut kept = http::Connection::open(http::split(&url).0);
    let request = http::request("GET", &url, &[], b"");
    let mut ask = || {
        kept.write(&request);
        let answer = kept.read();
        assert_eq!(answer.status, 200);
        answer.header("connection") == Some("close")
    };
    assert!(!ask());
    house.gateway.process().signal("TERM");
    until("the last answer", || ask().then_some(()));
    assert!(house.gateway.process_mut().wait_exit().success());
}

#[test]
fn what_broke_while_the_gateway_was_down_still_denies() {
    let mut house = House::build();
    assert_eq!(house.call(&house.ana, "delete_item", json!({"id": "1"})).json()["result"]["isError"], true);
    house.gateway.kill();
    house.gateway.write("policy.yaml", "kind: McpPolicy\n  nonsense: [");
    let allow = "  - {name: all, effect: Allow, principals: [{users: [ana]}], tools: [{patterns: [\"*\"]}]}\n";
    house.gateway.write("other.yaml", &policy("other", "items", allow));
    house.gateway.restart();
    let (ready, report) = house.gateway.readyz();
    assert!(!ready && report.to_string().contains("policy.yaml:"), "{report}");
    until("the other policy", || house.call(&house.ana, "echo", json!({})).json().get("result").map(drop));
    let refused = house.call(&house.ana, "delete_item", json!({"id": "1"})).json();
    assert_eq!(refused["result"]["content"][0]["text"], "nothing is deleted", "{refused}");
}

#[test]
fn a_secret_is_sent_to_its_hosts_only_and_followed() {
    let house = House::build();
    let secret = |value: &str, hosts: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: default, annotations: \
             {{portcullis.dev/allowed-hosts: {hosts:?}}}}}\nstringData: {{k: {value}}}\n"
        )
    };
    let (host, _) = http::split(house.upstream.url());
    house.gateway.write("secret.yaml", &secret("first-value-of-the-key", host));
    let server = crate::support::gateway::server("keyed", house.upstream.url())
        .replace("none: {}", "headers: [{name: X-Api-Key, prefix: \"Key \", secretKeyRef: {name: key, key: k}}]");
    house.gateway.write("keyed.yaml", &server);
    let allow = "  - {name: all, effect: Allow, principals: [{any: true}], tools: [{patterns: [\"*\"]}]}\n";
    house.gateway.write("keyed-policy.yaml", &policy("keyed", "keyed", allow));
    let url = house.gateway.url("keyed");
    until("the server", || (http::post(&url, None, &[], b"{}").status == 401).then_some(()));
    let token = house.gateway.token("ana", "keyed");
    let call = || http::post_2026(&url, Some(&token), "tools/call", &json!({"name": "echo", "arguments": {}}));
    let sent = || {
        house.upstream.seen().clear();
        call();
        let seen = house.upstream.seen().requests();
        seen.last().map(|request| request.header("x-api-key").join("|"))
    };
    until("the Secret's value", || (sent().as_deref() == Some("Key first-value-of-the-key")).then_some(()));
    house.gateway.write("secret.yaml", &secret("second-value-of-the-key", host));
    until("the new value", || (sent().as_deref() == Some("Key second-value-of-the-key")).then_some(()));
    house.gateway.write("secret.yaml", &secret("second-value-of-the-key", "api.example.com"));
    until("the Secret to be kept back", || (call().status == 503).then_some(()));
    assert_eq!(sent(), None, "nothing may reach a host that the Secret does not name");
}

#[test]
fn servers_that_claim_one_path_are_both_unserved() {
    let house = House::build();
    let server = crate::support::gateway::server("second", house.upstream.url())
        .replace("spec:\n", "spec:\n  path: /default/items\n");
    house.gateway.write("second.yaml", &server);
    until("the path to be served by neither", || {
        (house.call(&house.ana, "echo", json!({})).status == 404).then_some(())
    });
    house.gateway.remove("second.yaml");
    until("the first server again", || (house.call(&house.ana, "echo", json!({})).status == 200).then_some(()));
}

#[test]
fn a_disabled_server_refuses_and_one_that_is_trusted_no_more_believes_nobody() {
    let house = House::build();
    let server = crate::support::gateway::server("items", house.upstream.url());
    house.gateway.write("server.yaml", &format!("{server}  state: Disabled\n"));
    until("the server to refuse", || (house.call(&house.ana, "echo", json!({})).status == 503).then_some(()));
    house.gateway.write("server.yaml", &server);
    until("the server again", || house.call(&house.ana, "echo", json!({})).json().get("result").map(drop));
    house.gateway.remove("trust.yaml");
    until("its tokens to be refused", || {
        matches!(house.call(&house.ana, "echo", json!({})).status, 401 | 503).then_some(())
    });
}
