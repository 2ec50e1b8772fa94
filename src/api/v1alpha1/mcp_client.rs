//! `McpClient`: an application that is registered at, or given a token by, an authorization server.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type, and some have the same")]

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeySpec;

/// An agent, IDE, service or person's tool, and how it comes to tokens.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpClient",
    namespaced,
    status = "McpClientStatus",
    derive = "PartialEq",
    shortname = "mcpc",
    category = "mcp",
    doc = "An agent, IDE, service or person's tool that calls MCP servers. With method Token, the gateway's own issuer \
           gives it a token, kept fresh in a Secret of its namespace, and its tokens end with it. Otherwise it is a client \
           that is registered at an authorization server, and the registration ends with it.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must be at most 63 characters")
        .reason(Reason::FieldValueForbidden),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Method", type_ = "string", json_path = ".spec.method"),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.token.subject"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.token.secretName"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.token.expiresAt"),
    printcolumn(name = "Client Id", type_ = "string", priority = 1, json_path = ".status.clientId"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
// Of what is merely invalid, API servers show all that the rule is about; and somebody may have written a private key.
#[x_kube(
    validation = Rule::new("has(self.token) == (has(self.method) && self.method == 'Token')")
        .message("token belongs to the method Token")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("has(self.registration) != (has(self.method) && self.method == 'Token')")
        .message("registration belongs to every method but Token, and to no method")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new(
        "has(self.registration) && has(self.registration.clientId) \
         ? has(self.method) && self.method in ['Preregistered', 'CIMD'] \
         : !(has(self.method) && self.method == 'Preregistered')"
    ).message("registration.clientId is for the method Preregistered, which needs it, or CIMD")
    .reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(self.validAfter) || (has(self.method) && self.method == 'Token')")
        .message("validAfter belongs to the method Token")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(oldSelf.validAfter) || (has(self.validAfter) && self.validAfter >= oldSelf.validAfter)")
        .message("validAfter cannot be moved back: tokens that were revoked would be believed again")
        .reason(Reason::FieldValueForbidden)
)]
#[serde(rename_all = "camelCase")]
pub struct McpClientSpec {
    /// The McpAuthorizationServer that the client is known to. For the method `Token`, one with `local: {}`; otherwise
    /// one with an issuer. Whoever writes an McpClient needs the verb `issue` on it.
    #[schemars(length(min = 1, max = 253))]
    pub authorization_server: String,
    /// How the client comes to be known. Left out, the first method that the McpAuthorizationServer allows and its issuer
    /// offers is chosen, once. Another method, or another McpAuthorizationServer, is a new registration with another id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<ClientMethod>,
    /// The token that the client is given, for the method `Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<ClientTokenSpec>,
    /// What is registered, for every method but `Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<ClientRegistrationSpec>,
    /// Tokens of this client issued before this time (RFC 3339) are refused. It can only be moved forward. For the method
    /// `Token`; those of others are ended at their issuer, or by `revoked` of the McpAuthorizationServer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub valid_after: Option<String>,
}

impl McpClientSpec {
    /// The McpServers that it names.
    pub fn servers(&self) -> impl Iterator<Item = &String> {
        let of_token = self.token.iter().flat_map(|token| token.servers.iter().flatten());
        of_token.chain(self.registration.iter().flat_map(|registration| registration.servers.iter().flatten()))
    }
}

/// How a client comes to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientMethod {
    /// The gateway's own issuer gives it a token, in a Secret.
    Token,
    /// Somebody has registered it by hand.
    Preregistered,
    /// It is registered through the vendor's administrative API.
    Admin,
    /// It is known by a Client ID Metadata Document, which the gateway serves unless there is one already.
    #[serde(rename = "CIMD")]
    Cimd,
    /// It is registered dynamically (RFC 7591).
    #[serde(rename = "DCR")]
    Dcr,
}

/// The token that a client is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.servers) || has(self.audiences)")
    .message("say where the token is accepted: servers or audiences"))]
