//! One small request on a connection of its own, and its bounded answer: what fetching a document and exchanging a message
//! have in common.
//!
//! Invariant: no redirect is followed, no request is sent twice, no answer is read without a limit, and no failure repeats
//! what the peer said or what it was sent.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, Uri, request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Connector, EgressError};

/// What bounds one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body of an answer, in bytes.
    pub max_bytes: usize,
    /// From look-up to last byte.
    pub timeout: Duration,
}

/// Why there is no answer.
pub(super) enum Failure {
    Egress(EgressError),
    /// The peer spoke no proper HTTP, or hung up.
    Http(String),
    Redirect(u16),
    TooLarge,
    Timeout,
}

/// Where a request goes.
pub(super) struct Target {
    uri: Uri,
    /// The URL for messages: neither query nor user information, which may hold secrets.
    pub(super) shown: String,
}

impl Target {
    /// `url` normalizes what `http` would pass on as written: odd forms of addresses, case, dot segments.
    pub(super) fn of(url: &str) -> Result<Self, EgressError> {
        let url = url::Url::parse(url).map_err(|_| EgressError::Url)?;
        let uri = url.as_str().parse().map_err(|_| EgressError::Url)?;
        let shown = format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
        Ok(Self { uri, shown })
    }
}

/// A request that says little of us.
pub(super) fn request(method: Method, target: &Target) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(target.uri.clone())
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
}

/// Sends requests, one connection each.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    client: Client<Connector, Full<Bytes>>,
}

impl Sender {
    pub(super) fn new(connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .http1_max_headers(64)
            .http2_max_header_list_size(16 * 1024)
            .build(connector);
        Self { client }
    }

    /// The head of the answer, which is no redirect.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let response = self.client.request(request).await.map_err(|error| failure(&error))?;
        if response.status().is_redirection() {
            Err(Failure::Redirect(response.status().as_u16()))
        } else {
            Ok(response)
        }
    }
}

/// The whole body.
pub(super) async fn read(body: Incoming, max_bytes: usize) -> Result<Bytes, Failure> {
    #[expect(clippy::disallowed_methods, reason = "limited in the line itself")]
    let body = Limited::new(body, max_bytes).collect().await.map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() { Failure::TooLarge } else { Failure::Http(root_cause(&*e)) }
    })?;
    Ok(body.to_bytes())
}

/// What comes of `work`, if it comes in time.
pub(super) async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(timeout, work).await.map_err(|_| Failure::Timeout)
}

fn failure(error: &Error) -> Failure {
    egress_cause(error).map_or_else(|| Failure::Http(root_cause(error)), |error| Failure::Egress(error.clone()))
}

/// The dialer's own error behind a client error, if that is what it was.
pub(crate) fn egress_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a EgressError> {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(egress) = e.downcast_ref() {
            return Some(egress);
        }
        cause = e.source();
    }
    None
}

/// The innermost message that is the HTTP library's or the system's: the outer ones only say "client error", and what
/// lies deeper repeats what the peer said in parting (RFC 9113 section 6.8), which may be a credential that it was sent.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source().filter(|inner| inner.is::<hyper::Error>() || inner.is::<std::io::Error>()) {
        cause = inner;
    }
    cause.to_string()
}

/// JSON that is not compressed.
pub(super) fn is_plain_json(headers: &HeaderMap) -> bool {
    let plain =
        headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    plain && essence.is_some_and(|t| t == "application/json" || (t.starts_with("application/") && t.ends_with("+json")))
}
