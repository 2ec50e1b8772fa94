//! Answers that the gateway gives itself.
//!
//! Invariant: nothing that depends on the caller may be stored by a cache (mcp-obligations 54).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, Method, Response, StatusCode};

use super::body::Body;
use crate::generated::client::MAX_AGE_SECONDS;
use crate::identity::challenge::Refusal;
use crate::mcp::answer::{Answer, Own};

/// `application/json`.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// `no-store`.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A JSON-RPC answer, or an empty one.
pub(super) fn answer(answer: Answer) -> Response<Body> {
    json(answer.status, answer.body)
}

/// A JSON body (none if empty) that no cache keeps.
pub(super) fn json(status: StatusCode, body: Bytes) -> Response<Body> {
    let empty = body.is_empty();
    let mut response = Response::new(if empty { Body::empty() } else { Body::full(body) });
    *response.status_mut() = status;
    if !empty {
        response.headers_mut().insert(CONTENT_TYPE, JSON);
    }
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// A bare status, for what is not MCP at all.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    json(status, Bytes::new())
}

/// A refusal for want of a proper token, or of scopes.
pub(super) fn challenge(refusal: Refusal, id: Option<&[u8]>, message: &str) -> Response<Body> {
    let body = crate::mcp::answer::error(id, Own::BadRequest.code(), message, None);
    let mut response = json(refusal.status, body);
    response.headers_mut().insert(WWW_AUTHENTICATE, refusal.challenge);
    response
}

/// A request that is refused before any decision about it.
pub(super) struct Refused {
    /// A stable word, for the record.
    pub(super) reason: &'static str,
    /// What the caller is told.
    pub(super) response: Box<Response<Body>>,
}

impl Refused {
    /// With an answer of the protocol.
    pub(super) fn new(reason: &'static str, answered: Answer) -> Self {
        Self::with(reason, answer(answered))
    }

    /// With any response.
    pub(super) fn with(reason: &'static str, response: Response<Body>) -> Self {
        Self { reason, response: Box::new(response) }
    }
}

/// 405 with the methods that are offered.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response =
        answer(Own::MethodNotAllowed.answer(None, &format!("this takes {allowed}, and no other method")));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A refusal that will pass by itself.
pub(super) fn retry(mut response: Response<Body>, seconds: u32) -> Response<Body> {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The caller has as many of these as it may.
pub(super) fn too_many(what: &str) -> Response<Body> {
    let message = format!("you have too many {what}: end some, or try again when one has ended");
    retry(answer(Own::TooMany.answer(None, &message)), 1)
}

/// A public document: readable by every page (mcp-obligations 10), and cached shortly.
pub(super) fn document(body: Bytes) -> Response<Body> {
    let mut response = json(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// The document of a client, or its keys: kept as long as the rotation of keys reckons with, and no longer.
pub(super) fn client_document(body: Bytes) -> Response<Body> {
    let mut response = json(StatusCode::OK, body);
    let cache = format!("public, max-age={MAX_AGE_SECONDS}");
    // Digits are always a header's value.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::try_from(cache).unwrap_or(NO_STORE));
    response
}

/// The answer to a browser's preflight (Fetch standard, "CORS-preflight fetch") from an origin that is listed, or, for
/// public documents, from any.
pub(super) fn preflight(origin: HeaderValue, methods: &'static str) -> Response<Body> {
    let mut response = status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    response
}

/// Lets a page of a listed origin read the answer.
pub(super) fn readable_by(response: &mut Response<Body>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("mcp-session-id, retry-after, www-authenticate"),
    );
    headers.insert(VARY, HeaderValue::from_static("Origin"));
}

/// What MCP clients in browsers send: these, and headers that a tool's own parameters name. The star stands for any but
/// `authorization` (Fetch standard, "CORS-unsafe request-header names").
const REQUEST_HEADERS: &str = "authorization, content-type, accept, last-event-id, mcp-session-id, \
                               mcp-protocol-version, mcp-method, mcp-name, *";

/// Whether the method reads a public document.
pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}
