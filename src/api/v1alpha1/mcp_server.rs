//! `McpServer`: one governed MCP server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CaRef, Empty, SecretKeyRef};

/// One governed MCP server: where calls go, who may authenticate, which scopes they need, and what is recorded.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpServer",
    namespaced,
    status = "McpServerStatus",
    derive = "PartialEq",
    shortname = "mcps",
    category = "mcp",
    doc = "One governed MCP server. Nobody may call it until an McpPolicy in its namespace allows it.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must be at most 63 characters"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.resource"),
    printcolumn(name = "Tools", type_ = "integer", priority = 1, json_path = ".status.tools.count"),
    printcolumn(name = "Drifted", type_ = "integer", priority = 1, json_path = ".status.tools.drifted"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct McpServerSpec {
    /// The gateway that serves this server. Cannot be changed. This build has one gateway, `default`.
    #[serde(default = "default_gateway")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("gateway cannot be changed"))]
    pub gateway: String,
    /// The path below the gateway's public URL, always inside `/<namespace>/`. Default: `/<namespace>/<name>`. Public
    /// URL and path together are the resource identifier (RFC 8707) that tokens must name as their audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 253), regex(pattern = r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$"))]
    pub path: Option<String>,
    /// Where calls go, and as whom.
    pub upstream: UpstreamSpec,
    /// Whose tokens are accepted, and which scopes they must carry.
    pub authorization: AuthorizationSpec,
    /// What the owner knows about the server's tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<ToolsSpec>,
    /// What the upstream may ask of the client. Everything is denied unless stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_features: Option<ClientFeaturesSpec>,
    /// What is recorded of each call, and how surely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditSpec>,
    /// `Disabled` refuses every call without removing anything.
    #[serde(default)]
    pub state: ServerState,
}

fn default_gateway() -> String {
    "default".to_owned()
}

/// Whether a server takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServerState {
    /// Calls are decided and forwarded.
    #[default]
    Enabled,
    /// Every call is refused.
    Disabled,
}

/// Where calls go, and as whom. The caller's token is never sent there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.url) != has(self.service)").message("give exactly one of url and service"),
    validation = Rule::new("!has(self.credentials.serviceAccount) || has(self.service)")
        .message("serviceAccount credentials are sent to a service only"),
    validation = Rule::new(
        "!has(self.credentials.oauth) || !has(self.service) || (has(self.service.scheme) && self.service.scheme == 'https')"
    ).message("oauth tokens are sent over https only: set service.scheme")
)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamSpec {
    /// The MCP endpoint, absolute `https://` (or `http://`), without user information and fragment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048))]
    pub url: Option<String>,
    /// A Service of this namespace, in a cluster: `<scheme>://<name>.<namespace>.svc:<port><path>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// How the upstream's certificate is verified. Default: the system's trust, and the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTlsSpec>,
    /// What identifies the gateway to the upstream: exactly one kind.
    pub credentials: CredentialsSpec,
}

/// A Service of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// The Service's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The port's number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// The path of the MCP endpoint. Default: `/mcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub path: Option<String>,
    /// `http` or `https`. Default: `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Who may call the Pods behind the Service. `GatewayOnly`: the proxies, and the controller for the list of tools, on
    /// this port; the controller writes a NetworkPolicy that closes these Pods to all others, and all their other ports.
    /// The cluster's network plugin must enforce NetworkPolicies. They add up: who else is to get in, such as Prometheus, is
    /// let in by a NetworkPolicy of your own. The condition `Isolated` says what came of it. `Anyone`: nothing is closed.
    #[serde(default)]
    pub reachable_from: ReachableFrom,
}

/// Who may call the Pods behind an upstream's Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReachableFrom {
    /// Whoever reaches them, around the gateway too.
    #[default]
    Anyone,
    /// The gateway, and whom other NetworkPolicies let in.
    GatewayOnly,
}

/// A URL's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// How the upstream's certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTlsSpec {
    /// A ConfigMap with the PEM certificates to trust instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaRef>,
    /// The name to verify, and to send as SNI, instead of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,
    /// A Secret with a client certificate. Not enforced by this build: such servers are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_ref: Option<ClientCertRef>,
}

