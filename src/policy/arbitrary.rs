//! Random small policies, callers and calls, for property tests. Few names, so that things meet.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::reference::CONDITIONS;
use super::request::Target;
use crate::generated::policy::{
    ActorMatch, Effect, Mode, PrincipalMatch, Rule, Selector, ServiceAccount, Standing, Targets, ToolMatch,
};
use crate::generated::{ObjectId, Policy, Risk};
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::tools::risk::KnownRisk;

pub(crate) const TOOLS: [&str; 4] = ["get_x", "del_x", "odd name", "a_tool_with_a_rather_long_name"];
const URIS: [&str; 5] = ["r://a/b", "r://a/b/c", "r://a/../b", "r://a/%2e", "s://"];
const PROMPTS: [&str; 2] = ["p1", "odd prompt"];
const ARGUMENTS: [&str; 10] = [
    "{}",
    r#"{"n":2}"#,
    r#"{"n":1.0}"#,
    r#"{"n":1.5,"repo":"acme/x","tags":["x"]}"#,
    r#"{"n":"2","tags":["y"]}"#,
    r#"{"n":2,"id":9007199254740992}"#,
    r#"{"repo":"other/x","N":3}"#,
    r#"{"repo":7,"deep":[{"Repo":1}]}"#,
    r#"{"tags":"x","n":-1}"#,
    r#"{"\u006e":3,"r\u0065po":"acme/"}"#,
];

/// A group that Kubernetes gives.
const ACCOUNTS: &str = "system:serviceaccounts:ci";

fn names(all: &'static [&'static str], at_least: usize) -> impl Strategy<Value = Vec<String>> {
    subsequence(all, at_least..=all.len().min(2)).prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn actor_match() -> impl Strategy<Value = Option<ActorMatch>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(ActorMatch::Any)),
        1 => names(&["a1", "a2"], 1).prop_map(|subjects| Some(ActorMatch::Subjects(subjects))),
    ]
}

/// `narrowing`: the authority may be left open for `any`.
fn principal_match(narrowing: bool) -> impl Strategy<Value = PrincipalMatch> {
    let who = prop_oneof![
        Just(PrincipalMatch { any: true, ..PrincipalMatch::default() }),
        names(&["u1", "u2"], 1).prop_map(|users| PrincipalMatch { users, ..PrincipalMatch::default() }),
        names(&["g1", "g2", ACCOUNTS], 1).prop_map(|groups| PrincipalMatch { groups, ..PrincipalMatch::default() }),
        names(&["c1", "c2"], 1).prop_map(|clients| PrincipalMatch { clients, ..PrincipalMatch::default() }),
        Just(PrincipalMatch {
            service_account: Some(ServiceAccount { namespace: "ci".into(), name: "bot".into() }),
            ..PrincipalMatch::default()
        }),
    ];
    let also = (option::weighted(0.2, names(&["c1", "c2"], 1)), option::weighted(0.2, names(&["g1", "g2"], 1)));
    (who, also, actor_match(), select(&["corp", "corp", "other"][..]), any::<bool>()).prop_map(
        move |(who, (via, groups), actor, authority, open)| {
            let groups = groups.unwrap_or(who.groups);
            let authority = if who.any && narrowing && open { None } else { Some(authority.to_owned()) };
            PrincipalMatch { authority, via: via.unwrap_or_default(), groups, actor, ..who }
        },
    )
}

