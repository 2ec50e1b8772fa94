//! From a presented token to a caller that may be decided upon, in two phases.
//!
//! Invariant: a [`Verified`] exists only after every step of the fixed order below, and an [`Admitted`] only after the
//! checks that time, revocation and the server decide, which run on every call, cache or not.
//!
//! The order (each step sees only what the earlier ones let through): size and segments; strict decoding; `alg`, `crit`
//! and `typ`; the issuer selects an authority by exact string; a key by id, use and type; the signature; times; the
//! shape of an access token; sender constraint; subject, kind, actor, groups, scopes.

mod claims;
mod compact;
mod error;
mod kind;
pub mod review;
mod service_account;
#[cfg(test)]
mod tests;
mod times;

use std::sync::Arc;

pub use error::{Missing, Part, TokenError};

use self::compact::Compact;
use self::times::Times;
use super::anchor::{Anchor, Stamp, ValidAfter};
use super::keys::{Algorithm, NoKey};
use super::principal::{Kind, Principal};
use super::scope::GrantedScopes;
use crate::generated::ObjectId;
use crate::sensitive::Sensitive;

/// What is proven about a token for as long as its authority's configuration and keys stay what they are.
#[derive(Clone, Debug)]
pub struct Verified {
    principal: Arc<Principal>,
    binding: [u8; 32],
    stamp: Stamp,
    audiences: Box<[Box<str>]>,
    scopes: GrantedScopes,
    id: Option<Box<str>>,
    times: Times,
    needs_review: bool,
}

impl AsRef<Verified> for Verified {
    fn as_ref(&self) -> &Verified {
        self
    }
}

impl Verified {
    /// The caller.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// [`Principal::binding`], computed once: what sealed identifiers are bound to.
    pub fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    /// The scopes that the token carries.
    pub fn scopes(&self) -> &GrantedScopes {
        &self.scopes
    }

    /// The token's `jti`, for records.
    pub fn token_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The token's `exp`, in Unix seconds: open streams end then.
    pub fn expires(&self) -> i64 {
        self.times.expires
    }

    /// The token's `iat`, in Unix seconds.
    pub fn issued(&self) -> Option<i64> {
        self.times.issued
    }

    /// Whether the API server is to be asked about the token too ([`review`]).
    pub fn needs_review(&self) -> bool {
        self.needs_review
    }

    /// The one of `anchors` under which the token was verified, unchanged since.
    pub(super) fn anchor_in<'a>(&self, anchors: &'a [Arc<Anchor>]) -> Option<&'a Arc<Anchor>> {
        anchors.iter().find(|anchor| anchor.stamp() == self.stamp)
    }
}

/// What one server accepts.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// The authorities that it trusts, as they are now.
    pub anchors: &'a [Arc<Anchor>],
    /// Which server it is: `portcullis:<namespace>/<name>` is its audience for ServiceAccounts.
    pub id: &'a ObjectId,
    /// Its resource identifier.
    pub resource: &'a str,
    /// Audiences that it accepts besides, each only from an authority that allows it.
    pub audiences: &'a [String],
}

/// A caller that this server may decide upon now.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    verified: &'a Verified,
    server: Use<'a>,
    anchor: &'a Anchor,
}

impl<'a> Admitted<'a> {
    /// What is proven about the token.
    pub fn verified(&self) -> &'a Verified {
        self.verified
    }

    /// The authority that vouches for it.
    pub fn anchor(&self) -> &'a Anchor {
        self.anchor
    }

    /// The token's audiences that the server accepts: one at least.
    pub fn audiences(&self) -> impl Iterator<Item = &'a str> {
        accepted_audiences(self.verified, self.server, self.anchor)
    }
}

/// Phase one: proves `token` against the authorities of a server at `now` (Unix seconds). The result may be cached.
pub fn verify(token: &str, anchors: &[Arc<Anchor>], now: i64) -> Result<Verified, TokenError> {
    let jws = Compact::parse(token)?;
    let anchor = select_anchor(&jws, anchors)?;
    let algorithm = check_header(&jws, anchor)?;
    check_signature(&jws, anchor, algorithm, now)?;
    let times = Times::read(&jws.claims)?;
    times.check(anchor.rules(), now)?;
    claims::read(&jws.claims, anchor, times)
}

