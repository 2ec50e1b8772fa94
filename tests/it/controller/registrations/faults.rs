//! Servers that fail while a client is registered, and while one that works is changed, looked at and removed: each fault meets a
//! client of its own, and all of them at once, since most of that is waiting.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::place::{Last, Place, Way};
use crate::controller::{VERSION, condition, object};
use crate::support::fault::{Answer, Fault, Fired, Matching};
use crate::support::wait::until;

/// Longer than a request may take.
const TOO_SLOW: Fault = Fault::Slow(Duration::from_secs(21));
/// The client that is updated too slowly, and the one that is removed so at the same time.
const SLOW: &str = "slow";
const LEAVING: &str = "leaving";

/// A fault, by a name that a client may have.
struct Kind {
    name: &'static str,
    fault: Fault,
    /// Whether the server may have done what it was asked, so that what it answered is lost.
    is_lossy: bool,
}

fn kinds() -> Vec<Kind> {
    let kind = |name, fault, is_lossy| Kind { name, fault, is_lossy };
    vec![
        kind("reset", Fault::Reset, false),
        kind("unheard", Fault::LoseAnswer, true),
        kind("busy", Fault::Instead(Answer::too_many(1)), false),
        kind("broken", Fault::Instead(Answer::status(500)), false),
        kind("away", Fault::Instead(Answer::status(503)), false),
        kind("cut", Fault::Replaced(Answer::json(200, "{\"client_id\":")), true),
        kind("another", Fault::Replaced(Answer::json(200, "[]")), true),
        kind(SLOW, TOO_SLOW, true),
        kind(LEAVING, TOO_SLOW, true),
    ]
}

/// A client that works, before something happens to it.
struct Victim<'p> {
    place: &'p Place,
    kind: Kind,
    /// Its id.
    id: String,
    /// Where it is managed.
    path: String,
}

impl Place {
    fn wants(&self, name: &str, called: &str) {
        // Whoever is removed waits for a server that is slow.
        self.cluster.apply(&self.client(name, &json!({"clientName": called, "deletion": {"timeout": "60s"}})));
    }

    fn is_ready(&self, name: &str) -> bool {
        let found = object(&self.cluster, "McpClient", Some("team"), name);
        found.is_some_and(|found| condition(&found, "Ready").is_some_and(|(status, _)| status == "True"))
    }

    /// Its ledger, if there is a client and nothing is under way.
    fn settled(&self, name: &str) -> Option<Value> {
        let ledger = Self::ledger_of(&self.ledger_for(name));
        (ledger["step"] == "Idle" && ledger["current"].is_object()).then_some(ledger)
    }

    fn tells_of_orphans(&self, name: &str) -> bool {
        let found = object(&self.cluster, "McpClient", Some("team"), name).unwrap();
        condition(&found, "Orphaned").is_some_and(|(status, _)| status == "True")
    }
}

impl<'p> Victim<'p> {
    /// One for each kind, which are made together.
    fn all(place: &'p Place) -> Vec<Self> {
        let kinds = kinds();
        kinds.iter().for_each(|kind| place.wants(kind.name, "Reports"));
        kinds.into_iter().map(|kind| Self::of(place, kind)).collect()
    }

    fn of(place: &'p Place, kind: Kind) -> Self {
        // It is said to work while another one is made in its place.
        let ledger = until(&format!("{} to be ready", kind.name), || {
            place.is_ready(kind.name).then_some(())?;
            place.settled(kind.name)
        });
        let handle = &ledger["current"]["handle"];
        let path = match place.way {
            Way::KeycloakAdmin => format!("{}/{}", place.registrations(), handle["Admin"]["id"].as_str().unwrap()),
            _ => {
                let uri = handle["Protocol"]["uri"].as_str().unwrap();
                uri.strip_prefix(&place.house.hop.url()).unwrap().to_owned()
            }
        };
        Self { place, kind, id: ledger["current"]["client_id"].as_str().unwrap().to_owned(), path }
    }

    /// Its next request of this method fails.
    fn fails(&self, method: &'static str) -> Fired {
        self.place.house.hop.fault(Matching::nth(method, &self.path, 1), self.kind.fault.clone())
    }

    /// It is ready, as one client whose credentials work; the one that it was is the same or told of, if it may be left.
    fn assert_sound(&self, story: &str) {
        let (place, name) = (self.place, self.kind.name);
        let credentials = place.credentials_of(name);
        let answer = place.token_with(&credentials);
        assert_eq!(answer.status, 200, "{story}: {}", answer.text());
        if credentials["client_id"] == self.id {
            return;
        }
        assert!(self.kind.is_lossy && place.way != Way::KeycloakAdmin, "{story}: it is another client");
        // Its Secret holds the other one a moment before its status tells of the first.
        until(&format!("{story}: {} to be told of", self.id), || place.tells_of_orphans(name).then_some(()));
    }
}

