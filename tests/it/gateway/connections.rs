//! Connections: HTTP/2 like HTTP/1.1, and nothing slow that holds one.

use std::time::Duration;

use portcullis::audit::query::{Filter, query};
use portcullis::proxy::config::Limits;
use serde_json::{Value, json};

use super::house::{House, RULES, names};
use crate::support::by_hand::{ByHand, EVENTS, json_answer, say, say_all};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Connection};
use crate::support::http2::{Answer, Http2};
use crate::support::inside::Inside;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const ALLOW: &str = "  - {name: a, effect: Allow, principals: [{any: true}], tools: [{names: [t]}]}\n";

/// A gateway that waits for nobody longer than a moment.
fn hasty(scripted: &ByHand) -> Inside {
    let moment = Duration::from_millis(300);
    serving(scripted, Limits { head_timeout: moment, body_timeout: moment, ..Limits::default() })
}

/// As [`hasty`], for clients that a loaded machine keeps from asking at once.
fn less_hasty(scripted: &ByHand) -> Inside {
    let moment = Duration::from_secs(2);
    serving(scripted, Limits { head_timeout: moment, body_timeout: moment, ..Limits::default() })
}

fn serving(scripted: &ByHand, limits: Limits) -> Inside {
    let files =
        [("trust.yaml", TRUST), ("server.yaml", &server("s", scripted.url())), ("p.yaml", &policy("p", "s", ALLOW))];
    Inside::start(&files, limits)
}

#[test]
fn duty_6_what_never_becomes_a_request_is_not_waited_for() {
    let scripted = ByHand::start();
    let gateway = hasty(&scripted);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    // A head that ends in a CONTINUATION frame which never comes (RFC 9113 section 6.10).
    let headers = b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82";
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("a byte of either protocol", b"P".to_vec()),
        ("half a head", b"POST /default/s HTTP/1.1\r\nHost: a".to_vec()),
        ("half a preface", preface[..10].to_vec()),
        ("a preface", preface.to_vec()),
        ("a preface and settings", [&preface[..], settings].concat()),
        ("half a head of HTTP/2", [&preface[..], settings, headers].concat()),
    ] {
        let mut caller = Connection::open(&gateway.address());
        caller.write(&bytes);
        // Comes to the end only if the gateway ends it: this side never does.
        assert!(caller.read_to_close().len() < 200, "{what}");
    }
}

#[test]
fn duty_6_a_connection_is_kept_while_something_is_under_way() {
    let scripted = ByHand::start();
    let gateway = less_hasty(&scripted);
    let token = gateway.token("ana", "s");
    let call = call_2026("t");
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
    let mut old = Connection::open(&gateway.address());
    old.write(&http::mcp_request(&gateway.url("s"), Some(&token), &headers, call.as_bytes()));
    let (mut behind_old, _) = scripted.take("tools/call");
    say(&mut behind_old, EVENTS);
    assert_eq!(old.read_head().status, 200);
    let mut new = Http2::clear(&gateway.address());
    let (sent, mut behind_new) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| new.post(&token, "/default/s", "tools/call", &call));
        let mut behind_new = scripted.take("tools/call").0;
        say(&mut behind_new, EVENTS);
        (sent.join().unwrap(), behind_new)
    });
    let mut sent: Answer = sent;
    // Two idle connections come and go meanwhile, one after the other.
    for _ in 0..2 {
        assert!(Connection::open(&gateway.address()).read_to_close().is_empty());
    }
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;
    for server in [&mut behind_old, &mut behind_new] {
        say(server, &format!("data: {answer}\n\n"));
    }
    assert_eq!(old.read_event(&mut String::new()).unwrap().data, answer);
    assert_eq!(sent.read_event(&mut String::new()).unwrap().data, answer);
    // With nothing under way they go too.
    new.wait_closed();
    while old.read_some().is_some() {}
    assert!(old.read_to_close().is_empty());
}

