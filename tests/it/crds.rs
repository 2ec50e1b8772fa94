//! Our kinds as a real API server takes them: schemas within its cost budget, every rule with what it accepts and refuses,
//! and lists that merge by their keys.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::kube::Cluster;
use crate::support::runtime;

const VERSION: &str = "portcullis.dev/v1alpha1";

fn server() -> Value {
    json!({"apiVersion": VERSION, "kind": "McpServer", "metadata": {"name": "notes", "namespace": "default"}, "spec": {
        "upstream": {"url": "https://notes.example/mcp", "credentials": {"none": {}}},
        "authorization": {"servers": ["corp"]}}})
}

fn policy() -> Value {
    json!({"apiVersion": VERSION, "kind": "McpPolicy", "metadata": {"name": "readers", "namespace": "default"}, "spec": {
        "authority": "corp", "targets": {"servers": ["notes"]},
        "rules": [{"name": "read", "effect": "Allow", "principals": [{"users": ["ana"]}], "tools": [{"names": ["get"]}]}]}})
}

fn trust() -> Value {
    json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": "corp"},
        "spec": {"issuer": "https://login.example"}})
}

fn client() -> Value {
    json!({"apiVersion": VERSION, "kind": "McpClient", "metadata": {"name": "ana", "namespace": "default"}, "spec": {
        "authorizationServer": "local", "method": "Token", "token": {"subject": "ana", "servers": ["notes"]}}})
}

/// A client of a method, or (null) of none, that is registered with this.
fn registered(method: Value, registration: Value) -> Value {
    with(client(), &[("/spec/method", method), ("/spec/token", Value::Null), ("/spec/registration", registration)])
}

/// A trust anchor at which clients are registered.
fn registering(registration: Value) -> Value {
    with(trust(), &[("/spec/registration", registration)])
}

const PRIVATE_KEY: &str =
    "a private key or a shared one; register public keys only, and replace this one: it has been shown";
/// What stands where the private part of a key would.
const CANARY: &str = "canary-of-a-private-key";

/// A public key with these members besides.
fn jwk(besides: &[&str]) -> Value {
    let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"});
    besides.iter().for_each(|member| key[*member] = json!(CANARY));
    key
}

/// `object` with `value` at a JSON pointer; null removes.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {pointer}"));
        match (parent, value) {
            (Value::Object(members), Value::Null) => drop(members.remove(member)),
            (Value::Object(members), value) => drop(members.insert(member.to_owned(), value.clone())),
            (Value::Array(entries), value) => entries[member.parse::<usize>().unwrap()] = value.clone(),
            (other, _) => panic!("{pointer} is below {other}"),
        }
    }
    object
}

