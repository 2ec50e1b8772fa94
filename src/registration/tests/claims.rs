//! Clients that are at their server and in no ledger: taken over if they are surely meant, and left alone otherwise.

use std::collections::BTreeMap;

use serde_json::json;

use super::model::{CLUSTER, End, Habits, ISSUER, World, desired, with_secret};
use crate::oauth::client_registration::AuthMethod;
use crate::registration::call::Purpose;
use crate::registration::claim::Means;
use crate::registration::ledger::{Ledger, Registration, Retired, Step};
use crate::registration::{CHECK_SECONDS, Claim, Desired, Method, News, What};

const NEVER: usize = usize::MAX;
const OLD: &str = "portcullis:oldcluster:9999";

/// A cluster is lost: the client is there, and nobody knows of it any more.
fn lost(method: Method, habits: Habits) -> (World, Claim) {
    let mut before = World::new(habits);
    assert!(matches!(before.run(&desired(), method, true, NEVER).0, End::Settled(_, None)));
    let (id, client) = before.server.clients.iter().next().unwrap();
    let (id, token) = (id.clone(), client.token.clone());
    let mut world = World::new(habits);
    world.server = before.server;
    world.server.asked.clear();
    let client = world.server.clients.get_mut(&id).unwrap();
    match method {
        Method::Admin => client.body["attributes"]["portcullis.owner"] = json!(OLD),
        _ => client.body["software_id"] = json!(OLD),
    }
    let uri = format!("{ISSUER}/reg/{id}");
    let mut members = BTreeMap::from([("client_id", id.as_str()), ("issuer", ISSUER), ("mark", OLD)]);
    if method == Method::Dcr {
        members.extend([("registration_client_uri", uri.as_str()), ("registration_access_token", token.as_str())]);
    }
    let claim = Claim::parse(&members).unwrap();
    (world, claim)
}

/// A controller that is asked for it, ended at the boundary `kill`.
fn take_over(world: &mut World, desired: &Desired, claim: &Claim, kill: usize) -> (End, usize, bool) {
    let mut seen = world.loaded(desired, claim.method());
    assert_eq!(claim.check(desired, &seen.ledger, None), Ok(()));
    seen.set_claim(Some(claim.clone()));
    let (end, boundaries) = world.go_on(&mut seen, desired, true, kill, &mut |_, _| None);
    (end, boundaries, seen.has_taken_over())
}

#[test]
fn a_client_of_a_lost_cluster_is_taken_over_wherever_the_controller_dies() {
    for rotates_tokens in [false, true] {
        let habits = Habits { rotates_tokens, ..Habits::default() };
        for (method, desired) in [(Method::Admin, desired()), (Method::Dcr, desired()), (Method::Dcr, with_secret())] {
            let (before, claim) = lost(method, habits);
            let (_, boundaries, _) = take_over(&mut before.clone(), &desired, &claim, NEVER);
            for kill in 0..=boundaries {
                let story = format!("{method:?} {habits:?}, ended at {kill}");
                let mut world = before.clone();
                let (_, _, is_met) = take_over(&mut world, &desired, &claim, kill);
                // A token that is good once is gone with the answer to its first use.
                let is_lost = method == Method::Dcr && rotates_tokens && world.server.asked(Purpose::Adopt) > 0;
                let is_over = is_met || (is_lost && world.ledger().is_none_or(|ledger| ledger.current.is_none()));
                if !is_over {
                    let (end, _, is_met) = take_over(&mut world, &desired, &claim, NEVER);
                    if rotates_tokens
                        && matches!(&end, End::Settled(_, Some(trouble)) if trouble.what == What::AdoptionRefused)
                    {
                        // Its next token went with the answer to an update: that is told, and nobody is registered instead.
                        assert_eq!((world.ledger().unwrap().losses(), world.ours().len()), (1, 1), "{story}");
                        continue;
                    }
                    assert!(matches!(end, End::Settled(_, None)) && is_met, "{story}: {end:?}");
                    let (id, proof) = world.published.clone().unwrap();
                    assert!(world.server.believes(&id, &proof), "{story}");
                    assert_eq!(id, claim.claimed.client_id, "{story}");
                }
            }
        }
    }
}

