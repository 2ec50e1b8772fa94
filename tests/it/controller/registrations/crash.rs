//! A controller that is killed at every request, before the server hears of it and after it has answered.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::place::{Place, WAYS, Way};
use crate::controller::random::Numbers;
use crate::support::fault::{Fault, Matching};
use crate::support::kube::SYSTEM;
use crate::support::wait::until;

/// What is under way when the controller dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Create,
    Update,
    Delete,
}

/// Where it dies.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    way: Way,
    deed: Deed,
    /// The how manieth request about registrations, counted from 1.
    nth: usize,
    is_after: bool,
}

fn all() -> Vec<Boundary> {
    let mut all = Vec::new();
    for way in WAYS {
        for deed in [Deed::Create, Deed::Update, Deed::Delete] {
            // The administrative API is read besides.
            let requests = if way == Way::KeycloakAdmin { 2 } else { 1 };
            for nth in 1..=requests {
                all.extend([false, true].map(|is_after| Boundary { way, deed, nth, is_after }));
            }
        }
    }
    all
}

/// Each boundary in `make soak`, some of them otherwise: always others, and the same for the same sources.
#[test]
fn a_controller_that_dies_at_any_request_leaves_one_client_or_tells_what_is_left() {
    let mut boundaries = all();
    if std::env::var_os("PORTCULLIS_CRASH_MATRIX").is_none() {
        let mut numbers = Numbers(20_261_126);
        while boundaries.len() > 6 {
            let at = usize::try_from(numbers.below(boundaries.len() as u64)).unwrap();
            boundaries.remove(at);
        }
    }
    boundaries.into_iter().for_each(dies);
}

fn dies(boundary: Boundary) {
    let Boundary { way, deed, nth, is_after } = boundary;
    let story = format!("{boundary:?}");
    let place = Place::new(way);
    let victim = Arc::new(AtomicU32::new(0));
    let start = || {
        place.cluster.delete("coordination.k8s.io/v1", "Lease", Some(SYSTEM), "portcullis-leader");
        let controller = place.controller();
        victim.store(controller.process.pid(), Ordering::SeqCst);
        controller
    };
    let mut controller = start();
    if deed != Deed::Create {
        place.apply(&json!({}));
        place.wait_ready();
    }
    let target = victim.clone();
    let kill: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        let id = target.load(Ordering::SeqCst).to_string();
        assert!(Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
    });
    let fault = if is_after { Fault::After(kill) } else { Fault::Before(kill) };
    let fired = place.house.hop.fault(Matching::nth("", &place.registrations(), nth), fault);
    act(&place, deed);
    until("the controller to die", || (fired.times() == 1 && controller.process.exit_status().is_some()).then_some(()));
    drop(controller);
    controller = start();
    match deed {
        Deed::Create => {
            place.wait_ready();
        }
        Deed::Update => {
            until("the other name to arrive", || {
                let id = place.now()?["status"]["clientId"].as_str()?.to_owned();
                place.house.describes(&id, "Other").then_some(())
            });
            place.wait_ready();
        }
        Deed::Delete => {
            place.wait_gone();
            assert!(place.ours().is_empty(), "{story}: {:?}", place.ours());
            until("nothing to be kept", || place.ledgers().is_empty().then_some(()));
            return;
        }
    }
    let id = place.assert_one(&story);
    if way == Way::KeycloakAdmin {
        assert_eq!(place.ours(), [id], "{story}: the administrative API leaves nothing");
    }
    drop(controller);
}

fn act(place: &Place, deed: Deed) {
    let other: Value = json!({"clientName": "Other"});
    match deed {
        Deed::Create => place.apply(&json!({})),
        Deed::Update => place.apply(&other),
        Deed::Delete => {
            drop(place.cluster.try_kubectl(&["delete", "-n", "team", "mcpclient/reports", "--wait=false"], None))
        }
    }
}
