//! What is revoked is refused, whoever says so and for as long as it is said; what cannot be read is not believed.

use std::fs;

use serde_json::json;

use super::house::House;
use crate::support::gateway::TRUST;
use crate::support::wait::until;

fn status(house: &House, token: &str) -> u16 {
    house.call(token, "echo", json!({"message": "a"})).status
}

#[test]
fn all_tokens_of_a_person_are_revoked_at_once_and_later_ones_are_good() {
    let house = House::build();
    assert_eq!((status(&house, &house.ana), status(&house, &house.ben)), (200, 200));
    let second = house.gateway.token("ana", "items");
    let revoked = house.gateway.verb(&["token", "revoke", "--for", "ana"]).output().unwrap();
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    until("both to be refused", || (status(&house, &house.ana) == 401 && status(&house, &second) == 401).then_some(()));
    assert_eq!(status(&house, &house.ben), 200);
    // Tokens of the very second of the revocation are meant too.
    until("a later token to be good", || (status(&house, &house.gateway.token("ana", "items")) == 200).then_some(()));
    assert_eq!(status(&house, &house.ana), 401);
}

#[test]
fn a_manifest_revokes_by_subject_and_time_and_can_take_it_back() {
    let house = House::build();
    assert_eq!(status(&house, &house.ben), 200);
    let everything = TRUST.replace(
        "spec: {local: {}}",
        "spec: {local: {}, revoked: [{subject: ben, issuedBefore: \"2100-01-01T00:00:00Z\"}]}",
    );
    house.gateway.write("trust.yaml", &everything);
    until("ben to be refused", || (status(&house, &house.ben) == 401).then_some(()));
    assert_eq!(status(&house, &house.ana), 200);
    house.gateway.write("trust.yaml", TRUST);
    until("ben to be let in", || (status(&house, &house.ben) == 200).then_some(()));
}

#[test]
fn without_its_list_of_revocations_an_authority_is_not_believed() {
    let house = House::build();
    let list = house.gateway.state().join("issuers/local/revoked.json");
    let good = fs::read(&list).unwrap();
    for damaged in [&b"{\"version\":1,\"entries\":[{}]}"[..], b"", b"{\"version\":9,\"entries\":[]}"] {
        fs::remove_file(&list).unwrap();
        until("nobody to be let in", || (status(&house, &house.ana) == 503).then_some(()));
        fs::write(&list, damaged).unwrap();
        let issued =
            house.gateway.verb(&["token", "issue", "--for", "ana", "--server", "default/items"]).output().unwrap();
        assert!(!issued.status.success() && issued.stdout.is_empty());
        assert!(String::from_utf8_lossy(&issued.stderr).contains("revoked.json"));
        assert_eq!(status(&house, &house.ana), 503);
        fs::remove_file(&list).unwrap();
        fs::write(&list, &good).unwrap();
        until("ana to be let in again", || (status(&house, &house.ana) == 200).then_some(()));
    }
}
