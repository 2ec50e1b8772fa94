//! Clients that nobody here manages at the server: by a document that the gateway serves, and as their author gives them.

use super::lives::{ended_everywhere, settles};
use super::model::{End, Habits, Proof, World, desired, place, with_secret};
use crate::generated::client;
use crate::oauth::client_metadata_document;
use crate::oauth::client_registration::AuthMethod;
use crate::registration::call::{Place, Purpose};
use crate::registration::ledger::Handle;
use crate::registration::{Action, CHECK_SECONDS, Desired, Method, News, Seen, What, Wish, next};
use crate::sensitive::Sensitive;

const NEVER: usize = usize::MAX;
const GATEWAY: &str = "https://gw.example";
const PERIOD: i64 = 30 * 86_400;
const OVERLAP: i64 = 600;

/// A service whose document the gateway serves.
fn hosted() -> Desired {
    Desired { methods: vec![Method::Cimd], gateway: Some(GATEWAY.to_owned()), ..desired() }
}

/// The same, for persons, without a key.
fn public() -> Desired {
    let mut desired = hosted();
    desired.metadata.auth_method = AuthMethod::None;
    desired.metadata.redirect_uris = vec!["http://127.0.0.1/callback".to_owned()];
    desired.metadata.grant_types = vec!["authorization_code".to_owned()];
    desired.metadata.response_types = vec!["code".to_owned()];
    desired.rotation = None;
    desired
}

/// A service that somebody has registered.
fn given() -> Desired {
    let mut desired = Desired { client_id: Some("reports".to_owned()), rotation: None, ..with_secret() };
    (desired.methods, desired.asked) = (vec![Method::Preregistered], Some(Method::Preregistered));
    desired
}

fn url() -> String {
    format!("{GATEWAY}{}", client::path(&desired().owner.uid))
}

/// A world whose server has the client that [`given`] is about.
fn with_given(secret: &str) -> World {
    let mut world = World::new(Habits::default());
    settles(&mut world, &with_secret(), Method::Dcr);
    let (id, Proof::Secret(right)) = world.published.clone().unwrap() else { panic!() };
    let known = world.server.clients.remove(&id).unwrap();
    world.server.clients.insert("reports".to_owned(), known);
    let given = if secret == "right" { right } else { secret.to_owned() };
    (world.stored, world.published, world.given) = (None, None, Some(Sensitive::new(given)));
    world.news.clear();
    world.server.asked.clear();
    world
}

/// Whoever has what was published is believed, whatever the server has kept.
fn assert_believed(world: &World, story: &str) {
    let (id, proof) = world.published.clone().unwrap_or_else(|| panic!("{story}: nothing is published"));
    let mut server = world.server.clone();
    assert!(server.finds(&id, &proof, world.now), "{story}: {id} by {proof:?} is not believed");
}

fn keys(world: &World) -> usize {
    let keys = world.server.served.as_ref().and_then(|served| served.key_set.clone()).unwrap_or_default();
    keys.matches("\"kid\"").count()
}

#[test]
fn a_document_is_served_before_anything_is_given_out_wherever_the_controller_dies() {
    for desired in [hosted(), public()] {
        let before = World::new(Habits::default());
        ended_everywhere(&before, &desired, Method::Cimd, "made", &|world, story| {
            if world.published.is_some() {
                assert_believed(world, story);
            }
            settles(world, &desired, Method::Cimd);
            assert_believed(world, story);
            let served = world.server.served.clone().unwrap();
            client_metadata_document::parse(served.document.as_bytes(), &url()).unwrap();
            assert!(!format!("{served:?}").contains("private\""), "{story}: {served:?}");
            assert_eq!(world.published.as_ref().unwrap().0, url(), "{story}");
            assert_eq!(keys(world), usize::from(desired.metadata.auth_method != AuthMethod::None), "{story}");
        });
    }
}

