//! A disk that answers neither yes nor no: no call hangs with it, none is made, and none is unknown afterwards.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Connection, Response};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n";
const AUDIT: &str = "  audit: {delivery: Durable}\n";

/// What the journal says of all calls: decision, outcome, and why.
fn recorded(gateway: &Gateway) -> Vec<[String; 3]> {
    let found = gateway.verb(&["audit", "query", "--tool", "echo", "-o", "json"]).output().unwrap();
    let calls: Vec<Value> = serde_json::from_slice(&found.stdout).unwrap_or_default();
    let word = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    let row = |call: &Value| {
        let end = &call["completion"];
        [&call["record"]["portcullis.decision"], &end["portcullis.outcome"], &end["error.type"]].map(word)
    };
    calls.iter().map(row).collect()
}

#[test]
fn calls_are_refused_while_the_disk_hangs_and_never_unknown_later() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let spec = format!("{}{AUDIT}", server("echo", upstream.url()));
    let (mut gateway, disk) = Gateway::start_on_hanging_disk(&[
        ("trust.yaml", TRUST),
        ("server.yaml", &spec),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ]);
    let token = gateway.token("ana", "echo");
    let params = json!({"name": "echo", "arguments": {"message": "a"}});
    let call = || -> Response { http::post_2026(&gateway.url("echo"), Some(&token), "tools/call", &params) };
    until("the first call", || (call().status == 200).then_some(()));
    let made = upstream.seen().calls().len();

    let decided = || -> Option<String> {
        let metrics = gateway.metrics();
        metrics.lines().find(|line| line.contains("decisions_total{decision=\"allow\"}")).map(str::to_owned)
    };
    let before = decided().expect("a metric of allowed calls");
    disk.hang();
    // One caller gives up before the gateway does.
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"message": "b"}, "_meta": meta}});
    let headers = [("Mcp-Method", "tools/call"), ("Mcp-Name", "echo"), ("MCP-Protocol-Version", "2026-07-28")];
    let mut leaving = Connection::open(&gateway.address().to_string());
    leaving.write(&http::mcp_request(&gateway.url("echo"), Some(&token), &headers, body.to_string().as_bytes()));
    until("the call to be decided", || (decided()? != before).then_some(()));
    drop(leaving);
    // The others are told.
    let refused = call();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let report = until("/readyz to say so", || Some(gateway.readyz()).filter(|(ready, _)| !ready)).1;
    assert!(report.to_string().contains("JournalStalled"), "{report}");
    assert_eq!(call().status, 503);
    assert_eq!(upstream.seen().calls().len(), made, "a call was made without its record");

    disk.answer();
    gateway.wait_ready();
    assert_eq!(call().status, 200);
    let rows = until("all ends to be recorded", || {
        Some(recorded(&gateway)).filter(|rows| rows.iter().all(|[_, outcome, _]| outcome != "none"))
    });
    let count = |outcome: &str, why: &str| rows.iter().filter(|[_, o, w]| (&**o, &**w) == (outcome, why)).count();
    assert_eq!(count("denied", "JournalStalled"), 1, "{rows:?}");
    assert_eq!(count("denied", "CallerGone"), 1, "{rows:?}");
    assert_eq!(count("result", "none"), made + 1, "{rows:?}");
    gateway.restart();
    assert_eq!(recorded(&gateway), rows, "the next start has nothing to add");
    let verify = gateway.verb(&["audit", "verify"]).output().unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

#[test]
fn a_gateway_ends_although_its_disk_hangs() {
    let upstream = Upstream::start_with(Sdk::Rmcp, &json!({"json": true, "stateless": true}));
    let (mut gateway, disk) =
        Gateway::start_on_hanging_disk(&[("trust.yaml", TRUST), ("server.yaml", &server("echo", upstream.url()))]);
    disk.hang();
    gateway.process().signal("TERM");
    assert!(gateway.process_mut().wait_exit().success());
}