/// Phase two, on every call: time, authority, audience and revocation. Allocates nothing.
pub fn admit<'a>(verified: &'a Verified, server: &Use<'a>, now: i64) -> Result<Admitted<'a>, TokenError> {
    let anchor = verified.anchor_in(server.anchors).ok_or(TokenError::UntrustedAuthority)?;
    if !anchor.is_available(now) {
        return Err(TokenError::Unavailable { authority: anchor.name().into() });
    }
    verified.times.check(anchor.rules(), now)?;
    if accepted_audiences(verified, *server, anchor).next().is_none() {
        return Err(TokenError::Audience);
    }
    if anchor.is_revoked(verified.token_id(), &verified.principal.subject, verified.times.issued) {
        return Err(TokenError::Revoked);
    }
    match anchor.valid_after(verified.principal.client.as_deref()) {
        ValidAfter::Always => {}
        ValidAfter::Time(time) if verified.times.issued.is_some_and(|issued| issued >= time) => {}
        ValidAfter::Time(_) => return Err(TokenError::Revoked),
        ValidAfter::Never => return Err(TokenError::ClientNotListed),
    }
    Ok(Admitted { verified, server: *server, anchor })
}

/// Exact membership (RFC 7519 section 4.1.3): no prefix, no origin, no trailing slash.
fn accepted_audiences<'a>(
    verified: &'a Verified,
    server: Use<'a>,
    anchor: &'a Anchor,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let of_service_account = verified.principal.kind == Kind::ServiceAccount;
    let audiences = verified.audiences.iter().map(|audience| &**audience);
    audiences.filter(move |audience| {
        let is = |accepted: &String| accepted == audience;
        *audience == server.resource
            || (of_service_account && service_account::names(audience, server.id))
            || (server.audiences.iter().any(is) && anchor.rules().allowed_audiences.iter().any(is))
    })
}

/// The issuer as claimed, unproven yet, only chooses between configured authorities.
fn select_anchor<'a>(jws: &Compact<'_>, anchors: &'a [Arc<Anchor>]) -> Result<&'a Anchor, TokenError> {
    let issuer = claims::text(&jws.claims, "iss")?;
    let mut selected = anchors.iter().filter(|anchor| anchor.issuer() == issuer);
    let anchor = selected.next().ok_or(TokenError::UntrustedIssuer)?;
    if selected.next().is_some() { Err(TokenError::AmbiguousIssuer) } else { Ok(anchor) }
}

/// `alg`, `crit` and `typ`. Members that point to keys (`jku`, `jwk`, `x5u`, `x5c`) are never looked at.
fn check_header(jws: &Compact<'_>, anchor: &Anchor) -> Result<Algorithm, TokenError> {
    if jws.header.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    let algorithm = jws
        .header_text("alg")?
        .and_then(|name| anchor.algorithm(name))
        .ok_or_else(|| TokenError::Algorithm { authority: anchor.name().into() })?;
    kind::check_typ(jws.header_text("typ")?, &anchor.rules().typ)?;
    Ok(algorithm)
}

fn check_signature(jws: &Compact<'_>, anchor: &Anchor, algorithm: Algorithm, now: i64) -> Result<(), TokenError> {
    let authority = || Box::from(anchor.name());
    let keys = anchor.keys(now).ok_or_else(|| TokenError::Unavailable { authority: authority() })?;
    let kid = jws.header_text("kid")?;
    let key = keys.select(kid, algorithm).map_err(|cause| match cause {
        NoKey::Unknown => {
            TokenError::UnknownKey { authority: authority(), kid: Sensitive::new(kid.unwrap_or_default()) }
        }
        NoKey::Unfit => TokenError::UnfitKey { authority: authority() },
        NoKey::Ambiguous => TokenError::AmbiguousKey { authority: authority() },
    })?;
    if key.verifies(jws.signed, &jws.signature) {
        Ok(())
    } else {
        Err(TokenError::Signature { authority: authority() })
    }
}
