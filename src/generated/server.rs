//! One governed MCP server, resolved: where it is served, what it trusts, where calls go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Labels, ObjectId, Risk};
use crate::sensitive::Sensitive;

/// A resolved `McpServer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The object that this was resolved from.
    pub id: ObjectId,
    /// The object's labels: what policy selectors match.
    pub labels: Labels,
    /// Labels of the object's namespace: what `namespaceSelector` matches, besides the namespace's name. `None`: nobody
    /// knows them, which is something else than a namespace without labels.
    #[serde(deserialize_with = "super::present")]
    pub namespace_labels: Option<Labels>,
    /// The path below the public URL, for example `/team-a/github`; starts with `/`, no trailing slash.
    pub path: String,
    /// The resource identifier of RFC 8707 and RFC 9728: public URL plus path.
    pub resource: String,
    /// The protected-resource metadata document (RFC 9728 section 2), as the JSON text that is served.
    pub metadata: String,
    /// Where calls go.
    pub upstream: Upstream,
    /// Whose tokens are accepted: names of authorities, in the author's order.
    pub authorities: Vec<String>,
    /// Audiences accepted besides `resource`; each is allowed by the authority that it is used with.
    pub audiences: Vec<String>,
    /// The scopes that a token must carry.
    pub scopes: Scopes,
    /// Risk classes that the owner asserts for tools; they may raise a class, never lower it.
    pub risk: Vec<RiskRule>,
    /// Which tool definitions were reviewed; `None`: whatever the upstream defines is taken.
    #[serde(deserialize_with = "super::present")]
    pub lock: Option<Lock>,
    /// What is recorded of each call, and how surely.
    pub audit: Audit,
    /// Whether calls are served at all.
    pub state: State,
}

/// Whether a server takes calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum State {
    /// Calls are decided and forwarded.
    Enabled,
    /// The owner switched it off: every call is refused.
    Disabled,
    /// It cannot be served safely as written: every call is refused.
    Unserved {
        /// A stable word, for example `PathConflict` or `SecretNotFound`.
        reason: String,
        /// What is wrong and how to mend it, for operators; never shown to callers.
        message: String,
    },
}

/// Where calls go and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The upstream's MCP endpoint, absolute `http` or `https`.
    pub url: String,
    /// TLS settings; ignored for `http`.
    pub tls: UpstreamTls,
    /// What identifies the gateway to the upstream. The caller's token is never among it.
    pub credentials: Credentials,
}

impl Upstream {
    /// Whether `other` is the same place, called as the same somebody, though perhaps with a newer token.
    pub fn is_same_place(&self, other: &Upstream) -> bool {
        let credentials = match (&self.credentials, &other.credentials) {
            (Credentials::ServiceAccount { .. }, Credentials::ServiceAccount { .. }) => true,
            // A client's secret is replaced from time to time, and it stays the same client.
            (Credentials::Oauth(one), Credentials::Oauth(other)) => one.is_same_client(other),
            (one, other) => one == other,
        };
        self.url == other.url && self.tls == other.tls && credentials
    }
}

/// How the upstream's certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// PEM certificates to trust instead of the system's.
    #[serde(deserialize_with = "super::present")]
    pub ca_pem: Option<String>,
    /// The name to verify and send as SNI instead of the URL's host.
    #[serde(deserialize_with = "super::present")]
    pub server_name: Option<String>,
}

/// What identifies the gateway to the upstream. There is no passthrough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Credentials {
    /// Nothing is sent.
    None,
    /// Fixed headers, taken from Secrets.
    Headers(Vec<CredentialHeader>),
    /// A token of the gateway's ServiceAccount for upstreams, made for this server.
    ServiceAccount {
        /// What stands in `Authorization` after `Bearer`.
        token: Sensitive,
    },
    /// Tokens that the gateway asks for as an OAuth client. A proxy that does not know of it refuses such servers.
    Oauth(Box<Oauth>),
}

/// As whom, where and how tokens for an upstream are asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// The exact issuer: what proves the client is sent to no other.
    pub issuer: String,
    /// PEM certificates to trust there, instead of the system's.
    #[serde(deserialize_with = "super::present")]
    pub ca_pem: Option<String>,
    /// Where it gives tokens, by its own metadata.
    pub token_endpoint: String,
    /// The gateway's id there.
    pub client_id: String,
    /// What proves it.
    pub proof: Proof,
    /// How tokens are asked for.
    pub grant: Grant,
    /// The scopes that are asked for at first.
    pub scopes: Vec<String>,
    /// The resource identifier of the upstream: what tokens are to be good for.
    pub resource: String,
    /// Whether the issuer is told of the resource (RFC 8707). Where it is not, a token must name it as its audience.
    pub says_resource: bool,
}

