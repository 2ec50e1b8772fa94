//! Answers that say less than they seem to: nothing is thrown away for a page that somebody puts before a server, and nothing
//! counts as gone that nobody has said to be gone.

use serde_json::json;

use super::lives::{ended_everywhere, settles};
use super::model::{End, Habits, World, desired, for_persons, is_told_lost, with_secret};
use crate::oauth::client_registration::{AuthMethod, Keys};
use crate::registration::call::Purpose;
use crate::registration::{CHECK_SECONDS, Desired, Method, News, Seen, Trouble};

const NEVER: usize = usize::MAX;

fn settled(habits: Habits, desired: &Desired, method: Method) -> World {
    let mut world = World::new(habits);
    settles(&mut world, desired, method);
    world.server.asked.clear();
    world.news.clear();
    world
}

/// One look of one process, and what keeps it from going on.
fn looks(world: &mut World, seen: &mut Seen, desired: &Desired) -> Option<Trouble> {
    seen.try_again();
    match world.go_on(seen, desired, true, NEVER, &mut |_, _| None).0 {
        End::Settled(_, trouble) => trouble,
        other => panic!("{other:?}"),
    }
}

/// A look of a process that has read the client back so long ago.
fn later(world: &mut World, desired: &Desired, method: Method, keeps: bool, seconds: i64) -> End {
    let mut seen = world.loaded(desired, method);
    world.now += seconds;
    world.go_on(&mut seen, desired, keeps, NEVER, &mut |_, _| None).0
}

/// The client is what it was before: nobody was told otherwise, and nothing was made in its place.
fn assert_kept(world: &World, before: &World, story: &str) {
    assert_eq!(world.published, before.published, "{story}");
    assert_eq!(world.ours(), before.ours(), "{story}");
    assert_eq!(world.server.asked(Purpose::Create), 0, "{story}");
    let told = |news: &News| matches!(news, News::Lost { .. } | News::Vanished { .. } | News::Deleted { .. });
    assert!(!world.news.iter().any(told), "{story}: {:?}", world.news);
}

#[test]
fn an_administrative_api_that_is_closed_is_told_and_not_asked_over_and_over() {
    let mut world = World::new(Habits { page: Some(404), ..Habits::default() });
    for look in 1..=5 {
        let mut seen = world.loaded(&desired(), Method::Admin);
        let trouble = looks(&mut world, &mut seen, &desired()).expect("a trouble");
        assert!(trouble.what.is_lasting() && trouble.detail.contains("404"), "{trouble:?}");
        assert_eq!(world.server.asked(Purpose::Create), look);
    }
    world.server.habits.page = None;
    settles(&mut world, &desired(), Method::Admin);
    assert_eq!(world.ours().len(), 1);
}

#[test]
fn a_client_is_not_gone_because_somebody_stands_before_the_place_where_it_is_managed() {
    let mut changed = desired();
    changed.metadata.client_name = "Changed".into();
    for (method, page) in
        [(Method::Admin, 404), (Method::Dcr, 401), (Method::Dcr, 403), (Method::Dcr, 404), (Method::Dcr, 410)]
    {
        for is_away in [false, true] {
            for wish in [desired(), changed.clone()] {
                let story = format!("{method:?} {page} away: {is_away} {}", wish.metadata.client_name);
                let mut world = settled(Habits::default(), &desired(), method);
                (world.server.habits.page, world.is_away) = (Some(page), is_away);
                let before = world.clone();
                let mut seen = world.loaded(&wish, method);
                world.now += CHECK_SECONDS;
                for _ in 0..5 {
                    assert!(looks(&mut world, &mut seen, &wish).is_some(), "{story}");
                    assert_kept(&world, &before, &story);
                    world.now += 600;
                }
                // Nor for whoever deletes it.
                let (end, _) = world.clone().run(&wish, method, false, NEVER);
                assert!(matches!(end, End::Settled(_, Some(_))), "{story}: {end:?}");
                (world.server.habits.page, world.is_away) = (None, false);
                assert_eq!(looks(&mut world, &mut seen, &wish), None, "{story}");
                assert_eq!((world.ours().len(), world.server.asked(Purpose::Create)), (1, 0), "{story}");
                assert_eq!(world.run(&wish, method, false, NEVER).0, End::Forgotten, "{story}");
                assert!(world.ours().is_empty(), "{story}");
            }
        }
    }
}

