//! What a client is managed with dies at its server, or the client itself does: its owner has another one that works, and whatever
//! may be left is told.
//!
//! Servers answer alike for a registration access token that died and for a client that is gone (RFC 7592 section 2.1), and not to
//! be believed proves nothing either: so what was there before is told as one that may be left, which is all that the protocol
//! leaves to be said.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::place::{Last, Place, READER, Way};
use super::repair::{CLIENT, clients, listed};
use crate::controller::{Controller, message};
use crate::support::fault::{Fault, Matching};
use crate::support::wait::until;

/// Where nobody can search for a client.
const DCR: [Way; 2] = [Way::ProviderDcr, Way::KeycloakDcr];
const ORPHANED: &str = "OrphanedRegistration";

/// What became of the client of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is there, and nobody can manage it.
    Unmanageable,
    /// It is gone.
    Deleted,
}

impl Place {
    /// The notes of the McpClient's events with this reason.
    pub(super) fn events(&self, reason: &str) -> Vec<String> {
        let all = self.cluster.list("events.k8s.io/v1", "Event", Some("team"));
        let of = |event: &&Value| event["reason"] == reason && event["regarding"]["name"] == READER.2;
        all.iter().filter(of).map(|event| event["note"].as_str().unwrap().to_owned()).collect()
    }

    /// Somebody at the server sees to it, behind our back.
    fn meets(&self, fate: Fate, id: &str) {
        match fate {
            Fate::Unmanageable => self.house.kill_registration_token(id),
            Fate::Deleted => self.house.delete_client(id),
        }
    }

    /// Waits until the owner has a client that is none of these, and returns its credentials, which work.
    fn wait_other(&self, before: &[String]) -> BTreeMap<String, String> {
        let _last = Last(self);
        until("credentials of another client", || (!before.contains(&self.credentials()["client_id"])).then_some(()));
        let now = self.works();
        until("the status to name it", || (self.now()?["status"]["clientId"] == json!(now["client_id"])).then_some(()));
        let ready = self.wait_ready();
        assert_eq!(ready["status"]["registration"]["clientId"], json!(now["client_id"]));
        now
    }

    /// The clients of before are told as ones that may be left, in all the ways that there are, with the remedy; and nothing
    /// else is left at the server.
    fn assert_told_lost(&self, lost: &[String], now: &str, fate: Fate) {
        let _last = Last(self);
        assert_eq!(self.condition("Orphaned"), Some(("True".to_owned(), "Orphaned".to_owned())));
        let told = message(&self.now().unwrap(), "Orphaned");
        assert!(lost.iter().all(|id| told.contains(id)) && !told.contains(now), "{told}");
        assert!(told.contains(&format!("portcullis clients forget {CLIENT}")), "{told}");
        let events = self.events(ORPHANED);
        for id in lost {
            assert_eq!(events.iter().filter(|note| note.contains(id)).count(), 1, "{id}: {events:?}");
        }
        let mut expected = vec![now.to_owned()];
        expected.extend(lost.iter().filter(|_| fate == Fate::Unmanageable).cloned());
        let mut ours = self.ours();
        ours.sort();
        expected.sort();
        assert_eq!(ours, expected, "{fate:?}");
        let (all, code) = listed(self);
        assert_eq!((&all[0]["orphaned"], &all[0]["clientId"], code), (&json!(true), &json!(now), Some(1)), "{all:?}");
    }
}

fn lost(controller: &Controller) -> f64 {
    controller.metric("portcullis_registration_events_total{event=\"lost\"}")
}

/// It is found by a change of its author's, twice, and then by a controller that merely reads the client back.
fn ends_ready_with_another(way: Way, fate: Fate) {
    let place = Place::new(way);
    place.apply_read_soon(&json!({}));
    let controller = place.controller();
    place.wait_ready();
    let mut last = place.works();
    let mut before = vec![last["client_id"].clone()];
    assert_eq!(place.ours(), before, "{way:?}");

    for (number, name) in [(1, "Second"), (2, "Third")] {
        place.meets(fate, &last["client_id"]);
        place.apply(&json!({"clientName": name}));
        let now = place.wait_other(&before);
        place.assert_told_lost(&before, &now["client_id"], fate);
        assert!(place.house.describes(&now["client_id"], name), "{way:?}");
        assert_eq!(lost(&controller), f64::from(number), "{way:?}");
        // Whoever has not read the Secret since goes on, as far as that lies with us.
        assert_eq!(place.token_with(&last).status == 200, fate == Fate::Unmanageable, "{way:?}");
        before.push(now["client_id"].clone());
        last = now;
    }

    place.meets(fate, &last["client_id"]);
    controller.stop();
    let controller = place.controller();
    let now = place.wait_other(&before);
    place.assert_told_lost(&before, &now["client_id"], fate);
    assert_eq!((lost(&controller), place.asked("POST")), (1.0, 4), "{way:?}");

    // What was looked after by hand is forgotten, and it is as any other. What is lost in the second in which somebody looks is not:
    // it may have been lost after that.
    let lost_at = Place::ledger_of(&place.ledgers()[0])["lost"][2]["at"].as_u64().unwrap();
    until("that second to be over", || (crate::support::now() > lost_at).then_some(()));
    let forgotten = clients(&place, &["forget", CLIENT], "");
    assert_eq!(forgotten.code, Some(0), "{way:?}: {}", forgotten.text);
    until("nothing to be told", || place.condition("Orphaned").is_none().then_some(()));
    assert_eq!(listed(&place).1, Some(0), "{way:?}");
    place.apply(&json!({"clientName": "Fourth"}));
    until("another name to arrive", || place.house.describes(&now["client_id"], "Fourth").then_some(()));
    place.wait_ready();
    assert_eq!((place.works()["client_id"].clone(), place.asked("POST")), (now["client_id"].clone(), 4), "{way:?}");
}

