//! What a decision is, written slowly and obviously from the text of the design (section 3), for tests to compare with.
//! It shares no code with the evaluator, and cares about nothing but being read.

use serde_json::Value as Json;

use super::decision::Reason;
use super::request::{Facts, Target};
use crate::generated::Policy;
use crate::generated::policy::{ActorMatch, Effect, Mode, PrincipalMatch, Rule, Standing, ToolMatch};
use crate::identity::principal::{Groups, Kind, Principal};
use crate::tools::risk::KnownRisk;

/// What a decision comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) effect: Effect,
    pub(crate) reason: Reason,
    pub(crate) visible: bool,
    /// Namespace, policy and name of the rule.
    pub(crate) rule: Option<(String, String, String)>,
    pub(crate) shadow: Option<Effect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    Yes,
    No,
    Unknown,
}
use Truth::{No, Unknown, Yes};

fn known(answer: bool) -> Truth {
    if answer { Yes } else { No }
}

fn all(answers: &[Truth]) -> Truth {
    if answers.contains(&No) {
        No
    } else if answers.contains(&Unknown) {
        Unknown
    } else {
        Yes
    }
}

fn some(answers: &[Truth]) -> Truth {
    if answers.contains(&Yes) {
        Yes
    } else if answers.contains(&Unknown) {
        Unknown
    } else {
        No
    }
}

fn opposite(answer: Truth) -> Truth {
    match answer {
        Yes => No,
        No => Yes,
        Unknown => Unknown,
    }
}

/// The conditions that tests use, with their meaning. `None` as meaning of arguments: they do not matter.
pub(crate) const CONDITIONS: [(&str, bool); 7] = [
    ("args.n > 1", true),
    ("has(args.repo) && args.repo.startsWith(\"acme/\")", true),
    ("args.tags.exists(t, t == \"x\")", true),
    ("principal.kind == \"User\"", false),
    ("\"g1\" in principal.groups", false),
    ("has(principal.client)", false),
    ("1 / 0 == 1", false),
];

fn condition(text: &str, principal: &Principal, arguments: Option<&str>) -> Truth {
    let args: Json = serde_json::from_str(arguments.unwrap_or("{}")).unwrap();
    match text {
        "principal.kind == \"User\"" => known(principal.kind == Kind::User),
        "has(principal.client)" => known(principal.client.is_some()),
        "1 / 0 == 1" => Unknown,
        "\"g1\" in principal.groups" => match &principal.groups {
            Groups::Known(groups) => known(groups.iter().any(|g| &**g == "g1")),
            Groups::Unknown => Unknown,
        },
        _ if !numbers_are_safe(&args) => Unknown,
        "args.n > 1" => match &args["n"] {
            _ if has_lookalike(&args, "n") => Unknown,
            Json::Number(n) => known(n.as_f64().unwrap() > 1.0),
            _ => Unknown,
        },
        "has(args.repo) && args.repo.startsWith(\"acme/\")" => match args.get("repo") {
            _ if has_lookalike(&args, "repo") => Unknown,
            None => No,
            Some(Json::String(repo)) => known(repo.starts_with("acme/")),
            Some(_) => Unknown,
        },
        "args.tags.exists(t, t == \"x\")" => match args.get("tags") {
            // The literal is compared with elements, which may be member names: it counts as asked for.
            _ if has_lookalike(&args, "tags") || has_lookalike(&args, "x") => Unknown,
            Some(Json::Array(tags)) => known(tags.iter().any(|t| t == "x")),
            _ => Unknown,
        },
        other => panic!("no meaning for {other}"),
    }
}

fn numbers_are_safe(value: &Json) -> bool {
    match value {
        Json::Number(n) => n.as_f64().unwrap().abs() <= 9_007_199_254_740_991.0,
        Json::Array(list) => list.iter().all(numbers_are_safe),
        Json::Object(map) => map.values().all(numbers_are_safe),
        _ => true,
    }
}

fn has_lookalike(value: &Json, name: &str) -> bool {
    match value {
        Json::Array(list) => list.iter().any(|v| has_lookalike(v, name)),
        Json::Object(map) => {
            map.iter().any(|(k, v)| k != name && k.to_lowercase() == name.to_lowercase() || has_lookalike(v, name))
        }
        _ => false,
    }
}

