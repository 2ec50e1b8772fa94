//! Where people are sent back to once they have logged in.
//!
//! Invariant: a redirect URI is one exact place that a code reaches by TLS, or without leaving the person's machine
//! (OAuth 2.1 section 2.3, RFC 8252 section 7).

use url::Url;

use super::{Finding, Findings, Reason, public_url::has_user_info};
use crate::{api::FieldPath, oauth::identifier::Identifier};

/// Where a redirect URI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// By TLS to a host.
    Host,
    /// To a port of the person's machine.
    Loopback,
    /// To whatever has claimed a scheme on the person's machine.
    Scheme,
}

/// Where these lead, as far as they are sound.
pub(super) fn places(uris: &[String], field: &FieldPath, errors: &mut Findings, warnings: &mut Findings) -> Vec<Place> {
    let mut places = Vec::with_capacity(uris.len());
    for (i, uri) in uris.iter().enumerate() {
        let place = match place(uri) {
            Ok(place) => place,
            Err(message) => {
                errors.push(Finding::new(Reason::RedirectUriInvalid, field.index(i), message));
                continue;
            }
        };
        // RFC 8252 section 8.3; MCP allows it nevertheless, and many clients have nothing else.
        if place == Place::Loopback && uri.starts_with("http://localhost") {
            let message = "localhost can be made to mean another machine than the person's";
            warnings.push(Finding::new(Reason::RedirectUriLocalhost, field.index(i), message));
        }
        places.push(place);
    }
    places
}

fn place(uri: &str) -> Result<Place, String> {
    if !uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err("not a URL in visible ASCII".to_owned());
    }
    for (character, message) in
        [('*', "a wildcard: redirect URIs are compared as they are written"), ('#', "a fragment: no browser sends it")]
    {
        if uri.contains(character) {
            return Err(message.to_owned());
        }
    }
    let url = Url::parse(uri).map_err(|_| "not an absolute URL".to_owned())?;
    match url.scheme() {
        "https" | "http" => {
            Identifier::resource(uri).map_err(|error| error.to_string())?;
            Ok(if url.scheme() == "https" { Place::Host } else { Place::Loopback })
        }
        // RFC 8252 section 7.1: a domain name of the author's, reversed, so that no two applications have one scheme.
        scheme if scheme.contains('.') && uri.starts_with(scheme) => {
            let leads_nowhere = url.path().is_empty() && !url.has_host();
            match leads_nowhere || has_user_info(&url) {
                true => Err("a scheme without a path, or with user information".to_owned()),
                false => Ok(Place::Scheme),
            }
        }
        _ => Err("neither https, nor http at a loopback address, nor a scheme such as com.example.app".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_a_code_may_reach() {
        for (uri, want) in [
            ("https://app.example.com/callback", Place::Host),
            ("https://app.example.com", Place::Host),
            ("https://app.example.com/callback?tenant=1", Place::Host),
            ("http://127.0.0.1/callback", Place::Loopback),
            ("http://127.0.0.1:33418/", Place::Loopback),
            ("http://[::1]:8080/callback", Place::Loopback),
            ("http://localhost:6274/oauth/callback", Place::Loopback),
            ("com.example.app:/callback", Place::Scheme),
            ("com.example.app://callback", Place::Scheme),
        ] {
            assert_eq!(place(uri), Ok(want), "{uri}");
        }
    }

    #[test]
    fn places_that_it_may_not() {
        for uri in [
            "http://app.example.com/callback",
            "http://127.0.0.1.example.com/callback",
            "http://localhost.example.com/callback",
            "http://10.0.0.1/callback",
            "https://app.example.com/#",
            "https://app.example.com/callback#x",
            "https://*.example.com/callback",
            "https://app.example.com/*",
            "https://user@app.example.com/callback",
            "https://app.example.com/a/../callback",
            "https://app.example.com/a/%2e%2e/callback",
            "https://app.example.com\\@evil.example/",
            "https:app.example.com/callback",
            "HTTPS://app.example.com/callback",
            "/callback",
            "app.example.com/callback",
            "javascript:alert(1)",
            "data:text/html,x",
            "myapp:/callback",
            "cursor://callback",
            "com.example.app:",
            "Com.Example.App:/callback",
            "com.example.app://user@host/",
            "urn:ietf:wg:oauth:2.0:oob",
            "https://app.example.com/call back",
            "https://\u{fc}.example.com/",
            "",
        ] {
            assert!(place(uri).is_err(), "{uri}");
        }
    }
}
