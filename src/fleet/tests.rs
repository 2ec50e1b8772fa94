//! The join against its definition, in every order.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::generated::policy::{Effect, Mode, Operator, Requirement, Rule, Selector, Standing, Targets};
use crate::generated::server::{Audit, AuditLevel, Credentials, Delivery, Scopes, State, Upstream, UpstreamTls};
use crate::generated::{Labels, NAMESPACE_NAME, ObjectId, Policy, Server};
use crate::policy::arbitrary;
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::reference;
use crate::policy::request::{Facts, Request};
use crate::policy::selector::matches;

/// A server that takes calls at `/namespace/name`.
pub(crate) fn server(namespace: &str, name: &str, labels: Labels, namespace_labels: Option<Labels>) -> Server {
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
        lock: None,
        audit: Audit { level: AuditLevel::Metadata, delivery: Delivery::BestEffort, redact: vec![] },
        state: State::Enabled,
    }
}

fn label(value: Option<&'static str>) -> Labels {
    value.map(|value| ("tier".to_owned(), value.to_owned())).into_iter().collect()
}

fn requirement(key: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = Requirement> {
    let operators = &[Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist][..];
    (select(operators), select(values)).prop_map(move |(operator, value)| {
        let values = matches!(operator, Operator::In | Operator::NotIn).then(|| value.to_owned());
        Requirement { key: key.to_owned(), operator, values: values.into_iter().collect() }
    })
}

/// At most one requirement for a key, so that none contradicts another.
fn selector() -> impl Strategy<Value = Selector> {
    let by_label = select(&["gold", "tin"][..])
        .prop_map(|value| Selector { match_labels: label(Some(value)), match_expressions: vec![] });
    let by_name = requirement(NAMESPACE_NAME, &["team", "other"]);
    let expressions =
        (requirement("tier", &["gold", "tin"]), option::weighted(0.3, by_name)).prop_map(|(tier, name)| {
            let match_expressions = std::iter::once(tier).chain(name).collect();
            Selector { match_labels: Labels::new(), match_expressions }
        });
    prop_oneof![Just(Selector::default()), by_label, expressions]
}

/// Namespaces with their tier; `None`: nobody knows their labels.
const NAMESPACES: [(&str, Option<Option<&str>>); 4] =
    [("team", Some(Some("gold"))), ("other", Some(Some("tin"))), ("system", Some(None)), ("dark", None)];

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let one = (select(&NAMESPACES[..]), select(&["a", "b"][..]), option::of(select(&["gold", "tin"][..])));
    vec(one, 1..5).prop_map(|servers| {
        let mut by_uid = BTreeMap::new();
        for ((namespace, tier), name, labels) in servers {
            let server = server(namespace, name, label(labels), tier.map(label));
            by_uid.insert(server.id.uid.clone(), server);
        }
        by_uid.into_values().collect()
    })
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let targets = (subsequence(&["a", "b"][..], 0..=2), option::of(selector()), option::of(selector()));
    let namespaces = &["team", "other", "system", "system", "dark"][..];
    vec((arbitrary::policy(), select(namespaces), targets), 1..5).prop_map(|policies| {
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

/// Every set of labels that a namespace could have, in a world with one label.
fn possible_labels(server: &Server) -> Vec<Labels> {
    let possible = match &server.namespace_labels {
        Some(known) => vec![known.clone()],
        None => [None, Some("gold"), Some("tin"), Some("lead")].map(label).to_vec(),
    };
    let named = |mut labels: Labels| {
        labels.insert(NAMESPACE_NAME.to_owned(), server.id.namespace.clone());
        labels
    };
    possible.into_iter().map(named).collect()
}

/// What of a policy has a say at a server, from the text of the design.
fn reaching(policy: &Policy, server: &Server) -> Option<Policy> {
    let same_namespace = policy.id.namespace == server.id.namespace;
    if matches!(policy.standing, Standing::DenyAll { .. }) {
        return (policy.guardrail || same_namespace).then(|| policy.clone());
    }
    let named = policy.targets.servers.contains(&server.id.name);
    if !named && !policy.targets.selector.as_ref().is_some_and(|s| matches(s, &server.labels)) {
        return None;
    }
    let Some(selector) = &policy.targets.namespaces else { return same_namespace.then(|| policy.clone()) };
    let possible: Vec<bool> = possible_labels(server).iter().map(|labels| matches(selector, labels)).collect();
    if possible.iter().all(|reaches| *reaches) {
        return Some(policy.clone());
    }
    // "Allow matches nothing, and Deny and RequireApproval match everything that they could."
    possible.contains(&true).then(|| {
        let mut narrowing = policy.clone();
        narrowing.rules.retain(|rule| rule.effect != Effect::Allow);
        narrowing
    })
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
            let reaching: Vec<Policy> = policies.iter().filter_map(|policy| reaching(policy, server)).collect();
            let reaching: Vec<&Policy> = reaching.iter().collect();
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
        "not_before": null, "not_after": null, "break_glass": null, "message": null});
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
    let (a, mut b) = (server("team", "a", label(None), None), server("team", "b", label(None), None));
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
    fleet.put_server(server("team", "a", label(None), None));
    fleet.put_server(server("other", "a", label(None), None));
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
    fleet.put_server(server("team", "a", label(None), None));
    assert_eq!(denied(&fleet, "/team/a"), Some("Unreadable"));
}

#[test]
fn an_unreadable_file_denies_every_server_until_it_is_read() {
    let mut fleet = Fleet::default();
    fleet.put_server(server("team", "a", label(None), None));
    fleet.deny_all("b.yaml", "FileUnreadable");
    fleet.deny_all("a.yaml", "FileUnreadable");
    fleet.clear_denial("b.yaml");
    assert_eq!(denied(&fleet, "/team/a"), Some("FileUnreadable"));
    fleet.clear_denial("a.yaml");
    assert_eq!(denied(&fleet, "/team/a"), None);
}

#[test]
fn a_guardrail_that_asks_for_labels_which_nobody_knows_narrows_and_grants_nothing() {
    let by_label = Some(Selector { match_labels: label(Some("gold")), match_expressions: vec![] });
    let mut guardrail = allow_all("system");
    guardrail.guardrail = true;
    guardrail.targets.namespaces = by_label;
    let allow = guardrail.rules[0].clone();
    guardrail.rules.push(Rule { name: "no".into(), effect: Effect::Deny, ..allow });
    let rules = |fleet: &Fleet, path: &str| -> Vec<String> {
        fleet.lookup(path).unwrap().layers.rules().iter().map(|rule| rule.reference.rule.to_string()).collect()
    };
    let mut fleet = Fleet::default();
    fleet.put_policy(guardrail.clone()).unwrap();
    for (name, labels, want, doubts) in [
        ("gold", Some(label(Some("gold"))), &["all", "no"][..], 0),
        ("tin", Some(label(Some("tin"))), &[], 0),
        ("bare", Some(Labels::new()), &[], 0),
        ("dark", None, &["no"], 1),
    ] {
        fleet.put_server(server(name, "a", label(None), labels));
        let path = format!("/{name}/a");
        assert_eq!(rules(&fleet, &path), want, "{name}");
        assert_eq!(fleet.lookup(&path).unwrap().in_doubt().len(), doubts, "{name}");
    }
    // The other way of reaching, by a label of the server, is judged alike.
    guardrail.targets.selector = Some(Selector { match_labels: label(Some("x")), match_expressions: vec![] });
    guardrail.targets.servers = vec!["a".into()];
    fleet.put_policy(guardrail).unwrap();
    assert_eq!((rules(&fleet, "/dark/a"), rules(&fleet, "/gold/a").len()), (vec!["no".to_owned()], 2));
    // The Namespace is written.
    fleet.put_server(server("dark", "a", label(None), Some(label(Some("tin")))));
    assert_eq!(rules(&fleet, "/dark/a"), Vec::<String>::new());
}
