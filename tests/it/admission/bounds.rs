//! What a webhook is too busy for, or too slow for, ends in words and in time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::house::{House, VERSION, server, trust};
use super::rotation::connect;
use crate::support::wait::until;

pub(super) type Connection = StreamOwned<ClientConnection, TcpStream>;

/// As many as there may be at once.
const SEATS: usize = 512;

fn head(path: &str, length: usize) -> Vec<u8> {
    let lines = ["Host: webhook", "Content-Type: application/json"].join("\r\n");
    format!("POST {path} HTTP/1.1\r\n{lines}\r\nContent-Length: {length}\r\n\r\n").into_bytes()
}

/// A review of a new object, as the API server would send it.
pub(super) fn review(object: &Value) -> Vec<u8> {
    let kind = json!({"group": "portcullis.dev", "version": "v1alpha1", "kind": object["kind"]});
    let request = json!({"uid": "1", "kind": kind, "namespace": object["metadata"]["namespace"],
        "name": object["metadata"]["name"], "operation": "CREATE", "userInfo": {"username": "ana"}, "object": object});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

/// The head of an answer and its body.
fn answer(connection: &mut Connection) -> (String, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.to_owned(), body.to_owned());
            }
        }
        let mut piece = [0; 4096];
        let length = connection.read(&mut piece).unwrap();
        assert!(length > 0, "it ended after {text}");
        bytes.extend_from_slice(&piece[..length]);
    }
}

pub(super) fn ask(connection: &mut Connection, path: &str, body: &[u8]) -> (String, String) {
    connection.write_all(&[&head(path, body.len()), body].concat()).unwrap();
    answer(connection)
}

#[test]
fn what_cannot_be_looked_up_in_time_is_refused_before_the_api_servers_patience_ends() {
    let house = House::build();
    let path = house.path();
    let mut locked = server("notes");
    locked["spec"]["tools"] =
        json!({"lock": {"configMapName": "notes-lock", "sha256": "0".repeat(64), "onChange": "Deny"}});
    let mut connection = connect(&house.address());
    let (head, body) = ask(&mut connection, &path, &review(&locked));
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("\"allowed\":true"), "{head}\n{body}");
    house.cluster.freeze(true);
    let begun = Instant::now();
    let (head, body) = ask(&mut connection, &path, &review(&locked));
    let took = begun.elapsed();
    house.cluster.freeze(false);
    assert!(head.starts_with("HTTP/1.1 504") && body.contains("within 8 s; try again"), "{head}\n{body}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    // The same connection serves the next one.
    let (head, body) = ask(&mut connection, &path, &review(&trust()));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    assert!(house.metrics().contains("portcullis_review_failures_total{reason=\"Late\"} 1"));
}

#[test]
fn more_than_it_can_bear_is_put_off_and_the_api_server_asks_again() {
    let house = House::build();
    let path = house.path();
    // They say that they send something, and do not. All at once: none is waited for longer than eight seconds.
    let mut idle: Vec<Connection> = (0..SEATS).map(|_| connect(&house.address())).collect();
    idle.iter_mut().for_each(|connection| connection.write_all(&head(&path, 100_000)).unwrap());
    let mut seen = None;
    until("a review to be put off", || {
        let (head, body) = ask(&mut connect(&house.address()), &path, &review(&trust()));
        seen = Some((head, body));
        seen.as_ref().is_some_and(|(head, _)| head.starts_with("HTTP/1.1 429")).then_some(())
    });
    let (head, body) = seen.unwrap();
    assert!(head.to_ascii_lowercase().contains("retry-after: 1") && body.contains("too much to do"), "{head}\n{body}");
    // Who waits for what is not sent waits for three seconds; then there is room, and the API server has asked again.
    house.taken(&trust());
    drop(idle);
    assert!(house.cluster.get(VERSION, "McpAuthorizationServer", None, "corp").is_some());
}

#[test]
fn a_webhook_that_ends_answers_who_asks_meanwhile_and_says_that_it_was_the_last_time() {
    let mut house = House::build();
    let path = house.path();
    let mut connection = connect(&house.address());
    let (head, _) = ask(&mut connection, &path, &review(&trust()));
    assert!(head.starts_with("HTTP/1.1 200") && !head.to_ascii_lowercase().contains("connection: close"), "{head}");
    house.tell_to_end();
    until("nobody new to be let in", || TcpStream::connect(house.address()).is_err().then_some(()));
    let (head, body) = ask(&mut connection, &path, &review(&trust()));
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("\"allowed\":true"), "{head}\n{body}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert!(house.ended_cleanly());
}

/// What a review says of its length is no reason to keep others waiting.
#[test]
fn slow_reviews_that_announce_much_do_not_hold_up_others() {
    let house = House::build();
    let path = house.path();
    let slow: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = connect(&house.address());
            connection.write_all(&head(&path, 8 * 1024 * 1024)).unwrap();
            connection.write_all(&[b' '; 100_000]).unwrap();
            connection.flush().unwrap();
            connection
        })
        .collect();
    // One after the other: the first may be there before the slow ones.
    for _ in 0..5 {
        let (head, body) = ask(&mut connect(&house.address()), &path, &review(&trust()));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    }
    // None of the slow ones was given up meanwhile: nobody waited for that.
    let metrics = house.metrics();
    assert!(metrics.contains("portcullis_review_failures_total{reason=\"Incomplete\"} 0"), "{metrics}");
    drop(slow);
}
