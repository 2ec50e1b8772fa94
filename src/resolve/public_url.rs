//! Where clients reach the gateway.

use std::fmt;

use url::{Host, Url};

/// The gateway's public origin: `https://host[:port]`, or `http` on a loopback address. Resource identifiers and issuers
/// are made from it, never from a request's `Host` or `X-Forwarded-*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

/// Why a text is no public URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicUrlError {
    /// Not an absolute URL with a host.
    #[error("not an absolute URL such as https://mcp.example.com")]
    NotAUrl,
    /// Has more than scheme, host and port.
    #[error("must be scheme, host and port only: no path, query, fragment or user information")]
    NotAnOrigin,
    /// Unencrypted, and not on loopback.
    #[error("must be https, except on a loopback address")]
    Insecure,
}

impl PublicUrlError {
    /// A stable word.
    pub fn reason(self) -> &'static str {
        match self {
            PublicUrlError::NotAUrl => "PublicUrlMalformed",
            PublicUrlError::NotAnOrigin => "PublicUrlNotAnOrigin",
            PublicUrlError::Insecure => "PublicUrlInsecure",
        }
    }
}

impl PublicUrl {
    /// Reads a public URL. A single trailing `/` is dropped; scheme and host become lower-case (RFC 3986 6.2.2.1).
    pub fn parse(text: &str) -> Result<Self, PublicUrlError> {
        let url = Url::parse(text).map_err(|_| PublicUrlError::NotAUrl)?;
        let host = url.host().ok_or(PublicUrlError::NotAUrl)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || has_user_info(&url) {
            return Err(PublicUrlError::NotAnOrigin);
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&host) => {}
            _ => return Err(PublicUrlError::Insecure),
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The origin, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `host[:port]`: what a request's `Host` must be.
    pub fn authority(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Whether clients reach the gateway by TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The origin followed by `path`, which starts with `/`.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn has_user_info(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether a host is this machine: a loopback address, or `localhost` and below (RFC 6761 6.3).
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_origins_are_public_urls() {
        for (text, want) in [
            ("https://MCP.example.com/", Ok("https://mcp.example.com")),
            ("https://mcp.example.com:8443", Ok("https://mcp.example.com:8443")),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("http://localhost:8080/", Ok("http://localhost:8080")),
            ("http://mcp.example.com", Err(PublicUrlError::Insecure)),
            ("ftp://localhost", Err(PublicUrlError::Insecure)),
            ("https://mcp.example.com/base", Err(PublicUrlError::NotAnOrigin)),
            ("https://mcp.example.com/?x", Err(PublicUrlError::NotAnOrigin)),
            ("https://u@mcp.example.com", Err(PublicUrlError::NotAnOrigin)),
            ("mcp.example.com", Err(PublicUrlError::NotAUrl)),
            ("", Err(PublicUrlError::NotAUrl)),
        ] {
            assert_eq!(PublicUrl::parse(text).as_ref().map(PublicUrl::as_str), want.as_ref().copied(), "{text}");
        }
    }
}
