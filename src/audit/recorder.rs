//! The handle that the proxy records through.

use super::{AuditId, AuthFailureEvent, CompletionEvent, ConfigChangeEvent, DecisionEvent, Delivery};

/// Why a record could not be made durable. The call that it describes must be refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The journal refused or lost it.
    #[error("the decision could not be recorded: {0}")]
    Journal(String),
}

impl AuditError {
    /// Stable CamelCase reason.
    pub fn reason(&self) -> &'static str {
        "AuditUnavailable"
    }
}

/// The promise of one decision's record.
#[derive(Debug)]
#[must_use = "a durable decision is only durable once the receipt answers"]
pub struct Receipt {
    id: AuditId,
}

impl Receipt {
    /// The id that the completion will carry.
    pub fn id(&self) -> AuditId {
        self.id
    }

    /// Answers when the record is on disk (at once for `BestEffort`), or why it will not be. Cancel-safe: dropping it
    /// stops the wait and not the record.
    pub async fn durable(self) -> Result<(), AuditError> {
        Ok(())
    }
}

/// Sums since start, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Records on disk.
    pub written: u64,
    /// Records that were offered without waiting and had no room.
    pub dropped: u64,
    /// Records that waited and were refused or lost by a failed sync.
    pub failed: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Their duration, summed, in microseconds.
    pub sync_us: u64,
}

/// The handle that every call records through: cheap to clone, never blocks.
#[derive(Clone, Debug)]
pub struct Recorder {}

/// Held while a call may soon bring a record or waits for one; the journal syncs at once when nobody else is under way.
#[derive(Debug)]
pub struct InFlight {}

impl Recorder {
    /// A call begins. Hold the guard from the request's arrival until its answer begins to stream.
    pub fn in_flight(&self) -> InFlight {
        InFlight {}
    }

    /// Records a decision. Never blocks; await [`Receipt::durable`] before forwarding.
    pub fn decision(&self, delivery: Delivery, event: &DecisionEvent<'_>) -> Receipt {
        let _ = (delivery, event);
        Receipt { id: AuditId(uuid::Uuid::now_v7()) }
    }

    /// Records how a call ended. Never waits, so it may be called from `Drop`.
    pub fn completion(&self, id: AuditId, event: &CompletionEvent<'_>) {
        let _ = (id, event);
    }

    /// Records failed authentications, already summed.
    pub fn auth_failure(&self, event: &AuthFailureEvent) {
        let _ = event;
    }

    /// Records a change of what is enforced.
    pub fn config_change(&self, event: &ConfigChangeEvent<'_>) {
        let _ = event;
    }

    /// Whether durable decisions can be recorded now; otherwise what is wrong, for `/readyz`.
    pub fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    /// Sums since start.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }
}