#[test]
fn a_client_that_was_taken_over_is_one_of_ours_and_keeps_its_id() {
    for method in [Method::Admin, Method::Dcr] {
        let (mut world, claim) = lost(method, Habits::default());
        let (end, _, is_met) = take_over(&mut world, &desired(), &claim, NEVER);
        assert!(matches!(end, End::Settled(_, None)) && is_met, "{method:?}: {end:?}");
        let (id, proof) = world.published.clone().unwrap();
        assert_eq!(id, claim.claimed.client_id, "{method:?}");
        assert!(world.server.believes(&id, &proof), "{method:?}");
        assert_eq!((world.server.asked(Purpose::Create), world.server.asked(Purpose::Update)), (0, 1), "{method:?}");
        assert!(world.news.contains(&News::Adopted { client_id: id.clone() }), "{method:?}: {:?}", world.news);
        let body = world.server.clients[&id].body.to_string();
        assert!(!body.contains(OLD) && body.contains("11112222-3333"), "{method:?}: {body}");
        // From now on nobody has to name it.
        world.now += 2000;
        assert!(matches!(world.run(&desired(), method, true, NEVER).0, End::Settled(_, None)));
        assert_eq!(world.run(&desired(), method, false, NEVER).0, End::Forgotten);
        assert!(world.ours().is_empty());
    }
}

#[test]
fn another_owners_mark_is_to_be_named() {
    for method in [Method::Admin, Method::Dcr] {
        for mark in [None, Some("none"), Some("portcullis:oldcluster:8888")] {
            let (mut world, claim) = lost(method, Habits::default());
            let mut other = claim.clone();
            other.claimed.mark = match mark {
                None => None,
                Some("none") => Some(crate::registration::claim::Mark::None),
                Some(mark) => Some(crate::registration::claim::Mark::Owner(mark.into())),
            };
            let before = world.server.clients.clone();
            let (end, ..) = take_over(&mut world, &desired(), &other, NEVER);
            let End::Settled(_, Some(trouble)) = end else { panic!("{end:?}") };
            assert_eq!(trouble.what, What::AdoptionRefused, "{method:?} {mark:?}");
            assert!(trouble.detail.contains(OLD), "{}", trouble.detail);
            assert_eq!(format!("{before:?}"), format!("{:?}", world.server.clients));
            assert!(world.published.is_none());
        }
    }
    // Nobody's client is somebody's application.
    let (mut world, mut claim) = lost(Method::Admin, Habits::default());
    world.server.clients.values_mut().for_each(|client| client.body["attributes"] = json!({}));
    let (end, ..) = take_over(&mut world, &desired(), &claim, NEVER);
    assert!(matches!(end, End::Settled(_, Some(trouble)) if trouble.detail.contains("none")));
    claim.claimed.mark = Some(crate::registration::claim::Mark::None);
    assert!(take_over(&mut world, &desired(), &claim, NEVER).2);
}

#[test]
fn what_is_not_surely_meant_is_not_even_asked_for() {
    let (_, admin) = lost(Method::Admin, Habits::default());
    let (_, dcr) = lost(Method::Dcr, Habits::default());
    let ledger = Ledger::new(&desired(), "McpClient", Method::Admin, "0123abcd-0000");
    let reason = |claim: &Claim, desired: &Desired, ledger: &Ledger, holder: Option<&str>| {
        claim.check(desired, ledger, holder.map(str::to_owned)).map_or_else(|error| error.reason(), |()| "none")
    };
    let elsewhere = Claim { issuer: "https://other.example".into(), ..admin.clone() };
    assert_eq!(reason(&elsewhere, &desired(), &ledger, None), "ClaimOtherIssuer");
    let Means::Protocol { token, .. } = &dcr.means else { panic!() };
    for uri in ["https://evil.example/reg/client-1", "http://as.example/reg/1", "https://as.example:8443/reg/1", "x"] {
        let means = Means::Protocol { uri: uri.into(), token: token.clone() };
        assert_eq!(reason(&Claim { means, ..dcr.clone() }, &desired(), &ledger, None), "ClaimElsewhere", "{uri}");
    }
    let only_dcr = Desired { methods: vec![Method::Dcr], ..desired() };
    assert_eq!(reason(&admin, &only_dcr, &ledger, None), "ClaimNotAllowed");
    assert_eq!(reason(&dcr, &only_dcr, &ledger, None), "none");
    assert_eq!(reason(&dcr, &desired(), &ledger, Some("team/other")), "ClaimHeld");
    let mut world = World::new(Habits::default());
    world.run(&desired(), Method::Dcr, true, NEVER);
    let held = world.ledger().unwrap();
    let other =
        Claim { claimed: crate::registration::claim::Claimed { client_id: "another".into(), mark: None }, ..dcr };
    assert_eq!(reason(&other, &desired(), &held, None), "ClaimHasClient");
    let mut begun = ledger.clone();
    begun.step = Step::Creating { since: 1 };
    let another = Claim { claimed: other.claimed.clone(), ..admin.clone() };
    assert_eq!(reason(&another, &desired(), &begun, None), "ClaimBegun");
    assert_eq!(reason(&admin, &desired(), &begun, None), "none", "it is the one that was begun");
}

