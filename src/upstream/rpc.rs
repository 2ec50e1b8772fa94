//! One JSON-RPC exchange with an upstream, as its client.
//!
//! Invariant: an answer is the response with the request's id, whether it came as JSON or in an event stream, and all
//! that was read for it fits the budget.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::discover::NEW;
use super::{Answer, DiscoverError, Upstream, UpstreamError, whole};
use crate::mcp::mirror::{METHOD, NAME, PROTOCOL_VERSION};
use crate::mcp::sse::{Item, Parser, StreamFault};

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// A client's side of a conversation with one upstream.
pub(super) struct Conversation<'a> {
    upstream: &'a Upstream,
    /// Bytes of answers that may still be read.
    budget: usize,
    /// For one answer.
    patience: Duration,
    next_id: u64,
    /// The revision of every further request's header; none before `initialize` was answered.
    pub(super) revision: Option<&'static str>,
    pub(super) session: Option<HeaderValue>,
}

/// What came back.
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    pub(super) headers: HeaderMap,
}

pub(super) enum Outcome {
    Result(Box<RawValue>),
    Error(RpcError),
    /// No JSON-RPC response, only a status.
    Bare(StatusCode),
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct RpcError {
    pub(super) code: i64,
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Deserialize)]
struct Message {
    id: Option<serde_json::Value>,
    method: Option<serde_json::Value>,
    result: Option<Box<RawValue>>,
    error: Option<RpcError>,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(upstream: &'a Upstream, budget: usize, patience: Duration) -> Self {
        Self { upstream, budget, patience, next_id: 1, revision: None, session: None }
    }

    /// Sends a request and waits for its response.
    pub(super) async fn call(
        &mut self,
        method: &'static str,
        params: serde_json::Value,
    ) -> Result<Reply, DiscoverError> {
        let id = self.next_id;
        self.next_id += 1;
        let body = serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let response = self.send(Method::POST, Some((method, body))).await?;
        let (parts, body) = response.into_parts();
        let outcome = match Answer::judge(parts.status, &parts.headers)? {
            Answer::Bare => Outcome::Bare(parts.status),
            Answer::Json => match self.json(body).await? {
                // An error without id answers a request whose id the server did not get to see.
                message if message.is_response_to(id) || message.error.is_some() => message.outcome()?,
                _ => return Err(DiscoverError::Malformed { what: "carries another request's id" }),
            },
            Answer::Events => self.event(body, id).await?,
        };
        Ok(Reply { outcome, headers: parts.headers })
    }

    /// Sends a notification; what the server thinks of it is its own affair.
    pub(super) async fn notify(&mut self, method: &'static str) -> Result<(), DiscoverError> {
        let body = serde_json::json!({"jsonrpc": "2.0", "method": method});
        self.send(Method::POST, Some((method, body))).await?;
        Ok(())
    }

    /// Ends the session, if there is one. Servers may refuse (405), and then it ages.
    pub(super) async fn close(mut self) {
        if self.session.is_some()
            && let Err(error) = self.send(Method::DELETE, None).await
        {
            tracing::debug!(%error, "an upstream session could not be ended");
        }
    }

    async fn send(
        &mut self,
        http_method: Method,
        message: Option<(&'static str, serde_json::Value)>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        let mut headers = HeaderMap::new();
        let mut body = Bytes::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if let Some(revision) = self.revision {
            headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(revision));
        }
        if let Some((method, json)) = message {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if self.revision == Some(NEW) {
                headers.insert(METHOD, HeaderValue::from_static(method));
                if let Some(name) = json["params"]["name"].as_str() {
                    headers.insert(NAME, mirrored(name));
                }
            }
            body = json.to_string().into();
        }
        let request = |body| {
            let mut request = self.upstream.request(http_method.clone(), &headers, body);
            if let Some(session) = &self.session {
                request.headers_mut().insert(SESSION, session.clone());
            }
            request
        };
        self.upstream.call(None, body, request).await
    }

    async fn json(&mut self, body: Incoming) -> Result<Message, DiscoverError> {
        let bytes = whole(body, self.budget, self.patience).await?;
        self.budget -= bytes.len();
        serde_json::from_slice(&bytes).map_err(|_| DiscoverError::Malformed { what: "is not one JSON-RPC message" })
    }

    /// The response to `id` among the events; notifications and the server's own requests are passed over.
    async fn event(&mut self, mut body: Incoming, id: u64) -> Result<Outcome, DiscoverError> {
        let mut parser = Parser::new(self.budget);
        let mut items = Vec::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            parser.feed(&chunk, &mut items).map_err(|fault| match fault {
                StreamFault::TooLarge => DiscoverError::TooLarge,
                StreamFault::NotUtf8 => DiscoverError::Malformed { what: "has an event that is not UTF-8" },
            })?;
            for data in items.drain(..).filter_map(message) {
                let message: Message = serde_json::from_slice(&data)
                    .map_err(|_| DiscoverError::Malformed { what: "has an event that is not one JSON-RPC message" })?;
                if message.is_response_to(id) {
                    return message.outcome();
                }
            }
        }
        Err(DiscoverError::Malformed { what: "ends its event stream without a response" })
    }

    async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, DiscoverError> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| UpstreamError::Http { detail: e.to_string() })?;
            if let Ok(data) = frame.into_data() {
                self.budget = self.budget.checked_sub(data.len()).ok_or(DiscoverError::TooLarge)?;
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// What a client reads as a message: data, not empty (2025-11-25 primes streams with empty events), of no other type.
fn message(item: Item) -> Option<Vec<u8>> {
    match item {
        Item::Event(event) if event.is_message() => event.data.filter(|data| !data.is_empty()),
        Item::Event(_) | Item::Comment(_) => None,
    }
}

/// A name as `Mcp-Name` carries it: what a header cannot hold is in Base64 (2026-07-28, "Custom Headers").
fn mirrored(name: &str) -> HeaderValue {
    let plain = name.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) && !name.starts_with("=?");
    let value = if plain { name.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(name)) };
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Message {
    fn is_response_to(&self, id: u64) -> bool {
        self.method.is_none() && self.id.as_ref().and_then(serde_json::Value::as_u64) == Some(id)
    }

    fn outcome(self) -> Result<Outcome, DiscoverError> {
        match (self.result, self.error) {
            (Some(result), None) => Ok(Outcome::Result(result)),
            (None, Some(error)) => Ok(Outcome::Error(error)),
            _ => Err(DiscoverError::Malformed { what: "has not exactly one of result and error" }),
        }
    }
}
