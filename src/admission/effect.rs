//! What a change does: who gains and who loses which tools, for its author to read before it is too late.
//!
//! Invariant: every line is exact by the evaluator that the proxies call, as far as the cluster is known here; what is not looked
//! at is said not to be; and nothing is told that its author may not see: neither of other namespaces than those for which they
//! have the right, nor a word of what only a guardrail of the system namespace says.

use std::collections::BTreeSet;

use super::fork::Forks;
use super::grant::{Need, Place};
use super::review::Review;
use super::world::{Found, World};
use crate::access::Answer;
use crate::access::diff::{Change, Direction, Limits, compare, riskiest_first};
use crate::api::{Kind, Object};
use crate::fleet::Served;
use crate::generated::policy::{PrincipalMatch, Rule};
use crate::policy::request::Facts;

/// Servers that are compared for one review: beyond, those that are touched are counted.
const MOST_SERVERS: usize = 64;
/// What is looked at of each of them.
const LIMITS: Limits = Limits { changes: 256, questions: 4096, times: 4, pairs: 4096 };
/// Names, patterns and principals of all rules of one server, beyond which it is not compared while somebody waits: what is looked
/// at grows with their square.
const MOST_WORDS: usize = 2048;
/// Exceptions of a pattern that are told by name.
const MOST_EXCEPTIONS: usize = 4;
/// The most bytes of what the cluster's audit log is given.
const LONGEST_RECORD: usize = 16 * 1024;

/// What a change does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// One change each, the riskiest first, and what was left out: for its author.
    pub(super) lines: Vec<String>,
    /// The same with what guardrails say: for administrators.
    whole: Vec<String>,
}

impl Effect {
    /// The whole of it, for the audit log.
    pub(super) fn record(&self) -> Option<String> {
        let mut text = String::new();
        for (index, line) in self.whole.iter().enumerate() {
            if text.len() + line.len() > LONGEST_RECORD {
                text.push_str(&format!("... and {} more", self.whole.len() - index));
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        Some(text).filter(|text| !text.is_empty())
    }
}

/// What a change of a policy or a server does, at `now` in Unix seconds.
pub(super) fn effect(review: &Review, new: Option<&Object>, world: &World, found: &Found, now: i64) -> Effect {
    let Some(forks) = Forks::of(review, new, world, found) else { return Effect::default() };
    let changed = changed(&forks, world, now);
    let own = Some(review.key.namespace.as_str()).filter(|own| *own != world.settings().system_namespace);
    let author = Reader { own, sees_guardrails: own.is_none() };
    let administrator = Reader { own, sees_guardrails: true };
    let notes = changed.notes(&forks);
    let lines = |reader: Reader<'_>| [reader.lines(&changed.told), notes.clone()].concat();
    Effect { lines: lines(author), whole: lines(administrator) }
}

/// What was found.
pub(super) struct Changed {
    /// The riskiest first.
    pub(super) told: Vec<Change>,
    /// How many servers were touched.
    touched: usize,
    /// Whether these are all changes of those that were compared.
    pub(super) whole: bool,
    /// How many of those have a tool lock that was not looked at.
    locked: usize,
    /// Whether one of them refuses everything for a policy that was never accepted.
    denied: bool,
}

/// Compares the servers that could be touched.
pub(super) fn changed(forks: &Forks, world: &World, now: i64) -> Changed {
    let mut changed = Changed { told: Vec::new(), touched: 0, whole: true, locked: 0, denied: false };
    for (namespace, name) in &forks.affected {
        let (old, new) = forks.versions(namespace, name);
        match (old, new) {
            (None, None) => continue,
            (Some(old), Some(new)) if old.decides_as(&new) => continue,
            _ => changed.touched += 1,
        }
        let sides = || old.into_iter().chain(new);
        changed.denied |= sides().any(|served| served.layers.denied.is_some());
        if changed.touched > MOST_SERVERS {
            continue;
        }
        changed.locked += usize::from(forks.unlocked.contains(&(namespace.clone(), name.clone())));
        if sides().map(words).max() > Some(MOST_WORDS) {
            changed.whole = false;
            continue;
        }
        let compared = compare(old, new, world.tools(namespace, name), &Facts { now }, &LIMITS);
        changed.whole &= compared.whole;
        changed.told.extend(compared.changes);
    }
    riskiest_first(&mut changed.told);
    changed
}

impl Changed {
    /// What nobody looked at.
    fn notes(&self, forks: &Forks) -> Vec<String> {
        let mut notes = Vec::new();
        if self.touched > MOST_SERVERS {
            let more = self.touched - MOST_SERVERS;
            notes.push(format!("{more} more McpServers are touched, of which no change is shown here"));
        }
        if self.locked > 0 {
            let count = self.locked;
            notes.push(format!(
                "tool locks that are not looked at here, and may refuse more: those of {count} McpServer(s)"
            ));
        }
        if self.denied || forks.stands_otherwise && self.touched > 0 {
            notes.push("an invalid McpPolicy is involved: what of it is in force is not known here".to_owned());
        }
        if !self.whole {
            notes.push("these are not all changes: portcullis diff shows the rest".to_owned());
        }
        notes
    }
}

/// How much the rules of a server say that decide.
fn words(served: Served<'_>) -> usize {
    let of_principal =
        |entry: &PrincipalMatch| 1 + entry.users.len() + entry.groups.len() + entry.clients.len() + entry.via.len();
    let of_rule = |rule: &Rule| -> usize {
        let tools = rule.tools.iter().map(|tools| 1 + tools.names.len() + tools.patterns.len());
        tools.chain(rule.principals.iter().chain(&rule.except).map(of_principal)).sum()
    };
    served.layers.rules().iter().filter(|rule| !rule.shadow).map(|rule| of_rule(rule.source())).sum()
}

/// Who may see what changes: whoever may list policies where it does. Of kinds of which nothing is told, nobody has to be asked.
pub(super) fn sight(review: &Review, new: Option<&Object>, world: &World) -> Option<Need> {
    if !matches!(review.key.kind, Kind::McpPolicy | Kind::McpServer) {
        return None;
    }
    let reaches_out =
        |object: &Object| matches!(object, Object::Policy(p) if p.spec.targets.namespace_selector.is_some());
    let guardrail = review.key.kind == Kind::McpPolicy && review.key.namespace == world.settings().system_namespace;
    let old = super::fork::old(review);
    let otherwise = super::fork::stands_otherwise(review, world);
    let everywhere = guardrail && (otherwise || old.iter().chain(new).any(reaches_out));
    Some(Need::sight(if everywhere { Place::Everywhere } else { Place::Namespace(review.key.namespace.clone()) }))
}

/// For whom lines are.
#[derive(Clone, Copy)]
struct Reader<'r> {
    /// The one namespace of which they are told; `None`: all that they may see.
    own: Option<&'r str>,
    /// Whether they may read what guardrails say.
    sees_guardrails: bool,
}

impl Reader<'_> {
    /// One for each change that is theirs to know; of others only that there are some.
    fn lines(self, told: &[Change]) -> Vec<String> {
        let (beyond, known): (Vec<&Change>, Vec<&Change>) =
            told.iter().partition(|change| change.beyond && !self.sees_guardrails);
        let folded: BTreeSet<(Direction, &str)> =
            beyond.into_iter().map(|change| (change.direction, change.server.as_str())).collect();
        let general = |(direction, server): (Direction, &str)| {
            format!("{} further callers or tools, by what guardrails except, on {server}", sign(direction))
        };
        known.into_iter().map(|change| self.line(change)).chain(folded.into_iter().map(general)).collect()
    }

