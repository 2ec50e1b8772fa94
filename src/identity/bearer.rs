//! Where the token is: exactly one `Authorization` header, scheme `Bearer` (RFC 6750 section 2.1), never the query.
//!
//! Invariant: the returned text has the syntax of a `b64token` and at most [`MAX_HEADER_BYTES`]; nothing else is proven.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The longest accepted `Authorization` value, in bytes.
pub const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Why no token could be taken from a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// No `Authorization` header, or one of another scheme: answer 401 without an error code (RFC 6750 section 3.1).
    #[error("no bearer token was presented")]
    Missing,
    /// The header is longer than [`MAX_HEADER_BYTES`].
    #[error("the Authorization header is longer than {MAX_HEADER_BYTES} bytes")]
    TooLarge,
    /// The scheme is `Bearer`, what follows is not a token.
    #[error("the Authorization header holds no well-formed bearer token")]
    Malformed,
    /// More than one `Authorization` header: which one counts would depend on the reader.
    #[error("more than one Authorization header")]
    Ambiguous,
    /// `access_token` in the query: it would end in logs, and MCP forbids it.
    #[error("a token in the query string is not accepted")]
    InQuery,
}

impl BearerError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            BearerError::Missing => "TokenMissing",
            BearerError::TooLarge => "TokenTooLarge",
            BearerError::Malformed => "TokenMalformed",
            BearerError::Ambiguous => "AuthorizationAmbiguous",
            BearerError::InQuery => "TokenInQuery",
        }
    }
}

/// The bearer token of a request with these headers and this raw query.
pub fn extract<'h>(headers: &'h HeaderMap, query: Option<&str>) -> Result<&'h str, BearerError> {
    if query.is_some_and(carries_token) {
        return Err(BearerError::InQuery);
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(BearerError::Missing)?;
    if values.next().is_some() {
        return Err(BearerError::Ambiguous);
    }
    if value.len() > MAX_HEADER_BYTES {
        return Err(BearerError::TooLarge);
    }
    let text = value.to_str().map_err(|_| BearerError::Malformed)?;
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(BearerError::Missing);
    }
    let token = rest.trim_start_matches(' ');
    if is_b64token(token) { Ok(token) } else { Err(BearerError::Malformed) }
}

/// Whether a query names `access_token`, in whatever encoding a server might decode.
fn carries_token(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case("access_token"))
}

/// `b64token` of RFC 6750 section 2.1.
fn is_b64token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}
