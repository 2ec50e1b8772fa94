//! The small MCP server that `quickstart` governs when no upstream is named, and `demo` runs by itself: notes in memory, no
//! authentication.
//!
//! It speaks revision 2026-07-28 without sessions, and the revisions with a handshake from 2024-11-05 on, and answers in
//! plain JSON only. Since it trusts whoever reaches it, it belongs on loopback or behind a NetworkPolicy; it refuses
//! requests that carry an `Origin`, so that no web page can reach it through a browser.

mod notes;

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use notes::Notes;

/// The path of the endpoint.
pub const PATH: &str = "/mcp";

const MODERN: &str = "2026-07-28";
const HANDSHAKE: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const LARGEST_BODY: usize = 1024 * 1024;
const INSTRUCTIONS: &str = "Notes kept in memory: list, read, create and delete them.";

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const PARSE_ERROR: i64 = -32700;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

/// What a list of its tools answers, definition by definition.
pub fn tools() -> Vec<Box<RawValue>> {
    let definitions = notes::definitions();
    definitions.as_array().into_iter().flatten().filter_map(|tool| to_raw_value(tool).ok()).collect()
}

/// Serves until `shutdown`, then lets the requests in flight finish. Returns an error only when accepting fails for good.
pub async fn serve(listener: TcpListener, shutdown: CancellationToken) -> std::io::Result<()> {
    let notes = Arc::new(Notes::with_examples());
    let connections = GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_transient(&error) => continue,
                Err(error) => return Err(error),
            },
        };
        let notes = notes.clone();
        let service = hyper::service::service_fn(move |request| respond(notes.clone(), request));
        let builder = Builder::new(TokioExecutor::new());
        let connection = connections.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // A connection's error concerns its client alone, and is visible there.
        tokio::spawn(async move { connection.await.ok() });
    }
    connections.shutdown().await;
    Ok(())
}

/// A connection that its client gave up before it was accepted (accept(2)).
fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset)
}

/// What one request is answered with: a status and a JSON body, if any.
struct Answer {
    status: StatusCode,
    body: Option<Value>,
}

impl Answer {
    fn bare(status: StatusCode) -> Self {
        Self { status, body: None }
    }

    fn result(id: &Value, result: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(json!({"jsonrpc": "2.0", "id": id, "result": result})) }
    }

    fn error(status: StatusCode, id: &Value, error: RpcError) -> Self {
        let mut object = json!({"code": error.code, "message": error.message});
        if let Some(data) = error.data {
            object["data"] = data;
        }
        Self { status, body: Some(json!({"jsonrpc": "2.0", "id": id, "error": object})) }
    }
}

struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

async fn respond(notes: Arc<Notes>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = answer(&notes, request).await;
    let body = answer.body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let has_body = !body.is_empty();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = answer.status;
    if has_body {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    Ok(response)
}

async fn answer(notes: &Notes, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    if head.uri.path() != PATH {
        return Answer::bare(StatusCode::NOT_FOUND);
    }
    if head.headers.contains_key(ORIGIN) {
        return Answer::bare(StatusCode::FORBIDDEN);
    }
    if head.method != Method::POST {
        return Answer::bare(StatusCode::METHOD_NOT_ALLOWED);
    }
    let content_type = header(&head.headers, "content-type").unwrap_or_default();
    if !content_type.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/json")) {
        return Answer::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let Some(body) = read(body).await else { return Answer::bare(StatusCode::PAYLOAD_TOO_LARGE) };
    match serde_json::from_slice(&body) {
        Ok(Value::Object(message)) => dispatch(notes, &head.headers, &Value::Object(message)),
        Ok(_) => refuse(&Value::Null, RpcError::new(INVALID_REQUEST, "a message is one JSON object")),
        Err(error) => refuse(&Value::Null, RpcError::new(PARSE_ERROR, format!("not JSON: {error}"))),
    }
}

/// The body, unless it is too large or breaks off.
async fn read(mut body: Incoming) -> Option<BytesMut> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if bytes.len() + data.len() > LARGEST_BODY {
                return None;
            }
            bytes.extend_from_slice(&data);
        }
    }
    Some(bytes)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn refuse(id: &Value, error: RpcError) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, id, error)
}

