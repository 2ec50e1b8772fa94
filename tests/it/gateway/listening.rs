//! Streams of the old era: what a session's server says by itself, and what is said again after a connection broke.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::by_hand::{ByHand, EVENTS, json_answer, say, say_all};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Connection};
use crate::support::issuer::Issuer;
use crate::support::now;
use crate::support::wait::until;

const RULES: &str = "
  - {name: ana, effect: Allow, principals: [{users: [ana]}], tools: [{names: [t, u]}]}
  - {name: ben, effect: Allow, principals: [{users: [ben]}], tools: [{names: [t]}]}
";

const TOOLS: &str =
    r#""result":{"tools":[{"name":"t","inputSchema":{"type":"object"}},{"name":"u","inputSchema":{"type":"object"}}]}"#;

/// A scripted server behind the gate, and two callers of the 2025 line.
pub(super) struct Stage {
    pub(super) scripted: ByHand,
    pub(super) gateway: Gateway,
    pub(super) ana: String,
    pub(super) ben: String,
}

/// A session's id and the token that it belongs to.
pub(super) struct Session {
    pub(super) id: String,
    pub(super) token: String,
}

impl Stage {
    pub(super) fn set() -> Self {
        let scripted = ByHand::start();
        let gateway = Gateway::start(&[
            ("trust.yaml", TRUST),
            ("server.yaml", &server("s", scripted.url())),
            ("policy.yaml", &policy("p", "s", RULES)),
        ]);
        let (ana, ben) = (gateway.token("ana", "s"), gateway.token("ben", "s"));
        Self { scripted, gateway, ana, ben }
    }

    /// Opens a session with which the server's own id `upstream` goes, if it has sessions.
    pub(super) fn session(&self, token: &str, upstream: Option<&str>) -> Session {
        self.session_with(token, upstream, &json!({"tools": {"listChanged": true}}))
    }

