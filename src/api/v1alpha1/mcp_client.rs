//! `McpClient`: an application that is registered at, or given a token by, an authorization server.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type, and some have the same")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
           gives it a token, kept fresh in a Secret of its namespace. Its tokens end with it.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must be at most 63 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.token.subject"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.token.secretName"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.token.expiresAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.token) == (self.method == 'Token')").message("token belongs to the method Token"),
    validation = Rule::new("!has(oldSelf.validAfter) || (has(self.validAfter) && self.validAfter >= oldSelf.validAfter)")
        .message("validAfter cannot be moved back: tokens that were revoked would be believed again")
)]
#[serde(rename_all = "camelCase")]
pub struct McpClientSpec {
    /// The McpAuthorizationServer that the client is known to. For the method `Token`, one with `local: {}`. Whoever
    /// writes an McpClient needs the verb `issue` on it.
    #[schemars(length(min = 1, max = 253))]
    pub authorization_server: String,
    /// How the client comes to tokens. Only `Token` is enforced by this build: with others, objects are refused.
    pub method: ClientMethod,
    /// The token that the client is given, for the method `Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<ClientTokenSpec>,
    /// Tokens of this client issued before this time (RFC 3339) are refused. It can only be moved forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub valid_after: Option<String>,
}

/// How a client comes to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClientMethod {
    /// The gateway's own issuer gives it one, in a Secret.
    Token,
    /// Somebody has registered it by hand.
    Preregistered,
    /// It is registered through the vendor's administrative API.
    Admin,
    /// It is known by a Client ID Metadata Document.
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
    #[schemars(length(max = 512))]
    pub client_id: Option<String>,
    /// Tokens issued before this time are refused, besides those that `spec.validAfter` says: what they said is more than
    /// what the client is given now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub valid_after: Option<String>,
    /// The token that the Secret holds. Never the token itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<ClientTokenStatus>,
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
