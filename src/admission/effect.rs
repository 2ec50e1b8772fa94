//! What a change does: who gains and who loses which tools, for its author to read before it is too late.
//!
//! Invariant: every line is exact by the evaluator that the proxies call, as far as the cluster is known here; where there are
//! too many servers or changes to tell, the lines say so; and nothing is told that its author may not see: neither of other
//! namespaces than those for which they have the right, nor what a guardrail of the system namespace is called.

use std::collections::BTreeSet;

use super::grant::{Need, Place};
use super::review::Review;
use super::world::{Found, World, read};
use crate::access::Answer;
use crate::access::diff::{Change, Compared, Direction, Limits, compare, riskiest_first};
use crate::api::{Kind, Object};
use crate::fleet::{Fleet, Served};
use crate::generated::policy::{PrincipalMatch, Rule};
use crate::policy::request::Facts;
use crate::resolve;

/// Servers that are compared for one review: beyond, those that are touched are counted.
const MOST_SERVERS: usize = 64;
/// What is looked at of each of them.
const LIMITS: Limits = Limits { changes: 256, questions: 4096, times: 4 };
/// Names, patterns and principals of all rules of one server, beyond which it is not compared while somebody waits: what is looked
/// at grows with their square.
const MOST_WORDS: usize = 2048;
/// The most bytes of what the cluster's audit log is given.
const LONGEST_RECORD: usize = 16 * 1024;

/// What a change does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// One line for each change, the riskiest first, and what was left out.
    pub(super) lines: Vec<String>,
}

