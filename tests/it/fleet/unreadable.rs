//! What cannot be read denies what it governs, whatever it is, until it can be read or is gone.

use portcullis::generated::codec::{Generated, encode};
use portcullis::generated::{Collection, Kind};

use super::house::House;
use crate::support::kube::GATEWAY;
use crate::support::wait::until;

#[test]
fn an_unreadable_policy_denies_everything_until_it_is_deleted() {
    let house = House::serve(&[]);
    let ana = house.token("ana");
    assert!(house.is_allowed(&ana));
    let newer = br#"{"version":99,"kind":"Policy","object":{"id":"of another shape"}}"#;
    let version = house.put_as("policy-new", "policy", Collection::ConfigMaps, newer);
    let report = house.wait_report("it", |report| report.applied[&Collection::ConfigMaps] >= version);
    assert_eq!(report.refused["new"], "GeneratedVersion");
    house.wait_denied(&ana);
    let (ready, shown) = house.readyz();
    assert!(ready && shown.to_string().contains("policy-new"), "it is no reason to leave the rotation: {shown}");
    // Its deletion is honoured from metadata alone.
    house.cluster.delete("v1", "ConfigMap", Some(GATEWAY), "policy-new");
    house.wait_allowed(&ana);
    house.wait_report("its end", |report| report.refused.is_empty());
}

#[test]
fn an_unreadable_server_or_authority_takes_itself_out_until_it_can_be_read() {
    let house = House::serve(&[]);
    let ana = house.token("ana");
    for object in [Generated::Server(house.server.clone()), Generated::Authority(house.authority.clone())] {
        let (kind, id) = object.identity();
        let (name, label, uid) = (kind.object_name(&id.uid), kind.label(), id.uid.clone());
        // Nothing; somebody else's content; the right content under a wrong label.
        let other = match kind {
            Kind::Server => encode(&Generated::Authority(house.authority.clone())).unwrap(),
            Kind::Policy | Kind::Authority | Kind::Client => encode(&Generated::Policy(house.policy.clone())).unwrap(),
        };
        let right = encode(&object).unwrap();
        for (label, content, word) in [
            (label, &b"{"[..], "GeneratedMalformed"),
            (label, &other, "GeneratedIdentity"),
            ("unknown", &right, "GeneratedMislabelled"),
        ] {
            house.put_as(&name, label, kind.collection(), content);
            house.wait_report(word, |report| report.refused.get(&uid).is_some_and(|reason| reason == word));
            let refused = house.call(&ana).status;
            assert!(matches!((kind, refused), (Kind::Server, 404) | (Kind::Authority, 401)), "{kind:?} {refused}");
            house.put(&object);
            house.wait_allowed(&ana);
            house.wait_report("nothing", |report| report.refused.is_empty());
        }
    }
}

#[test]
fn what_was_deleted_while_nobody_looked_is_gone() {
    let mut house = House::serve(&[]);
    let ana = house.token("ana");
    assert!(house.is_allowed(&ana));
    house.process().signal("STOP");
    house.remove(&Generated::Policy(house.policy.clone()));
    // The watch cache begins anew: there is no going on from before.
    house.cluster.stop();
    house.cluster.start();
    house.process().signal("CONT");
    house.wait_denied(&ana);
    house.put(&Generated::Policy(house.policy.clone()));
    house.wait_allowed(&ana);
    until("it to follow again", || (house.readyz().1["checks"]["api-server"]["ok"] == true).then_some(()));
}
