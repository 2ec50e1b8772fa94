//! OAuth 2.0 Protected Resource Metadata (RFC 9728).
//!
//! Invariant: a parsed document is about exactly the resource that was asked for and names at least one authorization
//! server; a built one says only what the gateway means, and has no empty lists (section 3.2).

use serde::Serialize;

use super::document::{Document, DocumentError};
use super::identifier::{Identifier, IdentifierError};

/// The path below which protected-resource metadata lies.
pub const WELL_KNOWN_PREFIX: &str = "/.well-known/oauth-protected-resource";
const WELL_KNOWN_SUFFIX: &str = "oauth-protected-resource";

/// A protected-resource metadata document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProtectedResource {
    /// The resource identifier.
    pub resource: String,
    /// Issuers of the authorization servers that it trusts; MCP demands at least one.
    pub authorization_servers: Vec<String>,
    /// The scopes to begin with: never all that exist, never `offline_access`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes_supported: Vec<String>,
    /// How tokens may be presented; the gateway's own documents say `header`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bearer_methods_supported: Vec<String>,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Where developers read more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_documentation: Option<String>,
}

impl ProtectedResource {
    /// The document of a resource that the gateway serves: tokens in the header only.
    pub fn new(
        resource: &str,
        authorization_servers: Vec<String>,
        scopes_supported: Vec<String>,
    ) -> Result<ProtectedResource, DocumentError> {
        Identifier::resource(resource).map_err(|cause| DocumentError::Url { member: "resource", cause })?;
        let document = ProtectedResource {
            resource: resource.to_owned(),
            authorization_servers,
            scopes_supported,
            bearer_methods_supported: vec!["header".to_owned()],
            ..ProtectedResource::default()
        };
        document.check_servers()?;
        Ok(document)
    }

    /// Reads a document that was fetched from the metadata URL of `resource`.
    pub fn parse(text: &[u8], resource: &str) -> Result<ProtectedResource, DocumentError> {
        let document = Document::about(text, "resource", resource)?;
        let parsed = ProtectedResource {
            resource: resource.to_owned(),
            authorization_servers: document.list("authorization_servers")?,
            scopes_supported: document.list("scopes_supported")?,
            bearer_methods_supported: document.list("bearer_methods_supported")?,
            resource_name: document.text("resource_name")?.map(str::to_owned),
            resource_documentation: document.url("resource_documentation")?,
        };
        parsed.check_servers()?;
        Ok(parsed)
    }

    /// The JSON text to serve.
    pub fn to_json(&self) -> String {
        // Strings and lists of strings always serialize.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn check_servers(&self) -> Result<(), DocumentError> {
        let member = "authorization_servers";
        if self.authorization_servers.is_empty() {
            return Err(DocumentError::Missing(member));
        }
        let check = |issuer: &String| Identifier::issuer(issuer).map(drop);
        self.authorization_servers.iter().try_for_each(check).map_err(|cause| DocumentError::Url { member, cause })
    }
}

/// Where the metadata of `resource` lies: the well-known part goes between host and path (section 3.1).
pub fn metadata_url(resource: &str) -> Result<String, IdentifierError> {
    Ok(Identifier::resource(resource)?.well_known(WELL_KNOWN_SUFFIX))
}

/// The other way round: which resource path a request for metadata is about. `None` for other paths and for the root,
/// which is nobody's document where a host has several resources.
pub fn resource_path(request_path: &str) -> Option<&str> {
    request_path.strip_prefix(WELL_KNOWN_PREFIX).filter(|path| path.starts_with('/') && path.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_part_goes_between_host_and_path_and_back() {
        for (resource, url) in [
            ("https://gw/ns/a/mcp", "https://gw/.well-known/oauth-protected-resource/ns/a/mcp"),
            ("https://gw", "https://gw/.well-known/oauth-protected-resource"),
            ("https://gw/", "https://gw/.well-known/oauth-protected-resource"),
            ("https://gw/a?x=1", "https://gw/.well-known/oauth-protected-resource/a?x=1"),
            ("http://127.0.0.1:80/a", "http://127.0.0.1:80/.well-known/oauth-protected-resource/a"),
        ] {
            assert_eq!(metadata_url(resource).unwrap(), url);
        }
        assert_eq!(resource_path("/.well-known/oauth-protected-resource/ns/a"), Some("/ns/a"));
        for other in
            ["", "/", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/", "/ns/a"]
        {
            assert_eq!(resource_path(other), None, "{other}");
        }
        assert_eq!(resource_path("/.well-known/oauth-protected-resourceful/a"), None);
    }

    #[test]
    fn a_built_document_is_exact_and_has_no_empty_lists() {
        let document =
            ProtectedResource::new("https://gw/ns/a", vec!["https://as.example".into()], Vec::new()).unwrap();
        assert_eq!(
            document.to_json(),
            r#"{"resource":"https://gw/ns/a","authorization_servers":["https://as.example"],"bearer_methods_supported":["header"]}"#
        );
        assert_eq!(ProtectedResource::parse(document.to_json().as_bytes(), "https://gw/ns/a"), Ok(document));
        let without = ProtectedResource::new("https://gw/ns/a", Vec::new(), Vec::new());
        assert_eq!(without, Err(DocumentError::Missing("authorization_servers")));
    }

    #[test]
    fn a_document_about_another_resource_is_not_used() {
        let text = br#"{"resource":"https://gw/ns/a","authorization_servers":["https://as.example"]}"#;
        assert!(ProtectedResource::parse(text, "https://gw/ns/a").is_ok());
        for other in ["https://gw/ns/a/", "https://gw/ns", "https://gw/ns/A", "https://gw", "https://GW/ns/a"] {
            let error = ProtectedResource::parse(text, other).unwrap_err();
            assert_eq!(error, DocumentError::Mismatch { member: "resource", expected: other.into() });
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let resource = "https://gw/a";
        for (text, reason) in [
            (r#"{"authorization_servers":["https://as"]}"#, "MetadataIncomplete"),
            (r#"{"resource":"https://gw/a"}"#, "MetadataIncomplete"),
            (r#"{"resource":"https://gw/a","authorization_servers":[]}"#, "MetadataIncomplete"),
            (r#"{"resource":["https://gw/a"],"authorization_servers":["https://as"]}"#, "MetadataMalformed"),
            (r#"{"resource":"https://gw/a","authorization_servers":"https://as"}"#, "MetadataMalformed"),
            (r#"{"resource":"https://gw/a","authorization_servers":[1]}"#, "MetadataMalformed"),
            (r#"{"resource":"https://gw/a","authorization_servers":["http://as"]}"#, "UrlNotHttps"),
            (r#"{"resource":"https://gw/a","authorization_servers":["javascript:alert(1)"]}"#, "UrlMalformed"),
            (
                r#"{"resource":"https://gw/a","resource":"https://gw/a","authorization_servers":["https://as"]}"#,
                "JsonDuplicateMember",
            ),
        ] {
            assert_eq!(ProtectedResource::parse(text.as_bytes(), resource).unwrap_err().reason(), reason, "{text}");
        }
        let large = " ".repeat(super::super::document::MAX_DOCUMENT_BYTES + 1);
        assert_eq!(ProtectedResource::parse(large.as_bytes(), resource), Err(DocumentError::TooLarge));
    }
}
