//! From what people apply to what proxies are given, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::generated::Risk;
use portcullis::generated::authority::KeySource;
use portcullis::generated::codec::Generated;
use portcullis::generated::kind::{OBJECT_KEY, SOURCE};
use portcullis::generated::policy::{Effect, Standing};
use portcullis::generated::server::State;
use portcullis::resolve::{self, Accepted, Observed, PublicUrl, Settings};
use serde_json::{Value, json};

use super::{
    Controller, PUBLIC_URL, USER, VERSION, condition, content, generated, generated_of, message, object, policy, read,
    server, trust, try_generated, wait_condition,
};
use crate::chart::installed;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM, Write};
use crate::support::wait::until;

const KINDS: [&str; 4] = ["McpServer", "McpPolicy", "McpAuthorizationServer", "McpClient"];

/// Every object that people wrote, with its kind.
fn sources(cluster: &Cluster) -> Vec<(&'static str, Value)> {
    KINDS
        .into_iter()
        .flat_map(|kind| cluster.list(VERSION, kind, None).into_iter().map(move |one| (kind, one)))
        .collect()
}

fn apply_examples(cluster: &Cluster) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/platform-team");
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &format!("{folder}/namespaces.yaml")]);
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", folder]);
}

/// Waits until everything has a status about itself as it is.
fn wait_told(cluster: &Cluster) {
    until("everything to have a status", || {
        sources(cluster).iter().all(|(_, source)| condition(source, "Ready").is_some()).then_some(())
    });
}

fn allow_secrets(cluster: &Cluster, namespace: &str) {
    cluster.apply(&json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "portcullis-secret-reader", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "portcullis-secret-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": super::ACCOUNT, "namespace": SYSTEM}]}));
}

/// Without what the controller gives to an issuer of the gateway's own: a key, and the list of its clients.
fn unsigned(mut object: Generated) -> Generated {
    if let Generated::Authority(authority) = &mut object
        && authority.keys == KeySource::Local
    {
        assert!(authority.key_set.take().is_some() && authority.clients.take().is_some());
    }
    object
}

