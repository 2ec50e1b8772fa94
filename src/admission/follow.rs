//! How the webhook comes to know the cluster: our own kinds and Namespaces, followed.
//!
//! Invariant: one object at a time is put into the world, so that no review waits for a listing; and nothing is answered
//! before every collection was read once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::{Api, Client};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::live::resource;
use super::metrics::Metrics;
use super::world::{Installation, World};
use crate::api::{Key, Kind};
use crate::cluster::{self, Event};
use crate::process::readiness::Check;

/// What is followed.
const KINDS: [Kind; 5] =
    [Kind::McpAuthorizationServer, Kind::McpClient, Kind::McpPolicy, Kind::McpServer, Kind::Namespace];
/// How often it is shown what is known.
const SHOW: Duration = Duration::from_secs(1);

/// What is known, and how well. Clones share it.
#[derive(Clone)]
pub struct Known {
    world: Arc<RwLock<World>>,
    states: Arc<Mutex<BTreeMap<Kind, State>>>,
}

#[derive(Default)]
struct State {
    read: bool,
    failing: Option<String>,
}

impl Known {
    /// Nothing yet.
    pub fn new(installation: Installation) -> Self {
        let states = KINDS.map(|kind| (kind, State::default())).into();
        Self { world: Arc::new(RwLock::new(World::new(installation))), states: Arc::new(Mutex::new(states)) }
    }

    /// What is known. Never held while something is awaited.
    pub fn world(&self) -> RwLockReadGuard<'_, World> {
        self.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether every collection was read once. One that cannot be followed any more is told of by the readiness; what was
    /// known of it still judges, as a controller and its proxies go on with it.
    pub fn is_complete(&self) -> bool {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).values().all(|state| state.read)
    }

    fn state(&self, kind: Kind, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.states.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&kind) {
            change(state);
        }
    }

    fn take(&self, kind: Kind, event: Event) {
        let world = || self.world.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begun => {}
            Event::Put(mut object) => {
                object.metadata.managed_fields = None;
                // What was read as JSON can be written as such.
                if let Ok(object) = serde_json::to_value(*object) {
                    world().put(kind, object);
                }
            }
            // Another of the name is put next, in its place.
            Event::Gone { replaced: true, .. } => {}
            Event::Gone { namespace, name, .. } => world().remove(&Key { kind, namespace, name }),
            Event::Synced => self.state(kind, |state| *state = State { read: true, failing: None }),
            Event::Failed(error) => self.state(kind, |state| {
                if state.failing.is_none() {
                    tracing::warn!(collection = kind.as_str(), error, "cannot be followed; it is tried again");
                }
                state.failing = Some(error);
            }),
        }
    }

    /// Shows what is known.
    fn show(&self, check: &Check, metrics: &Metrics) {
        let mut unseen = Vec::new();
        let mut read = true;
        for kind in KINDS {
            let count = self.world().count(kind);
            self.state(kind, |state| {
                metrics.knows(kind, count, state.read && state.failing.is_none());
                read &= state.read;
                unseen.extend(state.failing.as_ref().map(|error| format!("{}: {error}", kind.as_str())));
            });
        }
        // What was known still judges, while it is all that there is; another replica may see more.
        if !unseen.is_empty() {
            let message = format!(
                "what these hold is not known: {}. See whether the API server answers, and what the webhook's \
                 ServiceAccount may list and watch",
                unseen.join("; ")
            );
            check.not_ready("NotFollowed", message);
        } else if read {
            check.ready();
        } else {
            check.not_ready("Listing", "not every collection was read yet");
        }
    }
}

/// Follows every collection until `stop`.
pub async fn follow(client: Client, known: Known, check: Check, metrics: Metrics, stop: CancellationToken) {
    let collections = KINDS.map(|kind| {
        let api = Api::all_with(client.clone(), &resource(kind));
        cluster::watch(api, "").map(move |event| (kind, event)).boxed()
    });
    let mut events = futures_util::stream::select_all(collections);
    let mut shown = interval(SHOW);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = shown.tick() => known.show(&check, &metrics),
            event = events.next() => match event {
                Some((kind, event)) => {
                    let synced = matches!(event, Event::Synced);
                    known.take(kind, event);
                    if synced {
                        known.show(&check, &metrics);
                    }
                }
                None => return,
            },
        }
    }
}
