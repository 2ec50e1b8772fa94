//! Who is let in, and how the others are turned away.

use serde_json::json;

use super::house::house;
use crate::support::gateway::{Gateway, TRUST, server};
use crate::support::http::{self, request, send, split};

const PING: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[test]
fn duty_1_20_every_request_needs_a_token_whatever_the_session_and_connection() {
    let house = house();
    let session = house.session(&house.ana);
    let mut connection = http::Connection::open(&house.gateway.address().to_string());
    let within = [("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    let json = ("Content-Type", "application/json");
    let notification = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let response = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    for (what, method, more, body) in [
        ("a request", "POST", json, PING),
        ("a notification", "POST", json, notification),
        ("a response", "POST", json, response),
        ("no message", "POST", json, b"{]"),
        ("another type", "POST", ("Content-Type", "text/plain"), PING),
        ("the stream", "GET", ("Accept", "text/event-stream"), b""),
        ("the end", "DELETE", json, b""),
        ("another method", "PUT", json, PING),
    ] {
        // An owner was here a moment ago, on this very connection.
        connection.write(&http::mcp_request(&house.url(), Some(&house.ana), &within, PING));
        assert_eq!(connection.read().status, 200, "{what}");
        connection.write(&request(method, &house.url(), &[&within[..], &[more]].concat(), body));
        let refused = connection.read();
        assert_eq!(refused.status, 401, "{what}: {refused:?}");
        assert!(refused.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Bearer ")), "{what}");
    }
}

#[test]
fn duty_11_a_missing_token_is_challenged_without_an_error() {
    let house = house();
    for body in [PING, br#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#, b"not json"] {
        let refused = http::post(&house.url(), None, &[], body);
        assert_eq!(refused.status, 401);
        let challenge = refused.header("www-authenticate").unwrap();
        let metadata = format!("http://{}/.well-known/oauth-protected-resource/default/items", house.gateway.address());
        assert!(challenge.starts_with("Bearer ") && challenge.contains(&metadata), "{challenge}");
        assert!(!challenge.contains("error"), "{challenge}");
    }
}

#[test]
fn duty_12_a_bad_token_is_invalid_token() {
    let house = house();
    for token in ["x", "a.b.c", &house.ana[..house.ana.len() - 4]] {
        let refused = http::post(&house.url(), Some(token), &[], PING);
        assert_eq!(refused.status, 401, "{token}");
        assert!(refused.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    }
}

#[test]
fn duty_7_one_token_in_one_header() {
    let house = house();
    let bearer = format!("Bearer {}", house.ana);
    let twice = http::post(&house.url(), Some(&house.ana), &[("Authorization", &bearer)], PING);
    assert_eq!(twice.status, 400);
    assert!(twice.header("www-authenticate").unwrap().contains("invalid_request"));
    let query = format!("{}?access_token={}", house.url(), house.ana);
    assert_eq!(http::post(&query, Some(&house.ana), &[], PING).status, 400);
    assert_eq!(http::post(&query, None, &[], PING).status, 400);
}

#[test]
fn duty_10_metadata_is_public_at_the_inserted_url() {
    let house = house();
    let base = format!("http://{}", house.gateway.address());
    let inserted = http::get(&format!("{base}/.well-known/oauth-protected-resource/default/items"), &[]);
    assert_eq!(inserted.status, 200);
    assert_eq!(inserted.header("access-control-allow-origin"), Some("*"));
    let document = inserted.json();
    assert_eq!(document["resource"], house.url());
    assert_eq!(document["authorization_servers"], json!([format!("{base}/-/issuer/local")]));
    assert_eq!(document["bearer_methods_supported"], json!(["header"]));
    // One server: the root is its document too.
    assert_eq!(http::get(&format!("{base}/.well-known/oauth-protected-resource"), &[]).json(), document);
    let issuer = http::get(&format!("{base}/.well-known/oauth-authorization-server/-/issuer/local"), &[]).json();
    assert_eq!(issuer["issuer"], format!("{base}/-/issuer/local"));
    assert!(issuer.get("authorization_endpoint").is_none(), "{issuer}");
    let keys = http::get(issuer["jwks_uri"].as_str().unwrap(), &[]).json();
    assert!(keys["keys"][0].get("d").is_none() && keys["keys"][0]["kty"] == "EC", "{keys}");
}

#[test]
fn duty_10_the_root_document_is_for_exactly_one_server() {
    let files = [
        ("trust.yaml", TRUST),
        ("a.yaml", &server("a", "http://127.0.0.1:9/a")),
        ("b.yaml", &server("b", "http://127.0.0.1:9/b")),
    ];
    let gateway = Gateway::start(&files);
    let root = format!("http://{}/.well-known/oauth-protected-resource", gateway.address());
    assert_eq!(http::get(&root, &[]).status, 404);
    assert_eq!(http::get(&format!("{root}/default/b"), &[]).status, 200);
}

#[test]
fn duty_9_only_the_exact_path_is_served() {
    let house = house();
    house.upstream.seen().all();
    let host = split(&house.url()).0.to_owned();
    for path in [
        "/default/items/",
        "//default/items",
        "/default//items",
        "/default/%69tems",
        "/default/x/../items",
        "/",
        "/default",
        "/DEFAULT/items",
    ] {
        let answer = http::post(&format!("http://{host}{path}"), Some(&house.ana), &[], PING);
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[test]
fn duty_2_host_and_origin_are_checked() {
    let house = house();
    let (address, path) = (house.gateway.address().to_string(), "/default/items");
    let with = |lines: &str| {
        let bytes = format!(
            "POST {path} HTTP/1.1\r\n{lines}Authorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            house.ana,
            PING.len()
        );
        send(&address, &[bytes.as_bytes(), PING].concat()).status
    };
    assert_eq!(with("Host: evil.example\r\n"), 421);
    assert_eq!(with(""), 400);
    assert_eq!(with(&format!("Host: {address}\r\nHost: evil.example\r\n")), 400);
    assert_eq!(with(&format!("Host: {address}\r\nOrigin: https://evil.example\r\n")), 403);
    assert_eq!(with(&format!("Host: {address}\r\nOrigin: null\r\n")), 403);
}

#[test]
fn duty_13_scopes_are_asked_for_only_where_they_would_help() {
    let house = super::house::House::build();
    let scoped = server("items", house.upstream.url())
        .replace("{servers: [local]}", "{servers: [local], scopes: {baseline: [\"mcp:use\"], tools: [{name: w, match: [\"create_*\", \"fail\"], scopes: [\"mcp:write\"]}]}}");
    house.gateway.write("server.yaml", &scoped);
    let unscoped = crate::support::wait::until("scopes to be asked for", || {
        let answer = house.call(&house.ana, "echo", json!({}));
        (answer.status == 403).then_some(answer)
    });
    assert!(unscoped.header("www-authenticate").unwrap().contains("scope=\"mcp:use\""), "{unscoped:?}");
    let (ana, ben) = (house.gateway.token("ana", "items"), house.gateway.token("ben", "items"));
    assert_eq!(house.call(&ana, "echo", json!({})).status, 200);
    let helpful = house.call(&ana, "create_item", json!({"name": "a"}));
    assert_eq!(helpful.status, 403);
    let challenge = helpful.header("www-authenticate").unwrap();
    assert!(challenge.contains("insufficient_scope") && challenge.contains("mcp:use mcp:write"), "{challenge}");
    // Ben may not see `fail`: no scope would help, and nothing tells that it exists.
    let hidden = house.call(&ben, "fail", json!({}));
    assert_eq!((hidden.status, hidden.json()["error"]["code"].as_i64()), (200, Some(-32602)));
}

#[test]
fn duty_96_refused_tokens_are_on_record() {
    let mut house = super::house::House::build();
    for _ in 0..3 {
        assert_eq!(http::post(&house.url(), Some("not.a.token"), &[], PING).status, 401);
    }
    // They are summed over a window, and what is not due is written before the process ends.
    house.gateway.process().signal("TERM");
    assert!(house.gateway.process_mut().wait_exit().success());
    let filter = portcullis::audit::query::Filter {
        event: Some(portcullis::audit::AUTH_FAILURE.to_owned()),
        ..Default::default()
    };
    let found = portcullis::audit::query::query(&house.gateway.journal(), &filter, 10).unwrap().calls;
    let record = &found.first().expect("a record of the refused tokens").entry.json;
    assert!(record.contains("TokenMalformed") && record.contains("default/items"), "{record}");
    assert!(!record.contains("not.a.token"));
}
