//! The URLs that identify resources (RFC 8707 section 2, RFC 9728 section 1.2) and issuers (RFC 8414 section 2).
//!
//! Invariant: an [`Identifier`] is `https`, or `http` on a loopback address, without user, fragment or dot segments, in
//! visible ASCII. Its text is never normalised: identifiers are compared by code point.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The longest accepted identifier, in bytes.
pub const MAX_IDENTIFIER_BYTES: usize = 2048;

/// A URL that identifies a resource or an issuer, taken apart as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifier<'a> {
    text: &'a str,
    /// Scheme and authority, without a slash at the end.
    origin: &'a str,
    /// Empty, or beginning with a slash.
    path: &'a str,
    /// What follows `?`.
    query: Option<&'a str>,
}

/// Why a URL cannot identify a resource or an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Longer than [`MAX_IDENTIFIER_BYTES`].
    #[error("longer than {MAX_IDENTIFIER_BYTES} bytes")]
    TooLong,
    /// Not an absolute URL with a host, in visible ASCII.
    #[error("not an absolute URL in visible ASCII")]
    NotAUrl,
    /// `http` outside loopback addresses, or another scheme.
    #[error("not https (http is for loopback addresses only)")]
    Scheme,
    /// User or password.
    #[error("has user information")]
    UserInfo,
    /// A fragment.
    #[error("has a fragment")]
    Fragment,
    /// A query where none may be.
    #[error("has a query")]
    Query,
    /// Dot segments or characters that readers write differently.
    #[error("has a path that readers would write differently, for example with dot segments")]
    Path,
}

impl IdentifierError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            IdentifierError::TooLong => "UrlTooLong",
            IdentifierError::NotAUrl => "UrlMalformed",
            IdentifierError::Scheme => "UrlNotHttps",
            IdentifierError::UserInfo => "UrlHasUserInfo",
            IdentifierError::Fragment => "UrlHasFragment",
            IdentifierError::Query => "UrlHasQuery",
            IdentifierError::Path => "UrlPathAmbiguous",
        }
    }
}

