//! What one decision costs at 10,000 policies, and what one changed policy costs, as lines `name = value`.
//!
//! `decide [ROUNDS]`. The caller is in twelve groups; ten policies reach the server it calls, besides the guardrails that
//! reach every server, and nine of them allow the call: all nine are looked at, since the answer must not depend on an
//! order. Medians of batches; the library is built as the gateway is.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use portcullis::fleet::Fleet;
use portcullis::generated::policy::{Effect, Mode, PrincipalMatch, Rule, Selector, Standing, Targets, ToolMatch};
use portcullis::generated::server::{Audit, AuditLevel, Credentials, Delivery, Scopes, State, Upstream, UpstreamTls};
use portcullis::generated::{ObjectId, Policy, Risk, Server};
use portcullis::identity::principal::{Groups, Kind, Principal};
use portcullis::policy::evaluate::evaluate;
use portcullis::policy::index::PrincipalKeys;
use portcullis::policy::request::{Facts, Request, Target};
use portcullis::policy::rule::compile;
use portcullis::tools::risk::KnownRisk;
use portcullis_bench::median;

const NAMESPACES: usize = 990;
const PER_NAMESPACE: usize = 10;
const GUARDRAILS: usize = 100;
/// Decisions, or changes, between two looks at the clock.
const BATCH: u32 = 2_000;
const CHANGES: u32 = 20;

const ARGUMENTS: &str =
    r#"{"repo":"acme/widgets","number":4711,"labels":["bug","widgets"],"comment":"Please look at it."}"#;
const WHEN: &str =
    r#"has(args.repo) && args.repo.startsWith("acme/") && args.number < 10000 && size(args.labels) <= 8"#;

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(31), |n| n.parse())?;
    let mut fleet = Fleet::default();
    for n in 0..NAMESPACES {
        fleet.put_server(server(&format!("team-{n}")));
    }
    let all = (0..NAMESPACES).flat_map(|n| (0..PER_NAMESPACE).map(move |p| of_team(n, p)));
    for policy in (0..GUARDRAILS).map(guardrail).chain(all) {
        fleet.put_policy(policy).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    }
    anyhow::ensure!(fleet.policies().count() == 10_000);

    let groups = (1..=12).map(|n| format!("group-{n:02}").into_boxed_str()).collect();
    let caller = Principal {
        authority: "corp".into(),
        issuer: "https://corp.example.com".into(),
        tenant: None,
        subject: "8f1c2a7e-0f6d-4d0c-9a51-3f0b8d1f6f11".into(),
        kind: Kind::User,
        client: Some("https://ide.example.com/client.json".into()),
        groups: Groups::Known(groups),
        actor: None,
    };
    let keys = PrincipalKeys::of(&caller);
    let served = fleet.by_name("team-500", "server").context("no server")?;
    let decide = |tool: &str| -> Result<f64> {
        let target = Target::Tool { name: tool, risk: KnownRisk { own: Some(Risk::ReadOnly), guardrail: None } };
        let request = Request { principal: &caller, keys: &keys, target, arguments: Some(ARGUMENTS) };
        anyhow::ensure!(evaluate(served.layers, &request, &Facts { now: 0 }).effect == Effect::Allow, "{tool}");
        let batch = || {
            for _ in 0..BATCH {
                black_box(evaluate(served.layers, black_box(&request), &Facts { now: 0 }));
            }
        };
        Ok(median_ns(rounds, batch) / f64::from(BATCH))
    };
    println!("decision_ns = {:.0}", decide("get_issue")?);
    println!("decision_when_ns = {:.0}", decide("create_issue")?);

    let changed = of_team(500, 0);
    let compiling = || {
        for _ in 0..CHANGES {
            black_box(compile(Arc::new(black_box(&changed).clone())).is_ok());
        }
    };
    println!("compile_policy_us = {:.1}", median_ns(rounds, compiling) / f64::from(CHANGES) / 1e3);
    let changing = || {
        for _ in 0..CHANGES {
            black_box(fleet.with(|fleet| drop(fleet.put_policy(black_box(&changed).clone()))));
        }
    };
    println!("change_policy_us = {:.1}", median_ns(rounds, changing) / f64::from(CHANGES) / 1e3);
    Ok(())
}

