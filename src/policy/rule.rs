//! Rules, compiled, and the three-valued answer to "is this rule about this call?".
//!
//! Invariant: what is compiled can be evaluated; whatever is wrong in a rule is found here, with its field, and never
//! while a call waits.

use std::sync::Arc;

use super::condition::Condition;
use super::decision::RuleRef;
use super::index::{Edges, Facet, Key, PrincipalKeys};
use super::pattern::{MAX_PATTERN, NamePattern, UriPattern};
use super::request::Target;
use super::tri::Tri;
use crate::generated::policy::{ActorMatch, Effect, Mode, PrincipalMatch, Standing, ToolMatch};
use crate::generated::{self, Policy, Risk};
use crate::identity::principal::{Groups, Kind, Principal};
use crate::tools::risk::KnownRisk;

/// A rule, ready to be matched.
#[derive(Debug)]
pub struct Rule {
    /// How people and records name it.
    pub reference: Arc<RuleRef>,
    /// What it does.
    pub effect: Effect,
    /// Whether it only records what it would have decided.
    pub shadow: bool,
    /// Whether it belongs to a guardrail, which believes less about risk.
    pub guardrail: bool,
    source: generated::policy::Rule,
    /// For each entry of `principals` the keys of its groups; likewise for `except`.
    groups: Box<[Box<[Key]>]>,
    excepted_groups: Box<[Box<[Key]>]>,
    tools: Box<[Tools]>,
    resources: Box<[UriPattern]>,
    prompts: Box<[NamePattern]>,
    /// Its condition.
    pub when: Option<Condition>,
}

