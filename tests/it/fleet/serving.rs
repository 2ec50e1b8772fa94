//! What is written is enforced, reported, and reaches what is open.

use portcullis::generated::Collection;
use portcullis::generated::authority::Revocation;
use portcullis::generated::codec::Generated;
use portcullis::generated::kind::SEALING;
use serde_json::json;

use super::house::{House, PUBLIC_URL, generated_policy};
use crate::support::http;
use crate::support::kube::GATEWAY;
use crate::support::wait::until;

#[test]
fn a_policy_is_enforced_and_the_report_says_from_which_version_on() {
    let house = House::serve(&[]);
    let (ana, ben) = (house.token("ana"), house.token("ben"));
    assert!(house.is_allowed(&ana) && !house.is_allowed(&ben));
    let ben_may = generated_policy(
        "ben",
        "  - {name: ben, effect: Allow, principals: [{users: [ben]}], tools: [{names: [echo]}]}\n",
    );
    let version = house.put(&ben_may);
    house.wait_report("the new policy", |report| report.applied[&Collection::ConfigMaps] >= version);
    assert!(house.is_allowed(&ben), "what is reported is enforced");
    house.remove(&ben_may);
    house.wait_denied(&ben);
    assert!(house.is_allowed(&ana));
    let lease = house.lease().unwrap();
    assert_eq!(lease["metadata"]["labels"]["portcullis.dev/reports"], "proxy");
    assert_eq!(lease["spec"]["holderIdentity"], "gate-0");
    let renewed = lease["spec"]["renewTime"].clone();
    assert!(renewed.is_string());
    until("the Lease to be renewed", || (house.lease().unwrap()["spec"]["renewTime"] != renewed).then_some(()));
}

#[test]
fn a_lease_that_others_touch_or_take_away_is_written_again() {
    let house = House::serve(&[]);
    let lease = || until("the Lease", || house.lease());
    let uid = lease()["metadata"]["uid"].clone();
    // What the test before had this API server refuse may hold for a second longer.
    let failures = house.metric("report_failures_total");
    house.cluster.kubectl(&["-n", GATEWAY, "annotate", "lease", "proxy-gate-0", "somebody=was-here"]);
    let version = house.put(&generated_policy("other", super::house::RULES));
    house.wait_report("the change", |report| report.applied[&Collection::ConfigMaps] >= version);
    assert_eq!(lease()["metadata"]["annotations"]["somebody"], "was-here");
    house.cluster.delete("coordination.k8s.io/v1", "Lease", Some(GATEWAY), "proxy-gate-0");
    until("another Lease", || (lease()["metadata"]["uid"] != uid).then_some(()));
    assert_eq!(house.metric("report_failures_total"), failures);
}

#[test]
fn nothing_is_served_before_there_are_sealing_keys() {
    let mut house = House::build();
    house.cluster.delete("v1", "Secret", Some(GATEWAY), SEALING);
    house.start(&[]);
    let message = until("the wait to be told", || {
        let (ready, report) = house.readyz();
        assert!(!ready, "{report}");
        let waiting = &report["checks"]["configuration"];
        let message = waiting["message"].as_str()?.to_owned();
        let is_all =
            waiting["reason"] == "Syncing" && !message.contains("ConfigMaps") && !message.contains("heartbeat");
        is_all.then_some(message)
    });
    assert!(message.contains("portcullis-sealing"), "{message}");
    assert!(!house.process().stderr().contains("\"serving\""));
    house.process().signal("TERM");
    assert!(house.ends_cleanly(), "what waits can be stopped");
    house.start(&[]);
    house.seal(1, None);
    house.wait_ready();
    assert!(house.is_allowed(&house.token("ana")));
}

#[test]
fn a_session_survives_one_rotation_of_the_sealing_keys() {
    let house = House::serve(&[]);
    let ana = house.token("ana");
    let (old, ping) = (house.session(&ana), json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}));
    let status = |session: &str| house.post(&ana, Some(session), &ping).status;
    assert_eq!(status(&old), 200);
    house.seal(2, Some(1));
    // A session of the new key tells that the proxy has it: with the next rotation the old one is unknown.
    until("the rotation", || house.process().stderr().contains("sealing keys were rotated").then_some(()));
    assert_eq!(status(&old), 200);
    let new = house.session(&ana);
    house.seal(3, Some(2));
    until("the old session to be unknown", || (status(&old) == 404).then_some(()));
    assert_eq!(status(&new), 200);
}

