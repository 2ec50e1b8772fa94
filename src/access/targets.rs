//! What rules speak of, as questions: names, and patterns that stand for every name that nothing else is about.
//!
//! Invariant: where nobody knows which tools there are, each region in which a grant and a rule that narrows meet has a name
//! of its own to ask about; of patterns with several stars, those regions in which their parts do not overlap. What is built
//! of patterns is bounded before it is built.

use std::collections::BTreeMap;

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

/// The longest name that a pattern grants, with some stars.
const LONGEST: usize = 144;

/// A target to ask about.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) kind: TargetKind,
    /// As shown: a name or a pattern.
    pub(super) shown: String,
    /// A name that the pattern matches.
    pub(super) name: String,
    pub(super) risk: KnownRisk,
    /// Whether only guardrails name it.
    pub(super) beyond: bool,
}

impl Asked {
    fn pattern(kind: TargetKind, shown: &str, risk: KnownRisk, filler: &str) -> Self {
        let name = shown.replace("**", "*").replace('*', filler);
        Self { kind, shown: shown.to_owned(), name, risk, beyond: false }
    }

    pub(super) fn known(name: &str, risk: KnownRisk) -> Self {
        Self { kind: TargetKind::Tool, shown: name.to_owned(), name: name.to_owned(), risk, beyond: false }
    }

    /// What it and a pattern both match, `filler` standing for the stars; nothing if it matches all of that, which has a line of
    /// its own. Nothing is granted at longer names than these.
    pub(super) fn and(&self, pattern: &str, of_guardrails: bool, filler: &str) -> Vec<Self> {
        if NamePattern::new(&self.shown).matches(pattern, Effect::Deny) {
            return Vec::new();
        }
        let beyond = self.beyond || of_guardrails;
        let (patterns, names) = common(&self.shown, pattern);
        let short = patterns.iter().filter(|pattern| pattern.len() <= LONGEST);
        let patterns = short.map(|shown| Self::pattern(self.kind, shown, self.risk, filler).of_guardrails(beyond));
        let risk = |name: &str| match class_by_name(name) {
            Some(class) if self.risk.own.is_some() => KnownRisk { own: Some(class), guardrail: Some(class) },
            _ => self.risk,
        };
        let names = names.iter().filter(|name| name.len() <= LONGEST);
        patterns.chain(names.map(|name| Self::known(name, risk(name)).of_guardrails(beyond))).collect()
    }

    fn of_guardrails(self, beyond: bool) -> Self {
        Self { beyond, ..self }
    }

