//! What an upstream gave out goes back to that upstream, and to no other.

use serde_json::json;

use super::listening::Stage;
use crate::support::by_hand::ByHand;
use crate::support::gateway::server;
use crate::support::wait::until;

#[test]
fn duty_72_a_session_is_one_upstreams_alone() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let other = ByHand::start();
    stage.gateway.write("server.yaml", &server("s", other.url()));
    let refused = until("the server to have moved", || {
        let mut caller = stage.send(&session, &json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}));
        until("an answer, or the old server to be asked", || {
            if caller.has_bytes() {
                let answer = caller.read();
                // One that had passed the door before the move is told to come again.
                return Some((answer.status != 503).then_some(answer));
            }
            assert!(!other.has_seen("up-session"), "the id of one upstream reached another");
            stage.scripted.has_seen("ping").then_some(None)
        })
    });
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (404, &json!(-31007)), "{refused:?}");
}
