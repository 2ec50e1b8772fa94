//! A client that persons log in with, as `docs/clients.md` writes it: without a secret, on their own machine.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::place::{Last, Place, Way};
use crate::authorization_servers::house::{RESOURCE, claims};
use crate::authorization_servers::log_in::{scope, tokens_of_ana, with_ana};
use crate::support::wait::until;

/// The example of an IDE in `docs/clients.md`, as it stands there but for the issuer, the namespace and the names of this place.
fn example(place: &Place) -> String {
    let page = include_str!("../../../../docs/clients.md");
    let (_, rest) = page.split_once("\n## An IDE, at any server\n").expect("the section");
    let (_, rest) = rest.split_once("```yaml\n").expect("its manifests");
    let (manifests, _) = rest.split_once("```").expect("their end");
    let mut manifests = manifests.to_owned();
    let mut instead = |there: &str, here: &str| {
        assert!(manifests.contains(there), "no {there:?} in {manifests}");
        manifests = manifests.replace(there, here);
    };
    instead("https://login.partner.example", &place.house.issuer());
    instead("namespace: team-a", "namespace: team");
    instead("name: ide", "name: reports");
    // Both servers know documents too, where somebody switches that on.
    instead("authorizationServer: partner", "authorizationServer: partner\n  method: DCR");
    manifests
}

/// Keycloak knows no type of application: it says `web` of every client.
fn substituted(way: Way) -> Value {
    match way {
        Way::KeycloakDcr => json!([{"field": "application_type", "wanted": "native", "got": "web"}]),
        _ => Value::Null,
    }
}

#[test]
fn the_ide_of_the_documentation_is_registered_without_a_secret_and_persons_log_in_with_it() {
    for way in [Way::ProviderDcr, Way::KeycloakDcr] {
        let mut place = Place::new(way);
        place.house = with_ana(place.house);
        let _last = Last(&place);
        place.secret("partner-registration", &[("token", &place.house.initial_access_token())]);
        let _controller = place.controller();
        place.cluster.apply_yaml(&example(&place));
        let ready = place.wait_ready();
        let (status, id) = (&ready["status"]["registration"], ready["status"]["clientId"].as_str().unwrap());
        assert_eq!((&status["method"], &status["issuer"]), (&json!("DCR"), &json!(place.house.issuer())), "{way:?}");
        assert_eq!(place.ours(), [id], "{way:?}");
        assert_eq!(status["substituted"], substituted(way), "{way:?}");
        let wanted = [("client_id", id), ("issuer", &place.house.issuer()), ("token_endpoint_auth_method", "none")];
        let wanted: BTreeMap<String, String> = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(place.credentials(), wanted, "{way:?}: neither a secret nor a key");

        // A person logs in on a port that is free just then (RFC 8252 section 7.3), and stays logged in.
        let tokens = tokens_of_ana(&place.house, id, scope(&place.house));
        assert_eq!(claims(tokens["access_token"].as_str().unwrap())["aud"], RESOURCE, "{way:?}");
        let refresh = tokens["refresh_token"].as_str().unwrap();
        let again = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", id)];
        let again = place.house.token(&again);
        assert_eq!(again.status, 200, "{way:?}: {}", again.text());
        // It is nobody by itself.
        let itself = place.house.token(&[("grant_type", "client_credentials"), ("client_id", id)]);
        assert!((400..=401).contains(&itself.status), "{way:?}: {}", itself.text());

        place.delete();
        place.wait_gone();
        assert!(place.ours().is_empty(), "{way:?}: {:?}", place.ours());
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
    }
}