#[test]
fn nothing_is_given_out_while_a_proxy_does_not_serve_it() {
    let mut world = World::new(Habits::default());
    world.lags = true;
    for _ in 0..3 {
        assert_eq!(world.run(&hosted(), Method::Cimd, true, NEVER).0, End::Unserved);
        world.now += 100 * OVERLAP;
    }
    assert_eq!(world.published, None);
    world.lags = false;
    settles(&mut world, &hosted(), Method::Cimd);
    let old = world.published.clone();
    // A key that one of them does not know is not given out, however old it is.
    (world.lags, world.now) = (true, world.now + PERIOD);
    for _ in 0..5 {
        assert_eq!(world.run(&hosted(), Method::Cimd, true, NEVER).0, End::Unserved);
        world.now += 10 * OVERLAP;
        assert_eq!((&world.published, keys(&world)), (&old, 2));
    }
}

#[test]
fn a_key_is_served_before_it_is_used_and_while_anybody_may_use_it_wherever_the_controller_dies() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &hosted(), Method::Cimd);
    let (id, old) = world.published.clone().unwrap();
    world.now += PERIOD;
    ended_everywhere(&world, &hosted(), Method::Cimd, "a new key", &|world, story| {
        settles(world, &hosted(), Method::Cimd);
        assert_believed(world, story);
        assert_eq!((world.published.clone().unwrap().1, keys(world)), (old.clone(), 2), "{story}");
    });
    settles(&mut world, &hosted(), Method::Cimd);
    world.now += OVERLAP - 1;
    settles(&mut world, &hosted(), Method::Cimd);
    assert_eq!(world.published.clone().unwrap().1, old, "not before its time");
    world.now += 1;
    ended_everywhere(&world, &hosted(), Method::Cimd, "its use", &|world, story| {
        settles(world, &hosted(), Method::Cimd);
        assert_believed(world, story);
        let new = world.published.clone().unwrap().1;
        assert_ne!(new, old, "{story}");
        // Whoever has not read the Secret since goes on.
        assert!(world.server.clone().finds(&id, &old, world.now), "{story}");
        assert_eq!(keys(world), 2, "{story}");
    });
    settles(&mut world, &hosted(), Method::Cimd);
    world.now += OVERLAP - 1;
    settles(&mut world, &hosted(), Method::Cimd);
    assert_eq!(keys(&world), 2);
    world.now += 1;
    ended_everywhere(&world, &hosted(), Method::Cimd, "the end of the old one", &|world, story| {
        settles(world, &hosted(), Method::Cimd);
        assert_believed(world, story);
        assert_eq!(keys(world), 1, "{story}");
        world.now += 61;
        assert!(!world.server.clone().finds(&id, &old, world.now), "{story}");
    });
}

/// An author may say that a second is enough; what was fetched is kept for longer all the same.
#[test]
fn no_overlap_is_shorter_than_what_was_fetched_may_be_kept() {
    let mut desired = hosted();
    desired.rotation =
        desired.rotation.map(|rotation| crate::registration::desired::Rotation { overlap_seconds: 1, ..rotation });
    let mut world = World::new(Habits::default());
    settles(&mut world, &desired, Method::Cimd);
    world.now += PERIOD;
    for _ in 0..400 {
        settles(&mut world, &desired, Method::Cimd);
        assert_believed(&world, "a second later");
        world.now += 1;
    }
    assert_eq!(keys(&world), 1);
    assert_eq!(world.news.iter().filter(|news| **news == News::Rotated).count(), 1);
}

#[test]
fn when_something_is_due_is_known_before() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &hosted(), Method::Cimd);
    for _ in 0..(3 * PERIOD / CHECK_SECONDS) {
        let mut seen = world.loaded(&hosted(), Method::Cimd);
        let (End::Settled(again, None), _) = world.go_on(&mut seen, &hosted(), true, NEVER, &mut |_, _| None) else {
            panic!("{seen:?}")
        };
        assert!(again > world.now && again <= world.now + CHECK_SECONDS, "{again} {}", world.now);
        world.now = again;
    }
    assert!(world.news.iter().filter(|news| **news == News::Rotated).count() >= 2);
}

