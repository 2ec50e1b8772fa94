//! What is on record of each call: one decision, and how it ended.

use portcullis::audit::query::{Call, Filter, query};
use serde_json::{Value, json};

use super::house::House;
use crate::support::http::{self, Connection};
use crate::support::wait::until;

/// The calls of a tool, once `ended` of them have an end.
fn calls(house: &House, tool: &str, ended: usize) -> Vec<Call> {
    let filter = Filter { target: Some(tool.to_owned()), ..Filter::default() };
    until(&format!("the records of {tool}"), || {
        let calls = query(&house.gateway.journal(), &filter, 100).unwrap().calls;
        (calls.iter().filter(|call| call.completion.is_some()).count() >= ended).then_some(calls)
    })
}

#[test]
fn duty_95_every_decision_is_on_record_with_its_outcome() {
    let mut house = House::build();
    assert!(house.call(&house.ana, "echo", json!({"message": "not for the record"})).json().get("result").is_some());
    house.call(&house.ana, "fail", json!({}));
    house.call(&house.ben, "get_item", json!({"id": "1"}));
    house.call(&house.ana, "delete_item", json!({"id": "1"}));
    // A caller who does not wait.
    let params = json!({"name": "wait", "arguments": {"ms": 60_000}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "wait")];
    let mut caller = Connection::open(&house.gateway.address().to_string());
    caller.write(&http::mcp_request(&house.url(), Some(&house.ana), &headers, body.as_bytes()));
    house.upstream.seen().wait_calls(3);
    drop(caller);
    house.upstream.seen().wait_cancelled("wait", 1);
    house.upstream.stop();
    house.call(&house.ana, "progress", json!({}));

    for (tool, decision, outcome) in [
        ("echo", "allow", Some("result")),
        ("fail", "allow", Some("tool_error")),
        ("get_item", "deny", None),
        ("delete_item", "deny", None),
        ("wait", "allow", Some("disconnected")),
        ("progress", "allow", Some("error")),
    ] {
        let found = calls(&house, tool, usize::from(outcome.is_some()));
        let [call] = found.as_slice() else { panic!("{tool}: {found:?}") };
        let record: Value = serde_json::from_str(&call.entry.json).unwrap();
        assert_eq!(call.entry.fields.decision.as_deref(), Some(decision), "{tool}: {record}");
        let ended = call.completion.as_ref().and_then(|end| end.fields.outcome.as_deref());
        assert_eq!(ended, outcome, "{tool}: {record}");
        assert!(!call.entry.json.contains("not for the record"), "{record}");
    }
}

#[test]
fn duty_96_refused_authentication_is_summed_up_on_record() {
    let mut house = House::build();
    for _ in 0..50 {
        assert_eq!(http::post(&house.url(), None, &[], b"{}").status, 401);
        assert_eq!(http::post(&house.url(), Some("not.a.token"), &[], b"{}").status, 401);
    }
    house.gateway.process().signal("TERM");
    assert!(house.gateway.process_mut().wait_exit().success());
    let found = query(&house.gateway.journal(), &Filter::default(), 1000).unwrap().calls;
    let failures: Vec<_> = found
        .iter()
        .filter(|call| call.entry.json.contains("authn") || call.entry.json.contains("authentication"))
        .collect();
    assert!(!failures.is_empty() && failures.len() < 20, "{} records of failures in {}", failures.len(), found.len());
    assert!(failures.iter().all(|call| !call.entry.json.contains("not.a.token")));
}

#[test]
fn duty_97_names_that_steer_terminals_or_lines_are_only_text() {
    let house = House::build();
    let session = house.session(&house.ana);
    let call = |name: &str| session.request(&house.ana, "tools/call", json!({"name": name, "arguments": {}}));
    for control in ["\u{1b}[2J", "\r\n{\"event\":\"forged\"}", "\u{85}", "\u{7f}"] {
        let refused = call(&format!("x{control}"));
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(!refused.text().contains(control), "{refused:?}");
    }
    assert_eq!(call("x\u{202e}forged\u{2066}").status, 200);
    let filter = Filter {
        event: Some(portcullis::audit::DECISION.to_owned()),
        principal: Some("ana".to_owned()),
        ..Filter::default()
    };
    let found = until("the record", || {
        let found = query(&house.gateway.journal(), &filter, 100).unwrap().calls;
        let found: Vec<_> = found.into_iter().filter(|call| call.entry.json.contains("forged")).collect();
        (!found.is_empty()).then_some(found)
    });
    let log = house.gateway.log();
    for text in found.iter().map(|call| call.entry.json.as_str()).chain([log.as_str()]) {
        let steers =
            |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!text.contains(steers), "{text:?}");
    }
    assert_eq!(found.len(), 1, "{found:?}");
}
