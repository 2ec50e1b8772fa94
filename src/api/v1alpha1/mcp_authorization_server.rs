//! `McpAuthorizationServer`: a trust anchor.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type, and some have the same")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CaRef, Empty, SecretKeySpec, Status};

/// Whose tokens are believed, and by which rules.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpAuthorizationServer",
    status = "Status",
    derive = "PartialEq",
    shortname = "mcpas",
    category = "mcp",
    doc = "A trust anchor: whose tokens are believed, and by which rules. Cluster-scoped, for platform \
           administrators.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Issuer", type_ = "string", json_path = ".spec.issuer"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("[has(self.issuer), has(self.local), has(self.kubernetes)].filter(x, x).size() == 1")
        .message("give exactly one of issuer, local and kubernetes"),
    validation = Rule::new(
        "has(self.issuer) || !(has(self.validation) || has(self.caRef) || has(self.registration) || has(self.profile))"
    ).message("validation, caRef, registration and profile belong to an issuer")
)]
#[serde(rename_all = "camelCase")]
pub struct McpAuthorizationServerSpec {
    /// The exact `iss` of its tokens: an `https://` URL without query and fragment. Its metadata (RFC 8414, OpenID
    /// Connect Discovery) is fetched from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub issuer: Option<String>,
    /// The gateway's own issuer: per-person tokens made with `portcullis token issue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Empty>,
    /// The cluster's ServiceAccounts: their tokens, made with an audience of the server's (its resource identifier or
    /// `portcullis:<namespace>/<name>`). Tokens that the API server accepts too are refused. In a cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesSpec>,
    /// The product behind the issuer: `Generic` (the standards alone, and the default) or `Keycloak`. This build knows no
    /// others: such objects are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// How tokens of the issuer are judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationSpec>,
    /// Audiences that McpServers may accept besides their own resource identifier. A token for such an audience is
    /// good at every server that accepts it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_audiences: Vec<String>,
    /// A ConfigMap of the system namespace with the PEM certificates to trust when fetching metadata and keys,
    /// instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<CaRef>,
    /// How McpClients may be registered at the issuer. Without it, only `Preregistered` ones belong to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationSpec>,
    /// Tokens no longer believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub revoked: Vec<RevokedSpec>,
}

/// How McpClients may be registered at an issuer. What proxies read holds none of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("'Admin' in self.methods ? has(self.adminCredentialRef) : !(has(self.adminCredentialRef) || has(self.adminUrl))")
        .message("Admin needs adminCredentialRef; adminCredentialRef and adminUrl are for Admin alone"),
    validation = Rule::new("!has(self.initialAccessTokenRef) || 'DCR' in self.methods")
        .message("initialAccessTokenRef is for DCR alone")
)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationSpec {
    /// The methods that are allowed, the first that can be used before the others: `Admin` (the vendor's administrative
    /// API), `CIMD` (Client ID Metadata Documents), `DCR` (RFC 7591). `Preregistered` always is.
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<RegistrationMethod>,
    /// The Secret of the system namespace that holds the initial access token (RFC 7591 section 3), for `DCR` where not
    /// everybody may register.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_access_token_ref: Option<SecretKeySpec>,
    /// For `Admin`: the Secret of the system namespace with the credentials of a client that may administer clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_credential_ref: Option<AdminCredentialRef>,
    /// For `Admin`: where the administrative API is, at the issuer's host. Default, of Keycloak: `/admin/realms/<realm>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub admin_url: Option<String>,
}

/// A way to register clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RegistrationMethod {
    /// Through the vendor's administrative API.
    Admin,
    /// By Client ID Metadata Documents, which the gateway serves.
    #[serde(rename = "CIMD")]
    Cimd,
    /// Dynamically (RFC 7591, RFC 7592).
    #[serde(rename = "DCR")]
    Dcr,
}

/// A Secret of the system namespace with the credentials of an administrative client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdminCredentialRef {
    /// Name of the Secret. Its keys are `client_id` and `client_secret`; tokens are got with them at the issuer's token
    /// endpoint.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How ServiceAccount tokens are judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesSpec {
    /// Whether the API server is asked about each token too (TokenReview), so that it ends with its ServiceAccount and with
    /// its Pod. Without it, a token is good until it expires. Proxies need the right to ask: `proxy.tokenReview.enabled`
    /// of the chart.
    #[serde(default)]
    pub token_review: bool,
}

/// The product behind an issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Profile {
    /// Judged by `validation` alone.
    Generic,
    /// Keycloak.
    Keycloak,
    /// Ory Hydra.
    Hydra,
    /// Rauthy.
    Rauthy,
    /// Zitadel.
    Zitadel,
    /// authentik.
    Authentik,
    /// Okta.
    Okta,
    /// Auth0.
    Auth0,
    /// Microsoft Entra ID.
    Entra,
    /// Dex.
    Dex,
}

/// How tokens of an issuer are judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationSpec {
    /// How access tokens are told from other tokens.
    #[serde(default)]
    pub typ: TypSpec,
    /// Accepted signature algorithms, asymmetric only. Default: `ES256`, `EdDSA`, `PS256`, `RS256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Option<Vec<Algorithm>>,
    /// Allowed clock skew, at most `60s`. Default: `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub skew: Option<String>,
    /// The longest accepted lifetime of a token, for example `1h`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub max_lifetime: Option<String>,
    /// The claim that identifies the subject. Default: `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub subject_claim: Option<String>,
    /// The claim that identifies the tenant, for issuers that serve several. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant_claim: Option<String>,
    /// Claims that identify the client; the first one present counts. Default: `client_id`, `azp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub client_id_claims: Option<Vec<String>>,
    /// Where groups come from. Default: tokens carry no groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsSpec>,
}

/// How access tokens are told from other tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TypSpec {
    /// RFC 9068: `typ` is `at+jwt`, and the required claims are present.
    #[default]
    AccessTokenJwt,
    /// For issuers that do not mark access tokens: what looks like an ID, refresh or logout token is refused instead.
    Compatible,
}

/// A signature algorithm (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// ECDSA with P-256.
    ES256,
    /// ECDSA with P-384.
    ES384,
    /// Ed25519.
    #[allow(clippy::upper_case_acronyms)]
    EdDSA,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
}

/// Where groups come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupsSpec {
    /// The claim that lists them. A token in which it is missing, or says that it overflowed, has unknown groups: they
    /// match no Allow and every Deny.
    #[schemars(length(min = 1, max = 128))]
    pub claim: String,
}

/// Tokens no longer believed: one by its id, or those of a subject issued before a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.jti) ? !has(self.subject) && !has(self.issuedBefore) : has(self.subject) && has(self.issuedBefore)")
    .message("give either jti, or subject and issuedBefore"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct RevokedSpec {
    /// The token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub jti: Option<String>,
    /// The subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub subject: Option<String>,
    /// Tokens issued before this time (RFC 3339) are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub issued_before: Option<String>,
}
