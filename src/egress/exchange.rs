//! Messages to an authorization server that change something there: registrations, requests for tokens.
//!
//! Invariant: the same as of [`super::Fetcher`]: https only (plain http to loopback, where the administrator opened that), no
//! redirects, bounded size and time. Besides, a message is sent once, and of one that failed it is known whether the server
//! can have seen it: what it may have done is not lost from sight.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;

use super::send::{self, Failure, Limits, Sender, Target};
use super::{Connector, EgressError};
use crate::sensitive::Sensitive;

/// The longest body that is sent, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// So many challenges of an answer are kept.
const MOST_CHALLENGES: usize = 4;
/// However long a server wants to be left alone, it is asked again after this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The body of a message. It is sensitive as a whole: both forms carry credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// None.
    Empty,
    /// `application/json`.
    Json(Sensitive),
    /// `application/x-www-form-urlencoded`.
    Form(Sensitive),
}

/// A message to an authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The method.
    pub method: Method,
    /// Where to. It is looked up and checked when it is sent.
    pub url: String,
    /// The value of the `Authorization` header.
    pub authorization: Option<Sensitive>,
    /// The body.
    pub content: Content,
}

/// An answer, whatever its status.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status; never a redirect.
    pub status: u16,
    /// How long the server wants to be left alone, an hour at most.
    pub retry_after: Option<Duration>,
    /// What it says about the credential (RFC 9110 section 11.6.1): some of its `WWW-Authenticate` headers.
    pub challenges: Vec<HeaderValue>,
    /// Whether it says that it is JSON, not compressed.
    pub is_json: bool,
    /// The body; empty if an answer that is no success had a body that could not be read.
    pub body: Bytes,
}

/// The body may hold credentials.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Answer");
        shown.field("status", &self.status).field("retry_after", &self.retry_after).field("is_json", &self.is_json);
        shown.field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The message is too large, or its credential cannot stand in a header.
    #[error("the request to {url} was not sent: {why}")]
    Message {
        /// Where to, without query.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The peer spoke no proper HTTP, or hung up.
    #[error("{url} gave no proper answer: {detail}")]
    Http {
        /// Where to, without query.
        url: String,
        /// What went wrong.
        detail: String,
    },
    /// The answer is a redirect, which is not followed: credentials go where they were meant to go.
    #[error("{url} answered with a redirect ({status}), which is not followed: configure the final URL")]
    Redirect {
        /// Where to, without query.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is a success, and too large.
    #[error("{url} answered with more than {max_bytes} bytes")]
    TooLarge {
        /// Where to, without query.
        url: String,
        /// The limit.
        max_bytes: usize,
    },
    /// There was no whole answer in time.
    #[error("{url} took longer than {seconds} s to answer")]
    Timeout {
        /// Where to, without query.
        url: String,
        /// The limit.
        seconds: u64,
    },
}

impl ExchangeError {
    fn of(failure: Failure, url: String, limits: Limits) -> Self {
        match failure {
            Failure::Egress(error) => ExchangeError::Egress(error),
            Failure::Http(detail) => ExchangeError::Http { url, detail },
            Failure::Redirect(status) => ExchangeError::Redirect { url, status },
            Failure::TooLarge => ExchangeError::TooLarge { url, max_bytes: limits.max_bytes },
            Failure::Timeout => ExchangeError::Timeout { url, seconds: limits.timeout.as_secs() },
        }
    }

    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            ExchangeError::Egress(error) => error.reason(),
            ExchangeError::Message { .. } => "ExchangeImpossible",
            ExchangeError::Http { .. } => "ExchangeFailed",
            ExchangeError::Redirect { .. } => "ExchangeRedirected",
            ExchangeError::TooLarge { .. } => "ExchangeTooLarge",
            ExchangeError::Timeout { .. } => "ExchangeTimeout",
        }
    }

    /// Whether the server may have seen the message, and done what it asks for. No only where that is certain: then there
    /// never was a connection that it could have been sent on.
    pub fn was_sent(&self) -> bool {
        !matches!(self, ExchangeError::Egress(_) | ExchangeError::Message { .. })
    }
}

/// Sends messages, one connection each.
#[derive(Clone, Debug)]
pub struct Exchanger {
    sender: Sender,
}

impl Exchanger {
    pub(super) fn new(connector: Connector) -> Self {
        Self { sender: Sender::new(connector) }
    }

    /// Sends `message` once. Give it more time than connecting may take ([`super::Policy::connect_timeout`]): when only the
    /// connection was slow, that is then known.
    ///
    /// # Errors
    /// If there is no whole answer, or a redirect.
    pub async fn send(&self, message: &Message, limits: Limits) -> Result<Answer, ExchangeError> {
        let target = Target::of(&message.url)?;
        let request =
            request(message, &target).map_err(|why| ExchangeError::Message { url: target.shown.clone(), why })?;
        let answer = send::within(limits.timeout, self.exchange(request, limits.max_bytes)).await;
        answer.and_then(|answer| answer).map_err(|failure| ExchangeError::of(failure, target.shown, limits))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, max_bytes: usize) -> Result<Answer, Failure> {
        let (parts, body) = self.sender.send(request).await?.into_parts();
        let body = match send::read(body, max_bytes).await {
            // A page that says "busy" may be of any size: that it is busy is enough.
            Err(_) if !parts.status.is_success() => Bytes::new(),
            body => body?,
        };
        Ok(Answer {
            status: parts.status.as_u16(),
            retry_after: retry_after(&parts.headers, Timestamp::now()),
            challenges: parts.headers.get_all(WWW_AUTHENTICATE).iter().take(MOST_CHALLENGES).cloned().collect(),
            is_json: send::is_plain_json(&parts.headers),
            body,
        })
    }
}

fn request(message: &Message, target: &Target) -> Result<Request<Full<Bytes>>, &'static str> {
    let mut request = send::request(message.method.clone(), target);
    let (content_type, body) = match &message.content {
        Content::Empty => (None, ""),
        Content::Json(text) => (Some("application/json"), text.expose()),
        Content::Form(text) => (Some("application/x-www-form-urlencoded"), text.expose()),
    };
    if body.len() > MAX_REQUEST_BYTES {
        return Err("it is larger than 64 KiB");
    }
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    if let Some(authorization) = &message.authorization {
        let mut value = HeaderValue::from_str(authorization.expose())
            .map_err(|_| "its credential has characters that a header cannot carry")?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Bytes::copy_from_slice(body.as_bytes()).into()).map_err(|_| "it is not a proper request")
}

/// RFC 9110 section 10.2.3: seconds, or a date in the form that is sent today (section 5.6.7).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are more than the longest in any case.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = DateTimeParser::new().parse_timestamp(text).ok()?;
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests;
