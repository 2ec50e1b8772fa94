//! Authorization-server metadata (RFC 8414) and OpenID Connect Discovery.
//!
//! Invariant: a parsed document names exactly the issuer that was asked for; any other would let one authorization
//! server pass for another (RFC 8414 section 3.3).

use serde::Serialize;

use super::document::{Document, DocumentError};
use super::identifier::{Identifier, IdentifierError};

const OAUTH_SUFFIX: &str = "oauth-authorization-server";
const OPENID_SUFFIX: &str = "openid-configuration";

/// What a client needs to know of an authorization server. A list that is absent is not an empty one: it has the default of
/// RFC 8414 section 2, or says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMetadata {
    /// The issuer.
    pub issuer: String,
    /// Where its public keys lie.
    pub jwks_uri: Option<String>,
    /// Where people log in.
    pub authorization_endpoint: Option<String>,
    /// Where clients get tokens.
    pub token_endpoint: Option<String>,
    /// Where clients register (RFC 7591).
    pub registration_endpoint: Option<String>,
    /// The scopes that it tells of; there may be others.
    pub scopes_supported: Option<Vec<String>>,
    /// The grants that it knows.
    pub grant_types_supported: Option<Vec<String>>,
    /// How clients may authenticate at the token endpoint.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// With which algorithms they may sign.
    pub token_endpoint_auth_signing_alg_values_supported: Option<Vec<String>>,
    /// The code challenges that it verifies (RFC 7636): absent means none.
    pub code_challenge_methods_supported: Option<Vec<String>>,
    /// Whether a URL may be a client's id (draft-ietf-oauth-client-id-metadata-document).
    pub client_id_metadata_document_supported: bool,
    /// Whether it names itself in its answers to authorization requests (RFC 9207 section 3).
    pub authorization_response_iss_parameter_supported: bool,
}

impl ServerMetadata {
    /// Reads a document that was fetched from one of [`discovery_urls`] of `issuer`.
    pub fn parse(text: &[u8], issuer: &str) -> Result<ServerMetadata, DocumentError> {
        let document = Document::about(text, "issuer", issuer)?;
        Ok(ServerMetadata {
            issuer: issuer.to_owned(),
            jwks_uri: document.url("jwks_uri")?,
            authorization_endpoint: document.url("authorization_endpoint")?,
            token_endpoint: document.url("token_endpoint")?,
            registration_endpoint: document.url("registration_endpoint")?,
            scopes_supported: document.optional_list("scopes_supported")?,
            grant_types_supported: document.optional_list("grant_types_supported")?,
            token_endpoint_auth_methods_supported: document.optional_list("token_endpoint_auth_methods_supported")?,
            token_endpoint_auth_signing_alg_values_supported: document
                .optional_list("token_endpoint_auth_signing_alg_values_supported")?,
            code_challenge_methods_supported: document.optional_list("code_challenge_methods_supported")?,
            client_id_metadata_document_supported: document.flag("client_id_metadata_document_supported")?,
            authorization_response_iss_parameter_supported: document
                .flag("authorization_response_iss_parameter_supported")?,
        })
    }
}

/// Where a document that speaks for `issuer` says that its keys are. Whoever only verifies tokens does not depend on the
/// rest of it.
pub fn jwks_uri(text: &[u8], issuer: &str) -> Result<String, DocumentError> {
    Document::about(text, "issuer", issuer)?.url("jwks_uri")?.ok_or(DocumentError::Missing("jwks_uri"))
}

/// Where the metadata of `issuer` may lie, in the order in which MCP clients try (authorization, "Authorization Server
/// Metadata Discovery").
pub fn discovery_urls(issuer: &str) -> Result<Vec<String>, IdentifierError> {
    let identifier = Identifier::issuer(issuer)?;
    let mut urls = vec![identifier.well_known(OAUTH_SUFFIX), identifier.well_known(OPENID_SUFFIX)];
    let path = identifier.path().strip_suffix('/').unwrap_or(identifier.path());
    if !path.is_empty() {
        urls.push(format!("{}{path}/.well-known/{OPENID_SUFFIX}", identifier.origin()));
    }
    Ok(urls)
}

