//! From what a server asks and what was found to what is written and said.

use std::time::Instant;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::controller::inventory::rounds::Inventories;
use crate::controller::trusts::Trusts;
use crate::resolve::PublicUrl;

fn installation() -> Installation {
    Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: "sys".into(),
        gateway_namespace: "gateway".into(),
        cluster_domain: "cluster.local".into(),
        service_account: "the-controller".into(),
        max_staleness: Duration::from_secs(3600),
        webhook: None,
    }
}

fn server() -> ObjectId {
    ObjectId { uid: "u".into(), namespace: "team".into(), name: "notes".into(), generation: 7 }
}

fn reference() -> ServiceRef {
    serde_json::from_value(json!({"name": "notes-svc", "port": 80, "reachableFrom": "GatewayOnly"})).unwrap()
}

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "notes-svc"}, "spec": spec})).unwrap()
}

fn usual() -> Service {
    service(json!({"selector": {"app": "notes"}, "ports": [
        {"name": "dns", "port": 80, "protocol": "UDP", "targetPort": 5353},
        {"name": "web", "port": 80, "protocol": "TCP", "targetPort": "mcp"}]}))
}

fn found(service: Fetched<Service>, policy: Fetched<NetworkPolicy>) -> Found {
    Found { service: Some(service), policy: Some(policy), is_noted: false }
}

/// What is written over `policy`, for this Service.
fn closing(service: Service, policy: Fetched<NetworkPolicy>) -> Isolation {
    plan(&server(), Asked::GatewayOnly(&reference()), found(Fetched::Found(service), policy), &installation())
}

fn written(isolation: Isolation) -> NetworkPolicy {
    match isolation.step {
        Step::Write(policy) => *policy,
        other => panic!("{other:?}"),
    }
}

/// The policy as the API server gives it back.
fn stored() -> NetworkPolicy {
    let mut policy = written(closing(usual(), Fetched::Absent));
    policy.metadata.uid = Some("own".into());
    policy
}

/// Truth, reason and message of what is said once the step is taken.
fn said(isolation: &Isolation) -> (Truth, String, String) {
    let said = isolation.after.clone().unwrap().said;
    (said.truth, said.reason, said.message)
}

#[test]
fn the_gateways_pods_alone_are_let_in_on_the_port_behind_the_service() {
    let isolation = closing(usual(), Fetched::Absent);
    assert_eq!(isolation.before.as_ref().map(|told| told.said.reason.as_str()), Some(PENDING));
    assert_eq!((said(&isolation).0, said(&isolation).1.as_str()), (Truth::True, ISOLATED));
    let peer = |namespace: &str, component: &str| {
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "portcullis", "app.kubernetes.io/component": component}}})
    };
    let expected = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": "notes-gateway-only", "namespace": "team", "labels": {"portcullis.dev/isolation": "upstream"},
            "ownerReferences": [{"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "notes", "uid": "u",
                "controller": true, "blockOwnerDeletion": false}],
        },
        "spec": {
            "podSelector": {"matchLabels": {"app": "notes"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [peer("gateway", "proxy"), peer("sys", "controller")],
                "ports": [{"protocol": "TCP", "port": "mcp"}]}],
        },
    });
    assert_eq!(serde_json::to_value(written(isolation)).unwrap(), expected);
}

#[test]
fn the_port_is_the_one_that_the_service_translates_to() {
    let port = |cluster_ip: &str, target: Value| {
        let ports = json!([{"port": 80, "targetPort": target}]);
        let spec = json!({"selector": {"app": "notes"}, "clusterIP": cluster_ip, "ports": ports});
        let policy = written(closing(service(spec), Fetched::Absent));
        serde_json::to_value(policy).unwrap()["spec"]["ingress"][0]["ports"][0]["port"].clone()
    };
    assert_eq!(port("10.0.0.1", json!(8080)), 8080);
    assert_eq!(port("10.0.0.1", json!("mcp")), "mcp");
    assert_eq!(port("10.0.0.1", Value::Null), 80);
    // Nothing translates: callers connect to the Pods at the port that they name.
    assert_eq!(port("None", json!(8080)), 80);
}