    /// [`Stage::session`] at a server that declares these capabilities.
    fn session_with(&self, token: &str, upstream: Option<&str>, capabilities: &Value) -> Session {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "on-stage", "version": "1"}});
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let mut caller = self.caller(token, &[], &hello);
        let (server, _) = self.scripted.take("on-stage");
        let header = upstream.map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
        let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
            "serverInfo": {"name": "scripted", "version": "1"}});
        say_all(server, &json_answer(&header, &json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string()));
        let opened = caller.read();
        let id = opened.header("mcp-session-id").unwrap_or_else(|| panic!("no session in {opened:?}")).to_owned();
        Session { id, token: token.to_owned() }
    }

    pub(super) fn caller(&self, token: &str, headers: &[(&str, &str)], body: &str) -> Connection {
        let mut caller = Connection::open(&self.gateway.address().to_string());
        caller.write(&http::mcp_request(&self.gateway.url("s"), Some(token), headers, body.as_bytes()));
        caller
    }

    /// Sends a message within a session.
    pub(super) fn send(&self, session: &Session, message: &Value) -> Connection {
        let headers = [("Mcp-Session-Id", session.id.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
        self.caller(&session.token, &headers, &message.to_string())
    }

    /// Sends a message within a session, and gives the server's end too.
    pub(super) fn exchange(&self, session: &Session, message: &Value) -> (Connection, TcpStream, String) {
        let caller = self.send(session, message);
        let (server, request) = self.scripted.take(message["method"].as_str().unwrap());
        (caller, server, request)
    }

    /// Asks for the session's stream, behind an event if one is named.
    pub(super) fn get(&self, session: &Session, behind: Option<&str>) -> Connection {
        let bearer = format!("Bearer {}", session.token);
        let mut headers = vec![
            ("Authorization", bearer.as_str()),
            ("Mcp-Session-Id", session.id.as_str()),
            ("MCP-Protocol-Version", "2025-11-25"),
            ("Accept", "text/event-stream"),
        ];
        headers.extend(behind.map(|id| ("Last-Event-ID", id)));
        let mut caller = Connection::open(&self.gateway.address().to_string());
        caller.write(&http::request("GET", &self.gateway.url("s"), &headers, b""));
        caller
    }

    /// The session's stream, open, and the server's end of it.
    pub(super) fn listen(&self, session: &Session) -> (Connection, TcpStream) {
        let mut caller = self.get(session, None);
        let (mut server, _) = self.scripted.take("GET ");
        say(&mut server, EVENTS);
        assert_eq!(caller.read_head().header("content-type"), Some("text/event-stream"));
        (caller, server)
    }

    /// Lists tools over a stream that breaks behind one event without data, and gives that event's id.
    pub(super) fn broken_list(&self, session: &Session) -> String {
        let message = json!({"jsonrpc": "2.0", "id": "five", "method": "tools/list"});
        let (mut caller, server, _) = self.exchange(session, &message);
        say_all(server, &format!("{EVENTS}id: up-1\nretry: 10\ndata:\n\n"));
        assert_eq!(caller.read_head().status, 200);
        let mut buffer = String::new();
        let primed = caller.read_event(&mut buffer).unwrap();
        assert_eq!((primed.data.as_str(), primed.retry.as_deref()), ("", Some("10")));
        assert_eq!(caller.read_event(&mut buffer), None, "a server that closes to be asked again has not failed");
        primed.id.unwrap()
    }
}

#[test]
fn duty_57_66_67_a_resumed_answer_is_filtered_like_any_other() {
    let stage = Stage::set();
    let session = stage.session(&stage.ben, Some("up-session"));
    let id = stage.broken_list(&session);
    assert!(!id.contains("up-1"), "{id}");
    let mut caller = stage.get(&session, Some(&id));
    let (server, request) = stage.scripted.take("GET ");
    let request = request.to_lowercase();
    assert!(
        request.contains("last-event-id: up-1\r\n") && request.contains("mcp-session-id: up-session\r\n"),
        "{request}"
    );
    let other = r#"{"jsonrpc":"2.0","id":"six","result":{"content":[]}}"#;
    say_all(
        server,
        &format!("{EVENTS}data: {other}\n\nid: up-2\ndata: {{\"jsonrpc\":\"2.0\",\"id\":\"five\",{TOOLS}}}\n\n"),
    );
    assert_eq!(caller.read_head().status, 200);
    let mut buffer = String::new();
    let answer: Value = serde_json::from_str(&caller.read_event(&mut buffer).expect("the answer").data).unwrap();
    assert_eq!(answer["id"], "five", "{answer}");
    assert_eq!(super::house::names(&answer), ["t"], "{answer}");
    assert_eq!(caller.read_event(&mut buffer), None);
}

#[test]
fn duty_66_an_event_id_is_good_for_its_own_identity_and_session_only() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let id = stage.broken_list(&session);
    let others = stage.session(&stage.ben, Some("up-session"));
    let second = stage.session(&stage.ana, Some("up-second"));
    for (what, session, id) in [
        ("another identity", &others, id.as_str()),
        ("another session", &second, id.as_str()),
        ("the server's own id", &session, "up-1"),
        ("the session's id", &session, session.id.as_str()),
    ] {
        let refused = stage.get(session, Some(id)).read();
        assert_eq!(refused.status, 400, "{what}: {refused:?}");
    }
    assert!(!stage.scripted.has_seen("GET "), "a refused resumption reached the server");
}

#[test]
fn duty_29_63_68_a_sessions_stream_carries_notifications_only() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let (mut caller, mut server) = stage.listen(&session);
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    for dropped in [
        r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":2,"method":"elicitation/create","params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":3,"method":"roots/list"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"u"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b"}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#.to_owned(),
        format!("{{\"jsonrpc\":\"2.0\",\"id\":0,{TOOLS}}}"),
    ] {
        say(&mut server, &format!("data: {dropped}\n\n"));
    }
    say(&mut server, &format!(": still here\r\n\r\nid: up-7\r\ndata: {changed}\r\n\r\n"));
    let mut buffer = String::new();
    let event = caller.read_event(&mut buffer).unwrap();
    assert_eq!(event.data, changed);
    assert!(event.id.is_some_and(|id| !id.contains("up-7")));
    // A server that is gone ends the stream.
    stage.gateway.remove("server.yaml");
    while caller.read_some().is_some() {}
}

/// Changes what a policy of these servers says on a refusal, and waits until that is enforced at the first one.
fn change(stage: &Stage, servers: &[&str], word: &str, token: &str) {
    let rules = format!(
        "  - {{name: a, effect: Allow, principals: [{{any: true}}], tools: [{{names: [x]}}]}}\n  \
           - {{name: d, effect: Deny, principals: [{{any: true}}], tools: [{{names: [x]}}], message: {word}}}\n"
    );
    stage.gateway.write("change.yaml", &policy("change", &servers.join(", "), &rules));
    until("the change", || {
        let params = json!({"name": "x", "arguments": {}});
        let told = http::post_2026(&stage.gateway.url(servers[0]), Some(token), "tools/call", &params).json();
        (told["result"]["content"][0]["text"] == word).then_some(())
    });
}