/// "In an Allow, an omitted actor means no `act` in the token. In a Deny or RequireApproval, omitted fields match
/// whatever the token carries."
fn principal_matches(entry: &PrincipalMatch, p: &Principal, as_allow: bool) -> Truth {
    let mut parts = Vec::new();
    if let Some(authority) = &entry.authority {
        parts.push(known(**authority == *p.authority));
    }
    if !entry.users.is_empty() {
        parts.push(known(p.kind == Kind::User && entry.users.contains(&p.subject.to_string())));
    }
    if !entry.groups.is_empty() {
        parts.push(match &p.groups {
            Groups::Known(groups) => known(groups.iter().any(|g| entry.groups.contains(&g.to_string()))),
            Groups::Unknown => Unknown,
        });
    }
    let client = p.client.as_ref().map(|c| c.to_string()).unwrap_or("(none)".into());
    if !entry.clients.is_empty() {
        parts.push(known(p.kind == Kind::Client && entry.clients.contains(&client)));
    }
    if !entry.via.is_empty() {
        parts.push(known(entry.via.contains(&client)));
    }
    if let Some(account) = &entry.service_account {
        let subject = format!("system:serviceaccount:{}:{}", account.namespace, account.name);
        parts.push(known(p.kind == Kind::ServiceAccount && *p.subject == *subject));
    }
    parts.push(match (&entry.actor, &p.actor) {
        (None, None) => Yes,
        (None, Some(_)) => known(!as_allow),
        (Some(_), None) => No,
        (Some(ActorMatch::Any), Some(_)) => Yes,
        (Some(ActorMatch::Subjects(subjects)), Some(actor)) => {
            let own_issuer = actor.issuer.is_none() || actor.issuer.as_ref() == Some(&p.issuer);
            known(subjects.contains(&actor.subject.to_string()) && (own_issuer || !as_allow))
        }
    });
    all(&parts)
}

fn glob(pattern: &[u8], text: &[u8], star_stops_at_slash: bool) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|n| glob(rest, &text[n..], star_stops_at_slash)),
        [b'*', rest @ ..] => (0..=text.len())
            .filter(|n| !(star_stops_at_slash && text[..*n].contains(&b'/')))
            .any(|n| glob(rest, &text[n..], star_stops_at_slash)),
        [c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..], star_stops_at_slash),
    }
}

fn name_matches(pattern: &str, name: &str, effect: Effect) -> bool {
    let safe = (1..=128).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let exact = !pattern.contains('*');
    glob(pattern.as_bytes(), name.as_bytes(), false) && (effect != Effect::Allow || safe || exact)
}

/// Test URIs have no escapes but `%2e`, which an Allow never matches, and no dot segments but `..`.
fn uri_matches(pattern: &str, uri: &str, effect: Effect) -> bool {
    let ambiguous = uri.contains("..") || uri.contains("%2e");
    glob(pattern.as_bytes(), uri.as_bytes(), true) && !(effect == Effect::Allow && ambiguous)
}

fn tool_matches(entry: &ToolMatch, name: &str, risk: KnownRisk, guardrail: bool, effect: Effect) -> Truth {
    // "in a guardrail that narrows, a class stands for those above it too"
    let upwards = guardrail && effect != Effect::Allow;
    let risk = if guardrail { risk.guardrail } else { risk.own };
    let every = entry.names.is_empty() && entry.patterns.is_empty();
    let named = entry.names.iter().any(|n| n == name)
        || entry.patterns.iter().any(|p| name_matches(p, name, effect))
        || every && name_matches("*", name, effect);
    let classed = match risk {
        _ if entry.risk.is_empty() => Yes,
        Some(class) => known(entry.risk.iter().any(|c| *c == class || upwards && *c < class)),
        None => Unknown,
    };
    all(&[known(named), classed])
}

/// Whether a rule matches, all but its condition.
fn matches_apart_from_condition(policy: &Policy, rule: &Rule, p: &Principal, target: &Target<'_>, now: i64) -> Truth {
    let as_allow = rule.effect == Effect::Allow;
    let principals: Vec<Truth> = rule.principals.iter().map(|e| principal_matches(e, p, as_allow)).collect();
    // "except reads inversely"
    let excepted: Vec<Truth> = rule.except.iter().map(|e| principal_matches(e, p, !as_allow)).collect();
    let target = match target {
        Target::Tool { name, risk } => {
            let matching = |t| tool_matches(t, name, *risk, policy.guardrail, rule.effect);
            some(&rule.tools.iter().map(matching).collect::<Vec<_>>())
        }
        Target::Resource { uri } => known(rule.resources.iter().any(|pattern| uri_matches(pattern, uri, rule.effect))),
        Target::Prompt { name } => known(rule.prompts.iter().any(|pattern| name_matches(pattern, name, rule.effect))),
    };
    let begun = known(rule.not_before.is_none_or(|t| now >= t));
    let over = known(rule.not_after.is_some_and(|t| now >= t));
    all(&[some(&principals), opposite(some(&excepted)), target, begun, opposite(over)])
}

type Found<'a> = (&'a Policy, &'a Rule, Truth);

