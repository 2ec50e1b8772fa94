//! ServiceAccounts of which the API server is asked too.

use portcullis::generated::authority::{KeySet, KeySource, TokenRules, TypRule};
use portcullis::generated::codec::Generated;
use portcullis::generated::{Authority, Collection};
use serde_json::{Value, json};

use super::house::{House, RULES, generated_policy};
use super::serving::listen;
use crate::support::wait::until;
use crate::support::{canary, runtime};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What the chart gives proxies with `proxy.tokenReview.enabled`.
const RIGHT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: portcullis-proxy-token-review}
rules:
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: portcullis-proxy-token-review}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: portcullis-proxy-token-review}
subjects: [{kind: ServiceAccount, name: portcullis-proxy, namespace: portcullis-gateway}]
";

/// A house whose server trusts the cluster's ServiceAccounts and lets everybody do everything, with a proxy.
fn serve(token_review: bool, window: &str) -> House {
    let mut house = House::build();
    house.put(&Generated::Authority(cluster_authority(&house, token_review)));
    let anyone = "  - {name: anyone, effect: Allow, principals: [{any: true}], tools: [{patterns: [\"*\"]}]}\n";
    house.put(&generated_policy("anyone", anyone));
    house.cluster.namespace("ci", &[]);
    for account in ["bot", "other"] {
        house.cluster.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": "ci", "name": account}}));
    }
    // Everything is said, so that whatever leaks is seen.
    house.start_in(&[("PORTCULLIS_LOG", "trace")], &["--token-review-window", window]);
    house.wait_ready();
    house
}

fn cluster_authority(house: &House, token_review: bool) -> Authority {
    let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).unwrap();
    let jwks = runtime().block_on(house.cluster.client().request_text(request)).unwrap();
    Authority {
        issuer: ISSUER.to_owned(),
        rules: TokenRules {
            typ: TypRule::ServiceAccount { api_audiences: vec![ISSUER.to_owned()], refused: Vec::new(), token_review },
            client_claims: Vec::new(),
            groups_claim: None,
            ..house.authority.rules.clone()
        },
        keys: KeySource::Kubernetes,
        key_set: Some(KeySet { jwks, valid_until: i64::MAX }),
        ..house.authority.clone()
    }
}

fn token(house: &House, account: &str) -> String {
    house.cluster.service_account_token("ci", account, &[&house.server.resource, "https://elsewhere.example"])
}

/// A token that is bound to a Pod of this name, as the one that the Pod mounts.
fn pods_token(house: &House, account: &str, pod: &str) -> String {
    let container = json!({"name": "c", "image": "i"});
    let made = house.cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "ci", "name": pod}, "spec": {"serviceAccountName": account, "containers": [container]}}));
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": made.metadata.uid});
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [house.server.resource], "expirationSeconds": 3600, "boundObjectRef": bound}});
    let url = format!("/api/v1/namespaces/ci/serviceaccounts/{account}/token");
    let request = http::Request::post(url).body(serde_json::to_vec(&asked).unwrap()).unwrap();
    let made: Value = runtime().block_on(house.cluster.client().request(request)).unwrap();
    made["status"]["token"].as_str().unwrap().to_owned()
}

