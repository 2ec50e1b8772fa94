//! Clients that sign with keys of their own: the server is told of these, and nobody here has their private halves.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::place::{Last, Place, WAYS, Way};
use crate::authorization_servers::house::{claims, error};
use crate::support::documents::Documents;
use crate::support::http::Response;
use crate::support::token::Key;
use crate::support::wait::{PATIENCE, until, until_within};

const PATH: &str = "/reports/jwks.json";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How the author says which keys they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// `jwks`.
    Value,
    /// `jwksUri`.
    Place,
}

/// The author's application.
struct Author {
    by: By,
    documents: Documents,
}

impl Author {
    /// What its McpClient says once the application signs with this key.
    fn says(&self, key: &Key) -> Value {
        let keys = json!({"keys": [key.jwk()]});
        match self.by {
            By::Value => json!({"jwks": keys}),
            By::Place => {
                self.documents.put(PATH, &keys);
                json!({"jwksUri": self.documents.url(PATH)})
            }
        }
    }
}

/// What the server answers to the client, if it signs with this key.
fn token_by(place: &Place, id: &str, key: &Key) -> Response {
    let assertion = place.house.assertion(key, id);
    place.house.token(&[
        ("grant_type", "client_credentials"),
        ("client_id", id),
        ("client_assertion_type", ASSERTION),
        ("client_assertion", &assertion),
    ])
}

/// The client gets a token by this key, which says that it is the client's.
fn assert_believed(place: &Place, id: &str, key: &Key) {
    let answer = token_by(place, id, key);
    assert_eq!(answer.status, 200, "{:?}: {}", place.way, answer.text());
    if place.house.is_keycloak() {
        assert_eq!(claims(answer.json()["access_token"].as_str().unwrap())["azp"], id);
    }
}

/// Its Secret has what the application needs beside its key.
fn assert_owners(place: &Place, id: &str) {
    let wanted = [
        ("client_id", id.to_owned()),
        ("issuer", place.house.issuer()),
        ("token_endpoint_auth_method", "private_key_jwt".to_owned()),
    ];
    let wanted: BTreeMap<String, String> = wanted.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(place.credentials(), wanted, "{:?}", place.way);
    let ledgers = place.ledgers();
    let [ledger] = ledgers.as_slice() else { panic!("{} ledgers", ledgers.len()) };
    assert_eq!(Place::ledger_of(ledger)["keys"], json!([]), "{:?}: none is made here", place.way);
}

fn lives_by(way: Way, by: By) {
    let place = Place::with(way, &json!({"keep": ["software_id", "software_version"], "fetchFromLoopback": true}));
    let _last = Last(&place);
    let author = Author { by, documents: Documents::start() };
    let (first, stranger) = (Key::es256("key-1"), Key::es256("key-1"));
    let _controller = place.controller();
    place.apply(&author.says(&first));
    let ready = place.wait_ready();
    assert_eq!(ready["status"]["registration"]["substituted"], Value::Null, "{way:?} {by:?}: as it was asked for");
    let id = ready["status"]["clientId"].as_str().unwrap().to_owned();
    assert_eq!(place.ours(), std::slice::from_ref(&id), "{way:?} {by:?}");
    assert_owners(&place, &id);
    assert_believed(&place, &id, &first);
    assert_eq!(error(&token_by(&place, &id, &stranger)).1, "invalid_client", "{way:?} {by:?}");
    if by == By::Place {
        assert!(author.documents.asked(PATH) >= 1, "{way:?}: the server fetches them");
    }

    // An update replaces all that the server has of a client (RFC 7592 section 2.2): its keys stay.
    let mut renamed = author.says(&first);
    renamed["clientName"] = json!("Weekly reports");
    let writes = place.asked("PUT");
    place.apply(&renamed);
    until("the other name to arrive", || place.house.describes(&id, "Weekly reports").then_some(()));
    place.wait_ready();
    assert_eq!(place.asked("PUT"), writes + 1, "{way:?} {by:?}");
    assert_believed(&place, &id, &first);

    // Another key of the author's: its server is told of it where it keeps the keys, and finds it itself where it fetches them.
    let (second, writes) = (Key::es256("key-2"), place.asked("PUT"));
    let mut renewed = author.says(&second);
    renewed["clientName"] = json!("Weekly reports");
    place.apply(&renewed);
    // A server may keep for a minute what it has fetched.
    until_within(2 * PATIENCE, "the other key to be believed", || {
        (token_by(&place, &id, &second).status == 200).then_some(())
    });
    place.wait_ready();
    assert_eq!(place.ours(), std::slice::from_ref(&id), "{way:?} {by:?}");
    assert_owners(&place, &id);
    if by == By::Value {
        assert!(place.asked("PUT") > writes, "{way:?}");
        assert_eq!(error(&token_by(&place, &id, &first)).1, "invalid_client", "{way:?}");
    } else {
        assert_eq!(place.asked("PUT"), writes, "{way:?}: nobody has to be told");
    }

    place.delete();
    place.wait_gone();
    assert!(place.ours().is_empty(), "{way:?} {by:?}: {:?}", place.ours());
}

#[test]
fn a_client_is_registered_with_its_authors_keys_and_gets_a_token_by_them() {
    for way in WAYS {
        lives_by(way, By::Value);
    }
}

#[test]
fn a_client_is_registered_with_the_place_of_its_authors_keys_and_gets_a_token_by_them() {
    for way in WAYS {
        lives_by(way, By::Place);
    }
}
