//! The life of a controller: follow, wait to lead, lead, and give it back.
//!
//! Invariant: nothing is written before everything was told once, so nothing that exists is taken for a stray; and who
//! no longer leads ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::error::{Failure, code};
use super::fitness::{NOT_FOLLOWED, NOT_WRITTEN};
use super::lease::{Candidate, Lost};
use super::queue::{Outcome, Queue};
use super::watches::{self, Watched};
use super::webhook::{self, Callers};
use super::{Context, heartbeat, inventory, registrations, sealing, trusts};
use crate::api::Kind;
use crate::issuer::{Clock as _, SystemClock};
use crate::process::Drain;
use crate::process::readiness::Check;

/// How many objects are looked at at once.
const WORKERS: usize = 16;
/// How many registrations are gone on with at once, at all authorization servers together.
const REGISTERING: usize = 32;
/// How long looks under way may take to end before the lease is given back.
const LAST_LOOKS: Duration = Duration::from_secs(5);
/// How often what only time changes is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often Leases of proxies that are gone are removed.
const TIDY: Duration = Duration::from_secs(60);

/// Where it is shown whether the controller can do its work.
#[derive(Clone, Debug)]
pub struct Checks {
    /// Whether every collection was read, and is followed.
    pub collections: Check,
    /// Whether generated objects can be written.
    pub writes: Check,
}

/// Runs until the drain starts.
///
/// # Errors
/// If another controller took the lead, or may have: the process has to end at once.
pub async fn run(context: Arc<Context>, checks: Checks, drain: Drain) -> Result<(), Lost> {
    let stop = drain.draining().clone();
    let (synced, mut count) = watch::channel(0);
    for watched in Watched::ALL {
        drain.spawn(watches::follow(context.clone(), watched, synced.clone(), stop.clone()));
    }
    drain.spawn(ask_for_issuer(context.clone(), synced.clone(), stop.clone()));
    drain.spawn(show(context.clone(), checks, count.clone(), stop.clone()));
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        _ = count.wait_for(is_everything) => {}
    }
    tracing::info!(identity = context.identity, "everything is known; waiting to lead");

    let installation = &context.installation;
    let (client, identity, fence) = (context.client.clone(), context.identity.clone(), context.fence.clone());
    let mut candidate = Candidate::new(client, &installation.system_namespace, identity, fence);
    candidate.lead(&stop).await;
    if !context.fence.is_open() {
        return Ok(());
    }
    tracing::info!(identity = context.identity, "leading");
    context.metrics.leader.set(1);
    context.begin();
    let mut work = JoinSet::new();
    for _ in 0..WORKERS {
        work.spawn(worker(context.clone(), context.queue.clone(), stop.clone()));
    }
    // They wait for servers that are not ours: a revocation must not wait with them.
    for _ in 0..REGISTERING {
        work.spawn(worker(context.clone(), context.registering.clone(), stop.clone()));
    }
    work.spawn(repeat(context.clone(), stop.clone(), heartbeat::EVERY, async |context| heartbeat::beat(context).await));
    work.spawn(repeat(context.clone(), stop.clone(), sealing::LOOK, async |context| sealing::keep(context).await));
    work.spawn(repeat(context.clone(), stop.clone(), TIDY, async |context| tidy(context).await));
    if let Some(names) = context.installation.webhook.clone() {
        let callers = Callers::new(names);
        work.spawn(repeat(context.clone(), stop.clone(), webhook::LOOK, async move |context: &Context| {
            callers.keep(context).await
        }));
    }
    let registrations = async |context: &Context| registrations::sweep(context).await;
    work.spawn(repeat(context.clone(), stop.clone(), registrations::SWEEP, registrations));
    work.spawn(inventory::rounds::run(context.clone(), stop.clone()));
    work.spawn(trusts::run(context.clone(), stop.clone()));
    work.spawn(tick(context.clone(), stop.clone()));

    candidate.keep(&stop).await?;
    if timeout(LAST_LOOKS, async { while work.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!("looks under way did not end in time, and are given up");
    }
    // Whoever takes the lease writes at once: nothing here may still do so.
    work.shutdown().await;
    context.metrics.leader.set(0);
    candidate.release().await;
    Ok(())
}

/// Whether all was told once. One more than collections: the cluster's issuer.
fn is_everything(synced: &usize) -> bool {
    *synced > Watched::ALL.len()
}