#[serde(rename_all = "camelCase")]
pub struct ClientTokenSpec {
    /// For whom it speaks: what policies call a user of the authority.
    #[schemars(length(min = 1, max = 255))]
    pub subject: String,
    /// The subject's groups, as policies name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,
    /// Scopes besides those that the servers ask for in general.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// McpServers of this namespace at which it is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub servers: Option<Vec<String>>,
    /// Resource identifiers (URLs) of servers at which it is accepted: of this namespace only, unless it is the system
    /// namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Option<Vec<String>>,
    /// How long one token lasts, from `10m` to `2160h`. The Secret gets a new one when four fifths of it have passed.
    /// Default: `8h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub lifetime: Option<String>,
    /// The Secret of this namespace that holds it, under the key `token`. It must not exist already. Default:
    /// `<name>-token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// What a client is registered with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.jwks) && has(self.jwksUri))").message("give jwks or jwksUri, not both")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(self.clientSecretRef) || has(self.clientId)")
        .message("clientSecretRef belongs to a clientId")
        .reason(Reason::FieldValueForbidden)
)]
#[serde(rename_all = "camelCase")]
pub struct ClientRegistrationSpec {
    /// What people see when they are asked for consent. Default: `<namespace>/<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub client_name: Option<String>,
    /// Where it runs. Default: `Native` if every redirect URI is at loopback or has a private-use scheme, else `Web`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_type: Option<ApplicationTypeSpec>,
    /// Where people are sent back to, exactly: `https`, `http` at a loopback address, or a private-use scheme (RFC 8252).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub redirect_uris: Option<Vec<String>>,
    /// How it comes to tokens: for persons (`authorization_code`, and `refresh_token` with it), or for itself
    /// (`client_credentials`). Default: the first two with redirect URIs, else the last. Of one that is registered already
    /// nothing is said here, but `client_credentials` beside a `clientSecretRef`: then its secret is tried from time to time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub grant_types: Option<Vec<GrantTypeSpec>>,
    /// How it authenticates at the token endpoint. Default: `none` if it is native, else `private_key_jwt`; with a
    /// `clientId`, what fits beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_method: Option<AuthMethodSpec>,
    /// Its own public keys (RFC 7517), for `private_key_jwt`. Without these and without `jwksUri`, the controller makes a
    /// key pair, and its private key is in the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<JwksSpec>,
    /// Where its own public keys are: an `https://` URL that the authorization server can reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub jwks_uri: Option<String>,
    /// Scopes that it may ask for, besides those that its servers ask for in general.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// The id that it has already: for `Preregistered`, as it is registered; for `CIMD`, the URL of its own document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub client_id: Option<String>,
    /// For `Preregistered`: the Secret of this namespace that holds its client secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_ref: Option<SecretKeySpec>,
    /// McpServers of this namespace that it is for. That alone lets it call none: policies say who may call what.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub servers: Option<Vec<String>>,
    /// The Secret of this namespace that holds its id and its credentials. It must not exist already. Default:
    /// `<name>-client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// When its credentials are replaced. Default: before they expire, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationSpec>,
    /// What becomes of the registration once the McpClient is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DeletionSpec>,
}

/// Where a client runs (OpenID Connect Dynamic Client Registration, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApplicationTypeSpec {
    /// On a server, or in a browser.
    Web,
    /// On a person's machine.
    Native,
}

/// How a client comes to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantTypeSpec {
    /// A person logs in and consents (OAuth 2.1, section 4.1).
    AuthorizationCode,
    /// What a person consented to goes on.
    RefreshToken,
    /// It speaks for itself (OAuth 2.1, section 4.2).
    ClientCredentials,
}

/// How a client authenticates at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethodSpec {
    /// By a signature with its own key (RFC 7523): nothing that is shared can leak.
    PrivateKeyJwt,
    /// By a shared secret in a header.
    ClientSecretBasic,
    /// By a shared secret in the body.
    ClientSecretPost,
    /// Not at all: a public client, held by PKCE alone.
    None,
}

/// Public keys (RFC 7517 section 5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(
    "self.keys.all(key, ['d', 'p', 'q', 'dp', 'dq', 'qi', 'k'].all(member, !(member in key)))"
).message("a private key or a shared one; register public keys only, and replace this one: it has been shown")
.reason(Reason::FieldValueForbidden))]
#[serde(rename_all = "camelCase")]
pub struct JwksSpec {
    /// The keys.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub keys: Vec<JwkSpec>,
}

/// One public key (RFC 7517 section 4): members that are text, such as `kty`, `kid`, `alg`, `use`, `crv`, `x`, `y`, `n`
/// and `e`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
pub struct JwkSpec(pub BTreeMap<String, String>);

