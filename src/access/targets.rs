//! What rules speak of, as questions: names, and patterns that stand for every name that nothing else is about.
//!
//! Invariant: where nobody knows which tools there are, each region in which a grant and a rule that narrows meet has a name
//! of its own to ask about; of patterns with several stars, those regions in which their parts do not overlap.

use std::collections::{BTreeMap, BTreeSet};

use crate::generated::policy::Effect;
use crate::generated::server::{Lock, OnChange};
use crate::generated::{Risk, Server};
use crate::policy::pattern::NamePattern;
use crate::policy::request::Target;
use crate::policy::rule::Rule;
use crate::tools::risk::{KnownRisk, classify};

/// A tool that a server is known to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Its exact name.
    pub name: String,
    /// What is known of its risk; `None` if nobody here can say: it could be of every class, or of none.
    pub risk: Option<KnownRisk>,
}

impl Tool {
    /// A tool as a server's status has it, which says the class for policies of its own namespace. Guardrails see it where the
    /// classifier says something: of a class below the highest, it says so from the name or not at all.
    pub fn listed(name: String, own: Option<Risk>) -> Self {
        let seen = |class: &Risk| *class == Risk::Destructive || !classify(&name, None).is_empty();
        let guardrail = own.filter(seen);
        Self { name, risk: Some(KnownRisk { own, guardrail }) }
    }
}

/// The tools that servers are known to have, by `namespace/name` of the server.
pub type Inventories = BTreeMap<String, Vec<Tool>>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TargetKind {
    Tool,
    Resource,
    Prompt,
}

impl TargetKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            TargetKind::Tool => "Tool",
            TargetKind::Resource => "Resource",
            TargetKind::Prompt => "Prompt",
        }
    }
}

/// A target to ask about.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) kind: TargetKind,
    /// As shown: a name or a pattern.
    pub(super) shown: String,
    /// A name that the pattern matches.
    pub(super) name: String,
    pub(super) risk: KnownRisk,
}

/// What stars stand for: safe, in no pattern that somebody writes, and no verb.
const ANYTHING: &str = "xq0x";

impl Asked {
    fn pattern(kind: TargetKind, shown: &str, risk: KnownRisk) -> Self {
        Self { kind, shown: shown.to_owned(), name: shown.replace("**", "*").replace('*', ANYTHING), risk }
    }

    pub(super) fn known(name: &str, risk: KnownRisk) -> Self {
        Self { kind: TargetKind::Tool, shown: name.to_owned(), name: name.to_owned(), risk }
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self.kind {
            TargetKind::Tool => Target::Tool { name: &self.name, risk: self.risk },
            TargetKind::Resource => Target::Resource { uri: &self.name },
            TargetKind::Prompt => Target::Prompt { name: &self.name },
        }
    }
}

/// The lock of a server, if it refuses what was not reviewed.
pub fn refusing_lock(server: &Server) -> Option<&Lock> {
    server.lock.as_ref().filter(|lock| lock.on_change != OnChange::Warn)
}

/// What to ask a server with these rules: the tools that it is known to have; if none are, those that were reviewed, where a
/// lock refuses all others; else those that the rules name. `servers`: the server, or two versions of it.
pub(super) fn targets(rules: &[&Rule], inventory: Option<&[Tool]>, servers: &[&Server]) -> Vec<Asked> {
    let classes = classes(rules);
    let of_any_class = |name: &str| {
        let matters = classes.len() > 1;
        match matters.then(|| class_by_name(name)).flatten() {
            Some(class) => vec![KnownRisk { own: Some(class), guardrail: Some(class) }],
            None => classes.clone(),
        }
    };
    let mut asked = Vec::new();
    let mut known = |name: &str| {
        asked.extend(of_any_class(name).into_iter().map(|risk| Asked::known(name, risk)));
    };
    let mut named = named(rules);
    match inventory {
        Some(tools) => {
            named.tools.clear();
            named.patterns.clear();
            tools.iter().filter(|tool| tool.risk.is_none()).for_each(|tool| known(&tool.name));
        }
        None => {
            let locks: Vec<&Lock> = servers.iter().filter_map(|server| refusing_lock(server)).collect();
            if locks.len() == servers.len() {
                named.tools.clear();
                named.patterns.clear();
            }
            named.tools.extend(locks.iter().flat_map(|lock| lock.tools.keys()).cloned());
            named.tools.iter().for_each(|name| known(name));
        }
    }
    let classed = inventory.into_iter().flatten().filter_map(|tool| Some(Asked::known(&tool.name, tool.risk?)));
    asked.extend(classed);
    for pattern in &named.patterns {
        asked.extend(classes.iter().map(|risk| Asked::pattern(TargetKind::Tool, pattern, *risk)));
    }
    asked.extend(named.others.iter().map(|(kind, name)| Asked::pattern(*kind, name, KnownRisk::default())));
    asked
}

/// A tool could be unclassified, or of any class; if no rule asks, it is one answer.
fn classes(rules: &[&Rule]) -> Vec<KnownRisk> {
    let mut classes = vec![KnownRisk::default()];
    if rules.iter().any(|rule| rule.source().tools.iter().any(|tools| !tools.risk.is_empty())) {
        let every = [Risk::ReadOnly, Risk::Write, Risk::Destructive];
        classes.extend(every.map(|class| KnownRisk { own: Some(class), guardrail: Some(class) }));
    }
    classes
}

