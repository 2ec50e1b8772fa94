//! Whom a change touches: those that it concerns, and nobody else.

mod reaching;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::generated::authority::{KeySet, KeySource, Revocation};
use crate::generated::kind::OBJECT_KEY;
use crate::generated::report::REPORT;
use crate::resolve::PublicUrl;

fn store() -> Store {
    let issuer = ClusterIssuer::default();
    let installation = Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: "sys".into(),
        gateway_namespace: "gateway".into(),
        cluster_domain: "cluster.local".into(),
        service_account: "controller".into(),
        max_staleness: Duration::from_secs(3600),
        webhook: None,
    };
    Store::new(Arc::new(installation), issuer)
}

fn object(name: &str, version: u64, spec: &Value) -> DynamicObject {
    serde_json::from_value(json!({
        "metadata": {"namespace": "team", "name": name, "uid": format!("uid-{name}"), "generation": version,
            "resourceVersion": version.to_string()},
        "spec": spec,
    }))
    .unwrap()
}

fn trust(version: u64, issuer: &str) -> DynamicObject {
    let mut object = object("corp", version, &json!({"issuer": issuer}));
    object.metadata.namespace = None;
    object
}

fn server(path: Option<&str>) -> Value {
    let mut spec = json!({"upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
        "authorization": {"servers": ["corp"]}});
    if let Some(path) = path {
        spec["path"] = json!(path);
    }
    spec
}

fn key(kind: api::Kind, name: &str) -> Key {
    let namespace = if kind.is_namespaced() { "team" } else { "" };
    Key { kind, namespace: namespace.into(), name: name.into() }
}

/// Names of sources, with `?` for those whose status alone is looked at, and UIDs of strays. What may come to something else is
/// looked at in `reaching`.
fn names(mut touched: Touched) -> BTreeSet<String> {
    touched.retain(|(subject, _)| !matches!(subject, Subject::Near(_)));
    let name = |(subject, depth)| match (subject, depth) {
        (Subject::Source(key), Depth::Whole) => key.name,
        (Subject::Source(key), Depth::Status) => format!("{}?", key.name),
        (Subject::Source(key), Depth::Sweep) => format!("{}~", key.name),
        (Subject::Stray(kind, uid), _) => kind.object_name(&uid),
        (Subject::Unowned(uid), _) => format!("registrations of {uid}"),
        (Subject::Registered(_) | Subject::Near(_), _) => unreachable!(),
    };
    touched.into_iter().map(name).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const SERVER: api::Kind = api::Kind::McpServer;
const POLICY: api::Kind = api::Kind::McpPolicy;
const TRUST: api::Kind = api::Kind::McpAuthorizationServer;

#[test]
fn a_trust_anchor_touches_those_that_name_it_and_only_if_it_means_something_else() {
    let mut store = store();
    store.follow(&key(SERVER, "a"), BTreeSet::from([Reference::Authority("corp".into())]));
    store.follow(&key(SERVER, "b"), BTreeSet::from([Reference::Authority("other".into())]));
    assert_eq!(names(store.put_source(TRUST, trust(1, "https://a.example"))), set(["a", "corp"]));
    assert_eq!(names(store.put_source(TRUST, trust(1, "https://a.example"))), set([]), "told once more");
    let mut revoking = trust(2, "https://a.example");
    revoking.data["spec"]["revoked"] = json!([{"jti": "x"}]);
    assert_eq!(names(store.put_source(TRUST, revoking)), set(["corp"]), "no server means anything else by it");
    assert_eq!(names(store.put_source(TRUST, trust(3, "not an issuer"))), set(["a", "corp"]));
    assert!(store.authority("corp").is_none());
    let gone = store.source_gone(&key(TRUST, "corp"), "uid-corp");
    assert_eq!(names(gone), set(["authority-uid-corp"]));
}

#[test]
fn a_status_touches_a_status_and_an_older_version_nothing() {
    let mut store = store();
    store.put_source(SERVER, object("a", 1, &server(None)));
    let mut spoken = object("a", 2, &server(None));
    spoken.metadata.generation = Some(1);
    spoken.data["status"] = json!({"observedGeneration": 1});
    assert_eq!(names(store.put_source(SERVER, spoken.clone())), set(["a?"]));
    store.spoke(&key(SERVER, "a"), "uid-a", 3, json!({"observedGeneration": 9}));
    assert_eq!(names(store.put_source(SERVER, spoken.clone())), set([]));
    spoken.metadata.resource_version = Some("4".into());
    spoken.metadata.labels = Some([("l".to_owned(), "v".to_owned())].into());
    assert_eq!(names(store.put_source(SERVER, spoken)), set(["a"]), "labels have no generation");
}

#[test]
fn an_edit_that_was_made_while_a_status_was_being_written_is_not_lost() {
    let mut store = store();
    store.put_source(SERVER, object("a", 1, &server(None)));
    // The API server held version 3 when it took the status.
    let status = json!({"observedGeneration": 1});
    store.spoke(&key(SERVER, "a"), "uid-a", 5, status.clone());
    assert_eq!(names(store.put_source(SERVER, object("a", 3, &server(Some("/team/b"))))), set(["a"]));
    assert_eq!(store.source(&key(SERVER, "a")).unwrap().status, status, "it is not said again");
    let mut both = object("a", 5, &server(Some("/team/b")));
    both.metadata.generation = Some(3);
    both.data["status"] = status;
    assert_eq!(names(store.put_source(SERVER, both)), set([]));
}

#[test]
fn what_is_listed_replaces_what_was_known_before_and_nothing_that_was_written_since() {
    let mut store = store();
    let maps = Collection::ConfigMaps;
    let spec = json!({"targets": {"servers": ["a"]}, "rules": []});
    store.put_source(POLICY, object("p", 10, &spec));
    store.put_source(SERVER, object("a", 11, &server(None)));
    store.put_generated(maps, &generated("policy-uid-p", "1", 12, "{}"));
    // A cluster that goes on from before touches nothing.
    store.begin_sources(POLICY);
    store.begin_generated(maps);
    assert_eq!(names(store.put_source(POLICY, object("p", 10, &spec))), set([]));
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 12, "{}"))), set([]));
    // One that was restored counts from an earlier number on. Its generation may stand for something else.
    store.begin_sources(POLICY);
    store.begin_generated(maps);
    let mut restored = object("p", 4, &spec);
    restored.metadata.generation = Some(10);
    assert_eq!(names(store.put_source(POLICY, restored.clone())), set(["p"]));
    assert_eq!(names(store.put_source(POLICY, restored)), set([]), "told once more");
    assert_eq!(names(store.put_source(SERVER, object("a", 3, &server(None)))), set([]), "not of this listing");
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 5, "old"))), set(["p"]));
    assert_eq!(store.version(Kind::Policy, "uid-p"), Some(5));
    assert_eq!(store.versions.len(), 1);
    // Written while it was being listed.
    store.begin_generated(maps);
    let written = Present::read(&generated("policy-uid-p", "1", 7, "{}"), maps).unwrap();
    store.wrote(Kind::Policy, "uid-p", written);
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 5, "old"))), set([]));
    assert_eq!(store.version(Kind::Policy, "uid-p"), Some(7));
}

