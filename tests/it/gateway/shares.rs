//! How much one identity may hold at once (mcp-obligations 71), and that it comes back.

use std::net::TcpStream;

use portcullis::proxy::config::Limits;
use serde_json::json;

use crate::support::by_hand::{ByHand, EVENTS, json_answer, say, say_all};
use crate::support::gateway::{TRUST, policy, server};
use crate::support::http::{self, Connection, Response};
use crate::support::inside::Inside;
use crate::support::wait::until;

const MOST: u32 = 3;

struct Stage {
    scripted: ByHand,
    gateway: Inside,
}

impl Stage {
    fn set() -> Self {
        let scripted = ByHand::start();
        let rules = "  - {name: a, effect: Allow, principals: [{any: true}], tools: [{names: [t]}]}\n";
        let files = [
            ("trust.yaml", TRUST),
            ("server.yaml", &server("s", scripted.url())),
            ("p.yaml", &policy("p", "s", rules)),
        ];
        let limits = Limits { calls_per_identity: MOST, listeners_per_identity: MOST, ..Limits::default() };
        Self { gateway: Inside::start(&files, limits), scripted }
    }

    fn send(&self, token: &str, headers: &[(&str, &str)], body: &str) -> Connection {
        let mut caller = Connection::open(&self.gateway.address());
        caller.write(&http::mcp_request(&self.gateway.url("s"), Some(token), headers, body.as_bytes()));
        caller
    }

    /// Sends a call of the 2026 line.
    fn call(&self, token: &str) -> Connection {
        let params = json!({"name": "t", "arguments": {}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "t")];
        self.send(token, &headers, &body)
    }

    /// A call that is made, and the server's end of it.
    fn made(&self, token: &str) -> (Connection, TcpStream) {
        let caller = self.call(token);
        (caller, self.scripted.take("tools/call").0)
    }

    /// A call that is made as soon as there is a place for it.
    fn made_at_last(&self, token: &str) -> (Connection, TcpStream) {
        until("a place", || {
            let mut caller = self.call(token);
            let server = until("an answer either way", || match self.scripted.try_take("tools/call") {
                Some(server) => Some(Some(server)),
                None => caller.has_bytes().then_some(None),
            });
            server.map(|server| (caller, server))
        })
    }

    /// Opens a session and gives its id.
    fn session(&self, token: &str) -> String {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "sharing", "version": "1"}});
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let mut caller = self.send(token, &[], &hello);
        let result =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}});
        let answer = json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string();
        say_all(self.scripted.take("sharing").0, &json_answer("Mcp-Session-Id: up\r\n", &answer));
        caller.read().header("mcp-session-id").unwrap().to_owned()
    }

    fn get(&self, token: &str, session: &str) -> Connection {
        let bearer = format!("Bearer {token}");
        let headers =
            [("Authorization", bearer.as_str()), ("Mcp-Session-Id", session), ("Accept", "text/event-stream")];
        let mut caller = Connection::open(&self.gateway.address());
        caller.write(&http::request("GET", &self.gateway.url("s"), &headers, b""));
        caller
    }

    /// Asks until what is asked for reaches the server, since a place is given back a moment after its holder has gone.
    fn until_through(&self, what: &str, needle: &str, ask: impl Fn() -> Connection) {
        until(what, || {
            let mut caller = ask();
            until("an answer either way", || {
                if self.scripted.has_seen(needle) { Some(Some(())) } else { caller.has_bytes().then_some(None) }
            })
        });
    }
}

fn assert_refused(refused: &Response) {
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!(-31006)), "{refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
}

#[test]
fn duty_71_calls_under_way_are_limited_however_they_will_be_answered() {
    let stage = Stage::set();
    let [ana, again, ben] = ["ana", "ana", "ben"].map(|person| stage.gateway.token(person, "s"));
    // One is a stream already, of one nothing is known yet, and of one not even the body has come.
    let (mut streaming, mut streaming_server) = stage.made(&ana);
    say(&mut streaming_server, EVENTS);
    assert_eq!(streaming.read_head().status, 200);
    let (silent, silent_server) = stage.made(&again);
    let mut unsent = Connection::open(&stage.gateway.address());
    let whole = http::mcp_request(&stage.gateway.url("s"), Some(&ana), &[("Expect", "100-continue")], b"{}");
    unsent.write(&whole[..whole.len() - 2]);
    // The gateway asks for the body once the call has its place.
    until("the body to be asked for", || unsent.has_bytes().then_some(()));

    for token in [&ana, &again] {
        assert_refused(&stage.call(token).read());
    }
    assert!(!stage.scripted.has_seen("tools/call"), "a refused call was made");
    // Everybody else has a share of their own.
    drop(stage.made(&ben));
    // The places come back: of one that was answered, of one whose caller left, of one that never became a call.
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"resultType":"complete"}}"#;
    say(&mut streaming_server, &format!("data: {answer}\n\n"));
    drop(streaming_server);
    while streaming.read_some().is_some() {}
    stage.until_through("the place of an answered call", "tools/call", || stage.call(&ana));
    drop(silent);
    drop(silent_server);
    stage.until_through("the place of an abandoned call", "tools/call", || stage.call(&ana));
    drop(unsent);
    let calls: Vec<_> = (1..MOST).map(|_| stage.made_at_last(&ana)).collect();
    stage.until_through("the last place", "tools/call", || stage.call(&again));
    drop(calls);
}

#[test]
fn duty_71_listeners_are_limited_besides_calls() {
    let stage = Stage::set();
    let [ana, ben] = ["ana", "ben"].map(|person| stage.gateway.token(person, "s"));
    let (of_ana, of_ben) = (stage.session(&ana), stage.session(&ben));
    let listen = |token: &str, session: &str| {
        let mut caller = stage.get(token, session);
        let mut server = stage.scripted.take("GET ").0;
        say(&mut server, EVENTS);
        assert_eq!(caller.read_head().status, 200);
        (caller, server)
    };
    let mut open: Vec<_> = (0..MOST).map(|_| listen(&ana, &of_ana)).collect();
    assert_refused(&stage.get(&ana, &of_ana).read());
    assert!(!stage.scripted.has_seen("GET "), "a refused stream was opened");
    drop(listen(&ben, &of_ben));
    drop(stage.made(&ana));
    open.pop();
    stage.until_through("the place of a listener that left", "GET ", || stage.get(&ana, &of_ana));
}
