//! What goes wrong at the server, one fault and two in a row, and what somebody does there behind our back.

use serde_json::json;

use super::model::{End, Fault, Habits, World, desired, is_told_lost, place, with_secret};
use crate::registration::call::Purpose;
use crate::registration::ledger::{Handle, Step, WhyLost};
use crate::registration::{Action, CHECK_SECONDS, Desired, Ledger, Method, News, Seen, What, Wish, next};

const NEVER: usize = usize::MAX;
const FAULTS: [Fault; 8] = [
    Fault::Unsent,
    Fault::Lost,
    Fault::Busy,
    Fault::Fails,
    Fault::Garbled,
    Fault::Behind,
    Fault::Forbids,
    Fault::Knows404,
];

fn settled(habits: Habits, desired: &Desired, method: Method) -> World {
    let mut world = World::new(habits);
    assert!(matches!(world.run(desired, method, true, NEVER).0, End::Settled(_, None)));
    world
}

/// Goes on as one process does, which tries again, until nothing is in the way.
fn heals(world: &mut World, desired: &Desired, method: Method, faults: &[(usize, Fault)]) -> Seen {
    let mut seen = world.loaded(desired, method);
    let mut sent = 0;
    for _ in 0..20 {
        let begun = sent;
        let mut happens = |number: usize, _: &_| {
            sent = begun + number + 1;
            faults.iter().find(|(at, _)| *at == begun + number).map(|(_, fault)| *fault)
        };
        match world.go_on(&mut seen, desired, true, NEVER, &mut happens).0 {
            End::Settled(_, None) => return seen,
            End::Settled(..) => {}
            other => panic!("{other:?}"),
        }
        world.now += 60;
        seen.try_again();
    }
    panic!("it does not heal: {seen:?}");
}

#[test]
fn whatever_goes_wrong_twice_the_client_is_one_or_told_lost() {
    for (method, habits) in [
        (Method::Dcr, Habits { rotates_tokens: true, ..Habits::default() }),
        (Method::Dcr, Habits::default()),
        (Method::Admin, Habits::default()),
    ] {
        let mut changed = desired();
        changed.metadata.client_name = "Changed".into();
        for first in FAULTS {
            for second in FAULTS {
                for (at, after) in (0..4).flat_map(|at| (at + 1..5).map(move |after| (at, after))) {
                    let story = format!("{method:?} {habits:?} {first:?} at {at}, {second:?} at {after}");
                    let faults = [(at, first), (after, second)];
                    let mut world = World::new(habits);
                    heals(&mut world, &desired(), method, &faults);
                    let known = heals(&mut world, &changed, method, &faults).ledger.current.unwrap().client_id;
                    for other in world.ours().into_iter().filter(|id| **id != known) {
                        assert!(is_told_lost(&world, other), "{story}: {other} is left");
                    }
                    assert!(method == Method::Dcr || world.ours().len() == 1, "{story}");
                    let (id, proof) = world.published.clone().unwrap();
                    assert!(id == known && world.server.believes(&id, &proof), "{story}");
                }
            }
        }
    }
}

#[test]
fn what_was_surely_not_done_is_not_told_lost() {
    for fault in [Fault::Unsent, Fault::Busy] {
        let mut world = World::new(Habits::default());
        let seen = heals(&mut world, &desired(), Method::Dcr, &[(0, fault), (1, fault), (2, fault)]);
        assert_eq!(seen.ledger.losses(), 0, "{fault:?}");
        assert_eq!(world.ours().len(), 1);
    }
}

#[test]
fn a_client_that_was_deleted_behind_our_back_is_made_again() {
    for method in [Method::Dcr, Method::Admin] {
        let mut world = settled(Habits { rotates_tokens: true, ..Habits::default() }, &desired(), method);
        world.server.clients.clear();
        let mut seen = world.loaded(&desired(), method);
        world.now += CHECK_SECONDS;
        world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
        // Only a search proves it: a client that is not believed may be there for all that.
        let is_proven = world.news.iter().any(|news| matches!(news, News::Vanished { .. }));
        assert_eq!(is_proven, method == Method::Admin, "{method:?}: {:?}", world.news);
        assert_eq!((world.ours().len(), seen.ledger.losses()), (1, u64::from(!is_proven)), "{method:?}");
        let (id, proof) = world.published.clone().unwrap();
        assert!(world.server.believes(&id, &proof), "{method:?}");
    }
}

