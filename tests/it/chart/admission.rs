//! The chart's admission policies, on a real API server: what each lets pass, and what it refuses.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::{installed, pod_of};
use crate::controller::USER;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM, api};
use crate::support::runtime;
use crate::support::wait::until;

const COLLECTOR: &str = "system:serviceaccount:kube-system:namespace-controller";

/// What somebody tries; nothing is changed by it.
enum Try {
    /// Making it, or replacing the one that is there.
    Write(Value),
    Delete(Value),
}

/// What came of it: allowed, or refused by a policy, by name.
fn outcome(client: &Client, attempt: &Try) -> Result<(), String> {
    let (Try::Write(object) | Try::Delete(object)) = attempt;
    let name = object["metadata"]["name"].as_str().unwrap();
    let place = object["metadata"]["namespace"].as_str();
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let objects: Api<DynamicObject> = api(client, version, kind, place);
    let done = runtime().block_on(async {
        match attempt {
            Try::Write(object) => {
                let how = PostParams { dry_run: true, ..PostParams::default() };
                let mut object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
                match objects.get_opt(name).await.unwrap() {
                    None => objects.create(&how, &object).await.map(drop),
                    Some(before) => {
                        object.metadata.resource_version = before.metadata.resource_version;
                        objects.replace(name, &how, &object).await.map(drop)
                    }
                }
            }
            Try::Delete(_) => {
                let how = DeleteParams { dry_run: true, ..DeleteParams::default() };
                objects.delete(name, &how).await.map(drop)
            }
        }
    });
    match done {
        Ok(()) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let policy =
                status.message.split("ValidatingAdmissionPolicy '").nth(1).and_then(|rest| rest.split('\'').next());
            Err(policy.unwrap_or_else(|| panic!("refused, and not by a policy: {}", status.message)).to_owned())
        }
        Err(error) => panic!("{kind} {name}: {error}"),
    }
}

#[track_caller]
fn passes(client: &Client, attempt: Try) {
    assert_eq!(outcome(client, &attempt), Ok(()));
}

#[track_caller]
fn refused_by(policy: &str, client: &Client, attempt: Try) {
    assert_eq!(outcome(client, &attempt), Err(policy.to_owned()));
}

/// A new policy is in force a moment after it was written.
fn in_force(policy: &str, client: &Client, attempt: &Try) {
    until(policy, || (outcome(client, attempt) == Err(policy.to_owned())).then_some(()));
}

/// Somebody with every right on these kinds, in this namespace, that RBAC can give.
fn powerful(cluster: &Cluster, user: &str, namespace: &str) -> Client {
    let name = format!("{}-everything", user.replace(':', "-"));
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": name, "namespace": namespace}, "rules": [{"verbs": ["*"],
            "apiGroups": ["", "coordination.k8s.io", "networking.k8s.io", "portcullis.dev"],
            "resources": ["secrets", "configmaps", "leases", "networkpolicies", "mcpclients"]}]}));
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}}));
    cluster.wait_may(user, "delete", ("networking.k8s.io", "networkpolicies"), namespace);
    cluster.as_user(user, &["system:authenticated"])
}

/// A client with the token that the kubelet would put into a Pod.
fn in_pod(cluster: &Cluster, pod: &Value) -> Client {
    let pod = cluster.apply(pod).metadata;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}}});
    let url = format!("/api/v1/namespaces/{GATEWAY}/serviceaccounts/portcullis-proxy/token");
    let request = http::Request::post(url).body(serde_json::to_vec(&request).unwrap()).unwrap();
    let made: Value = runtime().block_on(cluster.client().request(request)).unwrap();
    with_token(cluster, made["status"]["token"].as_str().unwrap())
}

fn with_token(cluster: &Cluster, token: &str) -> Client {
    let mut kubeconfig: Value = serde_json::from_slice(&std::fs::read(cluster.kubeconfig()).unwrap()).unwrap();
    kubeconfig["users"][0]["user"]["token"] = token.into();
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).unwrap();
    runtime().block_on(async {
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Client::try_from(config).unwrap()
    })
}

fn lease(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": "x"},
        "metadata": {"name": name, "namespace": GATEWAY, "labels": labels}})
}

fn report(pod: &str) -> Value {
    lease(&format!("proxy-{pod}"), json!({"portcullis.dev/reports": "proxy"}))
}

