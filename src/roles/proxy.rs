//! `proxy`: the gateway in a cluster, over what the controller generated.
//!
//! Invariant: nothing is served before everything generated was read once; what cannot be read denies what it governs;
//! and a configuration that may be older than allowed denies everything until it is known to be current again (design 4).

pub mod follow;
pub mod intake;
pub mod lease;
pub mod reviewer;
pub mod staleness;
pub mod wanted;
pub mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use kube::Client;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use self::follow::Told;
use self::lease::{Pod, Shown, Writer};
use self::reviewer::ApiServer;
use self::staleness::Source;
use self::wanted::Wanted;
use self::world::{Checks, World};
use super::serving::{self, Opened};
use crate::generated::report::Report;
use crate::process::Drain;
use crate::process::drain::Finish;
use crate::proxy::gateway::Change;
use crate::seal::Sealer;

/// How often the configuration's age is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How many events are taken in at once.
const AT_ONCE: usize = 512;

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of generated objects.
    pub gateway_namespace: String,
    /// Which proxy this is.
    pub pod: Pod,
    /// How old the configuration may be; denied beyond.
    pub max_staleness: Duration,
    /// How it serves.
    pub serving: serving::Options,
}

/// Serves until it is told to stop, and says how it ended.
///
/// # Errors
/// If a listener cannot be bound, the state folder or the journal cannot be used, or an option is unsafe.
pub async fn run(options: Options, client: Client) -> anyhow::Result<Finish> {
    if options.serving.public_url.is_none() {
        bail!("the public URL is not known: give --public-url, the one that the controller was given");
    }
    let mut registry = serving::registry();
    let mut opened = Opened::open(options.serving, &mut registry).await?;
    let drain = opened.drain.clone();
    drain.on_signals()?;
    let checks = Checks::register(&opened.readiness, &mut registry);
    let shown = Shown::register(&opened.readiness, &mut registry);
    opened.show(registry).await?;

    let mut told = follow::follow(&client, &options.gateway_namespace, &drain);
    let mut world = World::new(options.max_staleness, checks);
    let Some((sealer, first)) = sync(&mut world, &mut told, &opened).await else {
        opened.give_up();
        return Ok(Finish::Clean);
    };
    let wanted = Arc::new(Wanted::default());
    let reviewer = Arc::new(ApiServer::new(client.clone(), Handle::current()));
    let gateway = opened.gateway(sealer.clone(), wanted.clone(), Some(reviewer));
    wanted.ask_for(&gateway);
    world.serve_through(gateway.clone(), sealer);
    let report = watch::Sender::new(Report::default());
    world.apply(first).await?;
    report.send_replace(world.report(&BTreeMap::new()));
    let writer = Writer::new(client, &options.gateway_namespace, options.pod, shown);
    let serving = opened.serve(gateway)?;
    while_anything_is_served(&drain, writer.keep(report.subscribe()));
    let follower = drain.clone();
    while_anything_is_served(&drain, async move {
        world.follow(told, wanted, report).await;
        // Whoever starts it again has it read everything anew. Never what was last known, for good.
        tracing::error!("changes cannot be followed any more: the proxy ends");
        follower.abort();
    });
    Ok(serving.finish().await)
}

/// Runs a task until the last call has ended: a revocation counts for calls that a drain lets end, and a proxy that serves
/// them reports what it runs. So it is not a task that the drain waits for.
fn while_anything_is_served(drain: &Drain, task: impl Future<Output = ()> + Send + 'static) {
    let ended = drain.aborted().child_token();
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = task => {}
        }
    });
}

/// Takes in what is told until everything was read once: the sealing keys, and all that is to be served, as one batch.
/// `None`: it was told to stop before.
async fn sync(
    world: &mut World,
    told: &mut mpsc::Receiver<(Source, Told)>,
    opened: &Opened,
) -> Option<(Sealer, Vec<Change>)> {
    let mut changes = Vec::new();
    let mut keys = None;
    world.wait_for(false);
    loop {
        let (source, event) = tokio::select! {
            () = opened.drain.draining().cancelled() => return None,
            told = told.recv() => told?,
        };
        let taken = world.take(source, event);
        changes.extend(taken.changes);
        keys = taken.keys.or(keys);
        match keys.take() {
            Some(ring) if world.has_synced() => return Some((Sealer::new(ring), changes)),
            kept => {
                world.wait_for(kept.is_some());
                keys = kept;
            }
        }
    }
}
