//! Secrets reach the upstream or nobody: never a log, a metric, an error or a record.

use serde_json::json;

use crate::support::canary::{assert_none, assert_none_below};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::upstream::{Sdk, Upstream};

const RULES: &str =
    "  - name: ana\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{names: [echo]}]\n";
const KEY: &str = "canary-upstream-key-5d1f0c";
const PASSWORD: &str = "canary-argument-8a77e2";

#[test]
fn no_secret_is_told() {
    let mut upstream = Upstream::start(Sdk::Rmcp);
    let host = http::split(upstream.url()).0.to_owned();
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: key\n  namespace: default\n  annotations: \
         {{portcullis.dev/allowed-hosts: {host:?}}}\nstringData: {{token: {KEY}}}\n"
    );
    let headers = "headers: [{name: Authorization, prefix: \"Bearer \", secretKeyRef: {name: key, key: token}}]";
    let spec = server("echo", upstream.url()).replace("none: {}", headers)
        + "  audit: {level: Arguments, delivery: Durable, redact: [/args/password]}\n";
    let gateway = Gateway::start_with(
        &[
            ("trust.yaml", TRUST),
            ("secret.yaml", &secret),
            ("server.yaml", &spec),
            ("policy.yaml", &policy("all", "echo", RULES)),
        ],
        &["--audit-stdout"],
    );
    let (url, token) = (gateway.url("echo"), gateway.token("ana", "echo"));
    let call = |tool: &str, token: &str| {
        let params = json!({"name": tool, "arguments": {"password": PASSWORD, "message": "seen"}});
        http::post_2026(&url, Some(token), "tools/call", &params)
    };
    let answered = call("echo", &token);
    assert_eq!(answered.status, 200, "{} {}", answered.text(), gateway.log());
    let requests = upstream.seen().requests();
    assert!(requests.iter().any(|request| request.header("authorization") == [format!("Bearer {KEY}")]));
    assert!(
        requests.iter().all(|request| !format!("{request:?}").contains(&token)),
        "the caller's token was passed on"
    );

    let forged = format!("{token}x");
    let broken = format!("{{\"password\": \"{PASSWORD}\", ");
    upstream.stop();
    gateway.write("broken.yaml", &secret.replace("stringData: {token: ", "stringData: {token: [").replace('}', "]}"));
    let errors = [
        call("delete_item", &token),
        call("echo", &forged),
        call("echo", &token),
        http::post(&url, Some(&token), &[], broken.as_bytes()),
        http::post(&format!("{url}?access_token={token}"), None, &[], b"{}"),
        http::get(&format!("{url}/{token}"), &[]),
    ];
    let secrets = [token.as_str(), &forged, KEY, PASSWORD];
    let metrics = gateway.metrics();
    let readyz = gateway.readyz().1.to_string();
    for error in &errors {
        assert_none(&secrets, &[("an error", format!("{error:?}").as_bytes()), ("its body", &error.body)]);
    }
    let (log, records) = (gateway.log(), gateway.process().stdout());
    assert!(records.contains("redacted:"), "{records}");
    let texts = [("the log", &log), ("the records", &records), ("/metrics", &metrics), ("/readyz", &readyz)];
    assert_none(&secrets, &texts.map(|(place, text)| (place, text.as_bytes())));
    assert_none_below(&secrets, &gateway.state(), &|_| false);
}
