//! Proves the helpers of `support` themselves.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::issuer::{Document, Fault, Issuer};
use crate::support::process::{Process, portcullis};
use crate::support::token::{Key, unsigned};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;
use crate::support::{canary, http};

#[test]
fn a_process_ends_with_its_guard() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo up; echo no >&2; read line; echo got $line; sleep 600"]);
    let mut process = Process::start(command);
    process.wait_stdout("up", 0, |line| (line == "up").then_some(()));
    assert!(process.write_line("x"));
    process.wait_stdout("got x", 1, |line| (line == "got x").then_some(()));
    // The two streams are read side by side.
    until("what it complains of", || (process.stderr() == "no").then_some(()));
    assert_eq!(process.stdout(), "up\ngot x");
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).ok();
    let pid = process.pid();
    assert!(status(pid).is_some());
    drop(process);
    assert!(status(pid).is_none(), "the process outlived its guard");
}

#[test]
fn a_process_can_be_told_to_end() {
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.01; done"]);
    let mut process = Process::start(command);
    process.wait_stdout("up", 0, |line| (line == "up").then_some(()));
    process.signal("TERM");
    assert_eq!(process.wait_exit().code(), Some(3));
}

#[test]
fn the_binary_under_test_runs() {
    let mut process = Process::start(portcullis());
    process.close_stdin();
    process.wait_exit();
}

#[test]
fn raw_http_reads_json_and_streams() {
    for options in [json!({}), json!({"json": true})] {
        let server = Upstream::start_with(Sdk::Rmcp, &options);
        let params = json!({"name": "echo", "arguments": {"message": "raw"}});
        let answer = http::post_2026(server.url(), Some("secret"), "tools/call", &params);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.json()["result"]["content"][0]["text"].as_str().unwrap().contains("raw"), "{answer:?}");
        let list = http::post_2026(server.url(), None, "tools/list", &json!({}));
        assert_eq!(list.json()["result"]["tools"][0]["name"], "echo");
    }
}

#[test]
fn raw_http_reads_events_as_they_come() {
    let server = Upstream::start(Sdk::NpmSdk1);
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}});
    let answer = http::post(server.url(), None, &[], hello.to_string().as_bytes());
    let session = answer.header("mcp-session-id").unwrap().to_owned();
    assert_eq!(answer.events().len(), 1, "{answer:?}");
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"}}});
    let headers = [("Mcp-Session-Id", session.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    let mut connection = http::Connection::open(http::split(server.url()).0);
    connection.write(&http::mcp_request(server.url(), None, &headers, call.to_string().as_bytes()));
    assert_eq!(connection.read_head().header("content-type"), Some("text/event-stream"));
    let mut buffer = String::new();
    let mut events = Vec::new();
    while let Some(event) = connection.read_event(&mut buffer) {
        events.push(event);
    }
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[0].data.contains("notifications/progress") && events[2].data.contains("\"result\""));
    // The connection is still good; garbage on it is refused and closes it.
    connection.write(b"NONSENSE\r\n\r\n");
    assert_eq!(connection.read().status, 400);
    connection.end();
    assert!(connection.is_closed());
}

#[test]
fn an_abandoned_call_is_seen_as_cancelled() {
    let server = Upstream::start(Sdk::Npm2);
    let params = json!({"name": "wait", "arguments": {"ms": 600_000}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}}});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}).to_string();
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "wait")];
    let mut connection = http::Connection::open(http::split(server.url()).0);
    connection.write(&http::mcp_request(server.url(), None, &headers, call.as_bytes()));
    server.seen().wait_calls(1);
    drop(connection);
    server.seen().wait_cancelled("wait", 1);
}