#[test]
fn the_local_authority_is_found_where_its_tokens_say() {
    let house = House::serve(&[]);
    let metadata = house.get("/.well-known/oauth-authorization-server/-/issuer/local");
    assert_eq!(metadata.status, 200, "{metadata:?}");
    assert_eq!(metadata.json()["issuer"], format!("{PUBLIC_URL}/-/issuer/local"));
    let keys = house.get("/-/issuer/local/jwks.json");
    assert_eq!(keys.text(), house.issuer.jwks());
    let resource = house.get("/.well-known/oauth-protected-resource/default/items");
    assert_eq!(resource.json()["resource"], format!("{PUBLIC_URL}/default/items"));
}

#[test]
fn revocations_and_removals_reach_open_streams() {
    let house = House::serve(&[]);
    let (token, id) = house.issue("ana");
    let other = house.token("ana");
    let (mut revoked, mut removed) = (listen(&house, &token), listen(&house, &other));
    let mut authority = house.authority.clone();
    authority.revoked.push(Revocation::Token { jti: id });
    house.put(&Generated::Authority(authority));
    // Reads to the end: it comes only if the proxy ends the stream.
    while revoked.read_some().is_some() {}
    assert_eq!(house.call(&token).status, 401);
    assert!(house.is_allowed(&other));
    house.remove(&Generated::Server(house.server.clone()));
    while removed.read_some().is_some() {}
    assert_eq!(house.call(&other).status, 404);
}

#[test]
fn a_policy_that_goes_is_told_to_whoever_listens_and_filters_what_they_see() {
    let house = House::serve(&[]);
    let ana = house.token("ana");
    let list = || {
        let bytes = http::request_2026("http://mcp.example/default/items", Some(&ana), "tools/list", &json!({}));
        http::send(&house.address(), &bytes).json()["result"]["tools"].as_array().unwrap().len()
    };
    assert!(list() > 0);
    let (mut stream, mut buffer) = (listen(&house, &ana), String::new());
    house.remove(&Generated::Policy(house.policy.clone()));
    // It comes only if the change reaches the open stream.
    let told = std::iter::from_fn(|| stream.read_event(&mut buffer));
    let mut told = told.filter(|event| event.data.contains("notifications/tools/list_changed"));
    assert!(told.next().is_some(), "the stream ended");
    assert_eq!(list(), 0);
}

#[test]
fn a_drain_ends_cleanly_and_obeys_what_comes_meanwhile() {
    let mut house = House::serve(&[]);
    let ana = house.token("ana");
    let mut call = http::Connection::open(&house.address());
    let params = json!({"name": "wait", "arguments": {"ms": 10_000}});
    call.write(&http::request_2026("http://mcp.example/default/items", Some(&ana), "tools/call", &params));
    house.upstream.seen().wait_calls(1);
    house.process().signal("TERM");
    let version = house.put(&generated_policy("other", super::house::RULES));
    house.wait_report("what came during the drain", |report| report.applied[&Collection::ConfigMaps] >= version);
    assert!(call.read().json().get("result").is_some());
    assert!(house.ends_cleanly());
}

/// A stream that only listens, in a session of its own.
pub(super) fn listen(house: &House, token: &str) -> http::Connection {
    let (session, bearer) = (house.session(token), format!("Bearer {token}"));
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Mcp-Session-Id", session.as_str()),
        ("Accept", "text/event-stream"),
        ("MCP-Protocol-Version", "2025-11-25"),
    ];
    let mut stream = http::Connection::open(&house.address());
    stream.write(&http::request("GET", "http://mcp.example/default/items", &headers, b""));
    assert_eq!(stream.read_head().status, 200);
    stream
}

#[test]
fn a_proxy_that_starts_again_takes_its_lease_over() {
    let mut house = House::serve(&[]);
    let version = house.report().applied[&Collection::Secrets];
    let ana = house.token("ana");
    let session = house.session(&ana);
    house.kill();
    let renewed = house.lease().unwrap()["spec"]["acquireTime"].clone();
    house.start(&["--pod-uid", "8d6f3a52-3f43-4c8e-9b6e-0c6c2f6f7a11"]);
    house.wait_ready();
    let lease = until("the Lease", || house.lease().filter(|lease| lease["spec"]["acquireTime"] != renewed));
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "8d6f3a52-3f43-4c8e-9b6e-0c6c2f6f7a11");
    assert!(house.report().applied[&Collection::Secrets] >= version);
    // What seals is in the cluster, so any proxy opens it.
    assert_eq!(house.post(&ana, Some(&session), &json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status, 200);
}
