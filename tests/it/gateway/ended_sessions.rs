//! Sessions that their owner ended are over, whatever the server behind them does about it.

use portcullis::audit::query::{Filter, query};
use serde_json::json;

use super::listening::{Session, Stage};
use crate::support::by_hand::{json_answer, say_all};
use crate::support::http::{self, Connection, Response};
use crate::support::wait::until;

fn delete(stage: &Stage, session: &Session) -> Connection {
    let bearer = format!("Bearer {}", session.token);
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Mcp-Session-Id", session.id.as_str()),
        ("MCP-Protocol-Version", "2025-11-25"),
    ];
    let mut caller = Connection::open(&stage.gateway.address().to_string());
    caller.write(&http::request("DELETE", &stage.gateway.url("s"), &headers, b""));
    caller
}

fn ping(stage: &Stage, session: &Session) -> Connection {
    stage.send(session, &json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
}

/// Nothing of an ended session is taken, and nothing of it reaches the server.
fn assert_over(stage: &Stage, session: &Session) {
    for answer in [ping(stage, session).read(), stage.get(session, None).read(), delete(stage, session).read()] {
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(-31007)), "{answer:?}");
    }
    assert!(!stage.scripted.was_asked(), "the server was asked");
}

fn pong(stage: &Stage, session: &Session) -> Response {
    let mut caller = ping(stage, session);
    let (server, _) = stage.scripted.take("ping");
    say_all(server, &json_answer("", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
    caller.read()
}

#[test]
fn duty_74_an_ended_session_is_over_where_the_server_has_none() {
    let stage = Stage::set();
    let (ended, other) = (stage.session(&stage.ana, None), stage.session(&stage.ana, None));
    assert_eq!(pong(&stage, &ended).status, 200);
    assert_eq!(delete(&stage, &ended).read().status, 204);
    assert_over(&stage, &ended);
    assert_eq!(pong(&stage, &other).status, 200, "her other session goes on");
    let filter = Filter { principal: Some("ana".to_owned()), outcome: Some("result".to_owned()), ..Filter::default() };
    let ended = until("the end to be on record", || {
        let calls = query(&stage.gateway.journal(), &filter, 100).unwrap().calls;
        calls.into_iter().find(|call| call.entry.fields.method.as_deref() == Some("DELETE"))
    });
    assert_eq!(ended.entry.fields.decision.as_deref(), Some("allow"));
}

#[test]
fn duty_74_an_ended_session_is_over_where_the_server_does_not_end_its_own() {
    let stage = Stage::set();
    for (answer, told) in [
        ("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 204),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 404),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 204),
    ] {
        let session = stage.session(&stage.ana, Some("up-session"));
        // The server keeps this stream open all the while.
        let (mut listener, _open) = stage.listen(&session);
        let mut caller = delete(&stage, &session);
        let (server, request) = stage.scripted.take("DELETE ");
        assert!(request.contains("up-session"), "{request}");
        say_all(server, answer);
        assert_eq!(caller.read().status, told, "{answer}");
        assert_eq!(listener.read_event(&mut String::new()), None, "its stream ends with it");
        assert_over(&stage, &session);
    }
    // A server that could not be asked may still hold the session: it is not said to be over.
    let session = stage.session(&stage.ana, Some("up-session"));
    let mut caller = delete(&stage, &session);
    say_all(stage.scripted.take("DELETE ").0, "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(caller.read().status, 502);
    assert_eq!(pong(&stage, &session).status, 200);
}
