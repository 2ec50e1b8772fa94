//! What is read, and what is refused before it reaches the server.

use portcullis::mcp::method::{Form, Method, Sender};
use portcullis::mcp::revision::Revision;
use serde_json::json;

use super::house::{House, house, names};
use crate::support::http;

#[test]
fn duty_4_and_5_other_types_charsets_and_codings_are_415() {
    let house = house();
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let bearer = format!("Bearer {}", house.ana);
    for extra in [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/json; charset=utf-16"),
        ("Content-Encoding", "gzip"),
    ] {
        let mut headers = vec![("Authorization", bearer.as_str()), extra];
        if extra.0 != "Content-Type" {
            headers.push(("Content-Type", "application/json"));
        }
        let bytes = http::request("POST", &house.url(), &headers, body);
        assert_eq!(http::send(http::split(&house.url()).0, &bytes).status, 415, "{extra:?}");
    }
}

#[test]
fn duty_6_large_bodies_and_heads_are_refused() {
    let house = house();
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":"{}"}}}}"#, "x".repeat(5 << 20));
    let mut connection = http::Connection::open(&house.gateway.address().to_string());
    let bytes = http::mcp_request(&house.url(), Some(&house.ana), &[], body.as_bytes());
    // The head alone is enough for the answer: the gateway does not read what it will not take.
    connection.write(&bytes[..4096]);
    assert_eq!(connection.read_head().status, 413);
    let many: Vec<String> = (0..200).map(|n| format!("X-{n}")).collect();
    let headers: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(http::post(&house.url(), Some(&house.ana), &headers, b"{}").status, 431);
}

/// Bodies that two readers could understand differently, or that are no message of the protocol.
const HOSTILE: &[&[u8]] = &[
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"delete_item"}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","n\u0061me":"delete_item"}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":1,"a":2}}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","Name":"delete_item"}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping","params":{"name":"echo"}}"#,
    br#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}]"#,
    b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",
    br#"{"jsonrpc":"2.0","id":1,"method":"ping"} {}"#,
    br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    br#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
    br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
    br#"{"id":1,"method":"ping"}"#,
    b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\xff\"}}",
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":[]}}"#,
    br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#,
    br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo"}}"#,
    br#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    br#"{'jsonrpc':'2.0','id':1,'method':'ping'}"#,
    b"",
    b"null",
];

#[test]
fn duty_22_to_29_what_is_ambiguous_never_reaches_the_server() {
    let house = House::build();
    let session = house.session(&house.ana);
    house.upstream.seen().clear();
    let headers = [("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    for body in HOSTILE {
        let refused = http::post(&house.url(), Some(&house.ana), &headers, body);
        assert_eq!(refused.status, 400, "{}", String::from_utf8_lossy(body));
        assert!(refused.json()["error"]["code"].is_i64());
    }
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}1{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    assert_eq!(http::post(&house.url(), Some(&house.ana), &headers, deep.as_bytes()).status, 400);
    assert!(house.upstream.seen().requests().is_empty(), "{:?}", house.upstream.seen().requests());
}

#[test]
fn duty_28_unknown_and_unpoliced_methods_are_denied() {
    let house = House::build();
    let session = house.session(&house.ana);
    house.upstream.seen().clear();
    // All of each revision that the table does not police, and what no revision has.
    let methods = |revision, form: Form| {
        let rows = Method::all(revision).filter(move |row| row.form == form && !row.is_policed_from(Sender::Client));
        rows.map(|row| row.name).collect::<Vec<_>>()
    };
    let requests = |revision| [methods(revision, Form::Request), vec!["x/y", "Tools/call", "tools/call "]].concat();
    let (old, new) = (requests(Revision::V2025_11_25), requests(Revision::V2026_07_28));
    assert!(
        ["tasks/result", "resources/read", "prompts/get", "completion/complete"].iter().all(|name| old.contains(name))
    );
    assert!(["tasks/update", "subscriptions/listen"].iter().all(|name| new.contains(name)));
    for method in old {
        let denied = session.request(&house.ana, method, json!({"name": "a", "uri": "b"}));
        assert_eq!((denied.status, denied.json()["error"]["code"].as_i64()), (200, Some(-32601)), "{method}");
    }
    for method in new {
        let denied = http::post_2026(&house.url(), Some(&house.ana), method, &json!({}));
        assert_eq!((denied.status, denied.json()["error"]["code"].as_i64()), (404, Some(-32601)), "{method}");
    }
    for method in [methods(Revision::V2025_11_25, Form::Notification), vec!["notifications/x"]].concat() {
        let dropped = session.post(&house.ana, &json!({"jsonrpc": "2.0", "method": method, "params": {}}));
        assert_eq!((dropped.status, dropped.body.len()), (202, 0), "{method}");
    }
    assert!(house.upstream.seen().requests().is_empty(), "{:?}", house.upstream.seen().requests());
}

#[test]
fn duty_32_and_33_headers_must_mirror_the_body() {
    let house = house();
    let body = |name: &str| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}})
        .to_string()
    };
    const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");
    const METHOD: (&str, &str) = ("Mcp-Method", "tools/call");
    for headers in [
        vec![METHOD, ("Mcp-Name", "echo")],
        vec![("MCP-Protocol-Version", "2025-11-25"), METHOD, ("Mcp-Name", "echo")],
        vec![VERSION, ("Mcp-Name", "echo")],
        vec![VERSION, METHOD],
        vec![VERSION, METHOD, ("Mcp-Name", "get_item")],
        vec![VERSION, METHOD, ("Mcp-Name", "Echo")],
        vec![VERSION, METHOD, ("Mcp-Name", "echo"), ("Mcp-Name", "echo")],
        vec![VERSION, METHOD, ("Mcp-Name", "=?base64?!!?=")],
        vec![VERSION, ("Mcp-Method", "tools/list"), ("Mcp-Name", "echo")],
    ] {
        let refused = http::post(&house.url(), Some(&house.ana), &headers, body("echo").as_bytes());
        assert_eq!((refused.status, refused.json()["error"]["code"].as_i64()), (400, Some(-32020)), "{headers:?}");
    }
    let encoded = [VERSION, METHOD, ("Mcp-Name", "=?base64?ZWNobw==?=")];
    assert_eq!(http::post(&house.url(), Some(&house.ana), &encoded, body("echo").as_bytes()).status, 200);
}

