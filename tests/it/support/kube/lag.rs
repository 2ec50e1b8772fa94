//! What an API server knows a moment later: rights, from listers that its own watches feed, and what it answers from memory.

use kube::api::{DynamicObject, GetParams};
use serde_json::{Value, json};

use super::Cluster;
use crate::support::runtime;
use crate::support::wait::until;

impl Cluster {
    /// What Kubernetes' own authorizer says by now.
    fn may(&self, user: &str, verb: &str, (group, resource): (&str, &str), namespace: &str) -> bool {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user,
            "groups": ["system:authenticated"], "resourceAttributes": {"verb": verb, "group": group, "resource": resource,
                "namespace": namespace}}});
        let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews");
        let request = request.body(serde_json::to_vec(&review).unwrap()).unwrap();
        let answer: Value = runtime().block_on(self.client().request(request)).unwrap();
        answer["status"]["allowed"] == true
    }

    /// Until a right that was just given counts.
    pub(crate) fn wait_may(&self, user: &str, verb: &str, of: (&str, &str), namespace: &str) {
        until(&format!("{user} to be allowed to {verb} {}", of.1), || {
            self.may(user, verb, of, namespace).then_some(())
        });
    }

    /// Until a right that was just taken away is gone.
    pub(crate) fn wait_may_not(&self, user: &str, verb: &str, of: (&str, &str), namespace: &str) {
        until(&format!("{user} not to be allowed to {verb} {}", of.1), || {
            (!self.may(user, verb, of, namespace)).then_some(())
        });
    }

    /// Until who asks for any version of an object is given the newest.
    pub(crate) fn wait_remembered(&self, version: &str, kind: &str, namespace: Option<&str>, name: &str) {
        let objects = self.api(version, kind, namespace);
        let version_of = |object: Option<DynamicObject>| object.and_then(|object| object.metadata.resource_version);
        until(&format!("{kind} {name} to be remembered"), || {
            runtime().block_on(async {
                let newest = version_of(objects.get_opt(name).await.unwrap());
                let remembered = version_of(objects.get_with(name, &GetParams::any()).await.ok());
                (newest == remembered).then_some(())
            })
        });
    }
}