#[test]
fn an_answer_that_is_read_slowly_comes_to_its_end() {
    let scripted = ByHand::start();
    let gateway = less_hasty(&scripted);
    let token = gateway.token("ana", "s");
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
    let mut caller = Connection::open(&gateway.address());
    caller.write(&http::mcp_request(&gateway.url("s"), Some(&token), &headers, call_2026("t").as_bytes()));
    // More than what lies between two sockets holds.
    let text = "x".repeat(15 << 20);
    let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[],\"more\":\"{text}\"}}}}");
    say_all(scripted.take("tools/call").0, &json_answer("", &answer));
    let mut http2 = Http2::clear(&gateway.address());
    let also = std::thread::scope(|scope| {
        let sent = scope.spawn(|| http2.post(&token, "/default/s", "tools/call", &call_2026("t")));
        say_all(scripted.take("tools/call").0, &json_answer("", &answer));
        sent.join().unwrap()
    });
    for _ in 0..3 {
        assert!(Connection::open(&gateway.address()).read_to_close().is_empty());
    }
    assert_eq!(caller.read().body.len(), answer.len());
    assert_eq!(also.json()["result"]["more"].as_str().map(str::len), Some(text.len()));
}

#[test]
fn duty_71_who_does_not_read_an_answer_gives_its_place_back() {
    let scripted = ByHand::start();
    let (moment, patience) = (Duration::from_millis(300), Duration::from_secs(2));
    let gateway = serving(&scripted, Limits { head_timeout: patience, write_timeout: moment, ..Limits::default() });
    let token = gateway.token("ana", "s");
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
    let mut caller = Connection::open(&gateway.address());
    caller.write(&http::mcp_request(&gateway.url("s"), Some(&token), &headers, call_2026("t").as_bytes()));
    let text = "x".repeat(15 << 20);
    let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"content\":[],\"more\":\"{text}\"}}}}");
    say_all(scripted.take("tools/call").0, &json_answer("", &answer));
    // The call ends although its caller neither reads nor leaves.
    let outcome = until("the call to end", || {
        let calls = query(&gateway.journal(), &Filter::default(), 10).unwrap().calls;
        calls.into_iter().find_map(|call| call.completion?.fields.outcome)
    });
    assert_eq!(outcome, "disconnected");
    assert!(caller.read_to_close().len() < answer.len());
}

#[test]
fn duty_6_a_stranger_whose_window_is_shut_is_not_waited_for() {
    let scripted = ByHand::start();
    let moment = Duration::from_millis(300);
    let patience = Duration::from_secs(2);
    let gateway = serving(&scripted, Limits { head_timeout: patience, write_timeout: moment, ..Limits::default() });
    let mut stranger = Http2::narrow(&gateway.address(), 0);
    let refused = stranger.post("none", "/default/s", "tools/call", &call_2026("t"));
    assert_eq!(refused.status, 401);
    // No socket waits: the answer waits for a window that is never opened.
    stranger.wait_closed();
}

