//! Where a request is going, from its head alone: before any body is read and any token is looked at.
//!
//! Invariant: what is served is a server's exact path or a public document; anything that a lenient reader could take
//! for one of those (`//`, `%6d`, `/x/..`, a trailing slash) is not found (mcp-obligations 9).

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::config::Config;

/// Why a request is refused by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    /// `Host` is missing or repeated (RFC 9112 section 3.2).
    #[error("exactly one Host header is needed")]
    NoHost,
    /// `Host` or `:authority` is not the public one (DNS rebinding).
    #[error("the Host header must be the gateway's public host: check --public-url against the URL that you call")]
    Host,
    /// The page's origin is not listed.
    #[error("this Origin may not call the gateway: an administrator can list it with --allowed-origin")]
    Origin,
}

impl PlaceError {
    /// A stable word.
    pub(super) fn reason(self) -> &'static str {
        match self {
            PlaceError::NoHost => "HostMissing",
            PlaceError::Host => "HostRefused",
            PlaceError::Origin => "OriginRefused",
        }
    }

    /// The HTTP status of the refusal.
    pub(super) fn status(self) -> StatusCode {
        match self {
            PlaceError::NoHost => StatusCode::BAD_REQUEST,
            PlaceError::Host => StatusCode::MISDIRECTED_REQUEST,
            PlaceError::Origin => StatusCode::FORBIDDEN,
        }
    }
}

/// Whether the request was made for this gateway.
pub(super) fn check_host(head: &Parts, config: &Config) -> Result<(), PlaceError> {
    let expected = &config.public_url;
    let is_ours = |authority: &str| {
        authority.eq_ignore_ascii_case(expected.authority())
            || expected.is_https()
                && authority.strip_suffix(":443").is_some_and(|host| host.eq_ignore_ascii_case(expected.authority()))
    };
    // Absolute-form targets (RFC 9112 section 3.2.2) and HTTP/2 have the authority in the target.
    if head.uri.authority().is_some_and(|authority| !is_ours(authority.as_str())) {
        return Err(PlaceError::Host);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.to_str().is_ok_and(is_ours) => Ok(()),
        (Some(_), None) => Err(PlaceError::Host),
        (None, None) if head.version == Version::HTTP_2 && head.uri.authority().is_some() => Ok(()),
        _ => Err(PlaceError::NoHost),
    }
}

/// The listed origin of the page that makes the request, if a page does.
pub(super) fn check_origin(headers: &HeaderMap, config: &Config) -> Result<Option<HeaderValue>, PlaceError> {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => Ok(None),
        (Some(origin), None) if config.allowed_origins.contains(origin) => Ok(Some(origin.clone())),
        _ => Err(PlaceError::Origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::config::Limits;
    use crate::resolve::PublicUrl;

    fn config(url: &str) -> Config {
        let allowed_origins = vec![HeaderValue::from_static("https://inspector.example")];
        Config { public_url: PublicUrl::parse(url).unwrap(), allowed_origins, limits: Limits::default() }
    }

    fn head(target: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn duty_2_only_the_public_host_is_served() {
        let config = config("https://mcp.example.com");
        for good in ["mcp.example.com", "MCP.example.com", "mcp.example.com:443"] {
            assert_eq!(check_host(&head("/a", &[good]), &config), Ok(()), "{good}");
        }
        for bad in ["mcp.example.com:8443", "mcp.example.com.evil.example", "127.0.0.1", "", "mcp.example.com."] {
            assert_eq!(check_host(&head("/a", &[bad]), &config), Err(PlaceError::Host), "{bad}");
        }
        assert_eq!(check_host(&head("/a", &[]), &config), Err(PlaceError::NoHost));
        assert_eq!(check_host(&head("/a", &["mcp.example.com", "mcp.example.com"]), &config), Err(PlaceError::NoHost));
        let elsewhere = head("https://evil.example/a", &["mcp.example.com"]);
        assert_eq!(check_host(&elsewhere, &config), Err(PlaceError::Host));
    }

    #[test]
    fn duty_2_the_authority_of_http_2_and_a_host_beside_it_must_both_be_ours() {
        let config = config("https://mcp.example.com");
        let check = |target: &str, hosts: &[&str]| {
            let mut head = head(target, hosts);
            head.version = Version::HTTP_2;
            check_host(&head, &config)
        };
        let ours = "https://mcp.example.com/a";
        assert_eq!(check(ours, &[]), Ok(()));
        assert_eq!(check(ours, &["mcp.example.com"]), Ok(()));
        assert_eq!(check(ours, &["evil.example"]), Err(PlaceError::Host));
        assert_eq!(check(ours, &["mcp.example.com", "evil.example"]), Err(PlaceError::NoHost));
        assert_eq!(check("https://evil.example/a", &["mcp.example.com"]), Err(PlaceError::Host));
        assert_eq!(check("https://user@mcp.example.com/a", &[]), Err(PlaceError::Host));
        assert_eq!(check("/a", &[]), Err(PlaceError::NoHost));
    }

    #[test]
    fn duty_2_a_present_origin_must_be_listed() {
        let config = config("https://mcp.example.com");
        let with = |origins: &[&str]| {
            let mut headers = HeaderMap::new();
            for origin in origins {
                headers.append(ORIGIN, origin.parse().unwrap());
            }
            check_origin(&headers, &config)
        };
        assert_eq!(with(&[]), Ok(None));
        assert!(matches!(with(&["https://inspector.example"]), Ok(Some(_))));
        for bad in ["null", "https://mcp.example.com", "https://inspector.example.evil.example", ""] {
            assert_eq!(with(&[bad]), Err(PlaceError::Origin), "{bad}");
        }
        assert_eq!(with(&["https://inspector.example", "https://inspector.example"]), Err(PlaceError::Origin));
    }
}
