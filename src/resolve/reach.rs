//! What a policy comes to at the servers that it reaches, where the whole set of objects is known.
//!
//! Invariant: all of it depends on other objects, so it is a warning; and it is said only if it is certain. Of
//! guardrails that choose namespaces nothing is said, and where a policy is invalid nobody knows what it would allow.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Findings, Reason};
use crate::{
    api::{FieldPath, schema::nearest},
    generated::{
        Policy, Server,
        policy::{Effect, Mode, Rule, Standing, ToolMatch},
    },
    policy::{condition::Condition, pattern::NamePattern, selector::reach, tri::Tri},
    tools::lock::Required,
};

/// A server, and what is known of the tools that were reviewed.
pub struct Place<'a> {
    /// The server.
    pub server: &'a Server,
    /// Which arguments their calls must have, as far as the lock holds definitions.
    pub required: Required,
}

/// Whose rules are known where it is said that nothing grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// All that there are.
    All,
    /// Those of the policy's namespace: what guardrails say is not everybody's business.
    Namespace,
}

/// Looks at all policies together; findings by the policy's index.
pub(super) fn findings(policies: &[Policy], places: &[Place<'_>]) -> Vec<(usize, Findings)> {
    let mut near: BTreeMap<&str, Near<'_>> = BTreeMap::new();
    for place in places {
        let id = &place.server.id;
        near.entry(&id.namespace).or_default().places.insert(&id.name, place);
    }
    for policy in policies.iter().filter(|policy| policy.targets.namespaces.is_none()) {
        near.entry(&policy.id.namespace).or_default().policies.push(policy);
    }
    let guardrails: Vec<&Policy> = policies.iter().filter(|policy| policy.targets.namespaces.is_some()).collect();
    let mut found = Vec::new();
    for (i, policy) in policies.iter().enumerate() {
        let Some(near) = near.get(policy.id.namespace.as_str()) else { continue };
        let reached = if is_judged(policy) { near.reached(policy) } else { Vec::new() };
        found.push((i, of_policy(policy, near.policies.iter().chain(&guardrails).copied(), Known::All, &reached)));
    }
    found
}

/// What one policy comes to at the servers that it reaches. `others`: every policy of its namespace, itself included, and the
/// guardrails that choose namespaces if these are `known`.
pub fn of_policy<'a>(
    policy: &Policy,
    others: impl Iterator<Item = &'a Policy>,
    known: Known,
    reached: &[&Place<'_>],
) -> Findings {
    if !is_judged(policy) || reached.is_empty() || policy.rules.is_empty() {
        return Findings::new();
    }
    let mut findings = unknown_tools(policy, reached);
    findings.extend(unguarded(policy, reached));
    if policy.mode == Mode::Enforce {
        findings.extend(never_granted(policy, others, known, reached));
    }
    findings
}

fn is_judged(policy: &Policy) -> bool {
    policy.standing == Standing::InForce && policy.targets.namespaces.is_none()
}

/// What there is in one namespace.
#[derive(Default)]
struct Near<'a> {
    /// By the server's name.
    places: BTreeMap<&'a str, &'a Place<'a>>,
    policies: Vec<&'a Policy>,
}

impl<'a> Near<'a> {
    fn reached(&self, policy: &Policy) -> Vec<&'a Place<'a>> {
        if policy.targets.selector.is_none() {
            let named = policy.targets.servers.iter().filter_map(|name| self.places.get(name.as_str()));
            return named.copied().collect();
        }
        self.places.values().copied().filter(|place| reach(policy, place.server) == Tri::Yes).collect()
    }
}

/// Rules that only narrow, where nothing grants what they are about.
fn never_granted<'a>(
    policy: &Policy,
    policies: impl Iterator<Item = &'a Policy>,
    known: Known,
    reached: &[&Place<'_>],
) -> Findings {
    let asks = |rule: &Rule| rule.effect == Effect::RequireApproval;
    let grants = |rule: &&Rule| rule.effect == Effect::Allow;
    if policy.rules.iter().any(|rule| grants(&rule)) && !policy.rules.iter().any(asks) {
        return Findings::new();
    }
    let mut allows = Vec::new();
    for other in policies.filter(|other| reached.iter().any(|place| reach(other, place.server) != Tri::No)) {
        if other.standing != Standing::InForce {
            return Findings::new();
        }
        allows.extend(other.rules.iter().filter(grants).filter(|_| other.mode == Mode::Enforce));
    }
    let unless = if known == Known::All { "" } else { ", unless a guardrail grants it" };
    if allows.is_empty() {
        let message = format!(
            "nothing grants at the servers that the policy reaches: every call is refused with or without it{unless}"
        );
        return vec![Finding::new(Reason::NothingAllowed, FieldPath::of("spec.rules"), message)];
    }
    let unreachable = policy.rules.iter().enumerate().filter(|(_, rule)| asks(rule));
    let unreachable = unreachable.filter(|(_, rule)| !allows.iter().any(|allow| may_meet(rule, allow)));
    let finding = |(i, rule): (usize, &Rule)| {
        let message = format!("no Allow grants a tool that {:?} is about: nobody will be asked{unless}", rule.name);
        Finding::new(Reason::ApprovalUnreachable, FieldPath::of("spec.rules").index(i), message)
    };
    unreachable.map(finding).collect()
}

