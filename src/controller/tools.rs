//! What upstreams list, asked from time to time by whoever leads.
//!
//! Invariant: an upstream is asked with what the gateway sends it anyway, and never oftener than its server changes or
//! [`EVERY`] passes; whatever it answers, what is written is bounded, lies where proxies do not look, and is written only
//! if it changed. That it cannot be asked closes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::error::{ApiError, Failure, code};
use super::inventory::{self, INVENTORY, Inventory};
use super::object::{FIELD_MANAGER, Wanted};
use super::queue::{Depth, Outcome, Queue, Subject};
use crate::api::Key;
use crate::api::v1alpha1::ToolsStatus;
use crate::egress::Egress;
use crate::generated::server::State;
use crate::generated::{Kind, Server};
use crate::upstream::{self, Bounds, Upstream};

/// How long what an upstream listed is taken to be so.
pub const EVERY: Duration = Duration::from_secs(600);
/// How many upstreams are asked at once.
const ASKERS: usize = 4;
/// How many ConfigMaps one inventory may have.
const MOST_OBJECTS: usize = 4;

/// What came of asking an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What it lists; `None`: it was not to be asked, or did not answer.
    pub tools: Option<ToolsStatus>,
    /// What is not as it was reviewed, in words; `Some(None)`: everything is; `None`: there is no lock.
    pub drift: Option<Option<String>>,
    /// Why it could not be asked: a stable word.
    pub failure: Option<&'static str>,
}

/// What is known of all upstreams.
pub struct Tools {
    egress: Egress,
    queue: Queue,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    /// The server as it was when it was last asked for.
    bytes: Arc<[u8]>,
    told: Option<Told>,
}

impl Tools {
    /// Nobody was asked yet.
    pub fn new(egress: Egress) -> Self {
        Self { egress, queue: Queue::default(), known: Mutex::default() }
    }

    /// A server is as it says here: its upstream is asked, if that is another server than before.
    pub fn follow(&self, key: &Key, wanted: &Wanted) {
        let mut known = self.known();
        let same = known.get(&wanted.uid).is_some_and(|known| known.bytes == wanted.bytes);
        if !same {
            let told = known.remove(&wanted.uid).and_then(|known| known.told);
            known.insert(wanted.uid.clone(), Known { bytes: wanted.bytes.clone(), told });
            self.queue.add(Subject::Source(key.clone()), Depth::Whole);
        }
    }

    /// A server is gone.
    pub fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }

    /// What came of asking; `None`: this process has not asked yet.
    pub fn told(&self, uid: &str) -> Option<Told> {
        self.known().get(uid)?.told.clone()
    }

    fn tell(&self, uid: &str, told: Told) -> bool {
        let mut known = self.known();
        let Some(known) = known.get_mut(uid).filter(|known| known.told.as_ref() != Some(&told)) else { return false };
        known.told = Some(told);
        true
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks upstreams until `stop`.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let asker = async || {
        loop {
            let (subject, _) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                next = context.tools.queue.next() => next,
            };
            let asked = match &subject {
                Subject::Source(key) => ask(&context, key).await,
                Subject::Stray(..) => Ok(Outcome::Settled),
            };
            let outcome = asked.unwrap_or_else(|failure| {
                context.metrics.failed(&failure);
                tracing::warn!(object = %subject, reason = failure.reason(), error = %failure, "its tools are not told");
                Outcome::Failed
            });
            context.tools.queue.done(subject, outcome);
        }
    };
    futures_util::future::join_all((0..ASKERS).map(|_| asker())).await;
}