/// Effect, reason and rule for rules whose match is known, and whether an Allow matches.
fn sum_up(rules: &[Found<'_>]) -> (Effect, Reason, Option<(String, String, String)>) {
    let named = |effect: Effect, wanted: &[Truth]| {
        let found = rules.iter().filter(|(_, rule, truth)| rule.effect == effect && wanted.contains(truth));
        found.map(|(policy, rule, _)| (policy.id.namespace.clone(), policy.id.name.clone(), rule.name.clone())).min()
    };
    if let Some(rule) = named(Effect::Deny, &[Yes]) {
        return (Effect::Deny, Reason::DeniedByRule, Some(rule));
    }
    if let Some(rule) = named(Effect::Deny, &[Unknown]) {
        return (Effect::Deny, Reason::DeniedByUnknown, Some(rule));
    }
    let Some(allow) = named(Effect::Allow, &[Yes]) else { return (Effect::Deny, Reason::NoMatchingAllow, None) };
    match named(Effect::RequireApproval, &[Yes, Unknown]) {
        Some(rule) => (Effect::RequireApproval, Reason::ApprovalRequired, Some(rule)),
        None => (Effect::Allow, Reason::Allowed, Some(allow)),
    }
}

fn in_force<'a>(policies: &[&'a Policy]) -> Vec<(&'a Policy, &'a Rule)> {
    let mut rules = Vec::new();
    for policy in policies {
        for rule in &policy.rules {
            let stopped = matches!(policy.standing, Standing::NarrowingOnly { .. }) && rule.effect == Effect::Allow;
            if !stopped {
                rules.push((*policy, rule));
            }
        }
    }
    rules
}

fn denies_all(policies: &[&Policy]) -> bool {
    policies.iter().any(|policy| matches!(policy.standing, Standing::DenyAll { .. }))
}

/// The condition of a rule under these arguments.
fn when(rule: &Rule, p: &Principal, arguments: Option<&str>) -> Truth {
    rule.when.as_deref().map_or(Yes, |text| condition(text, p, arguments))
}

fn depends_on_arguments(rule: &Rule) -> bool {
    rule.when.as_deref().is_some_and(|text| CONDITIONS.contains(&(text, true)))
}

/// Decides a call by all policies that reach the server.
pub(crate) fn decide(
    policies: &[&Policy],
    p: &Principal,
    target: &Target<'_>,
    arguments: Option<&str>,
    facts: &Facts,
) -> Answer {
    if denies_all(policies) {
        let (effect, reason) = (Effect::Deny, Reason::PolicyInvalid);
        return Answer { effect, reason, visible: false, rule: None, shadow: None };
    }
    let mut enforced = Vec::new();
    let mut with_shadow = Vec::new();
    let mut visible = false;
    for (policy, rule) in in_force(policies) {
        let apart = matches_apart_from_condition(policy, rule, p, target, facts.now);
        let found = (policy, rule, all(&[apart, when(rule, p, arguments)]));
        with_shadow.push(found);
        if policy.mode == Mode::Enforce {
            enforced.push(found);
            let could = depends_on_arguments(rule) || when(rule, p, arguments) == Yes;
            visible |= rule.effect == Effect::Allow && apart == Yes && could;
        }
    }
    let (effect, reason, rule) = sum_up(&enforced);
    let would = sum_up(&with_shadow).0;
    Answer { effect, reason, visible, rule, shadow: (would != effect).then_some(would) }
}

/// Every effect that some arguments could have, if each condition about arguments could hold or not by itself; empty if
/// the target is hidden.
pub(crate) fn possible_effects(policies: &[&Policy], p: &Principal, target: &Target<'_>, facts: &Facts) -> Vec<Effect> {
    if !decide(policies, p, target, None, facts).visible {
        return Vec::new();
    }
    let rules: Vec<_> = in_force(policies).into_iter().filter(|(policy, _)| policy.mode == Mode::Enforce).collect();
    let open = rules.iter().filter(|(_, rule)| depends_on_arguments(rule)).count();
    let mut effects = Vec::new();
    for assignment in 0..1u32 << open {
        let mut next = 0;
        let found: Vec<Found<'_>> = rules
            .iter()
            .map(|(policy, rule)| {
                let apart = matches_apart_from_condition(policy, rule, p, target, facts.now);
                let condition = if depends_on_arguments(rule) {
                    next += 1;
                    known(assignment >> (next - 1) & 1 == 1)
                } else {
                    when(rule, p, None)
                };
                (*policy, *rule, all(&[apart, condition]))
            })
            .collect();
        let effect = sum_up(&found).0;
        if !effects.contains(&effect) {
            effects.push(effect);
        }
    }
    effects
}
