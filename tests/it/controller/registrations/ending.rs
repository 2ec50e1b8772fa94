//! A namespace that goes with everything in it, while the authorization server is away.

use std::time::Instant;

use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::place::{Place, WAYS, Way};
use crate::support::runtime;
use crate::support::wait::until;

/// What the namespace controller does with a namespace that is being deleted: nobody does it here. Whether it is gone.
fn take_down(place: &Place) -> bool {
    let objects = [
        ("v1", "Secret"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("v1", "ServiceAccount"),
        ("events.k8s.io/v1", "Event"),
        ("portcullis.dev/v1alpha1", "McpClient"),
    ];
    let mut left = 0;
    for (version, kind) in objects {
        let api = place.cluster.api(version, kind, Some("team"));
        let (now, every) = (DeleteParams::default(), ListParams::default());
        drop(runtime().block_on(api.delete_collection(&now, &every)).unwrap());
        left += runtime().block_on(api.list(&every)).unwrap().items.len();
    }
    if left > 0 {
        return false;
    }
    let body =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}, "spec": {"finalizers": []}});
    let request =
        http::Request::put("/api/v1/namespaces/team/finalize").body(serde_json::to_vec(&body).unwrap()).unwrap();
    drop(runtime().block_on(place.cluster.client().request::<Value>(request)));
    place.cluster.get("v1", "Namespace", None, "team").is_none()
}

fn tombstones(place: &Place) -> usize {
    let label = |secret: &Value| secret["metadata"]["labels"]["portcullis.dev/registration"] == "tombstone";
    place.ledgers().iter().filter(|secret| label(secret)).count()
}

#[test]
fn a_namespace_goes_while_the_authorization_server_is_away_and_what_it_left_goes_when_that_is_back() {
    for way in WAYS {
        let place = Place::new(way);
        let mut controller = place.controller();
        place.apply(&json!({"deletion": {"timeout": "5s"}}));
        place.cluster.apply(&place.client("others", &json!({"deletion": {"timeout": "5s"}})));
        place.wait_ready();
        until("both to be registered", || (place.ours().len() == 2).then_some(()));
        until("both to have their credentials", || place.cluster.get("v1", "Secret", Some("team"), "others-client"));
        place.house.hop.down();
        if way == Way::KeycloakDcr {
            // Whoever never knew the server has to get by with what is stored.
            controller.stop();
            controller = place.controller();
            controller.wait_leading();
        }
        place.cluster.delete("v1", "Namespace", None, "team");
        let began = Instant::now();
        until("the namespace to be gone", || take_down(&place).then_some(()));
        assert!(
            began.elapsed().as_secs() >= 4,
            "{way:?}: the server was given the time that the author allows, in whole seconds"
        );
        assert_eq!(tombstones(&place), 2, "{way:?}");
        // They outlive the controller too.
        controller.stop();
        controller = place.controller();
        controller.wait_leading();
        assert_eq!(tombstones(&place), 2, "{way:?}");
        place.house.hop.up();
        until("both to be gone there", || place.ours().is_empty().then_some(()));
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    }
}

#[test]
fn an_author_who_wants_that_is_waited_for_however_long_the_server_is_away() {
    let place = Place::new(Way::ProviderDcr);
    let controller = place.controller();
    place.apply(&json!({"deletion": {"timeout": "1s", "onUnavailable": "Block"}}));
    place.wait_ready();
    place.house.hop.down();
    drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None));
    // Its time is over, and it was tried again since.
    let tried = || controller.metric("portcullis_registration_requests_total{purpose=\"delete\",result=\"failed\"}");
    until("the server to be tried again", || (tried() >= 3.0).then_some(()));
    assert!(place.now().is_some() && tombstones(&place) == 0);
    place.house.hop.up();
    place.wait_gone();
    assert!(place.ours().is_empty());
}
