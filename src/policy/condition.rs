//! Conditions (`when`), in CEL.

/// Why a condition is refused at admission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConditionError {
    reason: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl ConditionError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// Whether a condition is one that this build evaluates, within its bounds.
pub fn check(text: &str) -> Result<(), ConditionError> {
    if text.is_empty() {
        return Err(ConditionError { reason: "ConditionSyntax", message: "a condition cannot be empty".into() });
    }
    Ok(())
}
