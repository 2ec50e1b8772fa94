//! What proxies report, and what is said of it.

use portcullis::generated::Authority;
use portcullis::generated::codec::Generated;
use serde_json::{Value, json};

use super::identities::{ANA, authority, client, with_client};
use super::{Controller, object, policy, server, trust, wait_condition};
use crate::chart::installed;
use crate::support::kube::{Cluster, GATEWAY, Write};
use crate::support::wait::until;

/// A proxy that says this, with a Lease that holds for `seconds`.
fn report(cluster: &Cluster, name: &str, renewed: &str, seconds: u32, report: &Value) {
    cluster.apply(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": GATEWAY, "name": format!("proxy-{name}"), "labels": {"portcullis.dev/reports": "proxy"},
            "annotations": {"portcullis.dev/report": report.to_string()}},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": renewed}}));
}

/// The version of what is generated of an object.
fn version(cluster: &Cluster, label: &str, kind: &str, source: &Value) -> u64 {
    let name = format!("{label}-{}", source["metadata"]["uid"].as_str().unwrap());
    let found = cluster.get("v1", kind, Some(GATEWAY), &name).unwrap();
    found["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[test]
fn programmed_and_enforced_are_what_every_proxy_says() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    cluster.apply(&server("team", "notes", &json!({})));
    cluster.apply(&policy("team", "readers", "notes", "read"));
    let _controller = Controller::start(&cluster);
    let (notes, readers) = (("McpServer", Some("team"), "notes"), ("McpPolicy", Some("team"), "readers"));
    let of_server = wait_condition(&cluster, notes, ("Programmed", "Unknown", "NoProxies"));
    let of_policy = wait_condition(&cluster, readers, ("Enforced", "Unknown", "NoProxies"));
    let secrets = version(&cluster, "server", "Secret", &of_server);
    let maps = version(&cluster, "policy", "ConfigMap", &of_policy);
    let applied = |secrets: u64, maps: u64| json!({"reads": 1, "applied": {"Secrets": secrets, "ConfigMaps": maps}});
    let (first, second) = ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:10.000000Z");

    report(&cluster, "a", first, 600, &applied(secrets, maps));
    wait_condition(&cluster, notes, ("Ready", "True", "Ready"));
    wait_condition(&cluster, readers, ("Ready", "True", "Ready"));
    report(&cluster, "b", first, 600, &applied(secrets, maps - 1));
    wait_condition(&cluster, readers, ("Enforced", "False", "Pending"));
    wait_condition(&cluster, notes, ("Programmed", "True", "Programmed"));
    report(&cluster, "b", second, 600, &applied(secrets, maps));
    wait_condition(&cluster, readers, ("Enforced", "True", "Enforced"));

    // A change counts once both have it.
    cluster.apply(&policy("team", "readers", "notes", "write"));
    let changed = wait_condition(&cluster, readers, ("Enforced", "False", "Pending"));
    let newer = version(&cluster, "policy", "ConfigMap", &changed);
    assert!(newer > maps);
    for name in ["a", "b"] {
        report(&cluster, name, second, 600, &applied(secrets, newer));
    }
    wait_condition(&cluster, readers, ("Enforced", "True", "Enforced"));

    // One cannot load it.
    let mut refusing = applied(secrets, newer);
    refusing["refused"] = json!({changed["metadata"]["uid"].as_str().unwrap(): "GeneratedMalformed"});
    report(&cluster, "b", first, 600, &refusing);
    let told = wait_condition(&cluster, readers, ("Enforced", "False", "ProxyRefused"));
    assert!(super::message(&told, "Enforced").contains("GeneratedMalformed"));

    // It falls silent: while its Pod is there it could be serving, whatever it last said.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": GATEWAY, "name": "b"},
        "spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "image": "c",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
    cluster.apply(&pod);
    // What a proxy says counts for a minute.
    report(&cluster, "a", "2026-01-01T00:00:20.000000Z", 600, &applied(secrets, newer));
    report(&cluster, "b", second, 1, &applied(secrets, newer));
    let told = wait_condition(&cluster, readers, ("Enforced", "False", "ProxySilent"));
    assert!(super::message(&told, "Enforced").contains(": b."), "{}", super::message(&told, "Enforced"));
    let all_told = wait_condition(&cluster, notes, ("Programmed", "False", "ProxySilent"));
    assert_eq!(super::condition(&all_told, "Ready"), Some(("False".into(), "ProxySilent".into())));
    // Its Pod goes, and with it what it said.
    report(&cluster, "a", "2026-01-01T00:00:30.000000Z", 600, &applied(secrets, newer));
    cluster.kubectl(&["-n", GATEWAY, "delete", "pod", "b", "--force", "--grace-period=0"]);
    wait_condition(&cluster, readers, ("Enforced", "True", "Enforced"));
    wait_condition(&cluster, notes, ("Ready", "True", "Ready"));
    assert!(object(&cluster, "McpServer", Some("team"), "notes").is_some());
}

#[test]
fn a_revocation_is_ready_once_every_proxy_has_it_and_keys_and_lists_of_others_are_no_matter_of_it() {
    let (cluster, _controller) = with_client();
    let (local, bob) = (("McpAuthorizationServer", None, "local"), ("McpClient", Some("team"), "bob"));
    let ready = ("Ready", "True", "Ready");
    wait_condition(&cluster, ANA, ("Ready", "Unknown", "NoProxies"));
    let trusted = wait_condition(&cluster, local, ("Ready", "Unknown", "NoProxies"));
    // The version of the trust anchor that says something to proxies.
    let told = |what: &str, holds: &dyn Fn(&Authority) -> bool| {
        until(what, || match super::generated_of(&cluster, "authority", &trusted) {
            Some(Generated::Authority(authority)) if holds(&authority) => Some(()),
            _ => None,
        });
        version(&cluster, "authority", "ConfigMap", &trusted)
    };
    let clients = |authority: &Authority| authority.clients.clone().unwrap_or_default();
    let mut said = 0;
    let mut say = |maps: u64| {
        said += 1;
        let applied = json!({"reads": 1, "applied": {"Secrets": 1, "ConfigMaps": maps}});
        report(&cluster, "a", &format!("2026-01-01T00:00:{said:02}.000000Z"), 60, &applied);
    };
    say(told("the client to be listed", &|authority| clients(authority).len() == 1));
    wait_condition(&cluster, local, ready);
    wait_condition(&cluster, ANA, ready);
    wait_condition(&cluster, ("McpServer", Some("team"), "notes"), ("Programmed", "False", "Pending"));
    let said_of = |writes: &[Write]| {
        let ours = |write: &&Write| write.resource.ends_with("/status") && write.resource.starts_with("mcp");
        writes.iter().filter(ours).map(|write| write.name.clone()).collect::<Vec<_>>()
    };
    // What is written comes into the log a moment later.
    let before = until("what all said of the first report to be on record", || {
        let writes = cluster.writes();
        let report = writes.iter().rposition(|write| write.resource == "leases" && write.name.ends_with("-a"))?;
        let all = said_of(&writes[report..]);
        let has = |name: &&str| all.iter().any(|one| one == name);
        ["ana", "local", "notes"].iter().all(has).then_some(writes.len())
    });

    // Another client: that it is listed counts for nobody else.
    let mut another = client(&json!({}));
    another["metadata"]["name"] = json!("bob");
    cluster.apply(&another);
    wait_condition(&cluster, bob, ("Ready", "False", "Pending"));
    say(told("both to be listed", &|authority| clients(authority).len() == 2));
    wait_condition(&cluster, bob, ready);
    until("both to be on record", || (said_of(&cluster.writes()[before..]).len() >= 2).then_some(()));
    let mut statuses = said_of(&cluster.writes()[before..]);
    statuses.sort_unstable();
    assert_eq!(statuses, ["bob", "bob"]);

    // One token is revoked.
    cluster.apply(&authority("local", &json!({"local": {}, "revoked": [{"jti": "stolen"}]})));
    wait_condition(&cluster, local, ("Ready", "False", "Pending"));
    let ana = object(&cluster, "McpClient", Some("team"), "ana").unwrap();
    assert_eq!(super::condition(&ana, "Ready"), Some(("True".into(), "Ready".into())));
    say(told("it to be revoked", &|authority| !authority.revoked.is_empty()));
    wait_condition(&cluster, local, ready);

    // All tokens of a client that were issued before a time.
    let now = i64::try_from(crate::support::now()).unwrap();
    let ends = jiff::Timestamp::from_second(now).unwrap().to_string();
    cluster.apply(&client(&json!({"validAfter": ends})));
    wait_condition(&cluster, ANA, ("Enforced", "False", "Pending"));
    let version = told("its tokens to end", &|authority| clients(authority).values().any(|after| *after == now));
    say(version - 1);
    wait_condition(&cluster, ANA, ("Ready", "False", "Pending"));
    say(version);
    wait_condition(&cluster, ANA, ready);
    let still = object(&cluster, "McpAuthorizationServer", None, "local").unwrap();
    assert_eq!(super::condition(&still, "Ready"), Some(("True".into(), "Ready".into())));
}

#[test]
fn a_key_that_a_proxy_lacks_is_fetched_and_written_for_all() {
    use crate::support::issuer::{Document, Issuer};
    let cluster = installed();
    let issuer = Issuer::start();
    let mut trusted = trust("corp");
    trusted["spec"]["issuer"] = json!(issuer.url());
    cluster.apply(&trusted);
    let controller = Controller::start(&cluster);
    let corp = ("McpAuthorizationServer", None, "corp");
    let told = wait_condition(&cluster, corp, ("KeysAvailable", "True", "KeysAvailable"));
    let keys = || match super::generated_of(&cluster, "authority", &told) {
        Some(portcullis::generated::codec::Generated::Authority(authority)) => authority.key_set,
        _ => None,
    };
    let first = keys().unwrap();
    let hits = issuer.hits(Document::Jwks);
    assert!(hits >= 1 && first.jwks.contains("\"keys\""), "{first:?}");

    // Its keys were rotated, and a token names the new one. The issuer is asked as soon as it may be asked again.
    issuer.publish(json!({"keys": [{"kty": "EC", "kid": "the-new-key"}]}));
    let wanting = json!({"reads": 1, "wanted": {"corp": "the-new-key"}});
    let mut renewals = 0;
    let second = until("the new key to be written", || {
        renewals += 1;
        report(&cluster, "a", &format!("2026-01-01T00:00:00.{renewals:06}Z"), 600, &wanting);
        std::thread::sleep(std::time::Duration::from_millis(500));
        keys().filter(|keys| keys.jwks.contains("the-new-key"))
    });
    assert!(second.valid_until >= first.valid_until);
    assert_eq!(issuer.hits(Document::Jwks), hits + 1, "one refresh, however often it is asked for");
    assert_eq!(controller.metric("portcullis_objects{kind=\"McpAuthorizationServer\"}"), 1.0);
}
