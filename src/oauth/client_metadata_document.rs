//! Client ID Metadata Documents (draft-ietf-oauth-client-id-metadata-document): a client whose id is the URL of what it
//! says of itself.
//!
//! Invariant: a document that leaves here is one that every reader known to us accepts: where the drafts (-00 to -02) and
//! servers differ, the strictest reading counts. Nothing in it is secret, and nothing in it depends on a secret.

use serde_json::{Map, Value};
use url::Url;

use super::client_registration::{AuthMethod, ClientMetadata};
use super::document::{Document, DocumentError, Malformed};
use super::identifier::{Identifier, IdentifierError};
use super::jwk;

/// The longest document: readers may stop at 5 KB (-02 section 8.7).
pub const MAX_BYTES: usize = 5000;
/// What a server gives to a client that it registered itself; two of them the drafts forbid by name.
const FORBIDDEN: [&str; 4] =
    ["client_secret", "client_secret_expires_at", "registration_access_token", "registration_client_uri"];
/// Members that are addresses for people or servers: https only.
const ADDRESSES: [&str; 5] = ["client_uri", "jwks_uri", "logo_uri", "policy_uri", "tos_uri"];

/// Why a URL cannot be a client's id, or a document is not one that every reader accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientDocumentError {
    /// The URL is none that identifies anything.
    #[error("the client id is {0}")]
    Url(#[from] IdentifierError),
    /// The URL is not https, has no path, or could be written in another way.
    #[error(
        "the client id must be an https URL with a path, as the URL standard writes it (lower-case host, no default port)"
    )]
    UrlForm,
    /// Longer than readers may take.
    #[error("the document is longer than {MAX_BYTES} bytes: give the keys by `jwks_uri`, or fewer redirect URIs")]
    TooLarge,
    /// Unreadable, about another URL, incomplete or malformed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It has a member that only a server gives.
    #[error("the document has `{0}`, which nobody may publish")]
    Forbidden(&'static str),
    /// Anyone can read it, so it cannot name a method that rests on a shared secret.
    #[error("the document's `token_endpoint_auth_method` must be private_key_jwt or none: a document has no secret")]
    SharedSecret,
    /// An address is not https.
    #[error("the document's `{0}` is not https")]
    NotHttps(&'static str),
}

impl From<Malformed> for ClientDocumentError {
    fn from(malformed: Malformed) -> Self {
        ClientDocumentError::Document(malformed.into())
    }
}

impl ClientDocumentError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            ClientDocumentError::Url(cause) => cause.reason(),
            ClientDocumentError::UrlForm => "ClientIdUrlForm",
            ClientDocumentError::TooLarge => "ClientDocumentTooLarge",
            ClientDocumentError::Document(cause) => cause.reason(),
            ClientDocumentError::Forbidden(_) => "ClientDocumentForbidden",
            ClientDocumentError::SharedSecret => "ClientDocumentSharedSecret",
            ClientDocumentError::NotHttps(_) => "UrlNotHttps",
        }
    }
}

/// The document to serve at `url`.
///
/// # Errors
/// If it would not be one that every reader accepts.
pub fn document(url: &str, metadata: &ClientMetadata) -> Result<String, ClientDocumentError> {
    let mut members = metadata.members();
    members.insert("client_id".to_owned(), Value::from(url));
    let text = Value::Object(members).to_string();
    parse(text.as_bytes(), url)?;
    Ok(text)
}

/// Reads the document that was found at `url`, as the strictest reader does. What comes back can be compared with what was
/// meant ([`ClientMetadata::drift`]).
///
/// # Errors
/// If any reader would refuse it.
pub fn parse(text: &[u8], url: &str) -> Result<Map<String, Value>, ClientDocumentError> {
    check_url(url)?;
    if text.len() > MAX_BYTES {
        return Err(ClientDocumentError::TooLarge);
    }
    let document = Document::about(text, "client_id", url)?;
    if let Some(member) = FORBIDDEN.into_iter().find(|member| document.has(member)) {
        return Err(ClientDocumentError::Forbidden(member));
    }
    for member in ADDRESSES {
        if document.url(member)?.is_some_and(|url| !url.starts_with("https:")) {
            return Err(ClientDocumentError::NotHttps(member));
        }
    }
    if document.text("client_name")?.is_none_or(str::is_empty) {
        return Err(DocumentError::Missing("client_name").into());
    }
    check_keys(&document)?;
    check_grants(&document)?;
    Ok(document.into_members())
}

/// -00 section 3: https, with a path, without dot segments, fragment and user information. It is compared as text, so it
/// has only one way to be written; a query it should not have, and some servers refuse it.
fn check_url(url: &str) -> Result<(), ClientDocumentError> {
    let identifier = Identifier::issuer(url)?;
    let is_plain = Url::parse(url).is_ok_and(|parsed| parsed.as_str() == url && parsed.scheme() == "https");
    if is_plain && identifier.path().len() > 1 { Ok(()) } else { Err(ClientDocumentError::UrlForm) }
}

