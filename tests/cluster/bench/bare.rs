//! A bare client that writes what the controller wrote, and nothing more: the floor that reconciling is measured against.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::fleet::api;
use crate::support::kube::{Cluster, GATEWAY};
use crate::support::runtime;

/// Writes under way at once; the controller's own.
pub(super) const CONCURRENCY: usize = 16;

const VERSION: &str = "portcullis.dev/v1alpha1";

/// What is to be written.
pub(super) struct Work {
    objects: Vec<Value>,
    statuses: Vec<Value>,
}

/// Everything that the controller wrote.
pub(super) fn gather(cluster: &Cluster) -> Work {
    let generated = |object: &Value| object["metadata"]["labels"]["portcullis.dev/generated"].is_string();
    let metadata =
        |object: &Value| object["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-mcp-metadata"));
    let mut objects: Vec<Value> = Vec::new();
    // A list says once what its items are.
    let typed = |kind: &'static str| {
        move |mut object: Value| {
            (object["apiVersion"], object["kind"]) = ("v1".into(), kind.into());
            object
        }
    };
    for kind in ["Secret", "ConfigMap"] {
        let found = cluster.list("v1", kind, Some(GATEWAY)).into_iter().filter(generated);
        objects.extend(found.map(typed(kind)));
    }
    let documents = cluster.list("v1", "ConfigMap", None).into_iter().filter(metadata);
    objects.extend(documents.map(typed("ConfigMap")));
    for object in &mut objects {
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.retain(|name, _| ["name", "namespace", "labels", "annotations"].contains(&name.as_str()));
    }
    let of = |kind: &'static str| {
        let told = cluster.list(VERSION, kind, None).into_iter().filter(|object| object["status"].is_object());
        told.map(move |object| {
            json!({"apiVersion": VERSION, "kind": kind, "status": object["status"],
                "metadata": {"name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"]}})
        })
    };
    Work { statuses: of("McpServer").chain(of("McpPolicy")).collect(), objects }
}

/// Writes it, and says how long that took.
pub(super) fn write(cluster: &Cluster, work: Work) -> Duration {
    let manager = PatchParams::apply("bare").force();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let writes = work.objects.into_iter().map(|object| (object, false));
    let writes = writes.chain(work.statuses.into_iter().map(|object| (object, true))).map(|(object, status)| {
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let (api, manager) = (api(cluster, &version, &kind, &namespace), manager.clone());
        async move {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let written = match status {
                true => api.patch_status(&name, &manager, &Patch::Apply(&object)).await,
                false => api.patch(&name, &manager, &Patch::Apply(&object)).await,
            };
            written.unwrap_or_else(|error| panic!("{kind} {namespace}/{name}: {error}"));
        }
    });
    let began = Instant::now();
    runtime().block_on(futures_util::stream::iter(writes).buffer_unordered(CONCURRENCY).for_each(|()| async {}));
    began.elapsed()
}