/// Shows, from the start, what is not seen and what cannot be written.
async fn show(context: Arc<Context>, checks: Checks, count: watch::Receiver<usize>, stop: CancellationToken) {
    let account = &context.installation.service_account;
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (blind, mute) = {
            let fitness = context.fitness();
            for watched in Watched::ALL {
                context.metrics.follows(watched.as_str(), fitness.follows(watched));
            }
            context.metrics.unwritten.set(i64::try_from(fitness.unwritten()).unwrap_or(i64::MAX));
            (fitness.blind(), fitness.mute(context.start.elapsed()))
        };
        match blind {
            Some(unseen) => checks.collections.not_ready(
                NOT_FOLLOWED,
                format!(
                    "what these hold is not seen, so no heartbeat is written and proxies deny in the end: {unseen}. See \
                     whether the API server answers, and what ServiceAccount {account} may list and watch"
                ),
            ),
            None if is_everything(&count.borrow()) => checks.collections.ready(),
            None => checks.collections.not_ready("Listing", "not every collection was read yet"),
        }
        match mute {
            Some(mute) => checks.writes.not_ready(
                NOT_WRITTEN,
                format!(
                    "{mute}, so no heartbeat is written and proxies deny in the end: see the log for what the API server \
                     answers, and what ServiceAccount {account}, quotas and webhooks allow in the gateway namespace"
                ),
            ),
            None => checks.writes.ready(),
        }
    }
}

/// Asks the API server who issues ServiceAccount tokens, from time to time. Once it was asked, `synced` counts one more: so
/// nobody who begins to lead takes what is not known yet for what cannot be known.
async fn ask_for_issuer(context: Arc<Context>, synced: watch::Sender<usize>, stop: CancellationToken) {
    let asked = AtomicBool::new(false);
    let changed = || {
        let touched = context.store().issuer_changed();
        context.look_at(touched);
        if !asked.swap(true, Ordering::AcqRel) {
            synced.send_modify(|count| *count += 1);
        }
    };
    let gateway = context.installation.gateway_namespace.clone();
    let now = || SystemClock::default().unix();
    context.issuer.clone().run(context.client.clone(), gateway, now, changed, stop).await;
}

async fn worker(context: Arc<Context>, queue: Arc<Queue>, stop: CancellationToken) {
    loop {
        let (subject, depth) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = queue.next() => next,
        };
        let outcome = context.look(&subject, depth).await.unwrap_or_else(|failure| {
            context.metrics.failed(&failure);
            tracing::warn!(object = %subject, reason = failure.reason(), error = %failure, "not reconciled; trying again");
            Outcome::Failed
        });
        context.metrics.reconciled(&subject, outcome);
        queue.done(subject, outcome);
    }
}

/// Does something from time to time. A failure is logged when it is new.
async fn repeat(
    context: Arc<Context>,
    stop: CancellationToken,
    every: Duration,
    act: impl AsyncFn(&Context) -> Result<(), Failure>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match act(&context).await {
            Ok(()) => failing = false,
            Err(failure) => {
                context.metrics.failed(&failure);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(reason = failure.reason(), error = %failure, "trying again");
                }
            }
        }
    }
}

async fn tick(context: Arc<Context>, stop: CancellationToken) {
    let mut ticks = interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = context.start.elapsed();
        let (touched, silence, proxies) = {
            let mut store = context.store();
            let touched = store.tick(now);
            for kind in Kind::OURS {
                context.metrics.count(kind, store.count(kind));
            }
            (touched, store.proxies.longest_silence(now), store.proxies.len())
        };
        context.metrics.silence.set(silence.as_secs_f64());
        context.metrics.proxies.set(i64::try_from(proxies).unwrap_or(i64::MAX));
        let waiting = context.queue.depth() + context.registering.depth();
        context.metrics.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        context.look_at(touched);
    }
}

/// Removes Leases of proxies that are gone.
async fn tidy(context: &Context) -> Result<(), Failure> {
    let abandoned = context.store().proxies.abandoned();
    let api: Api<Lease> = Api::namespaced(context.client.clone(), &context.installation.gateway_namespace);
    for name in abandoned {
        match context.while_leading(api.delete(&name, &DeleteParams::default())).await? {
            Ok(_) => {}
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => {
                return Err(Failure::Apply(super::error::ApiError::new(format!("deleting Lease {name}"), &error)));
            }
        }
    }
    Ok(())
}