    /// One change: `+ group:dev@corp: delete_repo [Destructive] on team/github (rule cleanup/all)`.
    fn line(self, change: &Change) -> String {
        let risk = change.risk.map(|risk| format!(" [{risk}]")).unwrap_or_default();
        let mut who = change.principal.clone();
        who.extend(change.via.iter().map(|via| format!(" via {via}")));
        who.extend(change.actor.iter().map(|actor| format!(" for actor {actor}")));
        let mut why = Vec::new();
        if !matches!((change.before, change.after), (Answer::Deny, Answer::Allow) | (Answer::Allow, Answer::Deny)) {
            why.push(format!("{} -> {}", change.before.as_str(), change.after.as_str()));
        }
        let (rules, conditions) = match change.rules.is_empty() {
            true => (&change.rules_before, &change.conditions_before),
            false => (&change.rules, &change.conditions),
        };
        let names: BTreeSet<Option<&str>> = rules.iter().map(|rule| self.shown(rule)).collect();
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(|name| name.unwrap_or("of a guardrail")).collect();
            why.push(format!("rule {}", names.join(", ")));
        }
        // A condition may be a guardrail's.
        why.extend(conditions.first().filter(|_| !names.contains(&None)).map(|condition| format!("if {condition}")));
        let at =
            |from| jiff::Timestamp::from_second(from).map_or_else(|_| format!("second {from}"), |at| at.to_string());
        why.extend(change.from.map(|from| format!("from {}", at(from))));
        if !change.unless.is_empty() {
            why.push("unless in further groups".to_owned());
        }
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
        let target = change.except.of(&change.target, MOST_EXCEPTIONS, self.sees_guardrails);
        format!("{} {who}: {target}{risk} on {}{why}", sign(change.direction), change.server)
    }

    /// The name of a rule, without its namespace where that is the author's own; of another one, nothing may be told.
    fn shown(self, rule: &str) -> Option<&str> {
        let Some(own) = self.own else { return Some(rule) };
        let within = rule.strip_prefix(own).and_then(|rest| rest.strip_prefix('/'));
        within.or(Some(rule).filter(|_| self.sees_guardrails))
    }
}

fn sign(direction: Direction) -> char {
    match direction {
        Direction::Gained => '+',
        Direction::Changed => '~',
        Direction::Lost => '-',
    }
}
