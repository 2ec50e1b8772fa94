//! A rule, compiled.

use std::sync::Arc;

use super::decision::RuleRef;
use crate::generated::Policy;

/// A rule, ready to be matched.
#[derive(Debug)]
pub struct Rule {
    /// How people and records name it.
    pub reference: Arc<RuleRef>,
}

/// Why a policy cannot be compiled. `field` is a path below the policy, for example `rules[2].tools[0].patterns[1]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct CompileError {
    /// Where.
    pub field: String,
    reason: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl CompileError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// A policy, ready to be indexed.
#[derive(Debug)]
pub struct CompiledPolicy {
    /// What it was compiled from.
    pub source: Arc<Policy>,
    pub(crate) rules: Vec<Arc<Rule>>,
}

/// Compiles a policy; reports every error, not only the first.
pub fn compile(policy: Arc<Policy>) -> Result<CompiledPolicy, Vec<CompileError>> {
    Ok(CompiledPolicy { source: policy, rules: Vec::new() })
}
