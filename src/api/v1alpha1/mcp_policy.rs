//! `McpPolicy`: who may do what.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type, and some have the same")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LabelSelector, RiskClass, Status};

/// Rules that say who may do what on which servers.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "portcullis.dev",
    version = "v1alpha1",
    kind = "McpPolicy",
    plural = "mcppolicies",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "mcpp",
    category = "mcp",
    doc = "Rules that say who may do what on which servers. Only Allow grants; Deny and RequireApproval narrow, \
           whatever other policies say. What no rule allows is denied.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Servers", type_ = "string", json_path = ".spec.targets.servers"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct McpPolicySpec {
    /// The McpAuthorizationServer that principals below come from, unless they say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub authority: Option<String>,
    /// Which servers the rules are about.
    pub targets: TargetsSpec,
    /// `Shadow` decides nothing, and records what the rules would have decided.
    #[serde(default)]
    pub mode: PolicyMode,
    /// The rules. Their order decides nothing.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<RuleSpec>,
}

/// Whether a policy decides or only records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// The rules decide.
    #[default]
    Enforce,
    /// The rules decide nothing; what they would have decided is recorded.
    Shadow,
}

/// Which servers a policy is about: the named and the selected ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.servers) || has(self.selector)")
    .message("give servers or selector (an empty selector means every server)"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct TargetsSpec {
    /// Names of McpServers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub servers: Option<Vec<String>>,
    /// McpServers by label; `{}` means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// In the system namespace only: the namespaces in which servers are looked for; `{}` means all. Everywhere else
    /// a policy reaches the servers of its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// One rule. It applies to a call if any of `principals`, none of `except`, any of what it is about (`tools`), `when`
/// and the time all match. Members that are not known are kept by the API server so that they can be refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.tools) || has(self.resources) || has(self.prompts)")
        .message("say what the rule is about: tools, resources or prompts"),
    validation = Rule::new("!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter")
        .message("notBefore must be earlier than notAfter"),
    validation = Rule::new("!has(self.approval) || self.effect == 'RequireApproval'")
        .message("approval belongs to the effect RequireApproval"),
    validation = Rule::new("!has(self.breakGlass) || self.effect == 'Allow' && has(self.notBefore) && has(self.notAfter)")
        .message("breakGlass belongs to an Allow with notBefore and notAfter"),
    validation = Rule::new(
        "!has(self.breakGlass) || !has(self.notBefore) || !has(self.notAfter) \
         || self.notAfter - self.notBefore <= duration('24h')"
    ).message("a rule with breakGlass holds for 24 hours at most")
)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// The rule's name, unique in the policy: decisions and records name it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What the rule does to the calls that it applies to.
    pub effect: RuleEffect,
    /// Whom the rule is about: any of these.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub principals: Vec<PrincipalSpec>,
    /// Whom the rule is not about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub except: Vec<PrincipalSpec>,
    /// Tools: any of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tools: Option<Vec<ToolSpec>>,
    /// Resources. Not enforced by this build, which denies every resource: such policies are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub resources: Option<Vec<ResourceSpec>>,
    /// Prompts. Not enforced by this build, which denies every prompt: such policies are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub prompts: Option<Vec<PromptSpec>>,
    /// A condition (CEL) over the call's arguments `args` and the caller `principal`. An expression that fails does
    /// not match in an Allow and does match in a Deny or RequireApproval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
    /// Limits. Not enforced by this build: such policies are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub limits: Option<Vec<LimitSpec>>,
    /// How an approval is given. Not enforced by this build: such policies are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSpec>,
    /// The rule holds from this time on (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub not_before: Option<String>,
    /// The rule holds until this time, exclusively (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub not_after: Option<String>,
    /// The rule is an exception for an emergency: whoever has the verb `break-glass` on the servers may write it, it holds for
    /// 24 hours at most, and every call that it allows is recorded with what is said here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<BreakGlassSpec>,
    /// Shown to the caller when this rule refuses a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub message: Option<String>,
}

