//! Upstreams that are down, slow, lying or broken: each becomes one clear error and one record that says why.

use std::io::Write as _;
use std::net::Shutdown;
use std::path::Path;
use std::time::Duration;

use portcullis::audit::query::{Filter, query};
use portcullis::proxy::config::Limits;
use serde_json::{Value, json};

use super::streams::Stage;
use crate::support::by_hand::{ByHand, EVENTS, json_answer, say, say_all};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Connection};
use crate::support::inside::Inside;
use crate::support::wait::until;

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;

const ALLOW: &str = "  - {name: a, effect: Allow, principals: [{any: true}], tools: [{names: [t]}]}\n";

/// A whole answer with this status line, header lines and body, on a connection that stays open.
fn whole(status: &str, headers: &str, body: &str) -> String {
    let lines: String = headers.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// How the first `count` calls of the tool ended, in the order in which they were made: outcome and reason.
fn ends(journal: &Path, tool: &str, count: usize) -> Vec<(String, Option<String>)> {
    until("all completions", || {
        let filter = Filter { target: Some(tool.to_owned()), ..Filter::default() };
        let calls = query(journal, &filter, 200).unwrap().calls;
        let ends: Vec<_> = calls.into_iter().filter_map(|call| call.completion).map(|end| end.fields).collect();
        (ends.len() == count).then(|| ends.into_iter().map(|end| (end.outcome.unwrap(), end.error)).collect())
    })
}

const JSON: &str = "Content-Type: application/json";

/// What an upstream answers, the status and code that the caller gets, and the reason on record.
fn faults() -> Vec<(&'static str, String, u16, i64, &'static str)> {
    let json = |body: &str| whole("200 OK", JSON, body);
    let many: String = (0..100).map(|n| format!("X-{n}: y|")).collect();
    let long = format!("X-Long: {}", "y".repeat(1 << 20));
    let mut faults = vec![
        ("html", whole("200 OK", "Content-Type: text/html", "<p/>"), 502, -31002, "UpstreamContentType"),
        (
            "two types",
            whole("200 OK", "Content-Type: application/json|Content-Type: text/html", RESULT),
            502,
            -31002,
            "UpstreamContentType",
        ),
        (
            "gzip",
            whole("200 OK", "Content-Type: application/json|Content-Encoding: gzip", RESULT),
            502,
            -31002,
            "UpstreamContentType",
        ),
        (
            "gzip of events",
            whole("200 OK", "Content-Type: text/event-stream|Content-Encoding: gzip", ""),
            502,
            -31002,
            "UpstreamContentType",
        ),
        (
            "events with another status",
            whole("201 Created", "Content-Type: text/event-stream", ""),
            502,
            -31002,
            "UpstreamContentType",
        ),
        ("no type and no body", whole("200 OK", "", ""), 502, -31002, "NoAnswer"),
        ("accepted", whole("202 Accepted", "", ""), 502, -31002, "NoAnswer"),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502, -31002, "NoAnswer"),
        ("an empty body", json(""), 502, -31002, "NotJson"),
        ("500", whole("500 Oops", "", ""), 502, -31001, "UpstreamFailed"),
        ("503 in html", whole("503 Busy", "Content-Type: text/html", "<p/>"), 502, -31001, "UpstreamFailed"),
        (
            "another protocol",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_owned(),
            502,
            -31001,
            "UpstreamFailed",
        ),
        ("nothing", String::new(), 502, -31001, "UpstreamBroken"),
        ("no HTTP", "SSH-2.0-OpenSSH\r\n\r\n".to_owned(), 502, -31001, "UpstreamBroken"),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Ty".to_owned(), 502, -31001, "UpstreamBroken"),
        (
            "two lengths",
            format!("HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
            502,
            -31001,
            "UpstreamBroken",
        ),
        ("too many headers", whole("200 OK", &format!("{many}{JSON}"), RESULT), 502, -31001, "UpstreamBroken"),
        ("a long header", whole("200 OK", &format!("{long}|{JSON}"), RESULT), 502, -31001, "UpstreamBroken"),
        (
            "only interim answers",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned(),
            502,
            -31001,
            "UpstreamBroken",
        ),
        (
            "half a body",
            format!("HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: 100\r\n\r\n{{"),
            502,
            -31002,
            "AnswerCutOff",
        ),
        (
            "half a chunk",
            format!("HTTP/1.1 200 OK\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{{"),
            502,
            -31002,
            "AnswerCutOff",
        ),
        (
            "no last chunk",
            format!("HTTP/1.1 200 OK\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n"),
            502,
            -31002,
            "AnswerCutOff",
        ),
        ("no JSON", json("{]"), 502, -31002, "NotJson"),
        ("two answers in one", json(&format!("{RESULT}{RESULT}")), 502, -31002, "TrailingData"),
        (
            "duplicates",
            json(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]},"result":{}}"#),
            502,
            -31002,
            "DuplicateMember",
        ),
        ("a batch", json(&format!("[{RESULT}]")), 502, -31002, "Batch"),
        ("no message", json("{}"), 502, -31002, "WrongJsonRpcVersion"),
        ("another id", json(&RESULT.replace(":1,", ":2,")), 502, -31002, "NotTheAnswer"),
        ("the id as a string", json(&RESULT.replace(":1,", ":\"1\",")), 502, -31002, "NotTheAnswer"),
        (
            "a request",
            json(r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}"#),
            502,
            -31002,
            "NotTheAnswer",
        ),
        (
            "input wanted",
            json(r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}"#),
            502,
            -31002,
            "UnpolicedResultType",
        ),
        // A refusal keeps its status (mcp-obligations 44), with a body that sends no client to another transport (43).
        (
            "404 in html",
            whole("404 Not Found", "Content-Type: text/html", "<p/>"),
            404,
            -31002,
            "UpstreamRefusedRequest",
        ),
        ("400 without a body", whole("400 Bad Request", "", ""), 400, -31002, "UpstreamRefusedRequest"),
        (
            "429 in other JSON",
            whole("429 Slow Down", &format!("{JSON}|Retry-After: 7"), r#"{"detail":"slow"}"#),
            429,
            -31002,
            "UpstreamRefusedRequest",
        ),
        (
            "400 with another id",
            whole("400 Bad Request", JSON, r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32600,"message":"no"}}"#),
            400,
            -31002,
            "UpstreamRefusedRequest",
        ),
    ];
    for status in [401, 403, 407] {
        let answer = whole(&format!("{status} No"), &format!("{JSON}|WWW-Authenticate: Bearer realm=\"evil\""), RESULT);
        faults.push(("credentials wanted", answer, 502, -31003, "UpstreamCredentialsRefused"));
    }
    for status in [300, 301, 302, 303, 304, 305, 307, 308] {
        let answer = whole(&format!("{status} Elsewhere"), &format!("{JSON}|Location: http://127.0.0.1:1/"), RESULT);
        faults.push(("a redirect", answer, 502, -31003, "UpstreamRedirected"));
    }
    faults
}

