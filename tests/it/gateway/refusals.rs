//! What is refused to a known caller before any decision is on record, summed: it floods nothing.

use std::collections::BTreeMap;

use portcullis::audit::query::{Filter, query};
use serde_json::{Value, json};

use super::house::House;
use super::listening::Stage;
use crate::support::by_hand::say;
use crate::support::gateway::{Gateway, server};
use crate::support::http;

/// The records of refusals after the gateway has ended, by subject and reason: how often.
fn refusals(gateway: &mut Gateway) -> (BTreeMap<(String, String), u64>, Vec<String>) {
    gateway.process().signal("TERM");
    assert!(gateway.process_mut().wait_exit().success());
    let filter = Filter { event: Some("mcp.gateway.refusal".to_owned()), ..Filter::default() };
    let mut found = BTreeMap::new();
    let mut texts = Vec::new();
    for call in query(&gateway.journal(), &filter, 1000).unwrap().calls {
        let record: Value = serde_json::from_str(&call.entry.json).unwrap();
        let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("portcullis.decision"), "deny", "{record}");
        let key = (text("portcullis.principal.subject"), text("portcullis.decision.reason"));
        *found.entry(key).or_default() += record["portcullis.count"].as_u64().unwrap();
        texts.push(call.entry.json);
    }
    (found, texts)
}