#[test]
fn what_is_as_it_should_be_is_not_written_and_what_somebody_edited_is() {
    let isolation = closing(usual(), Fetched::Found(stored()));
    assert!(matches!(isolation.step, Step::Nothing), "{isolation:?}");
    assert_eq!(isolation.before, isolation.after);
    assert_eq!(isolation.after.as_ref().map(Told::reread), Some(REREAD), "so it is mended within a minute");

    type Edit = fn(&mut NetworkPolicy);
    let edits: [Edit; 4] = [
        |policy| policy.spec.as_mut().unwrap().ingress.as_mut().unwrap().push(NetworkPolicyIngressRule::default()),
        |policy| policy.spec.as_mut().unwrap().policy_types.as_mut().unwrap().push("Egress".into()),
        |policy| drop(policy.spec.as_mut().unwrap().pod_selector.take()),
        // Of an earlier server of the name.
        |policy| policy.metadata.owner_references.as_mut().unwrap()[0].uid = "earlier".into(),
    ];
    for edit in edits {
        let mut edited = stored();
        edit(&mut edited);
        // The UID makes it a precondition: another one of the name is somebody else's.
        assert_eq!(written(closing(usual(), Fetched::Found(edited))), stored());
    }
    let mut labelled = stored();
    labelled.metadata.labels.as_mut().unwrap().insert("argocd".into(), "theirs".into());
    assert!(matches!(closing(usual(), Fetched::Found(labelled)).step, Step::Nothing));
}

#[test]
fn what_is_not_ours_is_neither_written_over_nor_removed() {
    type Edit = fn(&mut NetworkPolicy);
    let edits: [Edit; 4] = [
        |policy| policy.metadata.labels = None,
        |policy| policy.metadata.owner_references = None,
        |policy| policy.metadata.owner_references.as_mut().unwrap()[0].api_version = "portcullis.dev.example/v1".into(),
        |policy| policy.metadata.owner_references.as_mut().unwrap()[0].name = "other".into(),
    ];
    for edit in edits {
        let mut theirs = stored();
        edit(&mut theirs);
        let isolation = closing(usual(), Fetched::Found(theirs.clone()));
        assert!(matches!(isolation.step, Step::Nothing), "{isolation:?}");
        let (truth, reason, message) = said(&isolation);
        assert_eq!((truth, reason.as_str()), (Truth::False, NETWORK_POLICY_CONFLICT));
        assert!(message.contains("team/notes-gateway-only") && message.contains("around the gateway"), "{message}");
        assert!(!isolation.after.unwrap().may_be_there);

        let noted = Found { policy: Some(Fetched::Found(theirs)), is_noted: true, service: None };
        let isolation = plan(&server(), Asked::Anyone, noted, &installation());
        assert!(matches!(isolation.step, Step::Nothing) && isolation.after.is_none(), "{isolation:?}");
    }
}

#[test]
fn who_asks_for_it_no_more_has_none_and_who_is_not_accepted_keeps_it() {
    let noted = || Found { policy: Some(Fetched::Found(stored())), is_noted: true, service: None };
    let isolation = plan(&server(), Asked::Anyone, noted(), &installation());
    assert!(matches!(&isolation.step, Step::Remove(uid) if uid == "own"), "{isolation:?}");
    assert!(isolation.before.is_some_and(|told| told.may_be_there) && isolation.after.is_none());

    let isolation = plan(&server(), Asked::Unknown, noted(), &installation());
    assert!(matches!(isolation.step, Step::Nothing), "{isolation:?}");
    assert_eq!(said(&isolation).1, NOT_ACCEPTED);
    // Only an edit brings it further, and that is told.
    assert_eq!(isolation.after.as_ref().map(Told::reread), Some(REREAD));
    assert!(isolation.after.unwrap().may_be_there);

    // Most servers: nothing was found, since nobody looked.
    for asked in [Asked::Anyone, Asked::Unknown] {
        let isolation = plan(&server(), asked, Found::default(), &installation());
        assert!(matches!(isolation.step, Step::Nothing) && isolation.after.is_none(), "{isolation:?}");
    }
    let gone = Found { policy: Some(Fetched::Absent), ..noted() };
    assert!(plan(&server(), Asked::Anyone, gone, &installation()).after.is_none());
}