impl<'a> Identifier<'a> {
    /// A resource identifier; a query is allowed, though not recommended.
    pub fn resource(text: &'a str) -> Result<Identifier<'a>, IdentifierError> {
        if text.len() > MAX_IDENTIFIER_BYTES {
            return Err(IdentifierError::TooLong);
        }
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        let url = Url::parse(text).ok().filter(|_| visible).ok_or(IdentifierError::NotAUrl)?;
        let (scheme, rest) = text.split_once("://").ok_or(IdentifierError::NotAUrl)?;
        match scheme {
            "https" => {}
            "http" if is_loopback(&url) => {}
            _ => return Err(IdentifierError::Scheme),
        }
        if url.fragment().is_some() {
            return Err(IdentifierError::Fragment);
        }
        if rest.split(['/', '?']).next().is_none_or(|authority| authority.contains('@')) {
            return Err(IdentifierError::UserInfo);
        }
        let (before_query, query) = text.split_once('?').map_or((text, None), |(before, query)| (before, Some(query)));
        let authority_end = before_query.len() - rest_of(before_query).len();
        let (origin, path) = before_query.split_at_checked(authority_end).ok_or(IdentifierError::NotAUrl)?;
        if url.path() != path && !(path.is_empty() && url.path() == "/") {
            return Err(IdentifierError::Path);
        }
        Ok(Identifier { text, origin, path, query })
    }

    /// An issuer: no query.
    pub fn issuer(text: &'a str) -> Result<Identifier<'a>, IdentifierError> {
        let identifier = Identifier::resource(text)?;
        if identifier.query.is_some() { Err(IdentifierError::Query) } else { Ok(identifier) }
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// Scheme and authority.
    pub fn origin(&self) -> &'a str {
        self.origin
    }

    /// The path; empty, or beginning with a slash.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The metadata URL with `/.well-known/<suffix>` between host and path; a slash that ends the path is removed first
    /// (RFC 8414 section 3.1, RFC 9728 section 3.1).
    pub fn well_known(&self, suffix: &str) -> String {
        let path = self.path.strip_suffix('/').unwrap_or(self.path);
        let query = self.query.map_or_else(String::new, |query| format!("?{query}"));
        format!("{}/.well-known/{suffix}{path}{query}", self.origin)
    }
}

/// Whether what is meant for `resource` is meant for `url` too: because it is the same, or above it at the same place.
pub fn is_above(resource: &str, url: &str) -> bool {
    let (Ok(resource), Ok(whole)) = (Identifier::resource(resource), Identifier::resource(url)) else {
        return false;
    };
    let path = resource.path.strip_suffix('/').unwrap_or(resource.path);
    let rest = whole.path.strip_prefix(path);
    let is_prefix = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.text == whole.text || resource.origin == whole.origin && is_prefix && resource.query.is_none()
}

/// The path of a URL without query: from the first slash after the authority.
fn rest_of(url: &str) -> &str {
    let authority_and_path = url.split_once("://").map_or("", |(_, rest)| rest);
    authority_and_path.find('/').and_then(|at| authority_and_path.get(at..)).unwrap_or_default()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => Ipv4Addr::is_loopback(&address),
        Some(Host::Ipv6(address)) => Ipv6Addr::is_loopback(&address),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_taken_apart_as_written() {
        for (text, origin, path) in [
            ("https://gw.example", "https://gw.example", ""),
            ("https://gw.example/", "https://gw.example", "/"),
            ("https://gw.example:8443/a/b", "https://gw.example:8443", "/a/b"),
            ("https://GW.example:443/a", "https://GW.example:443", "/a"),
            ("http://127.0.0.1:8080/a/", "http://127.0.0.1:8080", "/a/"),
            ("http://[::1]:1/a", "http://[::1]:1", "/a"),
            ("http://localhost/a", "http://localhost", "/a"),
            ("https://gw.example/a?x=https://y/z", "https://gw.example", "/a"),
        ] {
            let identifier = Identifier::resource(text).unwrap();
            assert_eq!((identifier.as_str(), identifier.origin(), identifier.path()), (text, origin, path));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use IdentifierError as E;
        for (text, error) in [
            ("", E::NotAUrl),
            ("/a", E::NotAUrl),
            ("gw.example/a", E::NotAUrl),
            ("https:gw.example", E::NotAUrl),
            ("https://gw.example/a b", E::NotAUrl),
            ("https://gw.example/a\n", E::NotAUrl),
            ("https://gw.example\\@evil.example/", E::NotAUrl),
            ("https://gw.ex\u{e4}mple/", E::NotAUrl),
            ("HTTPS://gw.example/a", E::Scheme),
            ("ftp://gw.example/a", E::Scheme),
            ("http://gw.example/a", E::Scheme),
            ("http://localhost.evil.example/a", E::Scheme),
            ("http://169.254.169.254/a", E::Scheme),
            ("https://gw.example@evil.example/a", E::UserInfo),
            ("https://@evil.example/a", E::UserInfo),
            ("https://gw.example/a#b", E::Fragment),
            ("https://gw.example/a#", E::Fragment),
            ("https://gw.example/a/../b", E::Path),
            ("https://gw.example/a/%2e%2e/b", E::Path),
            ("https://gw.example/./b", E::Path),
        ] {
            assert_eq!(Identifier::resource(text), Err(error), "{text}");
        }
        let long = format!("https://gw.example/{}", "a".repeat(MAX_IDENTIFIER_BYTES));
        assert_eq!(Identifier::resource(&long), Err(E::TooLong));
        assert_eq!(Identifier::issuer("https://gw.example/a?b"), Err(E::Query));
        assert_eq!(Identifier::issuer("https://gw.example?"), Err(E::Query));
    }
}
