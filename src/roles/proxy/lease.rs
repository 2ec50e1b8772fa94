//! The proxy's Lease: that it lives, and what it runs.
//!
//! Invariant: what is written was true when it was written, and is written anew whenever it changed, but no more often
//! than every [`LEAST`]. That it cannot be written stops no call: it is shown, counted and tried again.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::PostParams;
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster;
use crate::generated::report::{LEASE_PREFIX, REPORT, REPORTS, Report};
use crate::process::readiness::Check;

/// How often it is renewed.
const RENEWED: Duration = Duration::from_secs(10);
/// The least time between two writes.
const LEAST: Duration = Duration::from_millis(250);
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What `leaseDurationSeconds` says: who is silent for so long is not there.
const DURATION_SECONDS: i32 = 40;

/// The Pod that this proxy is.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name; outside of a cluster, any name that no other proxy has.
    pub name: String,
    /// Its UID: the Lease then goes when the Pod goes.
    pub uid: Option<String>,
}

/// Where it is shown whether the Lease can be written.
pub struct Shown {
    /// The readiness check.
    pub check: Check,
    /// Failed writes.
    pub failures: Counter,
}

/// Writes the Lease.
pub struct Writer {
    api: Api<Lease>,
    pod: Pod,
    shown: Shown,
    /// Since when this process reports.
    since: MicroTime,
    /// As the API server last answered.
    written: Option<Lease>,
    failing: bool,
}

impl Writer {
    /// Has written nothing yet.
    pub fn new(client: Client, namespace: &str, pod: Pod, shown: Shown) -> Self {
        let since = MicroTime(jiff::Timestamp::now());
        Self { api: Api::namespaced(client, namespace), pod, shown, since, written: None, failing: false }
    }

    /// Keeps the Lease until nobody reports any more.
    pub async fn keep(mut self, mut report: watch::Receiver<Report>) {
        loop {
            let begun = Instant::now();
            let now = report.borrow_and_update().clone();
            let next = self.show(&now).await;
            tokio::select! {
                () = tokio::time::sleep_until(begun + next) => {}
                changed = report.changed() => match changed {
                    Ok(()) => tokio::time::sleep_until(begun + LEAST).await,
                    Err(_) => return,
                },
            }
        }
    }

    /// Writes, shows how that went, and says after what time to write again.
    async fn show(&mut self, report: &Report) -> Duration {
        let outcome = match tokio::time::timeout(PATIENCE, self.write(report)).await {
            Ok(outcome) => outcome.map_err(|error| cluster::in_words(&error)),
            Err(_) => Err("the API server does not answer".to_owned()),
        };
        match outcome {
            Ok(()) => {
                self.shown.check.ready();
                self.failing = false;
                RENEWED
            }
            Err(error) => {
                let name = self.name();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(lease = name, error, "the report cannot be written; calls go on");
                }
                self.shown.failures.inc();
                self.shown.check.not_ready("ReportNotWritten", format!("Lease {name}: {error}"));
                RETRY
            }
        }
    }

    fn name(&self) -> String {
        format!("{LEASE_PREFIX}{}", self.pod.name)
    }

    async fn write(&mut self, report: &Report) -> kube::Result<()> {
        match self.try_write(report).await {
            // Somebody else changed it, made it or took it away: what is there now is read.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.try_write(report).await,
            outcome => outcome,
        }
    }

    async fn try_write(&mut self, report: &Report) -> kube::Result<()> {
        let known = match self.written.take() {
            Some(known) => Some(known),
            None => self.api.get_opt(&self.name()).await?,
        };
        let lease = self.lease(known.clone().unwrap_or_default(), report);
        let written = match known {
            // With the version that was read: another's write is not undone unseen.
            Some(_) => self.api.replace(&self.name(), &PostParams::default(), &lease).await,
            None => self.api.create(&PostParams::default(), &lease).await,
        };
        self.written = Some(written?);
        Ok(())
    }

    fn lease(&self, mut lease: Lease, report: &Report) -> Lease {
        let metadata = &mut lease.metadata;
        metadata.name = Some(self.name());
        metadata.labels.get_or_insert_default().insert(REPORTS.to_owned(), "proxy".to_owned());
        // A report is strings and numbers: it can always be written.
        let report = serde_json::to_string(report).unwrap_or_default();
        metadata.annotations.get_or_insert_default().insert(REPORT.to_owned(), report);
        metadata.owner_references = self.pod.uid.as_ref().map(|uid| {
            vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: self.pod.name.clone(),
                uid: uid.clone(),
                ..OwnerReference::default()
            }]
        });
        metadata.managed_fields = None;
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.pod.name.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            acquire_time: Some(self.since.clone()),
            renew_time: Some(MicroTime(jiff::Timestamp::now())),
            ..LeaseSpec::default()
        });
        lease
    }
}
