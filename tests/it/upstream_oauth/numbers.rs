//! How many tokens are asked for.

use std::thread;

use serde_json::json;

use super::house::{ALL, By, Place, wait_open};
use crate::support::gateway::{Gateway, TRUST};
use crate::support::http::{self, Connection};
use crate::support::wait::until;

const UPSTREAMS: usize = 100;
const AT_ONCE: usize = 8;

/// So many; `make soak` asks for ten thousand.
fn calls() -> usize {
    std::env::var("PORTCULLIS_UPSTREAM_CALLS").map_or(1_000, |text| text.parse().unwrap())
}

/// A policy over all servers, and a hundred servers of one issuer.
fn manifests(place: &Place) -> Vec<(String, String)> {
    let servers = (0..UPSTREAMS).map(|n| {
        let url = format!("{}/{n}", place.upstream.url());
        (format!("server-{n}.yaml"), Place::server(&format!("notes-{n}"), &url, &json!({}), "local"))
    });
    let policy = format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {{name: all, namespace: default}}\nspec:\n  \
         authority: local\n  targets: {{selector: {{}}}}\n  rules:\n{ALL}"
    );
    let others = [("1-local.yaml", TRUST.to_owned()), ("2-vendor.yaml", place.trust()), ("3-policy.yaml", policy)];
    others.into_iter().map(|(name, text)| (name.to_owned(), text)).chain(servers).collect()
}

#[test]
fn any_number_of_calls_of_a_hundred_upstreams_takes_a_hundred_tokens() {
    let count = calls();
    let place = Place::npm(By::Key, &json!({"accessTokenLifetime": 3600}));
    let manifests = manifests(&place);
    let manifests: Vec<(&str, &str)> = manifests.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let gateway = Gateway::start(&manifests);
    let tokens: Vec<String> = (0..UPSTREAMS).map(|n| gateway.token("ana", &format!("notes-{n}"))).collect();
    until("every server to take calls", || {
        let (_, report) = gateway.readyz();
        (!report.to_string().contains("Unserved")).then_some(())
    });
    let work = |thread: usize| {
        let mut connection = Connection::open(&gateway.address().to_string());
        for n in (thread..count).step_by(AT_ONCE) {
            let (url, token) = (gateway.url(&format!("notes-{}", n % UPSTREAMS)), &tokens[n % UPSTREAMS]);
            let params = json!({"name": "echo", "arguments": {}});
            connection.write(&http::request_2026(&url, Some(token), "tools/call", &params));
            let answer = connection.read();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|thread| drop(scope.spawn(move || work(thread)))));
    let calls = place.upstream.calls().iter().filter(|call| call.status == 200).count();
    let asked = place.asked();
    println!("{asked} tokens were asked for, for {calls} calls of {UPSTREAMS} upstreams");
    assert_eq!(calls, count);
    assert_eq!(asked, UPSTREAMS, "one for each upstream");
}

#[test]
fn fifty_first_calls_at_once_make_one_request() {
    let place = Place::npm(By::Secret, &json!({}));
    let slow = crate::support::fault::Fault::Slow(std::time::Duration::from_millis(500));
    place.at_token_endpoint(slow);
    let gateway = place.gateway(&json!({}));
    let ana = gateway.token("ana", "notes");
    // The inventory asks as soon as the server is served: that is the one.
    until("the server to take calls", || {
        (super::house::call(&gateway, "notes", &ana, "echo").status != 503).then_some(())
    });
    wait_open(&gateway, &ana);
    let token = place.upstream.calls().last().unwrap().token.clone();
    place.upstream.rules().rejected.insert(token);
    let before = place.asked();
    thread::scope(|scope| {
        let calls: Vec<_> =
            (0..50).map(|_| scope.spawn(|| super::house::call(&gateway, "notes", &ana, "echo").status)).collect();
        for call in calls {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
    assert_eq!(place.asked(), before + 1, "fifty calls whose token was refused at once");
}
