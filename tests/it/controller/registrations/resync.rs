//! What is as it should be is not touched.

use serde_json::json;

use super::place::{Place, WAYS};
use crate::support::wait::until;

const LOOKS: usize = 100;
/// Every so manieth look reads the client back.
const READ_EVERY: usize = 4;

#[test]
fn a_hundred_looks_without_drift_update_nothing_at_the_server() {
    for way in WAYS {
        let place = Place::new(way);
        let mut controller = place.controller();
        place.apply(&json!({"redirectUris": ["https://app.example/cb", "https://app.example/other"], "grantTypes":
            ["authorization_code", "refresh_token"]}));
        place.wait_ready();
        let (id, made) = (place.credentials()["client_id"].clone(), place.asked("POST"));
        let (updates, reads) = (place.asked("PUT"), place.asked("GET"));
        for number in 0..LOOKS {
            if number == LOOKS / 2 {
                // Another one knows no more than what is stored.
                controller.stop();
                controller = place.controller();
                controller.wait_leading();
            }
            if number % READ_EVERY == 0 {
                place.as_if_updating();
            }
            let looks = controller.looks("McpClient");
            place.nudge(&number.to_string());
            until("it to be looked at", || (controller.looks("McpClient") > looks).then_some(()));
            until("nothing to be under way", || {
                place.ledgers().iter().all(|secret| Place::ledger_of(secret)["step"] == "Idle").then_some(())
            });
        }
        assert!(place.asked("GET") >= reads + LOOKS / READ_EVERY, "{way:?}: it was read back");
        place.wait_ready();
        assert_eq!(place.asked("PUT"), updates, "{way:?}");
        assert_eq!(place.asked("POST"), made, "{way:?}");
        assert_eq!(place.ours(), [id], "{way:?}");
    }
}