#[test]
fn a_client_whose_registration_access_token_died_is_replaced_and_told_as_one_that_may_be_left() {
    for way in DCR {
        ends_ready_with_another(way, Fate::Unmanageable);
    }
}

#[test]
fn a_client_that_somebody_deleted_is_registered_again() {
    for way in DCR {
        ends_ready_with_another(way, Fate::Deleted);
    }
}

#[test]
fn an_mcp_client_whose_registration_access_token_died_goes_and_what_it_leaves_is_told() {
    for way in DCR {
        let place = Place::new(way);
        let controller = place.controller();
        place.apply(&json!({}));
        place.wait_ready();
        let id = place.works()["client_id"].clone();
        place.house.kill_registration_token(&id);
        place.delete();
        place.wait_gone();
        assert_eq!(place.ours(), std::slice::from_ref(&id), "{way:?}: nobody can remove it by RFC 7592");
        until("it to be told", || place.events(ORPHANED).iter().any(|note| note.contains(&id)).then_some(()));
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        assert_eq!(lost(&controller), 1.0, "{way:?}");
        until("the log to name it", || {
            let log = controller.process.stderr();
            log.lines().any(|line| line.contains("may be left") && line.contains(&id)).then_some(())
        });
    }
}

/// There is nothing by which a public client could prove that it is still known.
#[test]
fn a_public_client_whose_registration_access_token_died_is_replaced_too() {
    let wanted = |name: &str| {
        json!({"clientName": name, "applicationType": "Native", "redirectUris": ["http://127.0.0.1/callback"],
            "grantTypes": ["authorization_code"], "tokenEndpointAuthMethod": "none"})
    };
    for way in DCR {
        let place = Place::new(way);
        let controller = place.controller();
        place.apply(&wanted("App"));
        place.wait_ready();
        let id = place.credentials()["client_id"].clone();
        place.house.kill_registration_token(&id);
        place.apply(&wanted("Other"));
        until("another client", || (place.credentials()["client_id"] != id).then_some(()));
        place.wait_ready();
        let now = place.credentials()["client_id"].clone();
        assert!(place.house.describes(&now, "Other"), "{way:?}");
        place.assert_told_lost(&[id], &now, Fate::Unmanageable);
        assert_eq!(lost(&controller), 1.0, "{way:?}");
    }
}

/// RFC 7592 section 2.1: the answer to a read may have another token, and the one before is dead then.
#[test]
fn where_every_read_and_every_update_gives_another_registration_access_token_the_newest_is_kept() {
    let place =
        Place::with(Way::ProviderDcr, &json!({"keep": ["software_id", "software_version"], "rotateOnRead": true}));
    let _last = Last(&place);
    place.apply_read_soon(&json!({}));
    let controller = place.controller();
    place.wait_ready();
    let id = place.assert_one("made");
    let token = || Place::ledger_of(&place.ledgers()[0])["current"]["handle"]["Protocol"]["token"].clone();
    let mut tokens = vec![token()];
    for number in 0..5 {
        place.read_back();
        tokens.push(token());
        let name = format!("Name {number}");
        place.apply(&json!({"clientName": name}));
        until("the name to arrive", || place.house.describes(&id, &name).then_some(()));
        place.wait_ready();
        until("the newest token to be stored", || (!tokens.contains(&token())).then_some(()));
        tokens.push(token());
    }
    // And where nothing is under way.
    let reads = place.asked("GET");
    controller.stop();
    let controller = place.controller();
    until("it to be read back", || (place.asked("GET") > reads).then_some(()));
    until("the newest token to be stored", || (!tokens.contains(&token())).then_some(()));
    tokens.push(token());
    place.wait_ready();
    let all = tokens.len();
    tokens.sort_by_key(Value::to_string);
    tokens.dedup();
    assert_eq!((tokens.len(), all), (12, 12), "each was another one");
    assert_eq!((place.asked("POST"), place.asked("PUT"), place.ours()), (1, 5, vec![id.clone()]));
    assert_eq!((place.condition("Orphaned"), lost(&controller)), (None, 0.0));
    assert_eq!(place.assert_one("read and updated"), id);

    // Where the answer is lost, nobody has the newest.
    place.house.hop.fault(Matching::nth("GET", &place.registrations(), 1), Fault::LoseAnswer);
    let reads = place.asked("GET");
    place.as_if_updating();
    place.nudge("lost");
    until("it to be read back", || (place.asked("GET") > reads).then_some(()));
    let now = place.wait_other(std::slice::from_ref(&id));
    place.assert_told_lost(&[id], &now["client_id"], Fate::Unmanageable);

    place.delete();
    place.wait_gone();
    assert_eq!(place.ours().len(), 1, "all but the one that was told");
}
