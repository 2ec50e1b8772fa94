//! What a proxy reads in its namespace, told in one queue.
//!
//! Invariant: who reads the queue learns of everything in the order in which it was told, and of no two events of one source
//! the later first.

use std::pin::pin;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

use super::staleness::Source;
use crate::cluster::{self, Event};
use crate::generated::kind::GENERATED;
use crate::generated::report::HEARTBEAT;
use crate::process::Drain;

/// How many events may wait to be taken in.
const QUEUE: usize = 512;

/// Follows all that a proxy reads in its namespace.
pub fn follow(client: &Client, namespace: &str, drain: &Drain) -> mpsc::Receiver<(Source, Event)> {
    let (tell, told) = mpsc::channel(QUEUE);
    let secrets = api::<Secret>(client, namespace);
    let config_maps = api::<ConfigMap>(client, namespace);
    let leases = api::<Lease>(client, namespace);
    let secrets = tell_all(Source::Secrets, tell.clone(), cluster::watch(secrets, GENERATED));
    let config_maps = tell_all(Source::ConfigMaps, tell.clone(), cluster::watch(config_maps, GENERATED));
    let heartbeat = tell_all(Source::Heartbeat, tell, cluster::watch_one(leases, HEARTBEAT));
    super::while_anything_is_served(drain, secrets);
    super::while_anything_is_served(drain, config_maps);
    super::while_anything_is_served(drain, heartbeat);
    told
}

fn api<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

/// Ends when nobody listens.
async fn tell_all(source: Source, tell: mpsc::Sender<(Source, Event)>, events: impl Stream<Item = Event>) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        if tell.send((source, event)).await.is_err() {
            return;
        }
    }
}