#[test]
fn the_issuer_publishes_and_its_tokens_verify() {
    let issuer = Issuer::start();
    issuer.set_keys(vec![Arc::new(Key::eddsa("old")), Arc::new(Key::es256("new"))]);
    let metadata = http::get(&format!("{}/.well-known/openid-configuration", issuer.url()), &[]).json();
    assert_eq!(metadata["issuer"], issuer.url());
    let jwks = http::get(metadata["jwks_uri"].as_str().unwrap(), &[]).text();
    assert_eq!((issuer.hits(Document::Metadata), issuer.hits(Document::Jwks)), (1, 1));
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&jwks).unwrap();
    let token = issuer.token("alice", "https://gate/team/server", "mcp:use", &["engineers"]);
    let verify = |token: &str, kid: &str, alg| {
        let mut rules = jsonwebtoken::Validation::new(alg);
        rules.set_audience(&["https://gate/team/server"]);
        let key = jsonwebtoken::DecodingKey::from_jwk(jwks.find(kid).unwrap()).unwrap();
        jsonwebtoken::decode::<serde_json::Value>(token, &key, &rules)
    };
    let claims = verify(&token, "new", jsonwebtoken::Algorithm::ES256).unwrap().claims;
    assert_eq!((&claims["sub"], &claims["groups"][0]), (&json!("alice"), &json!("engineers")));
    let claims = issuer.claims("bob", "https://gate/team/server");
    for stray in [Key::es256("new"), Key::eddsa("new")] {
        assert!(verify(&stray.sign(&stray.header(), &claims), stray.kid(), jsonwebtoken::Algorithm::ES256).is_err());
    }
    let none = unsigned(&json!({"alg": "none"}), &claims, b"");
    assert!(verify(&none, "new", jsonwebtoken::Algorithm::ES256).is_err());
}

#[test]
fn the_issuer_fails_on_demand() {
    let issuer = Issuer::start();
    let jwks = format!("{}/jwks", issuer.url());
    issuer.fail(Document::Jwks, Fault::Status(500));
    assert_eq!(http::get(&jwks, &[]).status, 500);
    issuer.fail(Document::Jwks, Fault::Redirect("http://127.0.0.1:1/".to_owned()));
    assert_eq!(http::get(&jwks, &[]).header("location"), Some("http://127.0.0.1:1/"));
    issuer.fail(Document::Jwks, Fault::Huge(2_000_000));
    assert!(http::get(&jwks, &[]).body.len() > 2_000_000);
    issuer.fail(Document::Jwks, Fault::Body("{".to_owned()));
    assert_eq!(http::get(&jwks, &[]).text(), "{");
    issuer.fail(Document::Jwks, Fault::Slow(Duration::from_millis(1)));
    assert_eq!(http::get(&jwks, &[]).json()["keys"][0]["kid"], "key-1");
    issuer.heal(Document::Jwks);
    issuer.publish(json!({"keys": []}));
    assert_eq!(http::get(&jwks, &[]).json(), json!({"keys": []}));
    issuer.set_metadata("issuer", json!("https://somebody.else"));
    let metadata = http::get(&format!("{}/.well-known/oauth-authorization-server", issuer.url()), &[]).json();
    assert_eq!(metadata["issuer"], "https://somebody.else");
}

#[test]
fn the_canary_sings_in_every_form() {
    use base64::Engine;
    let secret = "s3cr3t/canary+\"value\"-0123456789";
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("user:{secret}"));
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    let forms = [secret.to_owned(), basic, hex, serde_json::to_string(secret).unwrap()];
    for form in &forms {
        assert!(canary::leaks(secret, format!("log: {form} end").as_bytes()), "{form}");
    }
    let key = Key::es256("k");
    let token = key.sign(&key.header(), &json!({"sub": "alice"}));
    let signature = token.rsplit('.').next().unwrap();
    assert!(canary::leaks(&token, format!("sig={signature}").as_bytes()));
    assert!(!canary::leaks(secret, b"s3cr3t/canary is not whole"));
    for secrets in [[secret, "another-secret-entirely"], ["another-secret-entirely", secret]] {
        let search = || canary::assert_none(&secrets, &[("a log", secret.as_bytes())]);
        assert!(std::panic::catch_unwind(search).is_err());
    }

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    std::fs::write(folder.path().join("deep/file"), secret).unwrap();
    canary::assert_none_below(&["another-secret-entirely"], folder.path(), &|_| false);
    canary::assert_none_below(&[secret], folder.path(), &|path| path.ends_with("file"));
    let search = || canary::assert_none_below(&[secret], folder.path(), &|_| false);
    assert!(std::panic::catch_unwind(search).is_err());
}
