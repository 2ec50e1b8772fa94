//! Registrations that end while their owner goes on: what was lost is kept, and what comes next begins anew.

use super::lives::settles;
use super::model::{End, Habits, START, World, desired, place};
use crate::registration::call::{Heard, Purpose};
use crate::registration::desired::OnUnavailable;
use crate::registration::ledger::{Step, WhyLost};
use crate::registration::{Action, Method, Profile, Seen, Wish, absorb, next};

const NEVER: usize = usize::MAX;

fn settled(method: Method) -> World {
    let mut world = World::new(Habits::default());
    settles(&mut world, &desired(), method);
    world
}

/// Goes on until it does something else than to store the ledger.
fn turn(seen: &mut Seen, wish: &Wish<'_>, now: i64) -> Action {
    loop {
        match next(seen, wish, &place(), now) {
            Action::Persist => seen.persisted(),
            action => return action,
        }
    }
}

#[test]
fn a_client_that_its_server_deletes_for_nobody_is_told_lost_if_its_owner_goes_on_without_it() {
    for stays in [true, false] {
        let world = settled(Method::Dcr);
        let mut seen = world.loaded(&desired(), Method::Dcr);
        let wish = Wish::Remove { waits_since: None, stays };
        assert!(matches!(turn(&mut seen, &wish, START), Action::Send(call) if call.purpose == Purpose::Delete));
        absorb(&mut seen, Purpose::Delete, Heard::NotDeleted("405".into()), &wish, START);
        let action = turn(&mut seen, &wish, START);
        if stays {
            assert_eq!((action, seen.ledger.losses()), (Action::Forget, 1));
        } else {
            assert!(matches!(action, Action::Settled { .. }) && seen.trouble().is_some());
            assert_eq!((seen.ledger.released, seen.ledger.losses()), (Some(START), 0), "a tombstone");
        }
    }
}

#[test]
fn what_was_lost_outlives_a_registration_and_counts_for_the_next() {
    let world = settled(Method::Dcr);
    let mut seen = world.loaded(&desired(), Method::Dcr);
    for _ in 0..16 {
        seen.ledger.lose(None, START, WhyLost::NoAnswer);
    }
    let attempts = seen.ledger.attempts;
    seen.keep_losses(START);
    assert!(seen.ledger.is_over() && seen.ledger.keys.is_empty() && !seen.is_stored());
    seen.persisted();
    seen.keep_losses(START + 1);
    assert!(seen.is_stored(), "that is no news");
    seen.begin_anew(Method::Dcr, Profile::Generic);
    assert_eq!(seen.ledger.profile, Profile::Generic, "it may be another product by now");
    assert!(!seen.ledger.is_over());
    let wish = desired();
    let mut keyed = seen.clone();
    keyed.ledger.keys = world.ledger().unwrap().keys;
    assert!(matches!(turn(&mut keyed, &Wish::Keep(&wish), START), Action::Settled { .. }));
    assert_eq!(keyed.trouble().unwrap().what.reason(), "TooManyOrphans");
    assert_eq!((keyed.ledger.losses(), keyed.ledger.attempts), (16, attempts));
}

#[test]
fn where_one_has_ended_another_begins_anew_though_what_was_lost_is_forgotten() {
    let mut seen = settled(Method::Dcr).loaded(&desired(), Method::Dcr);
    seen.ledger.lose(None, START, WhyLost::NoAnswer);
    seen.keep_losses(START);
    assert!(seen.ledger.is_over());
    seen.forget_losses("word", None);
    assert!(seen.ledger.is_at_an_end() && !seen.ledger.is_over(), "nobody has begun yet");
    let keys = settled(Method::Dcr).ledger().unwrap().keys;
    (seen.ledger.keys, seen.ledger.had_client) = (keys, true);
    let attempts = seen.ledger.attempts;
    seen.begin_anew(Method::Admin, Profile::Keycloak);
    assert!(!seen.ledger.is_at_an_end() && seen.ledger.keys.is_empty() && !seen.had_client());
    assert_eq!((seen.ledger.method, seen.ledger.profile), (Method::Admin, Profile::Keycloak));
    assert_eq!(seen.ledger.attempts, attempts, "the next one is not taken for one of before");
}

