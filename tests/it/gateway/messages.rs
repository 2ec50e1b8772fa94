//! Messages as they go in and come out: byte for byte what was judged, under the revision that was judged.

use serde_json::{Value, json};

use super::house::{House, house};
use super::listening;
use super::streams;
use crate::support::by_hand::{json_answer, say_all};
use crate::support::http::{self, Connection};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

#[test]
fn duty_21_25_what_was_sent_is_what_arrives_and_ids_come_back_as_they_were() {
    let stage = streams::Stage::set();
    for id in ["\"\\u0061\\/b\"", "9007199254740993", "-0", "\"\u{e9}\""] {
        // Odd, and legal: space, escapes, an order and numbers that nobody else would write.
        let sent = format!(
            "\r\n {{ \"params\" : {{\"arguments\":{{\"n\":1.50e+1,\"s\":\"\\u00e9\\/\"}}, {META} ,\"n\\u0061me\":\"t\"}},\t\"id\" :{id},\
             \"method\":\"tools\\/call\",\"jsonrpc\":\"2.0\"}} \n"
        );
        let (mut caller, server, request) = stage.send_raw(&sent);
        assert_eq!(request.split_once("\r\n\r\n").unwrap().1, sent);
        let answer = format!("{{\"result\":{{\"content\":[ ],\"n\":1.50}} ,\"id\": {id} ,\"jsonrpc\":\"2.0\"}}");
        say_all(server, &json_answer("", &answer));
        assert_eq!(caller.read().text(), answer);
        // What the gateway says itself names the same id.
        let refused = stage.post_raw(&sent.replace(":\"t\"", ":\"x\""), "x");
        assert!(refused.text().contains(&format!("\"id\":{id},")), "{refused:?}");
    }
}

#[test]
fn duty_28_29_the_new_era_takes_no_responses_and_no_notifications_that_it_does_not_know() {
    let house = House::build();
    house.upstream.seen().clear();
    for (method, body) in [
        ("", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned()),
        ("", r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}"#.to_owned()),
        ("tools/call", format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{"name":"echo",{META}}}}}"#)),
        (
            "initialize",
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"2026-07-28",{META}}}}}"#
            ),
        ),
    ] {
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method), ("Mcp-Name", "echo")];
        let refused = http::post(&house.url(), Some(&house.ana), &headers, body.as_bytes());
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert!(refused.json()["error"]["code"].is_i64() && !refused.text().contains("result"), "{body}: {refused:?}");
    }
    assert!(house.upstream.seen().requests().is_empty(), "{:?}", house.upstream.seen().requests());
}

#[test]
fn duty_30_a_tools_name_is_exact() {
    let house = House::build();
    house.upstream.seen().clear();
    for name in
        ["Echo", " echo", "echo ", "echo\u{200b}", "e\u{301}cho", "\u{ff45}cho", "echo/", "echo%20", "ec\u{ad}ho"]
    {
        let session = house.session(&house.ben);
        let refused = session.request(&house.ben, "tools/call", json!({"name": name, "arguments": {}})).json();
        assert_eq!(refused["error"]["message"], format!("Unknown tool: {name}"), "{name:?}");
    }
    assert!(house.upstream.seen().calls().is_empty());
}

#[test]
fn duty_38_mirrored_headers_of_the_old_era_go_nowhere() {
    let stage = listening::Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let headers = [
        ("Mcp-Session-Id", session.id.as_str()),
        ("MCP-Protocol-Version", "2025-11-25"),
        ("Mcp-Method", "tools/list"),
        ("Mcp-Name", "u"),
        ("Mcp-Param-Region", "us"),
    ];
    let _caller = stage.caller(&stage.ana, &headers, &call.to_string());
    let request = stage.scripted.take("tools/call").1.to_lowercase();
    for name in ["mcp-method", "mcp-name", "mcp-param"] {
        assert!(!request.contains(name), "{request}");
    }
}

