//! `McpPolicy` to a generated policy, and what stays in force of an edit that is invalid.

use std::collections::BTreeSet;

use super::{
    Finding, Findings, Lookup, Reason, Resolved, Settings, lint, object_id, pattern,
    principal::{self, Pull, Scope, principals},
    server::{not_enforced, risk_class},
    value,
};
use crate::{
    api::{
        FieldPath, Key, Kind, McpPolicy,
        v1alpha1::{BreakGlassSpec, PolicyMode, RuleEffect, RuleSpec, TargetsSpec, ToolSpec},
    },
    generated::{
        ObjectId, Policy,
        policy::{BreakGlass, Effect, Mode, Rule, Selector, Standing, Targets, ToolMatch},
    },
};

/// Resolves a policy. An authority or server that does not exist is a warning: an Allow then matches nobody, a Deny or
/// RequireApproval everybody that it could.
pub fn policy(policy: &McpPolicy, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Result<Resolved<Policy>, Findings> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let key = Key { kind: Kind::McpPolicy, namespace: namespace.to_owned(), name: name.to_owned() };
    let guardrail = namespace == settings.system_namespace;
    let mut errors = Findings::new();
    let mut warnings = Findings::new();
    let targets = targets(&policy.spec.targets, namespace, guardrail, lookup, &mut errors, &mut warnings);
    let scope = Scope { authority: policy.spec.authority.as_deref(), namespace, lookup };
    let mut rules = Vec::with_capacity(policy.spec.rules.len());
    for (i, spec) in policy.spec.rules.iter().enumerate() {
        let field = FieldPath::of("spec.rules").index(i);
        if policy.spec.rules.iter().take(i).any(|earlier| earlier.name == spec.name) {
            let message = "another rule of the policy has this name";
            errors.push(Finding::new(Reason::DuplicateEntry, field.field("name"), message));
        }
        rules.push(rule(spec, scope, &field, &mut errors, &mut warnings));
    }
    // Rules are compared once each of them says something.
    if errors.is_empty() {
        lint::rules(&rules, guardrail, &mut errors, &mut warnings);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let mode = match policy.spec.mode {
        PolicyMode::Enforce => Mode::Enforce,
        PolicyMode::Shadow => Mode::Shadow,
    };
    let id = object_id(&key, &policy.metadata);
    Ok(Resolved { object: Policy { id, guardrail, targets, mode, standing: Standing::InForce, rules }, warnings })
}

/// What is in force after an edit: the edit itself, or, if it is invalid for the given reason, what still narrows of
/// what was in force before. A policy that was never accepted denies whatever it could reach.
pub fn edit(previous: Option<&Policy>, id: ObjectId, guardrail: bool, new: Result<Policy, Reason>) -> Policy {
    let reason = match new {
        Ok(policy) => return policy,
        Err(reason) => reason.as_str().to_owned(),
    };
    match previous {
        Some(previous) if !matches!(previous.standing, Standing::DenyAll { .. }) => Policy {
            rules: previous.rules.iter().filter(|rule| rule.effect != Effect::Allow).cloned().collect(),
            standing: Standing::NarrowingOnly { reason },
            ..previous.clone()
        },
        _ => Policy {
            id,
            guardrail,
            targets: Targets {
                servers: Vec::new(),
                selector: Some(Selector::default()),
                namespaces: guardrail.then(Selector::default),
            },
            mode: Mode::Enforce,
            standing: Standing::DenyAll { reason },
            rules: Vec::new(),
        },
    }
}

/// What stays in force of an invalid edit, by the objects that are present now: an entry means what it would in a policy
/// that is accepted today. One of an authority that is gone matches callers of every authority, and one of an McpClient
/// that was made anew that one's tokens.
pub fn judged_again(mut policy: Policy, lookup: &Lookup<'_>) -> Policy {
    if matches!(policy.standing, Standing::NarrowingOnly { .. }) {
        for rule in &mut policy.rules {
            let (of_principals, of_exceptions) = pulls(rule.effect);
            for (list, pull) in [(&mut rule.principals, of_principals), (&mut rule.except, of_exceptions)] {
                list.iter_mut().for_each(|entry| principal::judge(entry, pull, &policy.id.namespace, lookup));
            }
        }
    }
    policy
}

/// What a policy's rules name and is not there, as people call it.
pub fn missing(policy: &Policy, lookup: &Lookup<'_>) -> BTreeSet<String> {
    let entries = policy.rules.iter().flat_map(|rule| rule.principals.iter().chain(&rule.except));
    entries.flat_map(|entry| principal::missing(entry, &policy.id.namespace, lookup)).collect()
}

/// Which way a rule's principals pull, and its exceptions.
fn pulls(effect: Effect) -> (Pull, Pull) {
    match effect {
        Effect::Allow => (Pull::Widens, Pull::Narrows),
        Effect::Deny | Effect::RequireApproval => (Pull::Narrows, Pull::Widens),
    }
}

fn targets(
    spec: &TargetsSpec,
    namespace: &str,
    guardrail: bool,
    lookup: &Lookup<'_>,
    errors: &mut Findings,
    warnings: &mut Findings,
) -> Targets {
    let field = FieldPath::of("spec.targets");
    let servers = spec.servers.clone().unwrap_or_default();
    if servers.is_empty() && spec.selector.is_none() {
        let message = "neither servers nor a selector is given";
        errors.push(Finding::new(Reason::TargetsInvalid, field.clone(), message));
    }
    if spec.namespace_selector.is_some() && !guardrail {
        let message = "namespaceSelector counts only in the system namespace";
        let at = field.field("namespaceSelector");
        errors.push(Finding::new(Reason::NamespaceSelectorNotAllowed, at, message));
    }
    if spec.namespace_selector.is_none() {
        for (i, name) in servers.iter().enumerate() {
            if !lookup.servers.contains(&(namespace, name.as_str())) {
                let message = format!("no McpServer {namespace}/{name}");
                warnings.push(Finding::new(Reason::ServerNotFound, field.field("servers").index(i), message));
            }
        }
    }
    Targets {
        servers,
        selector: spec.selector.as_ref().map(|s| value::selector(s, &field.field("selector"), errors)),
        namespaces: spec
            .namespace_selector
            .as_ref()
            .map(|s| value::selector(s, &field.field("namespaceSelector"), errors)),
    }
}

fn rule(spec: &RuleSpec, scope: Scope<'_>, field: &FieldPath, errors: &mut Findings, warnings: &mut Findings) -> Rule {
    unenforced(spec, field, errors);
    let effect = match spec.effect {
        RuleEffect::Allow => Effect::Allow,
        RuleEffect::Deny => Effect::Deny,
        RuleEffect::RequireApproval => Effect::RequireApproval,
    };
    let (of_principals, of_exceptions) = pulls(effect);
    if effect == Effect::RequireApproval {
        let message = "calls that this rule matches are refused: nobody can be asked";
        warnings.push(Finding::new(Reason::ApprovalsUnavailable, field.field("effect"), message));
    }
    if spec.principals.is_empty() {
        let message = "the rule is about nobody";
        errors.push(Finding::new(Reason::PrincipalInvalid, field.field("principals"), message));
    }
    let mut resolve = |list, pull, name: &str| principals(list, pull, scope, &field.field(name), errors, warnings);
    let principals = resolve(&spec.principals, of_principals, "principals");
    let except = resolve(&spec.except, of_exceptions, "except");
    let tools = tools(spec, field, errors);
    if let Some(when) = &spec.when
        && let Err(message) = check_condition(when)
    {
        errors.push(Finding::new(Reason::ConditionInvalid, field.field("when"), message));
    }
    let mut time = |text: &Option<String>, name: &str| {
        text.as_deref().and_then(|text| value::time(text, &field.field(name), errors))
    };
    let not_before = time(&spec.not_before, "notBefore");
    let not_after = time(&spec.not_after, "notAfter");
    if let (Some(from), Some(until)) = (not_before, not_after)
        && from >= until
    {
        let message = "the rule would never hold";
        errors.push(Finding::new(Reason::WindowInvalid, field.field("notAfter"), message));
    }
    let break_glass = spec.break_glass.as_ref().map(|why| {
        let (field, window) = (field.field("breakGlass"), not_before.zip(not_after));
        break_glass(why, effect, window, &field, errors)
    });
    Rule {
        name: spec.name.clone(),
        effect,
        principals,
        except,
        tools,
        resources: Vec::new(),
        prompts: Vec::new(),
        when: spec.when.clone(),
        not_before,
        not_after,
        break_glass,
        message: spec.message.clone(),
    }
}

/// The longest that an exception for an emergency holds, in seconds. The CRD has the same number.
pub const LONGEST_BREAK_GLASS: i64 = 24 * 3_600;

/// Why a rule is an exception. What it may not be is said of it.
fn break_glass(
    spec: &BreakGlassSpec,
    effect: Effect,
    window: Option<(i64, i64)>,
    field: &FieldPath,
    errors: &mut Findings,
) -> BreakGlass {
    let mut refuse =
        |reason: Reason, field: FieldPath, message: &str| errors.push(Finding::new(reason, field, message));
    if effect != Effect::Allow {
        refuse(Reason::BreakGlassInvalid, field.clone(), "only an Allow is an exception");
    }
    match window {
        None => refuse(Reason::BreakGlassInvalid, field.clone(), "an exception has a beginning and an end"),
        Some((from, until)) if until.saturating_sub(from) > LONGEST_BREAK_GLASS => {
            refuse(Reason::BreakGlassTooLong, field.clone(), "the rule would hold for more than 24 hours");
        }
        Some(_) => {}
    }
    for (name, text) in [("reason", Some(&spec.reason)), ("ticket", spec.ticket.as_ref())] {
        if text.is_some_and(|text| text.trim().is_empty()) {
            refuse(Reason::BreakGlassInvalid, field.field(name), "it says nothing");
        }
    }
    BreakGlass { reason: spec.reason.clone(), ticket: spec.ticket.clone() }
}

fn unenforced(spec: &RuleSpec, field: &FieldPath, errors: &mut Findings) {
    let mut refuse = |name: &str, given: bool, message: &str, remedy: &'static str| {
        if given {
            let finding = Finding { field: field.field(name), ..not_enforced("", message) };
            errors.push(finding.remedy(remedy));
        }
    };
    let nothing = "remove it; nothing is accepted and ignored";
    refuse("resources", spec.resources.is_some(), "this build denies every resource", nothing);
    refuse("prompts", spec.prompts.is_some(), "this build denies every prompt", nothing);
    refuse("limits", spec.limits.is_some(), "this build counts no limits", nothing);
    refuse("approval", spec.approval.is_some(), "this build cannot ask for approvals", nothing);
}

