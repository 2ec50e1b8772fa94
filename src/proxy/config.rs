//! What an administrator decides about the listener that strangers reach.
//!
//! Invariant: the public URL is configuration and never derived from a request (identity-audit 1.2).

use std::time::Duration;

use http::HeaderValue;
use url::{Host, Url};

/// The URL under which clients reach the gateway; every resource identifier starts with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    authority: String,
}

/// Why a public URL is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublicUrlError {
    /// Not an absolute URL.
    #[error("public URL {url:?} is not an absolute URL: write it like https://mcp.example.com")]
    Malformed {
        /// What was given.
        url: String,
    },
    /// `http` elsewhere than on loopback: tokens would travel in clear (RFC 6750 section 5.2).
    #[error("public URL {url:?} must use https; http is accepted on loopback only")]
    Insecure {
        /// What was given.
        url: String,
    },
    /// A path, query, fragment or user name.
    #[error("public URL {url:?} must be scheme, host and port only; servers add their own paths")]
    NotAnOrigin {
        /// What was given.
        url: String,
    },
}

impl PublicUrl {
    /// Parses `https://host[:port]`, or `http://` on loopback.
    pub fn parse(text: &str) -> Result<Self, PublicUrlError> {
        let given = || text.to_owned();
        let url = Url::parse(text).map_err(|_| PublicUrlError::Malformed { url: given() })?;
        let Some(host) = url.host() else { return Err(PublicUrlError::Malformed { url: given() }) };
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&host) => {}
            "http" => return Err(PublicUrlError::Insecure { url: given() }),
            _ => return Err(PublicUrlError::Malformed { url: given() }),
        }
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(PublicUrlError::NotAnOrigin { url: given() });
        }
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        Ok(Self { text: format!("{}://{authority}", url.scheme()), authority })
    }

    /// `scheme://host[:port]`, lower-case, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What `Host` must be.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether clients reach the gateway by TLS.
    pub fn is_https(&self) -> bool {
        self.text.starts_with("https://")
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

/// Settings of the data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// The URL under which clients reach the gateway.
    pub public_url: PublicUrl,
    /// Browser origins that may call: a present `Origin` must be one of them.
    pub allowed_origins: Vec<HeaderValue>,
    /// Bounds on everything that a stranger can send or hold.
    pub limits: Limits,
}

/// Bounds on everything that a stranger can send or hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// How long a request head may take to arrive.
    pub head_timeout: Duration,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// How long a request body may take to arrive.
    pub body_timeout: Duration,
    /// Bytes of an upstream's JSON answer, and of one event of a stream.
    pub answer_bytes: usize,
    /// How long an upstream may take to answer, and a stream that carries an answer to go on after its last event.
    pub answer_timeout: Duration,
    /// Streams and calls that one identity may have open at once.
    pub open_per_identity: u32,
    /// How long a session id is honoured after it was made.
    pub session_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_bytes: 64 * 1024,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            body_bytes: 4 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            answer_bytes: 16 * 1024 * 1024,
            answer_timeout: Duration::from_secs(300),
            open_per_identity: 64,
            session_lifetime: Duration::from_secs(24 * 3600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_url_is_an_origin_in_canonical_form() {
        let url = PublicUrl::parse("HTTPS://MCP.Example.com:443/").unwrap();
        assert_eq!((url.as_str(), url.authority()), ("https://mcp.example.com", "mcp.example.com"));
        assert_eq!(PublicUrl::parse("http://127.0.0.1:8080").unwrap().authority(), "127.0.0.1:8080");
        assert_eq!(PublicUrl::parse("http://[::1]:8080").unwrap().authority(), "[::1]:8080");
    }

    #[test]
    fn public_url_refuses_clear_text_paths_and_nonsense() {
        for (text, reason) in [
            ("http://mcp.example.com", "must use https"),
            ("https://mcp.example.com/x", "scheme, host and port only"),
            ("https://user@mcp.example.com", "scheme, host and port only"),
            ("https://mcp.example.com/?q", "scheme, host and port only"),
            ("ftp://mcp.example.com", "not an absolute URL"),
            ("mcp.example.com", "not an absolute URL"),
        ] {
            let error = PublicUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
