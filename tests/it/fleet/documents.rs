//! Documents of clients, as authorization servers fetch them from a proxy.

use portcullis::generated::client::{keys_path, path};
use portcullis::generated::codec::{Generated, encode};
use portcullis::generated::{Client, Collection, Kind, ObjectId};
use serde_json::{Value, json};

use super::house::{House, PUBLIC_URL};
use crate::support::http::{self, Connection, Response};
use crate::support::wait::until;

const UID: &str = "0f6c3d1e-1111-2222-3333-444455556666";
const CLEAR_URL: &str = "http://mcp.example";

fn document(uid: &str, name: &str) -> String {
    json!({"client_id": format!("{PUBLIC_URL}{}", path(uid)), "client_name": name, "grant_types": ["client_credentials"],
        "response_types": [], "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": format!("{PUBLIC_URL}{}", keys_path(uid))})
    .to_string()
}

fn client(uid: &str, document: String) -> Client {
    let id = ObjectId { uid: uid.to_owned(), namespace: "team".into(), name: "reports".into(), generation: 1 };
    Client { id, document, key_set: Some(r#"{"keys":[]}"#.to_owned()) }
}

fn ask(house: &House, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    http::send(&house.address(), &http::request(method, &format!("{CLEAR_URL}{target}"), headers, b""))
}

fn wait_served(house: &House, text: &str) {
    until("the document to be served", || (house.get(&path(UID)).text() == text).then_some(()));
}

#[test]
fn a_document_and_its_keys_are_served_exactly_and_to_readers_only() {
    let house = House::serve(&[]);
    let served = client(UID, document(UID, "Reports"));
    house.put(&Generated::Client(served.clone()));
    wait_served(&house, &served.document);
    for (target, body) in [(path(UID), served.document.clone()), (keys_path(UID), served.key_set.clone().unwrap())] {
        let answer = house.get(&target);
        assert_eq!((answer.status, answer.text()), (200, body.clone()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
        assert_eq!(answer.header("access-control-allow-origin"), None, "it is for no page");
        let mut connection = Connection::open(&house.address());
        connection.write(&http::request("HEAD", &format!("{CLEAR_URL}{target}"), &[], b""));
        let head = connection.read_head();
        assert_eq!((head.status, head.header("content-length")), (200, Some(&*body.len().to_string())));
        assert_eq!(head.header("cache-control"), Some("public, max-age=60"));
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let answer = ask(&house, method, &target, &[("Origin", "https://page.example")]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        }
        // A page may not ask, and a token changes nothing.
        let answer = ask(&house, "GET", &target, &[("Authorization", "Bearer nonsense")]);
        assert_eq!((answer.status, answer.text()), (200, body));
    }
    // Whoever reaches the gateway by another name, even one that leads to it, gets nothing.
    for host in ["127.0.0.1", "evil.example", "mcp.example:8443"] {
        let bytes = http::request("GET", &format!("http://{host}{}", path(UID)), &[], b"");
        assert_eq!(http::send(&house.address(), &bytes).status, 421, "{host}");
    }
}

#[test]
fn what_is_not_exactly_there_is_not_told_from_what_never_was() {
    let house = House::serve(&[]);
    let served = client(UID, document(UID, "Reports"));
    house.put(&Generated::Client(served.clone()));
    wait_served(&house, &served.document);
    let nowhere = house.get("/nobody/nothing");
    assert_eq!(nowhere.status, 404);
    let (it, keys) = (path(UID), keys_path(UID));
    for target in [
        path("00000000-1111-2222-3333-444455556666"),
        format!("{it}/"),
        format!("{it}?"),
        format!("{it}?client_id=1"),
        format!("{keys}?x"),
        format!("{it}/jwks"),
        format!("{it}/../{UID}"),
        format!("/{it}"),
        it.replace("clients", "Clients"),
        it.replace("/-/", "/%2d/"),
        it.to_uppercase(),
        "/-/clients".to_owned(),
        "/-/clients/".to_owned(),
        "/-/clients//jwks.json".to_owned(),
    ] {
        let answer = house.get(&target);
        assert_eq!((answer.status, answer.text()), (404, nowhere.text()), "{target}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{target}");
    }
    // It goes with its source, and what comes later is served at its own path alone.
    house.remove(&Generated::Client(served));
    until("it to be gone", || (house.get(&it).status == 404).then_some(()));
    assert_eq!((house.get(&it).text(), house.get(&keys).status), (nowhere.text(), 404));
}

#[test]
fn a_document_that_means_another_or_cannot_be_read_is_not_served_and_that_is_reported() {
    let house = House::serve(&[]);
    let right = client(UID, document(UID, "Reports"));
    let label = Kind::Client.label();
    let encoded = |client: &Client| encode(&Generated::Client(client.clone())).unwrap();
    let mut earlier: Value = serde_json::from_slice(&encoded(&right)).unwrap();
    earlier["version"] = json!(1);
    let mut later = earlier.clone();
    later["version"] = json!(3);
    let foreign = |url: &str| client(UID, document(UID, "Reports").replace(PUBLIC_URL, url));
    for (content, word) in [
        (encoded(&client(UID, document("another", "Reports"))), "MetadataMismatch"),
        (encoded(&foreign("https://old.example")), "MetadataMismatch"),
        (encoded(&client(UID, "{}".to_owned())), "MetadataIncomplete"),
        (encoded(&client("another", document(UID, "Reports"))), "GeneratedIdentity"),
        (earlier.to_string().into_bytes(), "GeneratedVersion"),
        (later.to_string().into_bytes(), "GeneratedVersion"),
        (b"{".to_vec(), "GeneratedMalformed"),
    ] {
        house.put(&Generated::Client(right.clone()));
        wait_served(&house, &right.document);
        // What was reported of the one before may have the same word.
        house.wait_report("nothing", |report| report.refused.is_empty());
        house.put_as(&Kind::Client.object_name(UID), label, Collection::ConfigMaps, &content);
        house.wait_report(word, |report| report.refused.get(UID).is_some_and(|reason| reason == word));
        assert_eq!((house.get(&path(UID)).status, house.get(&keys_path(UID)).status), (404, 404), "{word}");
    }
    house.put(&Generated::Client(right.clone()));
    wait_served(&house, &right.document);
    let report = house.wait_report("nothing", |report| report.refused.is_empty());
    assert_eq!(report.reads, 2, "so nobody takes an earlier proxy for one that serves documents");
    // Callers are served as before.
    house.wait_allowed(&house.token("ana"));
}
