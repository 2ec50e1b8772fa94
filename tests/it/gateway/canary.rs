//! No secret comes out anywhere.

use serde_json::json;

use super::house::RULES;
use crate::support::canary;
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::upstream::{Sdk, Upstream};

const KEY: &str = "canary-upstream-key-7f3a91";
const PASSWORD: &str = "canary-password-c0ffee42";

#[test]
fn secrets_and_tokens_are_in_no_output() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: key\n  namespace: default\n  annotations: \
         {{portcullis.dev/allowed-hosts: \"{}\"}}\nstringData: {{k: {KEY}}}\n",
        http::split(upstream.url()).0
    );
    let server = server("items", upstream.url())
        .replace("none: {}", "headers: [{name: X-Api-Key, secretKeyRef: {name: key, key: k}}]")
        + "  audit: {level: Arguments, redact: [/args/password]}\n";
    // Also not to whoever wants to know everything.
    let gateway = Gateway::start_in(
        &[("PORTCULLIS_LOG", "trace")],
        &[
            ("trust.yaml", TRUST),
            ("secret.yaml", &secret),
            ("server.yaml", &server),
            ("policy.yaml", &policy("persons", "items", RULES)),
        ],
    );
    let token = gateway.token("ana", "items");
    let arguments = json!({"message": "in clear", "password": PASSWORD});
    let call = |token: &str| {
        http::post_2026(
            &gateway.url("items"),
            Some(token),
            "tools/call",
            &json!({"name": "echo", "arguments": arguments}),
        )
    };
    assert_eq!(call(&token).status, 200, "{}", gateway.log());
    upstream.seen().wait_calls(1);
    assert!(
        upstream.seen().requests().iter().any(|request| request.header("x-api-key") == [KEY]),
        "it is sent where it belongs"
    );
    // What fails must not tell either.
    let damaged = format!("{}AAAA", &token[..token.len() - 4]);
    assert_eq!(call(&damaged).status, 401);
    gateway.write("secret.yaml", &secret.replace("stringData: {", "stringData: {{"));
    crate::support::wait::until("the broken Secret to be named", || (!gateway.readyz().0).then_some(()));
    let query = gateway.verb(&["audit", "query", "--all", "-o", "json"]).output().unwrap();
    let texts = [
        gateway.log(),
        gateway.metrics(),
        gateway.readyz().1.to_string(),
        call(&token).text(),
        String::from_utf8(query.stdout).unwrap(),
    ];
    assert!(texts[4].contains("in clear"), "arguments are recorded: {}", texts[4]);
    let secrets = [KEY, PASSWORD, &token, &damaged];
    for (n, text) in texts.iter().enumerate() {
        for secret in secrets {
            // The echo tool says what it was told, to the one who told it.
            assert!(!text.contains(secret) || (n == 3 && secret == PASSWORD), "text {n} holds {secret}");
        }
    }
    canary::assert_none_below(&secrets, &gateway.state(), &|_| false);
}
