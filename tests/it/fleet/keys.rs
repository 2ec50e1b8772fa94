//! Keys of other issuers: the proxy asks the controller for them.

use portcullis::generated::Authority;
use portcullis::generated::authority::KeySource;
use portcullis::generated::codec::Generated;
use serde_json::json;

use super::house::House;
use crate::support::issuer::Issuer;
use crate::support::token::Key;
use crate::support::wait::until;

/// The authority, as if `issuer` with these keys stood behind it.
fn trusting(house: &House, issuer: &Issuer, keys: &[&Key]) -> Authority {
    let jwks = json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string();
    Authority {
        issuer: issuer.url().to_owned(),
        keys: KeySource::Discovery { ca_pem: None },
        key_set: Some(serde_json::from_value(json!({"jwks": jwks, "valid_until": i64::MAX})).unwrap()),
        ..house.authority.clone()
    }
}

#[test]
fn a_key_that_is_not_there_is_asked_for_and_the_call_that_waits_passes() {
    let house = House::serve(&[]);
    let issuer = Issuer::start();
    let (first, second) = (issuer.key(), Key::es256("second"));
    house.put(&Generated::Authority(trusting(&house, &issuer, &[&first])));
    let claims = issuer.claims("ana", &house.server.resource);
    house.wait_allowed(&first.sign(&first.header(), &claims));

    let token = second.sign(&second.header(), &claims);
    let (address, bytes) = (house.address(), House::call_bytes(&token, "echo"));
    let waiting = std::thread::spawn(move || crate::support::http::send(&address, &bytes));
    let report = house.wait_report("the wanted key", |report| !report.wanted.is_empty());
    assert_eq!(report.wanted["local"], "second");
    house.put(&Generated::Authority(trusting(&house, &issuer, &[&first, &second])));
    // Whoever waited too long on a busy machine is let in at the next try.
    let answer = waiting.join().unwrap();
    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
    house.wait_allowed(&token);
    house.wait_report("the question taken back", |report| report.wanted.is_empty());
    // Invented ones of strangers: one question stands, and nobody fetched anything from here.
    for number in 0..20 {
        let stranger = Key::es256(&format!("invented-{number}"));
        let token = stranger.sign(&stranger.header(), &claims);
        let (address, bytes) = (house.address(), House::call_bytes(&token, "echo"));
        std::thread::spawn(move || crate::support::http::send(&address, &bytes));
    }
    let report = house.wait_report("one invented key", |report| !report.wanted.is_empty());
    assert!(report.wanted.len() == 1 && report.wanted["local"].starts_with("invented-"), "{report:?}");
    until("a long one to be refused", || {
        let stranger = Key::es256(&"k".repeat(300));
        (house.call(&stranger.sign(&stranger.header(), &claims)).status == 401).then_some(())
    });
}
