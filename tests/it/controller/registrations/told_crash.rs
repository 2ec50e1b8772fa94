//! A controller that is killed at every write about a client that nobody here manages: before the API server hears of it, and
//! after it has answered.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::boundaries::one_of_each;
use super::place::Way;
use super::told::{Hosted, give, registered};
use crate::controller::{ACCOUNT, Controller};
use crate::support::kube::SYSTEM;
use crate::support::kube::front::{Front, Interruption};
use crate::support::wait::until;

/// No deed takes so many writes about the client.
const MOST: usize = 13;

/// What is under way when the controller dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Create,
    /// Another key; another id and secret.
    Change,
    Delete,
}

/// Where it dies.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    is_document: bool,
    deed: Deed,
    /// The how manieth write, counted from 1.
    nth: usize,
    is_after: bool,
}

fn all() -> Vec<Boundary> {
    let mut all = Vec::new();
    for is_document in [true, false] {
        for deed in [Deed::Create, Deed::Change, Deed::Delete] {
            let deeds = (1..=MOST).flat_map(|nth| [(nth, false), (nth, true)]);
            all.extend(deeds.map(|(nth, is_after)| Boundary { is_document, deed, nth, is_after }));
        }
    }
    all
}

/// Each boundary in `make soak` (`PORTCULLIS_CRASH_MATRIX=all`), or with a part of what they are called those (`deed: Delete`);
/// otherwise one of each deed.
#[test]
fn a_controller_that_dies_at_any_write_leaves_one_client_that_is_believed_or_nothing() {
    let mut boundaries = all();
    if let Ok(which) = std::env::var("PORTCULLIS_CRASH_MATRIX") {
        boundaries.retain(|boundary| which == "all" || format!("{boundary:?}").contains(&which));
    } else {
        // Those that every deed comes to.
        boundaries.retain(|boundary| boundary.nth <= if boundary.deed == Deed::Create { 6 } else { 1 });
        boundaries = one_of_each(boundaries, |boundary| format!("{} {:?}", boundary.is_document, boundary.deed));
    }
    assert!(!boundaries.is_empty(), "no boundary is called that");
    let world = World::new();
    for boundary in boundaries {
        let fired = world.dies(boundary);
        assert!(fired || boundary.nth > 1, "{boundary:?}: every deed writes something");
        assert!(!fired || boundary.nth < MOST, "{boundary:?}: there are more writes than are looked at");
    }
}

struct World {
    hosted: Hosted,
    front: Front,
    /// The controller that runs.
    victim: Arc<AtomicU32>,
    /// Two services that somebody has registered.
    known: [(String, String); 2],
}

/// Shows what there is, if a test ends in between.
struct Last<'w>(&'w World);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let place = &self.0.hosted.place;
            eprintln!("the client is: {:#}", place.now().unwrap_or_default());
            eprintln!("documents: {:?}, ledgers: {}", self.0.hosted.documents(), place.ledgers().len());
        }
    }
}

/// Whether a request writes what is about the client: its ledger, its document, its Secret, its finalizer or its status.
fn is_about(method: &str, path: &str) -> bool {
    let about = ["/portcullis-system/secrets", "/configmaps/client-", "/mcpclients/", "/team/secrets"];
    method != "GET" && about.iter().any(|part| path.contains(part))
}

impl World {
    fn new() -> Self {
        let hosted = Hosted::new(Way::ProviderTold);
        let front = Front::start(&hosted.place.cluster, SYSTEM, ACCOUNT);
        let known = [registered(&hosted.place), registered(&hosted.place)];
        Self { hosted, front, victim: Arc::default(), known }
    }

    fn start(&self) -> Controller {
        self.hosted.place.cluster.delete("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader");
        let controller = self.hosted.controller_as(self.front.kubeconfig());
        self.victim.store(controller.process.pid(), Ordering::SeqCst);
        controller
    }

    /// Waits. A controller that has lost the lead ends, and is started again, as Kubernetes does.
    fn wait(&self, what: &str, controller: &mut Controller, is: impl Fn() -> bool) {
        until(what, || {
            if controller.process.exit_status().is_some() {
                *controller = self.start();
            }
            is().then_some(())
        });
    }

