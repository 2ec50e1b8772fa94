//! What every role that serves calls is made of; where the served objects come from is the role's own.
//!
//! Invariant: a role cannot forget a part: [`Opened`] holds what is there before anything is served (state folder,
//! journal, socket, dialer), and only its [`Opened::serve`] makes a [`Serving`], which ends what it began.

pub mod inventory;
pub mod state;
pub mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::HeaderValue;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

pub use self::state::StateDir;
use crate::audit::{AuditConfig, Recorder};
use crate::egress::{self, Egress};
use crate::process::admin::{self, Admin};
use crate::process::drain::Finish;
use crate::process::metrics::{self, Metrics};
use crate::process::readiness::Readiness;
use crate::process::tls::ServerTls;
use crate::process::{Drain, Workers};
use crate::proxy;
use crate::proxy::config::{Config, Limits};
use crate::proxy::gateway::{Gateway, KeyRefresh, Parts};
use crate::proxy::listener::{self, Listener};
use crate::proxy::review::TokenReviewer;
use crate::resolve::PublicUrl;
use crate::seal::Sealer;

/// Where, in the state folder, the URL is kept under which the gateway serves: the command line issues tokens for it.
pub const WHERE: &str = "gateway.json";

/// How long calls under way may take to end after the first signal.
const DRAIN: Duration = Duration::from_secs(25);

/// What a role that serves is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that is the gateway's own.
    pub state_dir: PathBuf,
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Under which URL they do; `None`: `http://` and the bound address, on loopback only.
    pub public_url: Option<PublicUrl>,
    /// Where operators look; `None`: nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names, besides loopback ones, under which the admin listener may be called.
    pub admin_hosts: Vec<String>,
    /// Certificate chain and key of the public listener, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// TLS is ended by a proxy in front, so that a clear-text listener may stand behind an https public URL.
    pub tls_terminated_before_proxy: bool,
    /// Browser origins that may call.
    pub allowed_origins: Vec<HeaderValue>,
    /// Which internal addresses upstreams and issuers may have.
    pub egress: egress::Policy,
    /// Copies every audit record to standard output.
    pub audit_stdout: bool,
    /// Size of one segment of the audit journal.
    pub audit_segment_bytes: u64,
    /// Size of all closed segments beyond which the oldest are deleted.
    pub audit_max_bytes: u64,
    /// Bounds on what strangers can send.
    pub limits: Limits,
}

/// What is there before anything is served.
pub struct Opened {
    /// The gateway's own folder, which its journal holds locked.
    pub state: StateDir,
    /// Under which URL callers reach the gateway.
    pub public_url: PublicUrl,
    /// The dialer.
    pub egress: Egress,
    /// The process's checks.
    pub readiness: Readiness,
    /// How the process ends.
    pub drain: Drain,
    options: Options,
    recorder: Recorder,
    counters: proxy::metrics::Metrics,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<ServerTls>,
    admin: Option<SocketAddr>,
}

impl Opened {
    /// Takes the state folder, the journal and the public address. `registry` gets what is counted of calls.
    ///
    /// # Errors
    /// If a listener cannot be bound, the state folder or the journal cannot be used, or an option is unsafe.
    pub async fn open(options: Options, registry: &mut Registry) -> anyhow::Result<Self> {
        let state = StateDir::open(&options.state_dir)?;
        let socket = bind(options.listen, "--listen").await?;
        let address = socket.local_addr()?;
        let public_url = public_url(&options, address)?;
        check_transport(&options, &public_url)?;
        let tls = options.tls.as_ref().map(|(chain, key)| ServerTls::load(chain, key)).transpose()?;
        // The journal's lock is the folder's: nothing in it is another gateway's to change before it is held.
        let recorder = open_recorder(&options, &state).await?;
        state.save(WHERE, &serde_json::json!({ "public_url": public_url.as_str() }))?;
        upkeep::register(registry, &recorder);
        Ok(Self {
            state,
            public_url,
            egress: Egress::new(options.egress.clone())?,
            readiness: Readiness::default(),
            drain: Drain::new(),
            counters: proxy::metrics::Metrics::register(registry),
            options,
            recorder,
            socket,
            address,
            tls,
            admin: None,
        })
    }

    /// Shows checks and counters on the admin listener; to be called when all are registered.
    ///
    /// # Errors
    /// If the listener cannot be bound.
    pub async fn show(&mut self, registry: Registry) -> anyhow::Result<()> {
        let Some(listen) = self.options.admin_listen else { return Ok(()) };
        let hosts = self.options.admin_hosts.clone();
        let admin = Admin { readiness: self.readiness.clone(), metrics: Metrics::new(registry), hosts };
        let socket = bind(listen, "--admin-listen").await?;
        let address = socket.local_addr()?;
        tracing::info!(%address, "health and metrics are shown");
        self.admin = Some(address);
        // Not a task of the drain: it says "not ready" for as long as there is something to wait for.
        tokio::spawn(admin::serve(socket, admin, self.drain.clone()));
        Ok(())
    }