/// The data of what reaches the caller next, if the server primes the stream now: nothing if that is all.
fn next_behind(caller: &mut Connection, server: &mut TcpStream) -> String {
    say(server, "id: mark\ndata:\n\n");
    caller.read_event(&mut String::new()).unwrap().data
}

#[test]
fn duty_58_listeners_are_told_when_their_servers_grants_change() {
    let stage = Stage::set();
    stage.gateway.write("other.yaml", &server("other", stage.scripted.url()));
    let other = until("the other server", || {
        let url = stage.gateway.url("other");
        (http::post(&url, None, &[], b"{}").status == 401).then(|| stage.gateway.token("ana", "other"))
    });
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let promised = stage.session(&stage.ana, Some("up-session"));
    let silent = stage.session_with(&stage.ben, Some("up-silent"), &json!({"tools": {}}));
    let (mut told, mut server) = stage.listen(&promised);
    let (mut untold, mut silent_server) = stage.listen(&silent);
    // Another server's policy, twice: the second change is enforced after the first one has been made known.
    change(&stage, &["other"], "one", &other);
    change(&stage, &["other"], "two", &other);
    assert_eq!(next_behind(&mut told, &mut server), "");
    // A token that ends is the news of nobody else.
    let (_, id) = stage.gateway.issue("ana", "s", &[]);
    stage.gateway.revoke(&id);
    change(&stage, &["other"], "three", &other);
    assert_eq!(next_behind(&mut told, &mut server), "");
    // One that is this server's too.
    change(&stage, &["other", "s"], "four", &other);
    change(&stage, &["other", "s"], "five", &other);
    assert_eq!(next_behind(&mut told, &mut server), changed);
    // Whose server never promised to tell is not told.
    assert_eq!(next_behind(&mut untold, &mut silent_server), "");
}

#[test]
fn what_is_no_stream_is_told_from_one() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let sessionless = stage.session(&stage.ben, None);
    let empty = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    for (what, session, answer, status, code) in [
        ("none offered", &session, empty("405 No"), 405, -31009),
        ("none offered by a server without sessions", &sessionless, empty("404 No"), 405, -31009),
        ("the session is over", &session, empty("404 No"), 404, -31007),
        ("another refusal", &session, empty("400 No"), 400, -31002),
        ("JSON", &session, json_answer("", "{}"), 502, -31002),
        ("nothing", &session, empty("200 OK"), 502, -31002),
        ("html", &session, json_answer("", "<p/>").replace("application/json", "text/html"), 502, -31002),
        ("compressed", &session, EVENTS.replace("Connection", "Content-Encoding: gzip\r\nConnection"), 502, -31002),
        ("credentials wanted", &session, empty("401 No"), 502, -31003),
        ("a redirect", &session, empty("307 Elsewhere"), 502, -31003),
        ("failed", &session, empty("500 Oops"), 502, -31001),
        ("no HTTP", &session, "?".to_owned(), 502, -31001),
    ] {
        let mut caller = stage.get(session, None);
        let (server, _) = stage.scripted.take("GET ");
        say_all(server, &answer);
        let refused = caller.read();
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (status, &json!(code)), "{what}: {refused:?}");
    }
}

#[test]
fn duty_62_every_line_end_split_and_type_is_read() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let (mut caller, mut server) = stage.listen(&session);
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let mut buffer = String::new();
    for stream in [
        "\u{feff}event: message\rdata: {\"jsonrpc\":\"2.0\",\rdata: \"method\":\"notifications/tools/list_changed\"}\r\r",
        "event:\ndata:{\"jsonrpc\":\"2.0\",\ndata\ndata:\"method\":\"notifications/tools/list_changed\"}\nunknown: x\n\n",
        "id\r\nretry: x\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\r\n\r\n",
    ] {
        for piece in stream.as_bytes().chunks(3) {
            std::io::Write::write_all(&mut server, piece).unwrap();
        }
        let event = caller.read_event(&mut buffer).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), changed, "{stream:?}");
    }
}

