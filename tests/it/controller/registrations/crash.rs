//! A controller that is killed at every request, before the other side hears of it and after it has answered: requests about
//! registrations to the authorization server, and everything that is written at the API server meanwhile.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::boundaries::{At, Boundary, DEEDS, Deed, PLACES, all, may_leave, numbers, one_of_each, requests};
use super::place::{Place, WAYS, Way};
use crate::controller::{ACCOUNT, Controller};
use crate::support::fault::{Fault, Matching};
use crate::support::kube::SYSTEM;
use crate::support::kube::front::{Front, Interruption};
use crate::support::wait::until;

/// Whether a request to the API server is one of those.
fn counts(at: At) -> fn(&str, &str) -> bool {
    match at {
        At::Server => |_, _| false,
        At::Ledger => |method, path| {
            // New ones are posted to the collection.
            method != "GET" && path.starts_with("/api/v1/namespaces/portcullis-system/secrets")
        },
        At::Credentials => |method, path| method != "GET" && path.starts_with("/api/v1/namespaces/team/secrets"),
        At::Finalizer => |_, path| path.contains("/mcpclients/reports?") && path.contains("portcullis-registration"),
        At::Status => |_, path| path.contains("/mcpclients/reports/status"),
    }
}

/// Each boundary in `make soak` (`PORTCULLIS_CRASH_MATRIX=all`), one of each kind otherwise.
fn some(all: Vec<Boundary>, kind: impl Fn(&Boundary) -> String) -> Vec<Boundary> {
    if std::env::var_os("PORTCULLIS_CRASH_MATRIX").is_some() { all } else { one_of_each(all, kind) }
}

/// Of each way, and each deed.
#[test]
fn a_controller_that_dies_at_any_request_to_the_authorization_server_leaves_one_client_or_tells_what_is_left() {
    let boundaries = all().into_iter().filter(|boundary| boundary.at == At::Server).collect();
    let boundaries = some(boundaries, |Boundary { way, deed, .. }| format!("{way:?} {deed:?}"));
    for (way, deed) in WAYS.into_iter().flat_map(|way| DEEDS.map(|deed| (way, deed))) {
        assert!(boundaries.iter().any(|one| (one.way, one.deed) == (way, deed)), "{way:?} {deed:?} is left out");
    }
    die(&boundaries);
}

/// Of each kind of object.
#[test]
fn a_controller_that_dies_at_any_write_to_the_api_server_leaves_one_client_or_tells_what_is_left() {
    let boundaries = all().into_iter().filter(|boundary| boundary.at != At::Server).collect();
    die(&some(boundaries, |Boundary { at, .. }| format!("{at:?}")));
}

/// RFC 7591 has no way to ask what came of a registration whose answer was lost.
#[test]
fn a_client_that_may_be_left_is_told_of_by_a_condition_an_event_and_a_metric() {
    let place = Place::new(Way::ProviderDcr);
    let controller = place.controller();
    let fired = place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), Fault::LoseAnswer);
    place.apply(&json!({}));
    place.wait_ready();
    assert_eq!(fired.times(), 1);
    let id = place.works()["client_id"].clone();
    let mut others = place.ours();
    others.retain(|other| *other != id);
    assert_eq!(others.len(), 1, "it was made, and nobody here knows its id");
    assert_orphaned(&place, &uid(&place), lost(&controller), "an answer was lost");
}

