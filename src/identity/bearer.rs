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
    // Looked up, and joined without a branch: a token has hundreds of characters, and each call brings one.
    !body.is_empty() && body.bytes().fold(true, |good, byte| good & B64TOKEN[usize::from(byte)])
}

/// The characters of a `b64token` before its padding.
static B64TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_header_is_the_token() {
        for value in ["Bearer a.b-c_d~+/e==", "bearer a.b-c_d~+/e==", "BEARER   a.b-c_d~+/e=="] {
            assert_eq!(extract(&headers(&[value.as_bytes()]), None), Ok("a.b-c_d~+/e=="), "{value}");
        }
        let one = headers(&[b"Bearer abc"]);
        assert_eq!(extract(&one, Some("a=1&token=x&access_tokens=2")), Ok("abc"));
    }

    #[test]
    fn attack_two_authorization_headers() {
        for second in [b"Bearer abc".as_slice(), b"Bearer abd", b"Basic x", b""] {
            assert_eq!(extract(&headers(&[b"Bearer abc", second]), None), Err(BearerError::Ambiguous));
            assert_eq!(extract(&headers(&[second, b"Bearer abc"]), None), Err(BearerError::Ambiguous));
        }
    }

    #[test]
    fn attack_token_in_the_query() {
        for query in [
            "access_token=a",
            "access_token",
            "x=1&access_token=a",
            "%61ccess_token=a",
            "access%5ftoken=a",
            "ACCESS_TOKEN=a",
        ] {
            assert_eq!(extract(&headers(&[b"Bearer abc"]), Some(query)), Err(BearerError::InQuery), "{query}");
            assert_eq!(extract(&headers(&[]), Some(query)), Err(BearerError::InQuery), "{query}");
        }
    }

    #[test]
    fn attack_header_values_that_are_no_token() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer =",
            "Bearer a b",
            "Bearer a,b",
            "Bearer \"a\"",
            "Bearer a\tb",
            "Bearer a=b",
            "Bearer a, Bearer b",
        ] {
            assert_eq!(extract(&headers(&[value.as_bytes()]), None), Err(BearerError::Malformed), "{value}");
        }
        assert_eq!(extract(&headers(&[b"Bearer \xff"]), None), Err(BearerError::Malformed));
        for value in ["", "Basic YTpi", "DPoP abc", "Bearerabc", "Bearer\tabc", "Bearer,abc"] {
            assert_eq!(extract(&headers(&[value.as_bytes()]), None), Err(BearerError::Missing), "{value}");
        }
        assert_eq!(extract(&headers(&[]), None), Err(BearerError::Missing));
    }

    #[test]
    fn attack_one_megabyte_header() {
        let value = |length: usize| format!("Bearer {}", "a".repeat(length - "Bearer ".len()));
        assert!(extract(&headers(&[value(MAX_HEADER_BYTES).as_bytes()]), None).is_ok());
        for length in [MAX_HEADER_BYTES + 1, 1 << 20] {
            assert_eq!(extract(&headers(&[value(length).as_bytes()]), None), Err(BearerError::TooLarge));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_extracted_is_a_suffix_in_token_syntax(value in "[ -~]{0,60}") {
            let headers = headers(&[value.as_bytes()]);
            if let Ok(token) = extract(&headers, None) {
                prop_assert!(value.ends_with(token) && !token.contains(' ') && !token.is_empty());
            }
        }
    }
}