#[test]
fn nothing_is_asked_but_whether_it_is_believed_and_that_now_and_then() {
    let mut given_world = with_given("right");
    for (mut world, desired, method) in [
        (World::new(Habits::default()), hosted(), Method::Cimd),
        (World::new(Habits::default()), public(), Method::Cimd),
        (std::mem::replace(&mut given_world, World::new(Habits::default())), given(), Method::Preregistered),
    ] {
        let mut seen = world.loaded(&desired, method);
        let start = world.now;
        for _ in 0..100 {
            seen.publish_again();
            seen.serve_again();
            assert!(matches!(world.go_on(&mut seen, &desired, true, NEVER, &mut |_, _| None).0, End::Settled(_, None)));
            world.now += 60;
        }
        let probes = world.server.asked(Purpose::Probe);
        let asks = desired.metadata.grant_types == ["client_credentials"];
        let most = if asks { usize::try_from((world.now - start) / CHECK_SECONDS).unwrap() + 1 } else { 0 };
        assert!(probes <= most && (probes > 0) == asks, "{method:?}: {probes}");
        assert_eq!(world.server.asked.values().sum::<usize>(), probes);
        assert_eq!(seen.ledger.losses(), 0);
    }
}

#[test]
fn nothing_is_left_of_what_nobody_manages_wherever_the_controller_dies() {
    let mut document = World::new(Habits::default());
    settles(&mut document, &hosted(), Method::Cimd);
    let mut known = with_given("right");
    settles(&mut known, &given(), Method::Preregistered);
    for (before, desired, method) in [(document, hosted(), Method::Cimd), (known, given(), Method::Preregistered)] {
        let (_, boundaries) = before.clone().run(&desired, method, false, NEVER);
        for kill in 0..=boundaries {
            let mut world = before.clone();
            if world.run(&desired, method, false, kill).0 == End::Killed && world.stored.is_some() {
                assert_eq!(world.run(&desired, method, false, NEVER).0, End::Forgotten, "{method:?} {kill}");
            }
            assert!(world.stored.is_none(), "{method:?} {kill}");
            assert_eq!(world.server.clients.len(), before.server.clients.len(), "{method:?}: nothing is deleted there");
            assert_eq!(world.server.asked(Purpose::Delete), 0);
        }
    }
}

#[test]
fn what_an_author_gives_is_handed_on_as_it_is_wherever_the_controller_dies() {
    ended_everywhere(&with_given("right"), &given(), Method::Preregistered, "given", &|world, story| {
        settles(world, &given(), Method::Preregistered);
        let (id, proof) = world.published.clone().unwrap();
        assert!(id == "reports" && world.server.believes(&id, &proof), "{story}");
        assert_eq!(world.server.clients.len(), 1, "{story}");
    });
    // Of a document of its own nobody here has a key.
    let mut own = Desired { client_id: Some("https://ide.example/client".to_owned()), ..hosted() };
    own.metadata.grant_types.clear();
    let mut world = World::new(Habits::default());
    settles(&mut world, &own, Method::Cimd);
    assert_eq!(world.published, Some(("https://ide.example/client".to_owned(), Proof::Nothing)));
    assert_eq!((world.server.served.clone(), world.ledger().unwrap().keys), (None, Vec::new()));
}

#[test]
fn a_wrong_secret_is_told_at_once_and_again_after_the_controller_died_until_its_author_corrects_it() {
    let mut world = with_given("wrong");
    for _ in 0..2 {
        let (end, _) = world.run(&given(), Method::Preregistered, true, NEVER);
        let End::Settled(_, Some(trouble)) = end else { panic!("{end:?}") };
        assert_eq!((trouble.what, trouble.during), (What::Unbelieved, Some(Purpose::Probe)));
        assert!(trouble.detail.contains("invalid_client"), "{trouble:?}");
        assert_eq!(world.published.as_ref().unwrap().0, "reports", "what is given is handed on");
    }
    let mut seen = world.loaded(&given(), Method::Preregistered);
    world.go_on(&mut seen, &given(), true, NEVER, &mut |_, _| None);
    let right = with_given("right");
    (world.given, world.server) = (right.given.clone(), right.server.clone());
    seen.give(world.given.as_ref());
    seen.publish_again();
    let (end, _) = world.go_on(&mut seen, &given(), true, NEVER, &mut |_, _| None);
    assert!(matches!(end, End::Settled(_, None)), "{end:?}");
    let (id, proof) = world.published.clone().unwrap();
    assert!(world.server.believes(&id, &proof));
    assert!(matches!(seen.ledger.current.unwrap().handle, Handle::Given { is_believed: true }));
}