#[test]
fn what_is_in_the_way_is_said_and_what_stands_stays() {
    let selecting = |spec: Value| Fetched::Found(service(spec));
    let ports = || json!([{"port": 80}]);
    let by_name =
        json!({"type": "ExternalName", "externalName": "x.example", "selector": {"app": "notes"}, "ports": ports()});
    for (service, reason, part) in [
        (Fetched::Absent, SERVICE_NOT_FOUND, "no Service team/notes-svc"),
        (selecting(json!({"ports": ports()})), SERVICE_WITHOUT_SELECTOR, "selects no Pods"),
        (selecting(json!({"selector": {}, "ports": ports()})), SERVICE_WITHOUT_SELECTOR, "selects no Pods"),
        (selecting(by_name), SERVICE_WITHOUT_SELECTOR, "selects no Pods"),
        (selecting(json!({"selector": {"a": "b"}, "ports": [{"port": 8080}]})), SERVICE_PORT_NOT_FOUND, "TCP port 80"),
        (
            selecting(json!({"selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "UDP"}]})),
            SERVICE_PORT_NOT_FOUND,
            "TCP port 80",
        ),
    ] {
        for (policy, stands) in [(Fetched::Absent, false), (Fetched::Found(stored()), true)] {
            let found = found(service.clone(), policy);
            let isolation = plan(&server(), Asked::GatewayOnly(&reference()), found, &installation());
            assert!(matches!(isolation.step, Step::Nothing), "{isolation:?}");
            let (truth, why, message) = said(&isolation);
            assert_eq!((truth, why.as_str()), (Truth::False, reason), "{message}");
            assert!(message.contains(part), "{message}");
            let meanwhile = if stands { "stays as it was" } else { "around the gateway" };
            assert!(message.contains(meanwhile), "{message}");
            assert_eq!(isolation.after.unwrap().may_be_there, stands);
        }
    }
}

#[test]
fn who_may_not_look_names_the_role_binding() {
    let (service, policy) = (|| Fetched::Found(usual()), || Fetched::Found(stored()));
    let noted = |found: Found| Found { is_noted: true, ..found };
    let reference = reference();
    let asked = Asked::GatewayOnly(&reference);
    for (asked, found, to, may_be_there) in [
        (asked, found(Fetched::Forbidden, Fetched::Absent), "read Service team/notes-svc", false),
        (asked, found(service(), Fetched::Forbidden), "read NetworkPolicy team/notes-gateway-only", false),
        (asked, noted(found(Fetched::Forbidden, policy())), "read Service team/notes-svc", true),
        (Asked::Anyone, noted(found(service(), Fetched::Forbidden)), "look for NetworkPolicy", true),
    ] {
        let isolation = plan(&server(), asked, found, &installation());
        assert!(matches!(isolation.step, Step::Nothing), "{isolation:?}");
        let (truth, reason, message) = said(&isolation);
        assert_eq!((truth, reason.as_str()), (Truth::False, ISOLATION_FORBIDDEN));
        assert_eq!(isolation.after.as_ref().map(Told::reread), Some(REREAD_HINDERED));
        for part in [
            to,
            "controller.upstreamIsolation.enabled",
            "name: portcullis-upstream-isolation, namespace: team}",
            "name: the-controller, namespace: sys}",
        ] {
            assert!(message.contains(part), "no {part}: {message}");
        }
        assert_eq!(isolation.after.unwrap().may_be_there, may_be_there);
    }
}

/// What comes of removing the NetworkPolicy where the API server answers this.
async fn removed(answer: u16) -> Result<Option<Told>, Failure> {
    const PATH: &str = "/apis/networking.k8s.io/v1/namespaces/team/networkpolicies/notes-gateway-only";
    let api_server = tower::service_fn(move |request: http::Request<kube::client::Body>| async move {
        let (head, body) = request.into_parts();
        assert_eq!((head.method, head.uri.path()), (http::Method::DELETE, PATH));
        let params: Value = serde_json::from_slice(&body.collect_bytes().await?).unwrap();
        assert_eq!(params["preconditions"], json!({"uid": "own"}));
        let status = json!({"kind": "Status", "apiVersion": "v1", "code": answer, "reason": "AsScripted",
            "status": if answer < 300 { "Success" } else { "Failure" }, "message": "as scripted"});
        let body = kube::client::Body::from(status.to_string().into_bytes());
        Ok::<_, kube::Error>(http::Response::builder().status(answer).body(body).unwrap())
    });
    let egress = crate::egress::testing::open_egress();
    let asked = (Inventories::new(egress.clone(), None), Trusts::new(egress.clone(), Duration::from_secs(60)));
    let client = kube::Client::new(api_server, "team");
    let context = Context::new(client, "me".into(), installation(), egress, asked, &mut Registry::default());
    context.fence.open(Some(Instant::now() + Duration::from_secs(3600)));
    let policy = Some(Fetched::Found(stored()));
    let found = Found { service: None, policy, is_noted: true };
    take(&context, &server(), plan(&server(), Asked::Anyone, found, &installation())).await
}

#[tokio::test]
async fn it_is_removed_once_the_api_server_says_so_and_another_one_of_its_name_is_looked_at_again() {
    for gone in [200, 404] {
        assert_eq!(removed(gone).await.unwrap(), None, "{gone}");
    }
    // What was read may have been old: the one that is there may be ours, and stay for ever.
    for (answer, reason) in [(409, "ApiConflict"), (500, "ApiRefused")] {
        match removed(answer).await {
            Err(Failure::Apply(error)) => assert_eq!(error.reason(), reason),
            other => panic!("{answer}: {other:?}"),
        }
    }
    let told = removed(403).await.unwrap().unwrap();
    assert_eq!((told.said.reason, told.may_be_there), (ISOLATION_FORBIDDEN.into(), true));
}
