//! Small JSON documents of authorization servers: metadata and key sets.
//!
//! Invariant: https only (plain http to loopback, where the administrator opened that), no redirects, identity
//! encoding, bounded size and time; what is returned claims to be JSON.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Connector, EgressError};

/// What bounds one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub max_bytes: usize,
    /// From look-up to last byte.
    pub timeout: Duration,
}

/// A document as fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Always 200.
    pub status: StatusCode,
    /// The response's headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why a document could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The peer spoke no proper HTTP, or hung up.
    #[error("{url} could not be fetched: {detail}")]
    Http {
        /// Where from, without query.
        url: String,
        /// What went wrong.
        detail: String,
    },
    /// The answer is a redirect, which is not followed.
    #[error("{url} answered with a redirect ({status}), which is not followed: configure the final URL")]
    Redirect {
        /// Where from, without query.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer's status is not 200.
    #[error("{url} answered with status {status}")]
    Status {
        /// Where from, without query.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is not JSON, or is compressed.
    #[error("{url} did not answer with plain JSON (Content-Type application/json, no Content-Encoding)")]
    ContentType {
        /// Where from, without query.
        url: String,
    },
    /// The answer is too large.
    #[error("{url} answered with more than {max_bytes} bytes")]
    TooLarge {
        /// Where from, without query.
        url: String,
        /// The limit.
        max_bytes: usize,
    },
    /// The answer took too long.
    #[error("{url} took longer than {seconds} s to answer")]
    Timeout {
        /// Where from, without query.
        url: String,
        /// The limit.
        seconds: u64,
    },
}

impl FetchError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            FetchError::Egress(e) => e.reason(),
            FetchError::Http { .. } => "FetchFailed",
            FetchError::Redirect { .. } => "FetchRedirected",
            FetchError::Status { .. } => "FetchStatus",
            FetchError::ContentType { .. } => "FetchNotJson",
            FetchError::TooLarge { .. } => "FetchTooLarge",
            FetchError::Timeout { .. } => "FetchTimeout",
        }
    }
}

/// Fetches documents, one connection each.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client<Connector, Empty<Bytes>>,
}

impl Fetcher {
    pub(super) fn new(connector: Connector) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .http1_max_headers(64)
            .http2_max_header_list_size(16 * 1024)
            .build(connector);
        Self { client }
    }

    /// Fetches `url`.
    ///
    /// # Errors
    /// Whatever keeps a JSON document with status 200 from arriving whole, in time and in size.
    pub async fn get(&self, url: &str, limits: Limits) -> Result<Fetched, FetchError> {
        // `url` normalizes what `http` would pass on as written: odd forms of addresses, case, dot segments.
        let url = url::Url::parse(url).map_err(|_| EgressError::Url)?;
        let uri: Uri = url.as_str().parse().map_err(|_| EgressError::Url)?;
        let shown = shown(&url);
        match tokio::time::timeout(limits.timeout, self.fetch(uri, &shown, limits.max_bytes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(FetchError::Timeout { url: shown, seconds: limits.timeout.as_secs() }),
        }
    }

    async fn fetch(&self, uri: Uri, shown: &str, max_bytes: usize) -> Result<Fetched, FetchError> {
        let request = Request::get(uri)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| EgressError::Url)?;
        let response = self.client.request(request).await.map_err(|e| failure(&e, shown))?;
        let (parts, body) = response.into_parts();
        let (url, status) = (shown.to_owned(), parts.status.as_u16());
        match status {
            200 => {}
            300..=399 => return Err(FetchError::Redirect { url, status }),
            _ => return Err(FetchError::Status { url, status }),
        }
        if !is_plain_json(&parts.headers) {
            return Err(FetchError::ContentType { url });
        }
        #[expect(clippy::disallowed_methods, reason = "limited in the line itself")]
        let body = Limited::new(body, max_bytes).collect().await.map_err(|e| {
            if e.is::<http_body_util::LengthLimitError>() {
                FetchError::TooLarge { url, max_bytes }
            } else {
                FetchError::Http { url, detail: e.to_string() }
            }
        })?;
        Ok(Fetched { status: parts.status, headers: parts.headers, body: body.to_bytes() })
    }
}

/// A URL for messages: neither query nor user information, which may hold secrets.
fn shown(url: &url::Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn failure(error: &hyper_util::client::legacy::Error, shown: &str) -> FetchError {
    match egress_cause(error) {
        Some(e) => FetchError::Egress(e.clone()),
        None => FetchError::Http { url: shown.to_owned(), detail: root_cause(error) },
    }
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

fn is_plain_json(headers: &HeaderMap) -> bool {
    let plain =
        headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    plain && essence.is_some_and(|t| t == "application/json" || (t.starts_with("application/") && t.ends_with("+json")))
}

#[cfg(test)]
mod tests;