/// A `kubernetes.io/tls` Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// What identifies the gateway to the upstream. There is no passthrough of the caller's token, and no switch for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new(
    "[has(self.none), has(self.headers), has(self.oauth), has(self.serviceAccount)].filter(x, x).size() == 1"
).message("give exactly one of none, headers, oauth and serviceAccount"))]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSpec {
    /// Nothing is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub none: Option<Empty>,
    /// Fixed headers, taken from Secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Option<Vec<HeaderSpec>>,
    /// Tokens that the gateway gets as an OAuth client of the upstream's authorization server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OauthSpec>,
    /// A token of the ServiceAccount `portcullis-upstream`, which has no rights, in `Authorization`. Its audience is
    /// `portcullis-upstream:<namespace>/<name>` of this server. Sent to a `service` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Empty>,
}

/// How the gateway gets tokens for an upstream. They are asked for at the issuer of the client's McpAuthorizationServer and
/// nowhere else; while the upstream's metadata (RFC 9728) does not name that issuer, the server takes no calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OauthSpec {
    /// The McpClient of this namespace that the gateway is there: one that speaks for itself, of any method but `Token`.
    #[schemars(length(min = 1, max = 63))]
    pub client: String,
    /// How tokens are asked for.
    #[serde(default)]
    pub grant: OauthGrant,
    /// The scopes that are asked for at first. An upstream may ask for more (`insufficient_scope`), once for each token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
    /// The resource identifier that the upstream's metadata must have, where it is not the URL that is called: a URL of the
    /// same host that is a parent of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048))]
    pub resource: Option<String>,
}

/// How tokens for an upstream are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OauthGrant {
    /// As the gateway itself: one token for all callers (RFC 6749 section 4.4).
    #[default]
    ClientCredentials,
    /// For each caller, in exchange for the caller's token, at the issuer of that token (RFC 8693).
    TokenExchange,
    /// For each caller, by the caller's token as an assertion, at the issuer of that token (RFC 7523 section 2.1).
    JwtBearer,
}

/// A header sent with every upstream request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderSpec {
    /// The header's name, for example `Authorization`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,
    /// What stands before the Secret's value, blank included, for example `"Bearer "`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub prefix: Option<String>,
    /// Where the value is.
    pub secret_key_ref: SecretKeyRef,
}

/// Whose tokens are accepted, and which scopes they must carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSpec {
    /// Names of McpAuthorizationServers. Two of them must not have the same issuer.
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub servers: Vec<String>,
    /// Audiences accepted besides the resource identifier. Each must be among an McpAuthorizationServer's
    /// `allowedAudiences`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Vec<String>,
    /// The scopes that a token must carry. Scopes never grant anything by themselves: only policies do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<ScopesSpec>,
}

/// The scopes that a token must carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopesSpec {
    /// Needed for every request; advertised as `scopes_supported`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub baseline: Vec<String>,
    /// Needed besides, for some tools. A tool needs the scopes of every entry that matches it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<ToolScopesSpec>,
}

/// Scopes that some tools need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolScopesSpec {
    /// The entry's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Tool names; `*` stands for any characters.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub patterns: Vec<String>,
    /// The scopes needed.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub scopes: Vec<String>,
}

/// What the owner knows about the server's tools.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolsSpec {
    /// Reviewed tool definitions: a tool that is defined otherwise is reported, hidden or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockSpec>,
    /// Risk classes that the owner asserts. They may raise a tool's class, never lower it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub risk: Vec<RiskSpec>,
}

/// Reviewed tool definitions, kept in Git; written by `portcullis scan URL --lock`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LockSpec {
    /// The ConfigMap of the same namespace that holds the lock.
    #[schemars(length(min = 1, max = 253))]
    pub config_map_name: String,
    /// The key within the ConfigMap.
    #[serde(default = "lock_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// SHA-256 of the lock that was reviewed, in hex. While the ConfigMap holds another, no tool counts as reviewed.
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// What happens to a tool whose definition differs. Default: `Deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
}

