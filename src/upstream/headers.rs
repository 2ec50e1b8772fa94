//! Which headers cross the gateway.
//!
//! Invariant: both directions are allow-lists. Towards the upstream nothing passes that names the caller or could be
//! taken for a statement of the gateway (`Authorization`, `Cookie`, `Forwarded`, `X-Forwarded-*`, `Client-Cert`, ...);
//! towards the caller nothing that sets cookies, challenges, redirects or allows caching. Session and event ids are on
//! neither list: the gateway seals them, so it puts the opened or sealed value there itself.

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};

static TO_UPSTREAM: [HeaderName; 7] = [
    ACCEPT,
    CONTENT_TYPE,
    HeaderName::from_static("mcp-protocol-version"),
    HeaderName::from_static("mcp-method"),
    HeaderName::from_static("mcp-name"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Mirrors of arguments (2026-07-28, custom headers from tool parameters): the names are the tool's own.
const PARAMETER_PREFIX: &str = "mcp-param-";

/// The type is not among them: it is the gateway's to say, of what it judged.
static TO_CALLER: [HeaderName; 2] = [ALLOW, RETRY_AFTER];

/// What nginx and others read as a wish that an answer be passed on as it comes.
static NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether `Connection` names a header that an upstream may see: it must not be passed on then (RFC 9110 section 7.6.1),
/// and was judged as if it were.
pub fn holds_back_what_passes(from_caller: &HeaderMap) -> bool {
    let lines = from_caller.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    lines.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok()).any(|name| passes(&name))
}

fn passes(name: &HeaderName) -> bool {
    TO_UPSTREAM.contains(name) || name.as_str().starts_with(PARAMETER_PREFIX)
}

/// The headers of a caller's request that an upstream may see.
pub fn to_upstream(from_caller: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::with_capacity(12);
    for (name, value) in from_caller {
        if passes(name) {
            passed.append(name, value.clone());
        }
    }
    passed
}

/// Adds the headers of an upstream's response that a caller may see. Caching is always forbidden: what one identity may
/// see is nobody else's. Proxies in front are asked not to hold back event streams.
pub fn to_caller(from_upstream: &HeaderMap, passed: &mut HeaderMap) {
    for name in &TO_CALLER {
        if let Some(value) = from_upstream.get(name) {
            passed.insert(name, value.clone());
        }
    }
    passed.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    passed.insert(&NO_BUFFERING, HeaderValue::from_static("no"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn nothing_that_names_the_caller_reaches_an_upstream() {
        let passed = to_upstream(&map(&[
            ("authorization", "Bearer x"),
            ("proxy-authorization", "Basic x"),
            ("dpop", "x"),
            ("cookie", "a=b"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "1.1.1.1"),
            ("client-cert", ":x:"),
            ("x-portcullis-principal", "root"),
            ("origin", "https://a.example"),
            ("host", "a.example"),
            ("connection", "mcp-name"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("accept-encoding", "gzip"),
            ("mcp-session-id", "sealed"),
            ("last-event-id", "sealed"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "add"),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-param-region", "eu"),
            ("traceparent", "00-0-0-00"),
        ]));
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept",
                "content-type",
                "mcp-method",
                "mcp-name",
                "mcp-param-region",
                "mcp-protocol-version",
                "traceparent"
            ]
        );
    }

    #[test]
    fn a_connection_header_that_names_what_passes_is_noticed() {
        for good in ["keep-alive", "close", "Upgrade, HTTP2-Settings", "keep-alive, TE", "", "authorization, \u{1}"] {
            let mut headers = HeaderMap::new();
            headers.extend(HeaderValue::from_str(good).map(|value| (CONNECTION, value)));
            assert!(!holds_back_what_passes(&headers), "{good:?}");
        }
        for bad in ["Mcp-Name", "keep-alive,MCP-PARAM-REGION", "close , traceparent", "mcp-method ,"] {
            assert!(holds_back_what_passes(&map(&[("connection", "keep-alive"), ("connection", bad)])), "{bad}");
        }
    }

    #[test]
    fn repeated_headers_stay_repeated_so_that_the_judge_and_the_upstream_see_the_same() {
        let passed = to_upstream(&map(&[("mcp-name", "a"), ("mcp-name", "b")]));
        assert_eq!(passed.get_all("mcp-name").iter().count(), 2);
    }

    #[test]
    fn a_caller_gets_no_cookie_challenge_location_or_cache() {
        let mut passed = map(&[("content-type", "text/event-stream")]);
        let from_upstream = map(&[
            ("set-cookie", "a=b"),
            ("www-authenticate", "Bearer resource_metadata=\"https://evil.example\""),
            ("location", "https://evil.example"),
            ("etag", "\"1\""),
            ("cache-control", "public, max-age=9999"),
            ("access-control-allow-origin", "*"),
            ("mcp-session-id", "raw"),
            ("content-length", "5"),
            ("content-type", "application/json"),
            ("retry-after", "5"),
        ]);
        to_caller(&from_upstream, &mut passed);
        assert_eq!(passed["content-type"], "text/event-stream");
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "content-type", "retry-after", "x-accel-buffering"]);
        assert_eq!(passed["cache-control"], "no-store");
    }
}