/// The median time of a batch, after one to warm up.
fn median_ns(rounds: usize, mut batch: impl FnMut()) -> f64 {
    batch();
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        batch();
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    median(&times)
}

/// A policy of a team: readers of one group, writers under a condition, and what nobody may do. The last of a namespace
/// is about a group that the caller is not in.
fn of_team(team: usize, number: usize) -> Policy {
    let group = if number + 1 == PER_NAMESPACE { "strangers".to_owned() } else { format!("group-{:02}", number + 1) };
    let writes = if number == 0 { Some(WHEN.to_owned()) } else { None };
    let create = if number == 0 { "create_*" } else { "close_*" };
    let rules = vec![
        rule("read", Effect::Allow, in_group(&group), &["get_*", "list_*"], None),
        rule("write", Effect::Allow, in_group(&group), &[create], writes),
        rule("never", Effect::Deny, in_group("interns"), &["delete_*", "purge_*"], None),
    ];
    let targets = Targets { selector: Some(Selector::default()), ..Targets::default() };
    policy(&format!("team-{team}"), &format!("policy-{number}"), false, targets, rules)
}

/// A guardrail about a group that few are in.
fn guardrail(number: usize) -> Policy {
    let targets =
        Targets { selector: Some(Selector::default()), namespaces: Some(Selector::default()), ..Targets::default() };
    let rules = vec![rule("suspended", Effect::Deny, in_group(&format!("suspended-{number}")), &["*"], None)];
    policy("portcullis-system", &format!("guardrail-{number}"), true, targets, rules)
}

fn policy(namespace: &str, name: &str, guardrail: bool, targets: Targets, rules: Vec<Rule>) -> Policy {
    Policy { id: id(namespace, name), guardrail, targets, mode: Mode::Enforce, standing: Standing::InForce, rules }
}

fn rule(name: &str, effect: Effect, principals: PrincipalMatch, patterns: &[&str], when: Option<String>) -> Rule {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Rule {
        name: name.to_owned(),
        effect,
        principals: vec![principals],
        except: Vec::new(),
        tools: vec![ToolMatch { patterns, ..ToolMatch::default() }],
        resources: Vec::new(),
        prompts: Vec::new(),
        when,
        not_before: None,
        not_after: None,
        break_glass: None,
        message: None,
    }
}

fn in_group(group: &str) -> PrincipalMatch {
    PrincipalMatch { authority: Some("corp".to_owned()), groups: vec![group.to_owned()], ..PrincipalMatch::default() }
}

fn server(namespace: &str) -> Server {
    let path = format!("/{namespace}/server");
    Server {
        id: id(namespace, "server"),
        labels: Default::default(),
        namespace_labels: Some(Default::default()),
        resource: format!("https://mcp.example.com{path}"),
        path,
        metadata: "{}".to_owned(),
        upstream: Upstream {
            url: "https://upstream.example.com/mcp".to_owned(),
            tls: UpstreamTls::default(),
            credentials: Credentials::None,
        },
        authorities: vec!["corp".to_owned()],
        audiences: Vec::new(),
        scopes: Scopes::default(),
        risk: Vec::new(),
        lock: None,
        audit: Audit { level: AuditLevel::Metadata, delivery: Delivery::Durable, redact: Vec::new() },
        state: State::Enabled,
    }
}

fn id(namespace: &str, name: &str) -> ObjectId {
    let uid = format!("{namespace}/{name}");
    ObjectId { uid, namespace: namespace.to_owned(), name: name.to_owned(), generation: 1 }
}