#[derive(Debug)]
struct Tools {
    names: Box<[Box<str>]>,
    patterns: Box<[NamePattern]>,
    risk: Box<[Risk]>,
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct CompileError {
    /// Where, as a path below the policy, for example `rules[2].tools[0].patterns[1]`.
    pub field: String,
    reason: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl CompileError {
    fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into() }
    }

    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// A policy, ready to be indexed.
#[derive(Debug)]
pub struct CompiledPolicy {
    /// What it was compiled from.
    pub source: Arc<Policy>,
    /// Its rules; none if it denies everything.
    pub rules: Box<[Arc<Rule>]>,
    pub(crate) edges: Edges,
}

impl CompiledPolicy {
    /// The same policy without the rules that grant: what counts of it where it is not known whether it reaches.
    pub fn narrowing(&self) -> Self {
        let rules: Vec<_> = self.rules.iter().filter(|rule| rule.effect != Effect::Allow).map(Arc::clone).collect();
        let edges = Edges::of(&rules);
        Self { source: Arc::clone(&self.source), rules: rules.into(), edges }
    }
}

/// Compiles a policy; reports every error, not only the first.
pub fn compile(policy: Arc<Policy>) -> Result<CompiledPolicy, Vec<CompileError>> {
    if matches!(policy.standing, Standing::DenyAll { .. }) {
        return Ok(CompiledPolicy { source: policy, rules: Box::default(), edges: Edges::default() });
    }
    let mut errors = Vec::new();
    if !policy.guardrail && policy.targets.namespaces.is_some() {
        errors.push(CompileError::new(
            "targets.namespaces",
            "NamespaceSelectorOutsideSystem",
            "only policies in the system namespace reach other namespaces; remove namespaceSelector",
        ));
    }
    if policy.targets.servers.is_empty() && policy.targets.selector.is_none() {
        errors.push(CompileError::new(
            "targets",
            "NoTargets",
            "a policy names servers or selects them; for all of them write selector: {}",
        ));
    }
    let namespace: Arc<str> = policy.id.namespace.as_str().into();
    let name: Arc<str> = policy.id.name.as_str().into();
    let mut rules = Vec::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        let field = format!("rules[{index}]");
        if policy.rules.iter().take(index).any(|other| other.name == rule.name) {
            errors.push(CompileError::new(
                format!("{field}.name"),
                "DuplicateRule",
                format!("another rule is named {:?}; names are unique in a policy", rule.name),
            ));
        }
        if matches!(policy.standing, Standing::NarrowingOnly { .. }) && rule.effect == Effect::Allow {
            continue;
        }
        let reference = RuleRef {
            namespace: Arc::clone(&namespace),
            policy: Arc::clone(&name),
            generation: policy.id.generation,
            rule: rule.name.as_str().into(),
            break_glass: rule.break_glass.clone().map(Arc::new),
            message: rule.message.as_deref().map(Arc::from),
        };
        rules.extend(compile_rule(rule, reference, &policy, &field, &mut errors).map(Arc::new));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let edges = Edges::of(&rules);
    Ok(CompiledPolicy { source: policy, rules: rules.into(), edges })
}

fn compile_rule(
    rule: &generated::policy::Rule,
    reference: RuleRef,
    policy: &Policy,
    field: &str,
    errors: &mut Vec<CompileError>,
) -> Option<Rule> {
    let before = errors.len();
    if rule.principals.is_empty() {
        errors.push(CompileError::new(
            format!("{field}.principals"),
            "NoPrincipals",
            "a rule says whom it is about; for every authenticated principal write {any: true}",
        ));
    }
    if rule.tools.is_empty() && rule.resources.is_empty() && rule.prompts.is_empty() {
        errors.push(CompileError::new(field, "NoTargets", "a rule needs tools, resources or prompts"));
    }
    check_principals(&rule.principals, rule.effect == Effect::Allow, &format!("{field}.principals"), errors);
    check_principals(&rule.except, rule.effect != Effect::Allow, &format!("{field}.except"), errors);
    if let (Some(from), Some(until)) = (rule.not_before, rule.not_after)
        && from >= until
    {
        errors.push(CompileError::new(
            format!("{field}.notAfter"),
            "EmptyWindow",
            "notAfter is not later than notBefore: the rule would never hold",
        ));
    }
    let when = rule.when.as_deref().and_then(|text| match Condition::compile(text) {
        Ok(condition) => Some(condition),
        Err(e) => {
            errors.push(CompileError::new(format!("{field}.when"), e.reason(), e.message));
            None
        }
    });
    let tools = compile_tools(&rule.tools, field, errors);
    check_patterns(&rule.resources, &format!("{field}.resources"), errors);
    check_patterns(&rule.prompts, &format!("{field}.prompts"), errors);
    (errors.len() == before).then(|| Rule {
        reference: Arc::new(reference),
        effect: rule.effect,
        shadow: policy.mode == Mode::Shadow,
        guardrail: policy.guardrail,
        tools,
        resources: rule.resources.iter().map(|p| UriPattern::new(p)).collect(),
        prompts: rule.prompts.iter().map(|p| NamePattern::new(p)).collect(),
        when,
        groups: rule.principals.iter().map(group_keys).collect(),
        excepted_groups: rule.except.iter().map(group_keys).collect(),
        source: rule.clone(),
    })
}

/// `grants`: whether a match of these entries widens what is allowed; then nothing may be left open.
fn check_principals(entries: &[PrincipalMatch], grants: bool, field: &str, errors: &mut Vec<CompileError>) {
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let names_someone = entry.any
            || !(entry.users.is_empty() && entry.groups.is_empty() && entry.clients.is_empty() && entry.via.is_empty())
            || entry.service_account.is_some()
            || entry.actor.is_some();
        if !names_someone {
            errors.push(CompileError::new(
                &field,
                "EmptyPrincipal",
                "an entry without fields would match everybody; write {any: true} if that is meant",
            ));
        }
        if entry.authority.is_none() && (grants || !entry.any) {
            errors.push(CompileError::new(
                format!("{field}.authority"),
                "NoAuthority",
                "say which authority vouches for the principal, here or as spec.authority",
            ));
        }
    }
}

fn compile_tools(tools: &[ToolMatch], field: &str, errors: &mut Vec<CompileError>) -> Box<[Tools]> {
    let compiled = tools.iter().enumerate().map(|(index, entry)| {
        let field = format!("{field}.tools[{index}]");
        if entry.names.is_empty() && entry.patterns.is_empty() && entry.risk.is_empty() {
            errors.push(CompileError::new(
                &field,
                "EmptyToolMatch",
                "an entry without fields would match every tool; write {patterns: [\"*\"]} if that is meant",
            ));
        }
        check_patterns(&entry.patterns, &format!("{field}.patterns"), errors);
        let mut patterns: Vec<_> = entry.patterns.iter().map(|p| NamePattern::new(p)).collect();
        if entry.names.is_empty() && patterns.is_empty() {
            patterns.push(NamePattern::new("*"));
        }
        Tools {
            names: entry.names.iter().map(|n| n.as_str().into()).collect(),
            patterns: patterns.into(),
            risk: entry.risk.as_slice().into(),
        }
    });
    compiled.collect()
}