impl Oauth {
    fn is_same_client(&self, other: &Oauth) -> bool {
        let plain = |one: &Oauth| Oauth { proof: Proof::Basic(Sensitive::new("")), ..one.clone() };
        plain(self) == plain(other)
    }
}

/// What proves a client at its token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// A shared secret, in a header (`client_secret_basic`).
    Basic(Sensitive),
    /// A shared secret, in the body (`client_secret_post`).
    Post(Sensitive),
    /// A key, as PKCS#8 in Base64 (`private_key_jwt`).
    Key(Sensitive),
}

/// How tokens for an upstream are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Grant {
    /// As the gateway itself: one token for all callers.
    ClientCredentials,
    /// For each caller, in exchange for the caller's token (RFC 8693).
    TokenExchange {
        /// The authority of the issuer: callers of others are refused.
        authority: String,
    },
    /// For each caller, with the caller's token as an assertion (RFC 7523 section 2.1).
    JwtBearer {
        /// The authority of the issuer: callers of others are refused.
        authority: String,
    },
}

impl Grant {
    /// Of whose callers a token is needed to get one; `None`: of nobody's.
    pub fn callers_of(&self) -> Option<&str> {
        match self {
            Grant::ClientCredentials => None,
            Grant::TokenExchange { authority } | Grant::JwtBearer { authority } => Some(authority),
        }
    }
}

/// A header sent with every upstream request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialHeader {
    /// Lower-case header name.
    pub name: String,
    /// The whole value, prefix included.
    pub value: Sensitive,
}

/// The scopes of a server. A token needs `baseline` for anything, and the scopes of every entry that matches a tool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scopes {
    /// Needed for every request.
    pub baseline: Vec<String>,
    /// Needed for the tools that match.
    pub tools: Vec<ToolScopes>,
}

/// Scopes that some tools need besides the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolScopes {
    /// The entry's name.
    pub name: String,
    /// Tool-name patterns (`*` matches anything); case-sensitive, whole names.
    pub patterns: Vec<String>,
    /// The scopes needed.
    pub scopes: Vec<String>,
}

/// A risk class asserted for the tools that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskRule {
    /// The entry's name.
    pub name: String,
    /// Tool-name patterns (`*` matches anything); case-sensitive, whole names.
    pub patterns: Vec<String>,
    /// The class that matching tools have at least.
    pub class: Risk,
}

/// The reviewed tool definitions. Digests only: what they are digests of is in the ConfigMap that they come from, and in
/// Git.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// What happens to a tool whose definition is not the reviewed one.
    pub on_change: OnChange,
    /// The reviewed tools, by exact name. Empty also where the lock cannot be used: then nothing counts as reviewed.
    pub tools: BTreeMap<String, LockedTool>,
}

/// What happens to a tool whose definition is not the reviewed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnChange {
    /// It is told, and passes.
    Warn,
    /// It is left out of lists, and answered like one that does not exist.
    Hide,
    /// It is listed, and refused.
    Deny,
}

/// One reviewed tool: the digest of its definition, and the class that the review gave it. An array, since there may be
/// thousands, and an object of Kubernetes holds a mebibyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedTool(pub Digest, pub Option<Risk>);

/// What is recorded of each call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audit {
    /// How much of a call is recorded.
    pub level: AuditLevel,
    /// How surely it is recorded before the call runs.
    pub delivery: Delivery,
    /// JSON pointers (RFC 6901), `/args` standing for the arguments, to what is never recorded in clear.
    pub redact: Vec<String>,
}

/// How much of a call is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AuditLevel {
    /// Who, what, when, the decision and its rule; arguments as a keyed digest.
    Metadata,
    /// Besides, the arguments, redacted.
    Arguments,
}

/// How surely a decision is recorded before the call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Delivery {
    /// Batched; drops are counted.
    BestEffort,
    /// Synced to the local journal before the call is forwarded; refused if that cannot be done.
    Durable,
}
