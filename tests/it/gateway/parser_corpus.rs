//! What the gateway accepts, three upstreams read exactly as it was judged; what it refuses reaches none of them.

use std::fs;
use std::path::PathBuf;

use portcullis::mcp::envelope::Envelope;
use portcullis::mcp::scan::Limits;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http;
use crate::support::seen::Call;
use crate::support::upstream::{Sdk, Upstream};

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{users: [ana]}]\n    tools: [{patterns: [\"*\"]}]\n";

fn bodies(verdict: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/messages").join(verdict);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

/// The same values; numbers by what they are worth, since each reader writes them its own way.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn judged(body: &[u8]) -> Call {
    let envelope = Envelope::parse(body.to_vec().into(), &Limits::CLIENT).unwrap();
    let arguments = envelope.arguments_raw().map_or(Value::Null, |raw| serde_json::from_slice(raw).unwrap());
    Call { tool: envelope.name().unwrap().to_owned(), arguments }
}

#[test]
fn three_upstreams_read_what_was_judged() {
    let (accepted, refused) = (bodies("accepted"), bodies("refused"));
    assert!(accepted.len() + refused.len() >= 120);
    let upstreams = [Sdk::NpmSdk1, Sdk::Pypi1, Sdk::Rmcp].map(|sdk| (sdk, Upstream::start(sdk)));
    for (sdk, upstream) in &upstreams {
        let gateway = Gateway::start(&[
            ("trust.yaml", TRUST),
            ("server.yaml", &server("echo", upstream.url())),
            ("policy.yaml", &policy("all", "echo", RULES)),
        ]);
        let (url, token) = (gateway.url("echo"), gateway.token("ana", "echo"));
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "corpus", "version": "1"}}});
        let opened = http::post(&url, Some(&token), &[], hello.to_string().as_bytes());
        let session = opened.header("mcp-session-id").unwrap();
        let headers = [("Mcp-Session-Id", session), ("MCP-Protocol-Version", "2025-11-25")];
        let post = |body: &[u8]| http::post(&url, Some(&token), &headers, body);
        post(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        for (name, body) in &refused {
            let response = post(body);
            let quiet = response.status == 202 && response.body.is_empty();
            let refused = quiet || response.status >= 400 || !response.json()["error"].is_null();
            assert!(refused, "{name}: {response:?}");
        }
        // Answered in order, so what a refused body had made the upstream report would stand before these.
        for (at, (name, body)) in accepted.iter().enumerate() {
            let response = post(body);
            assert_eq!(response.status, 200, "{sdk:?} {name}: {response:?}");
            let calls = upstream.seen().wait_calls(at + 1);
            assert_eq!(calls.len(), at + 1, "{sdk:?} {name}");
            let (read, judged) = (&calls[at], judged(body));
            assert_eq!(read.tool, judged.tool, "{sdk:?} {name}");
            assert!(same(&read.arguments, &judged.arguments), "{sdk:?} {name}: {read:?} is not {judged:?}");
        }
    }
}