/// The method is said, since its default is one with a secret; keys are there if they are needed, once (RFC 7591 section 2
/// forbids both members together), and public.
fn check_keys(document: &Document) -> Result<(), ClientDocumentError> {
    let name = "token_endpoint_auth_method";
    let method = document.text(name)?.ok_or(DocumentError::Missing(name))?.parse::<AuthMethod>();
    let needs_keys = match method {
        Ok(AuthMethod::PrivateKeyJwt) => true,
        Ok(AuthMethod::None) => false,
        _ => return Err(ClientDocumentError::SharedSecret),
    };
    let is_public =
        |jwks| jwk::keys(jwks).is_some_and(|keys| !keys.is_empty() && keys.iter().all(|key| is_public_key(key)));
    match (document.member("jwks"), document.member("jwks_uri")) {
        (None, None) if needs_keys => Err(DocumentError::Missing("jwks_uri").into()),
        (Some(_), Some(_)) => Err(Malformed("jwks").into()),
        (Some(jwks), None) if !is_public(jwks) => Err(Malformed("jwks").into()),
        _ => Ok(()),
    }
}

fn is_public_key(key: &Map<String, Value>) -> bool {
    !jwk::has_secrets(key) && key.get("kty").is_some_and(|kty| kty != "oct")
}

/// Whoever sends people to log in says where they come back, exactly; nobody else asks for a code.
fn check_grants(document: &Document) -> Result<(), ClientDocumentError> {
    let or_default = |list: Option<Vec<String>>, default: &str| list.unwrap_or_else(|| vec![default.to_owned()]);
    let grants = or_default(document.optional_list("grant_types")?, "authorization_code");
    let responses = or_default(document.optional_list("response_types")?, "code");
    let redirects = document.list("redirect_uris")?;
    let has_code = grants.iter().any(|grant| grant == "authorization_code");
    if responses.iter().any(|response| response == "code") != has_code {
        return Err(Malformed("response_types").into());
    }
    if has_code && redirects.is_empty() {
        return Err(DocumentError::Missing("redirect_uris").into());
    }
    // RFC 6749 section 3.1.2: absolute, without a fragment.
    let is_exact = |uri: &String| Url::parse(uri).is_ok_and(|uri| uri.fragment().is_none());
    if redirects.iter().all(is_exact) { Ok(()) } else { Err(Malformed("redirect_uris").into()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::client_registration::{ApplicationType, Keys};
    use super::*;

    const URL: &str = "https://gw.example/-/clients/4f0c9d3e";

    fn metadata() -> ClientMetadata {
        ClientMetadata {
            client_name: "Reporting agent".to_owned(),
            application_type: ApplicationType::Web,
            redirect_uris: vec!["https://gw.example/oauth/callback/a".to_owned()],
            grant_types: vec!["authorization_code".to_owned()],
            response_types: vec!["code".to_owned()],
            auth_method: AuthMethod::PrivateKeyJwt,
            scopes: Vec::new(),
            keys: Keys::At("https://gw.example/-/clients/4f0c9d3e/jwks".to_owned()),
            software_id: String::new(),
            software_version: String::new(),
            software_statement: None,
        }
    }

    fn reason(url: &str, metadata: &ClientMetadata) -> &'static str {
        document(url, metadata).map_or_else(|error| error.reason(), |_| "accepted")
    }

    /// What is said of a good document with `member` changed; null takes it away.
    fn changed(member: &str, value: Value) -> &'static str {
        let mut members: Map<String, Value> = serde_json::from_str(&document(URL, &metadata()).unwrap()).unwrap();
        members.insert(member.to_owned(), value);
        members.retain(|_, value| !value.is_null());
        parse(Value::Object(members).to_string().as_bytes(), URL).map_or_else(|error| error.reason(), |_| "accepted")
    }

    #[test]
    fn a_document_says_what_was_meant_and_is_read_back_without_a_difference() {
        let text = document(URL, &metadata()).unwrap();
        let read = parse(text.as_bytes(), URL).unwrap();
        assert_eq!(read["client_id"], URL);
        assert_eq!(metadata().drift(&read), []);
        let native = ClientMetadata {
            application_type: ApplicationType::Native,
            redirect_uris: vec!["http://127.0.0.1/callback".to_owned(), "com.example.app:/callback".to_owned()],
            auth_method: AuthMethod::None,
            keys: Keys::None,
            ..metadata()
        };
        assert_eq!(reason(URL, &native), "accepted");
        let service = ClientMetadata {
            redirect_uris: Vec::new(),
            grant_types: vec!["client_credentials".to_owned()],
            response_types: Vec::new(),
            ..metadata()
        };
        assert_eq!(reason(URL, &service), "accepted");
    }

    #[test]
    fn a_client_id_is_a_url_that_can_be_written_in_one_way_only() {
        for (url, expected) in [
            (URL, "accepted"),
            ("https://gw.example:8443/c", "accepted"),
            ("https://gw.example/c/", "accepted"),
            ("https://gw.example", "ClientIdUrlForm"),
            ("https://gw.example/", "ClientIdUrlForm"),
            ("https://gw.example:443/c", "ClientIdUrlForm"),
            ("https://GW.example/c", "ClientIdUrlForm"),
            ("http://127.0.0.1/c", "ClientIdUrlForm"),
            ("http://gw.example/c", "UrlNotHttps"),
            ("https://gw.example/c?a=b", "UrlHasQuery"),
            ("https://gw.example/c#a", "UrlHasFragment"),
            ("https://a@gw.example/c", "UrlHasUserInfo"),
            ("https://gw.example/a/../c", "UrlPathAmbiguous"),
            ("https://gw.example/a/%2E%2e/c", "UrlPathAmbiguous"),
            ("com.example.app:/c", "UrlMalformed"),
        ] {
            assert_eq!(reason(url, &metadata()), expected, "{url}");
        }
    }

    #[test]
    fn the_strictest_reader_accepts_it() {
        let secret = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA", "d": "AAAA"}]});
        let public = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}]});
        for (member, value, expected) in [
            ("client_id", json!("https://gw.example/-/clients/4f0c9d3e/"), "MetadataMismatch"),
            ("client_id", json!(null), "MetadataIncomplete"),
            ("client_name", json!(null), "MetadataIncomplete"),
            ("client_name", json!(""), "MetadataIncomplete"),
            ("client_name", json!(7), "MetadataMalformed"),
            ("client_secret", json!("x"), "ClientDocumentForbidden"),
            ("client_secret_expires_at", json!(0), "ClientDocumentForbidden"),
            ("registration_access_token", json!("x"), "ClientDocumentForbidden"),
            ("token_endpoint_auth_method", json!(null), "MetadataIncomplete"),
            ("token_endpoint_auth_method", json!("client_secret_basic"), "ClientDocumentSharedSecret"),
            ("token_endpoint_auth_method", json!("client_secret_jwt"), "ClientDocumentSharedSecret"),
            ("token_endpoint_auth_method", json!("none"), "accepted"),
            ("jwks_uri", json!(null), "MetadataIncomplete"),
            ("jwks_uri", json!("http://gw.example/jwks"), "UrlNotHttps"),
            ("jwks_uri", json!("http://127.0.0.1/jwks"), "UrlNotHttps"),
            ("logo_uri", json!("data:image/png;base64,AAAA"), "UrlMalformed"),
            ("client_uri", json!("https://gw.example/"), "accepted"),
            ("jwks", public.clone(), "MetadataMalformed"),
            ("redirect_uris", json!(null), "MetadataIncomplete"),
            ("redirect_uris", json!([]), "MetadataIncomplete"),
            ("redirect_uris", json!("https://gw.example/a"), "MetadataMalformed"),
            ("redirect_uris", json!(["/callback"]), "MetadataMalformed"),
            ("redirect_uris", json!(["https://gw.example/a#b"]), "MetadataMalformed"),
            ("response_types", json!([]), "MetadataMalformed"),
            ("response_types", json!(null), "accepted"),
            ("grant_types", json!(["client_credentials"]), "MetadataMalformed"),
            ("grant_types", json!(null), "accepted"),
            ("x", json!("x".repeat(MAX_BYTES)), "ClientDocumentTooLarge"),
            ("x", json!(1), "accepted"),
        ] {
            assert_eq!(changed(member, value.clone()), expected, "{member} {value:.60}");
        }
        for (jwks, expected) in [
            (public, "accepted"),
            (secret, "MetadataMalformed"),
            (json!({"keys": []}), "MetadataMalformed"),
            (json!({"keys": [{"kty": "oct"}]}), "MetadataMalformed"),
            (json!([]), "MetadataMalformed"),
        ] {
            let inline = ClientMetadata { keys: Keys::Inline(jwks), ..metadata() };
            assert_eq!(reason(URL, &inline), expected);
        }
    }

    #[test]
    fn hostile_documents_are_refused() {
        let parsed = |text: &str| parse(text.as_bytes(), URL).unwrap_err();
        let twice = format!(r#"{{"client_id":"{URL}","client_id":"{URL}"}}"#);
        assert_eq!(parsed(&twice).reason(), "JsonDuplicateMember");
        let nulled = format!(r#"{{"client_id":"{URL}","client_secret":null}}"#);
        assert_eq!(parsed(&nulled).reason(), "ClientDocumentForbidden", "a reader may look for the name alone");
        assert_eq!(parsed("<html>").reason(), "JsonMalformed");
        assert_eq!(parsed(&format!("[{}", "[".repeat(100))).reason(), "JsonTooDeep");
        let large = ClientMetadata { redirect_uris: vec!["https://gw.example/a".to_owned(); 300], ..metadata() };
        assert_eq!(reason(URL, &large), "ClientDocumentTooLarge");
    }
}
