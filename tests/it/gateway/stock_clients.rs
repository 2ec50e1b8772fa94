//! Released clients through the gate to released servers: allowed, filtered, refused, revoked.

use serde_json::{Value, json};

use crate::support::client::{Client, Line, Stock, echoed};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const RULES: &str = "
  - {name: ana, effect: Allow, principals: [{users: [ana]}], tools: [{patterns: [\"*\"]}]}
  - {name: ben, effect: Allow, principals: [{users: [ben]}], tools: [{names: [echo]}]}
  - {name: much, effect: Deny, principals: [{any: true}], tools: [{names: [create_item, get-sum]}], when: args.a > 100, message: that is too much}
";

const TOOLS: [&str; 7] = ["echo", "get_item", "create_item", "delete_item", "fail", "progress", "wait"];

struct Gated {
    upstream: Upstream,
    gateway: Gateway,
    ben: String,
}

impl Gated {
    fn before(upstream: Upstream) -> Self {
        let gateway = Gateway::start(&[
            ("trust.yaml", TRUST),
            ("server.yaml", &server("s", upstream.url())),
            ("policy.yaml", &policy("p", "s", RULES)),
        ]);
        let ben = gateway.token("ben", "s");
        Self { upstream, gateway, ben }
    }

    fn connect(&self, stock: Stock, token: &str) -> Client {
        Client::connect(stock, &self.gateway.url("s"), Some(token)).unwrap_or_else(|e| panic!("{stock:?}: {e:?}"))
    }

    /// Revokes the token of a client that is connected: its next call fails, and does not reach the server.
    fn revoke_under(&self, mut client: Client, (token, id): &(String, String), arguments: &Value, pair: &str) {
        client.call("echo", arguments).unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        self.gateway.revoke(id);
        let ask = || http::post(&self.gateway.url("s"), Some(token), &[], b"{}").status;
        until("the revocation", || (ask() == 401).then_some(()));
        self.upstream.seen().clear();
        let told = client.call("echo", arguments).expect_err(pair);
        assert!(!told.message.is_empty(), "{pair}: {told:?}");
        assert!(self.upstream.seen().calls().is_empty(), "{pair}");
    }
}

fn talk(sdk: Sdk, options: &Value) {
    let gated = Gated::before(Upstream::start_with(sdk, options));
    for stock in Stock::ALL {
        if stock.line() == Line::Y2026 && !sdk.speaks_2026() {
            continue;
        }
        let pair = format!("{stock:?} at {sdk:?}");
        let issued = gated.gateway.issue("ana", "s", &[]);
        let mut ana = gated.connect(stock, &issued.0);
        assert_eq!(ana.tool_names().unwrap(), TOOLS, "{pair}");
        gated.upstream.seen().clear();
        let arguments = json!({"message": "h\u{e9}llo \u{1f512}", "deep": {"n": [1, 2.5, null, true]}, "a": 7});
        let result = ana.call("echo", &arguments).unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        assert_eq!(echoed(&result), json!({"tool": "echo", "arguments": arguments}), "{pair}");
        assert_eq!(ana.call("fail", &json!({})).unwrap()["isError"], true, "{pair}");
        // What a rule refuses is told to the model in the rule's own words.
        let refused = ana.call("create_item", &json!({"name": "x", "a": 101})).unwrap();
        assert_eq!(
            (&refused["isError"], &refused["content"][0]["text"]),
            (&json!(true), &json!("that is too much")),
            "{pair}"
        );
        assert_eq!(echoed(&ana.call("create_item", &json!({"name": "x", "a": 100})).unwrap())["arguments"]["a"], 100);
        let seen: Vec<_> = gated.upstream.seen().wait_calls(3).into_iter().map(|call| call.tool).collect();
        assert_eq!(seen, ["echo", "fail", "create_item"], "{pair}");
        if stock.line() == Line::Y2025 {
            ana.ping().unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        }
        gated.revoke_under(ana, &issued, &arguments, &pair);

        let mut ben = gated.connect(stock, &gated.ben);
        assert_eq!(ben.tool_names().unwrap(), ["echo"], "{pair}");
        let hidden = ben.call("get_item", &json!({"id": "1"})).unwrap_err();
        let unknown = ben.call("got_item", &json!({"id": "1"})).unwrap_err();
        assert_eq!(hidden.message.replace("get_item", "got_item"), unknown.message, "{pair}");
        assert_eq!(hidden.code, unknown.code, "{pair}");
        ben.close();
    }
    for request in gated.upstream.seen().requests() {
        assert!(request.header("authorization").is_empty(), "{sdk:?}: {request:?}");
    }
}

#[test]
fn npm_sdk_1_is_governed() {
    talk(Sdk::NpmSdk1, &json!({}));
}

#[test]
fn npm_server_2_is_governed() {
    talk(Sdk::Npm2, &json!({}));
}

#[test]
fn pypi_mcp_1_is_governed() {
    talk(Sdk::Pypi1, &json!({"json": true}));
}

#[test]
fn pypi_mcp_2_is_governed() {
    talk(Sdk::Pypi2, &json!({}));
}

#[test]
fn rmcp_is_governed() {
    talk(Sdk::Rmcp, &json!({}));
}

#[test]
fn server_everything_is_governed() {
    let gated = Gated::before(Upstream::everything());
    for stock in Stock::ALL.into_iter().filter(|stock| stock.line() == Line::Y2025) {
        let pair = format!("{stock:?} at server-everything");
        let issued = gated.gateway.issue("ana", "s", &[]);
        let mut ana = gated.connect(stock, &issued.0);
        let names = ana.tool_names().unwrap();
        assert!(names.iter().any(|name| name == "get-sum"), "{pair}: {names:?}");
        assert_eq!(ana.call("echo", &json!({"message": "hi"})).unwrap()["content"][0]["text"], "Echo: hi", "{pair}");
        let sum = ana.call("get-sum", &json!({"a": 2, "b": 3})).unwrap();
        assert!(sum["content"][0]["text"].as_str().unwrap().contains('5'), "{pair}: {sum}");
        let refused = ana.call("get-sum", &json!({"a": 101, "b": 3})).unwrap();
        assert_eq!(
            (&refused["isError"], &refused["content"][0]["text"]),
            (&json!(true), &json!("that is too much")),
            "{pair}"
        );
        gated.revoke_under(ana, &issued, &json!({"message": "hi"}), &pair);
        let mut ben = gated.connect(stock, &gated.ben);
        assert_eq!(ben.tool_names().unwrap(), ["echo"], "{pair}");
        assert!(ben.call("get-sum", &json!({"a": 2, "b": 3})).is_err(), "{pair}");
        ben.close();
    }
}

#[test]
fn duty_64_progress_reaches_stock_clients_before_the_result() {
    for sdk in [Sdk::NpmSdk1, Sdk::Npm2, Sdk::Pypi2, Sdk::Rmcp] {
        let gated = Gated::before(Upstream::start(sdk));
        let ana = gated.gateway.token("ana", "s");
        for stock in [Stock::NpmSdk1, Stock::Pypi1, Stock::Npm2(Line::Y2026)] {
            if stock.line() == Line::Y2026 && !sdk.speaks_2026() {
                continue;
            }
            let mut client = gated.connect(stock, &ana);
            let (result, progress) = client.call_with_progress("progress", &json!({"steps": 3})).unwrap();
            assert_eq!(progress, [1.0, 2.0, 3.0], "{stock:?} at {sdk:?}");
            assert_eq!(echoed(&result)["tool"], "progress");
        }
    }
}