fn dispatch(notes: &Notes, headers: &HeaderMap, message: &Value) -> Answer {
    let (Some(method), Some(id)) = (message["method"].as_str(), message.get("id")) else {
        // A notification, or an answer to a question that this server never asks.
        return Answer::bare(StatusCode::ACCEPTED);
    };
    if !(id.is_string() || id.is_i64() || id.is_u64()) {
        return refuse(&Value::Null, RpcError::new(INVALID_REQUEST, "id must be a string or an integer"));
    }
    let params = &message["params"];
    match params["_meta"].get("io.modelcontextprotocol/protocolVersion") {
        Some(version) => match check_modern(headers, method, params, version) {
            Ok(()) => answer_modern(notes, id, method, params),
            Err(error) => refuse(id, error),
        },
        None => match header(headers, "mcp-protocol-version") {
            Some(version) if !HANDSHAKE.contains(&version) => refuse(id, unsupported(version)),
            _ => answer_handshake(notes, id, method, params),
        },
    }
}

fn unsupported(requested: &str) -> RpcError {
    let mut error = RpcError::new(UNSUPPORTED_VERSION, "Unsupported protocol version");
    error.data = Some(json!({"supported": [MODERN], "requested": requested}));
    error
}

/// The duties of a 2026-07-28 request: required `_meta`, a version that is spoken here, and headers that mirror the body.
fn check_modern(headers: &HeaderMap, method: &str, params: &Value, version: &Value) -> Result<(), RpcError> {
    let version = version.as_str().ok_or_else(|| RpcError::new(INVALID_PARAMS, "protocolVersion must be a string"))?;
    if !params["_meta"]["io.modelcontextprotocol/clientCapabilities"].is_object() {
        return Err(RpcError::new(INVALID_PARAMS, "_meta lacks io.modelcontextprotocol/clientCapabilities"));
    }
    let name = params["name"].as_str().filter(|_| method == "tools/call");
    for (mirror, expected) in
        [("mcp-protocol-version", Some(version)), ("mcp-method", Some(method)), ("mcp-name", name)]
    {
        let found = header(headers, mirror).map(decode);
        if expected.is_some() && found.as_deref() != expected {
            return Err(RpcError::new(HEADER_MISMATCH, format!("header {mirror} does not mirror the body")));
        }
    }
    if version != MODERN {
        return Err(unsupported(version));
    }
    Ok(())
}

/// A mirrored value as it was before it was encoded for the header (`=?base64?..?=`).
fn decode(value: &str) -> String {
    let encoded = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    let decoded = encoded.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| value.to_owned())
}

fn answer_modern(notes: &Notes, id: &Value, method: &str, params: &Value) -> Answer {
    let mut result = match method {
        "server/discover" => {
            json!({"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "instructions": INSTRUCTIONS})
        }
        "tools/list" => json!({"tools": notes::definitions()}),
        "tools/call" => match notes.call(params) {
            Ok(result) => result,
            Err(message) => return refuse(id, RpcError::new(INVALID_PARAMS, message)),
        },
        _ => return Answer::error(StatusCode::NOT_FOUND, id, unknown(method)),
    };
    result["resultType"] = "complete".into();
    result["_meta"] = json!({"io.modelcontextprotocol/serverInfo": about()});
    if method != "tools/call" {
        result["ttlMs"] = 60_000.into();
        result["cacheScope"] = "public".into();
    }
    Answer::result(id, result)
}

fn answer_handshake(notes: &Notes, id: &Value, method: &str, params: &Value) -> Answer {
    let outcome = match method {
        "initialize" => {
            let asked = params["protocolVersion"].as_str().unwrap_or_default();
            let version = HANDSHAKE.iter().find(|v| **v == asked).unwrap_or(&HANDSHAKE[0]);
            Ok(json!({
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": about(),
                "instructions": INSTRUCTIONS,
            }))
        }
        "ping" => Ok(json!({})),
        "tools/list" => Ok(json!({"tools": notes::definitions()})),
        "tools/call" => notes.call(params).map_err(|message| RpcError::new(INVALID_PARAMS, message)),
        _ => Err(unknown(method)),
    };
    match outcome {
        Ok(result) => Answer::result(id, result),
        Err(error) => Answer::error(StatusCode::OK, id, error),
    }
}

fn unknown(method: &str) -> RpcError {
    RpcError::new(METHOD_NOT_FOUND, format!("Method not found: {method}"))
}

fn about() -> Value {
    json!({"name": "portcullis-demo", "title": "Portcullis demo notes", "version": env!("CARGO_PKG_VERSION")})
}
