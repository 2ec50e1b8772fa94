//! What a change changes: who can do more or less than before, and by which rules.
//!
//! Invariant: whoever gains by a change, now or when some rule begins or ends, includes somebody whom the answer names with
//! at least that gain, or the answer says that it is not whole. Without conditions every line is exact; with one, the line
//! holds *under a condition*, and has its text.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::cast::{Accepted, Someone, Voice};
use super::except::Except;
use super::own::Own;
use super::search::{Found, Search, View, grade};
use super::side::{Side, refused};
use super::targets::{Asked, Inventories, MOST_PAIRS, TargetKind, Tool, class_by_name, refusing_lock, targets};
use super::who_can::Window;
use super::{Answer, doubts};
use crate::fleet::{Fleet, Served};
use crate::generated::policy::Effect;
use crate::generated::{Risk, Server};
use crate::policy::request::Facts;
use crate::policy::rule::Rule;
use crate::policy::tri::Tri;

/// How much is looked at before an answer is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changes that are told of one server, the riskiest first.
    pub changes: usize,
    /// How many times somebody is held against a rule of one server.
    pub questions: usize,
    /// Times that are looked at, of those at which a rule of one server begins or ends.
    pub times: usize,
    /// Pairs of a granted and a narrowed pattern that are held against one another, for each class.
    pub pairs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { changes: 10_000, questions: 5_000_000, times: 32, pairs: MOST_PAIRS }
    }
}

/// Where a change leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Direction {
    /// To more than before.
    Gained,
    /// To something else, of which only the call's arguments and the caller tell whether it is more: a condition changed.
    Changed,
    /// To less than before.
    Lost,
}

/// One principal and one target whose answer is another than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `namespace/name` of the server.
    pub server: String,
    /// More or less.
    pub direction: Direction,
    /// Who, as in [`super::who_can::Row`]; `group:?` stands for callers whose groups are not known.
    pub principal: String,
    /// The client through which the principal presents itself.
    pub via: Option<String>,
    /// The actor of a delegated token.
    pub actor: Option<String>,
    /// `Tool`, `Resource` or `Prompt`.
    pub kind: &'static str,
    /// A name, or a pattern that stands for every name that it matches and that is no exception.
    pub target: String,
    /// What of the pattern the line does not hold for.
    pub except: Except,
    /// The risk class; `None`: unclassified, or not known here.
    pub risk: Option<&'static str>,
    /// The answer before.
    pub before: Answer,
    /// The answer now.
    pub after: Answer,
    /// The rules that decide now, as `namespace/policy/rule`.
    pub rules: Vec<String>,
    /// The rules that decided before.
    pub rules_before: Vec<String>,
    /// The conditions of the rules that decide now.
    pub conditions: Vec<String>,
    /// The conditions of those that decided before.
    pub conditions_before: Vec<String>,
    /// When the rules that decide now hold, where they say.
    pub windows: Vec<Window>,
    /// Rules that would refuse, or ask for approval, if the principal is in further groups.
    pub unless: Vec<String>,
    /// Unix seconds from which it is so, where that is later than now.
    pub from: Option<i64>,
    /// Whether the principal, the target or the time is one that only guardrails name.
    #[serde(skip)]
    pub beyond: bool,
}

/// What changes at one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The changes, the riskiest first, then what is gained before what is lost.
    pub changes: Vec<Change>,
    /// Whether there are no others.
    pub whole: bool,
}

/// What changes at a server besides who can do what, or why nobody can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// `namespace/name` of the server, or the name of an authority.
    pub about: String,
    /// In words.
    pub text: String,
}

/// What changes in a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// Every change, the riskiest first.
    pub changes: Vec<Change>,
    /// What else has changed, and could matter.
    pub notes: Vec<Note>,
    /// Whether these are all: if not, others may gain too.
    pub whole: bool,
}

impl Diff {
    /// Whether somebody gains, or nobody can say that they do not.
    pub fn gains(&self) -> bool {
        !self.whole || self.changes.iter().any(|change| change.direction != Direction::Lost)
    }
}