/// A rule's message, what it accepts, and what it refuses.
type Case = (&'static str, Vec<Value>, Vec<Value>);

fn cases() -> Vec<Case> {
    let entry = "/spec/rules/0/principals/0";
    let rule = |member: &str| format!("/spec/rules/0/{member}");
    let at = |pointer: &str, value: Value| with(policy(), &[(pointer, value)]);
    let principal = |value: Value| at(entry, value);
    let upstream = |value: Value| with(server(), &[("/spec/upstream", value)]);
    let revoked = |value: Value| with(trust(), &[("/spec/revoked", json!([value]))]);
    let trusting = |spec: Value| with(trust(), &[("/spec", spec)]);
    let exception = |from: &str, until: &str| {
        let given = json!({"reason": "outage", "ticket": "INC-1"});
        let (from, until) = (json!(from), json!(until));
        with(policy(), &[(&rule("breakGlass"), given), (&rule("notBefore"), from), (&rule("notAfter"), until)])
    };
    let limit = |value: Value| at(&rule("limits"), json!([value]));
    vec![
        (
            "give exactly one of subjects and any: true",
            vec![
                principal(json!({"users": ["ana"], "actor": {"subjects": ["bot"]}})),
                principal(json!({"users": ["ana"], "actor": {"any": true}})),
            ],
            vec![
                principal(json!({"users": ["ana"], "actor": {}})),
                principal(json!({"users": ["ana"], "actor": {"any": false}})),
                principal(json!({"users": ["ana"], "actor": {"subjects": ["bot"], "any": true}})),
            ],
        ),
        ("any is true or absent", vec![principal(json!({"any": true}))], vec![principal(json!({"any": false}))]),
        (
            "say whom: users, groups, clients, serviceAccount, via, or any: true",
            vec![principal(json!({"groups": ["sre"]})), principal(json!({"via": ["https://ide.example"]}))],
            vec![principal(json!({"authority": "corp"})), principal(json!({"any": true, "users": ["ana"]}))],
        ),
        (
            "give either calls, or sum and max",
            vec![
                limit(json!({"name": "daily", "calls": 5, "per": "1h"})),
                limit(json!({"name": "spend", "sum": "args.amount", "max": 10, "per": "1h"})),
            ],
            vec![
                limit(json!({"name": "daily", "per": "1h"})),
                limit(json!({"name": "daily", "calls": 5, "sum": "args.amount", "max": 10, "per": "1h"})),
                limit(json!({"name": "spend", "sum": "args.amount", "per": "1h"})),
            ],
        ),
        (
            "give names, patterns or risk",
            vec![at(&rule("tools"), json!([{"risk": ["ReadOnly"]}])), at(&rule("tools"), json!([{"patterns": ["*"]}]))],
            vec![at(&rule("tools"), json!([{}]))],
        ),
        (
            "say what the rule is about: tools, resources or prompts",
            vec![at(&rule("prompts"), json!([{"names": ["*"]}]))],
            vec![at(&rule("tools"), Value::Null)],
        ),
        (
            "notBefore must be earlier than notAfter",
            vec![with(
                policy(),
                &[
                    (&rule("notBefore"), json!("2026-01-01T00:00:00Z")),
                    (&rule("notAfter"), json!("2026-02-01T00:00:00Z")),
                ],
            )],
            vec![with(
                policy(),
                &[
                    (&rule("notBefore"), json!("2026-02-01T00:00:00Z")),
                    (&rule("notAfter"), json!("2026-02-01T00:00:00Z")),
                ],
            )],
        ),
        (
            "approval belongs to the effect RequireApproval",
            vec![with(
                policy(),
                &[(&rule("effect"), json!("RequireApproval")), (&rule("approval"), json!({"quorum": 1}))],
            )],
            vec![at(&rule("approval"), json!({"quorum": 1}))],
        ),
        (
            "breakGlass belongs to an Allow with notBefore and notAfter",
            vec![exception("2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z")],
            vec![
                at(&rule("breakGlass"), json!({"reason": "outage"})),
                with(exception("2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z"), &[(&rule("effect"), json!("Deny"))]),
            ],
        ),
        (
            "a rule with breakGlass holds for 24 hours at most",
            vec![exception("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")],
            vec![exception("2026-01-01T00:00:00Z", "2026-01-02T00:00:01Z")],
        ),
        (
            "give servers or selector (an empty selector means every server)",
            vec![at("/spec/targets", json!({"selector": {}}))],
            vec![at("/spec/targets", json!({}))],
        ),
        (
            "give exactly one of none, headers, oauth and serviceAccount",
            vec![server()],
            vec![
                with(server(), &[("/spec/upstream/credentials", json!({}))]),
                with(server(), &[("/spec/upstream/credentials", json!({"none": {}, "oauth": {"client": "c"}}))]),
            ],
        ),
        (
            "give exactly one of url and service",
            vec![upstream(json!({"service": {"name": "notes", "port": 80}, "credentials": {"none": {}}}))],
            vec![
                upstream(json!({"credentials": {"none": {}}})),
                upstream(json!({"url": "https://x.example/mcp", "service": {"name": "notes", "port": 80},
                    "credentials": {"none": {}}})),
            ],
        ),
        (
            "oauth tokens are sent over https only: set service.scheme",
            vec![
                upstream(json!({"service": {"name": "notes", "port": 443, "scheme": "https"},
                    "credentials": {"oauth": {"client": "c"}}})),
                upstream(json!({"url": "https://x.example/mcp", "credentials": {"oauth": {"client": "c"}}})),
            ],
            vec![
                upstream(json!({"service": {"name": "notes", "port": 80}, "credentials": {"oauth": {"client": "c"}}})),
                upstream(json!({"service": {"name": "notes", "port": 80, "scheme": "http"},
                    "credentials": {"oauth": {"client": "c"}}})),
            ],
        ),
        (
            "serviceAccount credentials are sent to a service only",
            vec![upstream(json!({"service": {"name": "notes", "port": 80}, "credentials": {"serviceAccount": {}}}))],
            vec![upstream(json!({"url": "https://x.example/mcp", "credentials": {"serviceAccount": {}}}))],
        ),
        (
            "the name must be at most 63 characters",
            vec![with(server(), &[("/metadata/name", json!("n".repeat(63)))])],
            vec![
                with(server(), &[("/metadata/name", json!("n".repeat(64)))]),
                with(client(), &[("/metadata/name", json!("n".repeat(64)))]),
                with(
                    registered(json!("DCR"), json!({"jwks": {"keys": [jwk(&["d"])]}})),
                    &[("/metadata/name", json!("n".repeat(64)))],
                ),
            ],
        ),
        (
            "say where the token is accepted: servers or audiences",
            vec![
                client(),
                with(client(), &[("/spec/token", json!({"subject": "ana", "audiences": ["https://mcp.example/a/b"]}))]),
            ],
            vec![with(client(), &[("/spec/token", json!({"subject": "ana"}))])],
        ),
        (
            "token belongs to the method Token",
            vec![registered(json!("DCR"), json!({})), registered(Value::Null, json!({}))],
            vec![with(client(), &[("/spec/method", json!("DCR"))]), with(client(), &[("/spec/token", Value::Null)])],
        ),
        (
            "registration belongs to every method but Token, and to no method",
            vec![client(), registered(json!("Admin"), json!({})), registered(Value::Null, json!({}))],
            vec![
                with(client(), &[("/spec/registration", json!({"jwks": {"keys": [jwk(&["d"])]}}))]),
                with(client(), &[("/spec/method", json!("CIMD")), ("/spec/token", Value::Null)]),
                with(client(), &[("/spec/method", Value::Null), ("/spec/token", Value::Null)]),
            ],
        ),
        (
            "registration.clientId is for the method Preregistered, which needs it, or CIMD",
            vec![
                registered(json!("Preregistered"), json!({"clientId": "a"})),
                registered(json!("CIMD"), json!({"clientId": "https://a.example/client.json"})),
                registered(json!("CIMD"), json!({})),
            ],
            vec![
                registered(json!("Preregistered"), json!({})),
                registered(json!("DCR"), json!({"clientId": "a"})),
                registered(Value::Null, json!({"clientId": "a", "jwks": {"keys": [jwk(&["d"])]}})),
            ],
        ),
        (
            "validAfter belongs to the method Token",
            vec![with(client(), &[("/spec/validAfter", json!("2026-11-25T10:00:00Z"))])],
            vec![with(registered(json!("DCR"), json!({})), &[("/spec/validAfter", json!("2026-11-25T10:00:00Z"))])],
        ),
        (
            "give jwks or jwksUri, not both",
            vec![
                registered(json!("DCR"), json!({"jwks": {"keys": [jwk(&[])]}})),
                registered(json!("DCR"), json!({"jwksUri": "https://a.example/jwks.json"})),
            ],
            vec![registered(
                json!("DCR"),
                json!({"jwks": {"keys": [jwk(&["d"])]}, "jwksUri": "https://a.example/jwks.json"}),
            )],
        ),
        (
            "clientSecretRef belongs to a clientId",
            vec![registered(
                json!("Preregistered"),
                json!({"clientId": "a", "clientSecretRef": {"name": "given", "key": "secret"}}),
            )],
            vec![registered(json!("DCR"), json!({"clientSecretRef": {"name": "given", "key": "secret"}}))],
        ),
        (
            PRIVATE_KEY,
            vec![registered(json!("DCR"), json!({"jwks": {"keys": [jwk(&[]), jwk(&["kid"])]}}))],
            ["d", "p", "q", "dp", "dq", "qi", "k"]
                .map(|member| registered(json!("DCR"), json!({"jwks": {"keys": [jwk(&[]), jwk(&[member])]}})))
                .to_vec(),
        ),
        (
            "Admin needs adminCredentialRef; adminCredentialRef and adminUrl are for Admin alone",
            vec![
                registering(json!({"methods": ["Admin", "DCR"], "adminCredentialRef": {"name": "admin"}})),
                registering(json!({"methods": ["CIMD"]})),
            ],
            vec![
                registering(json!({"methods": ["Admin"]})),
                registering(json!({"methods": ["DCR"], "adminCredentialRef": {"name": "admin"}})),
                registering(json!({"methods": ["DCR"], "adminUrl": "https://login.example/admin"})),
            ],
        ),
        (
            "initialAccessTokenRef is for DCR alone",
            vec![registering(json!({"methods": ["DCR"], "initialAccessTokenRef": {"name": "iat", "key": "token"}}))],
            vec![registering(json!({"methods": ["CIMD"], "initialAccessTokenRef": {"name": "iat", "key": "token"}}))],
        ),
        (
            "give either jti, or subject and issuedBefore",
            vec![
                revoked(json!({"jti": "1"})),
                revoked(json!({"subject": "ana", "issuedBefore": "2026-01-01T00:00:00Z"})),
            ],
            vec![
                revoked(json!({"subject": "ana"})),
                revoked(json!({})),
                revoked(json!({"jti": "1", "subject": "ana", "issuedBefore": "2026-01-01T00:00:00Z"})),
            ],
        ),
        (
            "give exactly one of issuer, local and kubernetes",
            vec![trust(), trusting(json!({"local": {}})), trusting(json!({"kubernetes": {}}))],
            vec![trusting(json!({})), trusting(json!({"local": {}, "kubernetes": {}}))],
        ),
        (
            "validation, caRef, registration and profile belong to an issuer",
            vec![with(trust(), &[("/spec/validation", json!({"skew": "10s"}))])],
            vec![
                trusting(json!({"local": {}, "validation": {"skew": "10s"}})),
                trusting(json!({"kubernetes": {}, "caRef": {"configMapName": "ca"}})),
            ],
        ),
    ]
}

/// Messages of rules that compare an object with what it was before: see [`what_cannot_be_changed_is_refused`].
const TRANSITIONS: [&str; 2] =
    ["gateway cannot be changed", "validAfter cannot be moved back: tokens that were revoked would be believed again"];

/// Every rule's message in our CustomResourceDefinitions.
fn messages(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            let rules = members.get("x-kubernetes-validations").and_then(Value::as_array);
            found.extend(rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str().map(str::to_owned)));
            members.values().for_each(|member| messages(member, found));
        }
        Value::Array(entries) => entries.iter().for_each(|entry| messages(entry, found)),
        _ => {}
    }
}

