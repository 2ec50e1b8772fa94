//! Proves the test bed itself, without a gate: every stock client talks to every server on the lines that both have.

use serde_json::{Value, json};

use crate::support::client::{Client, Line, Stock, echoed};
use crate::support::upstream::{Sdk, Upstream};

const TOOLS: [&str; 7] = ["echo", "get_item", "create_item", "delete_item", "fail", "progress", "wait"];

fn speak(sdk: Sdk, options: &Value) {
    let server = Upstream::start_with(sdk, options);
    for stock in Stock::ALL {
        if stock.line() == Line::Y2026 && !sdk.speaks_2026() {
            continue;
        }
        let pair = format!("{stock:?} at {sdk:?} {options}");
        server.seen().clear();
        let token = format!("bearer-of-{stock:?}").replace(['(', ')'], "-");
        let mut client = Client::connect(stock, server.url(), Some(&token)).unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        let version = client.about()["protocolVersion"].as_str().unwrap_or_default().to_owned();
        let expected = if stock.line() == Line::Y2026 { "2026-07-28" } else { "2025-" };
        assert!(version.starts_with(expected) || stock == Stock::Rmcp(Line::Y2026), "{pair} speaks {version:?}");
        assert_eq!(client.tool_names().unwrap(), TOOLS, "{pair}");

        let arguments = json!({"message": "h\u{e9}llo", "deep": {"n": [1, 2.5, null, true]}});
        let result = client.call("echo", &arguments).unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        assert_eq!(echoed(&result), json!({"tool": "echo", "arguments": arguments}), "{pair}");
        assert_eq!(client.call("fail", &json!({})).unwrap()["isError"], true, "{pair}");
        let calls = server.seen().wait_calls(2);
        assert_eq!((calls[0].tool.as_str(), &calls[0].arguments), ("echo", &arguments), "{pair}");

        if stock.line() == Line::Y2025 {
            client.ping().unwrap_or_else(|e| panic!("{pair}: {e:?}"));
        }
        // The end of an earlier client's session may come after that client.
        for request in server.seen().requests().into_iter().filter(|request| request.method != "DELETE") {
            assert_eq!(request.header("authorization"), [format!("Bearer {token}")], "{pair}: {request:?}");
            assert_eq!(request.target, "/mcp", "{pair}");
        }
        assert!(server.seen().requests().iter().any(|r| r.method == "POST"), "{pair}");
        client.close();
    }
}

#[test]
fn every_client_speaks_with_npm_sdk_1() {
    speak(Sdk::NpmSdk1, &json!({}));
}

#[test]
fn every_client_speaks_with_npm_server_2() {
    speak(Sdk::Npm2, &json!({}));
}

#[test]
fn every_client_speaks_with_pypi_mcp_1() {
    speak(Sdk::Pypi1, &json!({"json": true}));
}

#[test]
fn every_client_speaks_with_pypi_mcp_2() {
    speak(Sdk::Pypi2, &json!({}));
}

#[test]
fn every_client_speaks_with_rmcp() {
    speak(Sdk::Rmcp, &json!({}));
    speak(Sdk::Rmcp, &json!({"json": true}));
}

#[test]
fn every_2025_client_speaks_with_server_everything() {
    let server = Upstream::everything();
    for stock in Stock::ALL.into_iter().filter(|s| s.line() == Line::Y2025) {
        let mut client = Client::connect(stock, server.url(), None).unwrap_or_else(|e| panic!("{stock:?}: {e:?}"));
        let names = client.tool_names().unwrap();
        assert!(names.iter().any(|n| n == "echo") && names.iter().any(|n| n == "get-sum"), "{stock:?}: {names:?}");
        let result = client.call("echo", &json!({"message": "hi"})).unwrap();
        assert_eq!(result["content"][0]["text"], "Echo: hi", "{stock:?}");
        client.close();
    }
}

#[test]
fn progress_reaches_the_clients_before_the_result() {
    for sdk in Sdk::ALL {
        let server = Upstream::start(sdk);
        for stock in [Stock::NpmSdk1, Stock::Pypi1, Stock::Npm2(Line::Y2026)] {
            if stock.line() == Line::Y2026 && !sdk.speaks_2026() {
                continue;
            }
            let mut client = Client::connect(stock, server.url(), None).unwrap();
            let (result, progress) = client.call_with_progress("progress", &json!({"steps": 3})).unwrap();
            assert_eq!(progress, [1.0, 2.0, 3.0], "{stock:?} at {sdk:?}");
            assert_eq!(echoed(&result)["tool"], "progress");
        }
    }
}

#[test]
fn a_stopped_server_is_a_failure_to_the_client() {
    let mut server = Upstream::start(Sdk::Rmcp);
    let mut client = Client::connect(Stock::Npm2(Line::Y2026), server.url(), None).unwrap();
    client.call("echo", &json!({})).unwrap();
    server.stop();
    let failure = client.call("echo", &json!({})).unwrap_err();
    assert!(!failure.message.is_empty() && failure.code.is_none(), "{failure:?}");
}