#[test]
fn duty_71_an_answer_whose_window_is_shut_gives_its_place_back_and_no_other_ends_with_it() {
    let scripted = ByHand::start();
    let moment = Duration::from_millis(300);
    let patience = Duration::from_secs(2);
    let gateway = serving(&scripted, Limits { head_timeout: patience, write_timeout: moment, ..Limits::default() });
    let token = gateway.token("ana", "s");
    // A proxy may carry many callers over one connection (RFC 9113 section 5.2.2).
    let mut shared = Http2::narrow(&gateway.address(), 70_000);
    let (mut other, mut behind_other) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| shared.post(&token, "/default/s", "tools/call", &call_2026("t")));
        let mut server = scripted.take("tools/call").0;
        say(&mut server, EVENTS);
        (sent.join().unwrap(), server)
    });
    let text = "x".repeat(1 << 20);
    let whole = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [], "more": text}}).to_string();
    let event = format!("{EVENTS}data: {whole}\n\n");
    let unread = [json_answer("", &whole), event].map(|answer| {
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| shared.post(&token, "/default/s", "tools/call", &call_2026("t")));
            say_all(scripted.take("tools/call").0, &answer);
            sent.join().unwrap()
        })
    });
    let outcomes = until("both calls to end", || {
        let calls = query(&gateway.journal(), &Filter::default(), 10).unwrap().calls;
        let ended: Vec<_> = calls.into_iter().filter_map(|call| call.completion?.fields.outcome).collect();
        (ended.len() == 2).then_some(ended)
    });
    assert_eq!(outcomes, ["disconnected"; 2]);
    drop(unread);
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;
    say(&mut behind_other, &format!("data: {answer}\n\n"));
    assert_eq!(other.read_event(&mut String::new()).unwrap().data, answer);
}

/// A frame of HTTP/2 on stream 1 that ends what `flags` say (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A header field, literal and never indexed by number (RFC 7541 sections 5.1 and 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match text.len().checked_sub(127) {
            None => bytes.push(u8::try_from(text.len()).unwrap()),
            Some(over) => {
                bytes.extend([127, u8::try_from(over % 128).unwrap() | 128, u8::try_from(over / 128).unwrap()])
            }
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
fn duty_71_who_gives_no_sign_of_life_gives_its_place_back() {
    let scripted = ByHand::start();
    let gateway = serving(&scripted, Limits { silence: Duration::from_secs(2), ..Limits::default() });
    let (authority, bearer) = (gateway.address(), format!("Bearer {}", gateway.token("ana", "s")));
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", &authority),
        (":path", "/default/s"),
        ("authorization", &bearer),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "t"),
    ];
    let head: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let mut asleep = Connection::open(&gateway.address());
    asleep.write(&[&preface[..], &frame(1, 4, &head), &frame(0, 1, call_2026("t").as_bytes())].concat());
    let (mut server, _) = scripted.take("tools/call");
    say(&mut server, EVENTS);
    // Says nothing more, and answers no PING. Comes to the end only if the gateway ends it, as does the call.
    asleep.read_to_close();
    std::io::copy(&mut server, &mut std::io::sink()).ok();
}

