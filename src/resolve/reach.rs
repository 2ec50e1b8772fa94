//! What a policy comes to at the servers that it reaches, where the whole set of objects is known.
//!
//! Invariant: all of it depends on other objects, so it is a warning; and it is said only if it is certain. Of
//! guardrails that choose namespaces nothing is said, and where a policy is invalid nobody knows what it would allow.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use super::{Finding, Findings, Reason};
use crate::{
    api::{FieldPath, schema::nearest},
    generated::{
        Labels, ObjectId, Policy, Server,
        policy::{Effect, Mode, Rule, Standing, ToolMatch},
        server::Lock,
    },
    policy::{condition::Condition, pattern::NamePattern, selector::reach_named, tri::Tri},
    tools::lock::{JsonType, Required, Requirement},
};

/// How many servers are looked at for a policy that chooses them by label, where somebody waits for the answer or it is asked
/// for with every change: each can have a lock.
pub const MOST_SERVERS: usize = 32;

/// A server, and what is known of the tools that were reviewed.
pub struct Place<'a> {
    /// The server.
    pub id: &'a ObjectId,
    /// Its labels.
    pub labels: &'a Labels,
    /// Those of its namespace, if they are known.
    pub namespace_labels: Option<&'a Labels>,
    /// The tools that were reviewed, if it has a lock.
    pub lock: Option<&'a Lock>,
    /// Which arguments their calls must have, as far as the lock holds definitions.
    pub required: Cow<'a, Required>,
}

impl<'a> Place<'a> {
    /// A server that has been resolved.
    pub fn of(server: &'a Server, required: Cow<'a, Required>) -> Self {
        let Server { id, labels, namespace_labels, lock, .. } = server;
        Self { id, labels, namespace_labels: namespace_labels.as_ref(), lock: lock.as_ref(), required }
    }

    fn reached_by(&self, policy: &Policy) -> Tri {
        reach_named(policy, self.id, self.labels, self.namespace_labels)
    }
}

/// Looks at all policies together; findings by the policy's index.
pub(super) fn findings(policies: &[Policy], places: &[Place<'_>]) -> Vec<(usize, Findings)> {
    let mut near: BTreeMap<&str, Near<'_>> = BTreeMap::new();
    for place in places {
        let id = place.id;
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
        found.push((i, of_policy(policy, near.policies.iter().chain(&guardrails).copied(), &reached)));
    }
    found
}

/// What one policy comes to at the servers that it reaches. `others`: every policy of its namespace, itself included, and the
/// guardrails that choose namespaces.
pub fn of_policy<'a>(policy: &Policy, others: impl Iterator<Item = &'a Policy>, reached: &[&Place<'_>]) -> Findings {
    if !is_judged(policy) || reached.is_empty() || policy.rules.is_empty() {
        return Findings::new();
    }
    let mut findings = unknown_tools(policy, reached);
    findings.extend(unguarded(policy, reached));
    findings.extend(mistyped(policy, reached));
    findings.extend(never_granted(policy, others, reached));
    findings
}

/// Whether what a policy comes to depends on other policies: it decides, and it grants nothing itself or wants approvals.
pub fn asks_others(policy: &Policy) -> bool {
    let has = |effect| policy.rules.iter().any(|rule| rule.effect == effect);
    policy.mode == Mode::Enforce && (!has(Effect::Allow) || has(Effect::RequireApproval))
}

/// A policy without what [`of_policy`] does not ask of any: whom its rules are about, and when.
#[must_use]
pub fn outline(mut policy: Policy) -> Policy {
    for rule in &mut policy.rules {
        rule.principals = Vec::new();
        rule.except = Vec::new();
        rule.message = None;
        (rule.not_before, rule.not_after) = (None, None);
    }
    policy
}

/// Whether anything is to be said of a policy by what it comes to where it reaches: it is in force, and chooses no namespaces.
pub fn is_judged(policy: &Policy) -> bool {
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
        self.places.values().copied().filter(|place| place.reached_by(policy) == Tri::Yes).collect()
    }
}

