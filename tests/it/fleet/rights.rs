//! What a proxy's ServiceAccount may do, and that it needs no more: all tests of this folder run with it.

use kube::Client;

use super::house::ROLE;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::runtime;
use crate::support::wait::until;

#[test]
fn a_proxy_may_read_what_it_serves_and_report_and_nothing_else() {
    let cluster = Cluster::acquire();
    cluster.apply_yaml(ROLE);
    let proxy =
        cluster.as_user(&format!("system:serviceaccount:{GATEWAY}:portcullis-proxy"), &["system:authenticated"]);
    for (verb, path) in [
        ("GET", format!("/api/v1/namespaces/{GATEWAY}/secrets")),
        ("GET", format!("/api/v1/namespaces/{GATEWAY}/configmaps?watch=1&timeoutSeconds=1")),
        (
            "GET",
            format!(
                "/apis/coordination.k8s.io/v1/namespaces/{GATEWAY}/leases?fieldSelector=metadata.name%3Dportcullis-heartbeat"
            ),
        ),
    ] {
        // The API server knows of rights a moment after they are written.
        until(&format!("{verb} {path} to be allowed"), || (status(&proxy, verb, &path) == 200).then_some(()));
    }
    for (verb, path) in [
        ("GET", format!("/api/v1/namespaces/{SYSTEM}/secrets")),
        ("GET", "/api/v1/secrets".to_owned()),
        ("GET", "/api/v1/namespaces/default/configmaps".to_owned()),
        ("DELETE", format!("/api/v1/namespaces/{GATEWAY}/secrets/portcullis-sealing")),
        ("DELETE", format!("/api/v1/namespaces/{GATEWAY}/configmaps/any")),
        ("DELETE", format!("/apis/coordination.k8s.io/v1/namespaces/{GATEWAY}/leases/portcullis-heartbeat")),
        ("GET", format!("/apis/coordination.k8s.io/v1/namespaces/{GATEWAY}/leases")),
        ("GET", format!("/api/v1/namespaces/{GATEWAY}/pods")),
        ("GET", "/apis/portcullis.dev/v1alpha1/mcpservers".to_owned()),
        ("GET", "/api/v1/nodes".to_owned()),
    ] {
        assert_eq!(status(&proxy, verb, &path), 403, "{verb} {path}");
    }
}

fn status(client: &Client, verb: &str, path: &str) -> u16 {
    let request = http::Request::builder().method(verb).uri(path).body(Vec::new()).unwrap();
    match runtime().block_on(client.request_text(request)) {
        Ok(_) => 200,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{verb} {path}: {error}"),
    }
}