#[test]
fn duty_6_a_slow_body_is_408() {
    let scripted = ByHand::start();
    let gateway = less_hasty(&scripted);
    let token = gateway.token("ana", "s");
    let whole = http::mcp_request(&gateway.url("s"), Some(&token), &[], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let mut caller = Connection::open(&gateway.address());
    caller.write(&whole[..whole.len() - 5]);
    let refused = caller.read();
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (408, &json!(-31008)), "{refused:?}");
    // A stranger's body is not waited for that long.
    let whole = http::mcp_request(&gateway.url("s"), None, &[], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let mut caller = Connection::open(&gateway.address());
    caller.write(&whole[..whole.len() - 5]);
    assert_eq!(caller.read().status, 401);
}

/// RFC 9112 section 9.6: a client that is told nothing sends its next request on the same connection.
#[test]
fn who_is_refused_before_their_body_is_there_goes_on_or_is_told_that_it_is_the_last_answer() {
    let scripted = ByHand::start();
    let gateway = less_hasty(&scripted);
    let whole = http::mcp_request(&gateway.url("s"), None, &[], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let (head, body) = whole.split_at(whole.len() - 40);
    let says_last = |refused: &http::Response| {
        assert_eq!(refused.status, 401, "{refused:?}");
        refused.header("connection") == Some("close")
    };
    // As HTTP libraries do: one write for the head, and one for the body.
    until("one to go on", || {
        let mut caller = Connection::open(&gateway.address());
        caller.write(head);
        std::thread::sleep(Duration::from_millis(5));
        caller.write(body);
        if says_last(&caller.read()) {
            // It was too late, on a machine under load.
            return None;
        }
        caller.write(&whole);
        assert!(!says_last(&caller.read()));
        Some(())
    });
    // One whose body never comes, one that waits to be asked for it (RFC 9110 section 10.1.1), and more than is worth reading.
    let expecting = http::mcp_request(&gateway.url("s"), None, &[("Expect", "100-continue")], &[b' '; 100]);
    let large = http::mcp_request(&gateway.url("s"), None, &[], &vec![b' '; 2 << 20]);
    for bytes in [head, &expecting[..expecting.len() - 100], &large[..300 << 10]] {
        assert_last(&gateway, bytes, "401");
    }
    // HTTP/1.0 has it the other way round (RFC 9112 section 9.3).
    let old =
        String::from_utf8(head.to_vec()).unwrap().replace("HTTP/1.1\r\n", "HTTP/1.0\r\nConnection: keep-alive\r\n");
    assert_last(&gateway, old.as_bytes(), "401");
    // Framing that no request can be found behind.
    let token = gateway.token("ana", "s");
    let broken = [&chunked(&gateway, &token, &[])[..], b"zz\r\n"].concat();
    assert_last(&gateway, &broken, "400");
}

/// That these bytes are answered with this status, and that nothing is taken behind them.
fn assert_last(gateway: &Inside, bytes: &[u8], status: &str) {
    let mut caller = Connection::open(&gateway.address());
    caller.write(bytes);
    let head = caller.read_interim().to_ascii_lowercase();
    assert!(head.split(' ').nth(1) == Some(status) && head.contains("connection: close\r\n"), "{head}");
    assert!(!head.contains("keep-alive"), "{head}");
    caller.read_to_close();
}

/// The head of a request whose body comes in chunks.
fn chunked(gateway: &Inside, token: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers = [headers, &[("Transfer-Encoding", "chunked")]].concat();
    http::mcp_request(&gateway.url("s"), Some(token), &headers, b"")
}

#[test]
fn a_body_that_was_asked_for_and_read_ends_no_connection() {
    let scripted = ByHand::start();
    let gateway = less_hasty(&scripted);
    let token = gateway.token("ana", "s");
    let head = chunked(&gateway, &token, &[("Expect", "100-continue")]);
    let mut caller = Connection::open(&gateway.address());
    for _ in 0..2 {
        caller.write(&head);
        caller.read_continue();
        caller.write(b"1\r\n{\r\n0\r\n\r\n");
        let refused = caller.read();
        assert_eq!((refused.status, refused.header("connection")), (400, None), "{refused:?}");
    }
}

fn call_2026(tool: &str) -> String {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"steps": 3}, "_meta": meta}})
        .to_string()
}