#[test]
fn what_a_server_does_not_take_is_told_and_what_it_does_not_say_is_not() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &hosted(), Method::Cimd);
    let told = |takes_documents| {
        let mut seen = world.loaded(&hosted(), Method::Cimd);
        let place = Place { takes_documents, token_endpoint: None, ..place() };
        seen.is_served(world.now);
        seen.is_published(world.now);
        loop {
            match next(&mut seen, &Wish::Keep(&hosted()), &place, world.now) {
                Action::Persist => seen.persisted(),
                Action::Publish => seen.is_published(world.now),
                Action::Settled { .. } => return seen.trouble().map(|trouble| trouble.what),
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(told(Some(false)), Some(What::NoEndpoint));
    assert_eq!((told(Some(true)), told(None)), (None, None));
    // And what no reader takes is not served.
    let mut long = hosted();
    long.metadata.scopes = vec!["s".repeat(6000)];
    let mut world = World::new(Habits::default());
    let (End::Settled(_, Some(trouble)), _) = world.run(&long, Method::Cimd, true, NEVER) else { panic!() };
    assert_eq!((trouble.what, &world.server.served), (What::Document, &None));
    assert!(trouble.detail.contains("5000"), "{trouble:?}");
}

#[test]
fn a_gateway_that_moves_is_another_id_and_an_author_who_wants_no_key_has_none() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &hosted(), Method::Cimd);
    let moved = Desired { gateway: Some("https://new.example".to_owned()), ..hosted() };
    ended_everywhere(&world, &moved, Method::Cimd, "moved", &|world, story| {
        settles(world, &moved, Method::Cimd);
        world.now += 61;
        assert_believed(world, story);
        assert!(world.published.as_ref().unwrap().0.starts_with("https://new.example/-/clients/"), "{story}");
        assert!(world.news.contains(&News::Replaced { client_id: url() }), "{story}");
    });
    settles(&mut world, &public(), Method::Cimd);
    assert_eq!((world.published.clone().unwrap().1, keys(&world)), (Proof::Nothing, 0));
    assert_eq!(world.ledger().unwrap().keys, Vec::new());
    world.now += 61;
    settles(&mut world, &hosted(), Method::Cimd);
    assert!(matches!(world.published, Some((_, Proof::Key(_)))));
    world.now += 61;
    assert_believed(&world, "with a key again");
    let unknown = Desired { gateway: None, ..hosted() };
    let (End::Settled(_, Some(trouble)), _) = world.run(&unknown, Method::Cimd, true, NEVER) else { panic!() };
    assert_eq!(trouble.what, What::NoEndpoint);
}

/// What has not been served yet is never used by whoever comes next.
#[test]
fn a_ledger_says_since_when_a_key_is_served() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &hosted(), Method::Cimd);
    let ledger = world.ledger().unwrap();
    let key = &ledger.keys[0];
    assert_eq!((key.served, key.given), (Some(world.now), Some(world.now)));
    assert!(matches!(ledger.current.as_ref().unwrap().handle, Handle::Document { is_served: true, is_believed: true }));
    assert_eq!(crate::registration::Ledger::decode(&ledger.encode().unwrap()), Ok(ledger.clone()));
    let text = String::from_utf8(ledger.encode().unwrap()).unwrap();
    assert!(text.contains("\"served\""));
    // Ledgers of before have no such times.
    let mut dcr = World::new(Habits::default());
    settles(&mut dcr, &desired(), Method::Dcr);
    let text = String::from_utf8(dcr.ledger().unwrap().encode().unwrap()).unwrap();
    assert!(!text.contains("\"served\"") && !text.contains("\"given\""));
    let seen = Seen::stored(dcr.ledger().unwrap(), dcr.now);
    assert!(!seen.published());
}