fn tools(spec: &RuleSpec, field: &FieldPath, errors: &mut Findings) -> Vec<ToolMatch> {
    let field_of_tools = field.field("tools");
    let list: &[ToolSpec] = spec.tools.as_deref().unwrap_or_default();
    if list.is_empty() && spec.resources.is_none() && spec.prompts.is_none() {
        errors.push(Finding::new(Reason::RuleEmpty, field_of_tools.clone(), "the rule is about nothing"));
    }
    let mut tools = Vec::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        let at = field_of_tools.index(i);
        let names = entry.names.as_deref().unwrap_or_default();
        let patterns = entry.patterns.as_deref().unwrap_or_default();
        let risk = entry.risk.as_deref().unwrap_or_default();
        let empty_list = [
            entry.names.is_some() && names.is_empty(),
            entry.patterns.is_some() && patterns.is_empty(),
            entry.risk.is_some() && risk.is_empty(),
        ];
        if empty_list.contains(&true) || (names.is_empty() && patterns.is_empty() && risk.is_empty()) {
            let finding = Finding::new(Reason::RuleEmpty, at.clone(), "the entry is about no tool");
            errors.push(finding.remedy("give names, patterns or risk; patterns: [\"*\"] means every tool"));
        }
        tools.push(ToolMatch {
            names: pattern::names(names, &at.field("names"), errors),
            patterns: pattern::patterns(patterns, &at.field("patterns"), errors),
            risk: risk.iter().map(|class| risk_class(*class)).collect(),
        });
        if spec.effect == RuleEffect::Allow {
            pattern::granting(patterns, &at.field("patterns"), errors);
        }
    }
    tools
}

/// Whether a condition compiles within its bounds; otherwise what is wrong with it.
fn check_condition(text: &str) -> Result<(), String> {
    crate::policy::condition::check(text).map_err(|error| error.message)
}