#[test]
fn claims_on_a_path_touch_each_other_however_they_come_and_go() {
    let mut store = store();
    store.put_source(SERVER, object("a", 1, &server(None)));
    assert_eq!(store.claimants(&key(SERVER, "a")), []);
    assert_eq!(names(store.put_source(SERVER, object("b", 2, &server(Some("/team/a"))))), set(["a", "b"]));
    assert_eq!(store.claimants(&key(SERVER, "a")), [key(SERVER, "a"), key(SERVER, "b")]);
    // What is not inside the namespace is nobody's claim.
    assert_eq!(names(store.put_source(SERVER, object("c", 3, &server(Some("/other/a"))))), set(["c"]));
    assert_eq!(names(store.put_source(SERVER, object("b", 4, &server(None)))), set(["a", "b"]));
    assert_eq!(store.claimants(&key(SERVER, "a")), []);
    store.put_source(SERVER, object("b", 5, &server(Some("/team/a"))));
    let gone = store.source_gone(&key(SERVER, "b"), "uid-b");
    assert_eq!(names(gone), set(["a", "server-uid-b"]));
    store.source_gone(&key(SERVER, "a"), "uid-a");
    store.source_gone(&key(SERVER, "c"), "uid-c");
    assert!(store.claims.is_empty() && store.claimed.is_empty());
}

fn generated(name: &str, own_uid: &str, version: u64, content: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "metadata": {"namespace": "gateway", "name": name, "uid": own_uid, "resourceVersion": version.to_string(),
            "labels": {"portcullis.dev/generated": "policy", "portcullis.dev/source-uid": "uid-p"},
            "annotations": {"portcullis.dev/source": "team/p"}},
        "data": {OBJECT_KEY: content},
    }))
    .unwrap()
}

