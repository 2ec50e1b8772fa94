//! What a pattern does not stand for.
//!
//! Invariant: of a name that a target matches, and that no exception is or matches, exactly those rules are about somebody that
//! are about the target and could change its answer; so its answer is the target's.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Answer;
use super::cast::Someone;
use super::side::Side;
use super::targets::{Asked, TargetKind, may_meet, refusing_lock};
use crate::generated::policy::{Effect, ToolMatch};
use crate::policy::pattern::NamePattern;
use crate::policy::request::Facts;
use crate::policy::rule::Rule;
use crate::policy::tri::Tri;

/// How many exceptions are told by name, of either sort.
const MOST: usize = 16;

/// Names and patterns that a target matches too, and of which its answer says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Except {
    /// Those that a rule of the server's own namespace names.
    pub names: BTreeSet<String>,
    /// Those that only guardrails name.
    pub of_guardrails: BTreeSet<String>,
    /// How many more there are.
    pub more: usize,
}

impl Except {
    /// Whether the target stands for every name that it matches.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.of_guardrails.is_empty() && self.more == 0
    }

    /// The target with its exceptions, the first of them by name: `get_* except get_secret, *_x and 3 more`. What only
    /// guardrails name is not everybody's business.
    pub fn of(&self, target: &str, most: usize, with_guardrails: bool) -> String {
        let of_guardrails = self.of_guardrails.iter().filter(|_| with_guardrails);
        let names: Vec<&str> = self.names.iter().chain(of_guardrails).map(String::as_str).collect();
        let shown = names.iter().take(most).copied();
        let hidden = (!with_guardrails && !self.of_guardrails.is_empty()).then_some("what guardrails say");
        let parts = shown.chain(hidden).collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(most) + self.more {
            0 => String::new(),
            _ if !with_guardrails => " and more".to_owned(),
            more => format!(" and {more} more"),
        };
        if self.is_empty() { target.to_owned() } else { format!("{target} except {parts}{more}") }
    }

    /// Those of both.
    #[must_use]
    pub(super) fn and(mut self, other: Self) -> Self {
        self.names.extend(other.names);
        self.of_guardrails.extend(other.of_guardrails);
        let Self { names, of_guardrails, more } = &mut self;
        of_guardrails.retain(|name| !names.contains(name));
        let left = [names, of_guardrails].map(cut);
        *more = (*more).max(other.more) + left.iter().sum::<usize>();
        self
    }
}

/// Leaves the first; how many it took away.
fn cut(names: &mut BTreeSet<String>) -> usize {
    let Some(first) = names.iter().nth(MOST).cloned() else { return 0 };
    names.split_off(&first).len()
}

/// What the answer that somebody gets about a pattern does not hold for.
pub(super) fn of(side: &Side<'_>, someone: &Someone, asked: &Asked, answer: Answer, facts: &Facts) -> Except {
    let Some(server) = side.server().filter(|_| asked.is_pattern() && side.refused.is_none()) else {
        return Except::default();
    };
    if !server.authorities.iter().any(|accepted| **accepted == *someone.principal.authority) {
        return Except::default();
    }
    let lock = refusing_lock(server).filter(|_| asked.kind == TargetKind::Tool);
    let mut found = Found { pattern: NamePattern::new(&asked.shown), asked, except: Except::default() };
    if let Some(lock) = lock {
        lock.tools.keys().for_each(|name| found.name(name, true));
        return found.except;
    }
    let about = |rule: &Rule| rule.about_principal(&someone.principal, &someone.keys) != Tri::No;
    let rules = side.rules().filter(|rule| !rule.shadow && rule.holds_at(facts.now));
    let rules: Vec<&Rule> = rules.filter(|rule| about(rule)).collect();
    let is_about = |rule: &Rule| match rule.about_target(&asked.target()) {
        Tri::Yes => true,
        Tri::Unknown => rule.effect != Effect::Allow,
        Tri::No => false,
    };
    let refuses = |rule: &&Rule| rule.effect == Effect::Deny && rule.when.is_none() && is_about(rule);
    if rules.iter().any(refuses) {
        return Except::default();
    }
    for rule in rules.into_iter().filter(|rule| matters(rule.effect, answer) && !is_about(rule)) {
        found.rule(rule);
    }
    found.except
}

/// Whether a rule of such an effect could make another answer of this one.
fn matters(effect: Effect, answer: Answer) -> bool {
    match answer {
        Answer::Allow => effect != Effect::Allow,
        Answer::RequireApproval => effect == Effect::Deny,
        Answer::Deny => effect == Effect::Allow,
        Answer::Depends => true,
    }
}

struct Found<'a> {
    asked: &'a Asked,
    pattern: NamePattern,
    except: Except,
}

impl Found<'_> {
    fn rule(&mut self, rule: &Rule) {
        let (source, own, kind) = (rule.source(), !rule.guardrail, self.asked.kind);
        match kind {
            TargetKind::Tool => {
                for entry in &source.tools {
                    if !self.fits(entry, rule) {
                        continue;
                    }
                    entry.names.iter().for_each(|name| self.name(name, own));
                    entry.patterns.iter().for_each(|pattern| self.pattern(pattern, own));
                }
            }
            TargetKind::Resource => source.resources.iter().for_each(|pattern| self.pattern(pattern, own)),
            TargetKind::Prompt => source.prompts.iter().for_each(|pattern| self.pattern(pattern, own)),
        }
    }

    /// Whether an entry could be about tools of the class.
    fn fits(&self, entry: &ToolMatch, rule: &Rule) -> bool {
        let narrows = rule.effect != Effect::Allow;
        let class = if rule.guardrail { self.asked.risk.guardrail } else { self.asked.risk.own };
        entry.risk.is_empty()
            || class.map_or(narrows, |class| {
                entry.risk.contains(&class)
                    || rule.guardrail && narrows && entry.risk.iter().any(|least| *least <= class)
            })
    }

    fn name(&mut self, name: &str, own: bool) {
        if self.pattern.matches(name, Effect::Deny) {
            self.add(name, own);
        }
    }

    fn pattern(&mut self, pattern: &str, own: bool) {
        if may_meet(self.asked.kind, &self.asked.shown, pattern) {
            self.add(pattern, own);
        }
    }

    fn add(&mut self, name: &str, own: bool) {
        let Except { names, of_guardrails, more } = &mut self.except;
        if names.contains(name) || of_guardrails.contains(name) && !own {
            return;
        }
        of_guardrails.remove(name);
        let list = if own { names } else { of_guardrails };
        if list.len() < MOST {
            list.insert(name.to_owned());
        } else {
            *more += 1;
        }
    }
}
