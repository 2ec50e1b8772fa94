mod sdk;

use super::*;
use crate::egress::testing::{Body, Seen, Server, endless, full, json, open_egress, response, serve, stuck};
use crate::generated::server::{self, CredentialHeader, Credentials};
use crate::sensitive::Sensitive;
use http::{Method, Response};
use serde_json::Value;

fn upstream(server: &Server) -> Upstream {
    let key = CredentialHeader { name: "x-api-key".to_owned(), value: Sensitive::new("k1") };
    let config = server::Upstream {
        url: server.url("/mcp?tenant=1"),
        tls: server::UpstreamTls::default(),
        credentials: Credentials::Headers(vec![key]),
    };
    Upstream::new(&config, &open_egress()).unwrap()
}

async fn taken(server: &Server) -> Result<Inventory, &'static str> {
    let bounds = Bounds { pages: 3, tools: 10, bytes: 100_000, time: Duration::from_secs(20) };
    inventory(&upstream(server), &bounds).await.map_err(|e| e.reason())
}

fn names(inventory: &Inventory) -> Vec<String> {
    let name = |tool: &RawValue| serde_json::from_str::<Value>(tool.get()).unwrap()["name"].as_str().unwrap().into();
    inventory.tools.iter().map(|tool| name(tool)).collect()
}

fn message(asked: &Seen) -> Value {
    serde_json::from_slice(&asked.body).unwrap_or_default()
}

fn result(asked: &Seen, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": message(asked)["id"], "result": result})
}

fn plain(asked: &Seen, value: Value) -> Response<Body> {
    json(result(asked, value).to_string())
}

/// The response behind a notification, on a stream that the server leaves open.
fn streamed(asked: &Seen, value: Value) -> Response<Body> {
    let text = format!(
        ": hello\nid: 1\ndata:\n\ndata: {}\n\nevent: message\ndata: {}\n\n",
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}),
        result(asked, value),
    );
    response(200, "text/event-stream", stuck(text.leak()))
}

fn new_server(asked: &Seen) -> Response<Body> {
    assert_eq!(asked.headers["mcp-protocol-version"], "2026-07-28");
    assert_eq!(asked.headers["mcp-method"], message(asked)["method"].as_str().unwrap());
    assert_eq!(message(asked)["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    match message(asked)["method"].as_str().unwrap() {
        "server/discover" => plain(
            asked,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                   "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "n", "version": "1"}}}),
        ),
        _ => match message(asked)["params"]["cursor"].as_str() {
            None => streamed(asked, json!({"tools": [{"name": "a", "inputSchema": {}}], "nextCursor": ""})),
            Some(cursor) => {
                assert_eq!(cursor, "");
                plain(asked, json!({"tools": [{"name": "b"}], "resultType": "complete"}))
            }
        },
    }
}

fn old_server(asked: &Seen) -> Response<Body> {
    let method = message(asked)["method"].as_str().unwrap_or_default().to_owned();
    if asked.method == Method::DELETE {
        return response(204, "text/plain", full(""));
    }
    assert!(!asked.headers.contains_key("mcp-method") || method == "server/discover");
    match method.as_str() {
        "initialize" => {
            assert!(!asked.headers.contains_key("mcp-protocol-version"));
            let info = json!({"name": "o", "version": "2"});
            let mut response = streamed(
                asked,
                json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}),
            );
            response.headers_mut().insert("mcp-session-id", "s-1".parse().unwrap());
            response
        }
        "notifications/initialized" => response(202, "text/plain", full("")),
        "tools/list" => {
            assert_eq!(asked.headers["mcp-session-id"], "s-1");
            assert_eq!(asked.headers["mcp-protocol-version"], "2025-06-18");
            assert!(message(asked)["params"].get("_meta").is_none());
            plain(asked, json!({"tools": [{"name": "x"}]}))
        }
        _ => response(400, "text/plain", full("Bad Request: no valid session")),
    }
}