#[test]
fn upstreams_that_misbehave_become_clear_errors() {
    let stage = Stage::set();
    let mut reasons = Vec::new();
    for (what, answer, status, code, reason) in faults() {
        let (mut caller, mut server) = stage.call();
        // The gateway may close before all is written.
        server.write_all(answer.as_bytes()).ok();
        server.shutdown(Shutdown::Write).ok();
        let refused = caller.read();
        assert_eq!(refused.status, status, "{what}: {refused:?}");
        let error = refused.json();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(code)), "{what}: {refused:?}");
        for name in ["www-authenticate", "location", "link", "x-1"] {
            assert_eq!(refused.header(name), None, "{what}");
        }
        assert_eq!(refused.header("retry-after").is_some(), status == 429, "{what}");
        reasons.push((what, reason));
    }
    for (what, events, reason) in [
        ("no event", String::new(), "StreamEndedWithoutAnswer"),
        ("half an event", "data: {\"jsonrpc\"".to_owned(), "StreamEndedWithoutAnswer"),
        ("no JSON", "data: {]\n\n".to_owned(), "NotJson"),
        ("duplicates", format!("data: {}\n\n", RESULT.replace("\"id\"", "\"id\":1,\"id\"")), "DuplicateMember"),
        ("a batch", "data: []\n\n".to_owned(), "Batch"),
        ("another id", format!("data: {}\n\n", RESULT.replace(":1,", ":\"1\",")), "StreamEndedWithoutAnswer"),
        ("input wanted", format!("data: {}\n\n", RESULT.replace("complete", "input_required")), "UnpolicedResultType"),
    ] {
        let (mut caller, server) = stage.call();
        say_all(server, &format!("{EVENTS}{events}"));
        let failed = caller.read();
        assert_eq!((failed.status, failed.events().len()), (200, 1), "{what}: {failed:?}");
        let answer = failed.json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-31002)), "{what}: {failed:?}");
        reasons.push((what, reason));
    }
    let (mut caller, server) = stage.call();
    say_all(server, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nda");
    assert_eq!(caller.read().json()["error"]["code"], -31002);
    reasons.push(("half a chunk of events", "StreamBroken"));
    let found = ends(&stage.gateway.journal(), "t", reasons.len());
    for ((what, reason), (outcome, found)) in reasons.into_iter().zip(found) {
        assert_eq!((outcome.as_str(), found.as_deref()), ("error", Some(reason)), "{what}");
    }
}

