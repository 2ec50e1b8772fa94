//! Whole lives, ended at every boundary: before and after each deed, once and twice.

use super::model::{End, Habits, Proof, World, desired, is_told_lost, with_secret};
use crate::registration::call::Purpose;
use crate::registration::{Desired, Method};

const NEVER: usize = usize::MAX;

/// The servers: what each of those that were looked at does (identity-audit 2.3), and one that does all of it.
fn servers() -> Vec<(Method, Habits)> {
    let dcr = |rotates_tokens, rotates_secrets| {
        (Method::Dcr, Habits { rotates_tokens, rotates_secrets, ..Habits::default() })
    };
    vec![dcr(false, false), dcr(true, false), dcr(true, true), (Method::Admin, Habits::default())]
}

pub(super) fn settles(world: &mut World, desired: &Desired, method: Method) {
    for _ in 0..20 {
        match world.run(desired, method, true, NEVER).0 {
            End::Settled(_, None) => return,
            End::Settled(..) => world.now += 3600,
            other => panic!("{other:?}"),
        }
    }
    panic!("it does not settle: {:?}", world.ledger());
}

/// There is exactly one client, its credentials are believed, and whatever else bears our mark was told to be lost.
fn assert_sound(world: &World, story: &str) {
    let ledger = world.ledger().unwrap();
    let current = ledger.current.as_ref().unwrap_or_else(|| panic!("{story}: no client"));
    let (published, proof) = world.published.clone().unwrap_or_else(|| panic!("{story}: nothing is published"));
    assert_eq!(published, current.client_id, "{story}");
    assert!(world.server.believes(&published, &proof), "{story}: {published} by {proof:?} is not believed");
    for other in world.ours().into_iter().filter(|id| **id != published) {
        let retired = ledger.retired.iter().any(|retired| retired.registration.client_id == *other);
        assert!(retired || is_told_lost(world, other), "{story}: {other} is left and nobody was told: {ledger:?}");
    }
}

/// Runs a deed to its end, once for each boundary and each pair of boundaries at which the controller is ended.
pub(super) fn ended_everywhere(
    before: &World,
    desired: &Desired,
    method: Method,
    story: &str,
    check: &dyn Fn(&mut World, &str),
) {
    let mut whole = before.clone();
    let (_, boundaries) = whole.run(desired, method, true, NEVER);
    check(&mut whole, story);
    for first in 0..=boundaries {
        let mut once = before.clone();
        once.run(desired, method, true, first);
        let mut again = once.clone();
        let (_, left) = again.run(desired, method, true, NEVER);
        check(&mut again, &format!("{story}, ended at {first}"));
        for second in 0..=left {
            let mut twice = once.clone();
            twice.run(desired, method, true, second);
            check(&mut twice, &format!("{story}, ended at {first} and then at {second}"));
        }
    }
}

#[test]
fn a_client_that_is_made_is_one_wherever_the_controller_dies() {
    for desired in [desired(), with_secret()] {
        for (method, habits) in servers() {
            let story = format!("{method:?} {habits:?}");
            let before = World::new(habits);
            ended_everywhere(&before, &desired, method, &story, &|world, story| {
                settles(world, &desired, method);
                assert_sound(world, story);
                if method == Method::Admin {
                    assert_eq!(world.ours().len(), 1, "{story}");
                }
            });
        }
    }
}

#[test]
fn a_change_arrives_wherever_the_controller_dies() {
    for (method, habits) in servers() {
        let mut world = World::new(habits);
        settles(&mut world, &desired(), method);
        let mut other = desired();
        other.metadata.client_name = "Weekly reports".into();
        let story = format!("{method:?} {habits:?}");
        ended_everywhere(&world, &other, method, &story, &|world, story| {
            settles(world, &other, method);
            assert_sound(world, story);
            let current = world.ledger().unwrap().current.unwrap();
            let body = world.server.clients[&current.client_id].body.to_string();
            assert!(body.contains("Weekly reports"), "{story}: {body}");
        });
    }
}

#[test]
fn keys_are_replaced_with_an_overlap_wherever_the_controller_dies() {
    for (method, habits) in servers() {
        let mut world = World::new(habits);
        settles(&mut world, &desired(), method);
        let old = world.published.clone().unwrap().1;
        world.now += 31 * 86_400;
        let story = format!("{method:?} {habits:?}");
        ended_everywhere(&world, &desired(), method, &story, &|world, story| {
            settles(world, &desired(), method);
            assert_sound(world, story);
            let (id, new) = world.published.clone().unwrap();
            assert_ne!(old, new, "{story}");
            // Unless the client had to be replaced, whoever has the old key is believed for a while.
            if world.ledger().unwrap().lost.is_empty() {
                assert!(world.server.believes(&id, &old), "{story}");
            }
            world.now += 601;
            settles(world, &desired(), method);
            assert_sound(world, story);
            assert!(!world.server.believes(&id, &old), "{story}");
        });
    }
}

