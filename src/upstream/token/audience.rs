//! For whom a token is, by its own word (`aud`).
//!
//! Invariant: a token that is good for somebody else as well is not one to be sent: whoever gets it could call the other with it,
//! where it is got for a caller even as that caller. Nobody believes a token for what is read here: the upstream will look closer.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use url::Url;

use crate::generated::server::Oauth;
use crate::oauth::identifier::{Identifier, is_above};
use crate::oauth::json;
use crate::sensitive::Sensitive;

/// So much of somebody else's name is told, in characters.
const MOST_TOLD: usize = 200;

/// The names in a token's `aud`; none, too, if it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) struct Audience(BTreeSet<String>);

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not name the resource, and nothing else says that the token is for it.
    Unsaid,
    /// It names somebody else.
    Other(String),
}

impl Audience {
    pub(super) fn of(token: &Sensitive) -> Self {
        let claims = || -> Option<Value> {
            let payload = BASE64_URL_SAFE_NO_PAD.decode(token.expose().split('.').nth(1)?).ok()?;
            json::object(&payload).ok()?.remove("aud")
        };
        let all = match claims() {
            Some(Value::Array(all)) => all,
            one => one.into_iter().collect(),
        };
        Self(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Whether the token can be sent to the upstream. Who does not know RFC 8707 ignores `resource` (RFC 6749 section 3.2), and
    /// gives what is good somewhere else, or there as well. Names that are no URLs mean something to the issuer and the
    /// upstream (RFC 8707 section 2).
    pub(super) fn judge(&self, oauth: &Oauth) -> Result<(), Fault> {
        let resource = &oauth.resource;
        let is_named = self.0.iter().any(|name| is_above(name, resource));
        let is_known = |name: &str| is_above(name, resource) || is_named && is_issuers(name, &oauth.issuer);
        // What is exchanged for a caller's token and is for the client itself could be exchanged on, or come back as that caller.
        let is_own = |name: &str| oauth.grant.callers_of().is_some() && name == oauth.client_id;
        match self.0.iter().find(|name| is_url(name) && !is_known(name) || is_own(name)) {
            Some(other) => Err(Fault::Other(told(other))),
            None if oauth.says_resource || self.0.contains(resource) => Ok(()),
            None => Err(Fault::Unsaid),
        }
    }

    /// The same for a token with scopes that the upstream has chosen: they may say what it is good for, and not where. `before`
    /// is for whom one without them is.
    pub(super) fn judge_wider(&self, before: &Self, oauth: &Oauth) -> Result<(), Fault> {
        let is_known = |name: &str| is_above(name, &oauth.resource) || is_issuers(name, &oauth.issuer);
        match self.0.difference(&before.0).find(|name| !is_known(name)) {
            Some(other) => Err(Fault::Other(told(other))),
            None => Ok(()),
        }
    }
}

/// Also of one that is no resource identifier: whoever is within the cluster is called by http.
fn is_url(name: &str) -> bool {
    Url::parse(name).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

/// The issuer, and where it tells a token's owner of themself (OpenID Connect Core section 5.3): some add that to every token.
fn is_issuers(name: &str, issuer: &str) -> bool {
    let (Ok(named), Ok(own)) = (Identifier::resource(name), Identifier::issuer(issuer)) else { return false };
    name == issuer || named.origin() == own.origin() && named.path().ends_with("/userinfo")
}

/// Somebody else's name, for those who can mend it: short, and on one line.
fn told(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(MOST_TOLD).collect()
}
