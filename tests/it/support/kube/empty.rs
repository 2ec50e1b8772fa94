//! Makes an API server as good as new for the next test.

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};

use super::api;

/// What tests make in namespaces.
const NAMESPACED: [(&str, &str); 17] = [
    ("portcullis.dev/v1alpha1", "McpServer"),
    ("portcullis.dev/v1alpha1", "McpPolicy"),
    ("portcullis.dev/v1alpha1", "McpClient"),
    ("v1", "Secret"),
    ("v1", "ConfigMap"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "PersistentVolumeClaim"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("coordination.k8s.io/v1", "Lease"),
    ("events.k8s.io/v1", "Event"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
];

/// And besides them; what Kubernetes itself made is labelled, and stays.
const CLUSTER: [(&str, &str); 6] = [
    // First: whom they name may be gone.
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("portcullis.dev/v1alpha1", "McpAuthorizationServer"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
];

/// Deletes everything that a test may have made, namespaces included.
pub(super) async fn empty(client: &Client) {
    let now = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() }
        .grace_period(0);
    for (version, kind) in CLUSTER {
        let own = ListParams::default().labels("!kubernetes.io/bootstrapping");
        gone_or_deleted(api(client, version, kind, None).delete_collection(&now, &own).await.map(drop), kind);
    }
    let namespaces = api(client, "v1", "Namespace", None);
    for namespace in namespaces.list(&ListParams::default()).await.unwrap() {
        let name = namespace.metadata.name.unwrap();
        if name.starts_with("kube-") {
            continue;
        }
        for (version, kind) in NAMESPACED {
            let objects = api(client, version, kind, Some(&name));
            gone_or_deleted(objects.delete_collection(&now, &ListParams::default()).await.map(drop), kind);
            if kind == "McpClient" {
                release(&objects).await;
            }
        }
        if name == "default" {
            continue;
        }
        namespaces.delete(&name, &now).await.unwrap();
        // What the namespace controller would do once the namespace is empty.
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}});
        let url = format!("/api/v1/namespaces/{name}/finalize");
        let request = http::Request::put(url).body(serde_json::to_vec(&body).unwrap()).unwrap();
        drop(client.request::<Value>(request).await.unwrap());
    }
}

/// Whoever would take away what keeps these objects runs no more.
async fn release(objects: &Api<DynamicObject>) {
    let Ok(kept) = objects.list(&ListParams::default()).await else { return };
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    for name in kept.items.into_iter().filter_map(|object| object.metadata.name) {
        let released = objects.patch(&name, &PatchParams::default(), &patch).await.map(drop);
        gone_or_deleted(released, "McpClient");
    }
}

fn gone_or_deleted(outcome: kube::Result<()>, kind: &str) {
    match outcome {
        Ok(()) => {}
        // A kind that this build does not have, or that cannot be deleted as a collection, has no objects.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
        Err(error) => panic!("cannot delete every {kind}: {error}"),
    }
}
