//! Questions about a fleet: who can, why, and what a change changes.
//!
//! Invariant: every answer comes from the evaluator that the proxy calls; here are only the questions.

mod cast;
pub mod diff;
pub mod except;
pub mod explain;
mod own;
mod search;
mod side;
pub mod targets;
#[cfg(test)]
pub(crate) mod tests;
pub mod what_can;
pub mod who_can;

use serde::Serialize;

use crate::fleet::Served;
use crate::generated::policy::Effect;
use crate::policy::decision::RuleRef;

/// What a call, or every call of a kind, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Answer {
    /// It runs.
    Allow,
    /// It runs after a person has approved.
    RequireApproval,
    /// It depends on a rule's condition.
    Depends,
    /// It is refused.
    Deny,
}

impl Answer {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Answer::Allow => "Allow",
            Answer::RequireApproval => "RequireApproval",
            Answer::Depends => "under a condition",
            Answer::Deny => "Deny",
        }
    }
}

impl From<Effect> for Answer {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Allow => Answer::Allow,
            Effect::RequireApproval => Answer::RequireApproval,
            Effect::Deny => Answer::Deny,
        }
    }
}

/// `namespace/policy/rule`, as people refer to a rule.
pub fn rule_name(rule: &RuleRef) -> String {
    format!("{}/{}/{}", rule.namespace, rule.policy, rule.rule)
}

/// What cannot be said for sure, in words for whoever asks: guardrails that may reach the server or not.
fn doubts(served: Served<'_>) -> Vec<String> {
    let namespace = &served.server.id.namespace;
    let doubt = |policy: &crate::generated::Policy| {
        format!(
            "{} chooses namespaces by label, and there is no Namespace {namespace} to say which labels it has: its Deny \
             and RequireApproval rules count here, its Allow rules do not",
            policy.id.display_name()
        )
    };
    served.in_doubt().into_iter().map(doubt).collect()
}
