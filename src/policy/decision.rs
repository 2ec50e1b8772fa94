//! What was decided, and why.

use std::sync::Arc;

use crate::generated::policy::{BreakGlass, Effect};

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What happens to the call.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// Whether the caller may know that the target exists: false if no Allow could match under any arguments. The
    /// answer is then the one for a target that does not exist.
    pub visible: bool,
    /// The rule that decided: the (first by name) Deny, else RequireApproval, else Allow that matched.
    pub rule: Option<Arc<RuleRef>>,
    /// What policies in Shadow mode would have made of it, where that differs.
    pub shadow: Option<Box<Shadow>>,
}

/// Why a decision fell as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An Allow matched and nothing narrowed it.
    Allowed,
    /// A Deny matched.
    DeniedByRule,
    /// A Deny could not be evaluated, or what it asks about is unknown: it counts as matching.
    DeniedByUnknown,
    /// A RequireApproval matched (or could not be evaluated) and no approval was given.
    ApprovalRequired,
    /// No Allow matched.
    NoMatchingAllow,
    /// A policy that reaches this server is invalid and was never accepted: the server denies.
    PolicyInvalid,
}

impl Reason {
    /// A stable word for records, metrics and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Allowed => "Allowed",
            Reason::DeniedByRule => "DeniedByRule",
            Reason::DeniedByUnknown => "DeniedByUnknown",
            Reason::ApprovalRequired => "ApprovalRequired",
            Reason::NoMatchingAllow => "NoMatchingAllow",
            Reason::PolicyInvalid => "PolicyInvalid",
        }
    }
}

/// A rule, named for people and records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub policy: Arc<str>,
    /// Generation of the policy.
    pub generation: i64,
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Why the rule is an exception, if it is one.
    pub break_glass: Option<Arc<BreakGlass>>,
    /// The rule's message to the caller.
    pub message: Option<Arc<str>>,
}

/// What would have been decided with the Shadow policies enforced.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// What would have happened.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// By which rule.
    pub rule: Option<Arc<RuleRef>>,
}