/// What changes between two versions of a server; one that is not there refuses everything. `inventory`: the tools that it is
/// known to have. Untouched servers cost next to nothing.
pub fn compare(
    old: Option<Served<'_>>,
    new: Option<Served<'_>>,
    inventory: Option<&[Tool]>,
    facts: &Facts,
    limits: &Limits,
) -> Compared {
    if let (Some(old), Some(new)) = (old, new)
        && old.decides_as(&new)
    {
        return Compared { changes: Vec::new(), whole: true };
    }
    let authorities = [old, new].into_iter().flatten().flat_map(|served| &served.server.authorities);
    let accepted: Accepted = Arc::new(authorities.cloned().collect());
    let pair = Pair::of(Side::of(old, &accepted), Side::of(new, &accepted));
    if pair.is_same() {
        return Compared { changes: Vec::new(), whole: true };
    }
    let own = Own::of([&pair.old, &pair.new]);
    let mut comparison = Comparison {
        pair: &pair,
        own: &own,
        most_pairs: limits.pairs,
        pairs: limits.pairs,
        budget: limits.questions,
        changes: Vec::new(),
        whole: true,
    };
    let times = pair.times(facts.now);
    for now in times.iter().take(limits.times) {
        comparison.look(inventory, &Facts { now: *now }, (*now != facts.now).then_some(*now));
    }
    let mut whole = comparison.whole && times.len() <= limits.times && comparison.budget > 0;
    let mut changes = comparison.changes;
    riskiest_first(&mut changes);
    whole &= changes.len() <= limits.changes;
    changes.truncate(limits.changes);
    Compared { changes, whole }
}

/// What changes between two fleets, by the names of their servers.
pub fn compare_fleets(old: &Fleet, new: &Fleet, inventories: &Inventories, facts: &Facts, limits: &Limits) -> Diff {
    let names = |fleet: &Fleet| -> Vec<(String, String)> {
        let id = |served: Served<'_>| (served.server.id.namespace.clone(), served.server.id.name.clone());
        fleet.servers().map(id).collect()
    };
    let mut diff = Diff { notes: of_authorities(old, new), whole: true, ..Diff::default() };
    for (namespace, name) in names(old).into_iter().chain(names(new)).collect::<BTreeSet<_>>() {
        let (before, after) = (old.by_name(&namespace, &name), new.by_name(&namespace, &name));
        let server = format!("{namespace}/{name}");
        let inventory = inventories.get(&server).map(Vec::as_slice);
        let compared = compare(before, after, inventory, facts, limits);
        diff.whole &= compared.whole;
        diff.changes.extend(compared.changes);
        let note = |text| Note { about: server.clone(), text };
        diff.notes.extend(of_server(before, after).into_iter().map(note));
    }
    riskiest_first(&mut diff.changes);
    diff
}

/// Sorts changes: the riskiest first, then what is gained before what is lost.
pub fn riskiest_first(changes: &mut [Change]) {
    changes.sort_by(|a, b| key(a).cmp(&key(b)));
}

/// Riskiest first; an unclassified tool could do anything.
fn key(change: &Change) -> impl Ord + '_ {
    let risk = match change.risk {
        Some("Destructive") => 0,
        None => 1,
        Some("Write") => 2,
        Some(_) => 3,
    };
    let who = (&change.principal, &change.via, &change.actor);
    (risk, change.direction, &change.server, change.kind, &change.target, who, change.from)
}

/// Two versions of a server.
struct Pair<'a> {
    old: Side<'a>,
    new: Side<'a>,
    /// Which voices of the old one the new one has not, by index, and the other way round.
    gone: Vec<bool>,
    added: Vec<bool>,
    /// They differ in more than their rules.
    everything: bool,
}