fn check_patterns(patterns: &[String], field: &str, errors: &mut Vec<CompileError>) {
    for (index, pattern) in patterns.iter().enumerate() {
        if pattern.is_empty() || pattern.len() > MAX_PATTERN {
            errors.push(CompileError::new(
                format!("{field}[{index}]"),
                "PatternLength",
                format!("a pattern has 1 to {MAX_PATTERN} bytes"),
            ));
        }
    }
}

/// The parts of a rule that are judged one by one; a rule is about a call if all of them are.
impl Rule {
    /// The rule as its author wrote it.
    pub fn source(&self) -> &generated::policy::Rule {
        &self.source
    }

    /// Whether the rule is about this principal: one of `principals` and none of `except`.
    /// `keys` are those of the principal.
    pub fn about_principal(&self, principal: &Principal, keys: &PrincipalKeys) -> Tri {
        match self.includes(principal, keys) {
            Tri::No => Tri::No,
            included if self.source.except.is_empty() => included,
            included => included.and(!self.except(principal, keys)),
        }
    }

    /// Whether the rule would be about this principal but for `except`.
    pub fn excepts(&self, principal: &Principal, keys: &PrincipalKeys) -> bool {
        self.includes(principal, keys) != Tri::No && self.except(principal, keys) == Tri::Yes
    }

    fn includes(&self, principal: &Principal, keys: &PrincipalKeys) -> Tri {
        let grants = self.effect == Effect::Allow;
        let entries = self.source.principals.iter().zip(&self.groups);
        Tri::any(entries.map(|(entry, groups)| entry_matches(entry, groups, principal, keys, grants)))
    }

    /// Exceptions read inversely: what narrows a grant reads as a restriction does, and the other way round.
    fn except(&self, principal: &Principal, keys: &PrincipalKeys) -> Tri {
        let grants = self.effect != Effect::Allow;
        let entries = self.source.except.iter().zip(&self.excepted_groups);
        Tri::any(entries.map(|(entry, groups)| entry_matches(entry, groups, principal, keys, grants)))
    }

    /// Whether the rule is about this target.
    pub fn about_target(&self, target: &Target<'_>) -> Tri {
        match target {
            Target::Tool { name, risk } => Tri::any(self.tools.iter().map(|tools| self.about_tool(tools, name, *risk))),
            Target::Resource { uri } => self.resources.iter().any(|p| p.matches(uri, self.effect)).into(),
            Target::Prompt { name } => self.prompts.iter().any(|p| p.matches(name, self.effect)).into(),
        }
    }

    fn about_tool(&self, tools: &Tools, name: &str, risk: KnownRisk) -> Tri {
        let named =
            tools.names.iter().any(|n| **n == *name) || tools.patterns.iter().any(|p| p.matches(name, self.effect));
        if !named || tools.risk.is_empty() {
            return named.into();
        }
        match if self.guardrail { risk.guardrail } else { risk.own } {
            // Whoever owns the server may raise a tool's class, and must not slip out from under a guardrail that way.
            Some(class) if self.guardrail && self.effect != Effect::Allow => {
                tools.risk.iter().any(|least| *least <= class).into()
            }
            Some(class) => tools.risk.contains(&class).into(),
            None => Tri::Unknown,
        }
    }

    /// Whether the rule holds at a time, in Unix seconds.
    pub fn holds_at(&self, now: i64) -> bool {
        self.source.not_before.is_none_or(|from| from <= now) && self.source.not_after.is_none_or(|until| now < until)
    }

    /// The text of the rule's condition.
    pub fn condition(&self) -> Option<&str> {
        self.source.when.as_deref()
    }