    fn give(&self, number: usize) {
        let (id, secret) = &self.known[number];
        give(&self.hosted.place, secret);
        let reference = json!({"name": "given", "key": "secret"});
        let registration = json!({"clientId": id, "clientSecretRef": reference, "grantTypes": ["client_credentials"]});
        self.hosted.apply_given("Preregistered", &registration);
    }

    fn make(&self, is_document: bool) {
        if is_document {
            self.hosted.apply(Some("CIMD"), &json!({"rotation": {"period": "1h", "overlap": "10m"}}));
        } else {
            self.give(0);
        }
    }

    fn act(&self, boundary: Boundary) {
        let place = &self.hosted.place;
        match (boundary.deed, boundary.is_document) {
            (Deed::Create, is_document) => self.make(is_document),
            (Deed::Change, true) => self.hosted.age(3600),
            (Deed::Change, false) => self.give(1),
            (Deed::Delete, _) => {
                drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None));
            }
        }
    }

    /// Whether the deed is done, and all of it.
    fn is_done(&self, boundary: Boundary) -> bool {
        let place = &self.hosted.place;
        let is_ready = || place.condition("Ready").is_some_and(|(status, _)| status == "True");
        match (boundary.deed, boundary.is_document) {
            (Deed::Create, _) => is_ready(),
            (Deed::Change, true) => {
                is_ready() && self.hosted.kids().len() == 2 && self.hosted.ledger_says("served") == 2
            }
            (Deed::Change, false) => {
                let (id, secret) = &self.known[1];
                let now = place.credentials();
                is_ready() && (&now["client_id"], &now["client_secret"]) == (id, secret)
            }
            (Deed::Delete, _) => {
                place.now().is_none() && place.ledgers().is_empty() && self.hosted.documents().is_empty()
            }
        }
    }

    /// Answers whether the controller was killed.
    fn dies(&self, boundary: Boundary) -> bool {
        let (place, story, _last) = (&self.hosted.place, format!("{boundary:?}"), Last(self));
        let mut controller = self.start();
        if boundary.deed != Deed::Create {
            self.make(boundary.is_document);
            let made = Boundary { deed: Deed::Create, ..boundary };
            self.wait("the client to be made", &mut controller, || self.is_done(made));
        }
        let before = (boundary.deed == Deed::Change).then(|| place.credentials());
        let victim = self.victim.clone();
        let kill = move || {
            let id = victim.load(Ordering::SeqCst).to_string();
            assert!(Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
        };
        let Boundary { nth, is_after, .. } = boundary;
        self.front.interrupt(Interruption { counts: is_about, nth, is_after, call: Arc::new(kill) });
        self.act(boundary);
        let ends = || self.front.has_interrupted() || self.is_done(boundary);
        until(&format!("{story}: the deed to end, or the controller"), || {
            if !self.front.has_interrupted() && controller.process.exit_status().is_some() {
                controller = self.start();
            }
            ends().then_some(())
        });
        // What looks done may be followed by another write: from here on it is not.
        let died = !self.front.call_off();
        if died {
            until("the controller to die", || controller.process.exit_status());
            drop(controller);
            controller = self.start();
        }
        self.wait(&format!("{story}: all to be done"), &mut controller, || self.is_done(boundary));
        if boundary.deed != Deed::Delete {
            let credentials = place.credentials();
            assert_eq!(place.token_with(&credentials).status, 200, "{story}");
            assert_eq!(place.ledgers().len(), 1, "{story}");
            assert_eq!(self.hosted.documents().len(), usize::from(boundary.is_document), "{story}");
            if boundary.is_document {
                assert!(self.hosted.kids().contains(&credentials["kid"]), "{story}");
                assert!(before.is_none_or(|before| before == credentials), "{story}: it is not its time yet");
            }
            place.delete();
        }
        let gone = Boundary { deed: Deed::Delete, ..boundary };
        self.wait(&format!("{story}: nothing to be left"), &mut controller, || self.is_done(gone));
        // The services that somebody registered are there as before.
        let there = place.ours();
        assert!(self.known.iter().all(|(id, _)| there.contains(id)) && there.len() == 2, "{story}: {there:?}");
        // Nothing here collects what its owner has left.
        place.cluster.delete("v1", "Secret", Some("team"), "reports-client");
        drop(controller);
        died
    }
}