impl<'a> Pair<'a> {
    fn of(old: Side<'a>, new: Side<'a>) -> Self {
        let gone = missing_in(&old.voices, &new.voices);
        let added = missing_in(&new.voices, &old.voices);
        let accepted = |side: &Side<'a>| side.server().map(|server| server.authorities.iter().collect::<BTreeSet<_>>());
        let answers = |side: &Side<'a>| side.server().is_some() && side.refused.is_none();
        let everything = answers(&old) != answers(&new) || accepted(&old) != accepted(&new);
        Self { old, new, gone, added, everything }
    }

    fn is_same(&self) -> bool {
        let asserted = |side: &Side<'a>| side.server().map(|server| (&server.risk, &server.lock));
        let rules = self.gone.iter().chain(&self.added).any(|changed| *changed);
        let refused = [&self.old, &self.new].iter().all(|side| side.server().is_none() || side.refused.is_some());
        refused || !rules && !self.everything && asserted(&self.old) == asserted(&self.new)
    }

    /// Now, and whenever a rule begins or ends later.
    fn times(&self, now: i64) -> BTreeSet<i64> {
        let rules = self.old.rules().chain(self.new.rules()).filter(|rule| !rule.shadow);
        let bounds = rules.flat_map(|rule| [rule.source().not_before, rule.source().not_after]);
        bounds.flatten().filter(|at| *at > now).chain([now]).collect()
    }
}

/// Which voices have no counterpart that means the same.
fn missing_in(voices: &[Voice], others: &[Voice]) -> Vec<bool> {
    // Forks of a snapshot share what did not change.
    let shared: HashSet<*const Rule> = others.iter().map(|other| Arc::as_ptr(&other.rule)).collect();
    let equal = |voice: &Voice| others.iter().any(|other| means_the_same(&voice.rule, &other.rule));
    voices.iter().map(|voice| !shared.contains(&Arc::as_ptr(&voice.rule)) && !equal(voice)).collect()
}

/// Whether two rules decide alike, whatever they are called and say.
fn means_the_same(one: &Rule, other: &Rule) -> bool {
    let (a, b) = (one.source(), other.source());
    (one.effect, one.shadow, one.guardrail) == (other.effect, other.shadow, other.guardrail)
        && (&a.principals, &a.except, &a.when) == (&b.principals, &b.except, &b.when)
        && (&a.tools, &a.resources, &a.prompts) == (&b.tools, &b.resources, &b.prompts)
        && (a.not_before, a.not_after) == (b.not_before, b.not_after)
}

struct Comparison<'p, 'a> {
    pair: &'p Pair<'a>,
    own: &'p Own,
    /// How many pairs of patterns may meet, and how many exceptions may still be looked into.
    most_pairs: usize,
    pairs: usize,
    budget: usize,
    changes: Vec<Change>,
    /// Whether everything was asked so far that there is to ask.
    whole: bool,
}

/// One target as either side sees it.
struct Asking {
    shown: Asked,
    old: Asked,
    new: Asked,
    /// Somebody could get another answer although no rule changed.
    everything: bool,
    /// The sides see another class of risk: any rule could be about it on one side only.
    reclassed: bool,
}