/// The class that a name has whatever its definition says: the highest.
pub fn class_by_name(name: &str) -> Option<Risk> {
    classify(name, None).into_iter().map(|reason| reason.risk).find(|risk| *risk == Risk::Destructive)
}

/// What rules name.
#[derive(Default)]
struct Named {
    /// Exact names of tools.
    tools: BTreeSet<String>,
    /// Patterns of them, with a star.
    patterns: BTreeSet<String>,
    /// Resources and prompts.
    others: BTreeSet<(TargetKind, String)>,
}

fn named(rules: &[&Rule]) -> Named {
    let mut named = Named::default();
    let (mut granted, mut narrowed) = (BTreeSet::new(), BTreeSet::new());
    for rule in rules {
        let source = rule.source();
        let patterns = if rule.effect == Effect::Allow { &mut granted } else { &mut narrowed };
        for entry in &source.tools {
            let every = entry.names.is_empty() && entry.patterns.is_empty();
            let (starred, exact): (Vec<&String>, Vec<&String>) = entry.patterns.iter().partition(|p| p.contains('*'));
            named.tools.extend(entry.names.iter().chain(exact).cloned());
            patterns.extend(starred.into_iter().cloned().chain(every.then(|| "*".to_owned())));
        }
        named.others.extend(source.resources.iter().map(|uri| (TargetKind::Resource, uri.clone())));
        named.others.extend(source.prompts.iter().map(|prompt| (TargetKind::Prompt, prompt.clone())));
    }
    for (one, other) in granted.iter().flat_map(|one| narrowed.iter().map(move |other| (one, other))) {
        let (patterns, names) = common(one, other);
        named.patterns.extend(patterns);
        named.tools.extend(names);
    }
    named.patterns.extend(granted.into_iter().chain(narrowed));
    named
}

/// Patterns, and names besides, that match what two patterns with stars both match.
fn common(one: &str, other: &str) -> (Vec<String>, Vec<String>) {
    let (Some((one_start, one_end, one_middle)), Some((other_start, other_end, other_middle))) =
        (parts(one), parts(other))
    else {
        return Default::default();
    };
    let start = if one_start.starts_with(other_start) { one_start } else { other_start };
    let end = if one_end.ends_with(other_end) { one_end } else { other_end };
    if !start.starts_with(one_start) || !end.ends_with(one_end) {
        return Default::default();
    }
    let in_turn = |first: &[&str], second: &[&str]| {
        let middle: String = first.iter().chain(second).map(|part| format!("{part}*")).collect();
        format!("{start}*{middle}{end}")
    };
    let patterns = vec![in_turn(&one_middle, &other_middle), in_turn(&other_middle, &one_middle)];
    // The end of the one start is the start of the other end: `get_x` is both `get_*` and `*_x`.
    let lengths = (1..=start.len().min(end.len())).filter(|length| end.is_char_boundary(*length));
    let overlaps = lengths.filter_map(|length| {
        let (shared, rest) = end.split_at(length);
        start.ends_with(shared).then(|| format!("{start}{rest}"))
    });
    let both = |name: &String| [one, other].iter().all(|pattern| NamePattern::new(pattern).matches(name, Effect::Deny));
    (patterns, overlaps.filter(both).collect())
}

/// What stands before the first star, behind the last one, and between.
fn parts(pattern: &str) -> Option<(&str, &str, Vec<&str>)> {
    let (start, rest) = pattern.split_once('*')?;
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    Some((start, end, middle.split('*').filter(|part| !part.is_empty()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_patterns_have_in_common_both_match() {
        for (one, other, patterns, names) in [
            ("get_*", "*_secret", &["get_*_secret"][..], &["get_secret"][..]),
            ("get_*", "*", &["get_*"], &[]),
            ("get_*", "get_all_*", &["get_all_*"], &[]),
            ("a*b*c", "*d*", &["a*b*d*c", "a*d*b*c"], &[]),
            ("get_*", "set_*", &[], &[]),
            ("*_a", "*_b", &[], &[]),
            ("get_*", "get_x", &[], &[]),
            ("aba*", "*aba", &["aba*aba"], &["aba", "ababa"]),
            ("aba*ba", "*aba", &["aba*aba"], &["ababa"]),
            ("é*", "*é", &["é*é"], &["é"]),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let (mut found, mut also) = common(one, other);
                [&mut found, &mut also].into_iter().for_each(|list| {
                    list.sort();
                    list.dedup();
                });
                assert_eq!(
                    (found.as_slice(), also.as_slice()),
                    (patterns_of(patterns).as_slice(), patterns_of(names).as_slice())
                );
                let asked =
                    found.iter().map(|pattern| Asked::pattern(TargetKind::Tool, pattern, KnownRisk::default()).name);
                for name in asked.chain(also.clone()) {
                    assert!(
                        [one, other].iter().all(|pattern| NamePattern::new(pattern).matches(&name, Effect::Deny)),
                        "{name}"
                    );
                }
            }
        }
    }

    fn patterns_of(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }
}