#[test]
fn unusual_answers_that_mean_the_same_pass() {
    let stage = Stage::set();
    let chunks =
        format!("5\r\n{}\r\n{:x};a=b\r\n{}\r\n0\r\nX-Trailer: y\r\n\r\n", &RESULT[..5], RESULT.len() - 5, &RESULT[5..]);
    let chunked = format!("HTTP/1.1 200 OK\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let plain = json_answer("", RESULT);
    for (what, answer) in [
        ("HTTP/1.0, until its connection ends", format!("HTTP/1.0 200 OK\r\n{JSON}\r\n\r\n{RESULT}")),
        ("HTTP/1.0 with a length", whole("200 OK", JSON, RESULT).replace("HTTP/1.1", "HTTP/1.0")),
        ("chunks", chunked),
        (
            "interim answers before it",
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{plain}"),
        ),
        ("a type in other letters", plain.replace("application/json", "Application/JSON ; charset=UTF-8")),
        ("space around", json_answer("", &format!(" \r\n\t{RESULT}\n"))),
        ("no reason phrase", plain.replace("200 OK", "200")),
        ("the coding that is none", plain.replace("Connection", "Content-Encoding: identity\r\nConnection")),
    ] {
        let (mut caller, server) = stage.call();
        say_all(server, &answer);
        let passed = caller.read();
        assert_eq!((passed.status, passed.text().trim()), (200, RESULT), "{what}");
        assert_eq!(passed.header("link"), None, "{what}");
    }
    let found = ends(&stage.gateway.journal(), "t", 8);
    assert!(found.iter().all(|end| *end == ("result".to_owned(), None)), "{found:?}");
}

#[test]
fn what_an_upstream_says_before_it_is_asked_answers_nobody() {
    let stage = Stage::set();
    let (mut caller, mut server) = stage.call();
    let other = RESULT.replace("[]", "[{\"type\":\"text\",\"text\":\"of another\"}]");
    say(&mut server, &format!("{}{}", whole("200 OK", JSON, RESULT), whole("200 OK", JSON, &other)));
    assert_eq!(caller.read().text(), RESULT);
    // The next call is the next connection's, whose answer is its own.
    let (mut caller, second) = stage.call();
    say_all(second, &json_answer("", RESULT));
    assert_eq!(caller.read().text(), RESULT);
    drop(server);
}

#[test]
fn an_upstream_that_is_down_is_said_to_be() {
    // Held by somebody who does not listen, so that nobody else does.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    let nowhere = format!("http://127.0.0.1:{port}/mcp");
    let files = [("trust.yaml", TRUST), ("server.yaml", &server("s", &nowhere)), ("p.yaml", &policy("p", "s", ALLOW))];
    let gateway = Gateway::start(&files);
    let token = gateway.token("ana", "s");
    let params = json!({"name": "t", "arguments": {}});
    let refused = http::post_2026(&gateway.url("s"), Some(&token), "tools/call", &params);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_i64()), (502, Some(-31001)));
    assert!(!refused.text().contains("127.0.0.1"), "callers do not learn where the server is: {}", refused.text());
    assert_eq!(ends(&gateway.journal(), "t", 1), [("error".to_owned(), Some("ConnectFailed".to_owned()))]);
    until("the operator to be told", || gateway.log().contains("ConnectFailed").then_some(()));
}

#[test]
fn an_upstream_that_is_slow_is_given_up() {
    let scripted = ByHand::start();
    let files =
        [("trust.yaml", TRUST), ("server.yaml", &server("s", scripted.url())), ("p.yaml", &policy("p", "s", ALLOW))];
    let limits = Limits { answer_timeout: Duration::from_millis(500), ..Limits::default() };
    let gateway = Inside::start(&files, limits);
    let token = gateway.token("ana", "s");
    let params = json!({"name": "t", "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
    let head = format!("HTTP/1.1 200 OK\r\n{JSON}\r\nContent-Length: 100\r\n\r\n{{");
    let comments = format!("{EVENTS}: still here\n\n");
    let mut expected = Vec::new();
    for (what, said, status, code, reason) in [
        ("nothing", "", 502, -31001, "UpstreamTimeout"),
        ("half a head", "HTTP/1.1 200 OK\r\n", 502, -31001, "UpstreamTimeout"),
        ("half a body", head.as_str(), 502, -31002, "AnswerTimeout"),
        ("a stream without an answer", comments.as_str(), 200, -31002, "AnswerTimeout"),
    ] {
        until(what, || {
            let mut caller = Connection::open(&gateway.address());
            caller.write(&http::mcp_request(&gateway.url("s"), Some(&token), &headers, body.as_bytes()));
            let (mut server, _) = scripted.take("tools/call");
            server.write_all(said.as_bytes()).ok();
            let refused: http::Response = caller.read();
            let error: Value = refused.json();
            // And the server is told, by the end of its connection.
            std::io::copy(&mut server, &mut std::io::sink()).ok();
            assert_eq!(error["id"], 1, "{what}");
            let found = (refused.status, error["error"]["code"].as_i64().unwrap());
            let is_it = found == (status, code);
            // Who is kept from saying its head for so long is given up before that: another case, and this one is tried again.
            assert!(is_it || found == (502, -31001), "{what}: {refused:?}");
            expected.push(if is_it { reason } else { "UpstreamTimeout" });
            is_it.then_some(())
        });
    }
    let ended = ends(&gateway.journal(), "t", expected.len());
    let reasons: Vec<_> = ended.into_iter().map(|(_, reason)| reason.unwrap()).collect();
    assert_eq!(reasons, expected);
}