#[test]
fn what_a_search_does_not_show_is_not_made_over_and_over() {
    let mut world = settled(Habits::default(), &desired(), Method::Admin);
    (world.server.habits.hides, world.stored) = (true, None);
    let mut seen = world.loaded(&desired(), Method::Admin);
    for look in 1..=5 {
        let trouble = looks(&mut world, &mut seen, &desired()).expect("a trouble");
        assert!(trouble.detail.contains("may view clients"), "{trouble:?}");
        assert_eq!(world.server.asked(Purpose::Create), look);
    }
    world.server.habits.hides = false;
    assert_eq!(looks(&mut world, &mut seen, &desired()), None);
    assert_eq!(world.ours().len(), 1);
}

/// RFC 6750 section 3 has the reason in a header, and RFC 7592 says nothing of a body.
#[test]
fn a_token_is_dead_where_the_challenge_says_so() {
    use crate::registration::call::{Answer, Heard};
    use crate::registration::profile::{Adapter as _, Standard};
    use crate::registration::wanted::Marks;
    let marks = Marks { client_id: "a".into(), owner: "portcullis:a:b".into(), claimed: None };
    for (denies_token, heard) in [(true, Heard::Unmanageable), (false, Heard::Later { retry_after: None, status: 401 })]
    {
        let answer = Answer { status: 401, body: Vec::new(), retry_after: None, denies_token, sent: Vec::new() };
        assert_eq!(Standard.hear(Purpose::Read, &answer, &marks, None), heard);
    }
}

/// One that works is not said to be refused because an answer was cut, or was somebody's who stands before the server.
#[test]
fn a_look_that_is_answered_with_no_document_is_tried_again_soon() {
    use crate::registration::call::{Answer, Heard};
    use crate::registration::profile::{Adapter as _, Standard};
    use crate::registration::wanted::Marks;
    let marks = Marks { client_id: "a".into(), owner: "portcullis:a:b".into(), claimed: None };
    let hear = |purpose, body: &str| {
        let body = body.as_bytes().to_vec();
        let answer = Answer { status: 200, body, retry_after: None, denies_token: false, sent: Vec::new() };
        Standard.hear(purpose, &answer, &marks, None)
    };
    for body in ["", "[]", "{\"client_id\":", "<html>Sign in</html>"] {
        for purpose in [Purpose::Create, Purpose::Read, Purpose::Update] {
            assert!(matches!(hear(purpose, body), Heard::Unknown(_)), "{purpose:?} {body}");
        }
        // Who asks for one to be taken over waits for the answer.
        assert!(matches!(hear(Purpose::Adopt, body), Heard::Refused(_)), "{body}");
    }
    // A document that describes no client would be answered again.
    assert!(matches!(hear(Purpose::Read, "{}"), Heard::Refused(_)));
}

#[test]
fn a_search_that_lists_others_does_not_say_that_there_is_none() {
    use crate::registration::call::{Answer, Heard};
    use crate::registration::profile::{Adapter as _, Keycloak};
    use crate::registration::wanted::Marks;
    let marks = Marks { client_id: "portcullis-a-b".into(), owner: "portcullis:a:b".into(), claimed: None };
    for (status, body, is_absent) in [
        (200, json!([]), true),
        (200, json!([{"clientId": "portcullis-a-bc"}]), false),
        (200, json!([7]), false),
        (200, json!({"error": "no"}), false),
        (404, json!([]), false),
        (403, json!([]), false),
    ] {
        let body = body.to_string().into_bytes();
        let answer = Answer { status, body, retry_after: None, denies_token: false, sent: Vec::new() };
        let heard = Keycloak.hear(Purpose::Find, &answer, &marks, None);
        assert_eq!(heard == Heard::Absent, is_absent, "{status} {heard:?}");
    }
}

#[test]
fn a_client_that_the_server_has_under_another_name_of_its_own_is_managed_by_that() {
    for keeps in [true, false] {
        let mut world = settled(Habits::default(), &desired(), Method::Admin);
        let id = world.ours()[0].clone();
        world.server.clients.get_mut(&id).unwrap().token = "uid-restored".into();
        let end = later(&mut world, &desired(), Method::Admin, keeps, CHECK_SECONDS);
        assert_eq!(end == End::Forgotten, !keeps, "{end:?}");
        assert_eq!(world.ours().len(), usize::from(keeps));
        assert!(!world.news.iter().any(|news| matches!(news, News::Vanished { .. } | News::Lost { .. })));
    }
}

