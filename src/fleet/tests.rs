//! The join against its definition, in every order.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::generated::policy::{Mode, Selector, Standing, Targets};
use crate::generated::server::{Audit, AuditLevel, Credentials, Delivery, Scopes, State, Upstream, UpstreamTls};
use crate::generated::{Labels, ObjectId, Policy, Server};
use crate::policy::arbitrary;
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::reference;
use crate::policy::request::{Facts, Request};

/// A server that takes calls at `/namespace/name`.
pub(crate) fn server(namespace: &str, name: &str, labels: Labels, namespace_labels: Labels) -> Server {
    let path = format!("/{namespace}/{name}");
    Server {
        id: ObjectId {
            uid: format!("uid-{namespace}-{name}"),
            namespace: namespace.into(),
            name: name.into(),
            generation: 1,
        },
        labels,
        namespace_labels,
        resource: format!("https://mcp.example{path}"),
        path,
        metadata: "{}".into(),
        upstream: Upstream {
            url: "https://upstream.example/mcp".into(),
            tls: UpstreamTls::default(),
            credentials: Credentials::None,
        },
        authorities: vec!["corp".into(), "other".into()],
        audiences: vec![],
        scopes: Scopes::default(),
        risk: vec![],
        audit: Audit { level: AuditLevel::Metadata, delivery: Delivery::BestEffort, redact: vec![] },
        state: State::Enabled,
    }
}

fn label(value: Option<&'static str>) -> Labels {
    value.map(|value| ("tier".to_owned(), value.to_owned())).into_iter().collect()
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::default()),
        select(&["gold", "tin"][..])
            .prop_map(|value| Selector { match_labels: label(Some(value)), match_expressions: vec![] }),
    ]
}

