//! What kind of token this is, and what kind of caller its subject.
//!
//! Invariant: tokens of other kinds (ID, refresh, logout, assertion, proof) are refused by rules that no access token of
//! the same issuer breaks (RFC 8725 section 3.12), and a subject is a client only on marks that the issuer sets.

use serde_json::{Map, Value};

use super::super::principal::Kind;
use super::error::TokenError;
use crate::generated::authority::TypRule;

/// Claims of RFC 9068 section 2.2 that the rest of the pipeline does not ask for by itself.
const ACCESS_TOKEN_CLAIMS: [&str; 4] = ["client_id", "iat", "jti", "sub"];

/// Claims that ID tokens, logout tokens and security events have and access tokens do not.
const FOREIGN_CLAIMS: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "events"];

/// Values of a `typ` *claim* with which issuers mark their other tokens.
const FOREIGN_TYPES: [&str; 5] = ["id", "refresh", "offline", "logout", "serialized-id"];

/// Claims about a person or the way in which a person logged in: a client acting for itself has none of them.
const PERSON_CLAIMS: [&str; 8] =
    ["auth_time", "amr", "acr", "sid", "email", "given_name", "family_name", "phone_number"];

/// The header's `typ`. Media types compare without regard to case (RFC 7515 section 4.1.9).
pub(super) fn check_typ(typ: Option<&str>, rule: &TypRule) -> Result<(), TokenError> {
    let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
    let is_access_token = is("at+jwt") || is("application/at+jwt");
    let fits = match rule {
        TypRule::AccessTokenJwt => is_access_token,
        TypRule::Compatible => is_access_token || typ.is_none() || is("JWT"),
        // The API server writes none; an external signer (KEP-740) may write `JWT`.
        TypRule::ServiceAccount { .. } => typ.is_none() || is("JWT"),
    };
    if fits { Ok(()) } else { Err(TokenError::NotAccessToken("its header `typ` says otherwise")) }
}

/// Whether the claims are those of an access token.
pub(super) fn check_claims(claims: &Map<String, Value>, rule: &TypRule) -> Result<(), TokenError> {
    match rule {
        TypRule::AccessTokenJwt => match ACCESS_TOKEN_CLAIMS.iter().find(|name| !claims.contains_key(**name)) {
            Some(missing) => Err(TokenError::MissingClaim((*missing).into())),
            None => Ok(()),
        },
        TypRule::Compatible => check_compatible(claims),
        // Told by its own claim, which its reading asks for.
        TypRule::ServiceAccount { .. } => Ok(()),
    }
}

fn check_compatible(claims: &Map<String, Value>) -> Result<(), TokenError> {
    if FOREIGN_CLAIMS.iter().any(|name| claims.contains_key(*name)) {
        return Err(TokenError::NotAccessToken("it has claims of an ID or logout token"));
    }
    match claims.get("typ") {
        None => {}
        Some(Value::String(typ)) if !FOREIGN_TYPES.iter().any(|foreign| typ.eq_ignore_ascii_case(foreign)) => {}
        Some(_) => return Err(TokenError::NotAccessToken("its `typ` claim says otherwise")),
    }
    if ["scope", "scp", "roles"].iter().any(|name| claims.contains_key(*name)) {
        Ok(())
    } else {
        Err(TokenError::NotAccessToken("it has neither `scope`, `scp` nor `roles`"))
    }
}

/// A person, or a client acting for itself (RFC 9068 section 5 and RFC 9700 section 4.15: a client that chose a person's
/// subject as its id must not pass for that person). Marks of both: refused.
pub(super) fn of_subject(claims: &Map<String, Value>, subject: &str, client: &str) -> Result<Kind, TokenError> {
    let says = |name: &str, value: &str| claims.get(name).and_then(Value::as_str) == Some(value);
    let acts_for_itself =
        subject == client || says("sub", client) || says("idtyp", "app") || says("gty", "client-credentials");
    let is_person = says("idtyp", "user") || PERSON_CLAIMS.iter().any(|name| claims.contains_key(*name));
    match (acts_for_itself, is_person) {
        (true, true) => Err(TokenError::AmbiguousSubject),
        (true, false) => Ok(Kind::Client),
        (false, _) => Ok(Kind::User),
    }
}