#[test]
fn every_rule_accepts_and_refuses() {
    let mut rules = BTreeSet::new();
    portcullis::api::crd::all().iter().for_each(|crd| messages(&serde_json::to_value(crd).unwrap(), &mut rules));
    let tested: BTreeSet<String> =
        cases().iter().map(|(message, ..)| *message).chain(TRANSITIONS).map(str::to_owned).collect();
    assert_eq!(tested, rules, "left: what this test has cases for; right: the rules there are");

    let cluster = Cluster::acquire();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let create = |object: &Value| {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let api = cluster.api(VERSION, object["kind"].as_str().unwrap(), namespace);
        runtime().block_on(api.create(&dry, &serde_json::from_value(object.clone()).unwrap()))
    };
    for (message, accepted, refused) in cases() {
        for object in accepted {
            create(&object).unwrap_or_else(|error| panic!("{message}: {object} is refused: {error}"));
        }
        for object in refused {
            let error = create(&object).err().unwrap_or_else(|| panic!("{message}: {object} is accepted"));
            assert!(error.to_string().contains(message), "{object} is refused for something else: {error}");
            assert!(!format!("{error:?}").contains(CANARY), "{message}: the answer shows a private key: {error:?}");
        }
    }
}

#[test]
fn what_cannot_be_changed_is_refused() {
    let cluster = Cluster::acquire();
    cluster.apply(&server());
    let moved = with(server(), &[("/spec/gateway", json!("other"))]);
    let error = runtime().block_on(cluster.try_apply(&moved)).unwrap_err().to_string();
    assert!(error.contains(TRANSITIONS[0]), "{error}");

    let after = |time: Value| with(client(), &[("/spec/validAfter", time)]);
    cluster.apply(&after(json!("2026-11-25T10:00:00Z")));
    // The same moment and a later one, whatever their spelling.
    cluster.apply(&after(json!("2026-11-25T11:00:00+01:00")));
    cluster.apply(&after(json!("2026-11-25T10:30:00Z")));
    for back in [json!("2026-11-25T10:29:59Z"), json!("2026-11-25T11:00:00+01:00"), Value::Null] {
        let error = runtime().block_on(cluster.try_apply(&after(back))).unwrap_err().to_string();
        assert!(error.contains(TRANSITIONS[1]), "{error}");
    }
}