#[test]
fn duty_41_protocol_errors_have_their_codes() {
    let house = house();
    let body = |meta: &Value| {
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": meta}}).to_string()
    };
    let version = "io.modelcontextprotocol/protocolVersion";
    for (header, meta, code) in [
        ("2026-07-28", json!({}), -32602),
        ("2026-07-28", json!({version: "2026-07-28"}), -32602),
        ("2031-01-01", json!({version: "2031-01-01", "io.modelcontextprotocol/clientCapabilities": {}}), -32022),
        ("2031-01-01", json!({}), -32022),
    ] {
        let headers = [("MCP-Protocol-Version", header), ("Mcp-Method", "tools/list")];
        let refused = http::post(&house.url(), Some(&house.ana), &headers, body(&meta).as_bytes());
        let answer = refused.json();
        assert_eq!(
            (refused.status, &answer["id"], &answer["error"]["code"]),
            (400, &json!(7), &json!(code)),
            "{meta}: {answer}"
        );
        if code == -32022 {
            assert_eq!(answer["error"]["data"]["requested"], header, "{answer}");
            assert_eq!(answer["error"]["data"]["supported"][0], "2026-07-28", "{answer}");
        }
    }
}

#[test]
fn duty_46_a_session_speaks_the_version_that_it_was_opened_with() {
    let house = house();
    let session = house.session(&house.ana);
    let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (version, status, code) in [
        (None, 200, Value::Null),
        (Some("2025-11-25"), 200, Value::Null),
        (Some("2025-06-18"), 400, json!(-32020)),
        (Some("1999-01-01"), 400, json!(-32022)),
        (Some("2026-07-28"), 400, json!(-32602)),
        (Some("2025-11-25, 2025-11-25"), 400, json!(-32022)),
    ] {
        let mut headers = vec![("Mcp-Session-Id", session.id.as_str())];
        headers.extend(version.map(|version| ("MCP-Protocol-Version", version)));
        let answer = http::post(&house.url(), Some(&house.ana), &headers, ping);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code), "{version:?}: {answer:?}");
    }
}

#[test]
fn duty_47_an_upstreams_offer_of_versions_is_held_to_what_can_be_policed() {
    let stage = streams::Stage::set();
    let (mut caller, server) = stage.call();
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":["2030-01-01","2025-11-25"],"requested":"2026-07-28"}}}"#;
    say_all(server, &json_answer("", error).replace("200 OK", "400 Bad Request"));
    let told = caller.read();
    assert_eq!((told.status, &told.json()["error"]["data"]["supported"]), (400, &json!(["2025-11-25"])), "{told:?}");
}

#[test]
fn duty_47_a_version_that_cannot_be_policed_opens_no_session() {
    let stage = listening::Stage::set();
    let hello = |version: &str| {
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "versions", "version": "1"}}})
    };
    for (asked, forwarded, chosen, good) in [
        ("2030-01-01", "2025-11-25", "2025-06-18", true),
        ("2026-07-28", "2025-11-25", "2025-11-25", true),
        ("2024-11-05", "2024-11-05", "2024-11-05", true),
        ("2025-11-25", "2025-11-25", "2030-01-01", false),
        ("2025-11-25", "2025-11-25", "2026-07-28", false),
    ] {
        let mut caller: Connection = stage.caller(&stage.ana, &[], &hello(asked).to_string());
        let (server, request) = stage.scripted.take("versions");
        assert!(request.contains(&format!("\"protocolVersion\":\"{forwarded}\"")), "{asked}: {request}");
        let result =
            json!({"protocolVersion": chosen, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}});
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string();
        say_all(server, &json_answer("Mcp-Session-Id: up\r\n", &answer));
        let told = caller.read();
        assert_eq!((told.status == 200, told.header("mcp-session-id").is_some()), (good, good), "{asked}: {told:?}");
        assert_eq!(told.json()["error"]["code"], if good { Value::Null } else { json!(-31002) }, "{asked}");
    }
}
