//! RFC 7592: what a registration access token is good for, when it changes, and how it dies.

use serde_json::json;

use super::house::{Client, House, error, service, update_of};
use crate::support::wait::until;

fn invalid_token(answer: &crate::support::http::Response) {
    let (status, code) = error(answer);
    assert_eq!((status, code.as_str()), (401, "invalid_token"));
}

#[test]
fn a_read_shows_what_was_registered_and_changes_no_token() {
    for house in House::both() {
        let client = house.register(&service());
        for _ in 0..3 {
            let read = client.read();
            assert_eq!(read.status, 200, "{}", read.text());
            let read = Client::parse(&read.json());
            assert_eq!((&read.id, &read.secret, &read.uri), (&client.id, &client.secret, &client.uri));
            assert_eq!(read.token, client.token);
            assert_eq!(read.metadata["client_name"], "Reporting agent");
        }
    }
}

#[test]
fn an_update_changes_the_token_and_the_old_one_is_dead() {
    for house in House::both() {
        let client = house.register(&service());
        let mut metadata = service();
        metadata["client_name"] = "Renamed agent".into();
        let updated = client.update(&update_of(&client, &metadata));
        assert_eq!(updated.status, 200, "{}", updated.text());
        let updated = Client::parse(&updated.json());
        assert_ne!(updated.token, client.token);
        assert_eq!((&updated.id, &updated.secret), (&client.id, &client.secret), "an update rotates no secret");
        assert_eq!(updated.metadata["client_name"], "Renamed agent");
        invalid_token(&client.read());
        invalid_token(&client.update(&update_of(&client, &metadata)));
        assert_eq!(updated.read().status, 200);
    }
}

/// Whether the servers rotate is an administrator's choice.
#[test]
fn where_rotation_is_off_an_update_keeps_the_token() {
    let house = House::provider(&json!({"rotate": false}));
    let client = house.register(&service());
    let updated = client.update(&update_of(&client, &service()));
    assert_eq!(Client::parse(&updated.json()).token, client.token);
}

/// RFC 7592 section 2.1 lets a read do so as well, and no server of these does by itself.
#[test]
fn where_reads_rotate_too_each_answers_with_another_token_and_the_one_before_is_dead() {
    let house = House::provider(&json!({"rotateOnRead": true}));
    let client = house.register(&service());
    let read = Client::parse(&client.read().json());
    assert_ne!(read.token, client.token);
    invalid_token(&client.read());
    let updated = Client::parse(&read.update(&update_of(&read, &service())).json());
    assert_eq!(updated.read().status, 200);
}

#[test]
fn an_update_replaces_everything() {
    for house in House::both() {
        let mut metadata = service();
        metadata["client_uri"] = "https://agent.example.com/".into();
        let client = house.register(&metadata);
        assert_eq!(client.metadata["client_uri"], "https://agent.example.com/");
        let updated = client.update(&update_of(&client, &service()));
        assert_eq!(updated.status, 200, "{}", updated.text());
        let left = updated.json().get("client_uri").cloned();
        // RFC 7592 section 2.2: what is omitted is to be treated as null. Keycloak leaves it as it was.
        let expected = house.is_keycloak().then(|| json!("https://agent.example.com/"));
        assert_eq!(left, expected);
    }
}

/// RFC 7592 section 2.2: a client must not send them.
#[test]
fn what_only_the_server_says_is_refused_in_an_update_or_ignored() {
    for house in House::both() {
        for field in
            ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"]
        {
            let client = house.register(&service());
            let mut body = update_of(&client, &service());
            body[field] = client.metadata[field].clone();
            let answer = client.update(&body);
            let expected = if house.is_keycloak() { 200 } else { 400 };
            assert_eq!(answer.status, expected, "{field}: {}", answer.text());
        }
    }
}

#[test]
fn a_token_that_is_used_for_another_client_is_refused_and_may_be_destroyed() {
    for house in House::both() {
        let (one, two) = (house.register(&service()), house.register(&service()));
        let mistaken = Client { token: one.token.clone(), ..two.clone() };
        invalid_token(&mistaken.read());
        // npm oidc-provider takes a token from whoever shows it at the wrong door.
        if house.is_keycloak() {
            assert_eq!(one.read().status, 200);
        } else {
            invalid_token(&one.read());
        }
        assert_eq!(two.read().status, 200);
    }
}

#[test]
fn a_wrong_token_is_an_invalid_token() {
    for house in House::both() {
        let client = house.register(&service());
        let wrong = Client { token: "wrong".to_owned(), ..client.clone() };
        for answer in [wrong.read(), wrong.update(&update_of(&client, &service())), wrong.delete()] {
            invalid_token(&answer);
        }
        assert_eq!(client.read().status, 200);
    }
}

#[test]
fn a_deleted_client_and_its_token_are_gone() {
    for house in House::both() {
        let client = house.register(&service());
        let deleted = client.delete();
        assert_eq!((deleted.status, deleted.body.len()), (204, 0));
        assert!(house.clients().is_empty());
        // A delete whose answer was lost looks like a token that died.
        invalid_token(&client.delete());
        invalid_token(&client.read());
    }
}

/// 401 says as well *the client is gone* as *the token is dead*: only the server's own list tells them apart.
#[test]
fn a_client_that_was_deleted_behind_our_back_looks_like_a_dead_token() {
    for house in House::both() {
        let client = house.register(&service());
        house.delete_client(&client.id);
        invalid_token(&client.read());
        assert!(house.clients().is_empty());
    }
}

#[test]
fn a_dead_token_leaves_its_client_alive() {
    for house in House::both() {
        let client = house.register(&service());
        house.kill_registration_token(&client.id);
        invalid_token(&client.read());
        assert_eq!(house.token_with_secret(&client, &[]).status, 200);
        assert_eq!(house.clients(), [client.id]);
    }
}

/// Who cannot be sure that a change is needed must not ask for it: each costs a token.
#[test]
fn servers_count_updates_as_we_do() {
    let house = House::provider(&json!({}));
    let client = house.register(&service());
    let updated = Client::parse(&client.update(&update_of(&client, &service())).json());
    updated.read();
    let provider = house.of_npm();
    assert_eq!((provider.count("registration"), provider.count("client_update"), provider.count("client")), (1, 1, 1));
    assert_eq!((house.hop.count("PUT", "/reg"), house.hop.count("GET", "/reg")), (1, 1));
    let answers = until("the report of the update", || {
        let all = provider.seen().all().into_iter().filter(|line| line["answer"]["kind"] == "client_update");
        Some(all.map(|line| line["answer"]["status"].as_u64()).collect::<Vec<_>>()).filter(|all| !all.is_empty())
    });
    assert_eq!(answers, [Some(200)]);
}