#[test]
fn a_request_is_whole_or_none_and_shows_no_token() {
    let whole = [
        ("client_id", "a"),
        ("issuer", ISSUER),
        ("registration_client_uri", "https://as.example/reg/a"),
        ("registration_access_token", "canary-registration-token\n"),
    ];
    let parse = |members: &[(&'static str, &'static str)]| Claim::parse(&members.iter().copied().collect());
    let claim = parse(&whole).unwrap();
    assert!(!format!("{claim:?}").contains("canary"), "{claim:?}");
    assert!(matches!(&claim.means, Means::Protocol { token, .. } if token.expose() == "canary-registration-token"));
    for missing in ["client_id", "issuer", "registration_client_uri", "registration_access_token"] {
        let rest: Vec<_> = whole.into_iter().filter(|(name, _)| *name != missing).collect();
        let error = parse(&rest).unwrap_err();
        assert!(error.reason() == "ClaimMalformed" && error.to_string().contains(missing), "{error}");
    }
    for (name, text) in [("client_id", ""), ("client_id", "a b"), ("mark", "\u{202e}"), ("issuer", "a\r\nb")] {
        let mut members = whole.to_vec();
        members.push((name, text));
        assert_eq!(parse(&members).unwrap_err().reason(), "ClaimMalformed", "{name} {text:?}");
    }
}

#[test]
fn an_interface_that_is_closed_is_asked_once_and_told() {
    let (mut world, claim) = lost(Method::Admin, Habits::default());
    world.server.habits.page = Some(404);
    for look in 1..=3 {
        let End::Settled(_, Some(trouble)) = take_over(&mut world, &desired(), &claim, NEVER).0 else { panic!() };
        assert!(trouble.what == What::AdoptionRefused && trouble.detail.contains("404"), "{trouble:?}");
        assert_eq!((world.server.asked(Purpose::Adopt), world.ours().len()), (look, 1));
    }
}

#[test]
fn a_client_that_was_taken_over_is_looked_for_by_the_id_that_it_has() {
    for keeps in [true, false] {
        let (mut world, mut claim) = lost(Method::Admin, Habits::default());
        let (_, mut client) = world.server.clients.pop_first().unwrap();
        client.body["clientId"] = json!("dashboards");
        world.server.clients.insert("dashboards".into(), client);
        claim.claimed.client_id = "dashboards".into();
        assert!(take_over(&mut world, &desired(), &claim, NEVER).2);
        // Its realm is imported anew: it is there by another name of the server's own.
        world.server.clients.get_mut("dashboards").unwrap().token = "uid-9".into();
        (world.now, world.news) = (world.now + CHECK_SECONDS + 1, Vec::new());
        let (end, _) = world.run(&desired(), Method::Admin, true, NEVER);
        assert!(matches!(end, End::Settled(_, None)), "{end:?}");
        assert_eq!((world.ours(), world.server.asked(Purpose::Create)), (vec![&"dashboards".to_owned()], 0));
        assert!(!world.news.iter().any(|news| matches!(news, News::Vanished { .. })), "{:?}", world.news);
        if !keeps {
            world.server.clients.get_mut("dashboards").unwrap().token = "uid-10".into();
            assert_eq!(world.run(&desired(), Method::Admin, false, NEVER).0, End::Forgotten);
            assert!(world.ours().is_empty());
        }
    }
}

#[test]
fn a_client_of_before_that_is_taken_over_is_not_deleted_as_one_of_before() {
    let (before, claim) = lost(Method::Dcr, Habits::default());
    let mut world = before.clone();
    let mut ledger = Ledger::new(&desired(), "McpClient", Method::Dcr, CLUSTER);
    let client = Registration::without_answer(
        &claim.claimed.client_id,
        claim.handle().unwrap(),
        AuthMethod::PrivateKeyJwt,
        world.now,
    );
    ledger.retire(Retired { registration: client, until: world.now + 60 });
    world.stored = Some(ledger.encode().unwrap());
    assert!(take_over(&mut world, &desired(), &claim, NEVER).2);
    world.now += 3600;
    assert!(matches!(world.run(&desired(), Method::Dcr, true, NEVER).0, End::Settled(_, None)));
    assert_eq!(world.ours(), [&claim.claimed.client_id]);
}