/// Everything that HTTP/1.1 shows of a governed server, once more.
fn governed(http2: &mut Http2, path: &str, ana: &str, ben: &str) {
    let challenge = http2.send("POST", path, &[("content-type", "application/json")], "{}");
    assert_eq!(challenge.status, 401);
    let challenge = challenge.headers["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.contains("/.well-known/oauth-protected-resource/default/items"), "{challenge}");
    let metadata = http2.send("GET", "/.well-known/oauth-protected-resource/default/items", &[], "");
    assert_eq!(metadata.status, 200);
    assert!(metadata.json()["resource"].as_str().unwrap().ends_with("/default/items"));

    let allowed = http2.post(ana, path, "tools/call", &call_2026("echo")).answer();
    assert!(allowed["result"]["content"].is_array(), "{allowed}");
    let denied = http2.post(ana, path, "tools/call", &call_2026("delete_item")).answer();
    assert_eq!(
        (&denied["result"]["isError"], &denied["result"]["content"][0]["text"]),
        (&json!(true), &json!("nothing is deleted"))
    );
    let hidden = http2.post(ben, path, "tools/call", &call_2026("get_item")).answer();
    assert_eq!(hidden["error"], json!({"code": -32602, "message": "Unknown tool: get_item"}));
    let listed = http2.post(ben, path, "tools/list", &call_2026("echo").replace("tools/call", "tools/list")).answer();
    assert_eq!(names(&listed), ["echo", "create_item"]);

    for (what, status, method, path, headers) in [
        ("another path", 404, "POST", "/default//items", vec![]),
        ("an origin", 403, "POST", path, vec![("origin", "https://evil.example")]),
        ("a second host", 421, "POST", path, vec![("host", "evil.example")]),
        ("another type", 415, "POST", path, vec![("content-type", "text/plain")]),
        ("a coding", 415, "POST", path, vec![("content-type", "application/json"), ("content-encoding", "gzip")]),
        ("two tokens", 400, "POST", path, vec![("authorization", "Bearer x")]),
        ("another method", 405, "PUT", path, vec![]),
    ] {
        let bearer = format!("Bearer {ana}");
        let headers = [vec![("authorization", bearer.as_str())], headers].concat();
        assert_eq!(http2.send(method, path, &headers, "{}").status, status, "{what}");
    }
    let large = "x".repeat(5 << 20);
    let bearer = format!("Bearer {ana}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    assert_eq!(http2.send("POST", path, &headers, &large).status, 413);
}

#[test]
fn http2_is_governed_in_clear_text() {
    let house = House::build();
    let mut http2 = Http2::clear(&house.gateway.address().to_string());
    governed(&mut http2, "/default/items", &house.ana, &house.ben);
}

#[test]
fn http2_is_governed_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["gate.test".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let upstream = Upstream::start(Sdk::Rmcp);
    let files = [
        ("trust.yaml", TRUST),
        ("server.yaml", &server("items", upstream.url())),
        ("policy.yaml", &policy("persons", "items", RULES)),
    ];
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let flags = ["--public-url", "https://gate.test", "--tls-cert", certificate, "--tls-key", key];
    let gateway = Gateway::start_with(&files, &flags);
    let (ana, ben) = (gateway.token("ana", "items"), gateway.token("ben", "items"));
    let mut http2 = Http2::tls(&gateway.address().to_string(), "gate.test", &made.cert.pem());
    governed(&mut http2, "/default/items", &ana, &ben);
    // What is no TLS gets no HTTP.
    let mut clear = Connection::open(&gateway.address().to_string());
    clear.write(b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n");
    assert!(!clear.read_to_close().starts_with(b"HTTP"));
}

#[test]
fn http2_streams_events_as_they_come() {
    let scripted = ByHand::start();
    let files =
        [("trust.yaml", TRUST), ("server.yaml", &server("s", scripted.url())), ("p.yaml", &policy("p", "s", ALLOW))];
    let gateway = Gateway::start(&files);
    let token = gateway.token("ana", "s");
    let mut http2 = Http2::clear(&gateway.address().to_string());
    let call = call_2026("t").replace("\"_meta\":{", "\"_meta\":{\"progressToken\":7,");
    let (mut answer, mut server) = std::thread::scope(|scope| {
        let sent = scope.spawn(|| http2.post(&token, "/default/s", "tools/call", &call));
        let mut server = scripted.take("tools/call").0;
        say(&mut server, EVENTS);
        (sent.join().unwrap(), server)
    });
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let mut buffer = String::new();
    let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}"#;
    say(&mut server, &format!("data: {progress}\n\n"));
    // It is here before the server has said anything more.
    assert_eq!(answer.read_event(&mut buffer).unwrap().data, progress);
    // A caller who resets the stream, and keeps the connection, has cancelled.
    drop(answer);
    std::io::copy(&mut server, &mut std::io::sink()).unwrap();
    let refused: Value = http2.post(&token, "/default/s", "tools/call", &call_2026("u")).answer();
    assert_eq!(refused["error"]["code"], -32602);
}