/// Two of them in `make test`: that no boundary is left out.
#[test]
fn each_deed_takes_as_many_requests_as_there_are_boundaries() {
    let mut deeds: Vec<(Way, Deed)> = WAYS.into_iter().flat_map(|way| DEEDS.map(|deed| (way, deed))).collect();
    if std::env::var_os("PORTCULLIS_CRASH_MATRIX").is_none() {
        let mut numbers = numbers();
        while deeds.len() > 2 {
            let at = usize::try_from(numbers.below(deeds.len() as u64)).unwrap();
            deeds.remove(at);
        }
    }
    let mut others = Vec::new();
    for (way, deed) in deeds {
        let place = Place::new(way);
        let victim = Victim::new(&place);
        let mut controller = victim.start();
        let mut before = None;
        if deed != Deed::Create {
            place.apply(&wanted(deed, "Reports"));
            place.wait_ready();
            before = Some(place.works());
            drop(controller);
            if matches!(deed, Deed::RotateKey | Deed::RotateSecret) {
                place.age(7200);
            }
        } else {
            drop(controller);
        }
        let count = |at: At| match at {
            At::Server => place.house.hop.count("", &place.registrations()),
            at => victim.front.count(counts(at)),
        };
        let earlier = PLACES.map(count);
        controller = victim.start();
        act(&place, deed);
        match (deed, before) {
            (Deed::Delete, _) => place.wait_gone(),
            (Deed::RotateKey | Deed::RotateSecret, Some(before)) => rotated(&place, deed, &before),
            _ => drop(place.wait_ready()),
        }
        // Once it is looked at again, nothing is under way.
        let looks = controller.looks("McpClient");
        if deed == Deed::Delete {
            until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        } else {
            place.nudge("again");
            until("it to be looked at", || (controller.looks("McpClient") > looks).then_some(()));
        }
        for (at, earlier) in PLACES.into_iter().zip(earlier) {
            let taken = count(at) - earlier;
            let known = requests(way, deed, at);
            // How often the status is written before it is final is a matter of time.
            let is_known = if at == At::Status { taken >= known } else { taken == known };
            if !is_known {
                others.push(format!("{way:?} {deed:?} {at:?}: {taken}, not {known}"));
            }
        }
    }
    assert!(others.is_empty(), "{others:#?}");
}

/// A controller behind a front of its own, and what kills it.
struct Victim<'p> {
    place: &'p Place,
    front: Front,
    pid: Arc<AtomicU32>,
}

impl<'p> Victim<'p> {
    fn new(place: &'p Place) -> Self {
        Self { place, front: Front::start(&place.cluster, SYSTEM, ACCOUNT), pid: Arc::default() }
    }

    fn start(&self) -> Controller {
        // The dead leader's Lease would be waited for; that it is waited for is another test's matter.
        self.place.cluster.delete("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader");
        let controller = Controller::launch_as(self.front.kubeconfig(), &["--no-inventory"]);
        self.pid.store(controller.process.pid(), Ordering::SeqCst);
        controller
    }

    /// Has it killed at the boundary. Answers whether it was.
    fn is_to_die(&self, Boundary { at, nth, is_after, .. }: Boundary) -> Box<dyn Fn() -> bool + '_> {
        let pid = self.pid.clone();
        let kill: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            let id = pid.load(Ordering::SeqCst).to_string();
            assert!(Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
        });
        if at == At::Server {
            let fault = if is_after { Fault::After(kill) } else { Fault::BeforeReset(kill) };
            let fired = self.place.house.hop.fault(Matching::nth("", &self.place.registrations(), nth), fault);
            return Box::new(move || fired.times() == 1);
        }
        self.front.interrupt(Interruption { counts: counts(at), nth, is_after, call: kill });
        Box::new(|| self.front.has_interrupted())
    }
}

/// One after the other, in one cluster for each way.
fn die(boundaries: &[Boundary]) {
    for way in WAYS {
        let mut of_way = boundaries.iter().filter(|boundary| boundary.way == way).peekable();
        if of_way.peek().is_none() {
            continue;
        }
        let place = Place::new(way);
        let victim = Victim::new(&place);
        for boundary in of_way {
            println!("{boundary:?}");
            // Keycloak's are good for ten registrations.
            place.give_initial_access_token();
            let left = place.ours();
            let controller = dies(&victim, *boundary, &left);
            place.house.hop.heal();
            place.delete();
            place.wait_gone();
            until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
            place.collect_garbage();
            drop(controller);
        }
    }
}

