//! The controller plane: from the objects that people write to the generated objects that proxies serve.
//!
//! Invariant: what proxies are given is a pure function of the objects present and of what was last accepted; only the
//! leader writes; nothing is written that is there already; and a status says only what was applied.
//!
//! ```text
//! watches -> store -> queue -> one look at one object -> the API server
//!                       |
//!                       +-> a queue and workers of their own for what authorization servers are asked for
//!
//! a look:  dereference (client)   fetch what the object refers to
//!          validate    (pure)     resolve: findings, and what it means
//!          build       (pure)     every object that there should be
//!          apply       (client)   write what is not there, remove what should not be
//!          status      (pure)     conditions, from what was applied; speak (client) writes them if they changed
//! ```
//!
//! The types say the order: `Raw`, `Validated`, `Prepared`, `Applied`. Each kind has its folder with a file per step.
//!
//! `kube::runtime::Controller` is not used. It hands out typed objects, so one that cannot be read would be missing from it,
//! and a policy that is missing must not be taken for one that never was; it tells of a deletion only through finalizers,
//! which would let a dead controller hold up everybody's namespaces; and it retries all objects alike. [`queue`] is what of
//! it was needed.

pub mod apply;
pub mod authority;
pub mod client;
pub mod cluster_issuer;
pub mod conditions;
pub mod document;
pub mod error;
pub mod fetch;
pub mod fitness;
pub mod heartbeat;
pub mod inventory;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod object;
mod owned_secret;
pub mod policy;
pub mod proxies;
pub mod queue;
pub mod registrations;
pub mod run;
pub mod sealing;
pub mod server;
pub mod service_account;
pub mod signing;
pub mod speak;
pub mod store;
pub mod trusts;
pub mod watches;
pub mod webhook;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;

use self::apply::Applied;
use self::cluster_issuer::ClusterIssuer;
use self::error::Failure;
use self::fitness::Fitness;
use self::inventory::rounds::Inventories;
use self::lease::Fence;
use self::metrics::Metrics;
use self::proxies::Programming;
use self::queue::{Depth, Outcome, Queue, Subject};
use self::store::{Store, Touched};
use self::trusts::Trusts;
use crate::api::{Key, Kind};
use crate::egress::Egress;
use crate::generated;
use crate::resolve::{Cluster, PublicUrl, Settings};

pub use self::run::run;

/// What an administrator has set for the whole installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where callers reach the gateway.
    pub public_url: PublicUrl,
    /// The namespace of the controller and of guardrail policies.
    pub system_namespace: String,
    /// The namespace of the proxies and of generated objects.
    pub gateway_namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The controller's ServiceAccount, for messages that say what it may not do.
    pub service_account: String,
    /// When proxies deny everything for want of news.
    pub max_staleness: Duration,
    /// For which names the admission webhook is given certificates, if there is a webhook; none: others make them.
    pub webhook: Option<Vec<String>>,
}

impl Installation {
    /// As far as resolving needs it.
    pub fn settings<'a>(&'a self, cluster: &'a Cluster) -> Settings<'a> {
        Settings { public_url: &self.public_url, system_namespace: &self.system_namespace, cluster: Some(cluster) }
    }
}

/// What came of the last look at an object.
#[derive(Clone, Debug)]
pub enum Settled {
    /// A server.
    Server(Arc<Applied<server::Verdict>>),
    /// A policy.
    Policy(Arc<Applied<policy::Verdict>>),
    /// A trust anchor.
    Authority(Arc<Applied<authority::Verdict>>),
}

/// What all looks share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// This process's name among all controllers.
    pub identity: String,
    /// What an administrator has set.
    pub installation: Arc<Installation>,
    /// What is to be looked at.
    pub queue: Arc<Queue>,
    /// The same, of that for which authorization servers are asked: it may take them long to answer.
    pub registering: Arc<Queue>,
    /// Until when this process may write.
    pub fence: Fence,
    /// Keys of other issuers.
    pub keys: authority::keys::Keys,
    /// Who issues ServiceAccount tokens.
    pub issuer: ClusterIssuer,
    /// Metadata documents.
    pub documents: document::Documents,
    /// The tools of all servers.
    pub inventories: Inventories,
    /// Whom upstreams trust.
    pub trusts: Trusts,
    /// Clients registered at authorization servers.
    pub registrations: registrations::Registrations,
    /// The dialer.
    pub egress: Egress,
    /// Where events are recorded. What says the same of an object again is counted in the event that there is.
    pub recorder: Recorder,
    /// As whom that is.
    pub reporter: Reporter,
    /// What is counted.
    pub metrics: Metrics,
    /// Since when time is counted here.
    pub start: Instant,
    store: Mutex<Store>,
    fitness: Mutex<Fitness>,
    leads: AtomicBool,
}

