//! Every stock client through the gate, in both protocol lines: allowed, filtered, refused, recorded.

use serde_json::json;

use crate::support::client::{Client, Stock};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::upstream::{Sdk, Upstream};

const RULES: &str = "  - name: ana\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n  \
                     - name: ben\n    effect: Allow\n    principals: [{users: [ben]}]\n    tools: [{names: [echo]}]\n";

#[test]
fn stock_clients_see_and_call_what_is_granted() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let gateway = Gateway::start(&[
        ("trust.yaml", TRUST),
        ("server.yaml", &server("echo", upstream.url())),
        ("policy.yaml", &policy("persons", "echo", RULES)),
    ]);
    let (ana, ben) = (gateway.token("ana", "echo"), gateway.token("ben", "echo"));
    for stock in Stock::ALL {
        let mut all = Client::connect(stock, &gateway.url("echo"), Some(&ana)).unwrap();
        let everything = all.tool_names().unwrap();
        assert!(everything.len() > 1, "{stock:?}: {everything:?}");
        all.close();
        let mut some = Client::connect(stock, &gateway.url("echo"), Some(&ben)).unwrap();
        assert_eq!(some.tool_names().unwrap(), ["echo"], "{stock:?}");
        some.call("echo", &json!({"text": "a"})).unwrap();
        let other = everything.iter().find(|name| *name != "echo").unwrap();
        assert!(some.call(other, &json!({})).is_err(), "{stock:?} may not call {other}");
        some.close();
    }
}