impl Comparison<'_, '_> {
    /// Looks at every target at one time.
    fn look(&mut self, inventory: Option<&[Tool]>, facts: &Facts, from: Option<i64>) {
        let pair = self.pair;
        // What only records decides nothing.
        let enforced = pair.old.rules().chain(pair.new.rules()).filter(|rule| !rule.shadow);
        let rules: Vec<&Rule> = enforced.filter(|rule| rule.holds_at(facts.now)).collect();
        let servers: Vec<&Server> =
            [&pair.old, &pair.new].iter().filter_map(|side| side.server()).map(|s| &**s).collect();
        let inventory: Option<Vec<Tool>> =
            inventory.map(|tools| tools.iter().map(|tool| self.believed(tool)).collect());
        let targets = targets(&rules, inventory.as_deref(), &servers, self.most_pairs);
        self.whole &= targets.whole;
        let mut asked = targets.asked;
        let key = |asked: &Asked| (asked.kind, asked.shown.clone(), asked.risk.own, asked.risk.guardrail);
        asked.sort_by_key(|asked| std::cmp::Reverse(asked.risk.own.map_or(Risk::Destructive, |risk| risk)));
        let gone = changed_at(&pair.old, &pair.gone, facts);
        let added = changed_at(&pair.new, &pair.added, facts);
        let about =
            |rules: &[&Rule], asked: &Asked| rules.iter().any(|rule| rule.about_target(&asked.target()) != Tri::No);
        let mut seen: BTreeSet<_> = asked.iter().map(key).collect();
        let mut waiting = VecDeque::from(asked);
        while let Some(asked) = waiting.pop_front().filter(|_| self.budget > 0) {
            let asking = self.asking(asked);
            if asking.everything || about(&gone, &asking.old) || about(&added, &asking.new) {
                let except = self.ask(&asking, facts, from);
                let further = self.within(&asking.shown, &except, &targets.filler);
                waiting.extend(further.into_iter().filter(|asked| seen.insert(key(asked))));
            }
        }
    }

    /// What a pattern and its exceptions both match: what is answered there is not told by its line.
    fn within(&mut self, asked: &Asked, except: &Except, filler: &str) -> Vec<Asked> {
        let of_guardrails = except.of_guardrails.iter().map(|pattern| (pattern, true));
        let patterns: Vec<_> = except.names.iter().map(|pattern| (pattern, false)).chain(of_guardrails).collect();
        self.whole &= except.more == 0 && patterns.len() <= self.pairs;
        let looked_at = patterns.len().min(self.pairs);
        self.pairs -= looked_at;
        let patterns = patterns.into_iter().take(looked_at).filter(|_| asked.kind == TargetKind::Tool);
        patterns.flat_map(|(pattern, beyond)| asked.and(pattern, beyond, filler)).collect()
    }

    /// A tool with the class that it is known to have, unless the owner has changed what they assert of it.
    fn believed(&self, tool: &Tool) -> Tool {
        let asked = Asked::known(&tool.name, tool.risk.unwrap_or_default());
        Tool { name: tool.name.clone(), risk: tool.risk.filter(|_| !self.floors_differ(&asked)) }
    }

    fn floors_differ(&self, asked: &Asked) -> bool {
        let both = self.pair.old.server().is_some() && self.pair.new.server().is_some();
        both && self.pair.old.floor(asked) != self.pair.new.floor(asked)
    }

    fn asking(&self, asked: Asked) -> Asking {
        let Pair { old, new, everything, .. } = self.pair;
        let reclassed = self.floors_differ(&asked);
        Asking {
            old: asked.at_least(old.floor(&asked)),
            new: asked.at_least(new.floor(&asked)),
            everything: *everything || reclassed || old.locks_out(&asked) != new.locks_out(&asked),
            reclassed,
            shown: asked,
        }
    }

    /// Tells who gets another answer about a target. What of it is an exception to somebody is answered.
    fn ask(&mut self, asking: &Asking, facts: &Facts, from: Option<i64>) -> Except {
        let pair = self.pair;
        let all = |side: &Side<'_>| vec![true; side.voices.len()];
        let (all_old, all_new) = (all(&pair.old), all(&pair.new));
        let (gone, added) = if asking.reclassed { (&all_old, &all_new) } else { (&pair.gone, &pair.added) };
        let old = View { side: &pair.old, asked: &asking.old, changed: gone };
        let new = View { side: &pair.new, asked: &asking.new, changed: added };
        let mut search = |first, second| Search::run((first, second), facts, asking.everything, true, &mut self.budget);
        let (more, less) = (search(old, new), search(new, old));
        let moment = Moment { asking, own: self.own, old, new, facts, from };
        let is_more = |found: &Found| grade(found.after) > grade(found.before);
        let (gained, open): (Vec<Found>, Vec<Found>) = more.into_iter().partition(is_more);
        let (lost, open_too): (Vec<Found>, Vec<Found>) = less.into_iter().partition(is_more);
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(Search::least(gained).iter().map(|found| moment.change(&found.someone, Direction::Gained)));
        changes.extend(Search::least(lost).iter().map(|found| moment.change(&found.someone, Direction::Lost)));
        changes.extend(moment.reconditioned(open.into_iter().chain(open_too).map(|found| found.someone).collect()));
        let except = changes.iter().fold(Except::default(), |all, change| all.and(change.except.clone()));
        // What is so already is not told again of a later time.
        let known = |change: &Change| from.is_some() && self.changes.iter().any(|earlier| moves_alike(earlier, change));
        let fresh: Vec<Change> = changes.into_iter().filter(|change| !known(change)).collect();
        self.changes.extend(fresh);
        except
    }
}

