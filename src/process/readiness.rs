//! Whether this process can do its work, as named checks.
//!
//! Invariant: a check that was named but never reported is not ready, and readiness is the conjunction of all checks that
//! are required. The others are shown: what is wrong with a part takes the whole out of rotation only where the whole
//! cannot be trusted to serve.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;

/// The checks of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<RwLock<BTreeMap<&'static str, Status>>>,
}

/// What one check last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether it holds.
    pub ok: bool,
    /// Whether the process is not ready while it does not; else it is degraded.
    pub required: bool,
    /// A stable word.
    pub reason: &'static str,
    /// What is wrong and how to mend it; empty if nothing is.
    pub message: String,
}

/// All checks, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all that are required hold.
    pub ready: bool,
    /// Whether some other does not hold.
    pub degraded: bool,
    /// Each by its name.
    pub checks: BTreeMap<&'static str, Status>,
}

/// The handle of a component to its own check.
#[derive(Clone, Debug)]
pub struct Check {
    name: &'static str,
    required: bool,
    checks: Readiness,
}

impl Readiness {
    /// Names a check. Until it reports it is not ready, for the reason `Starting`.
    pub fn check(&self, name: &'static str) -> Check {
        self.named(name, true)
    }

    /// Names a check that is only shown: a part of the work cannot be done, the rest goes on.
    pub fn advisory(&self, name: &'static str) -> Check {
        self.named(name, false)
    }

    fn named(&self, name: &'static str, required: bool) -> Check {
        let check = Check { name, required, checks: self.clone() };
        check.not_ready("Starting", "has not reported yet");
        check
    }

    /// All checks as they are now.
    pub fn report(&self) -> Report {
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        Report {
            ready: checks.values().all(|status| status.ok || !status.required),
            degraded: checks.values().any(|status| !status.ok && !status.required),
            checks,
        }
    }
}

impl Check {
    /// The check holds.
    pub fn ready(&self) {
        self.set(Status { ok: true, required: self.required, reason: "Ready", message: String::new() });
    }

    /// The check does not hold.
    pub fn not_ready(&self, reason: &'static str, message: impl Into<String>) {
        self.set(Status { ok: false, required: self.required, reason, message: message.into() });
    }

    fn set(&self, status: Status) {
        self.checks.checks.write().unwrap_or_else(PoisonError::into_inner).insert(self.name, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_named_check_reported_so() {
        let readiness = Readiness::default();
        assert!(readiness.report().ready);
        let (a, b) = (readiness.check("a"), readiness.check("b"));
        a.ready();
        assert!(!readiness.report().ready);
        assert_eq!(readiness.report().checks["b"].reason, "Starting");
        b.ready();
        assert!(readiness.report().ready);
        a.not_ready("JournalFull", "free space below /var/lib/portcullis");
        assert!(!readiness.report().ready);
    }

    #[test]
    fn an_advisory_check_degrades_and_takes_nothing_out_of_rotation() {
        let readiness = Readiness::default();
        readiness.check("a").ready();
        let servers = readiness.advisory("servers");
        servers.not_ready("ServersUnserved", "default/a: SecretNotFound");
        let report = readiness.report();
        assert!(report.ready && report.degraded && !report.checks["servers"].ok);
        servers.ready();
        assert!(!readiness.report().degraded);
    }
}