fn tool_match() -> impl Strategy<Value = ToolMatch> {
    let risk = option::weighted(0.4, subsequence(&[Risk::ReadOnly, Risk::Write, Risk::Destructive][..], 1..=2));
    (names(&TOOLS, 0), names(&["get_*", "*_x", "*", "odd*"], 0), risk).prop_map(|(names, patterns, risk)| {
        let empty = names.is_empty() && patterns.is_empty() && risk.is_none();
        let patterns = if empty { vec!["*".to_owned()] } else { patterns };
        ToolMatch { names, patterns, risk: risk.unwrap_or_default() }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let effect = prop_oneof![
        3 => Just(Effect::Allow),
        1 => Just(Effect::Deny),
        1 => Just(Effect::RequireApproval)
    ];
    effect.prop_flat_map(|effect| {
        let narrowing = effect != Effect::Allow;
        let when = option::weighted(0.4, select(&CONDITIONS[..]).prop_map(|(text, _)| text.to_owned()));
        let targets = (
            vec(tool_match(), 0..3),
            names(&["r://*/b", "r://**", "s://", "r://a/../b"], 0),
            names(&["p*", "p1", "*", "odd prompt"], 0),
        );
        let window = option::weighted(0.2, (0..3i64, 1..3i64));
        (
            vec(principal_match(narrowing), 1..3),
            vec(principal_match(!narrowing), 0..2),
            targets.prop_filter("a rule has targets", |(t, r, p)| !(t.is_empty() && r.is_empty() && p.is_empty())),
            when,
            window,
        )
            .prop_map(move |(principals, except, (tools, resources, prompts), when, window)| Rule {
                name: String::new(),
                effect,
                principals,
                except,
                tools,
                resources,
                prompts,
                when,
                not_before: window.map(|(from, _)| from),
                not_after: window.map(|(from, length)| from + length),
                break_glass: None,
                message: None,
            })
    })
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        20 => Just(Standing::InForce),
        2 => Just(Standing::NarrowingOnly { reason: "Broken".into() }),
        1 => Just(Standing::DenyAll { reason: "Broken".into() }),
    ]
}

/// A policy without a name, which reaches every server of its namespace.
pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let mode = prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Shadow)];
    (vec(rule(), 1..4), mode, standing(), any::<bool>()).prop_map(|(mut rules, mode, standing, guardrail)| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("r{index}");
        }
        let id = ObjectId { uid: String::new(), namespace: "team".into(), name: String::new(), generation: 1 };
        let targets = Targets { selector: Some(Selector::default()), ..Targets::default() };
        Policy { id, guardrail, targets, mode, standing, rules }
    })
}

/// Policies with names of their own.
pub(crate) fn policies(most: usize) -> impl Strategy<Value = Vec<Policy>> {
    vec(policy(), 1..=most).prop_map(|mut policies| {
        for (index, policy) in policies.iter_mut().enumerate() {
            policy.id.name = format!("p{index}");
            policy.id.uid = format!("uid-p{index}");
        }
        policies
    })
}

pub(crate) fn principal() -> impl Strategy<Value = Principal> {
    let who = select(
        &[
            (Kind::User, "u1"),
            (Kind::User, "u2"),
            (Kind::User, "system:serviceaccount:ci:bot"),
            (Kind::Client, "c1"),
            (Kind::Client, "u1"),
            (Kind::ServiceAccount, "system:serviceaccount:ci:bot"),
            (Kind::ServiceAccount, "system:serviceaccount:ci:bot2"),
        ][..],
    );
    let groups = prop_oneof![
        3 => subsequence(&["g1", "g2", "g3", ACCOUNTS][..], 0..=2)
            .prop_map(|groups| Groups::Known(groups.into_iter().map(Box::from).collect())),
        1 => Just(Groups::Unknown),
    ];
    let actor = option::weighted(
        0.3,
        (select(&["a1", "a3"][..]), select(&[None, Some("https://corp"), Some("https://x")][..])),
    );
    (who, groups, option::of(select(&["c1", "c2"][..])), actor, select(&["corp", "corp", "other"][..])).prop_map(
        |((kind, subject), groups, client, actor, authority)| Principal {
            authority: authority.into(),
            issuer: format!("https://{authority}").into(),
            tenant: None,
            subject: subject.into(),
            kind,
            client: client.filter(|_| kind != Kind::ServiceAccount).map(Box::from),
            groups: if kind == Kind::ServiceAccount { Groups::of_service_account("ci") } else { groups },
            actor: actor.map(|(subject, issuer)| Actor { subject: subject.into(), issuer: issuer.map(Box::from) }),
        },
    )
}

pub(crate) fn risk() -> impl Strategy<Value = KnownRisk> {
    let class = || option::of(select(&[Risk::ReadOnly, Risk::Write, Risk::Destructive][..]));
    (class(), class()).prop_map(|(own, guardrail)| KnownRisk { own, guardrail })
}

pub(crate) fn target() -> impl Strategy<Value = Target<'static>> {
    prop_oneof![
        6 => (select(&TOOLS[..]), risk()).prop_map(|(name, risk)| Target::Tool { name, risk }),
        2 => select(&URIS[..]).prop_map(|uri| Target::Resource { uri }),
        1 => select(&PROMPTS[..]).prop_map(|name| Target::Prompt { name }),
    ]
}

pub(crate) fn arguments() -> impl Strategy<Value = Option<&'static str>> {
    option::weighted(0.9, select(&ARGUMENTS[..]))
}
