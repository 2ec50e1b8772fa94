//! What a server has made of a registration.
//!
//! Invariant: a client that is registered as it was asked for has no difference, however its server writes lists, scopes
//! and keys, and whatever it adds; whatever lets somebody do more, or somebody else do the same, is a difference that
//! says so.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{AuthMethod, ClientMetadata, Keys};
use crate::oauth::jwk;
use crate::oauth::refusal::{one_line, shortened};

/// How much of a value is shown, in characters.
const MAX_SHOWN: usize = 200;
const NOTHING: &str = "nothing";
const UNREADABLE: &str = "something unreadable";

/// One member that is not as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The member.
    pub field: &'static str,
    /// What was asked for, for people.
    pub wanted: String,
    /// What is registered, for people: on one line and shortened, since it is a stranger's text.
    pub got: String,
    /// Whether it gives more than was asked for, or gives it to others.
    pub weakens: bool,
}

/// A list, a scope or a set of keys as the server tells it.
enum Told {
    Nothing,
    Words(BTreeSet<String>),
    Unreadable,
}

impl ClientMetadata {
    /// How `got`, the metadata that a server tells of a client, differs from this. Only what was set is compared. What is
    /// absent is its default: of RFC 7591 section 2, and of OpenID Connect Dynamic Client Registration 1.0 section 2 for
    /// the type of application.
    pub fn drift(&self, got: &Map<String, Value>) -> Vec<Difference> {
        // Null says no more than absence.
        let got = |name: &str| got.get(name).filter(|value| !value.is_null());
        let text = |field, wanted: &str, default: &str| text(field, wanted, got(field), default);
        let list = |field, wanted: &[String], default: &[&str]| list(field, wanted, got(field), default);
        let differences = [
            text("client_name", &self.client_name, ""),
            text("application_type", self.application_type.as_str(), "web"),
            list("redirect_uris", &self.redirect_uris, &[]),
            list("grant_types", &self.grant_types, &["authorization_code"]),
            self.response_types(got("response_types")),
            self.auth_method(got("token_endpoint_auth_method")),
            self.scope(got("scope")),
            self.keys(got("jwks"), got("jwks_uri")),
            text("software_id", &self.software_id, ""),
            text("software_version", &self.software_version, ""),
        ];
        differences.into_iter().flatten().collect()
    }

    fn auth_method(&self, got: Option<&Value>) -> Option<Difference> {
        let difference = text("token_endpoint_auth_method", self.auth_method.as_str(), got, "client_secret_basic")?;
        // Not weaker is only what rests on the same credential and shows no more of it. As a public client, anyone could
        // ask before.
        let weakens = match self.auth_method {
            AuthMethod::None => false,
            AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost => {
                !matches!(difference.got.as_str(), "client_secret_basic" | "client_secret_post" | "client_secret_jwt")
            }
            AuthMethod::PrivateKeyJwt => true,
        };
        Some(Difference { weakens, ..difference })
    }

    /// `none` is an answer with nothing in it (OAuth 2.0 Multiple Response Type Encoding Practices section 4): Keycloak adds
    /// it, and it gives nobody anything.
    fn response_types(&self, got: Option<&Value>) -> Option<Difference> {
        let mut told = items(got, &["code"]);
        if let Told::Words(words) = &mut told {
            words.remove("none");
        }
        compare("response_types", &self.response_types.iter().cloned().collect(), told)
    }

    /// What was left to the server is not compared.
    fn scope(&self, got: Option<&Value>) -> Option<Difference> {
        let told = match got {
            None => Told::Nothing,
            Some(Value::String(text)) => Told::Words(text.split_whitespace().map(str::to_owned).collect()),
            Some(_) => Told::Unreadable,
        };
        if self.scopes.is_empty() { None } else { compare("scope", &self.scopes.iter().cloned().collect(), told) }
    }

    /// Keys are compared by what they are, not by how they are written. Where the server has keys in another form than the
    /// one that was set, somebody else has set them.
    fn keys(&self, jwks: Option<&Value>, jwks_uri: Option<&Value>) -> Option<Difference> {
        match (&self.keys, jwks, jwks_uri) {
            (Keys::None, ..) => None,
            (Keys::At(url), Some(_), _) => Some(difference("jwks_uri", url, "keys in `jwks`", true)),
            (Keys::At(url), None, got) => {
                let difference = text("jwks_uri", url, got, "")?;
                Some(Difference { weakens: got.is_some(), ..difference })
            }
            (Keys::Inline(_), _, Some(_)) => Some(difference("jwks", "keys in `jwks`", "keys at `jwks_uri`", true)),
            (Keys::Inline(wanted), got, None) => {
                let told = got.map_or(Told::Nothing, |jwks| names(jwks).map_or(Told::Unreadable, Told::Words));
                compare("jwks", &names(wanted).unwrap_or_default(), told)
            }
        }
    }
}

fn difference(field: &'static str, wanted: &str, got: &str, weakens: bool) -> Difference {
    let shown = |text| shortened(&one_line(text), MAX_SHOWN);
    Difference { field, wanted: shown(wanted), got: shown(got), weakens }
}

/// One text; an empty one was not set.
fn text(field: &'static str, wanted: &str, got: Option<&Value>, default: &str) -> Option<Difference> {
    let got = match got {
        None => default,
        Some(Value::String(got)) => got,
        Some(_) => return Some(difference(field, wanted, UNREADABLE, false)).filter(|_| !wanted.is_empty()),
    };
    let shown = if got.is_empty() { NOTHING } else { got };
    (!wanted.is_empty() && got != wanted).then(|| difference(field, wanted, shown, false))
}

/// A list of texts, in any order.
fn list(field: &'static str, wanted: &[String], got: Option<&Value>, default: &[&str]) -> Option<Difference> {
    compare(field, &wanted.iter().cloned().collect(), items(got, default))
}

fn items(got: Option<&Value>, default: &[&str]) -> Told {
    let item = |item: &Value| item.as_str().map(str::to_owned);
    match got {
        None => Told::Words(default.iter().map(|item| (*item).to_owned()).collect()),
        Some(Value::Array(items)) => {
            items.iter().map(item).collect::<Option<_>>().map_or(Told::Unreadable, Told::Words)
        }
        Some(_) => Told::Unreadable,
    }
}

/// What is more than was asked for weakens, and so does what cannot be judged.
fn compare(field: &'static str, wanted: &BTreeSet<String>, told: Told) -> Option<Difference> {
    let (got, weakens) = match told {
        Told::Words(got) if got == *wanted => return None,
        Told::Words(got) if got.is_empty() => (NOTHING.to_owned(), false),
        Told::Words(got) => (joined(&got), !got.is_subset(wanted)),
        Told::Nothing => (NOTHING.to_owned(), false),
        Told::Unreadable => (UNREADABLE.to_owned(), true),
    };
    Some(difference(field, &if wanted.is_empty() { NOTHING.to_owned() } else { joined(wanted) }, &got, weakens))
}

fn joined(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// What the keys of a set are called: their thumbprints, and for types that have none a digest of all that is said.
fn names(jwks: &Value) -> Option<BTreeSet<String>> {
    let whole = |key: &Map<String, Value>| {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, Value::Object(key.clone()).to_string().as_bytes()))
    };
    let keys = jwk::keys(jwks)?.into_iter();
    Some(keys.map(|key| jwk::thumbprint(key).unwrap_or_else(|| whole(key))).collect())
}
