//! What goes on beside the calls: summed failures, the journal's health.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::process::Drain;
use crate::process::readiness::{Check, Readiness};
use crate::proxy::failures::WINDOW;
use crate::proxy::gateway::Gateway;
use crate::proxy::snapshot::{Site, Trouble};
use crate::upstream;

/// How often the journal is asked whether it works.
const HEALTH: Duration = Duration::from_millis(200);

/// How often it is looked whether upstreams are called as they want.
const LOOK: Duration = Duration::from_secs(1);

/// How many objects `/readyz` names; the metric counts all.
const SHOWN: usize = 20;

/// Shows the journal's counters.
pub fn register(registry: &mut Registry, recorder: &Recorder) {
    registry.register_collector(Box::new(JournalCounters(recorder.clone())));
}

#[derive(Debug)]
struct JournalCounters(Recorder);

impl Collector for JournalCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.0.counters();
        for (name, help, value) in [
            ("audit_records_written", "Audit records on disk", counters.written),
            ("audit_records_dropped", "Audit records that found no room", counters.dropped),
            ("audit_records_failed", "Audit records refused, lost by a failed sync or too late", counters.failed),
            ("audit_completions_dropped", "Ends of calls that found no room", counters.completions_dropped),
            ("audit_segments_given_up", "Journal segments given up after a failed sync", counters.poisoned),
            ("audit_stdout_lines_dropped", "Records that standard output did not take", counters.stdout_dropped),
            ("audit_syncs", "Journal syncs", counters.syncs),
            ("audit_sync_microseconds", "Time spent in journal syncs", counters.sync_us),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// Starts the periodic work.
pub fn spawn(gateway: &Arc<Gateway>, readiness: &Readiness, drain: &Drain) {
    let (listeners, stop) = (gateway.clone(), drain.draining().clone());
    drain.spawn(async move {
        stop.cancelled().await;
        listeners.end_listening();
    });
    let stop = drain.draining().clone();
    let sums = gateway.clone();
    drain.spawn(async move {
        while !sleep_or(&stop, WINDOW / 4).await {
            sums.flush_sums(false);
        }
    });
    drain.spawn(watch_servers(gateway.clone(), readiness.advisory("servers"), drain.draining().clone()));
    let (gateway, check, stop) = (gateway.clone(), readiness.check("journal"), drain.draining().clone());
    drain.spawn(async move {
        loop {
            match gateway.recorder().healthy() {
                Ok(()) => check.ready(),
                Err(error) => check.not_ready(error.reason(), error.to_string()),
            }
            if sleep_or(&stop, HEALTH).await {
                return;
            }
        }
    });
}

/// Shows what is not served as it is written. That is no reason to take the others out of rotation.
async fn watch_servers(gateway: Arc<Gateway>, check: Check, stop: CancellationToken) {
    let mut changes = gateway.changes();
    loop {
        let snapshot = gateway.snapshot();
        let unserved = snapshot.troubles().take(SHOWN).map(in_words);
        let troubled =
            snapshot.sites().filter_map(|site| Some(troubled(site, site.upstream.as_ref()?.trouble()?.as_ref())));
        let said: Vec<String> = unserved.chain(troubled.take(SHOWN)).collect();
        if said.is_empty() {
            check.ready();
        } else {
            check.not_ready("ServersUnserved", said.join("\n"));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// A server that is served, and not called as its upstream wants.
fn troubled(site: &Site, trouble: &upstream::Trouble) -> String {
    let (server, reason) = (site.server.id.display_name(), trouble.reason());
    match (trouble.scopes(), trouble.words()) {
        (Some(scopes), _) => {
            format!("McpServer {server}: {reason}: add to spec.upstream.credentials.oauth.scopes: {scopes}")
        }
        (None, "") => format!("McpServer {server}: {reason}: see spec.upstream.credentials"),
        (None, code) => format!("McpServer {server}: {reason} ({code}): see spec.upstream.credentials"),
    }
}

fn in_words(trouble: &Trouble) -> String {
    let (kind, object) = (trouble.kind.api_kind(), trouble.id.display_name());
    format!("{kind} {object}: {}: {}", trouble.reason, trouble.message)
}

/// Sleeps; true if `stop` came first.
async fn sleep_or(stop: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}
