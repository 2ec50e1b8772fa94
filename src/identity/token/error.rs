//! Why a token is refused.

use super::super::challenge::{Challenges, Refusal};
use crate::oauth::json::JsonError;
use crate::sensitive::Sensitive;

/// Which part of a compact JWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first segment.
    Header,
    /// The second segment.
    Claims,
    /// The third segment.
    Signature,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Part::Header => "header",
            Part::Claims => "claims",
            Part::Signature => "signature",
        }
    }
}

/// What a refresh of an authority's keys could bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing<'a> {
    /// One key.
    Key {
        /// Whose.
        authority: &'a str,
        /// The id that the token names: a stranger's text.
        kid: &'a str,
    },
    /// Every key: none was fetched yet, or they are too old.
    AllKeys {
        /// Whose.
        authority: &'a str,
    },
}

/// Why a token is refused. Texts are for logs: precise, and free of anything that the token says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than an `Authorization` header may be.
    #[error("the token is too long")]
    TooLarge,
    /// Not three segments; encrypted tokens have five.
    #[error("the token does not have three segments")]
    Segments,
    /// A segment is not unpadded base64url.
    #[error("the token's {} is not base64url", .0.as_str())]
    Encoding(Part),
    /// A segment is not strict JSON.
    #[error("the token's {} is unreadable: {cause}", part.as_str())]
    Json {
        /// Which segment.
        part: Part,
        /// What is wrong with it.
        cause: JsonError,
    },
    /// `alg` is missing, symmetric, `none`, or not allowed by the authority.
    #[error("the token's algorithm is not allowed by authority {authority}")]
    Algorithm {
        /// The authority that its issuer selects.
        authority: Box<str>,
    },
    /// `crit` demands extensions; none is supported (RFC 7515 section 4.1.11).
    #[error("the token's header has critical extensions")]
    Critical,
    /// A header member has the wrong type.
    #[error("the token's header member `{0}` is ill-typed")]
    Header(&'static str),
    /// Not an access token by its `typ`, or by claims that only other tokens have.
    #[error("not an access token: {0}")]
    NotAccessToken(&'static str),
    /// No authority that the server trusts has this issuer.
    #[error("the token's issuer is not trusted by this server")]
    UntrustedIssuer,
    /// Several of the server's authorities have this issuer.
    #[error("several authorities of this server have the token's issuer")]
    AmbiguousIssuer,
    /// The authority has no key of that id. A refresh, once and rate-limited, may bring it.
    #[error("authority {authority} has no key for the token")]
    UnknownKey {
        /// The authority to refresh.
        authority: Box<str>,
        /// The key that the token names: a stranger's text, so it is never printed.
        kid: Sensitive,
    },
    /// The key that the token names is for other algorithms.
    #[error("the token names a key of authority {authority} that does not fit its algorithm")]
    UnfitKey {
        /// The authority.
        authority: Box<str>,
    },
    /// The token names no key, and several would do.
    #[error("the token names no key and authority {authority} has several")]
    AmbiguousKey {
        /// The authority.
        authority: Box<str>,
    },
    /// The signature is not the key's.
    #[error("the token's signature does not verify with the keys of authority {authority}")]
    Signature {
        /// The authority.
        authority: Box<str>,
    },
    /// The authority's keys were never fetched, or are too old to be used: nobody can be let in.
    #[error("the keys of authority {authority} are not available")]
    Unavailable {
        /// The authority.
        authority: Box<str>,
    },
    /// A required claim is missing.
    #[error("the token has no `{0}` claim")]
    MissingClaim(Box<str>),
    /// A claim has the wrong type, or a value out of bounds.
    #[error("the token's `{0}` claim is malformed")]
    MalformedClaim(Box<str>),
    /// `cnf`: the token is bound to a key or certificate, and proof of it is not supported.
    #[error("the token is sender-constrained, which is not supported")]
    SenderConstrained,
    /// Marks of a person and of a client acting for itself in one token.
    #[error("the token does not say clearly whether a person or a client is its subject")]
    AmbiguousSubject,
    /// `act` is not a chain of actors of bounded depth (RFC 8693 section 4.1).
    #[error("the token's `act` claim is malformed")]
    MalformedActor,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iat` lies in the future.
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// Valid for longer than the authority's rules accept.
    #[error("the token's lifetime is longer than accepted")]
    Lifetime,
    /// Verified under an authority that this server does not trust, or not any more as it was.
    #[error("the token was verified under an authority that this server does not trust as it is now")]
    UntrustedAuthority,
    /// Not one of the token's audiences is accepted here.
    #[error("the token is meant for another audience")]
    Audience,
    /// The token, or its subject's or client's older tokens, are revoked.
    #[error("the token is revoked")]
    Revoked,
    /// The authority lists the clients whose tokens are believed, and this one's is not among them (any more).
    #[error("the token's client is not one of its authority's")]
    ClientNotListed,
    /// A ServiceAccount token that the API server accepts too: whoever sends it here lends out the cluster.
    #[error("the token is also a credential for the cluster's API server")]
    ApiServerAudience,
    /// `sub` and the `kubernetes.io` claim name different ServiceAccounts, or none.
    #[error("the token does not say clearly which ServiceAccount is its subject")]
    ServiceAccountUnclear,
    /// The ServiceAccount as which the gateway itself calls upstreams, which have seen its tokens.
    #[error("the token is the gateway's own")]
    GatewaysOwn,
}

impl TokenError {
    /// A stable word for records, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            TokenError::TooLarge => "TokenTooLarge",
            TokenError::Segments | TokenError::Encoding(_) | TokenError::Json { .. } => "TokenMalformed",
            TokenError::Header(_) => "TokenHeaderMalformed",
            TokenError::Algorithm { .. } => "TokenAlgorithmNotAllowed",
            TokenError::Critical => "TokenCriticalHeader",
            TokenError::NotAccessToken(_) => "NotAnAccessToken",
            TokenError::UntrustedIssuer => "IssuerNotTrusted",
            TokenError::AmbiguousIssuer => "IssuerAmbiguous",
            TokenError::UnknownKey { .. } => "KeyUnknown",
            TokenError::UnfitKey { .. } => "KeyUnfit",
            TokenError::AmbiguousKey { .. } => "KeyAmbiguous",
            TokenError::Signature { .. } => "SignatureInvalid",
            TokenError::Unavailable { .. } => "KeysUnavailable",
            TokenError::MissingClaim(_) => "ClaimMissing",
            TokenError::MalformedClaim(_) => "ClaimMalformed",
            TokenError::SenderConstrained => "SenderConstraintUnsupported",
            TokenError::AmbiguousSubject => "SubjectAmbiguous",
            TokenError::MalformedActor => "ActorMalformed",
            TokenError::Expired => "TokenExpired",
            TokenError::NotYetValid => "TokenNotYetValid",
            TokenError::IssuedInFuture => "TokenIssuedInFuture",
            TokenError::Lifetime => "TokenLifetimeTooLong",
            TokenError::UntrustedAuthority => "AuthorityNotTrusted",
            TokenError::Audience => "AudienceMismatch",
            TokenError::Revoked => "TokenRevoked",
            TokenError::ClientNotListed => "ClientNotListed",
            TokenError::ApiServerAudience => "ApiServerAudience",
            TokenError::ServiceAccountUnclear => "ServiceAccountUnclear",
            TokenError::GatewaysOwn => "GatewaysOwnToken",
        }
    }

    /// What the caller is told: `None` is 503, for it is not the token's fault; everything else is one 401.
    pub fn refusal(&self, challenges: &Challenges) -> Option<Refusal> {
        match self {
            TokenError::Unavailable { .. } => None,
            _ => Some(challenges.invalid_token()),
        }
    }

    /// What is worth one refresh, if that could mend it.
    pub fn refreshable(&self) -> Option<Missing<'_>> {
        match self {
            TokenError::UnknownKey { authority, kid } => Some(Missing::Key { authority, kid: kid.expose() }),
            TokenError::Unavailable { authority } => Some(Missing::AllKeys { authority }),
            _ => None,
        }
    }
}