    /// A gateway that serves nothing yet.
    pub fn gateway(
        &self,
        sealer: Sealer,
        keys: Arc<dyn KeyRefresh>,
        reviewer: Option<Arc<dyn TokenReviewer>>,
    ) -> Arc<Gateway> {
        Gateway::new(Parts {
            config: Config {
                public_url: self.public_url.clone(),
                allowed_origins: self.options.allowed_origins.clone(),
                limits: self.options.limits.clone(),
            },
            recorder: self.recorder.clone(),
            egress: self.egress.clone(),
            sealer,
            keys,
            reviewer,
            metrics: self.counters.clone(),
        })
    }

    /// Serves what the gateway holds, from now on.
    ///
    /// # Errors
    /// If the threads that serve connections cannot be started.
    pub fn serve(self, gateway: Arc<Gateway>) -> anyhow::Result<Serving> {
        let Self { public_url, readiness, drain, socket, address, tls, admin, .. } = self;
        if let Some(tls) = &tls {
            drain.spawn(tls.clone().watch(Duration::from_secs(30), drain.draining().clone()));
        }
        upkeep::spawn(&gateway, &readiness, &drain);
        inventory::follow(&gateway, &drain);
        let listener = Listener { socket, tls: tls.map(|tls| tls.acceptor()) };
        let workers = Workers::start().context("cannot start the threads that serve connections")?;
        drain.spawn(listener::serve(listener, gateway.clone(), workers.seats().clone(), drain.clone()));
        let admin_address = admin.map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(url = public_url.as_str(), %address, admin = admin_address, "serving");
        Ok(Serving { gateway, drain, workers, public_url, address, admin })
    }

    /// Ends without having served.
    pub fn give_up(self) {
        self.recorder.close();
    }
}

/// A registry with what every process shows.
pub fn registry() -> Registry {
    metrics::registry()
}

/// A gateway that serves.
pub struct Serving {
    gateway: Arc<Gateway>,
    drain: Drain,
    workers: Workers,
    public_url: PublicUrl,
    address: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Serving {
    /// Under which URL callers reach it.
    pub fn public_url(&self) -> &PublicUrl {
        &self.public_url
    }

    /// The address that the public listener is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address that the admin listener is bound to.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// How the process ends: for what runs beside the gateway.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Serves until the drain starts, then lets calls under way end, writes what is left to write, and says how it went.
    pub async fn finish(self) -> Finish {
        let finish = self.drain.finish(DRAIN).await;
        // Ends what was cut off, so that it is recorded before the journal closes.
        drop(self.workers);
        self.gateway.flush_sums(true);
        self.gateway.recorder().close();
        finish
    }
}

async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}: choose another address with {option}"))
}

fn public_url(options: &Options, bound: SocketAddr) -> anyhow::Result<PublicUrl> {
    match &options.public_url {
        Some(url) => Ok(url.clone()),
        None if bound.ip().is_loopback() => Ok(PublicUrl::parse(&format!("http://{bound}"))?),
        None => bail!(
            "listening on {bound}, which is not loopback, needs --public-url: the URL that clients use, such as \
             https://mcp.example.com"
        ),
    }
}

/// Tokens never travel in clear beyond this machine (RFC 6750 section 5.2).
fn check_transport(options: &Options, public_url: &PublicUrl) -> anyhow::Result<()> {
    let clear = options.tls.is_none();
    if public_url.is_https() && clear && !options.tls_terminated_before_proxy {
        bail!(
            "the public URL {public_url} is https, but the listener has no certificate: give --tls-cert and --tls-key, \
             or --tls-terminated-before-proxy if a proxy in front ends TLS"
        );
    }
    if !public_url.is_https() && !clear {
        bail!("the public URL {public_url} is http, but the listener has a certificate: make the public URL https");
    }
    Ok(())
}

async fn open_recorder(options: &Options, state: &StateDir) -> anyhow::Result<Recorder> {
    let mut config = AuditConfig::in_state_dir(state.path());
    config.journal.segment_bytes = options.audit_segment_bytes;
    config.journal.retain_bytes = options.audit_max_bytes;
    config.stdout_bytes = options.audit_stdout.then_some(4 << 20);
    let recorder = tokio::task::spawn_blocking(move || {
        let (recorder, recovery) = Recorder::open(config, Arc::new(crate::journal::SystemClock))?;
        let unfinished = recorder.start(&recovery)?;
        if unfinished > 0 {
            tracing::warn!(unfinished, "calls of an earlier run have no known outcome");
        }
        Ok::<_, crate::audit::AuditError>(recorder)
    });
    let folder = state.path().display();
    recorder.await?.with_context(|| format!("cannot open the audit journal in the state folder {folder}"))
}
