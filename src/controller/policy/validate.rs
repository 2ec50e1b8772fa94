//! From what was found to what it means. No client is needed.

use super::dereference::{Callers, Raw};
use crate::api::{FieldPath, Key};
use crate::generated::{ObjectId, Policy};
use crate::resolve::{self, Finding, Findings, Reason, Resolved, Settings};

/// A policy that was judged.
pub(super) struct Validated {
    pub(super) key: Key,
    pub(super) id: ObjectId,
    pub(super) guardrail: bool,
    pub(super) outcome: Result<Resolved<Policy>, Findings>,
    pub(super) previous: Option<Policy>,
    /// What is there of whom it is about.
    pub(super) callers: Callers,
}

/// Judges a policy by what is there of what it refers to.
pub(super) fn validate(raw: Raw, settings: &Settings<'_>) -> Validated {
    let outcome = match (&raw.source.read, raw.source.policy()) {
        (Err(findings), _) => Err(findings.clone()),
        (Ok(_), Some(policy)) => {
            let namespace = raw.source.key.namespace.as_str();
            let mut lookup = raw.callers.lookup();
            lookup.servers.extend(raw.servers.iter().map(|name| (namespace, name.as_str())));
            resolve::policy(policy, settings, &lookup)
        }
        (Ok(_), None) => Err(vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "not an McpPolicy")]),
    };
    Validated {
        key: raw.source.key.clone(),
        id: raw.source.id.clone(),
        guardrail: raw.source.key.namespace == settings.system_namespace,
        outcome,
        previous: raw.previous,
        callers: raw.callers,
    }
}