fn object(kind: &str, namespace: &str, name: &str, metadata: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
    object["metadata"]["name"] = name.into();
    object["metadata"]["namespace"] = namespace.into();
    object
}

#[test]
fn a_proxys_lease_is_its_pods_alone() {
    const POLICY: &str = "portcullis-proxy-leases";
    let cluster = installed();
    let pod = |ordinal: &str| pod_of(&cluster, "StatefulSet", GATEWAY, "portcullis-proxy", ordinal);
    let first = in_pod(&cluster, &pod("0"));
    let second = in_pod(&cluster, &pod("1"));
    let unbound = with_token(&cluster, &cluster.service_account_token(GATEWAY, "portcullis-proxy", &[]));
    // With every right, so that it is the policy which answers.
    let controller = powerful(&cluster, USER, GATEWAY);
    let eve = powerful(&cluster, "eve", GATEWAY);
    in_force(POLICY, &unbound, &Try::Write(report("portcullis-proxy-0")));

    passes(&first, Try::Write(report("portcullis-proxy-0")));
    passes(&second, Try::Write(report("portcullis-proxy-1")));
    refused_by(POLICY, &first, Try::Write(report("portcullis-proxy-1")));
    refused_by(POLICY, &first, Try::Write(report("portcullis-proxy-00")));
    refused_by(POLICY, &first, Try::Write(lease("another", json!({}))));
    refused_by(POLICY, &first, Try::Write(lease("another", json!({"portcullis.dev/reports": "proxy"}))));
    for other in [&controller, &eve] {
        refused_by(POLICY, other, Try::Write(report("portcullis-proxy-0")));
        refused_by(POLICY, other, Try::Write(lease("proxy-portcullis-proxy-0", json!({}))));
        refused_by(POLICY, other, Try::Write(lease("another", json!({"portcullis.dev/reports": "proxy"}))));
    }
    // Also one that is there.
    cluster.apply(&report("portcullis-proxy-1"));
    refused_by(POLICY, &first, Try::Write(report("portcullis-proxy-1")));
    refused_by(POLICY, &controller, Try::Write(report("portcullis-proxy-1")));
    passes(&second, Try::Write(report("portcullis-proxy-1")));
    passes(&controller, Try::Delete(report("portcullis-proxy-1")));
    // Other Leases are not this policy's.
    passes(&eve, Try::Write(lease("another", json!({}))));
    passes(&cluster.client(), Try::Write(report("portcullis-proxy-0")));
}

#[test]
fn generated_objects_are_the_controllers_alone() {
    const POLICY: &str = "portcullis-generated-objects";
    let cluster = installed();
    // With every right, so that it is the policy which answers.
    let controller = powerful(&cluster, USER, GATEWAY);
    let eve = powerful(&cluster, "eve", GATEWAY);
    let collector = powerful(&cluster, COLLECTOR, GATEWAY);
    let labelled = |kind: &str, name: &str, what: &str| {
        object(kind, GATEWAY, name, json!({"labels": {"portcullis.dev/generated": what}}))
    };
    let generated = [
        labelled("Secret", "server-1", "server"),
        labelled("ConfigMap", "policy-1", "policy"),
        labelled("ConfigMap", "authority-1", "authority"),
        labelled("Secret", "portcullis-sealing", "sealing"),
        lease("portcullis-heartbeat", json!({})),
    ];
    in_force(POLICY, &eve, &Try::Write(generated[0].clone()));
    for object in &generated {
        refused_by(POLICY, &eve, Try::Write(object.clone()));
        passes(&controller, Try::Write(object.clone()));
        cluster.apply(object);
        let mut changed = object.clone();
        changed["metadata"]["annotations"] = json!({"changed": "by hand"});
        refused_by(POLICY, &eve, Try::Write(changed.clone()));
        passes(&controller, Try::Write(changed));
        refused_by(POLICY, &eve, Try::Delete(object.clone()));
        passes(&controller, Try::Delete(object.clone()));
        passes(&collector, Try::Delete(object.clone()));
        refused_by(POLICY, &collector, Try::Write(object.clone()));
        passes(&cluster.client(), Try::Delete(object.clone()));
    }
    // Taking the label away is a change as well.
    let mut bare = generated[1].clone();
    bare["metadata"]["labels"]["portcullis.dev/generated"] = Value::Null;
    let merge = api(&eve, "v1", "ConfigMap", Some(GATEWAY));
    let how = PatchParams { dry_run: true, ..PatchParams::default() };
    let taken = runtime().block_on(merge.patch("policy-1", &how, &Patch::Merge(&bare))).unwrap_err().to_string();
    assert!(taken.contains(POLICY), "{taken}");
    // What else lies there is not this policy's, and neither are objects elsewhere.
    passes(&eve, Try::Write(object("ConfigMap", GATEWAY, "notes", json!({}))));
    let elsewhere = powerful(&cluster, "eve", "default");
    let labels = json!({"labels": {"portcullis.dev/generated": "policy"}});
    passes(&elsewhere, Try::Write(object("ConfigMap", "default", "policy-1", labels)));
}