#[test]
fn what_is_applied_comes_to_what_standalone_makes_of_it_and_a_second_look_writes_nothing() {
    let cluster = installed();
    cluster.namespace("payments", &[]);
    allow_secrets(&cluster, "payments");
    apply_examples(&cluster);
    let controller = Controller::start(&cluster);
    wait_told(&cluster);

    // The same objects, as a folder of manifests would hold them.
    let sources = sources(&cluster);
    assert!(sources.len() >= 6, "{}", sources.len());
    let mut objects: Vec<_> = sources.into_iter().map(|(kind, one)| read(VERSION, kind, one)).collect();
    objects.extend(cluster.list("v1", "Namespace", None).into_iter().map(|mut namespace| {
        namespace.as_object_mut().unwrap().retain(|member, _| member != "spec" && member != "status");
        read("v1", "Namespace", namespace)
    }));
    objects.push(read("v1", "Secret", cluster.get("v1", "Secret", Some("payments"), "ledger-key").unwrap()));
    let public_url = PublicUrl::parse(PUBLIC_URL).unwrap();
    let presumed = portcullis::resolve::Cluster::presumed();
    let settings = Settings { public_url: &public_url, system_namespace: SYSTEM, cluster: Some(&presumed) };
    let expected =
        resolve::tree(&settings, &objects, &BTreeMap::new(), false, &Accepted::default(), Observed::default());
    let mut expected: Vec<String> = expected.generated.iter().map(|one| format!("{one:?}")).collect();
    expected.sort();
    let mut found: Vec<String> = generated(&cluster).into_values().map(|one| format!("{:?}", unsigned(one))).collect();
    found.sort();
    assert_eq!(found, expected);

    let ledger = object(&cluster, "McpServer", Some("payments"), "ledger").unwrap();
    let said = |type_: &str| condition(&ledger, type_).unwrap();
    assert_eq!(said("Accepted"), ("True".into(), "Accepted".into()));
    assert_eq!(said("ResolvedRefs"), ("True".into(), "ResolvedRefs".into()));
    assert_eq!(said("Programmed"), ("Unknown".into(), "NoProxies".into()));
    assert_eq!(said("Ready"), ("Unknown".into(), "NoProxies".into()));
    assert_eq!(ledger["status"]["resource"], "https://mcp.example.com/payments/ledger");
    assert_eq!(ledger["status"]["observedGeneration"], ledger["metadata"]["generation"]);

    // Beside the server lies its metadata document, which goes with it.
    let document = cluster.get("v1", "ConfigMap", Some("payments"), "ledger-mcp-metadata").unwrap();
    let text = document["data"]["oauth-protected-resource.json"].as_str().unwrap();
    let metadata: Value = serde_json::from_str(text).unwrap();
    assert_eq!(metadata["resource"], "https://mcp.example.com/payments/ledger");
    assert_eq!(document["metadata"]["ownerReferences"][0]["uid"], ledger["metadata"]["uid"]);

    // Another process, with an empty memory, and everything applied once more. What this one has asked for it has heard of.
    until("the issuer to have been asked", || {
        let corp = object(&cluster, "McpAuthorizationServer", None, "corp")?;
        (condition(&corp, "KeysAvailable")?.1 != "Fetching").then_some(())
    });
    controller.stop();
    let before = cluster.writes().len();
    let controller = Controller::start(&cluster);
    apply_examples(&cluster);
    controller.wait_leading();
    let looks = |kind: &str| {
        controller.metric(&format!("portcullis_reconciles_total{{kind=\"{kind}\",result=\"done\"}}")) as usize
    };
    until("everything to be looked at", || {
        KINDS.iter().all(|kind| looks(kind) >= cluster.list(VERSION, kind, None).len()).then_some(())
    });
    // What was asked for before is done before: the last one shows that nothing is under way.
    cluster.apply(&trust("last"));
    wait_condition(&cluster, ("McpAuthorizationServer", None, "last"), ("Accepted", "True", "Accepted"));
    let last = object(&cluster, "McpAuthorizationServer", None, "last").unwrap();
    let of_last = format!("authority-{}", last["metadata"]["uid"].as_str().unwrap());
    // Who asks for a token is given one, and nothing is stored: that is how the API server's audiences are learnt.
    let stored = |write: &Write| write.resource != "leases" && write.resource != "serviceaccounts/token";
    let idle = |write: &Write| !stored(write) || write.name.starts_with("last") || write.name == of_last;
    let writes = cluster.writes();
    let busy: Vec<&Write> = writes[before..].iter().filter(|w| w.user == USER && !idle(w)).collect();
    assert!(busy.is_empty(), "{busy:#?}");
    assert!(writes[before..].iter().any(|write| write.user == USER && write.name == of_last), "{writes:#?}");
}

#[test]
fn generated_objects_that_were_edited_or_deleted_are_restored_and_strays_are_removed() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    cluster.apply(&server("team", "notes", &json!({})));
    cluster.apply(&policy("team", "readers", "notes", "read"));
    // Left over from an installation long ago.
    let stray = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": GATEWAY, "name": "policy-0-1",
        "labels": {"portcullis.dev/generated": "policy"}}, "data": {OBJECT_KEY: "{}"}});
    cluster.apply(&stray);
    let _controller = Controller::start(&cluster);
    wait_told(&cluster);
    let is_gone = |name: &str| cluster.get("v1", "ConfigMap", Some(GATEWAY), name).is_none().then_some(());
    until("the stray to be removed", || is_gone("policy-0-1"));

    let good = generated(&cluster);
    assert_eq!(good.len(), 3);
    let restored = |what: &str| until(what, || (try_generated(&cluster) == Some(good.clone())).then_some(()));
    let names: Vec<&String> = good.keys().collect();
    for name in names {
        let kind = if name.starts_with("server") { "Secret" } else { "ConfigMap" };
        let there = || cluster.get("v1", kind, Some(GATEWAY), name);
        let own_uid = there().unwrap()["metadata"]["uid"].clone();
        cluster.delete("v1", kind, Some(GATEWAY), name);
        until("a deleted object to come back", || there().filter(|now| now["metadata"]["uid"] != own_uid));
        restored("it to be as it was");
        // Content, the label that it is watched by, and the name of its source.
        let edit = json!({"apiVersion": "v1", "kind": kind, "metadata": {"namespace": GATEWAY, "name": name,
            "labels": {"portcullis.dev/generated": "server-no-more"}, "annotations": {SOURCE: "other"}},
            "data": {OBJECT_KEY: "e30="}});
        cluster.apply(&edit);
        until("an edited object to be as it was", || {
            let now = there()?;
            let label = now["metadata"]["labels"]["portcullis.dev/generated"].as_str()? != "server-no-more";
            (label && now["metadata"]["annotations"][SOURCE] != "other" && content(&now) != b"{}").then_some(())
        });
        restored("it to be as it was");
    }
    cluster.apply(&stray);
    until("a new stray to be removed", || is_gone("policy-0-1"));
}

