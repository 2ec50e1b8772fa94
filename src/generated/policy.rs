//! One policy, normalized: every default filled in, every principal qualified.

use serde::{Deserialize, Serialize};

use super::{Labels, ObjectId, Risk};

/// A resolved `McpPolicy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The object that this was resolved from.
    pub id: ObjectId,
    /// Whether it lies in the system namespace and so may reach every namespace.
    pub guardrail: bool,
    /// Which servers it reaches.
    pub targets: Targets,
    /// Whether its rules decide, or only record what they would have decided.
    pub mode: Mode,
    /// Whether the rules below are the author's last word, or what stays in force of an invalid edit.
    pub standing: Standing,
    /// The rules, in the author's order (which decides nothing).
    pub rules: Vec<Rule>,
}

/// What of a policy is in force (design 4, "Invalid").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Standing {
    /// The rules are as the author wrote them.
    InForce,
    /// The last edit is invalid: `rules` holds the last accepted Deny and RequireApproval rules only.
    NarrowingOnly {
        /// The finding's stable word.
        reason: String,
    },
    /// Never accepted, or unreadable: every server in its namespace (every server at all, for a guardrail) denies.
    DenyAll {
        /// The finding's stable word.
        reason: String,
    },
}

/// Whether a policy decides or only records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The rules decide.
    Enforce,
    /// The rules decide nothing; what they would have decided is recorded.
    Shadow,
}

/// Which servers a policy reaches: the union of named and selected ones, in the policy's namespace, or, for guardrails
/// with `namespaces`, in every namespace that it selects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Names of servers.
    pub servers: Vec<String>,
    /// Servers by label; an empty selector selects all.
    #[serde(deserialize_with = "super::present")]
    pub selector: Option<Selector>,
    /// Guardrails only: the namespaces in which `servers` and `selector` are looked up.
    #[serde(deserialize_with = "super::present")]
    pub namespaces: Option<Selector>,
}

/// A Kubernetes label selector. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Labels that must be equal.
    pub match_labels: Labels,
    /// Further requirements.
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How its value is compared.
    pub operator: Operator,
    /// The values of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// How a label's value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label is present with one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique in its policy.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// Whom it is about: any of these.
    pub principals: Vec<PrincipalMatch>,
    /// Whom it is not about.
    pub except: Vec<PrincipalMatch>,
    /// Tools: any of these.
    pub tools: Vec<ToolMatch>,
    /// Resources: any of these URI patterns (`*` stops at `/`, `**` does not).
    pub resources: Vec<String>,
    /// Prompts: any of these name patterns.
    pub prompts: Vec<String>,
    /// A CEL condition over `args` and `principal`, already checked.
    #[serde(deserialize_with = "super::present")]
    pub when: Option<String>,
    /// Unix seconds from which the rule holds.
    #[serde(deserialize_with = "super::present")]
    pub not_before: Option<i64>,
    /// Unix seconds until which, exclusively, the rule holds.
    #[serde(deserialize_with = "super::present")]
    pub not_after: Option<i64>,
    /// Why there is an exception, if the rule is one.
    #[serde(deserialize_with = "super::present")]
    pub break_glass: Option<BreakGlass>,
    /// Shown to the caller when this rule refuses.
    #[serde(deserialize_with = "super::present")]
    pub message: Option<String>,
}

/// Why there is an exception. Recorded with every call that it allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakGlass {
    /// What happened, and what the access is for.
    pub reason: String,
    /// Where the incident is kept.
    #[serde(deserialize_with = "super::present")]
    pub ticket: Option<String>,
}

/// What a rule does. Only `Allow` grants; the others only narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Effect {
    /// Grants.
    Allow,
    /// Refuses.
    Deny,
    /// Refuses until a person has approved.
    RequireApproval,
}

/// Whom a rule is about. All fields that are present must match; `users`, `groups`, `clients` and `via` each match if
/// any of their entries does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalMatch {
    /// The authority that the principal must come from; `None` only for `any` in narrowing rules: every authority.
    #[serde(deserialize_with = "super::present")]
    pub authority: Option<String>,
    /// Every authenticated principal.
    pub any: bool,
    /// Subjects of principals of kind User.
    pub users: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Client ids of principals of kind Client.
    pub clients: Vec<String>,
    /// Client ids through which a principal of any kind presents itself.
    pub via: Vec<String>,
    /// A Kubernetes ServiceAccount.
    #[serde(deserialize_with = "super::present")]
    pub service_account: Option<ServiceAccount>,
    /// The current actor of a delegated token (RFC 8693 section 4.1).
    #[serde(deserialize_with = "super::present")]
    pub actor: Option<ActorMatch>,
    /// What its author named, where what stands above was made of what was there of it. Proxies have no use for it: by
    /// these names an entry that outlives its policy's last valid edit is resolved again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Named>,
}

/// What the author of a [`PrincipalMatch`] named, and others decide what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The authority.
    #[serde(deserialize_with = "super::present")]
    pub authority: Option<String>,
    /// Whether everyone was meant.
    pub any: bool,
    /// McpClients of the policy's namespace, of which [`PrincipalMatch::via`] is made; empty: no entry of it is.
    pub mcp_clients: Vec<String>,
}

/// A Kubernetes ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Which actors match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActorMatch {
    /// Any actor.
    Any,
    /// Actors with one of these subjects.
    Subjects(Vec<String>),
}

/// Which tools a rule is about. All fields that are present must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolMatch {
    /// Exact names.
    pub names: Vec<String>,
    /// Patterns (`*` matches anything); a name matches if it is in `names` or matches one of `patterns`; if both are
    /// empty every name matches.
    pub patterns: Vec<String>,
    /// Risk classes; empty means that risk does not matter.
    pub risk: Vec<Risk>,
}

/// How a client id begins that no token has: `identity` refuses those with control characters.
const UNKNOWN: &str = "\u{7f}McpClient ";

/// In place of the client id of an McpClient, where nobody knows one.
pub fn unknown_client(namespace: &str, name: &str) -> String {
    format!("{UNKNOWN}{namespace}/{name}")
}

/// A client id for people: where nobody knows one, whose it is.
pub fn shown_client(id: &str) -> &str {
    if id.starts_with(UNKNOWN) { id.trim_start_matches('\u{7f}') } else { id }
}