#[tokio::test]
async fn a_modern_server_is_asked_page_by_page() {
    let server = serve(new_server).await;
    let inventory = taken(&server).await.unwrap();
    assert_eq!(names(&inventory), ["a", "b"]);
    assert_eq!((inventory.revision, inventory.server_name.as_deref()), ("2026-07-28", Some("n")));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|asked| asked.headers["x-api-key"] == "k1" && asked.path == "/mcp"));
}

#[tokio::test]
async fn an_old_server_gets_its_handshake_and_its_session_is_ended() {
    let server = serve(old_server).await;
    let inventory = taken(&server).await.unwrap();
    assert_eq!(names(&inventory), ["x"]);
    assert_eq!((inventory.revision, inventory.server_version.as_deref()), ("2025-06-18", Some("2")));
    let seen = server.seen();
    let last = seen.last().unwrap();
    assert_eq!((&last.method, &last.headers["mcp-session-id"]), (&Method::DELETE, &"s-1".parse().unwrap()));
}

#[tokio::test]
async fn a_session_is_ended_although_the_list_failed() {
    let server = serve(|asked| match message(asked)["method"].as_str() {
        Some("tools/list") => json(
            json!({"jsonrpc": "2.0", "id": message(asked)["id"], "error": {"code": -32603, "message": "x\u{1b}y"}})
                .to_string(),
        ),
        _ => old_server(asked),
    })
    .await;
    assert_eq!(taken(&server).await.unwrap_err(), "UpstreamRefused");
    assert_eq!(server.seen().last().unwrap().method, Method::DELETE);
}

#[tokio::test]
async fn refusals_of_credentials_are_not_taken_for_an_old_server() {
    for (status, reason) in [(401, "UpstreamCredentialsRefused"), (302, "UpstreamRedirected")] {
        let server = serve(move |_| response(status, "text/plain", full(""))).await;
        assert_eq!(taken(&server).await.unwrap_err(), reason);
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_is_no_mcp_server_is_said_to_be_none() {
    for (status, kind, text, reason) in [
        (404, "text/html", "<html>", "NotMcp"),
        (200, "text/html", "<html>", "UpstreamContentType"),
        (200, "application/json", "{}", "UpstreamMalformed"),
        (200, "application/json", r#"{"jsonrpc":"2.0","id":99,"result":{}}"#, "UpstreamMalformed"),
        (200, "text/event-stream", ": nothing\n\n", "UpstreamMalformed"),
        (200, "application/json", r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"?"}}"#, "NotMcp"),
    ] {
        let server = serve(move |_| response(status, kind, full(text))).await;
        assert_eq!(taken(&server).await.unwrap_err(), reason, "{text}");
    }
}

#[tokio::test]
async fn endless_answers_are_cut() {
    let forever = |asked: &Seen| match message(asked)["method"].as_str() {
        Some("tools/list") => plain(asked, json!({"tools": [], "nextCursor": "again"})),
        _ => new_server(asked),
    };
    assert_eq!(taken(&serve(forever).await).await.unwrap_err(), "UpstreamTooManyTools");
    let many = |asked: &Seen| match message(asked)["method"].as_str() {
        Some("tools/list") => plain(asked, json!({"tools": vec![json!({}); 11]})),
        _ => new_server(asked),
    };
    assert_eq!(taken(&serve(many).await).await.unwrap_err(), "UpstreamTooManyTools");
    for kind in ["application/json", "text/event-stream"] {
        let server = serve(move |_| response(200, kind, endless("data: [\n"))).await;
        assert_eq!(taken(&server).await.unwrap_err(), "UpstreamTooLarge");
    }
    let server = serve(|_| response(200, "text/event-stream", stuck(": wait\n\n"))).await;
    let bounds = Bounds { time: Duration::from_millis(100), ..Bounds::default() };
    assert_eq!(inventory(&upstream(&server), &bounds).await.unwrap_err().reason(), "UpstreamTimeout");
}

#[tokio::test]
async fn a_server_without_tools_is_not_asked_for_them() {
    let server =
        serve(|asked| plain(asked, json!({"supportedVersions": ["2026-07-28"], "capabilities": {"prompts": {}}})))
            .await;
    assert!(taken(&server).await.unwrap().tools.is_empty());
    assert_eq!(server.seen().len(), 1);
}