#[test]
fn an_invalid_edit_keeps_what_denied_and_stops_what_allowed_and_its_status_says_so() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&trust("corp"));
    cluster.apply(&server("team", "notes", &json!({})));
    cluster.apply(&policy("team", "readers", "notes", "read"));
    let mut never = policy("team", "never", "notes", "read");
    never["spec"]["rules"][0]["when"] = json!("args.a ==");
    cluster.apply(&never);
    let controller = Controller::start(&cluster);
    let readers = ("McpPolicy", Some("team"), "readers");
    wait_condition(&cluster, readers, ("Accepted", "True", "Accepted"));

    // Never accepted: its namespace is denied.
    let never =
        wait_condition(&cluster, ("McpPolicy", Some("team"), "never"), ("Accepted", "False", "ConditionInvalid"));
    let said = message(&never, "Accepted");
    assert!(said.contains("spec.rules[0].when") && said.contains("namespace team is denied"), "{said}");
    assert_eq!(condition(&never, "Stalled"), Some(("True".into(), "ConditionInvalid".into())));
    let Some(Generated::Policy(standing)) = generated_of(&cluster, "policy", &never) else { panic!() };
    assert!(matches!(standing.standing, Standing::DenyAll { .. }), "{standing:?}");

    // An edit that the API server's schema does not refuse, and we do: by a name that nobody knows.
    let mut broken = policy("team", "readers", "notes", "read");
    broken["spec"]["rules"][0]["whne"] = json!("true");
    let check = |deny: bool| {
        let told = wait_condition(&cluster, readers, ("Accepted", "False", "UnknownField"));
        let said = message(&told, "Accepted");
        assert!(said.contains("whne") && said.contains("Deny and RequireApproval rules stay in force (1)"), "{said}");
        assert_eq!(condition(&told, "Enforced").unwrap().0, "False");
        let Some(Generated::Policy(policy)) = generated_of(&cluster, "policy", &told) else { panic!() };
        assert_eq!(policy.standing, Standing::NarrowingOnly { reason: "UnknownField".into() });
        let effects: Vec<Effect> = policy.rules.iter().map(|rule| rule.effect).collect();
        assert_eq!(effects, [Effect::Deny]);
        assert_eq!(policy.rules[0].principals[0].authority.is_none(), deny, "{policy:?}");
        told["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    cluster.apply(&broken);
    let uid = check(true);
    // It outlives the process that accepted it, and a hand that would make it weaker.
    controller.stop();
    let controller = Controller::start(&cluster);
    // What it has not looked at yet, it does not remember either.
    until("it to have looked at both policies", || {
        (controller.metric("portcullis_reconciles_total{kind=\"McpPolicy\",result=\"done\"}") >= 2.0).then_some(())
    });
    check(true);
    cluster.delete("v1", "ConfigMap", Some(GATEWAY), &format!("policy-{uid}"));
    until("it to be back", || cluster.get("v1", "ConfigMap", Some(GATEWAY), &format!("policy-{uid}")));
    check(true);

    // Mended, and then deleted while it is broken again: nothing is left of it.
    cluster.apply(&policy("team", "readers", "notes", "write"));
    let told = wait_condition(&cluster, readers, ("Accepted", "True", "Accepted"));
    let Some(Generated::Policy(policy)) = generated_of(&cluster, "policy", &told) else { panic!() };
    assert_eq!(policy.standing, Standing::InForce);
    assert_eq!(policy.rules[0].tools[0].names, ["write"]);
    cluster.apply(&broken);
    check(true);
    cluster.delete(VERSION, "McpPolicy", Some("team"), "readers");
    until("nothing to be left of it", || {
        cluster.get("v1", "ConfigMap", Some(GATEWAY), &format!("policy-{uid}")).is_none().then_some(())
    });
}

#[test]
fn what_objects_refer_to_is_followed_and_claims_on_one_path_close_all() {
    let cluster = installed();
    cluster.namespace("team", &[("tier", "one")]);
    let _controller = Controller::start(&cluster);
    cluster.apply(&policy("team", "readers", "notes", "read"));
    cluster.apply(&server("team", "notes", &json!({})));
    let (notes, readers) = (("McpServer", Some("team"), "notes"), ("McpPolicy", Some("team"), "readers"));
    wait_condition(&cluster, notes, ("ResolvedRefs", "False", "AuthorityNotFound"));
    wait_condition(&cluster, readers, ("ResolvedRefs", "False", "AuthorityNotFound"));
    let state = |name: &str| {
        let found = object(&cluster, "McpServer", Some("team"), name).unwrap();
        match generated_of(&cluster, "server", &found) {
            Some(Generated::Server(server)) => Some(server),
            _ => None,
        }
    };
    assert!(matches!(state("notes").unwrap().state, State::Unserved { .. }));

    cluster.apply(&trust("corp"));
    wait_condition(&cluster, notes, ("ResolvedRefs", "True", "ResolvedRefs"));
    wait_condition(&cluster, readers, ("ResolvedRefs", "True", "ResolvedRefs"));
    assert_eq!(state("notes").unwrap().state, State::Enabled);
    cluster.namespace("team", &[("tier", "two")]);
    until("the namespace's labels to be known", || {
        (state("notes")?.namespace_labels?.get("tier")? == "two").then_some(())
    });

    // Labels have no generation, and count.
    let mut labelled =
        server("team", "notes", &json!({"tools": {"risk": [{"name": "r", "match": ["x_*"], "class": "Write"}]}}));
    labelled["metadata"]["labels"] = json!({"owner": "ana"});
    cluster.apply(&labelled);
    until("the server's labels to be known", || {
        let server = state("notes")?;
        (server.labels.get("owner")? == "ana" && server.risk[0].class == Risk::Write).then_some(())
    });

    cluster.apply(&server("team", "rival", &json!({"path": "/team/notes"})));
    for name in ["notes", "rival"] {
        let told = wait_condition(&cluster, ("McpServer", Some("team"), name), ("Accepted", "False", "PathConflict"));
        assert!(message(&told, "Accepted").contains("McpServer team/notes and McpServer team/rival"));
        assert!(matches!(state(name).unwrap().state, State::Unserved { .. }), "{name}");
    }
    cluster.delete(VERSION, "McpServer", Some("team"), "rival");
    wait_condition(&cluster, notes, ("Accepted", "True", "Accepted"));
    assert_eq!(state("notes").unwrap().state, State::Enabled);

    cluster.delete(VERSION, "McpAuthorizationServer", None, "corp");
    wait_condition(&cluster, notes, ("ResolvedRefs", "False", "AuthorityNotFound"));
    let told = wait_condition(&cluster, readers, ("ResolvedRefs", "False", "AuthorityNotFound"));
    let Some(Generated::Policy(policy)) = generated_of(&cluster, "policy", &told) else { panic!() };
    let authorities: BTreeSet<_> = policy.rules.iter().map(|rule| rule.principals[0].authority.is_some()).collect();
    assert_eq!(authorities, BTreeSet::from([true, false]), "an Allow matches nobody, a Deny everybody: {policy:?}");
}
