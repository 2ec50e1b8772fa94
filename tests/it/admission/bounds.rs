//! What a webhook is too busy for, or too slow for, ends in words and in time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use super::house::{House, VERSION, server, trust};
use super::rotation::connect;
use crate::support::wait::{until, until_within};

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

/// The answer of one that was put off by now.
fn is_put_off(connection: &mut Connection) -> Option<(String, String)> {
    let mut piece = [0; 4096];
    connection.sock.set_nonblocking(true).unwrap();
    let read = connection.read(&mut piece);
    connection.sock.set_nonblocking(false).unwrap();
    let said = piece[..read.ok()?].to_vec();
    said.starts_with(b"HTTP/1.1 429").then(|| rest_of_answer(connection, said))
}

/// The head of an answer and its body.
fn answer(connection: &mut Connection) -> (String, String) {
    rest_of_answer(connection, Vec::new())
}

fn rest_of_answer(connection: &mut Connection, mut bytes: Vec<u8>) -> (String, String) {
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

/// A connection over which both have agreed on keys.
fn shaken(address: &str) -> Connection {
    let mut connection = connect(address);
    while connection.conn.is_handshaking() {
        connection.conn.complete_io(&mut connection.sock).unwrap();
    }
    connection
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
    let (head, body) = ask(&mut connection, &path, &review(&locked));
    house.cluster.freeze(false);
    assert!(head.starts_with("HTTP/1.1 504") && body.contains("within 8 s; try again"), "{head}\n{body}");
    // The same connection serves the next one.
    let (head, body) = ask(&mut connection, &path, &review(&trust()));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{body}");
    assert!(house.metrics().contains("portcullis_review_failures_total{reason=\"Late\"} 1"));
}

#[test]
fn more_than_it_can_bear_is_put_off_and_the_api_server_asks_again() {
    let house = House::build();
    let path = house.path();
    let slow = head(&path, 100_000);
    let mut idle: Vec<Connection> = Vec::new();
    // They say that they send something, and do not. All at once, since none is waited for longer than three seconds: a machine
    // that takes longer for them begins anew. They are more than it bears, so some are put off.
    let (head, body) = until_within(Duration::from_secs(300), "a review to be put off", || {
        idle.clear();
        idle.extend((0..SEATS + 32).map(|_| shaken(&house.address())));
        idle.iter_mut().for_each(|connection| connection.write_all(&slow).unwrap());
        (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            idle.iter_mut().find_map(is_put_off)
        })
    });
    assert!(head.to_ascii_lowercase().contains("retry-after: 1") && body.contains("too much to do"), "{head}\n{body}");
    // Who waits for what is not sent waits for three seconds; then there is room, and the API server has asked again.
    until("the API server to be answered", || {
        let output = house.apply(&trust());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Its own deadline excuses it, and never that it was put off.
        assert!(output.status.success() || said.contains("deadline exceeded"), "{said}");
        output.status.success().then_some(())
    });
    drop(idle);
    assert!(house.cluster.get(VERSION, "McpAuthorizationServer", None, "corp").is_some());
}

/// How an open connection is answered once the listener is shut, `admission::server` shows: here, that would be a matter of time.
#[test]
fn a_webhook_that_ends_answers_who_asks_meanwhile_and_says_that_it_was_the_last_time() {
    let mut house = House::build();
    let path = house.path();
    let mut connection = connect(&house.address());
    let (head, _) = ask(&mut connection, &path, &review(&trust()));
    assert!(head.starts_with("HTTP/1.1 200") && !head.to_ascii_lowercase().contains("connection: close"), "{head}");
    house.tell_to_end();
    // Without a pause: a connection over which nothing is asked is ended.
    let is_last = |head: &str| head.to_ascii_lowercase().contains("connection: close");
    loop {
        let (head, body) = ask(&mut connection, &path, &review(&trust()));
        assert!(head.starts_with("HTTP/1.1 200") && body.contains("\"allowed\":true"), "{head}\n{body}");
        if is_last(&head) {
            break;
        }
    }
    until("nobody new to be let in", || TcpStream::connect(house.address()).is_err().then_some(()));
    assert!(house.ended_cleanly());
}

/// What a review says of its length is no reason to keep others waiting.
#[test]
fn slow_reviews_that_announce_much_do_not_hold_up_others() {
    let house = House::build();
    let path = house.path();
    let given_up = || {
        let metrics = house.metrics();
        let name = "portcullis_review_failures_total{reason=\"Incomplete\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<u64>().unwrap()
    };
    until("others to be answered while the slow ones are waited for", || {
        let before = given_up();
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
        // None of the slow ones was given up meanwhile: nobody waited for that. A machine that took three seconds says nothing.
        let all_are_waited_for = given_up() == before;
        until("them to be given up", || (given_up() >= before + 8).then_some(()));
        drop(slow);
        all_are_waited_for.then_some(())
    });
}
