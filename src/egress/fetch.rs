//! Small JSON documents of authorization servers: metadata and key sets.
//!
//! Invariant: https only (plain http to loopback, where the administrator opened that), no redirects, identity
//! encoding, bounded size and time; what is returned claims to be JSON.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::send::{self, Failure, Limits, Sender, Target};
use super::{Connector, EgressError};

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
    fn of(failure: Failure, url: String, limits: Limits) -> Self {
        match failure {
            Failure::Egress(error) => FetchError::Egress(error),
            Failure::Http(detail) => FetchError::Http { url, detail },
            Failure::Redirect(status) => FetchError::Redirect { url, status },
            Failure::TooLarge => FetchError::TooLarge { url, max_bytes: limits.max_bytes },
            Failure::Timeout => FetchError::Timeout { url, seconds: limits.timeout.as_secs() },
        }
    }

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
    sender: Sender,
}

impl Fetcher {
    pub(super) fn new(connector: Connector) -> Self {
        Self { sender: Sender::new(connector) }
    }

    /// Fetches `url`.
    ///
    /// # Errors
    /// Whatever keeps a JSON document with status 200 from arriving whole, in time and in size.
    pub async fn get(&self, url: &str, limits: Limits) -> Result<Fetched, FetchError> {
        let target = Target::of(url)?;
        let failed = |failure| FetchError::of(failure, target.shown.clone(), limits);
        send::within(limits.timeout, self.fetch(&target, limits)).await.unwrap_or_else(|failure| Err(failed(failure)))
    }

    async fn fetch(&self, target: &Target, limits: Limits) -> Result<Fetched, FetchError> {
        let failed = |failure| FetchError::of(failure, target.shown.clone(), limits);
        let request = send::request(Method::GET, target).body(Bytes::new().into()).map_err(|_| EgressError::Url)?;
        let (parts, body) = self.sender.send(request).await.map_err(failed)?.into_parts();
        if parts.status != StatusCode::OK {
            return Err(FetchError::Status { url: target.shown.clone(), status: parts.status.as_u16() });
        }
        if !send::is_plain_json(&parts.headers) {
            return Err(FetchError::ContentType { url: target.shown.clone() });
        }
        let body = send::read(body, limits.max_bytes).await.map_err(failed)?;
        Ok(Fetched { status: parts.status, headers: parts.headers, body })
    }
}

#[cfg(test)]
mod tests;
