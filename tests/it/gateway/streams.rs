//! Event streams, cancellation, and upstreams that misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::support::by_hand::{ByHand, EVENTS, json_answer, say, say_all};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;

/// A scripted server behind the gate, and one caller of the 2026 line.
pub(super) struct Stage {
    pub(super) scripted: ByHand,
    pub(super) gateway: Gateway,
    token: String,
}

impl Stage {
    pub(super) fn set() -> Self {
        let scripted = ByHand::start();
        let gateway = Gateway::start(&[
            ("trust.yaml", TRUST),
            ("server.yaml", &server("s", scripted.url())),
            (
                "policy.yaml",
                &policy("p", "s", "  - {name: a, effect: Allow, principals: [{any: true}], tools: [{names: [t]}]}\n"),
            ),
        ]);
        let token = gateway.token("ana", "s");
        Self { scripted, gateway, token }
    }

    /// Sends a call, and gives the caller's and the server's ends.
    pub(super) fn call(&self) -> (http::Connection, TcpStream) {
        let caller = self.send();
        let server = self.scripted.take("tools/call").0;
        (caller, server)
    }

    fn send(&self) -> http::Connection {
        let url = self.gateway.url("s");
        let params = json!({"name": "t", "arguments": {}, "_meta": {
            "progressToken": 7,
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
        let mut caller = http::Connection::open(&self.gateway.address().to_string());
        caller.write(&http::mcp_request(&url, Some(&self.token), &headers, body.as_bytes()));
        caller
    }

    /// Sends this very body, a call of `t`, and gives the caller's and the server's ends and what arrived.
    pub(super) fn send_raw(&self, body: &str) -> (http::Connection, TcpStream, String) {
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
        let mut caller = http::Connection::open(&self.gateway.address().to_string());
        caller.write(&http::mcp_request(&self.gateway.url("s"), Some(&self.token), &headers, body.as_bytes()));
        let (server, request) = self.scripted.take("1.50e+1");
        (caller, server, request)
    }

    /// Posts this very body, a call of `name` that is refused.
    pub(super) fn post_raw(&self, body: &str, name: &str) -> http::Response {
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", name)];
        http::post(&self.gateway.url("s"), Some(&self.token), &headers, body.as_bytes())
    }
}

#[test]
fn duty_61_to_66_events_are_judged_one_by_one_and_never_held_back() {
    let stage = Stage::set();
    let (mut caller, mut server) = stage.call();
    server.write_all(EVENTS.as_bytes()).unwrap();
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
    let foreign = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":8,"progress":1}}"#;
    let sampling = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;
    let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}"#;
    for message in [sampling, foreign, log, progress] {
        server.write_all(format!("id: up-1\ndata: {message}\n\n").as_bytes()).unwrap();
    }
    let head = caller.read_head();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!((head.header("x-accel-buffering"), head.header("content-encoding")), (Some("no"), None));
    let mut buffer = String::new();
    // It is here before the server has said anything more: nothing is held back.
    let first = caller.read_event(&mut buffer).unwrap();
    assert_eq!((first.data.as_str(), first.id), (progress, None), "the new era has no event ids");
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;
    server.write_all(format!("event: endpoint\ndata: http://evil.example\n\ndata: {answer}\n\n").as_bytes()).unwrap();
    assert_eq!(caller.read_event(&mut buffer).unwrap().data, answer);
}

#[test]
fn duty_65_a_caller_who_leaves_aborts_the_call() {
    let stage = Stage::set();
    let (caller, mut server) = stage.call();
    drop(caller);
    let mut rest = Vec::new();
    // Ends only when the gateway closes the connection: the server never answered.
    server.read_to_end(&mut rest).unwrap();
}

#[test]
fn an_answer_that_is_too_large_is_cut_short() {
    let stage = Stage::set();
    let text = "x".repeat(17 << 20);
    let message = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[],\"more\":\"{text}\"}}}}");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    for (what, answer, status) in [
        ("said", json_answer("", &message), 502),
        ("unsaid", format!("{head}{message}"), 502),
        ("event", format!("{EVENTS}data: {message}\n\n"), 200),
    ] {
        let (mut caller, mut server) = stage.call();
        // The gateway may close before all is written: that is the point.
        server.write_all(answer.as_bytes()).ok();
        let refused = caller.read();
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (status, &json!(-31002)), "{what}");
        assert!(refused.body.len() < 1000, "{what}");
    }
}

#[test]
fn duty_44_an_upstreams_own_errors_pass_and_its_other_headers_do_not() {
    let stage = Stage::set();
    let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no","data":{"a":1.50}}}"#;
    for status in ["200 OK", "400 Bad Request", "404 Not Found", "500 Oops"] {
        let (mut caller, server) = stage.call();
        let headers = "Set-Cookie: a=b\r\nETag: \"1\"\r\nCache-Control: public, max-age=99\r\nAccess-Control-Allow-Origin: *\r\n\
                       Mcp-Session-Id: raw\r\nX-Other: y\r\n";
        say_all(server, &json_answer(headers, error).replace("200 OK", status));
        let passed = caller.read();
        assert_eq!((passed.status.to_string().as_str(), passed.text().as_str()), (&status[..3], error));
        assert_eq!(passed.header("cache-control"), Some("no-store"));
        for name in ["set-cookie", "etag", "access-control-allow-origin", "mcp-session-id", "x-other"] {
            assert_eq!(passed.header(name), None, "{name}");
        }
    }
    // A refusal in no form of the protocol keeps its status, with a body that sends no client to another transport.
    let (mut caller, server) = stage.call();
    say_all(server, "HTTP/1.1 405 No\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<p/>");
    let refused = caller.read();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (405, &json!(-31002)));
}

#[test]
fn nothing_passes_after_the_answer() {
    let stage = Stage::set();
    let (mut caller, mut server) = stage.call();
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;
    say(&mut server, &format!("{EVENTS}data: {answer}\n\n"));
    assert_eq!(caller.read_head().status, 200);
    let mut buffer = String::new();
    assert_eq!(caller.read_event(&mut buffer).unwrap().data, answer);
    let other = answer.replace("[]", "[{\"type\":\"text\",\"text\":\"other\"}]");
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":9}}"#;
    say(&mut server, &format!("data: {other}\n\ndata: {progress}\n\n"));
    // The server keeps its side open; the caller's ends all the same.
    assert_eq!(caller.read_event(&mut buffer), None);
}