/// Answers the controller that went on. `left`: clients that were left at boundaries before.
fn dies(victim: &Victim<'_>, boundary: Boundary, left: &[String]) -> Controller {
    let Boundary { deed, .. } = boundary;
    let (place, story) = (victim.place, format!("{boundary:?}"));
    let mut before = None;
    let mut controller = None;
    if deed != Deed::Create {
        let first = victim.start();
        place.apply(&wanted(deed, "Reports"));
        place.wait_ready();
        before = Some(place.works());
        if matches!(deed, Deed::RotateKey | Deed::RotateSecret) {
            // Its period passes while nobody looks.
            drop(first);
            place.age(7200);
        } else {
            controller = Some(first);
        }
    }
    let was_killed = victim.is_to_die(boundary);
    let mut controller = controller.unwrap_or_else(|| victim.start());
    act(place, deed);
    until(&format!("the controller to die: {story}"), || {
        (was_killed() && controller.process.exit_status().is_some()).then_some(())
    });
    drop(controller);
    let controller = victim.start();
    if deed == Deed::Delete {
        place.wait_gone();
        until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
        let mut others = place.ours();
        others.retain(|other| !left.contains(other));
        assert!(others.is_empty(), "{story}: {others:?}");
        return controller;
    }
    place.wait_ready();
    if deed == Deed::Update {
        until("the other name to arrive", || {
            let id = place.now()?["status"]["clientId"].as_str()?.to_owned();
            place.house.describes(&id, "Other").then_some(())
        });
        place.wait_ready();
    }
    let Some(before) = before.filter(|_| matches!(deed, Deed::RotateKey | Deed::RotateSecret)) else {
        assert_sound(place, boundary, lost(&controller), left);
        return controller;
    };
    rotated(place, deed, &before);
    let told = lost(&controller);
    if place.retired() == 0 {
        assert_sound(place, boundary, told, left);
        return controller;
    }
    // What was replaced goes, once its time is over.
    drop(controller);
    place.end_overlap();
    let controller = victim.start();
    until("what was replaced to be gone", || (place.retired() == 0).then_some(()));
    assert_sound(place, boundary, told + lost(&controller), left);
    controller
}

/// How many clients this controller has told of that may be left.
fn lost(controller: &Controller) -> f64 {
    controller.metric("portcullis_registration_events_total{event=\"lost\"}")
}

fn wanted(deed: Deed, name: &str) -> Value {
    let method = if deed == Deed::RotateSecret { "client_secret_basic" } else { "private_key_jwt" };
    let rotation = json!({"period": "1h", "overlap": "30m"});
    json!({"clientName": name, "tokenEndpointAuthMethod": method, "rotation": rotation})
}

fn act(place: &Place, deed: Deed) {
    match deed {
        Deed::Create => place.apply(&wanted(deed, "Reports")),
        Deed::Update => place.apply(&wanted(deed, "Other")),
        Deed::RotateKey | Deed::RotateSecret => {}
        Deed::Delete => {
            drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None))
        }
    }
}

/// The owner has other credentials, which work.
fn rotated(place: &Place, deed: Deed, before: &std::collections::BTreeMap<String, String>) {
    let member = if deed == Deed::RotateKey { "kid" } else { "client_secret" };
    until("other credentials", || (place.credentials()[member] != before[member]).then_some(()));
    let now = place.works();
    // Its Secret holds another one a moment before its status tells of the first.
    until("the status to name it", || (place.now()?["status"]["clientId"] == json!(now["client_id"])).then_some(()));
    let is_same_client = now["client_id"] == before["client_id"];
    let is_lost = place.condition("Orphaned").is_some_and(|(status, _)| status == "True");
    if is_lost {
        return;
    }
    assert!(is_same_client || deed == Deed::RotateSecret);
    // Keycloak's administrative API replaces a secret in place.
    let overlaps = deed == Deed::RotateKey || place.way != Way::KeycloakAdmin;
    let status = if overlaps { 200 } else { 401 };
    assert_eq!(
        place.token_with(before).status,
        status,
        "whoever has what was replaced is believed for a while, or not at all"
    );
}

/// Exactly one client, whose credentials work; and, where the protocol does not let us find another one, at most that, which is told
/// of in all the ways that there are.
fn assert_sound(place: &Place, boundary: Boundary, told: f64, left: &[String]) {
    let id = place.works()["client_id"].clone();
    let mut others = place.ours();
    others.retain(|other| *other != id && !left.contains(other));
    if others.is_empty() {
        return;
    }
    let Boundary { way, deed, .. } = boundary;
    assert!(may_leave(way, deed) && others.len() == 1, "{boundary:?}: {others:?} is left");
    assert_orphaned(place, &uid(place), told, &format!("{boundary:?}: {others:?}"));
}

fn uid(place: &Place) -> String {
    place.now().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// That a client may be left is in a condition of the object with this UID, in an event about it, and in the metric.
fn assert_orphaned(place: &Place, uid: &str, told: f64, story: &str) {
    let orphaned = place.condition("Orphaned").map(|(status, _)| status);
    assert_eq!(orphaned.as_deref(), Some("True"), "{story}");
    let events = place.cluster.list("events.k8s.io/v1", "Event", Some("team"));
    let is_about = |event: &Value| event["reason"] == "OrphanedRegistration" && event["regarding"]["uid"] == uid;
    assert!(events.iter().any(is_about), "{story}: {events:?}");
    assert!(told >= 1.0, "{story}: {told}");
}