#[test]
fn the_controller_takes_over_nothing_elsewhere() {
    const POLICY: &str = "portcullis-controller-writes";
    let cluster = installed();
    // Rights are as wide as a careless administrator could make them; the policy holds all the same.
    let controller = powerful(&cluster, USER, "default");
    let owned_by = |kind: &str, api: &str| json!({"ownerReferences": [{"apiVersion": format!("{api}/v1alpha1"), "kind": kind, "name": "a", "uid": "1"}]});
    let client = || owned_by("McpClient", "portcullis.dev");
    let server = || owned_by("McpServer", "portcullis.dev");
    in_force(POLICY, &controller, &Try::Write(object("Secret", "default", "theirs", json!({}))));

    passes(&controller, Try::Write(object("Secret", SYSTEM, "issuer-1", json!({}))));
    passes(&controller, Try::Write(object("Secret", "default", "a-token", client())));
    passes(&controller, Try::Write(object("ConfigMap", "default", "a-mcp-metadata", server())));
    for name in ["portcullis-webhook-ca", "portcullis-webhook-tls", "portcullis-webhook-path"] {
        passes(&controller, Try::Write(object("Secret", SYSTEM, name, json!({}))));
        refused_by(POLICY, &controller, Try::Write(object("Secret", "default", name, json!({}))));
    }
    // Ledgers of registrations come, change and go.
    let ledger = object("Secret", SYSTEM, "registration-1", json!({}));
    passes(&controller, Try::Write(ledger.clone()));
    cluster.apply(&ledger);
    passes(&controller, Try::Write(ledger.clone()));
    passes(&controller, Try::Delete(ledger));
    cluster.delete("v1", "Secret", Some(SYSTEM), "registration-1");
    refused_by(POLICY, &controller, Try::Write(object("Secret", "default", "registration-1", json!({}))));
    // What else lies among the controller's own is neither changed nor deleted: RBAC cannot say so, names are its last word.
    for name in ["issuer-1", "other"] {
        let theirs = object("Secret", SYSTEM, name, json!({}));
        cluster.apply(&theirs);
        refused_by(POLICY, &controller, Try::Write(theirs.clone()));
        refused_by(POLICY, &controller, Try::Delete(theirs.clone()));
        cluster.delete("v1", "Secret", Some(SYSTEM), name);
    }
    refused_by(POLICY, &controller, Try::Write(object("Secret", SYSTEM, "portcullis-webhook", json!({}))));
    refused_by(POLICY, &controller, Try::Write(object("Secret", SYSTEM, "other", json!({}))));
    refused_by(POLICY, &controller, Try::Write(object("Secret", "default", "issuer-1", json!({}))));
    refused_by(POLICY, &controller, Try::Write(object("Secret", "default", "a-token", server())));
    refused_by(
        POLICY,
        &controller,
        Try::Write(object("Secret", "default", "a-token", owned_by("McpClient", "other.dev"))),
    );
    refused_by(POLICY, &controller, Try::Write(object("ConfigMap", "default", "a-mcp-metadata", json!({}))));
    refused_by(POLICY, &controller, Try::Write(object("ConfigMap", "default", "a-mcp-metadata", client())));
    refused_by(POLICY, &controller, Try::Write(object("ConfigMap", "default", "settings", server())));

    let network_policy = |name: &str, metadata: Value| {
        let mut object = object("NetworkPolicy", "default", name, metadata);
        object["apiVersion"] = "networking.k8s.io/v1".into();
        object["spec"] = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
        object
    };
    passes(&controller, Try::Write(network_policy("a-gateway-only", server())));
    refused_by(POLICY, &controller, Try::Write(network_policy("a-gateway-only", json!({}))));
    refused_by(POLICY, &controller, Try::Write(network_policy("a-gateway-only", client())));
    refused_by(POLICY, &controller, Try::Write(network_policy("a-mcp-metadata", server())));
    refused_by(POLICY, &controller, Try::Write(object("ConfigMap", "default", "a-gateway-only", server())));
    cluster.apply(&network_policy("their-gateway-only", json!({})));
    refused_by(POLICY, &controller, Try::Write(network_policy("their-gateway-only", server())));
    refused_by(POLICY, &controller, Try::Delete(network_policy("their-gateway-only", json!({}))));
    let mut own = network_policy("portcullis-proxy", json!({}));
    own["metadata"]["namespace"] = GATEWAY.into();
    cluster.apply(&own);
    refused_by(POLICY, &powerful(&cluster, USER, GATEWAY), Try::Delete(own));
    cluster.apply(&network_policy("a-gateway-only", server()));
    passes(&controller, Try::Write(network_policy("a-gateway-only", server())));
    passes(&controller, Try::Delete(network_policy("a-gateway-only", server())));

    // What is there already and somebody else's is not taken over, whatever name a user's object asks for.
    for (kind, name) in [("Secret", "theirs"), ("ConfigMap", "their-mcp-metadata")] {
        cluster.apply(&object(kind, "default", name, json!({})));
        let owner = if kind == "Secret" { client() } else { server() };
        refused_by(POLICY, &controller, Try::Write(object(kind, "default", name, owner)));
        refused_by(POLICY, &controller, Try::Delete(object(kind, "default", name, json!({}))));
    }
    cluster.apply(&object("Secret", "default", "a-token", client()));
    passes(&controller, Try::Write(object("Secret", "default", "a-token", client())));
    passes(&controller, Try::Delete(object("Secret", "default", "a-token", client())));
    // It is the controller that is held, and nobody else.
    let eve = powerful(&cluster, "eve", "default");
    passes(&eve, Try::Write(object("Secret", "default", "theirs", json!({}))));
}