/// Whether two rules may be about one tool, by its name; patterns are taken to meet.
fn may_meet(one: &Rule, other: &Rule) -> bool {
    let open = |tools: &ToolMatch| tools.names.is_empty() || !tools.patterns.is_empty();
    one.tools.iter().any(|tools| {
        other.tools.iter().any(|others| {
            open(tools) && open(others)
                || tools.names.iter().any(|name| is_about(others, name))
                || others.names.iter().any(|name| is_about(tools, name))
        })
    })
}

fn is_about(tools: &ToolMatch, name: &str) -> bool {
    tools.names.is_empty() && tools.patterns.is_empty()
        || tools.names.iter().any(|named| named == name)
        || tools.patterns.iter().any(|pattern| NamePattern::new(pattern).matches(name, Effect::Deny))
}

/// Names that none of the reached servers has, where each of them has a lock that lists its tools.
fn unknown_tools(policy: &Policy, reached: &[&Place<'_>]) -> Findings {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for place in reached {
        match &place.server.lock {
            Some(lock) if !lock.tools.is_empty() => known.extend(lock.tools.keys().map(String::as_str)),
            _ => return Findings::new(),
        }
    }
    let mut findings = Findings::new();
    for (i, rule) in policy.rules.iter().enumerate() {
        for (j, tools) in rule.tools.iter().enumerate() {
            for (k, name) in tools.names.iter().enumerate().filter(|(_, name)| !known.contains(name.as_str())) {
                let field = FieldPath::of("spec.rules").index(i).field("tools").index(j).field("names").index(k);
                let message = format!("no tool {name:?} was reviewed at the servers that the policy reaches");
                let finding = Finding::new(Reason::ToolNotFound, field, message);
                findings.push(match nearest(name, known.iter().copied()) {
                    Some(meant) => finding.remedy(format!("did you mean {meant:?}?")),
                    None => finding,
                });
            }
        }
    }
    findings
}

/// Arguments that a condition takes for given, and that calls of a reviewed tool may leave out.
fn unguarded(policy: &Policy, reached: &[&Place<'_>]) -> Findings {
    let mut findings = Findings::new();
    if reached.iter().all(|place| place.required.is_empty()) {
        return findings;
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        let Some(Ok(condition)) = rule.when.as_deref().map(Condition::compile) else { continue };
        for argument in condition.unguarded_arguments() {
            let open: BTreeSet<&str> = reached.iter().flat_map(|place| may_leave_out(rule, argument, place)).collect();
            let Some(tool) = open.first() else { continue };
            let (others, outcome) = match (open.len() - 1, rule.effect) {
                (0, Effect::Allow) => (String::new(), "does not match"),
                (0, _) => (String::new(), "matches"),
                (n, Effect::Allow) => (format!(" and {n} more"), "does not match"),
                (n, _) => (format!(" and {n} more"), "matches"),
            };
            let message = format!(
                "calls of {tool:?}{others} may leave out {argument:?}: the condition then fails, and the rule {outcome}"
            );
            let field = FieldPath::of("spec.rules").index(i).field("when");
            findings
                .push(Finding::new(Reason::ArgumentNotRequired, field, message).remedy(guard(argument, rule.effect)));
        }
    }
    findings
}

/// The reviewed tools that a rule may be about, and whose calls need not have an argument.
fn may_leave_out<'a>(rule: &Rule, argument: &str, place: &'a Place<'_>) -> Vec<&'a str> {
    let class = |name: &str| place.server.lock.as_ref().and_then(|lock| lock.class(name));
    let about = |name: &str| {
        let fits =
            |tools: &ToolMatch| tools.risk.is_empty() || class(name).is_none_or(|class| tools.risk.contains(&class));
        rule.tools.iter().any(|tools| is_about(tools, name) && fits(tools))
    };
    let open = place.required.iter().filter(|(_, required)| !required.contains(argument));
    open.map(|(name, _)| name.as_str()).filter(|name| about(name)).collect()
}

fn guard(argument: &str, effect: Effect) -> String {
    let mut bytes = argument.bytes();
    let plain = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let has = if plain { format!("has(args.{argument})") } else { format!("{argument:?} in args") };
    match effect {
        Effect::Allow => format!("guard it: {has} && …"),
        Effect::Deny | Effect::RequireApproval => {
            format!("say what is meant: {has} && … lets such calls pass, !({has}) || … does not")
        }
    }
}
