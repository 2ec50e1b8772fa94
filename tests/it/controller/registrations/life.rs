//! A client is registered, used, changed, rotated and removed.

use serde_json::json;

use super::place::{Last, Place, WAYS, Way};
use crate::controller::VERSION;
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
fn a_secret_is_given_where_the_author_wants_one_and_a_key_once_the_author_wants_that() {
    for way in WAYS {
        let place = Place::new(way);
        let _controller = place.controller();
        place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic"}));
        place.wait_ready();
        let before = place.works();
        assert!(before.contains_key("client_secret") && !before.contains_key("private_key.pem"), "{way:?}");
        place.apply(&json!({"tokenEndpointAuthMethod": "private_key_jwt"}));
        let _last = Last(&place);
        until(&format!("a key at {way:?}"), || place.credentials().contains_key("private_key.pem").then_some(()));
        place.wait_ready();
        let after = place.works();
        assert_eq!(after["token_endpoint_auth_method"], "private_key_jwt", "{way:?}");
        assert_eq!((&after["client_id"], place.ours().len()), (&before["client_id"], 1), "{way:?}");
        assert_ne!(place.token_with(&before).status, 200, "{way:?}: the secret is good for nothing any more");
        // And back.
        place.apply(&json!({"tokenEndpointAuthMethod": "client_secret_basic"}));
        let of_secret = || {
            let mut now = place.credentials();
            now.remove("private_key.pem");
            (now["token_endpoint_auth_method"] == "client_secret_basic").then_some(now)
        };
        let again = until(&format!("a secret at {way:?}"), of_secret);
        assert_eq!(place.token_with(&again).status, 200, "{way:?}");
        assert_eq!((&again["client_id"], place.ours().len()), (&before["client_id"], 1), "{way:?}");
    }
}

#[test]
fn a_client_authenticates_as_its_author_says_also_after_a_change() {
    for way in WAYS {
        let place = Place::new(way);
        let _controller = place.controller();
        place.apply(&json!({}));
        place.wait_ready();
        let id = place.works()["client_id"].clone();
        for (method, has) in [("client_secret_basic", "client_secret"), ("private_key_jwt", "private_key.pem")] {
            place.apply(&json!({"tokenEndpointAuthMethod": method}));
            until("its Secret to say so", || {
                (place.credentials()["token_endpoint_auth_method"] == method).then_some(())
            });
            place.wait_ready();
            let credentials = place.works();
            assert_eq!(credentials["client_id"], id, "{way:?} {method}");
            let proofs = ["client_secret", "private_key.pem"].map(|key| credentials.contains_key(key));
            assert_eq!(proofs, [has == "client_secret", has == "private_key.pem"], "{way:?} {method}");
        }
        assert_eq!(place.ours(), [id], "{way:?}");
    }
}

#[test]
fn a_client_that_is_given_a_token_instead_is_registered_no_more() {
    let place = Place::new(Way::ProviderDcr);
    let _controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    place
        .cluster
        .apply(&json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "local"},
        "spec": {"local": {}}}));
    let mut client = place.client("reports", &json!({}));
    client["spec"] = json!({"authorizationServer": "local", "method": "Token",
        "token": {"subject": "ana", "servers": ["notes"]}});
    place.cluster.apply(&client);
    until("nothing to be registered", || place.ours().is_empty().then_some(()));
    until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    until("nobody to be waited for", || place.now()?["metadata"]["finalizers"].is_null().then_some(()));
}
