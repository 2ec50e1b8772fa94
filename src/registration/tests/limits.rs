//! Servers that would have a client made, or a secret renewed, for ever: each of them is left alone after a while, and told of.

use super::lives::settles;
use super::model::{End, Habits, START, World, desired, is_told_lost, with_secret};
use crate::oauth::client_registration::AuthMethod;
use crate::registration::call::Purpose;
use crate::registration::ledger::{Handle, Registration, Retired, Substitution};
use crate::registration::next::renewal;
use crate::registration::{Desired, Ledger, Method, Seen, Trouble};
use crate::sensitive::Sensitive;

const NEVER: usize = usize::MAX;
const DAY: i64 = 86_400;

fn looks(world: &mut World, seen: &mut Seen, desired: &Desired) -> Option<Trouble> {
    seen.try_again();
    match world.go_on(seen, desired, true, NEVER, &mut |_, _| None).0 {
        End::Settled(_, trouble) => trouble,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secret_that_is_due_when_it_comes_is_told_and_no_storm_follows() {
    for secret_lifetime in [-100, 0, 1, 30, 599] {
        for rotates_secrets in [false, true] {
            let habits = Habits { secret_lifetime: Some(secret_lifetime), rotates_secrets, ..Habits::default() };
            let mut world = World::new(habits);
            let wish = Desired { rotation: None, ..with_secret() };
            let mut seen = world.loaded(&wish, Method::Dcr);
            for look in 0..144 {
                let trouble = looks(&mut world, &mut seen, &wish).expect("a trouble");
                assert_eq!(trouble.what.reason(), "SecretTooShortLived", "{habits:?}");
                assert!(trouble.what.is_lasting());
                let tries = world.server.asked(Purpose::Create) + world.server.asked(Purpose::Update);
                assert!(tries <= 1 + 2 * look / 3, "{habits:?}: {tries} after {look}");
                assert!(world.ours().len() <= 2 && seen.ledger.losses() == 0, "{habits:?}: {:?}", world.ours());
                world.now += 600;
            }
            // A server that mends it is believed, and so is an author who wants no secret any more.
            let mut mended = (world.clone(), seen.clone());
            mended.0.server.habits.secret_lifetime = Some(DAY);
            mended.0.now += 1800;
            assert_eq!(looks(&mut mended.0, &mut mended.1, &wish), None, "{habits:?}");
            assert_eq!(looks(&mut world, &mut seen, &desired()), None, "{habits:?}");
        }
    }
}

#[test]
fn a_secret_is_renewed_before_it_ends_and_not_at_once() {
    let world = {
        let mut world = World::new(Habits::default());
        settles(&mut world, &with_secret(), Method::Dcr);
        world
    };
    let mut current = world.ledger().unwrap().current.unwrap();
    for life in [-DAY, 0, 1, 599, 600, 601, 3600, DAY, 365 * DAY, i64::MAX - START] {
        current.secret_expires_at = Some(START + life);
        for period in [None, Some(3600), Some(30 * DAY)] {
            let due = renewal(&current, period) - START;
            assert!(due >= 400, "{life} {period:?}: {due}");
            assert!(life < 600 || due <= life, "{life} {period:?}: {due}");
            assert!(life < 600 || period.is_none_or(|period| due <= period), "{life} {period:?}: {due}");
        }
    }
    current.secret_expires_at = None;
    assert_eq!((renewal(&current, None), renewal(&current, Some(3600))), (i64::MAX, START + 3600));
}

/// By a server that has no way to give a client another secret, and deletes none.
#[test]
fn clients_of_before_that_are_not_deleted_are_few_in_nobodys_way_and_told() {
    for status in [405, 501, 400, 403, 500, 503, 429] {
        let habits = Habits { secret_lifetime: Some(90_000), keeps: Some(status), ..Habits::default() };
        let mut world = World::new(habits);
        let wish = Desired { rotation: None, ..with_secret() };
        let mut seen = world.loaded(&wish, Method::Dcr);
        for _ in 0..60 {
            assert_eq!(looks(&mut world, &mut seen, &wish), None, "{status}");
            let (id, proof) = world.published.clone().unwrap();
            assert!(world.server.believes(&id, &proof), "{status}");
            let ledger = &seen.ledger;
            assert!(ledger.retired.len() <= 4, "{status}: {}", ledger.retired.len());
            for other in world.ours().into_iter().filter(|other| **other != id) {
                let is_known = ledger.retired.iter().any(|retired| retired.registration.client_id == *other);
                assert!(is_known || is_told_lost(&world, other), "{status}: {other}");
            }
            if ledger.losses() >= 15 {
                break;
            }
            world.now += 30_000;
        }
        assert!(world.server.asked(Purpose::Create) > 5, "{status}");
        // Once it deletes them, those that were not given up go.
        world.server.habits.keeps = None;
        let kept = seen.ledger.retired.len();
        assert_eq!(kept > 0, !matches!(status, 405 | 501), "{status}");
        let before = world.ours().len();
        world.now += 3601;
        looks(&mut world, &mut seen, &wish);
        assert_eq!(world.ours().len(), before - kept, "{status}");
    }
}

#[test]
fn a_client_of_before_that_cannot_be_deleted_keeps_none_from_going_with_its_owner() {
    for (status, goes) in [(405, true), (500, false), (403, false)] {
        let mut world = World::new(Habits { secret_lifetime: Some(90_000), ..Habits::default() });
        let wish = Desired { rotation: None, ..with_secret() };
        settles(&mut world, &wish, Method::Dcr);
        world.now += 60_001;
        settles(&mut world, &wish, Method::Dcr);
        let old = world.ledger().unwrap().retired[0].registration.client_id.clone();
        let current = world.published.clone().unwrap().0;
        let mut seen = world.loaded(&wish, Method::Dcr);
        let keeps = |world: &mut World, seen: &mut Seen| {
            seen.try_again();
            // Of the current one it is not said.
            let mut fault = |_: usize, call: &crate::registration::call::Call| {
                use super::model::Fault;
                (call.purpose == Purpose::DeleteRetired).then_some(match status {
                    405 => Fault::Refuses,
                    403 => Fault::Forbids,
                    _ => Fault::Fails,
                })
            };
            world.go_on(seen, &wish, false, NEVER, &mut fault).0
        };
        let end = keeps(&mut world, &mut seen);
        assert!(!world.ours().contains(&&current), "{status}: {end:?}");
        assert!(world.ours().contains(&&old), "{status}");
        assert_eq!(end == End::Forgotten, goes, "{status}: {end:?}");
        if goes {
            assert!(is_told_lost(&world, &old), "{status}");
        } else {
            assert!(matches!(end, End::Settled(_, Some(_))), "{status}: {end:?}");
            assert_eq!(world.run(&wish, Method::Dcr, false, NEVER).0, End::Forgotten);
            assert!(world.ours().is_empty(), "{status}");
        }
    }
}

/// Each answer makes a client that nobody can manage: it is named, and there are not many of them.
#[test]
fn clients_that_are_answered_so_that_nobody_can_use_them_are_named_and_bounded() {
    let mut world = World::new(Habits { elsewhere: true, ..Habits::default() });
    let mut seen = world.loaded(&desired(), Method::Dcr);
    let mut last = None;
    for _ in 0..40 {
        let trouble = looks(&mut world, &mut seen, &desired()).expect("a trouble");
        assert!(trouble.what.is_lasting(), "{trouble:?}");
        let named = seen.ledger.lost.iter().filter(|lost| lost.client_id.is_some()).count();
        assert_eq!((named, seen.ledger.losses()), (world.ours().len(), world.ours().len() as u64));
        assert!(world.ours().iter().all(|id| is_told_lost(&world, id)));
        last = Some(trouble.what.reason());
        world.now += 600;
    }
    assert_eq!((last, world.ours().len()), (Some("TooManyOrphans"), 16));
    // The server is mended, and somebody has cleaned up.
    world.server.habits.elsewhere = false;
    assert!(looks(&mut world, &mut seen, &desired()).is_some());
    seen.forget_losses("cleaned up", None);
    assert_eq!(looks(&mut world, &mut seen, &desired()), None);
    assert_eq!(world.ours().len(), 17);
}

#[test]
fn a_method_that_is_not_allowed_any_more_changes_nothing_and_is_told() {
    for (method, others) in [(Method::Dcr, vec![Method::Admin]), (Method::Admin, vec![Method::Dcr])] {
        let mut world = World::new(Habits::default());
        settles(&mut world, &desired(), method);
        world.server.asked.clear();
        let before = (world.published.clone(), world.server.clients.len());
        let mut seen = world.loaded(&desired(), method);
        let mut forbidden = Desired { methods: others, ..desired() };
        forbidden.metadata.client_name = "Changed".into();
        for _ in 0..5 {
            let trouble = looks(&mut world, &mut seen, &forbidden).expect("a trouble");
            assert_eq!(trouble.what.reason(), "MethodNotAllowed");
            assert!(trouble.what.is_lasting() && trouble.detail.contains(method.as_str()), "{trouble:?}");
            world.now += 3600;
        }
        assert_eq!((world.server.asked.values().sum::<usize>(), &world.published), (0, &before.0));
        assert_eq!(world.server.clients.len(), before.1);
        // Allowed again, it goes on; and it can be taken back in any case.
        assert_eq!(looks(&mut world.clone(), &mut seen.clone(), &desired()), None);
        assert_eq!(world.run(&forbidden, method, false, NEVER).0, End::Forgotten);
        assert!(world.ours().is_empty());
    }
}

/// The largest ledger that answers can make is read again, and a larger one is not written.
#[test]
fn a_ledger_writes_nothing_that_it_would_not_read() {
    // Each of these is twice as long in JSON.
    let long = |bytes: usize| "\"".repeat(bytes);
    let substitution =
        Substitution {
            field: "redirect_uris".into(), wanted: "ü\u{1f600}".repeat(100), got: long(200), weakens: true
        };
    let largest = |number: i64| Registration {
        client_id: long(2048),
        client_secret: Some(Sensitive::new(long(4096))),
        secret_expires_at: Some(i64::MAX),
        secret_since: number,
        registered_at: START,
        updated_at: START,
        handle: Handle::Protocol { uri: long(2048), token: Sensitive::new(long(8000)) },
        auth_method: AuthMethod::ClientSecretBasic,
        is_disabled: true,
        digest: "0".repeat(64),
        kids: vec!["k".repeat(64); 2],
        substituted: vec![substitution.clone(); 12],
    };
    let mut ledger = Ledger::new(&with_secret(), "McpClient", Method::Dcr, "cluster");
    (ledger.current, ledger.had_client) = (Some(largest(0)), true);
    for number in 1..100 {
        if let Some(crowded_out) = ledger.retire(Retired { registration: largest(number), until: number }) {
            ledger.lose(Some(crowded_out.client_id), START, crate::registration::ledger::WhyLost::Unmanageable);
        }
    }
    assert_eq!((ledger.retired.len(), ledger.losses()), (4, 95));
    let text = ledger.encode().unwrap();
    assert!(text.len() > 256 * 1024, "{}", text.len());
    assert_eq!(Ledger::decode(&text), Ok(ledger.clone()));
    ledger.current.as_mut().unwrap().digest = "0".repeat(400_000);
    assert_eq!(ledger.encode().unwrap_err().reason(), "LedgerTooLarge");
}