#[test]
fn a_registration_token_that_died_costs_the_client_and_that_is_told() {
    let mut world = settled(Habits::default(), &desired(), Method::Dcr);
    let old = world.published.clone().unwrap().0;
    world.server.clients.get_mut(&old).unwrap().token = "another".into();
    let mut seen = world.loaded(&desired(), Method::Dcr);
    world.now += CHECK_SECONDS;
    world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
    let lost = &seen.ledger.lost[0];
    assert_eq!((lost.client_id.as_deref(), lost.why), (Some(old.as_str()), WhyLost::Unmanageable));
    let (id, proof) = world.published.clone().unwrap();
    assert!(id != old && world.server.believes(&id, &proof));
    assert_eq!(world.server.asked(Purpose::Probe), 1);
}

#[test]
fn what_somebody_changed_at_the_server_is_reverted_once() {
    for (method, field, value) in [
        (Method::Dcr, "redirect_uris", json!(["https://evil.example/cb"])),
        (Method::Admin, "redirectUris", json!(["https://evil.example/cb"])),
        (Method::Admin, "directAccessGrantsEnabled", json!(true)),
        (Method::Admin, "publicClient", json!(true)),
    ] {
        let mut world = settled(Habits::default(), &desired(), method);
        let id = world.published.clone().unwrap().0;
        world.server.clients.get_mut(&id).unwrap().body[field] = value.clone();
        let mut seen = world.loaded(&desired(), method);
        world.now += CHECK_SECONDS;
        world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
        assert!(world.news.iter().any(|news| matches!(news, News::Drifted { .. })), "{method:?} {field}");
        assert_ne!(world.server.clients[&id].body[field], value, "{method:?} {field}");
        assert_eq!(world.server.asked(Purpose::Update), 1, "{method:?} {field}");
        assert_eq!(world.published.as_ref().map(|(id, _)| id), Some(&id));
    }
}

#[test]
fn a_client_that_is_to_authenticate_in_another_way_gets_what_that_takes() {
    for rotates_tokens in [false, true] {
        for method in [Method::Dcr, Method::Admin] {
            for (first, second) in [(desired(), with_secret()), (with_secret(), desired())] {
                let mut world = settled(Habits { rotates_tokens, ..Habits::default() }, &first, method);
                let (id, old) = world.published.clone().unwrap();
                assert!(matches!(world.run(&second, method, true, NEVER).0, End::Settled(_, None)));
                let (same, new) = world.published.clone().unwrap();
                assert_eq!(same, id, "{method:?}");
                assert_ne!(std::mem::discriminant(&old), std::mem::discriminant(&new), "{method:?}: {new:?}");
                assert!(world.server.believes(&id, &new), "{method:?}: {new:?}");
                assert_eq!(world.ours().len(), 1);
            }
        }
    }
}

/// A server that takes a client with a secret, and gives it none, is not asked for another one again and again.
#[test]
fn a_client_without_the_secret_that_it_was_to_have_is_not_given_to_anybody() {
    let mut world = World::new(Habits { withholds_secrets: true, ..Habits::default() });
    let (end, _) = world.run(&with_secret(), Method::Dcr, true, NEVER);
    let End::Settled(_, Some(trouble)) = end else { panic!("{end:?}") };
    assert!(trouble.what == What::Weakened && trouble.detail.contains("client_secret"), "{trouble:?}");
    assert_eq!((world.server.asked(Purpose::Create), world.published.clone()), (1, None));
    for _ in 0..5 {
        world.now += CHECK_SECONDS + 1;
        let (end, _) = world.run(&with_secret(), Method::Dcr, true, NEVER);
        assert!(matches!(end, End::Settled(_, Some(trouble)) if trouble.what == What::Weakened));
        assert_eq!((world.server.asked(Purpose::Create), world.ours().len()), (1, 1), "reading it back gives it none");
    }
    for name in ["One", "Two"] {
        let mut edited = with_secret();
        edited.metadata.client_name = name.into();
        let (end, _) = world.run(&edited, Method::Dcr, true, NEVER);
        assert!(matches!(end, End::Settled(_, Some(trouble)) if trouble.what == What::Weakened));
        assert_eq!((world.server.asked(Purpose::Create), world.ours().len()), (1, 1), "nor does an edit");
    }
}

/// What is in the way of a new client is in nobody's way who has the old one.
#[test]
fn what_its_owner_uses_stays_until_there_is_something_else_to_use() {
    let mut world = settled(Habits::default(), &with_secret(), Method::Dcr);
    let used = world.published.clone();
    world.server.habits.withholds_secrets = true;
    world.now += 31 * 86_400;
    for _ in 0..5 {
        let (end, _) = world.run(&with_secret(), Method::Dcr, true, NEVER);
        assert!(matches!(end, End::Settled(_, Some(trouble)) if trouble.what == What::Weakened));
        assert_eq!(world.published, used);
        assert!(world.server.believes(&used.as_ref().unwrap().0, &used.as_ref().unwrap().1));
        world.now += 3600;
    }
}