impl Effect {
    /// The whole of it, for the audit log.
    pub(super) fn record(&self) -> Option<String> {
        let mut text = String::new();
        for (index, line) in self.lines.iter().enumerate() {
            if text.len() + line.len() > LONGEST_RECORD {
                text.push_str(&format!("... and {} more", self.lines.len() - index));
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
    let Some(after) = after(review, new, world, found) else { return Effect::default() };
    let facts = Facts { now };
    let mut told: Vec<Change> = Vec::new();
    let (mut touched, mut whole) = (0, true);
    for (namespace, name) in affected(review, new, world) {
        let (old, new) = (world.fleet().by_name(&namespace, &name), after.by_name(&namespace, &name));
        if let (Some(old), Some(new)) = (old, new)
            && old.decides_as(&new)
        {
            continue;
        }
        touched += 1;
        if old.into_iter().chain(new).map(words).max() > Some(MOST_WORDS) {
            whole = false;
        } else if touched <= MOST_SERVERS {
            let compared: Compared = compare(old, new, world.tools(&namespace, &name), &facts, &LIMITS);
            whole &= compared.whole;
            told.extend(compared.changes);
        }
    }
    riskiest_first(&mut told);
    let own = Some(review.key.namespace.as_str()).filter(|own| *own != world.settings().system_namespace);
    let mut lines: Vec<String> = told.iter().map(|change| line(change, own)).collect();
    if touched > MOST_SERVERS {
        lines.push(format!("{} more McpServers are touched, of which no change is shown here", touched - MOST_SERVERS));
    }
    if !whole {
        lines.push("these are not all changes: portcullis diff shows the rest".to_owned());
    }
    Effect { lines }
}

/// How much the rules of a server say.
fn words(served: Served<'_>) -> usize {
    let of_principal =
        |entry: &PrincipalMatch| 1 + entry.users.len() + entry.groups.len() + entry.clients.len() + entry.via.len();
    let of_rule = |rule: &Rule| -> usize {
        let tools = rule.tools.iter().map(|tools| 1 + tools.names.len() + tools.patterns.len());
        tools.chain(rule.principals.iter().chain(&rule.except).map(of_principal)).sum()
    };
    served.layers.rules().iter().map(|rule| of_rule(rule.source())).sum()
}

/// Servers and rules as they would be; nothing for kinds of which that is not told.
fn after(review: &Review, new: Option<&Object>, world: &World, found: &Found) -> Option<Fleet> {
    let (key, mut fleet) = (&review.key, world.fleet().clone());
    let old = review.old.as_ref().and_then(|old| read(old).ok());
    let id = |object: &Object| resolve::object_id(key, object.metadata());
    match (key.kind, new) {
        (Kind::McpPolicy, Some(new)) => {
            let names = super::named::named(new);
            let Object::Policy(object) = new else { return None };
            let policy = resolve::policy(object, &world.settings(), &world.lookup(&names, found)).ok()?.object;
            drop(fleet.put_policy(policy));
        }
        (Kind::McpPolicy, None) => fleet.remove_policy(&id(old.as_ref()?).uid),
        (Kind::McpServer, Some(Object::Server(object))) => {
            fleet = world.fleet_with(key, Some(world.server(object, found).ok()?.object));
        }
        (Kind::McpServer, None) => fleet = world.fleet_with(key, None),
        _ => return None,
    }
    Some(fleet)
}

/// The servers that could be touched, by namespace and name.
fn affected(review: &Review, new: Option<&Object>, world: &World) -> BTreeSet<(String, String)> {
    let key = &review.key;
    if key.kind == Kind::McpServer {
        return BTreeSet::from([(key.namespace.clone(), key.name.clone())]);
    }
    let old = review.old.as_ref().and_then(|old| read(old).ok());
    let specs = [old.as_ref(), new].into_iter().flatten().filter_map(|object| match object {
        Object::Policy(policy) => Some(&policy.spec.targets),
        _ => None,
    });
    let specs: Vec<_> = specs.collect();
    let everywhere = specs.iter().any(|targets| targets.namespace_selector.is_some());
    // Of an edit that is invalid, what it reaches is not known from the edit.
    let selects = old.is_none() && review.old.is_some() || specs.iter().any(|targets| targets.selector.is_some());
    if everywhere || selects && key.namespace == world.settings().system_namespace {
        return world.server_names(None);
    }
    if selects {
        return world.server_names(Some(&key.namespace));
    }
    let names = specs.iter().flat_map(|targets| targets.servers.iter().flatten());
    names.map(|name| (key.namespace.clone(), name.clone())).collect()
}

/// Who may see what changes: whoever may list policies where it does. Of kinds of which nothing is told, nobody has to be asked.
pub(super) fn sight(review: &Review, new: Option<&Object>, world: &World) -> Option<Need> {
    if !matches!(review.key.kind, Kind::McpPolicy | Kind::McpServer) {
        return None;
    }
    let old = review.old.as_ref().and_then(|old| read(old).ok());
    let reaches_out =
        |object: &Object| matches!(object, Object::Policy(p) if p.spec.targets.namespace_selector.is_some());
    let guardrail = review.key.namespace == world.settings().system_namespace;
    let everywhere = guardrail && (old.is_none() && review.old.is_some() || old.iter().chain(new).any(reaches_out));
    Some(Need::sight(if everywhere { Place::Everywhere } else { Place::Namespace(review.key.namespace.clone()) }))
}

/// One change: `+ group:dev@corp: delete_repo [Destructive] on team/github (rule cleanup/all)`. `own`: the one namespace of
/// which the author is told; `None`: of all that they may see.
fn line(change: &Change, own: Option<&str>) -> String {
    let sign = match change.direction {
        Direction::Gained => '+',
        Direction::Changed => '~',
        Direction::Lost => '-',
    };
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
    let names: BTreeSet<Option<&str>> = rules.iter().map(|rule| shown(rule, own)).collect();
    if !names.is_empty() {
        let names: Vec<&str> = names.iter().map(|name| name.unwrap_or("of a guardrail")).collect();
        why.push(format!("rule {}", names.join(", ")));
    }
    match conditions.first() {
        // It may be a guardrail's.
        Some(_) if names.contains(&None) => why.push("under a condition".to_owned()),
        Some(condition) => why.push(format!("if {condition}")),
        None => {}
    }
    let at = |from| jiff::Timestamp::from_second(from).map_or_else(|_| format!("second {from}"), |at| at.to_string());
    why.extend(change.from.map(|from| format!("from {}", at(from))));
    if !change.unless.is_empty() {
        why.push("unless in further groups".to_owned());
    }
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    format!("{sign} {who}: {}{risk} on {}{why}", change.target, change.server)
}

/// The name of a rule, without its namespace where that is the author's own; of another one, nothing is told.
fn shown<'r>(rule: &'r str, own: Option<&str>) -> Option<&'r str> {
    match own {
        None => Some(rule),
        Some(own) => rule.strip_prefix(own)?.strip_prefix('/'),
    }
}
