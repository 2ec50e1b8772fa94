//! `controller`: what runs in the system namespace and writes what proxies serve.
//!
//! Invariant: this is composition only. A controller that no longer leads does not linger: the process ends, and another
//! takes over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::cluster;
use crate::controller::inventory::rounds::Inventories;
use crate::controller::lease::Lost;
use crate::controller::run::Checks;
use crate::controller::trusts::Trusts;
use crate::controller::{self, Context, Installation};
use crate::egress::{self, Egress};
use crate::process::admin::{self, Admin};
use crate::process::drain::Finish;
use crate::process::metrics::{self, Metrics};
use crate::process::{Drain, Readiness};

/// How long watches may take to end after the first signal.
const DRAIN: Duration = Duration::from_secs(10);

/// What a controller is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What an administrator has set for the whole installation.
    pub installation: Installation,
    /// Where operators look; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names, besides loopback ones, under which the admin listener may be called.
    pub admin_hosts: Vec<String>,
    /// Which internal addresses issuers may have.
    pub egress: egress::Policy,
    /// How often upstreams that are called with OAuth tokens are asked whose they take.
    pub trust_every: Duration,
    /// How often upstreams are asked for their tools; `None`: never.
    pub inventory_every: Option<Duration>,
}

/// How a controller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Told(Finish),
    /// It led, and does not any more.
    Lost(Lost),
}

/// Runs until it is told to stop, or has lost the lead.
///
/// # Errors
/// If it cannot start.
pub async fn run(options: Options) -> anyhow::Result<End> {
    let client = cluster::connect().await?;
    let drain = Drain::new();
    drain.on_signals()?;
    let readiness = Readiness::default();
    let checks = Checks { collections: readiness.check("collections"), writes: readiness.check("writes") };
    let mut registry = metrics::registry();
    let egress = Egress::new(options.egress)?;
    let inventories = Inventories::new(egress.clone(), options.inventory_every);
    let asked = (inventories, Trusts::new(egress.clone(), options.trust_every));
    let context = Context::new(client, identity(), options.installation, egress, asked, &mut registry);
    if let Some(listen) = options.admin_listen {
        let socket = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}: choose another address with --admin-listen"))?;
        let address = socket.local_addr()?;
        let admin = Admin { readiness, metrics: Metrics::new(registry), hosts: options.admin_hosts };
        // Not a task of the drain: it says "not ready" for as long as there is something to wait for.
        tokio::spawn(admin::serve(socket, admin, drain.clone()));
        tracing::info!(admin = %address, "the admin listener serves");
    }
    match controller::run(Arc::new(context), checks, drain.clone()).await {
        Ok(()) => Ok(End::Told(drain.finish(DRAIN).await)),
        Err(lost) => Ok(End::Lost(lost)),
    }
}

/// This process's alone: a Pod that is restarted is another candidate, and waits until its former lease has run out.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), Uuid::now_v7().simple())
}
