//! `standalone`: the gateway over a folder of manifests, with no cluster.
//!
//! Invariant: the same functions that resolve, encode and serve in a cluster do so here; only where objects come from
//! differs. Nothing is served before the folder was read once.

pub mod configuration;
#[cfg(test)]
mod edits;
pub mod keys;
pub mod state;
pub mod upkeep;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::HeaderValue;
use tokio::net::TcpListener;

pub use self::configuration::Problem;
use self::configuration::{Configuration, Folder, Reporter};
use self::keys::Keys;
pub use self::state::StateDir;
use super::inventory;
use crate::audit::{AuditConfig, Recorder};
use crate::egress::{self, Egress};
use crate::issuer::LocalAuthority;
use crate::process::admin::{self, Admin};
use crate::process::drain::Finish;
use crate::process::metrics::{self, Metrics};
use crate::process::readiness::Readiness;
use crate::process::tls::ServerTls;
use crate::process::{Drain, Workers};
use crate::proxy;
use crate::proxy::config::{Config, Limits};
use crate::proxy::gateway::{Gateway, Parts};
use crate::proxy::listener::{self, Listener};
use crate::resolve::PublicUrl;

/// Where, in the state folder, the URL is kept under which the gateway serves: the command line issues tokens for it.
pub const WHERE: &str = "gateway.json";

/// How long calls under way may take to end after the first signal.
const DRAIN: Duration = Duration::from_secs(25);

/// What a standalone gateway is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and folders of manifests.
    pub manifests: Vec<PathBuf>,
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
    /// The namespace whose policies are guardrails.
    pub system_namespace: String,
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

/// A gateway that serves.
pub struct Standalone {
    gateway: Arc<Gateway>,
    drain: Drain,
    workers: Workers,
    keys: Arc<Keys>,
    public_url: PublicUrl,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    configuration: Arc<Configuration>,
}

impl Standalone {
    /// Reads the folder, then serves. Returns once the listeners are bound and the first snapshot is served.
    ///
    /// # Errors
    /// If a listener cannot be bound, the state folder or the journal cannot be used, or an option is unsafe.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        check_folders(&options)?;
        let state = StateDir::open(&options.state_dir)?;
        let socket = bind(options.listen, "--listen").await?;
        let address = socket.local_addr()?;
        let public_url = public_url(&options, address)?;
        check_transport(&options, &public_url)?;
        // The journal's lock is the folder's: nothing in it is another gateway's to change before it is held.
        let recorder = open_recorder(&options, &state).await?;
        state.save(WHERE, &serde_json::json!({ "public_url": public_url.as_str() }))?;

        let readiness = Readiness::default();
        let mut registry = metrics::registry();
        upkeep::register(&mut registry, &recorder);
        let egress = Egress::new(options.egress.clone())?;
        let drain = Drain::new();
        let keys = Arc::new(Keys::new(egress.clone(), state.clone(), drain.clone()));
        let gateway = Gateway::new(Parts {
            config: Config {
                public_url: public_url.clone(),
                allowed_origins: options.allowed_origins.clone(),
                limits: options.limits.clone(),
            },
            recorder,
            egress,
            sealer: state.sealer()?,
            keys: keys.clone(),
            metrics: proxy::metrics::Metrics::register(&mut registry),
        });
        keys.serve_through(&gateway);
        let folder = Folder { paths: options.manifests.clone(), system_namespace: options.system_namespace.clone() };
        let reporter = Reporter::register(&readiness, &mut registry);
        let configuration =
            Arc::new(Configuration::load(folder, public_url.clone(), gateway.clone(), keys.clone(), state, reporter)?);
        let admin = Admin { readiness: readiness.clone(), metrics: Metrics::new(registry), hosts: options.admin_hosts };
        let admin = serve_admin(options.admin_listen, admin, &drain).await?;

        let tls = options.tls.as_ref().map(|(chain, key)| ServerTls::load(chain, key)).transpose()?;
        if let Some(tls) = &tls {
            drain.spawn(tls.clone().watch(Duration::from_secs(30), drain.draining().clone()));
        }
        drain.spawn(configuration.clone().watch(drain.draining().clone()));
        upkeep::spawn(&gateway, &readiness, &drain);
        inventory::follow(&gateway, &drain);
        let listener = Listener { socket, tls: tls.map(|tls| tls.acceptor()) };
        let workers = Workers::start().context("cannot start the threads that serve connections")?;
        drain.spawn(listener::serve(listener, gateway.clone(), workers.seats().clone(), drain.clone()));
        let admin_address = admin.map(|address| address.to_string()).unwrap_or_default();
        tracing::info!(url = public_url.as_str(), %address, admin = admin_address, "serving");
        Ok(Self { gateway, drain, workers, keys, public_url, address, admin, configuration })
    }

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

    /// What could not be read or accepted, as of the last look at the folder.
    pub fn problems(&self) -> Vec<Problem> {
        self.configuration.problems()
    }

    /// The local authority of this name, if the manifests have one.
    pub fn local_authority(&self, name: &str) -> Option<Arc<LocalAuthority>> {
        self.keys.local(name)
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

/// The state folder holds JSON files, which in a folder of manifests would be read as such, and secrets.
fn check_folders(options: &Options) -> anyhow::Result<()> {
    let state = std::path::absolute(&options.state_dir)?;
    // It may not be there yet: where it would be is told by the folder that is.
    let real = |there: &Path| Some(there.canonicalize().ok()?.join(state.strip_prefix(there).ok()?));
    let state = state.ancestors().find_map(real).unwrap_or_else(|| state.clone());
    for manifests in &options.manifests {
        if manifests.canonicalize().is_ok_and(|manifests| state.starts_with(manifests)) {
            bail!(
                "the state folder {} lies in the folder of manifests {}: choose another with --state-dir",
                options.state_dir.display(),
                manifests.display()
            );
        }
    }
    Ok(())
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

async fn serve_admin(listen: Option<SocketAddr>, admin: Admin, drain: &Drain) -> anyhow::Result<Option<SocketAddr>> {
    let Some(listen) = listen else { return Ok(None) };
    let socket = bind(listen, "--admin-listen").await?;
    let address = socket.local_addr()?;
    let serving = admin::serve(socket, admin, drain.clone());
    // Not a task of the drain: it says "not ready" for as long as there is something to wait for.
    tokio::spawn(serving);
    Ok(Some(address))
}