#[test]
fn an_owner_that_goes_waits_for_what_it_had_left_behind_before() {
    let mut seen = settled(Method::Dcr).loaded(&desired(), Method::Dcr);
    seen.ledger.deletion.on_unavailable = OnUnavailable::Block;
    let fail = |seen: &mut Seen, wish: &Wish<'_>, now: i64| {
        seen.try_again();
        let Action::Send(call) = turn(seen, wish, now) else { panic!() };
        absorb(seen, call.purpose, Heard::Unsent("away".into()), wish, now);
        assert!(matches!(turn(seen, wish, now), Action::Settled { .. }));
        seen.ledger.released
    };
    assert_eq!(fail(&mut seen, &Wish::Remove { waits_since: None, stays: true }, START), Some(START));
    let waits = Wish::Remove { waits_since: Some(START + 5), stays: false };
    assert_eq!(fail(&mut seen, &waits, START + 10_000), None);
    // And whoever wants it back has nothing released.
    seen.ledger.released = Some(START);
    seen.try_again();
    seen.ledger.step = Step::Idle;
    turn(&mut seen, &Wish::Keep(&desired()), START);
    assert_eq!(seen.ledger.released, None);
}

#[test]
fn a_client_that_somebody_else_has_by_now_is_not_deleted_with_what_was_known_of_it() {
    let mut world = settled(Method::Dcr);
    let id = world.ours()[0].clone();
    let mut seen = world.loaded(&desired(), Method::Dcr);
    seen.leave_to_others(|other| other == id);
    assert_eq!(world.go_on(&mut seen, &desired(), false, NEVER, &mut |_, _| None).0, End::Forgotten);
    assert_eq!((world.ours(), world.server.asked(Purpose::Delete)), (vec![&id], 0));
}

#[test]
fn whoever_had_a_client_is_known_to_have_had_one() {
    let world = settled(Method::Dcr);
    let mut seen = world.loaded(&desired(), Method::Dcr);
    assert!(seen.ledger.had_client);
    seen.ledger.current = None;
    assert!(seen.had_client());
    seen.ledger.had_client = false;
    assert!(!seen.had_client());
    // A ledger of before that was said.
    let text = String::from_utf8(world.ledger().unwrap().encode().unwrap()).unwrap();
    let before = text.replace(",\"had_client\":true", "");
    assert!(before.len() < text.len());
    assert!(crate::registration::Ledger::decode(before.as_bytes()).unwrap().had_client);
}

#[test]
fn an_adoption_that_is_given_up_leaves_the_client_as_it_is() {
    let mut seen = settled(Method::Admin).loaded(&desired(), Method::Admin);
    seen.give_adoption_up(START);
    assert!(seen.ledger.current.is_some(), "it is ours");
    seen.ledger.step = Step::Updating { digest: "d".into(), renews: false };
    seen.give_adoption_up(START);
    assert!(seen.ledger.current.is_some(), "it was as it was wanted once");
    seen.ledger.current.as_mut().unwrap().digest.clear();
    seen.give_adoption_up(START);
    assert_eq!((seen.ledger.current.as_ref(), seen.had_client(), &seen.ledger.step), (None, false, &Step::Idle));
}

#[test]
fn an_adoption_by_rfc_7592_that_is_given_up_is_told_since_its_token_may_be_another_by_now() {
    let mut seen = settled(Method::Dcr).loaded(&desired(), Method::Dcr);
    seen.ledger.step = Step::Updating { digest: "d".into(), renews: false };
    seen.ledger.current.as_mut().unwrap().digest.clear();
    let id = seen.ledger.current.as_ref().unwrap().client_id.clone();
    seen.give_adoption_up(START);
    assert_eq!((seen.ledger.current.as_ref(), seen.ledger.losses()), (None, 1));
    assert_eq!(seen.ledger.lost[0].client_id, Some(id));
}

#[test]
fn a_page_that_somebody_puts_before_a_server_gives_no_client_up_whose_owner_goes_on_without_it() {
    for heard in [Heard::Refused("a redirect".into()), Heard::Later { retry_after: None, status: 503 }] {
        let world = settled(Method::Dcr);
        let mut seen = world.loaded(&desired(), Method::Dcr);
        let wish = Wish::Remove { waits_since: None, stays: true };
        assert!(matches!(turn(&mut seen, &wish, START), Action::Send(call) if call.purpose == Purpose::Delete));
        absorb(&mut seen, Purpose::Delete, heard, &wish, START);
        turn(&mut seen, &wish, START);
        assert!(seen.ledger.current.is_some() && seen.ledger.losses() == 0 && seen.trouble().is_some());
    }
}