const NAMESPACES: [(&str, Option<&str>); 3] = [("team", Some("gold")), ("other", Some("tin")), ("system", None)];

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let one = (select(&NAMESPACES[..]), select(&["a", "b"][..]), option::of(select(&["gold", "tin"][..])));
    vec(one, 1..5).prop_map(|servers| {
        let mut by_uid = BTreeMap::new();
        for ((namespace, tier), name, labels) in servers {
            let server = server(namespace, name, label(labels), label(tier));
            by_uid.insert(server.id.uid.clone(), server);
        }
        by_uid.into_values().collect()
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let targets = (subsequence(&["a", "b"][..], 0..=2), option::of(selector()), option::of(selector()));
    vec((arbitrary::policy(), select(&["team", "other", "system"][..]), targets), 1..5).prop_map(|policies| {
        let named = policies.into_iter().enumerate().map(|(index, (mut policy, namespace, targets))| {
            let (servers, selector, namespaces) = targets;
            policy.guardrail = namespace == "system";
            policy.id.namespace = namespace.into();
            policy.id.name = format!("p{index}");
            policy.id.uid = format!("uid-p{index}");
            policy.targets = Targets {
                selector: if servers.is_empty() { Some(selector.unwrap_or_default()) } else { selector },
                servers: servers.into_iter().map(str::to_owned).collect(),
                namespaces: namespaces.filter(|_| policy.guardrail),
            };
            policy
        });
        named.collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Server(Box<Server>),
    Policy(Box<Policy>),
    RemoveServer(String),
    RemovePolicy(String),
}

/// Puts everything in some order, with detours: objects that come and go, and policies that were others before.
fn steps() -> impl Strategy<Value = (Vec<Server>, Vec<Policy>, Vec<Step>)> {
    (servers(), policies(), policies(), servers()).prop_flat_map(|(servers, policies, before, passing)| {
        let stay: Vec<String> = servers.iter().map(|s| s.id.uid.clone()).collect();
        let mut detours: Vec<Step> = before.iter().cloned().map(|p| Step::Policy(Box::new(p))).collect();
        detours.extend(passing.iter().cloned().map(|s| Step::Server(Box::new(s))));
        let mut leave: Vec<Step> = before.iter().map(|p| Step::RemovePolicy(p.id.uid.clone())).collect();
        let left = passing.into_iter().map(|s| s.id.uid).filter(|uid| !stay.contains(uid));
        leave.extend(left.map(Step::RemoveServer));
        let mut last: Vec<Step> = servers.iter().cloned().map(|s| Step::Server(Box::new(s))).collect();
        last.extend(policies.iter().cloned().map(|p| Step::Policy(Box::new(p))));
        let replaced: Vec<String> = policies.iter().map(|p| p.id.uid.clone()).collect();
        leave.retain(|step| !matches!(step, Step::RemovePolicy(uid) if replaced.contains(uid)));
        let order = (Just(detours).prop_shuffle(), Just(leave), Just(last).prop_shuffle());
        (Just(servers), Just(policies), order).prop_map(|(servers, policies, (mut steps, leave, last))| {
            steps.extend(leave);
            steps.extend(last);
            (servers, policies, steps)
        })
    })
}

fn run(steps: Vec<Step>) -> Fleet {
    let mut fleet = Fleet::default();
    for step in steps {
        match step {
            Step::Server(server) => fleet.put_server(*server),
            Step::Policy(policy) => fleet.put_policy(*policy).unwrap(),
            Step::RemoveServer(uid) => fleet.remove_server(&uid),
            Step::RemovePolicy(uid) => fleet.remove_policy(&uid),
        }
    }
    fleet
}

/// Whether a policy has a say at a server, from the text of the design.
fn reaches(policy: &Policy, server: &Server) -> bool {
    let same_namespace = policy.id.namespace == server.id.namespace;
    if matches!(policy.standing, Standing::DenyAll { .. }) {
        return policy.guardrail || same_namespace;
    }
    let in_namespace = match &policy.targets.namespaces {
        Some(selector) => matches(selector, &server.namespace_labels),
        None => same_namespace,
    };
    let named = policy.targets.servers.contains(&server.id.name);
    in_namespace && (named || policy.targets.selector.as_ref().is_some_and(|s| matches(s, &server.labels)))
}

proptest! {
    #[test]
    fn decisions_depend_on_what_is_there_not_on_how_it_came(
        (servers, policies, steps) in steps(),
        principal in arbitrary::principal(),
        target in arbitrary::target(),
        arguments in arbitrary::arguments(),
    ) {
        let fleet = run(steps);
        let keys = PrincipalKeys::of(&principal);
        prop_assert_eq!(fleet.server_count(), servers.len());
        for server in &servers {
            let served = fleet.lookup(&server.path).unwrap();
            prop_assert_eq!(&**served.server, server);
            let request = Request { principal: &principal, keys: &keys, target, arguments };
            let decision = evaluate(served.layers, &request, &Facts { now: 1 });
            let reaching: Vec<&Policy> = policies.iter().filter(|policy| reaches(policy, server)).collect();
            let expected = reference::decide(&reaching, &principal, &target, arguments, &Facts { now: 1 });
            prop_assert_eq!(
                (decision.effect, decision.reason, decision.visible),
                (expected.effect, expected.reason, expected.visible)
            );
            let named = decision.rule.map(|r| (r.namespace.to_string(), r.policy.to_string(), r.rule.to_string()));
            prop_assert_eq!(named, expected.rule);
        }
    }
}

/// Everybody of the authority `corp` may call every tool of a namespace.
pub(crate) fn allow_all(namespace: &str) -> Policy {
    let principals = serde_json::json!({"authority": "corp", "any": true, "users": [], "groups": [], "clients": [],
        "via": [], "service_account": null, "actor": null});
    let rule = serde_json::json!({"name": "all", "effect": "Allow", "principals": [principals], "except": [],
        "tools": [{"names": [], "patterns": ["*"], "risk": []}], "resources": [], "prompts": [], "when": null,
        "not_before": null, "not_after": null, "message": null});
    Policy {
        id: ObjectId {
            uid: format!("allow-{namespace}"),
            namespace: namespace.into(),
            name: "p".into(),
            generation: 1,
        },
        guardrail: false,
        targets: Targets { selector: Some(Selector::default()), ..Targets::default() },
        mode: Mode::Enforce,
        standing: Standing::InForce,
        rules: vec![serde_json::from_value(rule).unwrap()],
    }
}

fn denied<'a>(fleet: &'a Fleet, path: &str) -> Option<&'a str> {
    fleet.lookup(path).unwrap().layers.denied
}

#[test]
fn servers_that_claim_one_path_are_all_unserved() {
    let mut fleet = Fleet::default();
    let (a, mut b) = (server("team", "a", label(None), label(None)), server("team", "b", label(None), label(None)));
    b.path.clone_from(&a.path);
    fleet.put_server(a.clone());
    fleet.put_server(b.clone());
    assert!(fleet.lookup(&a.path).is_none());
    assert!(fleet.by_name("team", "b").is_some());
    fleet.remove_server(&b.id.uid);
    assert_eq!(fleet.lookup(&a.path).unwrap().server.id.name, "a");
}

#[test]
fn a_policy_that_cannot_be_compiled_denies_what_an_unreadable_one_denies() {
    let mut fleet = Fleet::default();
    fleet.put_server(server("team", "a", label(None), label(None)));
    fleet.put_server(server("other", "a", label(None), label(None)));
    let mut broken = allow_all("team");
    broken.rules[0].when = Some("args.".into());
    let errors = fleet.put_policy(broken.clone()).unwrap_err();
    assert_eq!(errors[0].field, "rules[0].when");
    assert_eq!((denied(&fleet, "/team/a"), denied(&fleet, "/other/a")), (Some("ConditionSyntax"), None));
    let repaired = fleet.with(|fleet| fleet.put_policy(allow_all("team")).unwrap());
    assert_eq!((denied(&repaired, "/team/a"), denied(&fleet, "/team/a")), (None, Some("ConditionSyntax")));
    broken.guardrail = true;
    assert!(fleet.put_policy(broken).is_err());
    assert_eq!(denied(&fleet, "/other/a"), Some("ConditionSyntax"));
    fleet.remove_policy("allow-team");
    assert_eq!((denied(&fleet, "/team/a"), denied(&fleet, "/other/a")), (None, None));
}

#[test]
fn a_namespace_denied_before_its_servers_came_denies_them() {
    let mut fleet = Fleet::default();
    let standing = Standing::DenyAll { reason: "Unreadable".into() };
    fleet.put_policy(Policy { standing, ..allow_all("team") }).unwrap();
    fleet.put_server(server("team", "a", label(None), label(None)));
    assert_eq!(denied(&fleet, "/team/a"), Some("Unreadable"));
}

#[test]
fn an_unreadable_file_denies_every_server_until_it_is_read() {
    let mut fleet = Fleet::default();
    fleet.put_server(server("team", "a", label(None), label(None)));
    fleet.deny_all("b.yaml", "FileUnreadable");
    fleet.deny_all("a.yaml", "FileUnreadable");
    fleet.clear_denial("b.yaml");
    assert_eq!(denied(&fleet, "/team/a"), Some("FileUnreadable"));
    fleet.clear_denial("a.yaml");
    assert_eq!(denied(&fleet, "/team/a"), None);
}