/// The enforced rules of a side that the other one has not, and that hold.
fn changed_at<'s>(side: &'s Side<'_>, changed: &[bool], facts: &Facts) -> Vec<&'s Rule> {
    let rules = side.rules().zip(changed).filter(|(_, changed)| **changed).map(|(rule, _)| rule);
    rules.filter(|rule| !rule.shadow && rule.holds_at(facts.now)).collect()
}

/// Whether two changes differ in their time and their reasons at most.
fn moves_alike(one: &Change, other: &Change) -> bool {
    fn key(change: &Change) -> impl PartialEq + '_ {
        let who = (&change.principal, &change.via, &change.actor);
        (change.direction, change.before, change.after, change.kind, &change.target, &change.except, change.risk, who)
    }
    key(one) == key(other)
}

/// One target at one time.
struct Moment<'m> {
    asking: &'m Asking,
    own: &'m Own,
    old: View<'m>,
    new: View<'m>,
    facts: &'m Facts,
    from: Option<i64>,
}

impl Moment<'_> {
    fn change(&self, someone: &Someone, direction: Direction) -> Change {
        let before = self.old.side.row(someone, self.old.asked, self.facts);
        let after = self.new.side.row(someone, self.new.asked, self.facts);
        let shown = &self.asking.shown;
        let exact = shown.kind == TargetKind::Tool && shown.shown == shown.name;
        let by_name = if exact { class_by_name(&shown.name) } else { None };
        let risk = self.old.asked.risk.own.max(self.new.asked.risk.own).or(by_name);
        let server = self.new.side.server().or(self.old.side.server());
        let beyond = shown.beyond || !self.own.names(someone) || self.from.is_some_and(|from| !self.own.has_time(from));
        Change {
            server: server.map(|server| server.id.display_name()).unwrap_or_default(),
            direction,
            principal: after.principal,
            via: after.via,
            actor: after.actor,
            kind: after.kind,
            target: after.target,
            except: before.except.and(after.except),
            risk: risk.map(Risk::as_str),
            before: before.answer,
            after: after.answer,
            rules: after.rules,
            rules_before: before.rules,
            conditions: after.conditions,
            conditions_before: before.conditions,
            windows: after.windows,
            unless: after.unless,
            from: self.from,
            beyond,
        }
    }

    /// Those for whom a condition or an approval decides as it did, but another one.
    fn reconditioned(&self, mut people: Vec<Someone>) -> Vec<Change> {
        people.sort_by_key(Someone::id);
        people.dedup_by_key(|someone| someone.id());
        let mut found: Vec<(Someone, Change)> = Vec::new();
        for someone in people {
            let (before, after) = (self.deciding(self.old, &someone), self.deciding(self.new, &someone));
            if before != after {
                let change = self.change(&someone, self.direction(&someone));
                found.push((someone, change));
            }
        }
        fn reasons(change: &Change) -> (&[String], &[String]) {
            (&change.conditions, &change.conditions_before)
        }
        let alike = |change: &Change, other: &Change| {
            (change.direction, change.before, change.after) == (other.direction, other.before, other.after)
                && reasons(change) == reasons(other)
        };
        let told = |(index, (someone, change)): &(usize, &(Someone, Change))| {
            let others = found.iter().enumerate().filter(|(other, _)| other != index);
            others.map(|(_, other)| other).any(|(other, told)| other.is_part_of(someone) && alike(change, told))
        };
        found.iter().enumerate().filter(|one| !told(one)).map(|(_, (_, change))| change.clone()).collect()
    }

    /// Effects and conditions of the rules that decide about somebody.
    fn deciding<'v>(&self, view: View<'v>, someone: &Someone) -> BTreeSet<(Effect, Option<&'v str>)> {
        let rules = view.side.voices.iter().map(|voice| &*voice.rule).filter(|rule| !rule.shadow);
        let rules = rules.filter(|rule| view.counts(rule, someone, self.facts));
        rules.map(|rule| (rule.effect, rule.condition())).collect()
    }

    /// More, if something that grants came or something that narrows went, and nothing the other way round.
    fn direction(&self, someone: &Someone) -> Direction {
        let some = |view: View<'_>, grants: bool| {
            view.side.voices.iter().zip(view.changed).any(|(voice, changed)| {
                let rule = &voice.rule;
                let fits = *changed && !rule.shadow && (rule.effect == Effect::Allow) == grants;
                fits && view.counts(rule, someone, self.facts)
            })
        };
        let more = some(self.new, true) || some(self.old, false);
        let less = some(self.old, true) || some(self.new, false);
        match (more, less) {
            (true, false) => Direction::Gained,
            (false, true) => Direction::Lost,
            _ => Direction::Changed,
        }
    }
}