#[test]
fn duty_96_what_is_refused_before_a_decision_is_summed_up_on_record() {
    let mut house = House::build();
    let begun = std::time::Instant::now();
    let url = house.url();
    let post = |headers: &[(&str, &str)], body: &[u8]| http::post(&url, Some(&house.ben), headers, body).status;
    let old = ("MCP-Protocol-Version", "2025-11-25");
    let new = ("MCP-Protocol-Version", "2026-07-28");
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":CAPS}"#;
    let call = |method: &str, caps: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"name":"echo",{}}}}}"#,
            meta.replace("CAPS", caps)
        )
    };
    let unknown = call("canary/method", "{}");
    let mirrored = call("tools/call", "{}");
    for _ in 0..20 {
        assert_eq!(post(&[], b"canary not json"), 400);
        assert_eq!(post(&[("Content-Encoding", "gzip")], b"{}"), 415);
        assert_eq!(post(&[("Mcp-Session-Id", "canary"), old], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), 404);
        assert_eq!(post(&[old], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#), 400);
        assert_eq!(post(&[new, ("Mcp-Method", "canary/method")], unknown.as_bytes()), 404);
        assert_eq!(post(&[new, ("Mcp-Method", "ping")], mirrored.as_bytes()), 400);
        assert_eq!(post(&[old], br#"{"jsonrpc":"2.0","id":1,"Method":"canary"}"#), 400);
        let refused = http::send(
            http::split(&url).0,
            &http::request("PUT", &url, &[("Authorization", &format!("Bearer {}", house.ben))], b""),
        );
        assert_eq!(refused.status, 405);
    }
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":"{}"}}}}"#, "x".repeat(5 << 20));
    let mut connection = http::Connection::open(&house.gateway.address().to_string());
    connection.write(&http::mcp_request(&url, Some(&house.ben), &[], body.as_bytes())[..4096]);
    assert_eq!(connection.read_head().status, 413);

    let (found, texts) = refusals(&mut house.gateway);
    for (reason, count) in [
        ("NotJson", 20),
        ("ContentCoding", 20),
        ("UnknownSession", 20),
        ("SessionMissing", 20),
        ("UnknownMethod", 20),
        ("HeaderMismatch", 20),
        ("CaseVariant", 20),
        ("MethodNotAllowed", 20),
        ("MessageTooLarge", 1),
    ] {
        assert_eq!(found.get(&("ben".to_owned(), reason.to_owned())), Some(&count), "{reason}: {found:?}");
    }
    // One of each kind in a window of ten seconds.
    let windows = usize::try_from(begun.elapsed().as_secs() / 10).unwrap() + 2;
    assert!(texts.len() <= windows * 9, "{} records", texts.len());
    assert!(texts.iter().all(|text| !text.contains("canary") && text.contains("items")), "{texts:?}");
}

#[test]
fn duty_96_scopes_that_a_caller_lacks_at_the_door_are_on_record() {
    let mut house = House::build();
    let scoped = server("items", house.upstream.url())
        .replace("{servers: [local]}", "{servers: [local], scopes: {baseline: [\"mcp:use\"]}}");
    house.gateway.write("server.yaml", &scoped);
    crate::support::wait::until("scopes to be asked for", || {
        (house.call(&house.ana, "echo", json!({})).status == 403).then_some(())
    });
    // The first may have passed the door before the change, and be refused and recorded as a call.
    assert_eq!(house.call(&house.ana, "echo", json!({})).status, 403);
    let (found, _) = refusals(&mut house.gateway);
    assert!(found.contains_key(&("ana".to_owned(), "InsufficientScope".to_owned())), "{found:?}");
}

#[test]
fn duty_96_one_caller_cannot_flood_the_record_of_refusals_or_hide_anothers() {
    let mut house = House::build();
    let url = house.url();
    let bodies: [&[u8]; 20] = [
        b"",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        br#"{"a":1,"a":2}"#,
        br#"{"Method":1}"#,
        br#"{"a":"\ud800"}"#,
        b"[]",
        b"1",
        b"{}",
        br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":""}"#,
        br#"{"jsonrpc":"2.0"}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
        br#"{"jsonrpc":"2.0","id":1,"result":1}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":1}}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":1}}"#,
        br#"{"jsonrpc":"2.0","id":1,"method":"a\nb"}"#,
        br#"{"a":1e400}"#,
        br#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    ];
    for body in bodies {
        assert_eq!(http::post(&url, Some(&house.ben), &[], body).status, 400, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(http::post(&url, Some(&house.ana), &[], b"{").status, 400);
    let (found, texts) = refusals(&mut house.gateway);
    let of = |who: &str| found.iter().filter(|((subject, _), _)| subject == who).collect::<Vec<_>>();
    assert_eq!(of("ben").iter().map(|(_, count)| **count).sum::<u64>(), 20, "{found:?}");
    // A window may end between two of them; in none does one caller have more kinds than so many.
    assert!(texts.len() <= 2 * 17 + 1, "{texts:?}");
    assert!(of("ben").iter().any(|((_, reason), _)| reason == "Various") || texts.len() > 18, "{found:?}");
    assert_eq!(of("ana").len(), 1, "{found:?}");
}

#[test]
fn duty_71_and_96_what_is_over_the_limit_is_on_record() {
    let mut stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let open: Vec<_> = (0..64).map(|_| stage.listen(&session)).collect();
    let refused = stage.get(&session, None).read();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!(-31006)));
    drop(open);
    let (found, _) = refusals(&mut stage.gateway);
    assert_eq!(found.get(&("ana".to_owned(), "TooManyStreams".to_owned())), Some(&1), "{found:?}");
    // Each stream that was opened is on record too, with its end.
    let filter = Filter {
        principal: Some("ana".to_owned()),
        event: Some(portcullis::audit::DECISION.to_owned()),
        ..Filter::default()
    };
    let calls = query(&stage.gateway.journal(), &filter, 1000).unwrap().calls;
    let gets: Vec<_> = calls.iter().filter(|call| call.entry.fields.method.as_deref() == Some("GET")).collect();
    assert_eq!(gets.len(), 64);
    assert!(gets.iter().all(|call| call.completion.is_some()), "{gets:?}");
}

#[test]
fn duty_63_what_a_server_asks_of_a_client_is_dropped_and_on_record() {
    let mut stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let (mut listener, mut server) = stage.listen(&session);
    let sampling = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"secret":"canary"}}"#;
    let change = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    say(&mut server, &format!("data: {sampling}\n\ndata: {change}\n\n"));
    assert_eq!(listener.read_event(&mut String::new()).unwrap().data, change);
    let (found, texts) = refusals(&mut stage.gateway);
    assert_eq!(found.get(&("ana".to_owned(), "ServerRequestDropped".to_owned())), Some(&1), "{found:?}");
    assert!(texts.iter().all(|text| !text.contains("canary")));
}

#[test]
fn duty_96_requests_that_were_made_for_another_host_or_by_a_page_are_on_record() {
    let mut house = House::build();
    let address = house.gateway.address().to_string();
    for (headers, status) in [
        ("Host: evil.example\r\n".to_owned(), 421),
        (format!("Host: {address}\r\nOrigin: https://evil.example\r\n"), 403),
    ] {
        let bytes = format!("POST /default/items HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n");
        assert_eq!(http::send(&address, bytes.as_bytes()).status, status);
    }
    house.gateway.process().signal("TERM");
    assert!(house.gateway.process_mut().wait_exit().success());
    let filter = Filter { event: Some(portcullis::audit::AUTH_FAILURE.to_owned()), ..Filter::default() };
    let found = query(&house.gateway.journal(), &filter, 10).unwrap().calls;
    for reason in ["HostRefused", "OriginRefused"] {
        let records = found.iter().filter(|call| call.entry.json.contains(reason)).count();
        assert_eq!(records, 1, "{reason}: {found:?}");
    }
    assert!(found.iter().all(|call| !call.entry.json.contains("evil.example")));
}
