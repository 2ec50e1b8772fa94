//! Whether one rule of a policy counts wherever another one does.
//!
//! Invariant: sound, not complete. "Covers" is said only if it holds for every caller, call and time, and whatever other
//! objects there are: entries are read as their author wrote them (`named`), never as what is there makes of them. A
//! policy that is too large to be compared within the bound is one of which nothing is said.
//!
//! A rule *counts* for a call if it surely matches (Allow), or could match (Deny, RequireApproval): design 3.3.

use crate::{
    generated::{
        Risk,
        policy::{ActorMatch, Effect, PrincipalMatch, Rule, ServiceAccount, ToolMatch},
    },
    policy::pattern::NamePattern,
};

/// How many comparisons of two texts one policy is worth.
const MOST_STEPS: usize = 1 << 20;

/// Compares rules of one policy, or of two versions of it.
pub struct Comparison {
    guardrail: bool,
    steps: usize,
}

/// How an entry is read: where a match widens access (`grants`), it must be sure, and what is left out must be absent.
/// `Allow` reads its principals so, the others their exceptions.
#[derive(Clone, Copy)]
struct Reading {
    grants: bool,
}

impl Reading {
    fn of_principals(rule: &Rule) -> Self {
        Self { grants: rule.effect == Effect::Allow }
    }

    fn of_exceptions(rule: &Rule) -> Self {
        Self { grants: rule.effect != Effect::Allow }
    }
}

/// An entry as its author wrote it.
struct Who<'a> {
    authority: Option<&'a str>,
    users: &'a [String],
    groups: &'a [String],
    clients: &'a [String],
    via: &'a [String],
    mcp_clients: &'a [String],
    account: Option<&'a ServiceAccount>,
    actor: Option<&'a ActorMatch>,
}

impl<'a> Who<'a> {
    fn of(entry: &'a PrincipalMatch) -> Self {
        let named = entry.named.as_ref();
        let mcp_clients = named.map_or(&[][..], |named| &named.mcp_clients);
        Self {
            authority: named.map_or(&entry.authority, |named| &named.authority).as_deref(),
            users: &entry.users,
            groups: &entry.groups,
            clients: &entry.clients,
            // Made of McpClients: it changes with them.
            via: if mcp_clients.is_empty() { &entry.via } else { &[] },
            mcp_clients,
            account: entry.service_account.as_ref(),
            actor: entry.actor.as_ref(),
        }
    }
}

impl Comparison {
    /// Nothing is compared yet. `guardrail`: whether the policy is one.
    pub fn within(guardrail: bool) -> Self {
        Self { guardrail, steps: MOST_STEPS }
    }

    /// Whether `wide` counts wherever `tight` does. Of an Allow it is never said that it covers what is none.
    pub fn covers(&mut self, wide: &Rule, tight: &Rule) -> bool {
        if wide == tight {
            return true;
        }
        // Patterns of resources and prompts are not compared.
        tight.resources.is_empty()
            && tight.prompts.is_empty()
            // What is recorded as an exception stands for no other one, and for nothing that is none.
            && (wide.break_glass.is_none() || wide.break_glass == tight.break_glass)
            && (wide.when.is_none() || wide.when == tight.when)
            && wide.not_before.is_none_or(|from| tight.not_before.is_some_and(|tight| from <= tight))
            && wide.not_after.is_none_or(|until| tight.not_after.is_some_and(|tight| tight <= until))
            && self.all_are_among(
                (&tight.principals, Reading::of_principals(tight)),
                (&wide.principals, Reading::of_principals(wide)),
            )
            // Whoever is excepted from the wide rule must be excepted from the tight one.
            && self.all_are_among(
                (&wide.except, Reading::of_exceptions(wide)),
                (&tight.except, Reading::of_exceptions(tight)),
            )
            && tight.tools.iter().all(|tools| self.tools_are_among(tools, wide))
    }

    /// Whether an Allow's exceptions leave none of its principals.
    pub(super) fn excepts_all(&mut self, allow: &Rule) -> bool {
        let principals = (allow.principals.as_slice(), Reading::of_principals(allow));
        self.all_are_among(principals, (&allow.except, Reading::of_exceptions(allow)))
    }

    fn all_are_among(
        &mut self,
        (tight, tight_reading): (&[PrincipalMatch], Reading),
        (wide, wide_reading): (&[PrincipalMatch], Reading),
    ) -> bool {
        let wide: Vec<Who<'_>> = wide.iter().map(Who::of).collect();
        tight.iter().map(Who::of).all(|tight| {
            let among = |wide: &Who<'_>| self.includes((wide, wide_reading), (&tight, tight_reading));
            wide.iter().any(among)
        })
    }