    /// Whether it stands for more than one name.
    pub(super) fn is_pattern(&self) -> bool {
        self.shown != self.name
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

/// What to ask.
pub(super) struct Targets {
    pub(super) asked: Vec<Asked>,
    /// What stands for the stars of patterns.
    pub(super) filler: String,
    /// Whether that is all that the rules speak of: if not, regions in which patterns meet are left out.
    pub(super) whole: bool,
}

/// How many pairs of a granted and a narrowed pattern, for each class, are looked at for whoever can wait.
pub const MOST_PAIRS: usize = 65_536;

/// What to ask a server with these rules: the tools that it is known to have; if none are, those that were reviewed, where a
/// lock refuses all others; else those that the rules name. `servers`: the server, or two versions of it. `most`: how many pairs
/// of patterns may meet, for each class: beyond, none does.
pub(super) fn targets(rules: &[&Rule], inventory: Option<&[Tool]>, servers: &[&Server], most: usize) -> Targets {
    let classes = classes(rules);
    let mut named = Named::of(rules);
    let mut whole = true;
    let locks: Vec<&Lock> = servers.iter().filter_map(|server| refusing_lock(server)).collect();
    if inventory.is_some() || locks.len() == servers.len() {
        named.tools.clear();
        (named.granted, named.narrowed) = Default::default();
    } else {
        whole &= named.meet(most / classes.len().max(1));
    }
    match inventory {
        Some(tools) => {
            named.tools.extend(tools.iter().filter(|tool| tool.risk.is_none()).map(|t| (t.name.clone(), true)))
        }
        None => named.tools.extend(locks.iter().flat_map(|lock| lock.tools.keys()).map(|name| (name.clone(), true))),
    }
    let mut asked = Vec::new();
    for (name, own) in &named.tools {
        let class = if classes.len() > 1 { class_by_name(name) } else { None };
        let sure = class.map(|class| vec![KnownRisk { own: Some(class), guardrail: Some(class) }]);
        let risks = sure.as_ref().unwrap_or(&classes);
        asked.extend(risks.iter().map(|risk| Asked::known(name, *risk).of_guardrails(!own)));
    }
    let classed = inventory.into_iter().flatten().filter_map(|tool| Some(Asked::known(&tool.name, tool.risk?)));
    asked.extend(classed);
    let Some(filler) = named.filler(servers) else {
        return Targets { asked, filler: String::new(), whole: false };
    };
    for (pattern, own) in named.granted.iter().chain(&named.narrowed).chain(&named.met).collect::<BTreeMap<_, _>>() {
        let of = |risk: &KnownRisk| Asked::pattern(TargetKind::Tool, pattern, *risk, &filler).of_guardrails(!own);
        asked.extend(classes.iter().map(of));
    }
    for ((kind, name), own) in &named.others {
        asked.push(Asked::pattern(*kind, name, KnownRisk::default(), &filler).of_guardrails(!own));
    }
    Targets { asked, filler, whole }
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

/// What rules name, and whether one that is no guardrail's does.
#[derive(Default)]
struct Named {
    /// Exact names of tools.
    tools: BTreeMap<String, bool>,
    /// Patterns of them, with a star, of the rules that grant, and of those that narrow.
    granted: BTreeMap<String, bool>,
    narrowed: BTreeMap<String, bool>,
    /// Patterns of what both match.
    met: BTreeMap<String, bool>,
    /// Resources and prompts.
    others: BTreeMap<(TargetKind, String), bool>,
}

impl Named {
    fn of(rules: &[&Rule]) -> Self {
        let mut named = Self::default();
        for rule in rules {
            let (source, own) = (rule.source(), !rule.guardrail);
            let patterns = if rule.effect == Effect::Allow { &mut named.granted } else { &mut named.narrowed };
            for entry in &source.tools {
                let every = entry.names.is_empty() && entry.patterns.is_empty();
                let (starred, exact): (Vec<&String>, Vec<&String>) =
                    entry.patterns.iter().partition(|p| p.contains('*'));
                entry.names.iter().chain(exact).for_each(|name| note(&mut named.tools, name.clone(), own));
                let every = every.then(|| "*".to_owned());
                starred.into_iter().cloned().chain(every).for_each(|pattern| note(patterns, pattern, own));
            }
            let others = source.resources.iter().map(|uri| (TargetKind::Resource, uri.clone()));
            let others = others.chain(source.prompts.iter().map(|prompt| (TargetKind::Prompt, prompt.clone())));
            others.for_each(|other| note(&mut named.others, other, own));
        }
        // One that grants and narrows is one pattern.
        for (pattern, own) in &mut named.granted {
            if let Some(too) = named.narrowed.get_mut(pattern) {
                *own |= *too;
                *too = *own;
            }
        }
        named
    }

    /// Adds what granted and narrowed patterns both match, if there are no more than `most` pairs of them; whether that is all.
    fn meet(&mut self, most: usize) -> bool {
        // What meets a star alone is named already.
        let some = |patterns: &BTreeMap<String, bool>| -> Vec<(String, bool, NamePattern)> {
            let some = patterns.iter().filter(|(pattern, _)| *pattern != "*");
            some.map(|(pattern, own)| (pattern.clone(), *own, NamePattern::new(pattern))).collect()
        };
        let (granted, narrowed) = (some(&self.granted), some(&self.narrowed));
        if granted.len().saturating_mul(narrowed.len()) > most {
            return false;
        }
        let pairs = granted.iter().flat_map(|one| narrowed.iter().map(move |other| (one, other)));
        // So is a pattern of which the other one matches every name: it does if it matches the text.
        let apart = pairs.filter(|((one, _, all_of_one), (other, _, all_of_other))| {
            !all_of_one.matches(other, Effect::Deny) && !all_of_other.matches(one, Effect::Deny)
        });
        // Two long patterns can overlap in as many ways as they have letters.
        let mut overlaps = 0;
        for ((one, of_one, _), (other, of_other, _)) in apart {
            let (patterns, names) = common(one, other);
            overlaps += names.len();
            if overlaps > most {
                return false;
            }
            let own = *of_one && *of_other;
            patterns.into_iter().for_each(|pattern| note(&mut self.met, pattern, own));
            names.into_iter().for_each(|name| note(&mut self.tools, name, own));
        }
        for (pattern, own) in &mut self.met {
            *own |= [&self.granted, &self.narrowed].iter().any(|of| of.get(pattern).is_some_and(|own| *own));
        }
        true
    }

    /// What stars stand for: safe, and in no pattern, so that a pattern matches it only where that has a star too; then what is
    /// answered of the name is answered of every name that the pattern matches and nothing else is about. `None`: every
    /// character is in some pattern.
    fn filler(&self, servers: &[&Server]) -> Option<String> {
        let tools = self.granted.keys().chain(self.narrowed.keys()).chain(self.others.keys().map(|(_, name)| name));
        let risks = servers.iter().flat_map(|server| &server.risk).flat_map(|rule| &rule.patterns);
        let mut taken = [false; 256];
        for byte in tools.chain(risks).flat_map(|pattern| pattern.bytes()) {
            taken.get_mut(usize::from(byte)).into_iter().for_each(|taken| *taken = true);
        }
        let candidates = b"QXZJqxzj0123456789KVWYBFGHUkvwybfghuACDEILMNOPRSTacdeilmnoprst-_";
        let free = |byte: &&u8| taken.get(usize::from(**byte)) == Some(&false);
        let free: Vec<char> = candidates.iter().filter(free).map(|byte| char::from(*byte)).collect();
        let texts = (1..=3).flat_map(|count| free.iter().map(move |c| c.to_string().repeat(count)));
        texts.into_iter().find(|text| !self.tools.keys().any(|name| name.contains(text)))
    }
}

fn note<K: Ord>(named: &mut BTreeMap<K, bool>, name: K, own: bool) {
    *named.entry(name).or_default() |= own;
}

/// Whether some name could match both; of URIs, which are read in several ways, as far as their beginnings tell.
pub(super) fn may_meet(kind: TargetKind, one: &str, other: &str) -> bool {
    let agree = |one: &str, other: &str| one.starts_with(other) || other.starts_with(one);
    if kind == TargetKind::Resource {
        let start = |text: &str| text.split(['*', '%']).next().unwrap_or_default().to_ascii_lowercase();
        return agree(&start(one), &start(other));
    }
    let matches = |pattern: &str, name: &str| NamePattern::new(pattern).matches(name, Effect::Deny);
    match (ends(one), ends(other)) {
        (Some((a, z)), Some((b, y))) => agree(a, b) && (z.ends_with(y) || y.ends_with(z)),
        (Some(_), None) => matches(one, other),
        (None, _) => matches(other, one),
    }
}

/// What stands before the first star and behind the last one.
fn ends(pattern: &str) -> Option<(&str, &str)> {
    Some((pattern.split_once('*')?.0, pattern.rsplit_once('*')?.1))
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
                let asked = found
                    .iter()
                    .map(|pattern| Asked::pattern(TargetKind::Tool, pattern, KnownRisk::default(), "qq").name);
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