fn lock_key() -> String {
    LOCK_KEY.to_owned()
}

/// The key of a lock within its ConfigMap, unless an McpServer says otherwise.
pub const LOCK_KEY: &str = "tools-lock.json";

/// What happens to a tool whose definition differs from its lock, or that is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnChange {
    /// It is reported.
    Warn,
    /// It is left out of lists, and refused.
    Hide,
    /// It is listed, and refused.
    Deny,
}

/// A risk class for some tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RiskSpec {
    /// The entry's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Tool names; `*` stands for any characters.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub patterns: Vec<String>,
    /// The class that these tools have at least.
    pub class: RiskClass,
}

/// The risk of a tool, from low to high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RiskClass {
    /// Reads and changes nothing.
    ReadOnly,
    /// Creates or changes.
    Write,
    /// Removes, overwrites, or cannot be undone.
    Destructive,
}

/// What the upstream may ask of the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientFeaturesSpec {
    /// Whether the upstream may have the client's model complete text. Only `Deny` is enforced by this build.
    pub sampling: FeatureAccess,
    /// Whether the upstream may ask the person for input. Only `Deny` is enforced by this build.
    pub elicitation: FeatureAccess,
    /// Whether the upstream may ask for the client's file-system roots. Only `Deny` is enforced by this build.
    pub roots: FeatureAccess,
}

/// Whether a feature may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureAccess {
    /// It may be used.
    Allow,
    /// It is refused, and not declared to the other side.
    #[default]
    Deny,
}

/// What is recorded of each call, and how surely.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditSpec {
    /// How much of a call is recorded.
    #[serde(default)]
    pub level: AuditLevelSpec,
    /// How surely the decision is recorded before the call runs.
    #[serde(default)]
    pub delivery: DeliverySpec,
    /// JSON pointers (RFC 6901) to arguments that are never recorded in clear, each below `/args`: `/args/password`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub redact: Vec<String>,
}

/// How much of a call is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuditLevelSpec {
    /// Who, what, when, and the decision with its rule; arguments as a keyed digest.
    #[default]
    Metadata,
    /// Besides, the arguments, redacted.
    Arguments,
    /// Besides, the results. Not enforced by this build: such servers are refused.
    Full,
}

/// How surely a decision is recorded before the call runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeliverySpec {
    /// Batched; what is dropped is counted.
    BestEffort,
    /// Synced to the local journal before the call is forwarded; a call that cannot be recorded is refused.
    #[default]
    Durable,
    /// Acknowledged by a remote sink first. Not enforced by this build: such servers are refused.
    Strict,
}

/// What has been observed of an McpServer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServerStatus {
    /// The generation that the conditions speak about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` sums up the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The resource identifier: what clients connect to, and what tokens name as their audience.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub resource: Option<String>,
    /// The NetworkPolicy of this namespace that closes the upstream's Pods to others than the gateway, while there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub network_policy: Option<String>,
    /// Which tools the upstream lists to the gateway, if it lists any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<ToolsStatus>,
}

/// Which tools an upstream lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolsStatus {
    /// How many there are.
    #[schemars(range(min = 0))]
    pub count: i32,
    /// How many definitions cannot be read, or share a name with another, so that no caller sees them.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0))]
    pub unusable: i32,
    /// How many are not as they were reviewed, those that are gone included; absent without a lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub drifted: Option<i32>,
    /// The tools, at most 256: first those that are not as they were reviewed, then all by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub items: Vec<ToolStatus>,
}

fn is_zero(count: &i32) -> bool {
    *count == 0
}

/// One tool that an upstream lists, or listed when it was reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolStatus {
    /// Its name.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// Digest of its definition, as in the tool lock and in audit records.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// Its risk class for policies of this namespace; absent: unclassified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskClass>,
    /// How it differs from the tool lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<ToolDrift>,
}

/// How a tool differs from the tool lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ToolDrift {
    /// Its definition is another than the reviewed one.
    Changed,
    /// It was not reviewed.
    New,
    /// It was reviewed, and is not listed any more.
    Gone,
}
