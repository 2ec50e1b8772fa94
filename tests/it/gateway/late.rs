//! What changes while a request is under way counts for it too.

use std::io::Write as _;

use serde_json::json;

use super::house::{House, RULES, names};
use super::listening::Stage;
use crate::support::by_hand::{EVENTS, json_answer, say, say_all};
use crate::support::gateway::policy;
use crate::support::http::{self, Connection};
use crate::support::wait::until;

/// A call of the 2026 line: its head with the wish to be asked for the body, and its body.
fn slow_call(house: &House, token: &str, tool: &str) -> (Vec<u8>, Vec<u8>) {
    let params = json!({"name": tool, "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string().into_bytes();
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", tool),
        ("Expect", "100-continue"),
    ];
    let mut head = http::mcp_request(&house.url(), Some(token), &headers, &body);
    head.truncate(head.len() - body.len());
    (head, body)
}

/// The gateway has let the caller in, and waits for the body.
fn begin(house: &House, head: &[u8]) -> Connection {
    let mut caller = Connection::open(&house.gateway.address().to_string());
    caller.write(head);
    caller.read_continue();
    caller
}

#[test]
fn duty_75_a_token_revoked_while_the_body_arrives_is_refused() {
    let house = House::build();
    let (token, id) = house.gateway.issue("ana", "items", &[]);
    let (head, body) = slow_call(&house, &token, "echo");
    let mut caller = begin(&house, &head);
    house.gateway.revoke(&id);
    until("the token to be refused", || (house.call(&token, "echo", json!({})).status == 401).then_some(()));
    house.upstream.seen().clear();
    caller.write(&body);
    let refused = caller.read();
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
    assert!(house.upstream.seen().requests().is_empty(), "the call was made");
}

#[test]
fn duty_75_a_policy_narrowed_while_the_body_arrives_is_obeyed() {
    let house = House::build();
    let (head, body) = slow_call(&house, &house.ben, "echo");
    let mut caller = begin(&house, &head);
    house.gateway.write("policy.yaml", &policy("persons", "items", &RULES.replace("[echo]", "[get_item]")));
    until("the grant to be gone", || {
        (house.call(&house.ben, "echo", json!({})).json()["error"]["code"] == -32602).then_some(())
    });
    house.upstream.seen().clear();
    caller.write(&body);
    assert_eq!(caller.read().json()["error"]["code"], -32602);
    assert!(house.upstream.seen().requests().is_empty(), "the call was made");
}

#[test]
fn a_list_is_filtered_by_the_policies_of_the_moment_that_it_is_sent() {
    const TOOLS: &str =
        r#"{"tools":[{"name":"t","inputSchema":{"type":"object"}},{"name":"u","inputSchema":{"type":"object"}}]}"#;
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let list = |id: u32| json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    let mut waiting: Vec<_> = (1..=2).map(|id| stage.exchange(&session, &list(id))).collect();
    let narrow = "  - {name: ana, effect: Allow, principals: [{users: [ana]}], tools: [{names: [t]}]}\n";
    stage.gateway.write("policy.yaml", &policy("p", "s", narrow));
    until("the grant to be gone", || {
        let call = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "u"}});
        let mut caller = stage.send(&session, &call);
        until("an answer, or the call at the server", || {
            if caller.has_bytes() {
                Some(Some(caller.read()))
            } else {
                stage.scripted.has_seen("tools/call").then_some(None)
            }
        })
    });
    let (mut caller, server, _) = waiting.remove(0);
    say_all(server, &json_answer("", &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{TOOLS}}}"#)));
    assert_eq!(names(&caller.read().json()), ["t"]);
    let (mut caller, mut server, _) = waiting.remove(0);
    say(&mut server, &format!("{EVENTS}data: {{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{TOOLS}}}\n\n"));
    assert_eq!(names(&caller.read().json()), ["t"]);
}

#[test]
fn an_answer_that_comes_after_its_caller_was_shut_out_is_kept_back() {
    let stage = Stage::set();
    let (token, id) = stage.gateway.issue("ana", "s", &[]);
    let session = stage.session(&token, Some("up-session"));
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t"}});
    let (mut caller, server, _) = stage.exchange(&session, &call);
    stage.gateway.revoke(&id);
    until("the token to be refused", || {
        let mut caller = stage.send(&session, &json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}));
        until("an answer, or the ping at the server", || {
            if caller.has_bytes() {
                Some((caller.read().status == 401).then_some(()))
            } else {
                stage.scripted.has_seen("ping").then_some(None)
            }
        })
    });
    say_all(
        server,
        &json_answer("", r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"for her eyes"}]}}"#),
    );
    let kept = caller.read();
    assert_eq!((kept.status, &kept.json()["error"]["code"]), (502, &json!(-31002)), "{kept:?}");
    assert!(!kept.text().contains("for her eyes"));
}

#[test]
fn a_notification_that_is_answered_with_a_stream_is_accepted_at_once() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let (mut caller, mut server, _) =
        stage.exchange(&session, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    server.write_all(EVENTS.as_bytes()).unwrap();
    let accepted = caller.read();
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
}
