//! The collections that are followed, and what of each is kept.
//!
//! Invariant: leader or not, everything is known as soon as it was told, so whoever takes over begins at once; but
//! nothing is asked to be looked at before this process leads. What cannot be followed is known too: it makes the process
//! unfit.

use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::store::Touched;
use super::{Context, apply, speak};
use crate::api;
use crate::api::Key;
use crate::cluster::{self, Event};
use crate::generated::Collection;
use crate::generated::kind::GENERATED;
use crate::generated::report::REPORTS;

/// A collection that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// Objects that people write.
    Sources(api::Kind),
    /// All namespaces.
    Namespaces,
    /// Generated objects.
    Generated(Collection),
    /// What proxies report.
    Reports,
    /// The Pods of the proxies.
    Pods,
}

impl Watched {
    /// Every collection.
    pub const ALL: [Watched; 9] = [
        Watched::Sources(api::Kind::McpServer),
        Watched::Sources(api::Kind::McpPolicy),
        Watched::Sources(api::Kind::McpAuthorizationServer),
        Watched::Sources(api::Kind::McpClient),
        Watched::Namespaces,
        Watched::Generated(Collection::Secrets),
        Watched::Generated(Collection::ConfigMaps),
        Watched::Reports,
        Watched::Pods,
    ];

    /// Its name, for people and for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Watched::Sources(kind) => kind.as_str(),
            Watched::Namespaces => "Namespaces",
            Watched::Generated(Collection::Secrets) => "Secrets",
            Watched::Generated(Collection::ConfigMaps) => "ConfigMaps",
            Watched::Reports => "Reports",
            Watched::Pods => "Pods",
        }
    }

    fn api(self, context: &Context) -> (Api<DynamicObject>, String) {
        let client = context.client.clone();
        let gateway = &context.installation.gateway_namespace;
        match self {
            Watched::Sources(kind) => (Api::all_with(client, &speak::resource(kind)), String::new()),
            Watched::Namespaces => (Api::all_with(client, &ApiResource::erase::<Namespace>(&())), String::new()),
            Watched::Generated(collection) => {
                (Api::namespaced_with(client, gateway, &apply::resource(collection)), GENERATED.to_owned())
            }
            Watched::Reports => {
                let leases = ApiResource::erase::<Lease>(&());
                (Api::namespaced_with(client, gateway, &leases), format!("{REPORTS}=proxy"))
            }
            Watched::Pods => (Api::namespaced_with(client, gateway, &ApiResource::erase::<Pod>(&())), String::new()),
        }
    }

    /// It is about to be listed from its beginning.
    fn begin(self, context: &Context) {
        match self {
            Watched::Sources(kind) => context.store().begin_sources(kind),
            Watched::Generated(collection) => context.store().begin_generated(collection),
            // Nothing of these is told apart by its version.
            Watched::Namespaces | Watched::Reports | Watched::Pods => {}
        }
    }

    fn put(self, context: &Context, object: DynamicObject) -> Touched {
        let name = object.metadata.name.clone().unwrap_or_default();
        let now = context.start.elapsed();
        let mut store = context.store();
        match self {
            Watched::Sources(kind) => store.put_source(kind, object),
            Watched::Namespaces => store.put_namespace(&name, Some(object.metadata.labels.unwrap_or_default())),
            Watched::Generated(collection) => store.put_generated(collection, &object),
            Watched::Reports => {
                let lease = whole(object);
                let change = store.proxies.lease(&name, &lease, now);
                for (authority, kid) in store.proxies.wanted(&name) {
                    context.want_key(authority, kid);
                }
                store.proxies_changed(change)
            }
            Watched::Pods => {
                let phase = object.data.pointer("/status/phase").and_then(Value::as_str);
                store.proxies.pod(&name, matches!(phase, Some("Succeeded" | "Failed")));
                Touched::new()
            }
        }
    }

    fn gone(self, context: &Context, namespace: String, name: String, uid: &str) -> Touched {
        let mut store = context.store();
        match self {
            Watched::Sources(kind) => store.source_gone(&Key { kind, namespace, name }, uid),
            Watched::Namespaces => store.put_namespace(&name, None),
            Watched::Generated(_) => store.generated_gone(&name, uid),
            Watched::Reports => {
                let change = store.proxies.lease_gone(&name);
                store.proxies_changed(change)
            }
            Watched::Pods => {
                store.proxies.pod(&name, true);
                Touched::new()
            }
        }
    }
}

/// Metadata and data of an object as one value.
fn whole(object: DynamicObject) -> Value {
    let mut data = object.data;
    if let (Some(members), Ok(metadata)) = (data.as_object_mut(), serde_json::to_value(object.metadata)) {
        members.insert("metadata".to_owned(), metadata);
    }
    data
}

/// Follows a collection until `stop`. Once all of it was told, `synced` counts one more.
pub async fn follow(context: Arc<Context>, watched: Watched, synced: watch::Sender<usize>, stop: CancellationToken) {
    let (api, labels) = watched.api(&context);
    let mut events = std::pin::pin!(cluster::watch(api, &labels));
    let mut told = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        let touched = match event {
            Event::Begun => {
                watched.begin(&context);
                Touched::new()
            }
            Event::Put(object) => watched.put(&context, *object),
            Event::Gone { namespace, name, uid, .. } => watched.gone(&context, namespace, name, &uid),
            Event::Synced => {
                if !std::mem::replace(&mut told, true) {
                    synced.send_modify(|count| *count += 1);
                }
                if context.fitness().followed(watched) {
                    tracing::info!(collection = watched.as_str(), "followed again");
                }
                Touched::new()
            }
            Event::Failed(error) => {
                if context.fitness().failed(watched, error.clone()) {
                    tracing::warn!(collection = watched.as_str(), error, "cannot be followed; it is tried again");
                }
                Touched::new()
            }
        };
        context.look_at(touched);
    }
}