#[test]
fn duty_50_and_56_lists_are_filtered_and_the_hidden_does_not_exist() {
    let house = house();
    let listed = http::post_2026(&house.url(), Some(&house.ben), "tools/list", &json!({}));
    let list = listed.json();
    assert_eq!(names(&list), ["echo", "create_item"]);
    assert_eq!(list["result"]["cacheScope"], "private");
    assert!(list["result"]["ttlMs"].as_u64().unwrap() <= 1000);
    assert_eq!(listed.header("cache-control"), Some("no-store"));
    let everything = http::post_2026(&house.url(), Some(&house.ana), "tools/list", &json!({})).json();
    assert_eq!(names(&everything).len(), 7);
    let hidden = house.call(&house.ben, "get_item", json!({"id": "1"}));
    let nonexistent = house.call(&house.ben, "no_such", json!({"id": "1"}));
    assert_eq!(hidden.text().replace("get_item", "no_such"), nonexistent.text());
    assert_eq!(hidden.json()["error"], json!({"code": -32602, "message": "Unknown tool: get_item"}));
    assert_eq!(
        hidden.headers.iter().filter(|(name, _)| name != "date").collect::<Vec<_>>().len(),
        nonexistent.headers.iter().filter(|(name, _)| name != "date").collect::<Vec<_>>().len()
    );
}

#[test]
fn rules_decide_by_arguments_and_say_why() {
    let house = house();
    let small = house.call(&house.ben, "create_item", json!({"name": "a", "amount": 3})).json();
    assert!(small["result"].is_object() && small["result"]["isError"] != true, "{small}");
    for arguments in [json!({"name": "a", "amount": 30}), json!({"name": "a"}), json!({"name": "a", "amount": "3"})] {
        let refused = house.call(&house.ben, "create_item", arguments).json();
        assert_eq!(refused["result"]["isError"], true, "{refused}");
    }
    let denied = house.call(&house.ana, "delete_item", json!({"id": "1"})).json();
    assert_eq!(denied["result"]["isError"], true);
    assert_eq!(denied["result"]["content"][0]["text"], "nothing is deleted");
}

#[test]
fn duty_8_the_callers_token_never_reaches_the_server() {
    let house = House::build();
    let extra =
        [("X-Forwarded-For", "1.2.3.4"), ("Cookie", "a=b"), ("X-Real-IP", "1.2.3.4"), ("Forwarded", "for=1.2.3.4")];
    let session = house.session(&house.ana);
    let headers =
        [extra.as_slice(), &[("Mcp-Session-Id", &session.id), ("MCP-Protocol-Version", "2025-11-25")]].concat();
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}})
        .to_string();
    assert_eq!(http::post(&house.url(), Some(&house.ana), &headers, body.as_bytes()).status, 200);
    house.upstream.seen().wait_calls(1);
    for request in house.upstream.seen().requests() {
        for (name, value) in &request.headers {
            assert!(!value.contains(&house.ana) && !value.contains("1.2.3.4"), "{name}: {value}");
        }
        assert!(request.header("authorization").is_empty() && request.header("cookie").is_empty());
        assert!(!request.header("mcp-session-id").contains(&session.id.as_str()), "the sealed id stays here");
    }
}