/// Why there is an exception.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct BreakGlassSpec {
    /// What happened, and what the access is for. It is in every record of a call that the rule allows.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Where the incident is kept: a number or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub ticket: Option<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleEffect {
    /// Grants.
    Allow,
    /// Refuses, whatever else allows.
    Deny,
    /// Refuses until a person has approved. This build cannot ask for approvals, so it refuses.
    RequireApproval,
}

/// Whom a rule is about. All members that are given must match; a list matches if any of its entries does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.any) || self.any").message("any is true or absent"),
    validation = Rule::new(
        "has(self.any) != (has(self.users) || has(self.groups) || has(self.clients) || has(self.mcpClients) \
         || has(self.serviceAccount) || has(self.via))"
    ).message("say whom: users, groups, clients, serviceAccount, via, or any: true")
)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct PrincipalSpec {
    /// `true`: every authenticated principal. May be narrowed by `authority` and `actor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any: Option<bool>,
    /// The McpAuthorizationServer that the principal comes from, instead of the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub authority: Option<String>,
    /// Persons, by the subject of their token. E-mail addresses and user names are not subjects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub users: Option<Vec<String>>,
    /// Groups, as the authority names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Option<Vec<String>>,
    /// OAuth clients that act for themselves, by exact client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub clients: Option<Vec<String>>,
    /// The application through which the principal calls: McpClients of this namespace, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub mcp_clients: Option<Vec<String>>,
    /// The application through which the principal calls, by exact client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub via: Option<Vec<String>>,
    /// A Kubernetes ServiceAccount, of an authority with `kubernetes: {}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSpec>,
    /// Who acts for the principal (the token's `act`, RFC 8693). Absent in an Allow: nobody does. Absent in a Deny or
    /// RequireApproval: whoever does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<ActorSpec>,
}

/// A Kubernetes ServiceAccount.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who acts for the principal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.any) != has(self.subjects) && (!has(self.any) || self.any)")
    .message("give exactly one of subjects and any: true"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ActorSpec {
    /// `true`: anyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any: Option<bool>,
    /// Actors by their subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 255)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub subjects: Option<Vec<String>>,
}

/// Which tools a rule is about. A tool matches if it is in `names` or matches one of `patterns` (where either is
/// given), and its risk is among `risk` (where given).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.names) || has(self.patterns) || has(self.risk)")
    .message("give names, patterns or risk"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ToolSpec {
    /// Exact names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Option<Vec<String>>,
    /// Patterns of whole names, case-sensitive; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub patterns: Option<Vec<String>>,
    /// Risk classes. A tool whose risk is not known matches in a Deny or RequireApproval, and not in an Allow. In a Deny or
    /// RequireApproval of a guardrail, a class stands for those above it too: whoever owns a server may raise a tool's class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub risk: Option<Vec<RiskClass>>,
}

/// Which resources a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ResourceSpec {
    /// URI patterns; `*` stops at `/`, `**` does not.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 2048)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub uris: Vec<String>,
}

/// Which prompts a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct PromptSpec {
    /// Name patterns; `*` stands for any characters.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Vec<String>,
}

/// A limit on how often, or how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.calls) != (has(self.sum) && has(self.max))")
    .message("give either calls, or sum and max"))]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct LimitSpec {
    /// The limit's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// How many calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub calls: Option<i64>,
    /// What is summed up: a CEL expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub sum: Option<String>,
    /// How much the sum may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max: Option<i64>,
    /// In which time, for example `1h`.
    #[schemars(length(min = 2, max = 16))]
    pub per: String,
}

/// How an approval is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[serde(rename_all = "camelCase")]
pub struct ApprovalSpec {
    /// How many persons must approve. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub quorum: Option<i32>,
    /// How long a request waits, for example `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub ttl: Option<String>,
    /// Whether an approval is for one call or for a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ApprovalMode>,
    /// How long a `Window` approval holds, for example `15m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub window: Option<String>,
}

/// What an approval is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalMode {
    /// One call.
    Once,
    /// Every like call within a window.
    Window,
}
