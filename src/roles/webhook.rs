//! `webhook`: what the API server asks before it stores one of our objects.
//!
//! Invariant: it writes nothing, and it is ready only once it knows everything that it judges by, its callers believe it, and
//! they ask under the path that it answers at.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::admission::desk::Desk;
use crate::admission::door::Door;
use crate::admission::follow::{Known, follow};
use crate::admission::metrics::Metrics as Counted;
use crate::admission::world::Installation;
use crate::admission::{certificate, server};
use crate::cluster;
use crate::process::admin::{self, Admin};
use crate::process::drain::Finish;
use crate::process::metrics::{self, Metrics};
use crate::process::{Drain, Readiness};

/// How long reviews under way may take to end after the first signal: longer than any is given.
const DRAIN: Duration = Duration::from_secs(12);

/// What a webhook is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What an administrator has set for the whole installation.
    pub installation: Installation,
    /// Where the API server calls.
    pub listen: SocketAddr,
    /// The folder with `tls.crt` and `tls.key`.
    pub tls: PathBuf,
    /// The file with the key of the secret paths by which the API server calls.
    pub path_key: PathBuf,
    /// The ValidatingWebhookConfigurations that lead here.
    pub configurations: Vec<String>,
    /// Where operators look; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names, besides loopback ones, under which the admin listener may be called.
    pub admin_hosts: Vec<String>,
}

/// Runs until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub async fn run(options: Options) -> anyhow::Result<Finish> {
    let client = cluster::connect().await?;
    let drain = Drain::new();
    drain.on_signals()?;
    let stop = drain.draining().clone();
    let readiness = Readiness::default();
    let (collections, believed) = (readiness.check("collections"), readiness.check("certificate"));
    let mut registry = metrics::registry();
    let counted = Counted::register(&mut registry);
    let socket = bind(options.listen, "--listen").await?;
    if let Some(listen) = options.admin_listen {
        let listener = bind(listen, "--admin-listen").await?;
        let address = listener.local_addr()?;
        let admin = Admin { readiness, metrics: Metrics::new(registry), hosts: options.admin_hosts };
        // Not a task of the drain: it says "not ready" for as long as there is something to wait for.
        tokio::spawn(admin::serve(listener, admin, drain.clone()));
        tracing::info!(admin = %address, "the admin listener serves");
    }
    let known = Known::new(options.installation);
    // What is known is followed until the last review is answered.
    let followed = follow(client.clone(), known.clone(), collections, counted.clone(), drain.aborted().clone());
    tokio::spawn(followed);
    if let Some(tls) = certificate::load(&options.tls, &believed, &stop).await {
        let names = options.configurations;
        let door = Door::new(options.path_key);
        drain.spawn(tls.clone().watch(certificate::SOON, stop.clone()));
        drain.spawn(door.clone().watch(stop.clone()));
        drain.spawn(certificate::watch(
            client.clone(),
            tls.clone(),
            door.clone(),
            names,
            believed,
            counted.clone(),
            stop,
        ));
        let desk = Arc::new(Desk::new(client, known, counted));
        tracing::info!(address = %socket.local_addr()?, "serving");
        drain.spawn(server::serve(socket, tls.acceptor(), door, desk, drain.clone()));
    }
    Ok(drain.finish(DRAIN).await)
}

async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address}: choose another address with {option}"))
}