#[test]
fn duty_65_a_cancellation_goes_where_only_its_sender_is() {
    let stage = Stage::set();
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let own = stage.session(&stage.ana, Some("up-session"));
    let (mut caller, server, request) = stage.exchange(&own, &cancel);
    assert!(request.to_lowercase().contains("mcp-session-id: up-session\r\n"), "{request}");
    say_all(server, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let told = caller.read();
    assert_eq!((told.status, told.body.len()), (202, 0));
    // A server without sessions could take the number for somebody else's request.
    let shared = stage.session(&stage.ben, None);
    let told = stage.send(&shared, &cancel).read();
    assert_eq!((told.status, told.body.len()), (202, 0));
    assert!(!stage.scripted.has_seen("notifications/cancelled"));
}

#[test]
fn duty_69_a_revoked_token_ends_the_calls_under_way_on_streams() {
    let stage = Stage::set();
    let (token, id) = stage.gateway.issue("ana", "s", &[]);
    let session = stage.session(&token, Some("up-session"));
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let (mut caller, mut server, _) = stage.exchange(&session, &call);
    say(&mut server, &format!("{EVENTS}: here\n\n"));
    assert_eq!(caller.read_head().status, 200);
    // Changes that let it stay are no reason to look away afterwards.
    change(&stage, &["s"], "one", &stage.ana);
    change(&stage, &["s"], "two", &stage.ana);
    stage.gateway.revoke(&id);
    let mut buffer = String::new();
    let told: Value = serde_json::from_str(&caller.read_event(&mut buffer).unwrap().data).unwrap();
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(1), &json!(-31002)), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("TokenRevoked"), "{told}");
    assert_eq!(caller.read_event(&mut buffer), None);
    // The server's end is closed as well.
    std::io::copy(&mut server, &mut std::io::sink()).unwrap();
}

#[test]
fn duty_69_a_token_that_expires_ends_its_streams() {
    let issuer = Issuer::start();
    let trust = TRUST
        .replace("{local: {}}", &format!("{{issuer: {:?}, validation: {{skew: 0s, maxLifetime: 1h}}}}", issuer.url()));
    let scripted = ByHand::start();
    let gateway = Gateway::start(&[
        ("trust.yaml", &trust),
        ("server.yaml", &server("s", scripted.url())),
        ("policy.yaml", &policy("p", "s", RULES)),
    ]);
    let token = |seconds: u64, gateway: &Gateway| {
        let (mut claims, key) = (issuer.claims("ana", &gateway.url("s")), issuer.key());
        claims["exp"] = (now() + seconds).into();
        key.sign(&key.header(), &claims)
    };
    let lasting = token(300, &gateway);
    let stage = Stage { scripted, gateway, ana: lasting, ben: String::new() };
    let session = stage.session(&stage.ana, Some("up-session"));
    // Another token of the same person.
    let ending = Session { id: session.id.clone(), token: token(15, &stage.gateway) };
    let (mut listener, mut behind) = stage.listen(&ending);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let (mut caller, mut server, _) = stage.exchange(&ending, &call);
    say(&mut server, &format!("{EVENTS}: here\n\n"));
    assert_eq!(caller.read_head().status, 200);
    let mut buffer = String::new();
    let told: Value = serde_json::from_str(&caller.read_event(&mut buffer).unwrap().data).unwrap();
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(1), &json!(-31002)), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("TokenExpired"), "{told}");
    while listener.read_some().is_some() {}
    for server in [&mut server, &mut behind] {
        std::io::copy(server, &mut std::io::sink()).unwrap();
    }
    assert_eq!(stage.get(&ending, None).read().status, 401);
    drop(stage.listen(&session));
}

#[test]
fn a_drain_ends_streams_that_only_listen() {
    let mut stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let (mut listener, _server) = stage.listen(&session);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let (mut caller, server, _) = stage.exchange(&session, &call);
    stage.gateway.process().signal("TERM");
    // While a call is under way, for which the drain waits: the end of its patience would have taken that one too.
    while listener.read_some().is_some() {}
    say_all(server, &json_answer("", &json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}).to_string()));
    let answer = caller.read();
    assert_eq!((answer.status, &answer.json()["result"]["content"]), (200, &json!([])), "{answer:?}");
    // A drain that ran out of time does not succeed.
    assert!(stage.gateway.process_mut().wait_exit().success(), "a listener is no call under way");
}