/// A registration, of clients that are gone afterwards. Answers with what is left of them at the server, which was told.
fn registrations(place: &Place) -> Vec<String> {
    let mut kinds = kinds();
    // Slow is the late one.
    kinds.retain(|kind| ![SLOW, LEAVING].contains(&kind.name));
    let named = |kind: &Kind| format!("new-{}", kind.name);
    let meets = |kind: &Kind| {
        let first = Matching::nth("POST", &place.registrations(), 1).with(&format!("\"{}\"", named(kind)));
        let fired = place.house.hop.fault(first, kind.fault.clone());
        place.wants(&named(kind), &named(kind));
        fired
    };
    let faults: Vec<Fired> = kinds.iter().map(meets).collect();
    let (mut made, mut lost) = (Vec::new(), 0);
    for (kind, fired) in kinds.iter().zip(&faults) {
        let (name, story) = (named(kind), format!("{:?}, {} at a registration", place.way, kind.name));
        until(&story, || {
            (fired.times() == 1 && place.is_ready(&name)).then_some(())?;
            place.settled(&name)
        });
        let credentials = place.credentials_of(&name);
        let answer = place.token_with(&credentials);
        assert_eq!(answer.status, 200, "{story}: {}", answer.text());
        made.push(credentials["client_id"].clone());
        // What was made by RFC 7591 and not heard of is nobody's.
        let is_lost = kind.is_lossy && place.way != Way::KeycloakAdmin;
        assert!(!is_lost || place.tells_of_orphans(&name), "{story}: nobody was told");
        lost += usize::from(is_lost);
    }
    let mut left = place.ours();
    left.retain(|id| !made.contains(id));
    assert_eq!(left.len(), lost, "{:?}: {left:?} beside {made:?}", place.way);
    kinds.iter().for_each(|kind| place.cluster.delete(VERSION, "McpClient", Some("team"), &named(kind)));
    until("only what was lost to be left", || (place.ours().len() == lost).then_some(()));
    left
}

/// A registration that its server makes once nobody waits for it any more.
struct Late<'p> {
    place: &'p Place,
    fired: Fired,
}

impl<'p> Late<'p> {
    const NAME: &'static str = "late";

    fn begin(place: &'p Place) -> Self {
        let fired = place.house.hop.fault(Matching::nth("POST", &place.registrations(), 1), TOO_SLOW);
        place.wants(Self::NAME, "Reports");
        until("it to be registered", || (fired.times() == 1).then_some(()));
        Self { place, fired }
    }

    /// Another one was made by RFC 7591, and the first is told of: `others` are at the server, and nobody's.
    fn end(self, others: &[String]) {
        let Self { place, fired } = self;
        let told = place.tells_of_orphans(Self::NAME);
        let most = usize::from(place.way != Way::KeycloakAdmin);
        assert_eq!((fired.times(), told, others.len()), (1, most == 1, most), "{:?}: {others:?}", place.way);
        let answer = place.token_with(&place.credentials_of(Self::NAME));
        assert_eq!(answer.status, 200, "{}", answer.text());
        place.cluster.delete(VERSION, "McpClient", Some("team"), Self::NAME);
    }
}

/// They are what they are by now.
fn next<'p>(victims: Vec<Victim<'p>>, known: &mut Vec<String>) -> Vec<Victim<'p>> {
    let victims: Vec<Victim> = victims.into_iter().map(|victim| Victim::of(victim.place, victim.kind)).collect();
    known.extend(victims.iter().map(|victim| victim.id.clone()));
    victims
}

