//! What is served follows what is put, removed and refused.

use super::*;
use crate::egress::Egress;
use crate::fleet::tests::server;
use crate::generated::Labels;

fn settle(snapshot: &mut Snapshot) {
    let egress = Egress::new(crate::egress::Policy::default()).unwrap();
    let tokens = crate::upstream::TokenCounters::default();
    let means = Means { egress: &egress, timeouts: crate::upstream::Timeouts::default(), tokens: &tokens };
    snapshot.settle(&means, "https://mcp.example");
}

fn serving(servers: impl IntoIterator<Item = Server>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    servers.into_iter().for_each(|server| snapshot.put(Generated::Server(server)));
    settle(&mut snapshot);
    snapshot
}

fn said(snapshot: &Snapshot) -> Vec<(&str, &str)> {
    snapshot.troubles().map(|found| (&*found.id.name, &*found.reason)).collect()
}

#[test]
fn a_server_that_cannot_be_built_is_named_and_the_others_are_served() {
    let good = server("team", "good", Labels::new(), Some(Labels::new()));
    let broken = |name: &str, edit: fn(&mut Server)| {
        let mut server = server("team", name, Labels::new(), Some(Labels::new()));
        edit(&mut server);
        server
    };
    let snapshot = serving([
        good,
        broken("resource", |server| server.resource = "not a URL".into()),
        broken("upstream", |server| server.upstream.url = "ftp://a:b@c.example".into()),
        broken("disabled", |server| server.state = State::Disabled),
        broken("keyless", |server| {
            server.state = State::Unserved { reason: "SecretNotFound".into(), message: "no Secret a/b".into() };
        }),
    ]);
    let troubles: Vec<_> = snapshot.troubles().map(|found| (&*found.id.name, &*found.reason, found.refused)).collect();
    assert_eq!(
        troubles,
        [
            ("keyless", "SecretNotFound", false),
            ("resource", "ResourceInvalid", true),
            ("upstream", "UpstreamUrlInvalid", true)
        ]
    );
    assert!(snapshot.troubles().all(|found| !found.message.contains("a:b@c")), "no credentials of URLs");
    assert!(snapshot.site("/team/good").is_some_and(|site| site.closed.is_none()));
    assert!(snapshot.site("/team/resource").is_none());
}

#[test]
fn servers_that_claim_one_path_are_named() {
    let one = server("team", "one", Labels::new(), Some(Labels::new()));
    let mut two = server("team", "two", Labels::new(), Some(Labels::new()));
    two.path.clone_from(&one.path);
    let mut snapshot = serving([one.clone(), two]);
    assert_eq!(said(&snapshot), [("one", "PathConflict"), ("two", "PathConflict")]);
    assert!(snapshot.site("/team/one").is_none() && snapshot.document(&well_known("/team/one")).is_none());
    // One of them moves away: the other is served, and the one that moved, where it is now.
    let mut moved = one.clone();
    moved.path = "/team/elsewhere".into();
    let before = snapshot.clone();
    snapshot.put(Generated::Server(moved));
    settle(&mut snapshot);
    assert_eq!((said(&snapshot), snapshot.new_troubles(&before).count()), (vec![], 0));
    assert_eq!(snapshot.site("/team/one").unwrap().server.id.name, "two");
    assert_eq!(snapshot.site("/team/elsewhere").unwrap().server.id.name, "one");
    assert!(snapshot.document(protected_resource::WELL_KNOWN_PREFIX).is_none(), "there is more than one server");
    snapshot.remove(Kind::Server, &one.id.uid);
    settle(&mut snapshot);
    assert!(snapshot.site("/team/elsewhere").is_none());
    let alone = snapshot.document(protected_resource::WELL_KNOWN_PREFIX);
    assert!(alone.is_some() && alone == snapshot.document(&well_known("/team/one")));
}

#[test]
fn of_two_authorities_with_one_name_neither_is_believed() {
    let authority = |uid: &str| {
        let authority = serde_json::json!({"id": {"uid": uid, "namespace": "", "name": "corp", "generation": 1},
            "issuer": format!("https://{uid}.example"), "keys": "Local", "key_set": {"jwks": "{\"keys\":[]}", "valid_until": 1},
            "rules": {"typ": "AccessTokenJwt", "algorithms": ["ES256"], "skew_seconds": 0, "max_lifetime_seconds": null,
                "subject_claim": "sub", "tenant_claim": null, "client_claims": ["client_id"], "groups_claim": null,
                "allowed_audiences": []},
            "revoked": [], "clients": null});
        Generated::Authority(serde_json::from_value(authority).unwrap())
    };
    let believed = |snapshot: &Snapshot| snapshot.site("/team/one").unwrap().anchors().len();
    let mut snapshot = serving([server("team", "one", Labels::new(), Some(Labels::new()))]);
    snapshot.put(authority("a"));
    settle(&mut snapshot);
    assert_eq!(believed(&snapshot), 1);
    snapshot.put(authority("b"));
    settle(&mut snapshot);
    assert_eq!((believed(&snapshot), said(&snapshot)), (0, vec![("corp", "NameConflict"), ("corp", "NameConflict")]));
    snapshot.remove(Kind::Authority, "a");
    settle(&mut snapshot);
    assert_eq!((believed(&snapshot), said(&snapshot)), (1, vec![]));
}

#[test]
fn a_change_makes_its_own_site_anew_and_no_other() {
    let named = |name: &str| server("team", name, Labels::new(), Some(Labels::new()));
    let before = serving((0..1000).map(|number| named(&number.to_string())));
    let mut after = before.clone();
    after.put(Generated::Policy(crate::fleet::tests::allow_all("team")));
    settle(&mut after);
    assert!(after.serves_alike(&before), "a policy changes no site");
    after.put(Generated::Server(Server { audiences: vec!["another".into()], ..named("7") }));
    settle(&mut after);
    assert!(!after.serves_alike(&before));
    let changed = after.sites().filter(|site| !before.same(site).is_some_and(|old| Arc::ptr_eq(old, site)));
    assert_eq!(changed.map(|site| &*site.server.id.name).collect::<Vec<_>>(), ["7"]);
}

fn well_known(path: &str) -> String {
    format!("{}{path}", protected_resource::WELL_KNOWN_PREFIX)
}

#[test]
fn what_cannot_be_read_denies_what_it_governs_until_it_can_be_or_is_gone() {
    let served = server("team", "one", Labels::new(), Some(Labels::new()));
    let denied = |snapshot: &Snapshot| {
        snapshot.fleet.lookup("/team/one").and_then(|served| served.layers.denied.map(str::to_owned))
    };
    let mut snapshot = serving([served.clone()]);
    snapshot.refuse(Kind::Policy, "p", "GeneratedVersion", "newer");
    snapshot.refuse(Kind::Server, &served.id.uid, "GeneratedMalformed", "broken");
    settle(&mut snapshot);
    assert_eq!(
        said(&snapshot).iter().map(|(_, reason)| *reason).collect::<Vec<_>>(),
        ["GeneratedMalformed", "GeneratedVersion"]
    );
    assert!(snapshot.site("/team/one").is_none());
    snapshot.put(Generated::Server(served));
    settle(&mut snapshot);
    assert!(snapshot.site("/team/one").is_some());
    assert_eq!(denied(&snapshot).as_deref(), Some("GeneratedVersion"), "whom it narrows nobody knows");
    snapshot.remove(Kind::Policy, "p");
    settle(&mut snapshot);
    assert_eq!((denied(&snapshot), said(&snapshot)), (None, vec![]));
}