async fn ask(context: &Context, key: &Key) -> Result<Outcome, Failure> {
    let known = {
        let store = context.store();
        store.source(key).and_then(|source| Some((source.id.uid.clone(), store.last_server(&source.id.uid)?)))
    };
    let Some((uid, server)) = known else { return Ok(Outcome::Settled) };
    let (told, outcome) = match listed(context, &server).await {
        Listed::NotAsked => (Told { tools: None, drift: None, failure: None }, Outcome::Settled),
        Listed::Failed(reason) => (Told { tools: None, drift: None, failure: Some(reason) }, Outcome::Failed),
        Listed::All(inventory) => {
            write(context, &uid, &inventory).await?;
            let drift = server.lock.is_some().then_some(inventory.drift);
            (Told { tools: Some(inventory.status), drift, failure: None }, Outcome::Again(EVERY))
        }
    };
    if context.tools.tell(&uid, told) {
        context.queue.add(Subject::Source(key.clone()), Depth::Status);
    }
    Ok(outcome)
}

enum Listed {
    NotAsked,
    Failed(&'static str),
    All(Box<Inventory>),
}

async fn listed(context: &Context, server: &Server) -> Listed {
    if server.state != State::Enabled {
        return Listed::NotAsked;
    }
    let asked = match Upstream::new(&server.upstream, &context.tools.egress) {
        Ok(asked) => asked,
        Err(error) => return Listed::Failed(error.reason()),
    };
    match upstream::inventory(&asked, &Bounds::default()).await {
        Ok(found) => {
            let texts: Vec<&str> = found.tools.iter().map(|tool| tool.get()).collect();
            Listed::All(Box::new(inventory::sum_up(server, &texts)))
        }
        // Its words may repeat what it was sent: they are told to nobody.
        Err(error) => Listed::Failed(error.reason()),
    }
}

fn api(context: &Context) -> Api<ConfigMap> {
    Api::namespaced(context.client.clone(), &context.installation.gateway_namespace)
}

/// Writes the definitions, where they are not written already, and removes those of before.
async fn write(context: &Context, uid: &str, inventory: &Inventory) -> Result<(), Failure> {
    let api = api(context);
    let failed = |error: &kube::Error| Failure::Apply(ApiError::new(format!("the inventory of {uid}"), error));
    for wanted in &inventory.objects {
        let Some(name) = wanted.metadata.name.as_deref() else { continue };
        let found = match api.get_with(name, &GetParams::any()).await {
            Ok(found) => Some(found),
            Err(error) if code(&error) == Some(404) => None,
            Err(error) => return Err(failed(&error)),
        };
        let same = |found: &ConfigMap| {
            found.data == wanted.data
                && found.metadata.labels == wanted.metadata.labels
                && found.metadata.annotations == wanted.metadata.annotations
        };
        if found.as_ref().is_some_and(same) {
            continue;
        }
        context.may_write()?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &params, &Patch::Apply(wanted)).await.map_err(|error| failed(&error))?;
    }
    for number in inventory.objects.len()..MOST_OBJECTS {
        let name = format!("inventory-{uid}-{number}");
        match api.get_metadata_with(&name, &GetParams::any()).await {
            Ok(_) => remove(context, &name).await?,
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(())
}

/// Removes inventories of servers that are gone.
///
/// # Errors
/// If they could not be listed or removed. It is to be tried again.
pub async fn tidy(context: &Context) -> Result<(), Failure> {
    let params = ListParams::default().labels(INVENTORY).match_any();
    let listed = api(context).list_metadata(&params).await;
    let listed = listed.map_err(|error| Failure::Apply(ApiError::new("listing inventories", &error)))?;
    for object in listed.items {
        let uid = object.metadata.labels.as_ref().and_then(|labels| labels.get(INVENTORY));
        let gone = uid.is_none_or(|uid| context.store().owner(Kind::Server, uid).is_none());
        if let Some(name) = object.metadata.name.filter(|_| gone) {
            remove(context, &name).await?;
        }
    }
    Ok(())
}

async fn remove(context: &Context, name: &str) -> Result<(), Failure> {
    context.may_write()?;
    match api(context).delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(404) => Ok(()),
        Err(error) => Err(Failure::Apply(ApiError::new(format!("deleting {name}"), &error))),
    }
}