#[test]
fn a_client_needs_the_verb_issue() {
    const POLICY: &str = "portcullis-clients";
    let cluster = installed();
    let eve = powerful(&cluster, "eve", "default");
    let ivy = powerful(&cluster, "ivy", "default");
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "issue-local"}, "rules": [{"apiGroups": ["portcullis.dev"],
            "resources": ["mcpauthorizationservers"], "resourceNames": ["local"], "verbs": ["issue"]}]}));
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "issue-local"},
        "subjects": [{"kind": "User", "name": "ivy", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "issue-local"}}));
    let client = |name: &str, authority: &str| {
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"authorizationServer": authority,
                "method": "Token", "token": {"subject": "ana", "servers": ["notes"]}}})
    };
    in_force(POLICY, &eve, &Try::Write(client("a", "local")));
    until("ivy's right to count", || outcome(&ivy, &Try::Write(client("a", "local"))).is_ok().then_some(()));
    // Whatever its method, or without one: a registration is made with somebody else's credentials.
    for method in ["Preregistered", "Admin", "CIMD", "DCR", ""] {
        let mut registered = client("r", "local");
        registered["spec"] = json!({"authorizationServer": "local", "method": method, "registration": {}});
        match method {
            "Preregistered" => registered["spec"]["registration"]["clientId"] = json!("r"),
            "" => drop(registered["spec"].as_object_mut().unwrap().remove("method")),
            _ => {}
        }
        refused_by(POLICY, &eve, Try::Write(registered.clone()));
        passes(&ivy, Try::Write(registered));
    }

    passes(&ivy, Try::Write(client("a", "local")));
    refused_by(POLICY, &ivy, Try::Write(client("a", "other")));
    cluster.apply(&client("a", "local"));
    // Asking for more is asking.
    let mut more = client("a", "local");
    more["spec"]["token"]["groups"] = json!(["admins"]);
    refused_by(POLICY, &eve, Try::Write(more.clone()));
    passes(&ivy, Try::Write(more));
    // A label, and a way out, are nobody's to refuse.
    let mut labelled = client("a", "local");
    labelled["metadata"]["labels"] = json!({"a": "b"});
    passes(&eve, Try::Write(labelled));
    passes(&eve, Try::Delete(client("a", "local")));
}
