//! One collection, followed for ever, and told in one queue with the others.
//!
//! Invariant: after whatever failure a collection is listed from its beginning, so nothing that happened meanwhile is
//! missed; and who reads the queue knows when a listing begins and when it is complete.

use std::pin::pin;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
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

/// How long after a failure it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What is told of a source.
pub enum Told {
    /// It is about to be listed from its beginning.
    Begun,
    /// Something happened.
    Event(Event),
}

/// Follows all that a proxy reads in its namespace.
pub fn follow(client: &Client, namespace: &str, drain: &Drain) -> mpsc::Receiver<(Source, Told)> {
    let (tell, told) = mpsc::channel(QUEUE);
    let secrets = api::<Secret>(client, namespace);
    let config_maps = api::<ConfigMap>(client, namespace);
    let leases = api::<Lease>(client, namespace);
    spawn(drain, Source::Secrets, tell.clone(), move || cluster::watch(secrets.clone(), GENERATED));
    spawn(drain, Source::ConfigMaps, tell.clone(), move || cluster::watch(config_maps.clone(), GENERATED));
    spawn(drain, Source::Heartbeat, tell, move || cluster::watch_one(leases.clone(), HEARTBEAT));
    told
}

fn api<K: Resource<DynamicType = ()>>(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

fn spawn<S: Stream<Item = Event> + Send + 'static>(
    drain: &Drain,
    source: Source,
    tell: mpsc::Sender<(Source, Told)>,
    open: impl Fn() -> S + Send + 'static,
) {
    super::while_anything_is_served(drain, for_ever(source, tell, open));
}

/// Ends when nobody listens.
async fn for_ever<S: Stream<Item = Event>>(source: Source, tell: mpsc::Sender<(Source, Told)>, open: impl Fn() -> S) {
    let backoff = ExponentialBuilder::default().with_min_delay(RETRY.0).with_max_delay(RETRY.1).without_max_times();
    let backoff = backoff.with_jitter();
    let mut pauses = backoff.build();
    loop {
        if tell.send((source, Told::Begun)).await.is_err() {
            return;
        }
        let mut events = pin!(open());
        while let Some(event) = events.next().await {
            let failed = matches!(event, Event::Failed(_));
            if matches!(event, Event::Synced) {
                pauses = backoff.build();
            }
            if tell.send((source, Told::Event(event))).await.is_err() {
                return;
            }
            if failed {
                break;
            }
        }
        tokio::time::sleep(pauses.next().unwrap_or(RETRY.1)).await;
    }
}
