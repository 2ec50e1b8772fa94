//! From a server and what was found of what it refers to, to what is written and said.

use std::time::Duration;

use serde_json::{Value, json};

use super::build::{Verdict, build};
use super::isolation;
use super::status;
use super::validate::Validated;
use crate::api::{self, FieldPath, Key};
use crate::controller::Installation;
use crate::controller::apply::{Applied, Prepared};
use crate::controller::conditions::{
    ACCEPTED, ISOLATED, PENDING, PROGRAMMED, READY, RESOLVED_REFS, SERVICE_NOT_FOUND, STALLED, Said, Truth,
    UPSTREAM_AUTHORIZED,
};
use crate::controller::proxies::Programming;
use crate::generated::codec::{self, Generated};
use crate::generated::server::State;
use crate::generated::{ObjectId, Server};
use crate::resolve::{self, Cluster, Finding, Lookup, PublicUrl, Reason, Resolved};

fn installation() -> Installation {
    Installation {
        public_url: PublicUrl::parse("https://mcp.example.com").unwrap(),
        system_namespace: "sys".into(),
        gateway_namespace: "gateway".into(),
        cluster_domain: "cluster.local".into(),
        service_account: "controller".into(),
        max_staleness: Duration::from_secs(3600),
        webhook: None,
    }
}

/// A server with this spec over a plain one, resolved while nothing that it refers to is there.
fn resolved(spec: &Value) -> Resolved<Server> {
    let mut object = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"namespace": "team", "name": "notes", "uid": "u", "generation": 7},
        "spec": {"upstream": {"url": "https://vendor.example/mcp", "credentials": {"none": {}}},
            "authorization": {"servers": ["corp"]}}});
    for (member, value) in spec.as_object().unwrap() {
        object["spec"][member] = value.clone();
    }
    let Ok(api::Object::Server(server)) = api::object::read(&object) else { panic!("{object}") };
    let (installation, cluster) = (installation(), Cluster { service_accounts: None, ..Cluster::presumed() });
    resolve::server(&server, &installation.settings(&cluster), &Lookup::default()).unwrap()
}

fn validated(outcome: Result<Resolved<Server>, Vec<Finding>>) -> Validated {
    let key = Key { kind: api::Kind::McpServer, namespace: "team".into(), name: "notes".into() };
    let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "notes".into(), generation: 7 };
    let (claimants, isolation) = (Vec::new(), isolation::Found::default());
    Validated {
        key,
        id,
        outcome,
        previous: None,
        reviewed: None,
        claimants,
        closes: None,
        isolation,
        question: None,
        trust: None,
    }
}

fn built(validated: Validated) -> (Prepared<Verdict>, Option<Server>) {
    let (prepared, _) = build(validated, &installation()).unwrap();
    let server = prepared.generated.as_ref().map(|wanted| match codec::decode(&wanted.bytes).unwrap() {
        Generated::Server(server) => server,
        other => panic!("{other:?}"),
    });
    (prepared, server)
}

/// What is said of it, as `type: status reason`.
fn said(prepared: Prepared<Verdict>, programming: Option<Programming>) -> Vec<String> {
    let Prepared { key, id, kind, generated, document: _, verdict } = prepared;
    let applied = Applied { key, id, generated: generated.map(|_| kind), verdict };
    let word = |type_: &str, truth: Truth, reason: &str| format!("{type_}: {} {reason}", truth.as_str());
    status(&applied, (programming, None), None, &Value::Null)
        .conditions
        .iter()
        .map(|one| word(one.type_, one.truth, &one.reason))
        .collect()
}

fn words(conditions: [(&str, &str); 4]) -> Vec<String> {
    conditions.map(|(type_, rest)| format!("{type_}: {rest}")).to_vec()
}

#[test]
fn what_is_missing_elsewhere_closes_the_server_and_is_no_fault_of_it() {
    let (prepared, server) = built(validated(Ok(resolved(&json!({})))));
    assert!(matches!(server.unwrap().state, State::Unserved { .. }));
    assert_eq!(prepared.document.as_ref().unwrap().content, None, "nobody to name, so no document");
    assert_eq!(
        said(prepared, Some(Programming::Everywhere(2))),
        words([
            (ACCEPTED, "True Accepted"),
            (RESOLVED_REFS, "False AuthorityNotFound"),
            (PROGRAMMED, "True Programmed"),
            (READY, "False AuthorityNotFound"),
        ])
    );
}

#[test]
fn one_that_was_never_valid_has_no_place_and_one_that_was_keeps_it() {
    let finding = || Finding::new(Reason::UpstreamInvalid, FieldPath::of("spec.upstream.url"), "not a URL");
    let (prepared, server) = built(validated(Err(vec![finding()])));
    assert!(server.is_none());
    let told = said(prepared, None);
    assert_eq!(told[0], "Accepted: False UpstreamInvalid");
    assert_eq!(told[2], "Programmed: False UpstreamInvalid");
    assert_eq!(told[4], format!("{STALLED}: True UpstreamInvalid"));

    let previous = Some(resolved(&json!({"path": "/team/old"})).object);
    let (prepared, server) = built(Validated { previous, ..validated(Err(vec![finding()])) });
    let server = server.unwrap();
    assert_eq!(
        (server.path.as_str(), prepared.verdict.resource.as_deref()),
        ("/team/old", Some("https://mcp.example.com/team/old"))
    );
    let State::Unserved { reason, message } = server.state else { panic!() };
    assert_eq!(reason, "UpstreamInvalid");
    assert!(message.contains("spec.upstream.url"));
}

