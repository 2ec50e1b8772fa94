//! No secret comes out anywhere.

use portcullis::generated::codec::{self, Generated};
use portcullis::generated::server::{CredentialHeader, Credentials};
use portcullis::generated::{Collection, Kind};
use portcullis::sensitive::Sensitive;
use serde_json::Value;

use super::house::House;
use crate::support::canary;

#[test]
fn secrets_and_tokens_are_in_no_output() {
    const KEY: &str = "canary-upstream-key-5b2e08";
    let mut house = House::build();
    let mut keyed = house.server.clone();
    keyed.upstream.credentials =
        Credentials::Headers(vec![CredentialHeader { name: "x-api-key".into(), value: Sensitive::new(KEY) }]);
    house.put(&Generated::Server(keyed.clone()));
    house.seal(b'k', None);
    // Also not to whoever wants to know everything.
    house.start_in(&[("PORTCULLIS_LOG", "trace")], &[]);
    let ana = house.token("ana");
    house.wait_allowed(&ana);
    let sent = |header: &str| house.upstream.seen().requests().iter().any(|request| request.header(header) == [KEY]);
    assert!(sent("x-api-key"), "it is sent where it belongs");
    // What cannot be read must not tell either.
    let broken = codec::encode(&Generated::Server(keyed.clone())).unwrap();
    let (kind, uid) = (Kind::Server, &keyed.id.uid);
    house.put_as(&kind.object_name(uid), "server", Collection::Secrets, &broken[..broken.len() - 1]);
    house.wait_report("it", |report| report.refused.contains_key(uid));
    let kubeconfig: Value = serde_json::from_slice(&std::fs::read(&house.kubeconfig).unwrap()).unwrap();
    let account = kubeconfig["users"][0]["user"]["token"].as_str().unwrap().to_owned();
    let (log, metrics, lease) = (house.process().stderr(), house.metrics(), house.lease().unwrap().to_string());
    let ready = house.readyz().1.to_string();
    let texts = [("log", &log), ("metrics", &metrics), ("Lease", &lease), ("/readyz", &ready)];
    let sealing = "k".repeat(portcullis::seal::KEY_BYTES);
    canary::assert_none(&[KEY, &ana, &account, &sealing], &texts.map(|(place, text)| (place, text.as_bytes())));
}
