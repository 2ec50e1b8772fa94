//! One trust anchor, resolved: whose tokens are believed, and by which rules.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ObjectId;

/// A resolved `McpAuthorizationServer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The object that this was resolved from; `id.name` is what servers and policies call it.
    pub id: ObjectId,
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// How its tokens are judged.
    pub rules: TokenRules,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Its current keys; `None` until the first fetch: tokens are then refused as *unavailable*, never accepted.
    #[serde(deserialize_with = "super::present")]
    pub key_set: Option<KeySet>,
    /// Tokens no longer believed.
    pub revoked: Vec<Revocation>,
    /// The clients whose tokens are believed, each with the time (Unix seconds) from which on its tokens must have been
    /// issued. `None`: any client's. So the tokens of a client end with the client.
    #[serde(deserialize_with = "super::present")]
    pub clients: Option<BTreeMap<String, i64>>,
}

/// Where an authority's keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum KeySource {
    /// The `jwks_uri` of the issuer's metadata (RFC 8414, OpenID Connect Discovery).
    Discovery {
        /// PEM certificates to trust for the fetch, instead of the system's.
        #[serde(deserialize_with = "super::present")]
        ca_pem: Option<String>,
    },
    /// The gateway's own signing key.
    Local,
    /// The cluster's API server.
    Kubernetes,
}

/// How tokens of an authority are judged (identity-audit 1.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRules {
    /// How access tokens are told from other tokens.
    pub typ: TypRule,
    /// JOSE algorithm names, asymmetric only.
    pub algorithms: Vec<String>,
    /// Allowed clock skew in seconds, at most 60.
    pub skew_seconds: u32,
    /// The longest accepted `exp - iat`, in seconds.
    #[serde(deserialize_with = "super::present")]
    pub max_lifetime_seconds: Option<u32>,
    /// The claim that identifies the subject.
    pub subject_claim: String,
    /// The claim that identifies the tenant.
    #[serde(deserialize_with = "super::present")]
    pub tenant_claim: Option<String>,
    /// Claims that identify the client, the first present one counts.
    pub client_claims: Vec<String>,
    /// The claim that lists groups; `None`: tokens carry no groups.
    #[serde(deserialize_with = "super::present")]
    pub groups_claim: Option<String>,
    /// Audiences that servers may accept besides their own resource.
    pub allowed_audiences: Vec<String>,
}

/// How access tokens are told from other tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum TypRule {
    /// RFC 9068: `typ` is `at+jwt`, and its required claims are present.
    AccessTokenJwt,
    /// For issuers that do not mark access tokens: shapes of ID, refresh and logout tokens are refused instead.
    Compatible,
    /// Tokens of Kubernetes ServiceAccounts, by their `kubernetes.io` claim. They carry neither client nor scopes, and
    /// their groups are those that Kubernetes gives every ServiceAccount.
    ServiceAccount {
        /// Audiences of the API server: a token that carries one of them is a credential for the cluster, and refused.
        api_audiences: Vec<String>,
        /// ServiceAccounts that are no callers, by their subject: those as which the gateway itself calls.
        refused: Vec<String>,
        /// Whether the API server is asked about each token besides. Not written where it is not wanted: a proxy that does
        /// not know of it refuses only those authorities that it could not enforce.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        token_review: bool,
    },
}

/// A JSON Web Key Set and how long it may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// The document (RFC 7517 section 5), as fetched.
    pub jwks: String,
    /// Unix seconds after which it is not used any more.
    pub valid_until: i64,
}

/// Tokens no longer believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Revocation {
    /// One token, by its `jti`.
    Token {
        /// The token's id.
        jti: String,
    },
    /// All tokens of a subject issued before a time.
    Subject {
        /// The subject.
        subject: String,
        /// Unix seconds; tokens with an earlier `iat`, or none, are refused.
        issued_before: i64,
    },
}

#[cfg(test)]
impl Authority {
    /// For tests: an issuer whose tokens are access tokens by RFC 9068, with nothing else asked of them, and no keys.
    pub(crate) fn plain(name: &str, issuer: &str) -> Self {
        Self {
            id: ObjectId { uid: name.to_owned(), namespace: String::new(), name: name.to_owned(), generation: 1 },
            issuer: issuer.to_owned(),
            rules: TokenRules {
                typ: TypRule::AccessTokenJwt,
                algorithms: vec!["ES256".to_owned()],
                skew_seconds: 0,
                max_lifetime_seconds: None,
                subject_claim: "sub".to_owned(),
                tenant_claim: None,
                client_claims: Vec::new(),
                groups_claim: None,
                allowed_audiences: Vec::new(),
            },
            keys: KeySource::Discovery { ca_pem: None },
            key_set: None,
            revoked: Vec::new(),
            clients: None,
        }
    }
}