/// The local authority's own document. Its tokens are issued out of band, so there is no endpoint, and both lists say
/// that explicitly: RFC 8414 requires `response_types_supported`, and an absent `grant_types_supported` would mean the
/// authorization-code grant (section 2).
pub fn local_document(issuer: &str, jwks_uri: &str) -> Result<String, DocumentError> {
    #[derive(Serialize)]
    struct Local<'a> {
        issuer: &'a str,
        jwks_uri: &'a str,
        response_types_supported: [&'a str; 0],
        grant_types_supported: [&'a str; 0],
    }
    Identifier::issuer(issuer).map_err(|cause| DocumentError::Url { member: "issuer", cause })?;
    Identifier::resource(jwks_uri).map_err(|cause| DocumentError::Url { member: "jwks_uri", cause })?;
    let local = Local { issuer, jwks_uri, response_types_supported: [], grant_types_supported: [] };
    // Strings and empty lists always serialize.
    Ok(serde_json::to_string(&local).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_follows_the_order_of_the_specification() {
        let with_path = [
            "https://auth.example.com/.well-known/oauth-authorization-server/tenant1",
            "https://auth.example.com/.well-known/openid-configuration/tenant1",
            "https://auth.example.com/tenant1/.well-known/openid-configuration",
        ];
        assert_eq!(discovery_urls("https://auth.example.com/tenant1").unwrap(), with_path);
        assert_eq!(discovery_urls("https://auth.example.com/tenant1/").unwrap(), with_path);
        let without_path = [
            "https://auth.example.com/.well-known/oauth-authorization-server",
            "https://auth.example.com/.well-known/openid-configuration",
        ];
        assert_eq!(discovery_urls("https://auth.example.com").unwrap(), without_path);
        assert_eq!(discovery_urls("https://auth.example.com/").unwrap(), without_path);
        assert!(discovery_urls("https://auth.example.com/?x").is_err());
        assert!(discovery_urls("http://auth.example.com").is_err());
    }

    #[test]
    fn the_issuer_must_be_exactly_the_one_asked_for() {
        let text = br#"{"issuer":"https://as.example/a","jwks_uri":"https://keys.example/jwks","token_endpoint":"https://as.example/t"}"#;
        let parsed = ServerMetadata::parse(text, "https://as.example/a").unwrap();
        assert_eq!(parsed.jwks_uri.as_deref(), Some("https://keys.example/jwks"));
        assert_eq!(jwks_uri(text, "https://as.example/a").as_deref(), Ok("https://keys.example/jwks"));
        assert_eq!(parsed.authorization_endpoint, None);
        for other in ["https://as.example/a/", "https://as.example", "https://as.example/A", "https://as.example/a2"] {
            assert_eq!(ServerMetadata::parse(text, other).unwrap_err().reason(), "MetadataMismatch", "{other}");
            assert_eq!(jwks_uri(text, other).unwrap_err().reason(), "MetadataMismatch", "{other}");
        }
    }

    #[test]
    fn what_a_client_needs_is_read_and_absence_is_not_emptiness() {
        let text = br#"{
            "issuer": "https://as.example",
            "token_endpoint": "https://as.example/token",
            "registration_endpoint": "https://as.example/register",
            "scopes_supported": ["openid", "mcp:use"],
            "response_types_supported": ["code"],
            "grant_types_supported": [],
            "token_endpoint_auth_methods_supported": ["private_key_jwt", "none"],
            "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
            "client_id_metadata_document_supported": true,
            "authorization_response_iss_parameter_supported": true,
            "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.as.example/token"}
        }"#;
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        let expected = ServerMetadata {
            issuer: "https://as.example".to_owned(),
            jwks_uri: None,
            authorization_endpoint: None,
            token_endpoint: Some("https://as.example/token".to_owned()),
            registration_endpoint: Some("https://as.example/register".to_owned()),
            scopes_supported: list(&["openid", "mcp:use"]),
            grant_types_supported: list(&[]),
            token_endpoint_auth_methods_supported: list(&["private_key_jwt", "none"]),
            token_endpoint_auth_signing_alg_values_supported: list(&["ES256"]),
            code_challenge_methods_supported: list(&["S256"]),
            client_id_metadata_document_supported: true,
            authorization_response_iss_parameter_supported: true,
        };
        assert_eq!(ServerMetadata::parse(text, "https://as.example"), Ok(expected));
        for bare in [
            r#"{"issuer":"https://as.example"}"#,
            r#"{"issuer":"https://as.example","scopes_supported":null,"registration_endpoint":null,"client_id_metadata_document_supported":null}"#,
        ] {
            let parsed = ServerMetadata::parse(bare.as_bytes(), "https://as.example").unwrap();
            assert_eq!((parsed.scopes_supported, parsed.registration_endpoint), (None, None));
            assert!(!parsed.client_id_metadata_document_supported);
        }
    }

    #[test]
    fn keys_are_found_whatever_else_a_document_says() {
        let odd = br#"{"issuer":"https://as","jwks_uri":"https://as/jwks","registration_endpoint":"http://as/r","scopes_supported":"a b"}"#;
        assert_eq!(jwks_uri(odd, "https://as").as_deref(), Ok("https://as/jwks"));
        assert!(ServerMetadata::parse(odd, "https://as").is_err());
    }

    #[test]
    fn hostile_documents_are_refused() {
        for (text, reason) in [
            (r#"{"jwks_uri":"https://as/jwks"}"#, "MetadataIncomplete"),
            (r#"{"issuer":"https://as","jwks_uri":"http://169.254.169.254/jwks"}"#, "UrlNotHttps"),
            (r#"{"issuer":"https://as","jwks_uri":"file:///etc/passwd"}"#, "UrlNotHttps"),
            (r#"{"issuer":"https://as","jwks_uri":["https://as/jwks"]}"#, "MetadataMalformed"),
            (r#"{"issuer":"https://as","registration_endpoint":"http://as/register"}"#, "UrlNotHttps"),
            (r#"{"issuer":"https://as","registration_endpoint":"https://u:p@as/register"}"#, "UrlHasUserInfo"),
            (r#"{"issuer":"https://as","grant_types_supported":"authorization_code"}"#, "MetadataMalformed"),
            (r#"{"issuer":"https://as","scopes_supported":[1]}"#, "MetadataMalformed"),
            (r#"{"issuer":"https://as","client_id_metadata_document_supported":"true"}"#, "MetadataMalformed"),
            (r#"{"issuer":"https://as","issuer":"https://as","jwks_uri":"https://as/jwks"}"#, "JsonDuplicateMember"),
            ("<html>", "JsonMalformed"),
        ] {
            assert_eq!(ServerMetadata::parse(text.as_bytes(), "https://as").unwrap_err().reason(), reason, "{text}");
        }
    }

    #[test]
    fn the_local_document_offers_no_endpoint() {
        let text = local_document("http://127.0.0.1:8080", "http://127.0.0.1:8080/-/jwks").unwrap();
        assert_eq!(
            text,
            r#"{"issuer":"http://127.0.0.1:8080","jwks_uri":"http://127.0.0.1:8080/-/jwks","response_types_supported":[],"grant_types_supported":[]}"#
        );
        assert_eq!(
            ServerMetadata::parse(text.as_bytes(), "http://127.0.0.1:8080").unwrap().authorization_endpoint,
            None
        );
        assert!(local_document("http://gw.example", "https://gw.example/-/jwks").is_err());
    }
}