/// How many questions ended so.
fn counted(house: &House, outcome: &str) -> u64 {
    let name = format!("portcullis_token_reviews_total{{outcome=\"{outcome}\"}} ");
    let metrics = house.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

fn wait_status(house: &House, token: &str, status: u16) {
    until(&format!("a call to be answered with {status}"), || (house.call(token).status == status).then_some(()));
}

#[test]
fn a_service_account_calls_until_it_or_its_pod_is_deleted_and_its_streams_end_with_it() {
    let house = serve(true, "1s");
    house.cluster.apply_yaml(RIGHT);
    let (bot, other) = (token(&house, "bot"), token(&house, "other"));
    let of_pod = pods_token(&house, "other", "runner");
    for token in [&bot, &other, &of_pod] {
        house.wait_allowed(token);
    }
    let (mut ends, mut ends_too, mut stays) = (listen(&house, &bot), listen(&house, &of_pod), listen(&house, &other));
    house.cluster.delete("v1", "ServiceAccount", Some("ci"), "bot");
    let now = kube::api::DeleteParams::default().grace_period(0);
    runtime().block_on(house.cluster.api("v1", "Pod", Some("ci")).delete("runner", &now)).unwrap();
    // They read to the end: it comes only if the proxy ends them, though nobody calls.
    while ends.read_some().is_some() {}
    while ends_too.read_some().is_some() {}
    assert_eq!(counted(&house, "refused"), 2, "nobody called: it was asked for the streams");
    for token in [&bot, &of_pod] {
        wait_status(&house, token, 401);
        let refused = house.call(token);
        assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"), "{refused:?}");
    }
    assert!(house.is_allowed(&other));
    // It was asked about over and over meanwhile, and nothing was cut off.
    house.put(&generated_policy("more", RULES));
    let mut buffer = String::new();
    let told = std::iter::from_fn(|| stays.read_event(&mut buffer));
    let mut told = told.filter(|event| event.data.contains("notifications/tools/list_changed"));
    assert!(told.next().is_some(), "the stream ended");
    assert!(counted(&house, "believed") >= 3);
    let log =
        until("the log to say so", || Some(house.process().stderr()).filter(|log| log.contains("TokenReviewRefused")));
    let metrics = house.metrics();
    canary::assert_none(&[&bot, &other, &of_pod], &[("log", log.as_bytes()), ("metrics", metrics.as_bytes())]);
}

#[test]
fn the_api_server_is_asked_once_in_a_window_and_not_at_all_where_nobody_wants_that() {
    let house = serve(true, "5m");
    house.cluster.apply_yaml(RIGHT);
    let bot = token(&house, "bot");
    house.wait_allowed(&bot);
    let answered = counted(&house, "believed");
    assert_eq!(answered, 1);
    for _ in 0..5 {
        assert!(house.is_allowed(&bot));
    }
    assert_eq!(counted(&house, "believed"), answered);
    let version = house.put(&Generated::Authority(cluster_authority(&house, false)));
    house.wait_report("that nobody is to be asked", |report| report.applied[&Collection::ConfigMaps] >= version);
    let gone = token(&house, "other");
    house.cluster.delete("v1", "ServiceAccount", Some("ci"), "other");
    // Good until it expires.
    house.wait_allowed(&gone);
    assert_eq!(counted(&house, "believed"), answered);
}

#[test]
fn while_the_api_server_gives_no_answer_nobody_is_believed() {
    let mut house = serve(true, "1s");
    house.cluster.apply_yaml(RIGHT);
    let bot = token(&house, "bot");
    house.wait_allowed(&bot);
    let mut stream = listen(&house, &bot);
    house.cluster.freeze(true);
    while stream.read_some().is_some() {}
    assert!(counted(&house, "unavailable") > 0, "nobody called: it was asked for the stream");
    let refused = house.call(&bot);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")), "{refused:?}");
    // The log comes through a pipe, and may be read a moment after the answer.
    until("both to be in the log", || {
        let log = house.process().stderr();
        (log.contains("TokenReviewUnavailable") && log.contains("TokenReviewTimeout")).then_some(())
    });
    house.cluster.freeze(false);
    house.wait_allowed(&bot);

    house.cluster.stop();
    wait_status(&house, &bot, 503);
    house.cluster.start();
    house.wait_allowed(&bot);
    let log = house.process().stderr();
    canary::assert_none(&[&bot], &[("log", log.as_bytes())]);
}

#[test]
fn a_proxy_that_may_not_ask_lets_nobody_in_and_says_once_what_it_lacks() {
    let house = serve(true, "1s");
    let bot = token(&house, "bot");
    for _ in 0..3 {
        assert_eq!(house.call(&bot).status, 503);
    }
    let said = |house: &House| house.process().stderr().matches("proxy.tokenReview.enabled").count();
    until("it to be said", || (said(&house) > 0).then_some(()));
    assert_eq!(said(&house), 1, "{}", house.process().stderr());
    house.cluster.apply_yaml(RIGHT);
    house.wait_allowed(&bot);
    assert_eq!(said(&house), 1);
}