    /// Whether the wide entry counts for every caller for whom the tight one does. `wide` is read as a grant only where
    /// `tight` is: groups that are not known then count for neither.
    fn includes(&mut self, (wide, wide_reads): (&Who<'_>, Reading), (tight, tight_reads): (&Who<'_>, Reading)) -> bool {
        if !self.spend(1) || wide_reads.grants && !tight_reads.grants {
            return false;
        }
        (wide.authority.is_none() || wide.authority == tight.authority)
            && (wide.account.is_none() || wide.account == tight.account)
            && self.listed(tight.users, wide.users)
            && self.listed(tight.groups, wide.groups)
            && self.listed(tight.clients, wide.clients)
            && self.listed(tight.via, wide.via)
            && self.listed(tight.mcp_clients, wide.mcp_clients)
            && match (wide.actor, tight.actor) {
                (None, actor) => !wide_reads.grants || actor.is_none(),
                (Some(ActorMatch::Any), actor) => actor.is_some(),
                (Some(ActorMatch::Subjects(wide)), Some(ActorMatch::Subjects(tight))) => self.listed(tight, wide),
                (Some(ActorMatch::Subjects(_)), _) => false,
            }
    }

    /// Whether a list that is given leaves nobody whom another list does not name; one that is not given names all.
    fn listed(&mut self, tight: &[String], wide: &[String]) -> bool {
        wide.is_empty() || !tight.is_empty() && tight.iter().all(|one| self.spend(wide.len()) && wide.contains(one))
    }

    fn tools_are_among(&mut self, tools: &ToolMatch, wide: &Rule) -> bool {
        let any = ["*".to_owned()];
        let patterns = if is_any(tools) { &any[..] } else { &tools.patterns };
        tools.names.iter().all(|name| self.name_is_among(name, tools, wide))
            && patterns.iter().all(|pattern| match pattern.contains('*') {
                true => self.pattern_is_among(pattern, tools, wide),
                false => self.name_is_among(pattern, tools, wide),
            })
    }

    fn name_is_among(&mut self, name: &str, tight: &ToolMatch, wide: &Rule) -> bool {
        wide.tools.iter().any(|tools| {
            self.spend(tools.names.len() + 8 * tools.patterns.len() + 1)
                && self.has_classes_of(tight, tools, wide)
                && (tools.names.iter().any(|named| named == name)
                    || tools.patterns.iter().any(|pattern| NamePattern::new(pattern).matches(name, wide.effect))
                    || is_any(tools) && NamePattern::new("*").matches(name, wide.effect))
        })
    }

    /// A pattern covers another if it matches the other's text: a star in that can only be met by a star, and whatever
    /// stands for the one the other takes too. Read as a grant, both match safe names only, which a star's text is none of.
    fn pattern_is_among(&mut self, pattern: &str, tools: &ToolMatch, wide: &Rule) -> bool {
        wide.tools.iter().any(|among| {
            self.spend(8 * among.patterns.len() + 1)
                && self.has_classes_of(tools, among, wide)
                && (is_any(among)
                    || among.patterns.iter().any(|wide| NamePattern::new(wide).matches(pattern, Effect::Deny)))
        })
    }

    /// Whether every tool whose class the tight entry takes has one that the wide entry takes.
    fn has_classes_of(&self, tight: &ToolMatch, among: &ToolMatch, wide: &Rule) -> bool {
        const ALL: [Risk; 3] = [Risk::ReadOnly, Risk::Write, Risk::Destructive];
        let grants = wide.effect == Effect::Allow;
        // In what a guardrail narrows, a class stands for those above it too.
        let takes =
            |class: &Risk| among.risk.iter().any(|taken| taken == class || self.guardrail && !grants && taken < class);
        match (among.risk.is_empty(), tight.risk.as_slice()) {
            (true, _) => true,
            // A class that is not known is none that a grant takes.
            (false, []) => !grants && ALL.iter().all(takes),
            (false, classes) => classes.iter().all(takes),
        }
    }

    fn spend(&mut self, steps: usize) -> bool {
        let left = self.steps.checked_sub(steps);
        self.steps = left.unwrap_or(0);
        left.is_some()
    }
}

/// Without names and patterns, an entry is about tools of every name.
fn is_any(tools: &ToolMatch) -> bool {
    tools.names.is_empty() && tools.patterns.is_empty()
}