/// Rules that only narrow, where nothing grants what they are about.
fn never_granted<'a>(policy: &Policy, policies: impl Iterator<Item = &'a Policy>, reached: &[&Place<'_>]) -> Findings {
    let asks = |rule: &Rule| rule.effect == Effect::RequireApproval;
    let grants = |rule: &&Rule| rule.effect == Effect::Allow;
    if !asks_others(policy) {
        return Findings::new();
    }
    let mut allows = Vec::new();
    for other in policies.filter(|other| reached.iter().any(|place| place.reached_by(other) != Tri::No)) {
        if other.standing != Standing::InForce {
            return Findings::new();
        }
        let of_it = other.rules.iter().filter(grants).filter(|_| other.mode == Mode::Enforce);
        // Which tools a guardrail grants is not told to whoever writes policies of other namespaces, not by silence either.
        if other.guardrail && !policy.guardrail && of_it.clone().next().is_some() {
            return Findings::new();
        }
        allows.extend(of_it);
    }
    if allows.is_empty() {
        let message = "nothing grants at the servers that the policy reaches: every call is refused with or without it";
        return vec![Finding::new(Reason::NothingAllowed, FieldPath::of("spec.rules"), message)];
    }
    let unreachable = policy.rules.iter().enumerate().filter(|(_, rule)| asks(rule));
    let unreachable = unreachable.filter(|(_, rule)| !allows.iter().any(|allow| may_meet(rule, allow)));
    let finding = |(i, rule): (usize, &Rule)| {
        let message = format!("no Allow grants a tool that {:?} is about: nobody will be asked", rule.name);
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
        match place.lock {
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
    let open = place.required.iter().filter(|(_, required)| !required.arguments.contains(argument));
    open.map(|(name, _)| name.as_str()).filter(|name| may_be_about(rule, name, place)).collect()
}

/// Whether a rule may be about a reviewed tool.
fn may_be_about(rule: &Rule, name: &str, place: &Place<'_>) -> bool {
    let class = place.lock.and_then(|lock| lock.class(name));
    let fits = |tools: &ToolMatch| tools.risk.is_empty() || class.is_none_or(|class| tools.risk.contains(&class));
    rule.tools.iter().any(|tools| is_about(tools, name) && fits(tools))
}

/// Arguments that a condition takes for something of another type than they are in every tool that was reviewed and that the
/// rule may be about. A rule that is about tools of which no definition is known may mean those.
fn mistyped(policy: &Policy, reached: &[&Place<'_>]) -> Findings {
    let mut findings = Findings::new();
    for (i, rule) in policy.rules.iter().enumerate() {
        let Some(Ok(condition)) = rule.when.as_deref().map(Condition::compile) else { continue };
        let Some(tools) = defined(rule, reached) else { continue };
        for (argument, expected) in condition.expected_types() {
            let declared: Option<Vec<_>> = tools.values().map(|required| required.types.get(argument)).collect();
            let Some(declared) = declared.filter(|all| all.iter().all(|types| types.is_disjoint(expected))) else {
                continue;
            };
            let Some((tool, types)) = tools.keys().next().zip(declared.first()) else { continue };
            let others = match tools.len() - 1 {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let message = format!(
                "it takes {argument:?} for {}, and the reviewed definition of {tool:?}{others} says {}",
                words(expected),
                words(types)
            );
            findings.push(Finding::new(
                Reason::ArgumentType,
                FieldPath::of("spec.rules").index(i).field("when"),
                message,
            ));
        }
    }
    findings
}

/// What the reviewed tools require that a rule may be about, by name; `None`, if one of them, or what a server has, is not known.
fn defined<'a>(rule: &Rule, reached: &[&'a Place<'_>]) -> Option<BTreeMap<&'a str, &'a Requirement>> {
    let mut tools = BTreeMap::new();
    for place in reached {
        let lock = place.lock.filter(|lock| !lock.tools.is_empty())?;
        for name in lock.tools.keys().filter(|name| may_be_about(rule, name, place)) {
            let required = place.required.get(name)?;
            let known = tools.insert(name.as_str(), required);
            // Of two tools of one name, the condition may mean either.
            if known.is_some_and(|known: &Requirement| known.types != required.types) {
                return None;
            }
        }
    }
    Some(tools)
}

fn words(types: &BTreeSet<JsonType>) -> String {
    types.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(" or ")
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