#[test]
fn generated_objects_touch_their_source_if_they_are_not_as_they_should_be_and_strays_themselves() {
    let mut store = store();
    let maps = Collection::ConfigMaps;
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 1, "{}"))), set(["policy-uid-p"]));
    store.put_source(POLICY, object("p", 2, &json!({"targets": {"servers": ["a"]}, "rules": []})));
    assert_eq!(names(store.everything()), set(["p"]));
    let bytes: Arc<[u8]> = b"{}".as_slice().into();
    let wanted = Wanted { kind: Kind::Policy, uid: "uid-p".into(), source: "team/p".into(), bytes };
    assert!(store.want(&wanted), "it is there already");
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 3, "{}"))), set(["p?"]));
    assert_eq!(names(store.put_generated(maps, &generated("policy-uid-p", "1", 4, "other"))), set(["p"]));
    assert!(!store.want(&wanted));
    // Written by us, and told of afterwards.
    let written = generated("policy-uid-p", "1", 5, "{}");
    assert_eq!(names(store.wrote(Kind::Policy, "uid-p", Present::read(&written, maps).unwrap())), set([]));
    assert_eq!(names(store.put_generated(maps, &written)), set([]));
    // Deleted by somebody, and written again before that was told.
    store.wrote(Kind::Policy, "uid-p", Present::read(&generated("policy-uid-p", "2", 6, "{}"), maps).unwrap());
    assert_eq!(names(store.generated_gone("policy-uid-p", "1")), set([]));
    assert_eq!(names(store.generated_gone("policy-uid-p", "2")), set(["p"]));
    assert!(store.versions.is_empty());
    // Its source went while it was being written.
    assert_eq!(names(store.source_gone(&key(POLICY, "p"), "uid-p")), set(["policy-uid-p"]));
    let late = Present::read(&generated("policy-uid-p", "4", 8, "{}"), maps).unwrap();
    assert_eq!(names(store.wrote(Kind::Policy, "uid-p", late)), set(["policy-uid-p"]));
    assert_eq!(store.want_nothing(Kind::Policy, "uid-p").as_deref(), Some("4"));
    assert_eq!(names(store.put_generated(maps, &generated("portcullis-sealing", "3", 7, "{}"))), set([]));
}

#[test]
fn a_proxy_that_catches_up_touches_what_it_caught_up_with() {
    let mut store = store();
    for (name, version) in [("p", 10), ("q", 20)] {
        let mut policy = object(name, 1, &json!({"targets": {"servers": ["a"]}, "rules": []}));
        policy.metadata.uid = Some(format!("uid-{name}"));
        store.put_source(POLICY, policy);
        store.put_generated(Collection::ConfigMaps, &generated(&format!("policy-uid-{name}"), name, version, "{}"));
    }
    let moved = |after, upto| Change::CaughtUp(vec![(Collection::ConfigMaps, after, upto)]);
    assert_eq!(names(store.proxies_changed(moved(1, 10))), set(["p?"]));
    assert_eq!(names(store.proxies_changed(moved(10, 25))), set(["q?"]));
    assert_eq!(names(store.proxies_changed(moved(20, 25))), set([]));
    assert_eq!(names(store.proxies_changed(Change::Everything)), set(["p?", "q?"]));
}

#[test]
fn a_namespace_touches_those_in_it_and_only_if_its_labels_change() {
    let mut store = store();
    store.follow(&key(SERVER, "a"), BTreeSet::from([Reference::Namespace("team".into())]));
    let labels = |value: &str| Some(Labels::from([("tier".to_owned(), value.to_owned())]));
    assert_eq!(names(store.put_namespace("team", labels("1"))), set(["a"]));
    assert_eq!(names(store.put_namespace("team", labels("1"))), set([]));
    assert_eq!(names(store.put_namespace("other", labels("1"))), set([]));
    assert_eq!(names(store.put_namespace("team", None)), set(["a"]));
}

#[test]
fn a_server_that_comes_or_goes_touches_policies_that_name_it() {
    let mut store = store();
    store.follow(&key(POLICY, "p"), BTreeSet::from([Reference::Server("team".into(), "a".into())]));
    assert_eq!(names(store.put_source(SERVER, object("a", 1, &server(None)))), set(["a", "p"]));
    let mut edited = server(None);
    edited["state"] = json!("Disabled");
    assert_eq!(names(store.put_source(SERVER, object("a", 2, &edited))), set(["a"]));
    // Unreadable, and still there.
    assert_eq!(names(store.put_source(SERVER, object("a", 3, &json!({"x": 1})))), set(["a"]));
    assert!(store.has_server("team", "a"));
    assert_eq!(names(store.source_gone(&key(SERVER, "a"), "uid-a")), set(["p", "server-uid-a"]));
}

