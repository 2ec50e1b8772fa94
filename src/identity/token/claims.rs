//! The claims of a proven token, read into a principal.
//!
//! Invariant: a claim that decides is well-formed or the token is refused; what may be unknown (groups) says so.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::anchor::Anchor;
use super::super::principal::{Actor, Groups, Kind, Principal};
use super::super::scope::GrantedScopes;
use super::error::TokenError;
use super::times::Times;
use super::{Verified, kind, service_account};
use crate::generated::authority::{TokenRules, TypRule};

/// The most audiences of one token.
const MAX_AUDIENCES: usize = 64;
/// The most groups that are taken from a token; with more, whether a group is among them is unknown.
const MAX_GROUPS: usize = 512;
/// The deepest chain of actors, the current one included.
const MAX_ACTORS: usize = 10;

type Claims = Map<String, Value>;

/// Reads the claims of a token whose signature and times were proven.
pub(super) fn read(claims: &Claims, anchor: &Anchor, times: Times) -> Result<Verified, TokenError> {
    let rules = anchor.rules();
    kind::check_claims(claims, &rules.typ)?;
    let audiences = audiences(claims)?;
    if claims.contains_key("cnf") {
        return Err(TokenError::SenderConstrained);
    }
    let subject = text(claims, &rules.subject_claim)?;
    let caller = match &rules.typ {
        TypRule::ServiceAccount { api_audiences, refused, .. } => {
            service_account::caller(claims, subject, &audiences, api_audiences, refused)?
        }
        TypRule::AccessTokenJwt | TypRule::Compatible => oauth_caller(claims, subject, &audiences, rules)?,
    };
    let tenant = rules.tenant_claim.as_deref().map(|name| text(claims, name)).transpose()?;
    let principal = Principal {
        authority: anchor.name().into(),
        issuer: anchor.issuer().into(),
        tenant: tenant.map(Into::into),
        subject: subject.into(),
        kind: caller.kind,
        client: caller.client,
        groups: caller.groups,
        actor: actor(claims)?,
    };
    Ok(Verified {
        binding: principal.binding(),
        principal: Arc::new(principal),
        stamp: anchor.stamp(),
        audiences,
        scopes: scopes(claims, &rules.typ)?,
        id: claims.get("jti").map(|_| text(claims, "jti")).transpose()?.map(Into::into),
        times,
        needs_review: matches!(rules.typ, TypRule::ServiceAccount { token_review: true, .. }),
    })
}

/// What kind of caller a subject is, through which client, in which groups.
pub(super) struct Caller {
    pub(super) kind: Kind,
    pub(super) client: Option<Box<str>>,
    pub(super) groups: Groups,
}

fn oauth_caller(
    claims: &Claims,
    subject: &str,
    audiences: &[Box<str>],
    rules: &TokenRules,
) -> Result<Caller, TokenError> {
    let client = client(claims, &rules.client_claims)?;
    if rules.typ == TypRule::Compatible && audiences.iter().all(|audience| **audience == *client) {
        return Err(TokenError::NotAccessToken("its only audience is its own client"));
    }
    Ok(Caller {
        kind: kind::of_subject(claims, subject, client)?,
        client: Some(client.into()),
        groups: rules.groups_claim.as_deref().map_or_else(|| Groups::Known(Box::new([])), |name| groups(claims, name)),
    })
}

/// A required claim that is a non-empty string without control characters.
pub(super) fn text<'c>(claims: &'c Claims, name: &str) -> Result<&'c str, TokenError> {
    let claim = claims.get(name).ok_or_else(|| TokenError::MissingClaim(name.into()))?;
    printable(claim).ok_or_else(|| TokenError::MalformedClaim(name.into()))
}

pub(super) fn printable(claim: &Value) -> Option<&str> {
    claim.as_str().filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

/// The first present client claim counts; one that is present but malformed is no reason to look further.
fn client<'c>(claims: &'c Claims, names: &[String]) -> Result<&'c str, TokenError> {
    let present = names.iter().find(|name| claims.contains_key(name.as_str()));
    let name = present.or(names.first()).map_or("client_id", String::as_str);
    text(claims, name)
}

/// `aud`: one string or an array of strings (RFC 7519 section 4.1.3).
fn audiences(claims: &Claims) -> Result<Box<[Box<str>]>, TokenError> {
    let claim = claims.get("aud").ok_or_else(|| TokenError::MissingClaim("aud".into()))?;
    let listed = match claim {
        Value::Array(items) if !items.is_empty() && items.len() <= MAX_AUDIENCES => {
            items.iter().map(|item| printable(item).map(Into::into)).collect()
        }
        Value::Array(_) => None,
        one => printable(one).map(|audience| Box::from([audience.into()])),
    };
    listed.ok_or_else(|| TokenError::MalformedClaim("aud".into()))
}

/// The first present of `scope`, `scp` and, where tokens are not marked, `roles`: a space-separated string or an array.
fn scopes(claims: &Claims, rule: &TypRule) -> Result<GrantedScopes, TokenError> {
    let names: &[&str] = match rule {
        TypRule::AccessTokenJwt => &["scope", "scp"],
        TypRule::Compatible => &["scope", "scp", "roles"],
        TypRule::ServiceAccount { .. } => &[],
    };
    let Some((name, claim)) = names.iter().find_map(|name| Some((*name, claims.get(*name)?))) else {
        return Ok(GrantedScopes::default());
    };
    let malformed = || TokenError::MalformedClaim(name.into());
    match claim {
        Value::String(list) => Ok(GrantedScopes::new(list.split(' ').filter(|scope| !scope.is_empty()))),
        Value::Array(items) => {
            let scopes: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            scopes.map(GrantedScopes::new).ok_or_else(malformed)
        }
        _ => Err(malformed()),
    }
}

/// All groups, or the statement that they are not all known: the claim is missing, ill-typed, too long, or replaced by a
/// reference (`_claim_names`, OpenID Connect Core section 5.6.2; `hasgroups`, Entra's word for the same).
fn groups(claims: &Claims, name: &str) -> Groups {
    let replaced =
        claims.get("_claim_names").is_some_and(|names| names.as_object().is_none_or(|n| n.contains_key(name)))
            || claims.contains_key("hasgroups");
    let listed = claims.get(name).and_then(Value::as_array).filter(|items| !replaced && items.len() <= MAX_GROUPS);
    let listed: Option<Vec<Box<str>>> =
        listed.and_then(|items| items.iter().map(|item| printable(item).map(Into::into)).collect());
    listed.map_or(Groups::Unknown, |mut groups| {
        groups.sort_unstable();
        groups.dedup();
        Groups::Known(groups.into())
    })
}

/// The current actor only: earlier ones inform, they never decide (RFC 8693 section 4.1). The whole chain must be sound.
fn actor(claims: &Claims) -> Result<Option<Actor>, TokenError> {
    let Some(current) = claims.get("act") else { return Ok(None) };
    let mut next = Some(current);
    for _ in 0..MAX_ACTORS {
        let Some(actor) = next else { break };
        parse_actor(actor)?;
        next = actor.get("act");
    }
    match next {
        Some(_) => Err(TokenError::MalformedActor),
        None => parse_actor(current).map(Some),
    }
}

fn parse_actor(actor: &Value) -> Result<Actor, TokenError> {
    let subject = actor.get("sub").and_then(printable).ok_or(TokenError::MalformedActor)?;
    let issuer = match actor.get("iss") {
        None => None,
        Some(issuer) => Some(printable(issuer).ok_or(TokenError::MalformedActor)?.into()),
    };
    Ok(Actor { subject: subject.into(), issuer })
}