#[test]
fn a_secret_that_expires_is_replaced_before_it_does_wherever_the_controller_dies() {
    for rotates_secrets in [false, true] {
        let habits =
            Habits { rotates_tokens: true, rotates_secrets, secret_lifetime: Some(90_000), ..Habits::default() };
        let mut world = World::new(habits);
        let desired = Desired { rotation: None, ..with_secret() };
        settles(&mut world, &desired, Method::Dcr);
        let old = world.published.clone().unwrap();
        world.now += 60_001;
        ended_everywhere(&world, &desired, Method::Dcr, &format!("{habits:?}"), &|world, story| {
            settles(world, &desired, Method::Dcr);
            assert_sound(world, story);
            assert_ne!(world.published.as_ref(), Some(&old), "{story}");
            // Where a server replaces a secret in place, and where a client was lost, the one before is gone; elsewhere whoever has
            // it is believed for a while.
            let overlaps = !rotates_secrets && world.ledger().unwrap().lost.is_empty();
            assert!(!overlaps || world.server.believes(&old.0, &old.1), "{story}");
            // What was replaced goes when its time is over.
            world.now += 3601;
            settles(world, &desired, Method::Dcr);
            assert_sound(world, story);
            assert!(!overlaps || !world.server.believes(&old.0, &old.1), "{story}");
            assert!(world.ledger().unwrap().retired.is_empty(), "{story}");
        });
    }
}

#[test]
fn nothing_is_left_of_a_client_that_is_deleted_wherever_the_controller_dies() {
    for (method, habits) in servers() {
        let mut before = World::new(habits);
        settles(&mut before, &desired(), method);
        let (_, boundaries) = before.clone().run(&desired(), method, false, NEVER);
        for kill in 0..=boundaries {
            let mut world = before.clone();
            let (end, _) = world.run(&desired(), method, false, kill);
            if end == End::Killed && world.stored.is_some() {
                assert_eq!(world.run(&desired(), method, false, NEVER).0, End::Forgotten, "{method:?} {kill}");
            }
            assert!(world.ours().is_empty() && world.stored.is_none(), "{method:?} {habits:?} {kill}");
        }
    }
}

/// Deleting begins while something else is under way.
#[test]
fn a_client_that_is_deleted_while_it_is_made_is_gone_or_told_lost() {
    for (method, habits) in servers() {
        let (_, boundaries) = World::new(habits).run(&desired(), method, true, NEVER);
        for kill in 0..=boundaries {
            let mut world = World::new(habits);
            world.run(&desired(), method, true, kill);
            if world.stored.is_some() {
                assert_eq!(world.run(&desired(), method, false, NEVER).0, End::Forgotten, "{method:?} {kill}");
            }
            assert!(world.ours().iter().all(|id| is_told_lost(&world, id)), "{method:?} {habits:?} {kill}");
            assert!(method == Method::Dcr || world.ours().is_empty());
        }
    }
}

#[test]
fn a_hundred_looks_without_drift_update_nothing() {
    for (method, habits) in servers() {
        let mut world = World::new(habits);
        settles(&mut world, &desired(), method);
        world.now -= world.now % 7;
        for _ in 0..100 {
            world.now += 2000;
            let before = world.server.asked(Purpose::Read);
            settles(&mut world, &desired(), method);
            assert!(world.server.asked(Purpose::Read) <= before + 1);
        }
        assert_eq!(world.server.asked(Purpose::Update), 0, "{method:?}");
        assert_eq!(world.server.asked(Purpose::Create), 1, "{method:?}");
        assert_sound(&world, "after a hundred looks");
    }
}

#[test]
fn what_a_client_proves_itself_by_is_a_key_unless_its_author_says_otherwise() {
    let mut world = World::new(Habits::default());
    settles(&mut world, &desired(), Method::Dcr);
    assert!(matches!(world.published, Some((_, Proof::Key(_)))));
    let mut world = World::new(Habits::default());
    settles(&mut world, &with_secret(), Method::Dcr);
    assert!(matches!(world.published, Some((_, Proof::Secret(_)))));
}