#[test]
fn claims_on_its_path_close_it() {
    let rival = Key { kind: api::Kind::McpServer, namespace: "team".into(), name: "rival".into() };
    let plain = validated(Ok(resolved(&json!({}))));
    let claimants = vec![plain.key.clone(), rival];
    let (prepared, server) = built(Validated { claimants, ..plain });
    assert!(matches!(server.unwrap().state, State::Unserved { reason, .. } if reason == "PathConflict"));
    assert_eq!(said(prepared, None)[0], "Accepted: False PathConflict");
}

#[test]
fn one_that_is_too_large_to_store_takes_no_calls_and_is_not_accepted() {
    let mut large = resolved(&json!({}));
    large.warnings = vec![Finding::new(Reason::ServerTooLarge, FieldPath::of("spec"), "too many bytes")];
    let (prepared, _) = built(validated(Ok(large)));
    assert_eq!(said(prepared, None)[..2], ["Accepted: False ServerTooLarge", "ResolvedRefs: Unknown NotAccepted"]);
}

#[test]
fn one_that_its_owner_switched_off_is_ready_and_says_so() {
    let mut off = resolved(&json!({}));
    (off.object.state, off.warnings) = (State::Disabled, Vec::new());
    let (prepared, _) = built(validated(Ok(off)));
    let all = said(prepared, Some(Programming::Everywhere(1)));
    assert_eq!(all[3], "Ready: True Disabled");
}

#[test]
fn one_that_is_not_isolated_as_it_asks_is_served_and_not_ready() {
    let (mut prepared, _) = built(validated(Ok(resolved(&json!({})))));
    prepared.verdict.warnings.clear();
    let told = |truth: Truth, reason: &str, may_be_there: bool| {
        Some(isolation::Told { said: Said::new(ISOLATED, truth, reason, ""), may_be_there })
    };
    for (isolation, isolated, ready, member) in [
        (told(Truth::True, ISOLATED, true), "True Isolated", "True Ready", true),
        (told(Truth::False, SERVICE_NOT_FOUND, false), "False ServiceNotFound", "False ServiceNotFound", false),
        (told(Truth::Unknown, PENDING, true), "Unknown Pending", "Unknown Pending", true),
    ] {
        prepared.verdict.isolation = isolation;
        let applied = Applied {
            key: prepared.key.clone(),
            id: prepared.id.clone(),
            generated: Some(prepared.kind),
            verdict: prepared.verdict.clone(),
        };
        let statement = status(&applied, (Some(Programming::Everywhere(1)), None), None, &Value::Null);
        let word = |type_: &str| {
            let said = statement.said(type_).unwrap();
            format!("{} {}", said.truth.as_str(), said.reason)
        };
        assert_eq!(
            (word(PROGRAMMED), word(ISOLATED), word(READY)),
            ("True Programmed".into(), isolated.into(), ready.into())
        );
        let name = statement.members.get("networkPolicy").and_then(Value::as_str);
        assert_eq!(name, member.then_some("notes-gateway-only"));
    }
}

#[test]
fn what_proxies_say_of_an_upstream_is_told_with_its_remedy_and_beside_ready() {
    let (mut prepared, _) = built(validated(Ok(resolved(&json!({})))));
    prepared.verdict.warnings.clear();
    prepared.verdict.oauth = true;
    let Prepared { key, id, kind, verdict, .. } = prepared;
    let applied = Applied { key, id, generated: Some(kind), verdict };
    let told = |trouble: Option<(&str, &str)>| {
        let trouble = trouble.map(|(word, scopes)| (word.to_owned(), scopes.to_owned()));
        let statement = status(&applied, (Some(Programming::Everywhere(1)), trouble), None, &Value::Null);
        assert_eq!(statement.said(READY).unwrap().truth, Truth::True);
        statement.said(UPSTREAM_AUTHORIZED).unwrap().clone()
    };
    assert_eq!(told(None).truth, Truth::True);
    for (programming, reason) in [
        (None, "Pending"),
        (Some(Programming::Waiting), "Pending"),
        (Some(Programming::NoProxies), "NoProxies"),
        (Some(Programming::Silent("a".into())), "Pending"),
    ] {
        let statement = status(&applied, (programming, None), None, &Value::Null);
        let said = statement.said(UPSTREAM_AUTHORIZED).unwrap();
        assert_eq!((said.truth, said.reason.as_str()), (Truth::Unknown, reason), "nobody has tried");
    }
    let lacking = told(Some(("UpstreamScopesLacking", "files:write")));
    assert_eq!((lacking.truth, lacking.reason.as_str()), (Truth::False, "UpstreamTokenWanted"));
    assert!(lacking.message.contains("files:write") && lacking.message.contains("oauth.scopes"), "{}", lacking.message);
    let refused = |code: &str| told(Some(("UpstreamTokenRefused", code))).message;
    assert!(refused("").starts_with("UpstreamTokenRefused: "));
    for (code, remedy) in [
        ("invalid_client", "the Secret of its McpClient"),
        ("unauthorized_client", "the Secret of its McpClient"),
        ("invalid_scope", "oauth.scopes"),
        ("invalid_target", "resource"),
    ] {
        let message = refused(code);
        assert!(message.contains(code) && message.contains(remedy), "{message}");
    }
    assert!(told(Some(("UpstreamTokenAudience", ""))).message.contains("docs/upstreams.md"));
}