/// What the documentation tells people to apply.
#[test]
fn every_example_is_accepted() {
    fn files(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                files(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "yaml") {
                found.push(entry.to_str().unwrap().to_owned());
            }
        }
    }
    let cluster = Cluster::acquire();
    let mut examples = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), &mut examples);
    assert!(examples.len() >= 5, "{examples:?}");
    let text: Vec<String> = examples.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let documents = text.iter().flat_map(|text| text.split("\n---"));
    let named = documents.filter_map(|document| {
        let namespace = document.lines().find_map(|line| line.trim().strip_prefix("namespace:"));
        let inline = document.split("namespace:").nth(1).map(|rest| rest.split(['}', ',', '\n']).next().unwrap());
        namespace.or(inline).map(|namespace| namespace.trim().to_owned())
    });
    for namespace in named.collect::<BTreeSet<String>>() {
        cluster.namespace(&namespace, &[]);
    }
    for file in &examples {
        let output = cluster.try_kubectl(&["apply", "--server-side", "-f", file], None);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(cluster.list(VERSION, "McpServer", None).len() >= 2);
}

/// Two tools that each own a part of an object, such as Helm and a person, do not undo each other.
#[test]
fn lists_merge_by_their_keys() {
    let cluster = Cluster::acquire();
    cluster.apply(&policy());
    let mut second = policy();
    second["spec"]["rules"] = json!([{"name": "write", "effect": "Deny", "principals": [{"users": ["ben"]}],
        "tools": [{"names": ["put"]}]}]);
    second["spec"]["targets"] = json!({"servers": ["notes"]});
    let api = cluster.api(VERSION, "McpPolicy", Some("default"));
    let manager = PatchParams::apply("another");
    runtime().block_on(api.patch("readers", &manager, &Patch::Apply(&second))).unwrap();
    let rules = |policy: Value| -> Vec<String> {
        policy["spec"]["rules"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    let now = cluster.get(VERSION, "McpPolicy", Some("default"), "readers").unwrap();
    assert_eq!(rules(now), ["read", "write"]);

    // Whoever applies without a rule of his takes that one away, and no other.
    cluster.apply(&with(policy(), &[("/spec/rules/0/name", json!("look"))]));
    let now = cluster.get(VERSION, "McpPolicy", Some("default"), "readers").unwrap();
    let mut names = rules(now);
    names.sort();
    assert_eq!(names, ["look", "write"]);
}

/// What a person misspells in a policy reaches us, so that it can be refused; nothing else would see it.
#[test]
fn a_misspelled_member_of_a_rule_is_kept() {
    let cluster = Cluster::acquire();
    cluster.apply(&with(policy(), &[("/spec/rules/0/whne", json!("args.a == 1"))]));
    let kept = cluster.get(VERSION, "McpPolicy", Some("default"), "readers").unwrap();
    assert_eq!(kept["spec"]["rules"][0]["whne"], "args.a == 1");
}
