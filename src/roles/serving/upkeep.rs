//! What goes on beside the calls: summed failures, the journal's health, inventories of tools.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::audit::Recorder;
use crate::mcp::list::ToolView;
use crate::process::Drain;
use crate::process::readiness::{Check, Readiness};
use crate::proxy::catalogue::Catalogue;
use crate::proxy::failures::WINDOW;
use crate::proxy::gateway::Gateway;
use crate::proxy::snapshot::{Site, Snapshot, Trouble};
use crate::upstream::{Bounds, inventory as discover};

/// How often the journal is asked whether it works.
const HEALTH: Duration = Duration::from_millis(200);

/// How many objects `/readyz` names; the metric counts all.
const SHOWN: usize = 20;

/// How many servers are asked for their tools at once: there may be thousands.
const ASKED_AT_ONCE: usize = 32;

/// How long after a failure an inventory is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

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
        let said: Vec<String> = snapshot.troubles().take(SHOWN).map(in_words).collect();
        if said.is_empty() {
            check.ready();
        } else {
            check.not_ready("ServersUnserved", said.join("\n"));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn in_words(trouble: &Trouble) -> String {
    let (kind, object) = (trouble.kind.api_kind(), trouble.id.display_name());
    format!("{kind} {object}: {}: {}", trouble.reason, trouble.message)
}

/// Learns each server's tools as soon as it is served, so that risk is known before the first list passes.
pub fn inventory(gateway: &Arc<Gateway>, drain: &Drain) {
    let (gateway, follower, stop) = (gateway.clone(), drain.clone(), drain.draining().clone());
    let at_once = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    drain.spawn(async move {
        let mut changes = gateway.changes();
        let mut snapshot = gateway.snapshot();
        let mut asked: HashMap<String, Arc<Catalogue>> = HashMap::new();
        loop {
            for site in unasked(&snapshot, &mut asked) {
                let (gateway, at_once, stop) = (gateway.clone(), at_once.clone(), stop.clone());
                follower.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = learn(&gateway, &site, &at_once) => {}
                    }
                });
            }
            // A policy changes nothing here.
            let before = snapshot;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                snapshot = gateway.snapshot();
                if !snapshot.serves_alike(&before) {
                    break;
                }
            }
        }
    });
}

/// The servers whose tools nobody has asked for as they are now; from here on, somebody has.
fn unasked(snapshot: &Snapshot, asked: &mut HashMap<String, Arc<Catalogue>>) -> Vec<Arc<Site>> {
    let served: HashMap<&str, &Arc<Site>> = snapshot
        .sites()
        .filter(|site| site.upstream.is_some())
        .map(|site| (site.server.id.uid.as_str(), site))
        .collect();
    asked.retain(|uid, catalogue| served.get(&**uid).is_some_and(|site| Arc::ptr_eq(catalogue, &site.catalogue)));
    let unasked: Vec<Arc<Site>> =
        served.into_iter().filter(|(uid, _)| !asked.contains_key(*uid)).map(|(_, site)| site.clone()).collect();
    asked.extend(unasked.iter().map(|site| (site.server.id.uid.clone(), site.catalogue.clone())));
    unasked
}

/// Takes a server's inventory, trying until it answers or is served no more as it was.
async fn learn(gateway: &Gateway, site: &Site, at_once: &Semaphore) {
    let Some(upstream) = &site.upstream else { return };
    let (mut pause, longest) = RETRY;
    loop {
        let asked = {
            let _place = at_once.acquire().await;
            discover(upstream, &Bounds::default()).await
        };
        match asked {
            Ok(found) => {
                let views = found.tools.iter().filter_map(|raw| ToolView::read(raw.get()));
                site.learn(views.map(|tool| (tool.name.as_ref().into(), site.catalogue.assess(&tool))).collect());
                return;
            }
            Err(error) => {
                let server = site.server.id.display_name();
                tracing::warn!(server, reason = error.reason(), %error, "no inventory: tools are unclassified");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
        // Two states of a server share one catalogue as long as its tools are the same.
        let same_tools = |now: &Arc<Site>| Arc::ptr_eq(&now.catalogue, &site.catalogue);
        if !gateway.snapshot().same(site).is_some_and(same_tools) {
            return;
        }
    }
}

/// Sleeps; true if `stop` came first.
async fn sleep_or(stop: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(pause) => false,
    }
}
