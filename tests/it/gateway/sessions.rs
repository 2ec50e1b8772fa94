//! Sessions of the 2025 line.

use serde_json::json;

use super::house::{House, house};
use crate::support::http;

#[test]
fn duty_48_capabilities_that_are_not_policed_are_removed() {
    let house = house();
    let session = house.session(&house.ana);
    let capabilities = session.initialized["result"]["capabilities"].as_object().unwrap();
    assert_eq!(capabilities.keys().collect::<Vec<_>>(), ["tools"], "{capabilities:?}");
}

#[test]
fn duty_72_a_session_is_its_principals_alone() {
    let house = house();
    let session = house.session(&house.ana);
    assert_eq!(session.request(&house.ana, "ping", json!({})).status, 200);
    // Another token of the same person is the same person (75).
    let again = house.gateway.token("ana", "items");
    assert_eq!(session.request(&again, "ping", json!({})).status, 200);
    let stolen = session.request(&house.ben, "ping", json!({}));
    assert_eq!(stolen.status, 404);
    let unknown = http::post(
        &house.url(),
        Some(&house.ben),
        &[("Mcp-Session-Id", "made-up"), ("MCP-Protocol-Version", "2025-11-25")],
        br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}"#,
    );
    assert_eq!((unknown.status, unknown.text()), (404, stolen.text()));
}

#[test]
fn duty_74_missing_is_400_and_only_the_owner_ends_it() {
    let house = house();
    let session = house.session(&house.ana);
    let missing = http::post(&house.url(), Some(&house.ana), &[], br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert_eq!(missing.status, 400);
    let end = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Mcp-Session-Id", &session.id)];
        http::send(http::split(&house.url()).0, &http::request("DELETE", &house.url(), &headers, b"")).status
    };
    assert_eq!(end(&house.ben), 404);
    assert_eq!(session.request(&house.ana, "ping", json!({})).status, 200);
    assert!([200, 202, 204].contains(&end(&house.ana)));
    assert_eq!(session.request(&house.ana, "ping", json!({})).status, 404);
}

#[test]
fn duty_3_and_77_the_new_era_has_posts_only_and_no_sessions() {
    let house = house();
    let bearer = format!("Bearer {}", house.ana);
    for method in ["GET", "DELETE"] {
        let headers = [("Authorization", bearer.as_str()), ("MCP-Protocol-Version", "2026-07-28")];
        let answer = http::send(http::split(&house.url()).0, &http::request(method, &house.url(), &headers, b""));
        assert_eq!(answer.status, 405, "{method}");
    }
    let answer = house.call(&house.ana, "echo", json!({}));
    assert_eq!(answer.header("mcp-session-id"), None);
}

#[test]
fn duty_45_contradicting_eras_are_refused() {
    let house = house();
    let session = house.session(&house.ana);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}});
    assert_eq!(session.post(&house.ana, &body).status, 400);
}

#[test]
fn duty_73_sessions_survive_a_restart_of_the_gateway() {
    let mut house = House::build();
    let (id, ana) = (house.session(&house.ana).id, house.ana.clone());
    house.gateway.restart();
    house.gateway.wait_ready();
    let headers = [("Mcp-Session-Id", id.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}"#;
    assert_eq!(http::post(&house.url(), Some(&ana), &headers, body).status, 200);
}