#[test]
fn what_a_trust_anchor_says_counts_from_the_version_that_said_it_first() {
    let mut store = store();
    let mut local = trust(1, "");
    local.data["spec"] = json!({"local": {}});
    store.put_source(TRUST, local);
    let client = key(api::Kind::McpClient, "c");
    let token = json!({"subject": "ana", "servers": ["a"]});
    let spec = json!({"method": "Token", "authorizationServer": "corp", "token": token});
    let valid_from = |version, from: &str| {
        let mut object = object("c", version, &spec);
        object.data["spec"]["validAfter"] = json!(from);
        object
    };
    store.put_source(api::Kind::McpClient, valid_from(2, "1970-01-01T00:00:07Z"));
    store.proxies.lease("proxy-a", &applied_by_a_proxy(5), Duration::ZERO);

    let mut authority = Authority::plain("uid-corp", "https://mcp.example.com");
    authority.keys = KeySource::Local;
    let write = |store: &mut Store, authority: &Authority, version: u64| {
        let wanted = Wanted::new(Kind::Authority, &authority.id, &Generated::Authority(authority.clone())).unwrap();
        store.want(&wanted);
        let mut object: DynamicObject = serde_json::from_value(wanted.manifest("gateway")).unwrap();
        (object.metadata.uid, object.metadata.resource_version) = (Some("own".into()), Some(version.to_string()));
        names(store.put_generated(Collection::ConfigMaps, &object))
    };
    let said = |store: &Store| {
        let itself = store.programming(Kind::Authority, "uid-corp").unwrap();
        (itself, store.client_programming(&client).unwrap())
    };
    let (all, waiting) = (Programming::Everywhere(1), Programming::Waiting);
    assert_eq!(write(&mut store, &authority, 5), set(["corp?"]));
    assert_eq!(said(&store), (all.clone(), waiting.clone()), "the client is on no list yet");
    let list = |after| Some(BTreeMap::from([("team/c/uid-c".to_owned(), after)]));
    authority.clients = list(7);
    assert_eq!(write(&mut store, &authority, 6), set(["corp?", "c?"]));
    assert_eq!(said(&store), (all.clone(), waiting.clone()));
    // Keys that were fetched anew.
    authority.key_set = Some(KeySet { jwks: "{}".into(), valid_until: 1 });
    assert_eq!(write(&mut store, &authority, 9), set(["corp?"]));
    assert_eq!(store.proxies.lease("proxy-a", &applied_by_a_proxy(6), Duration::ZERO), caught_up(5, 6));
    assert_eq!(names(store.proxies_changed(caught_up(5, 6))), set(["c?"]));
    assert_eq!(said(&store), (all.clone(), all.clone()));
    // An edit, and a start that is listed later than it was asked for.
    authority.revoked = vec![Revocation::Token { jti: "j".into() }];
    write(&mut store, &authority, 10);
    store.put_source(api::Kind::McpClient, valid_from(3, "1970-01-01T00:00:08Z"));
    assert_eq!(said(&store), (waiting.clone(), waiting.clone()));
    authority.clients = list(8);
    write(&mut store, &authority, 11);
    store.proxies.lease("proxy-a", &applied_by_a_proxy(10), Duration::ZERO);
    assert_eq!(said(&store), (all.clone(), waiting));
    store.proxies.lease("proxy-a", &applied_by_a_proxy(11), Duration::ZERO);
    assert_eq!(said(&store), (all.clone(), all));
    store.generated_gone("authority-uid-corp", "own");
    assert_eq!(store.client_programming(&client), Some(Programming::Waiting));
}

#[test]
fn an_id_is_a_clients_at_the_issuer_that_gave_it_and_at_no_other() {
    let mut store = store();
    store.put_source(TRUST, trust(1, "https://a.example"));
    store.follow(&key(POLICY, "p"), BTreeSet::from([Reference::Client("team".into(), "c".into())]));
    let registered_at = |version, issuer: &str| {
        let mut client = object("c", 1, &json!({"authorizationServer": "corp", "registration": {}}));
        client.metadata.resource_version = Some(u64::to_string(&version));
        let registration = json!({"method": "Admin", "issuer": issuer, "clientId": "portcullis-1"});
        client.data["status"] = json!({"clientId": "portcullis-1", "registration": registration});
        client
    };
    let client = api::Kind::McpClient;
    let id = |store: &Store| store.client("team", "c").unwrap().client_id().map(str::to_owned);
    store.put_source(client, registered_at(2, "https://a.example"));
    assert_eq!(id(&store).as_deref(), Some("portcullis-1"));
    // There it is somebody else, until it is registered there as well: with the same id, where ids are chosen.
    store.put_source(TRUST, trust(3, "https://b.example"));
    assert_eq!(id(&store), None);
    assert_eq!(names(store.put_source(client, registered_at(4, "https://b.example"))), set(["c?", "p"]));
    assert_eq!(id(&store).as_deref(), Some("portcullis-1"));
}

fn applied_by_a_proxy(maps: u64) -> Value {
    let report = json!({"reads": 1, "applied": {"Secrets": 1, "ConfigMaps": maps}});
    json!({"metadata": {"annotations": {REPORT: report.to_string()}}, "spec": {"renewTime": "1"}})
}

fn caught_up(after: u64, upto: u64) -> Change {
    Change::CaughtUp(vec![(Collection::ConfigMaps, after, upto)])
}