/// The API server does not take the ledger that says that a client is about to be made: none is.
#[test]
fn a_registration_that_was_not_begun_leaves_nothing() {
    let mut world = World::new(Habits::default());
    let mut seen = world.loaded(&desired(), Method::Dcr);
    let boundaries = (0..)
        .find(|&kill| {
            let mut seen = world.clone().loaded(&desired(), Method::Dcr);
            world.clone().go_on(&mut seen, &desired(), true, kill, &mut |_, _| None);
            matches!(seen.ledger.step, Step::Creating { .. })
        })
        .unwrap();
    world.go_on(&mut seen, &desired(), true, boundaries, &mut |_, _| None);
    seen.try_again();
    let (end, _) = world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
    assert!(matches!(end, End::Settled(_, None)), "{end:?}");
    assert_eq!((world.ours().len(), world.server.asked(Purpose::Create)), (1, 1));
    assert!(!world.news.iter().any(|news| matches!(news, News::Lost { .. })), "{:?}", world.news);
}

/// Nobody knows whether another one could be made.
#[test]
fn a_client_that_nobody_can_manage_stays_while_the_servers_metadata_is_away() {
    let mut world = settled(Habits::default(), &desired(), Method::Dcr);
    let mut ledger = world.ledger().unwrap();
    ledger.current.as_mut().unwrap().handle = Handle::Unmanaged;
    world.stored = Some(ledger.encode().unwrap());
    let mut changed = desired();
    changed.metadata.client_name = "Changed".into();
    world.is_away = true;
    let End::Settled(_, Some(trouble)) = world.run(&changed, Method::Dcr, true, NEVER).0 else { panic!() };
    assert_eq!((trouble.what, world.ledger().unwrap().current), (What::Unreachable, ledger.current));
    world.is_away = false;
    let (end, _) = world.run(&changed, Method::Dcr, true, NEVER);
    assert!(matches!(end, End::Settled(_, None)), "{end:?}");
    assert_eq!(world.ledger().unwrap().losses(), 1, "and then it is told that the other may be left");
}

/// A server may answer something else than what was asked for (RFC 7591 section 3.2.1).
#[test]
fn a_substitution_is_taken_as_it_is_unless_it_weakens() {
    for (name, got, weakens) in [("client_name", "Other", false), ("token_endpoint_auth_method", "none", true)] {
        let mut world = settled(Habits::default(), &desired(), Method::Dcr);
        let mut ledger = world.ledger().unwrap();
        let substituted = crate::registration::ledger::Substitution {
            field: name.into(),
            wanted: "x".into(),
            got: got.into(),
            weakens,
        };
        ledger.current.as_mut().unwrap().substituted = vec![substituted];
        world.published = None;
        let mut seen = Seen::stored(ledger, world.now);
        let (end, _) = world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
        let End::Settled(_, trouble) = end else { panic!("{end:?}") };
        assert_eq!(trouble.map(|trouble| trouble.what), weakens.then_some(What::Weakened), "{name}");
        assert_eq!(world.published.is_none(), weakens, "{name}");
        // Once the server has it as it was asked for, that is seen.
        (world.now, seen.trouble) = (world.now + CHECK_SECONDS, None);
        let (end, _) = world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
        assert!(matches!(end, End::Settled(_, None)), "{name}: {end:?}");
        assert!(world.published.is_some() && seen.ledger.current.unwrap().substituted.is_empty(), "{name}");
    }
}

/// Keycloak makes a web client of a public native one: that is no reason to ask again for what it was asked for.
#[test]
fn a_substitution_that_is_known_is_no_unfinished_update() {
    let mut world = settled(Habits::default(), &desired(), Method::Dcr);
    let mut ledger = world.ledger().unwrap();
    let current = ledger.current.as_mut().unwrap();
    world.server.clients.get_mut(&current.client_id).unwrap().body["client_name"] = "Other".into();
    let substituted = crate::registration::ledger::Substitution {
        field: "client_name".into(),
        wanted: "Reports".into(),
        got: "Other".into(),
        weakens: false,
    };
    current.substituted = vec![substituted.clone()];
    ledger.step = Step::Updating { digest: current.digest.clone(), renews: false };
    let mut seen = Seen::stored(ledger.clone(), world.now);
    let (end, _) = world.go_on(&mut seen, &desired(), true, NEVER, &mut |_, _| None);
    assert!(matches!(end, End::Settled(_, None)), "{end:?}");
    assert_eq!((world.server.asked(Purpose::Read), world.server.asked(Purpose::Update)), (1, 0));
    assert_eq!(seen.ledger.current.unwrap().substituted, [substituted]);
    // Of another wish it may be one.
    let mut other = desired();
    other.metadata.scopes = vec!["mcp:use".into()];
    let digest = crate::registration::wanted::Wanted::new(&other, &ledger).digest();
    ledger.step = Step::Updating { digest, renews: false };
    let mut seen = Seen::stored(ledger, world.now);
    world.go_on(&mut seen, &other, true, NEVER, &mut |_, _| None);
    assert_eq!(world.server.asked(Purpose::Update), 1);
}

