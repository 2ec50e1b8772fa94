//! A client is registered, used, changed, rotated and removed.

use serde_json::json;

use super::place::{Place, WAYS, Way};
use crate::support::wait::until;

#[test]
fn a_client_is_registered_follows_its_author_and_goes_with_it() {
    for way in WAYS {
        let place = Place::new(way);
        let controller = place.controller();
        place.apply(&json!({}));
        let ready = place.wait_ready();
        let id = place.assert_one("made");
        assert_eq!(place.ours(), std::slice::from_ref(&id), "{way:?}");
        let status = &ready["status"]["registration"];
        assert_eq!((ready["status"]["clientId"].as_str(), status["clientId"].as_str()), (Some(&*id), Some(&*id)));
        assert_eq!(status["method"], if way == Way::KeycloakAdmin { "Admin" } else { "DCR" });
        assert_eq!(status["issuer"], json!(place.house.issuer()));
        assert_eq!(ready["metadata"]["finalizers"], json!(["portcullis.dev/registration"]));
        assert_eq!(place.asked("POST"), 1, "{way:?}");

        // A change of its author's is one update; everything else is none.
        let before = place.asked("PUT");
        place.apply(&json!({"clientName": "Weekly reports"}));
        until("the other name to arrive", || place.house.describes(&id, "Weekly reports").then_some(()));
        place.wait_ready();
        assert_eq!(place.asked("PUT"), before + 1, "{way:?}");
        assert_eq!(place.assert_one("changed"), id);
        for number in 0..5 {
            let looks = controller.looks("registration");
            place.cluster.kubectl(&[
                "annotate",
                "-n",
                "team",
                "mcpclient/reports",
                "--overwrite",
                &format!("n={number}"),
            ]);
            until("it to be looked at", || (controller.looks("registration") > looks).then_some(()));
        }
        assert_eq!(place.asked("PUT"), before + 1, "{way:?}");

        // What somebody deletes is there again.
        place.cluster.delete("v1", "Secret", Some("team"), "reports-client");
        place.cluster.kubectl(&["annotate", "-n", "team", "mcpclient/reports", "--overwrite", "n=again"]);
        until("the Secret to be back", || place.cluster.get("v1", "Secret", Some("team"), "reports-client"));
        assert_eq!(place.assert_one("mended"), id);

        place.delete();
        place.wait_gone();
        assert!(place.ours().is_empty(), "{way:?}: {:?}", place.ours());
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    }
}

#[test]
fn a_client_of_whom_nobody_asks_more_stays_at_its_server_if_its_author_wants_that() {
    let place = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    place.apply(&json!({"deletion": {"policy": "Retain"}}));
    place.wait_ready();
    let credentials = place.works();
    place.delete();
    place.wait_gone();
    until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    assert_eq!(place.ours(), [credentials["client_id"].clone()]);
    assert_eq!(place.token_with(&credentials).status, 200);
}

#[test]
fn a_secret_is_given_where_the_author_wants_one() {
    for way in WAYS {
        let place = Place::new(way);
        let _controller = place.controller();
        place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic"}));
        place.wait_ready();
        let credentials = place.works();
        assert!(credentials.contains_key("client_secret") && !credentials.contains_key("private_key.pem"), "{way:?}");
    }
}