/// Servers answer alike for a client that they do not know, and for one that may not have the grant by which it is asked, or
/// whose secret has expired.
#[test]
fn a_client_of_whom_only_the_token_endpoint_says_that_it_is_gone_is_told_lost() {
    let expires = Habits { secret_lifetime: Some(90_000), rotates_secrets: true, ..Habits::default() };
    let denies = Habits { denies_as_unknown: true, ..Habits::default() };
    for (habits, wish, seconds) in [
        (denies, for_persons(), CHECK_SECONDS),
        (expires, Desired { rotation: None, ..with_secret() }, 90_001),
        (Habits::default(), desired(), CHECK_SECONDS),
    ] {
        for keeps in [true, false] {
            let story = format!("{habits:?} {keeps}");
            let mut world = settled(habits, &wish, Method::Dcr);
            let old = world.ours()[0].clone();
            world.server.clients.get_mut(&old).unwrap().token = "another".into();
            let end = later(&mut world, &wish, Method::Dcr, keeps, seconds);
            assert!(matches!(end, End::Forgotten | End::Settled(_, None)), "{story}: {end:?}");
            assert!(world.ours().contains(&&old) && is_told_lost(&world, &old), "{story}: {:?}", world.news);
        }
    }
}

#[test]
fn nobody_is_lost_while_nobody_can_be_asked_and_where_to_ask_is_remembered() {
    for keeps in [true, false] {
        let mut world = settled(Habits::default(), &desired(), Method::Dcr);
        let old = world.ours()[0].clone();
        world.server.clients.get_mut(&old).unwrap().token = "another".into();
        world.is_away = true;
        // As it was known before: its token endpoint is asked.
        let mut remembers = world.clone();
        later(&mut remembers, &desired(), Method::Dcr, keeps, CHECK_SECONDS);
        assert_eq!(remembers.server.asked(Purpose::Probe), 1);
        let mut ledger = serde_json::from_slice::<serde_json::Value>(&world.stored.clone().unwrap()).unwrap();
        ledger.as_object_mut().unwrap().remove("token_endpoint");
        world.stored = Some(ledger.to_string().into_bytes());
        let before = world.clone();
        let end = later(&mut world, &desired(), Method::Dcr, keeps, CHECK_SECONDS);
        assert!(matches!(end, End::Settled(_, Some(_))), "{end:?}");
        assert_kept(&world, &before, "away");
        world.is_away = false;
        later(&mut world, &desired(), Method::Dcr, keeps, CHECK_SECONDS);
        assert!(is_told_lost(&world, &old), "{:?}", world.news);
    }
}

#[test]
fn a_server_that_answers_404_for_who_is_gone_is_believed_once_the_client_is_not() {
    for unknown in [404, 410] {
        let mut world = settled(Habits { unknown: Some(unknown), ..Habits::default() }, &desired(), Method::Dcr);
        world.server.clients.clear();
        let mut seen = world.loaded(&desired(), Method::Dcr);
        world.now += CHECK_SECONDS;
        assert_eq!(looks(&mut world, &mut seen, &desired()), None);
        assert_eq!((world.ours().len(), seen.ledger.losses()), (1, 1));
        let (id, proof) = world.published.clone().unwrap();
        assert!(world.server.believes(&id, &proof));
    }
}

#[test]
fn whoever_moves_to_other_credentials_has_these_and_no_others_wherever_the_controller_dies() {
    let mut own = desired();
    own.metadata.keys =
        Keys::Inline(json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "own", "x": "x", "y": "y"}]}));
    for method in [Method::Dcr, Method::Admin] {
        for rotates_tokens in [false, true] {
            for (before, after) in [(with_secret(), desired()), (desired(), with_secret()), (desired(), own.clone())] {
                let world = settled(Habits { rotates_tokens, ..Habits::default() }, &before, method);
                let by_key = after.metadata.auth_method == AuthMethod::PrivateKeyJwt;
                let makes_keys = by_key && after.metadata.keys == Keys::None;
                ended_everywhere(&world, &after, method, &format!("{method:?}"), &|world, story| {
                    settles(world, &after, method);
                    let current = world.ledger().unwrap().current.unwrap();
                    assert_eq!(current.client_secret.is_some(), !by_key, "{story}");
                    assert_eq!(world.ledger().unwrap().keys.len(), usize::from(makes_keys), "{story}");
                    let body = world.server.clients[&current.client_id].body.to_string();
                    assert!(!by_key || body.contains("kid"), "{story}: {body}");
                    if makes_keys || !by_key {
                        let (id, proof) = world.published.clone().unwrap();
                        assert!(id == current.client_id && world.server.believes(&id, &proof), "{story}: {proof:?}");
                    }
                });
            }
        }
    }
}