/// Somebody may have written a private key.
impl fmt::Debug for JwkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// When credentials are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationSpec {
    /// After how long, from `1h` to `8760h`.
    #[schemars(length(min = 2, max = 16))]
    pub period: String,
    /// For how long the earlier ones still count, where the authorization server can do that: at most half of the
    /// period. Default: `24h`, or half of the period if that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub overlap: Option<String>,
}

/// What becomes of a registration once its McpClient is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionSpec {
    /// Whether it is deleted at the authorization server.
    #[serde(default)]
    pub policy: DeletionPolicySpec,
    /// How long the authorization server is waited for, from `1s` to `168h`. Default: `10m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub timeout: Option<String>,
    /// What is done after that. Default: `Orphan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unavailable: Option<OnUnavailableSpec>,
}

/// Whether a registration is deleted at the authorization server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicySpec {
    /// It is.
    #[default]
    Delete,
    /// It stays there, and nobody looks after it any more.
    Retain,
}

/// What is done if the authorization server cannot be reached for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnavailableSpec {
    /// The McpClient goes; what is left at the authorization server is kept on record, and deleted once it is back.
    Orphan,
    /// The McpClient stays until the registration is gone.
    Block,
}

/// What has been observed of an McpClient.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpClientStatus {
    /// The generation that the conditions speak about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` sums up the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The `client_id` of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub client_id: Option<String>,
    /// Tokens issued before this time are refused, besides those that `spec.validAfter` says: what they said is more than
    /// what the client is given now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub valid_after: Option<String>,
    /// The token that the Secret holds. Never the token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<ClientTokenStatus>,
    /// How it is registered. Never its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<ClientRegistrationStatus>,
}

/// What is known of a registration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientRegistrationStatus {
    /// The method that was chosen.
    #[schemars(length(max = 16))]
    pub method: String,
    /// The issuer that knows it.
    #[schemars(length(max = 512))]
    pub issuer: String,
    /// Its id there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub client_id: Option<String>,
    /// The Secret that holds its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret_name: Option<String>,
    /// When it was registered (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub registered_at: Option<String>,
    /// When its client secret expires (RFC 3339), if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub secret_expires_at: Option<String>,
    /// When the authorization server was last asked about it (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub checked_at: Option<String>,
    /// What the authorization server has made otherwise than it was asked for (RFC 7591 section 3.2.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["field".into()]))]
    pub substituted: Vec<SubstitutedField>,
    /// What its tokens are for, by the servers that it is for, as far as the controller could ask for one as it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["server".into()]))]
    pub audiences: Vec<ClientAudience>,
}

/// What a token of a client for a server was for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientAudience {
    /// The McpServer.
    #[schemars(length(max = 253))]
    pub server: String,
    /// `AudienceVerified`, `AudienceMissing`, `TokenRefused`, `TokenOpaque` or `TokenUnanswered`.
    #[schemars(length(max = 64))]
    pub result: String,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub detail: Option<String>,
    /// When the token was asked for (RFC 3339).
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub checked_at: String,
    /// Of what: another word as soon as anything is another that tokens depend on.
    #[schemars(length(max = 64))]
    pub of: String,
}

/// A field of a registration that is not as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubstitutedField {
    /// Which.
    #[schemars(length(max = 64))]
    pub field: String,
    /// What was asked for.
    #[schemars(length(max = 1024))]
    pub wanted: String,
    /// What there is.
    #[schemars(length(max = 1024))]
    pub got: String,
}

/// What is known of a token that was given out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientTokenStatus {
    /// Its id, as in records, and for `revoked` of the McpAuthorizationServer.
    #[schemars(length(max = 64))]
    pub jti: String,
    /// The Secret that holds it.
    #[schemars(length(max = 253))]
    pub secret_name: String,
    /// When it was issued (RFC 3339).
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub issued_at: String,
    /// When it expires (RFC 3339).
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub expires_at: String,
    /// The McpAuthorizationServer that issued it.
    #[schemars(length(max = 253))]
    pub authorization_server: String,
    /// For whom it speaks.
    #[schemars(length(max = 255))]
    pub subject: String,
    /// Its groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub groups: Vec<String>,
    /// Its scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub scopes: Vec<String>,
    /// Where it is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub audiences: Vec<String>,
}