#[test]
fn an_administrators_mappers_stay_when_ours_change() {
    let mut world = settled(Habits::default(), &desired(), Method::Admin);
    let id = world.published.clone().unwrap().0;
    let theirs = json!({"id": "m", "name": "groups", "protocolMapper": "oidc-group-membership-mapper"});
    let mappers = &mut world.server.clients.get_mut(&id).unwrap().body["protocolMappers"];
    mappers.as_array_mut().unwrap().push(theirs.clone());
    let mut other = desired();
    other.resources.push("https://mcp.example/team/other".into());
    assert!(matches!(world.run(&other, Method::Admin, true, NEVER).0, End::Settled(_, None)));
    let mappers = world.server.clients[&id].body["protocolMappers"].as_array().unwrap().clone();
    assert!(mappers.contains(&theirs) && mappers.len() == 3, "{mappers:?}");
}

#[test]
fn a_client_of_our_id_that_is_not_ours_is_left_alone() {
    let mut world = settled(Habits::default(), &desired(), Method::Admin);
    let id = world.published.clone().unwrap().0;
    world.server.clients.get_mut(&id).unwrap().body["attributes"]["portcullis.owner"] = json!("somebody");
    let before = world.server.clients[&id].body.clone();
    let (mut fresh, server) = (World::new(Habits::default()), world.server.clone());
    fresh.server = server;
    let (end, _) = fresh.run(&desired(), Method::Admin, true, NEVER);
    let End::Settled(_, Some(trouble)) = end else { panic!("{end:?}") };
    assert_eq!(trouble.what, What::Foreign);
    assert!(fresh.published.is_none());
    // Not even when its supposed owner goes.
    world.run(&desired(), Method::Admin, false, NEVER);
    assert_eq!(world.server.clients[&id].body, before);
}

#[test]
fn an_owner_that_has_waited_long_enough_goes_and_leaves_a_tombstone() {
    let mut world = settled(Habits::default(), &desired(), Method::Dcr);
    let mut seen = world.loaded(&desired(), Method::Dcr);
    let deadline = world.now + i64::from(desired().deletion.timeout_seconds);
    let wish = Wish::Remove { waits_since: Some(world.now), stays: false };
    let turn = |seen: &mut Seen, world: &mut World| {
        seen.try_again();
        loop {
            match next(seen, &wish, &place(), world.now) {
                Action::Persist => {
                    world.stored = Some(seen.ledger.encode().unwrap());
                    seen.persisted();
                }
                Action::Send(call) => {
                    let heard = crate::registration::call::Heard::Unsent("no connection".into());
                    crate::registration::absorb(seen, call.purpose, heard, &wish, world.now);
                }
                action => return action,
            }
        }
    };
    assert!(matches!(turn(&mut seen, &mut world), Action::Settled { again } if again <= deadline));
    assert_eq!(seen.ledger.released, None);
    world.now = deadline;
    assert!(matches!(turn(&mut seen, &mut world), Action::Settled { .. }));
    assert_eq!(world.ledger().unwrap().released, Some(deadline));
    // When the server is back, the tombstone does what was left to do.
    assert_eq!(world.run(&desired(), Method::Dcr, false, NEVER).0, End::Forgotten);
    assert!(world.ours().is_empty());
}

#[test]
fn a_ledger_reads_what_it_wrote_and_refuses_what_is_later_or_something_else() {
    let world = settled(Habits::default(), &with_secret(), Method::Dcr);
    let ledger = world.ledger().unwrap();
    assert_eq!(Ledger::decode(&ledger.encode().unwrap()), Ok(ledger.clone()));
    assert_eq!(ledger.step, Step::Idle);
    let text = String::from_utf8(ledger.encode().unwrap()).unwrap();
    let later = text.replacen("\"version\":1", "\"version\":2", 1);
    assert_eq!(Ledger::decode(later.as_bytes()).unwrap_err().reason(), "LedgerOfLaterVersion");
    assert_eq!(Ledger::decode(b"{}").unwrap_err().reason(), "LedgerMalformed");
    assert_eq!(Ledger::decode(&vec![b' '; 600_000]).unwrap_err().reason(), "LedgerTooLarge");
    let shown = format!("{ledger:?}");
    assert!(!shown.contains("secret-") && !shown.contains("token-"), "{shown}");
}