#[test]
fn what_an_administrator_adds_between_two_updates_stays() {
    let mut world = settled(Habits::default(), &desired(), Method::Admin);
    let mut seen = world.loaded(&desired(), Method::Admin);
    let mut wish = desired();
    for number in 0..3 {
        let id = world.ours()[0].clone();
        let theirs =
            json!({"id": "m", "name": format!("groups-{number}"), "protocolMapper": "oidc-group-membership-mapper"});
        let mappers = &mut world.server.clients.get_mut(&id).unwrap().body["protocolMappers"];
        mappers.as_array_mut().unwrap().push(theirs);
        wish.metadata.client_name = format!("Name {number}");
        assert_eq!(looks(&mut world, &mut seen, &wish), None);
        let mappers = world.server.clients[&id].body["protocolMappers"].as_array().unwrap().len();
        assert_eq!(mappers, number + 2);
    }
}

#[test]
fn a_client_that_somebody_switched_off_stays_off_and_that_is_told() {
    let mut world = settled(Habits::default(), &desired(), Method::Admin);
    let id = world.ours()[0].clone();
    assert_eq!(world.server.clients[&id].body["enabled"], json!(true));
    world.server.clients.get_mut(&id).unwrap().body["enabled"] = json!(false);
    let mut seen = world.loaded(&desired(), Method::Admin);
    let mut wish = desired();
    for look in 0..20 {
        world.now += 600;
        if look == 10 {
            // A change arrives for all that.
            wish.metadata.client_name = "Other".into();
        }
        let told = looks(&mut world, &mut seen, &wish).map(|trouble| trouble.what.reason());
        assert_eq!(told, (look >= 2).then_some("ClientDisabled"), "{look}");
        let body = &world.server.clients[&id].body;
        assert_eq!((&body["enabled"], &body["name"]), (&json!(false), &json!(wish.metadata.client_name)));
    }
    world.server.clients.get_mut(&id).unwrap().body["enabled"] = json!(true);
    world.now += 600;
    assert_eq!(looks(&mut world, &mut seen, &wish), None);
    assert_eq!(world.run(&wish, Method::Admin, false, NEVER).0, End::Forgotten);
}

#[test]
fn persons_are_asked_for_consent_and_nobody_may_switch_that_off() {
    let wish = for_persons();
    let mut world = settled(Habits::default(), &wish, Method::Admin);
    let id = world.ours()[0].clone();
    assert_eq!(world.server.clients[&id].body["consentRequired"], json!(true));
    world.server.clients.get_mut(&id).unwrap().body["consentRequired"] = json!(false);
    assert!(matches!(later(&mut world, &wish, Method::Admin, true, CHECK_SECONDS), End::Settled(_, None)));
    assert_eq!(world.server.clients[&id].body["consentRequired"], json!(true));
    assert!(world.news.iter().any(|news| matches!(news, News::Drifted { fields } if fields == &["consent"])));
    let world = settled(Habits::default(), &desired(), Method::Admin);
    assert_eq!(world.server.clients[world.ours()[0]].body["consentRequired"], json!(false), "nobody is there to ask");
}

#[test]
fn a_secret_that_was_sent_is_not_repeated_in_what_is_told_of_a_refusal() {
    use crate::registration::call::Answer;
    use crate::registration::profile::{Adapter as _, Standard};
    use crate::registration::wanted::{Marks, Wanted};
    let world = settled(Habits::default(), &with_secret(), Method::Dcr);
    let ledger = world.ledger().unwrap();
    let mut current = ledger.current.clone().unwrap();
    current.client_secret = Some(crate::sensitive::Sensitive::new("canary"));
    let wanted = Wanted::new(&with_secret(), &ledger);
    let call = Standard.update(&current, &wanted, None, &super::place()).unwrap();
    let body = json!({"error": "invalid_client_metadata", "error_description": "no canary here"}).to_string();
    let answer =
        Answer { status: 400, body: body.into_bytes(), retry_after: None, denies_token: false, sent: call.secrets() };
    let heard = Standard.hear(Purpose::Update, &answer, &Marks::of(&ledger), Some(&wanted));
    assert!(!format!("{heard:?} {call:?}").contains("canary"), "{heard:?}");
}
