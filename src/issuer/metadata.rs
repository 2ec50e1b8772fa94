//! Where an issuer publishes its keys (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! Invariant: a document is believed only if its `issuer` equals the configured one, code point by code point
//! (RFC 8414 section 3.3).

use serde::Deserialize;
use url::Url;

/// Where the metadata of `issuer` may lie, in the order in which MCP clients look (2026-07-28, authorization server
/// discovery). Empty if the issuer is not an http(s) URL without query and fragment.
pub(super) fn locations(issuer: &str) -> Vec<String> {
    let Ok(url) = Url::parse(issuer) else { return Vec::new() };
    if !matches!(url.scheme(), "https" | "http") || url.query().is_some() || url.fragment().is_some() {
        return Vec::new();
    }
    let origin = url.origin().ascii_serialization();
    let path = url.path().trim_end_matches('/');
    let mut found = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        found.push(format!("{origin}{path}/.well-known/openid-configuration"));
    }
    found
}

/// What of the metadata is used here.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: Option<String>,
}

/// Why a metadata document is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not a JSON object with an `issuer`.
    Malformed,
    /// It speaks for another issuer.
    OtherIssuer,
    /// It names no keys.
    NoKeys,
}

/// The `jwks_uri` of a document that speaks for `issuer`.
pub(super) fn jwks_uri(document: &[u8], issuer: &str) -> Result<String, Refused> {
    let metadata: Metadata = serde_json::from_slice(document).map_err(|_| Refused::Malformed)?;
    if metadata.issuer != issuer {
        return Err(Refused::OtherIssuer);
    }
    metadata.jwks_uri.ok_or(Refused::NoKeys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_paths_are_inserted_and_appended() {
        assert_eq!(
            locations("https://as.example/tenant/1"),
            [
                "https://as.example/.well-known/oauth-authorization-server/tenant/1",
                "https://as.example/.well-known/openid-configuration/tenant/1",
                "https://as.example/tenant/1/.well-known/openid-configuration",
            ]
        );
        assert_eq!(
            locations("https://as.example:8443/"),
            [
                "https://as.example:8443/.well-known/oauth-authorization-server",
                "https://as.example:8443/.well-known/openid-configuration",
            ]
        );
        for bad in ["as.example", "file:///etc", "https://as.example/?a", "https://as.example/#a", ""] {
            assert!(locations(bad).is_empty(), "{bad}");
        }
    }

    #[test]
    fn only_the_exact_issuer_is_believed() {
        let doc = |issuer: &str| format!(r#"{{"issuer":"{issuer}","jwks_uri":"https://a.example/k","x":1}}"#);
        let read = |issuer: &str| jwks_uri(doc(issuer).as_bytes(), "https://a.example/t");
        assert_eq!(read("https://a.example/t").as_deref(), Ok("https://a.example/k"));
        for other in ["https://a.example/t/", "https://A.example/t", "https://a.example/T", "https://a.example"] {
            assert_eq!(read(other), Err(Refused::OtherIssuer), "{other}");
        }
        let twice =
            br#"{"issuer":"https://evil.example","issuer":"https://a.example/t","jwks_uri":"https://a.example/k"}"#;
        assert_eq!(jwks_uri(twice, "https://a.example/t"), Err(Refused::Malformed));
        assert_eq!(jwks_uri(br#"{"issuer":"i"}"#, "i"), Err(Refused::NoKeys));
    }
}
