//! The hop does what it is told, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::house::{Client, House, request, service, update_of};
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::http;
use crate::support::wait::until;

/// Registers as a program does that may lose its connection: the whole answer, or the kind of its end.
fn try_to_register(house: &House) -> Result<String, std::io::ErrorKind> {
    let url = format!("{}/reg", house.hop.url());
    let bearer = format!("Bearer {}", house.initial_access_token());
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Connection", "close")];
    let body = service().to_string();
    let mut stream = TcpStream::connect(http::split(&url).0).map_err(|e| e.kind())?;
    stream.write_all(&http::request("POST", &url, &headers, body.as_bytes())).map_err(|e| e.kind())?;
    // A reset may have come already; what comes of it is what reading says.
    stream.shutdown(std::net::Shutdown::Write).ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
    Ok(answer)
}

const RESET: Result<String, std::io::ErrorKind> = Err(std::io::ErrorKind::ConnectionReset);

#[test]
fn an_answer_is_lost_after_the_server_has_done_it() {
    let house = House::provider(&json!({}));
    let fired = house.hop.fault(Matching::nth("POST", "/reg", 2), Fault::LoseAnswer);
    assert!(try_to_register(&house).unwrap().starts_with("HTTP/1.1 201"));
    assert_eq!((try_to_register(&house), fired.times()), (RESET, 1));
    assert!(try_to_register(&house).unwrap().starts_with("HTTP/1.1 201"));
    assert_eq!((house.clients().len(), fired.times()), (3, 1));
    let seen = house.hop.seen();
    assert_eq!(seen.iter().map(|seen| seen.status).collect::<Vec<_>>(), [Some(201); 3]);
    assert!(seen.iter().all(|seen| seen.method == "POST" && seen.path == "/reg"));
    assert!(seen.windows(2).all(|two| two[0].at <= two[1].at));
}

#[test]
fn a_reset_before_forwarding_reaches_no_server() {
    let house = House::provider(&json!({}));
    house.hop.fault(Matching::every("POST", "/reg"), Fault::Reset);
    assert_eq!(try_to_register(&house), RESET);
    assert_eq!(
        (house.clients().len(), house.of_npm().count("registration"), house.hop.count("POST", "/reg")),
        (0, 0, 1)
    );
    house.hop.heal();
    assert!(try_to_register(&house).is_ok());
    assert_eq!(house.clients().len(), 1);
}

#[test]
fn an_answer_stands_instead_of_the_servers_or_replaces_it() {
    let house = House::provider(&json!({}));
    let answers = [
        (Answer::too_many(7), 429),
        (Answer::status(503), 503),
        (Answer::json(201, r#"{"client_id": "#), 201),
        (Answer::huge(1 << 20), 200),
        (Answer::redirect("http://169.254.169.254/"), 302),
    ];
    for (answer, status) in answers {
        for (fault, made) in [(Fault::Instead(answer.clone()), 0), (Fault::Replaced(answer.clone()), 1)] {
            let before = house.clients().len();
            house.hop.fault(Matching::every("", "/reg"), fault);
            let got = request(
                "POST",
                &format!("{}/reg", house.hop.url()),
                Some(&house.initial_access_token()),
                Some(&service()),
            );
            assert_eq!((got.status, house.clients().len() - before), (status, made));
            match status {
                429 => assert_eq!(got.header("retry-after"), Some("7")),
                302 => assert_eq!(got.header("location"), Some("http://169.254.169.254/")),
                201 => assert!(serde_json::from_slice::<serde_json::Value>(&got.body).is_err()),
                200 => assert!(got.body.len() >= 1 << 20),
                _ => {}
            }
            house.hop.heal();
        }
    }
}

#[test]
fn a_slow_server_is_slow() {
    let house = House::provider(&json!({}));
    let pause = Duration::from_millis(300);
    house.hop.fault(Matching::every("POST", "/reg"), Fault::Slow(pause));
    let start = Instant::now();
    assert!(try_to_register(&house).is_ok());
    assert!(start.elapsed() >= pause);
}

/// This is where other tests end the controller.
#[test]
fn a_test_acts_before_the_server_hears_of_a_request_and_after_it_has_answered() {
    let house = Arc::new(House::provider(&json!({})));
    let found = Arc::new([AtomicUsize::new(99), AtomicUsize::new(99)]);
    let look = |place: usize| {
        let (house, found) = (Arc::downgrade(&house), found.clone());
        Arc::new(move || found[place].store(house.upgrade().unwrap().clients().len(), Ordering::SeqCst))
    };
    house.hop.fault(Matching::nth("POST", "/reg", 1), Fault::Before(look(0)));
    house.hop.fault(Matching::nth("POST", "/reg", 2), Fault::After(look(1)));
    assert!(try_to_register(&house).is_ok());
    assert_eq!(found[0].load(Ordering::SeqCst), 0);
    assert!(try_to_register(&house).is_ok());
    assert_eq!(found[1].load(Ordering::SeqCst), 2);
}

#[test]
fn a_rule_is_about_its_method_and_its_path() {
    let house = House::provider(&json!({}));
    let client = house.register(&service());
    house.hop.fault(Matching::every("PUT", "/reg"), Fault::Instead(Answer::status(503)));
    house.hop.fault(Matching::every("", "/token"), Fault::Instead(Answer::status(500)));
    assert_eq!(client.read().status, 200);
    assert_eq!(client.update(&update_of(&client, &service())).status, 503);
    assert_eq!(house.token(&[("grant_type", "client_credentials")]).status, 500);
    assert_eq!(Client::parse(&client.read().json()).token, client.token);
}

#[test]
fn a_server_that_is_down_refuses_connections_and_comes_back_as_it_was() {
    for house in House::both() {
        let client = house.register(&service());
        house.hop.down();
        let connect = || TcpStream::connect(http::split(&client.uri).0);
        // A process that another test starts just now has the listener until it becomes its program.
        let refused = until("nobody to listen", || connect().err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        house.hop.up();
        assert_eq!(client.read().status, 200);
    }
}