    /// The exact names, if the rule is about nothing else: such a rule is indexed by them.
    pub(crate) fn exact_targets(&self) -> Option<Vec<Target<'_>>> {
        let unknown = KnownRisk::default();
        let mut targets = Vec::new();
        for tools in &self.tools {
            targets.extend(tools.names.iter().map(|name| Target::Tool { name, risk: unknown }));
            for pattern in &tools.patterns {
                targets.push(Target::Tool { name: pattern.exact()?, risk: unknown });
            }
        }
        for prompt in &self.prompts {
            targets.push(Target::Prompt { name: prompt.exact()? });
        }
        self.resources.is_empty().then_some(targets)
    }

    /// Every key under which the index must find the rule: for each entry its most selective field.
    pub(crate) fn principal_keys(&self) -> Vec<Key> {
        let grants = self.effect == Effect::Allow;
        let mut keys = Vec::new();
        for entry in &self.source.principals {
            let Some(authority) = entry.authority.as_deref() else {
                keys.push(Facet::Anyone.key());
                continue;
            };
            if let Some(account) = &entry.service_account {
                keys.push(Facet::ServiceAccount(authority, &subject(account)).key());
            } else if !entry.users.is_empty() {
                keys.extend(entry.users.iter().map(|u| Facet::User(authority, u).key()));
            } else if !entry.clients.is_empty() {
                keys.extend(entry.clients.iter().map(|c| Facet::Client(authority, c).key()));
            } else if !entry.via.is_empty() {
                keys.extend(entry.via.iter().map(|c| Facet::Via(authority, c).key()));
            } else if !entry.groups.is_empty() {
                keys.extend(entry.groups.iter().map(|g| Facet::Group(authority, g).key()));
                if !grants {
                    keys.push(Facet::UnknownGroups(authority).key());
                }
            } else {
                keys.push(Facet::OfAuthority(authority).key());
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The keys of an entry's groups, in their order; none where no authority qualifies them.
fn group_keys(entry: &PrincipalMatch) -> Box<[Key]> {
    let authority = entry.authority.as_deref();
    authority.into_iter().flat_map(|a| entry.groups.iter().map(move |g| Facet::Group(a, g).key())).collect()
}

/// Whether one entry matches. `grants`: what the entry leaves out must be absent; otherwise it may be anything.
/// `group_keys` and `keys` only spare comparisons.
fn entry_matches(
    entry: &PrincipalMatch,
    group_keys: &[Key],
    principal: &Principal,
    keys: &PrincipalKeys,
    grants: bool,
) -> Tri {
    let client_is_in = |ids: &[String]| principal.client.as_deref().is_some_and(|c| ids.iter().any(|id| id == c));
    let certain = entry.authority.as_deref().is_none_or(|a| a == &*principal.authority)
        && (entry.users.is_empty()
            || principal.kind == Kind::User && entry.users.iter().any(|u| **u == *principal.subject))
        && (entry.clients.is_empty() || principal.kind == Kind::Client && client_is_in(&entry.clients))
        && (entry.via.is_empty() || client_is_in(&entry.via))
        && entry
            .service_account
            .as_ref()
            .is_none_or(|account| principal.kind == Kind::ServiceAccount && is_subject_of(&principal.subject, account))
        && actor_matches(entry.actor.as_ref(), principal, grants);
    if !certain || entry.groups.is_empty() {
        return certain.into();
    }
    match &principal.groups {
        Groups::Known(groups) => {
            let mut wanted = entry.groups.iter().enumerate();
            let possible = |index| group_keys.get(index).is_none_or(|key| keys.holds(*key));
            wanted.any(|(index, g)| possible(index) && groups.iter().any(|known| **known == **g)).into()
        }
        Groups::Unknown => Tri::Unknown,
    }
}

/// An actor's subject means something only beside its issuer: a grant takes it from the token's own issuer alone, a
/// restriction from any.
fn actor_matches(wanted: Option<&ActorMatch>, principal: &Principal, grants: bool) -> bool {
    match (wanted, &principal.actor) {
        (None, actor) => !grants || actor.is_none(),
        (Some(_), None) => false,
        (Some(ActorMatch::Any), Some(_)) => true,
        (Some(ActorMatch::Subjects(subjects)), Some(actor)) => {
            subjects.iter().any(|s| **s == *actor.subject)
                && (!grants || actor.issuer.as_ref().is_none_or(|issuer| *issuer == principal.issuer))
        }
    }
}

/// `subject(account) == text`, without building it.
fn is_subject_of(text: &str, account: &generated::policy::ServiceAccount) -> bool {
    text.strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.strip_prefix(&*account.namespace))
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|name| name == account.name)
}

/// The subject of a ServiceAccount's token.
pub(crate) fn subject(account: &generated::policy::ServiceAccount) -> String {
    format!("system:serviceaccount:{}:{}", account.namespace, account.name)
}