impl Context {
    /// Knows nothing yet, and does not lead.
    pub fn new(
        client: Client,
        identity: String,
        installation: Installation,
        egress: Egress,
        (inventories, trusts): (Inventories, Trusts),
        registry: &mut Registry,
    ) -> Self {
        let installation = Arc::new(installation);
        let queue = Arc::new(Queue::default());
        let issuer = ClusterIssuer::default();
        let reporter =
            Reporter { controller: "portcullis.dev/controller".to_owned(), instance: Some(identity.clone()) };
        Self {
            keys: authority::keys::Keys::new(egress.clone(), queue.clone()),
            registering: Arc::default(),
            registrations: registrations::Registrations::default(),
            egress,
            documents: document::Documents::default(),
            inventories,
            trusts,
            recorder: Recorder::new(client.clone(), reporter.clone()),
            reporter,
            metrics: Metrics::register(registry),
            start: Instant::now(),
            store: Mutex::new(Store::new(installation.clone(), issuer.clone())),
            issuer,
            fitness: Mutex::default(),
            leads: AtomicBool::new(false),
            fence: Fence::default(),
            client,
            identity,
            installation,
            queue,
        }
    }

    /// What is known. Never held while something is awaited.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it sees, and can write. Never held while something is awaited.
    pub fn fitness(&self) -> MutexGuard<'_, Fitness> {
        self.fitness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every write happens in here.
    ///
    /// # Errors
    /// If another controller may lead by now.
    pub async fn while_leading<T>(&self, write: impl Future<Output = T>) -> Result<T, Failure> {
        self.fence.while_open(write).await.ok_or(Failure::NotLeading)
    }

    /// Asks for a look at what a change touches, if this process leads: whoever begins to lead looks at everything.
    pub fn look_at(&self, touched: Touched) {
        if self.leads.load(Ordering::Acquire) {
            touched.into_iter().for_each(|(subject, depth)| match subject {
                Subject::Registered(_) | Subject::Unowned(_) => self.registering.add(subject, depth),
                Subject::Source(_) | Subject::Stray(..) | Subject::Near(_) => self.queue.add(subject, depth),
            });
        }
    }

    /// Begins to lead: everything is looked at.
    pub fn begin(&self) {
        self.leads.store(true, Ordering::Release);
        let everything = self.store().everything();
        self.look_at(everything);
    }

    /// A token names a key that an authority lacks.
    pub fn want_key(&self, authority: String, kid: String) {
        if self.leads.load(Ordering::Acquire) && !self.keys.ask(authority, kid) {
            self.issuer.ask();
        }
    }

    /// What is known of the cluster.
    pub fn cluster(&self) -> Cluster {
        self.issuer.cluster(&self.installation)
    }

    /// What proxies make of what was applied.
    pub fn programming<V>(&self, applied: &Applied<V>) -> Option<Programming> {
        applied.generated.and_then(|kind| self.store().programming(kind, &applied.id.uid))
    }

    /// Looks at one thing.
    ///
    /// # Errors
    /// If a step could not be taken; it is to be tried again.
    async fn look(&self, subject: &Subject, depth: Depth) -> Result<Outcome, Failure> {
        let key = match subject {
            Subject::Source(key) => key,
            Subject::Stray(kind, uid) => {
                // Its source may have been told of since.
                if self.store().owner(*kind, uid).is_none() {
                    self.documents.forget(uid);
                    apply::remove(self, *kind, uid).await?;
                    if *kind == generated::Kind::Server {
                        self.inventories.forget(uid);
                        self.trusts.forget(uid);
                        inventory::keep::remove(self, uid).await?;
                    }
                }
                return Ok(Outcome::Settled);
            }
            Subject::Registered(key) => {
                let again = client::register(self, key).await?;
                return Ok(again.map_or(Outcome::Settled, Outcome::Again));
            }
            Subject::Unowned(uid) => {
                let again = registrations::look(self, uid).await?;
                return Ok(again.map_or(Outcome::Settled, Outcome::Again));
            }
            Subject::Near(namespace) => {
                let touched = self.store().take_near(namespace);
                self.look_at(touched);
                return Ok(Outcome::Settled);
            }
        };
        if depth == Depth::Status && self.tell_again(key).await? {
            return Ok(Outcome::Settled);
        }
        let again = match key.kind {
            Kind::McpServer => server::reconcile(self, key).await?,
            Kind::McpPolicy => policy::reconcile(self, key).await?,
            Kind::McpAuthorizationServer => authority::reconcile(self, key).await?,
            Kind::McpClient => client::reconcile(self, key, depth).await?,
            Kind::Secret | Kind::ConfigMap | Kind::Namespace => None,
        };
        Ok(again.map_or(Outcome::Settled, Outcome::Again))
    }

    /// Says anew what came of the last look at an object. `false`: nothing did yet.
    async fn tell_again(&self, key: &Key) -> Result<bool, Failure> {
        let settled = self.store().settled(key);
        match settled {
            Some(Settled::Server(applied)) => server::tell(self, &applied).await?,
            Some(Settled::Policy(applied)) => policy::tell(self, &applied).await?,
            Some(Settled::Authority(applied)) => authority::tell(self, &applied).await?,
            None => return Ok(false),
        }
        Ok(true)
    }
}