fn of_authorities(old: &Fleet, new: &Fleet) -> Vec<Note> {
    let mut notes = Vec::new();
    for before in old.authorities() {
        let about = before.id.name.clone();
        match new.authority(&about) {
            Some(after)
                if (&before.issuer, &before.rules, &before.keys) == (&after.issuer, &after.rules, &after.keys) => {}
            Some(_) => notes.push(Note {
                about,
                text: "the McpAuthorizationServer has changed: its tokens may mean other principals and groups"
                    .to_owned(),
            }),
            None => {}
        }
    }
    notes
}

fn of_server(old: Option<Served<'_>>, new: Option<Served<'_>>) -> Vec<String> {
    let mut notes = Vec::new();
    match (old, new) {
        (None, Some(_)) => notes.push("is new".to_owned()),
        (Some(_), None) => notes.push("is gone".to_owned()),
        _ => {}
    }
    let (before, after) = (old.and_then(refused), new.and_then(refused));
    if before != after {
        notes.extend(before.map(|why| format!("refused every call before: {why}")));
        notes.extend(after.map(|why| format!("refuses every call now: {why}")));
    }
    if let (Some(old), Some(new)) = (old, new) {
        let (before, after) = (old.server, new.server);
        if before.upstream.url != after.upstream.url {
            notes.push("has another upstream, whose tools may be others".to_owned());
        }
        if (&before.scopes, &before.audiences) != (&after.scopes, &after.audiences) {
            notes.push("asks for other scopes or audiences of a token".to_owned());
        }
        let (locked, lock) = (refusing_lock(before), refusing_lock(after));
        if locked.is_some() && lock.is_none() {
            notes.push("has no tool lock any more that refuses what was not reviewed".to_owned());
        }
        let other =
            |(name, tool): &(&String, &_)| locked.is_some_and(|lock| lock.tools.get(*name).is_some_and(|t| t != *tool));
        let changed: Vec<&str> =
            lock.iter().flat_map(|lock| &lock.tools).filter(other).map(|(name, _)| name.as_str()).collect();
        if !changed.is_empty() {
            notes.push(format!("has other reviewed definitions of {}", changed.join(", ")));
        }
    }
    let doubtful = |served: Option<Served<'_>>| served.map(doubts).unwrap_or_default();
    let known = doubtful(old);
    notes.extend(doubtful(new).into_iter().filter(|doubt| !known.contains(doubt)));
    notes
}