fn whatever_a_server_answers(way: Way) {
    let place = Place::new(way);
    let _last = Last(&place);
    if place.house.is_keycloak() {
        place.secret("initial-access", &[("token", &place.house.realm().initial_access_token(60))]);
    }
    let _controller = place.controller();
    let mut known = registrations(&place);
    let late = Late::begin(&place);

    // An update.
    let mut victims = Victim::all(&place);
    known.extend(victims.iter().map(|victim| victim.id.clone()));
    let leaving = victims.pop().unwrap();
    assert_eq!(leaving.kind.name, LEAVING);
    let leaves = (leaving.fails("DELETE"), leaving);
    place.cluster.delete(VERSION, "McpClient", Some("team"), LEAVING);
    let faults: Vec<Fired> = victims.iter().map(|victim| victim.fails("PUT")).collect();
    for victim in &victims {
        place.wants(victim.kind.name, "Other");
    }
    for (victim, fired) in victims.iter().zip(&faults) {
        let story = format!("{way:?}, {} at an update", victim.kind.name);
        until(&story, || {
            let is_tried = fired.times() == 1 && place.is_ready(victim.kind.name);
            let id = &place.credentials_of(victim.kind.name)["client_id"];
            (is_tried && place.house.describes(id, "Other")).then_some(())
        });
        victim.assert_sound(&story);
    }

    // A look at it, which is due because nobody knows what came of the last update.
    let mut victims = next(victims, &mut known);
    victims.retain(|victim| victim.kind.name != SLOW);
    place.cluster.delete(VERSION, "McpClient", Some("team"), SLOW);
    let faults: Vec<Fired> = victims.iter().map(|victim| victim.fails("GET")).collect();
    for victim in &victims {
        place.edit(&place.ledger_for(victim.kind.name), |ledger| {
            let digest = ledger["current"]["digest"].clone();
            ledger["step"] = json!({"Updating": {"digest": digest, "renews": false}});
        });
        place.nudge_one(victim.kind.name, "look");
    }
    for (victim, fired) in victims.iter().zip(&faults) {
        let story = format!("{way:?}, {} at a look", victim.kind.name);
        until(&story, || {
            place.settled(victim.kind.name)?;
            (fired.times() == 1 && place.is_ready(victim.kind.name)).then_some(())
        });
        victim.assert_sound(&story);
    }

    // No other client is at the server than those that they were.
    let victims = next(victims, &mut known);
    until("the late one to be ready", || place.settled(Late::NAME).filter(|_| place.is_ready(Late::NAME)));
    known.push(place.credentials_of(Late::NAME)["client_id"].clone());
    let mut others = place.ours();
    others.retain(|id| !known.contains(id));
    late.end(&others);

    // A removal.
    let faults: Vec<Fired> = victims.iter().map(|victim| victim.fails("DELETE")).collect();
    victims.iter().for_each(|victim| place.cluster.delete(VERSION, "McpClient", Some("team"), victim.kind.name));
    for (victim, fired) in victims.iter().zip(&faults).chain([(&leaves.1, &leaves.0)]) {
        let story = format!("{way:?}, {} at a removal", victim.kind.name);
        until(&story, || object(&place.cluster, "McpClient", Some("team"), victim.kind.name).is_none().then_some(()));
        assert_eq!(fired.times(), 1, "{story}");
        assert!(!place.ours().contains(&victim.id), "{story}: it is there still");
    }
    until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
}

#[test]
fn whatever_npm_oidc_provider_answers_about_a_client_it_is_one_that_works_or_is_told_of_and_goes() {
    whatever_a_server_answers(Way::ProviderDcr);
}

#[test]
fn whatever_keycloak_answers_about_a_client_it_is_one_that_works_or_is_told_of_and_goes() {
    whatever_a_server_answers(Way::KeycloakDcr);
}

#[test]
fn whatever_keycloaks_administrative_api_answers_about_a_client_it_is_the_same_one_and_goes() {
    whatever_a_server_answers(Way::KeycloakAdmin);
}

/// How long a server wants to be left alone: longer than anybody waits after a first failure.
const ALONE: u32 = 6;

/// RFC 9110 section 10.2.3.
#[test]
fn a_server_that_wants_to_be_left_alone_is_not_asked_before_its_time_whoever_looks() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let _controller = place.controller();
    for method in ["POST", "PUT", "DELETE"] {
        let path = place.registrations();
        let fired = place.house.hop.fault(Matching::nth(method, &path, 1), Fault::Instead(Answer::too_many(ALONE)));
        match method {
            "POST" => place.wants("reports", "Reports"),
            "PUT" => place.wants("reports", "Other"),
            _ => drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None)),
        }
        until("it to be put off", || (fired.times() == 1).then_some(()));
        let asked = || -> Vec<Instant> {
            let seen = place.house.hop.seen().into_iter();
            seen.filter(|seen| seen.method == method && seen.path.starts_with(&path)).map(|seen| seen.at).collect()
        };
        let mut looks = 0;
        until("it to be asked again", || {
            // Somebody looks all the time, once at least.
            looks += 1;
            let word = format!("nudge={method}-{looks}");
            // It may be gone by now.
            drop(
                place.cluster.try_kubectl(&["annotate", "-n", "team", "mcpclient/reports", "--overwrite", &word], None),
            );
            (asked().len() > 1).then_some(())
        });
        let asked = asked();
        let pause = asked[1] - asked[0];
        assert!(pause >= Duration::from_secs(ALONE.into()), "{method}: it was asked again after {pause:?}");
        if method == "DELETE" {
            place.wait_gone()
        } else {
            drop(place.wait_ready())
        }
        assert_eq!(place.asked(method), 2, "{method}: once more, and no more");
    }
}
