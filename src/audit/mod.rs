//! What happened, as records: written through the journal, verified and queried from it.
//!
//! Invariant: a decision whose [`Receipt`] answered `Ok` for [`Delivery::Durable`] is on disk and in the chain; what
//! could not be recorded is counted, and refused where the delivery asks for it. Two events per call: the decision
//! before the call is forwarded, the completion after; a denial is complete by itself.

mod entry;
mod event;
mod json;
pub mod query;
mod quota;
mod record;
mod recorder;
pub mod redact;
pub mod ship;
mod unfinished;
pub mod verify;

pub use entry::{Entry, Fields};
pub use event::{
    AuditId, AuthFailureEvent, CompletionEvent, ConfigChangeEvent, DecisionEvent, Delivery, Level, Outcome,
    PolicyFields, PrincipalFields, RefusalEvent, ServerFields, ShadowFields, Target, Verdict,
};
pub use json::is_harmful;
pub use quota::{AuthFailureAggregator, Sum, Sums};
pub use record::{AUTH_FAILURE, COMPLETION, CONFIG_CHANGE, DECISION, REFUSAL, SHUTDOWN, STARTUP};
pub use recorder::{AuditConfig, AuditError, Counters, Receipt, Recorder};

#[cfg(test)]
mod tests;
