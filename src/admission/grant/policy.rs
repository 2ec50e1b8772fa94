//! What a policy's change opens.
//!
//! Invariant: compared are the rules of the two versions at each server that either could reach; only what the other policies
//! would have it do is left out, since these can change at any time.

use std::collections::BTreeSet;

use super::need::{Needs, Opened, Place, Right};
use crate::admission::world::{Found, World};
use crate::api::{Key, Kind};
use crate::generated::Policy;
use crate::generated::policy::{Effect, Mode, Rule, Targets};
use crate::policy::selector::selects_all;
use crate::resolve::{self, Comparison};

/// A policy's change. `old`: `Some(None)` if there was one that is invalid, of which nobody knows here what it denies.
pub(super) fn policy(
    namespace: &str,
    old: Option<Option<Policy>>,
    new: Option<&Policy>,
    (world, found): (&World, &Found),
    needs: &mut Needs,
) {
    let guardrail = namespace == world.settings().system_namespace;
    let wide = |selects: bool| match selects {
        true => Place::Everywhere,
        false => Place::Namespace(namespace.to_owned()),
    };
    let (old, new) = match (old, new) {
        (Some(None), _) => {
            let why = "what is in force of an invalid policy denies, and it would be replaced or removed".to_owned();
            return needs.add(wide(guardrail), why);
        }
        (Some(Some(old)), Some(new)) => (old, new.clone()),
        (Some(Some(old)), None) => (old.clone(), saying_nothing(&old)),
        (None, Some(new)) => (saying_nothing(new), new.clone()),
        (None, None) => return,
    };
    let mut change = Change { old: &old, new: &new, comparison: Comparison::within(guardrail) };
    if old.targets.namespaces.is_some() || new.targets.namespaces.is_some() {
        if let Some(opened) = change.beyond(covers(&new.targets, &old.targets), covers(&old.targets, &new.targets)) {
            needs.opened(Place::Everywhere, opened);
        }
        return;
    }
    let selected = |targets: &Targets| Targets { servers: Vec::new(), ..targets.clone() };
    let (before, after) = (selected(&old.targets), selected(&new.targets));
    if (before.selector.is_some() || after.selector.is_some())
        && let Some(opened) = change.beyond(covers(&after, &before), covers(&before, &after))
    {
        let for_good = opened.right == Right::Grant;
        needs.opened(wide(false), opened);
        // Every server is among them.
        if for_good {
            return;
        }
    }
    let names: BTreeSet<&String> = old.targets.servers.iter().chain(&new.targets.servers).collect();
    for name in names {
        if let Some(opened) = change.at(Reach::of(&old.targets, name), Reach::of(&new.targets, name)) {
            let key = Key { kind: Kind::McpServer, namespace: namespace.to_owned(), name: name.clone() };
            let place = if world.has(&key) || found.has(&key) {
                Place::Server { namespace: namespace.to_owned(), name: name.clone() }
            } else {
                // Whoever comes to have that name would be open.
                wide(false)
            };
            needs.opened(place, opened);
        }
    }
}

/// A policy that reaches as far, and says nothing.
fn saying_nothing(policy: &Policy) -> Policy {
    Policy { rules: Vec::new(), ..policy.clone() }
}

/// Whether `wide` reaches every server that `tight` reaches, whatever labels there are.
fn covers(wide: &Targets, tight: &Targets) -> bool {
    let namespaces = match (&wide.namespaces, &tight.namespaces) {
        (Some(wide), Some(tight)) => selects_all(wide) || wide == tight,
        (wide, tight) => wide.is_none() && tight.is_none(),
    };
    let all = wide.selector.as_ref().is_some_and(selects_all);
    let selector = all || tight.selector.is_none() || wide.selector == tight.selector;
    let names = all || tight.servers.iter().all(|name| wide.servers.contains(name));
    let nothing = tight.selector.is_none() && tight.servers.is_empty();
    nothing || namespaces && selector && names
}

/// Whether the rules of a policy count at a server. Labels are no proof, since somebody may be changing them at this moment.
#[derive(Clone, Copy)]
struct Reach {
    surely: bool,
    perhaps: bool,
}

impl Reach {
    const YES: Self = Self { surely: true, perhaps: true };
    const NO: Self = Self { surely: false, perhaps: false };

    fn of(targets: &Targets, server: &String) -> Self {
        let named = targets.servers.contains(server);
        let surely = named || targets.selector.as_ref().is_some_and(selects_all);
        Self { surely, perhaps: named || targets.selector.is_some() }
    }
}

/// One policy before and after.
struct Change<'a> {
    old: &'a Policy,
    new: &'a Policy,
    comparison: Comparison,
}

impl Change<'_> {
    /// What it opens anywhere, if servers may be reached by one side only. `kept`: the new side reaches all that the old one
    /// did; `same`: it reaches no more.
    fn beyond(&mut self, kept: bool, same: bool) -> Option<Opened> {
        let both = self.at(Reach::YES, Reach::YES);
        let left = if kept { None } else { self.at(Reach::YES, Reach::NO) };
        let entered = if same { None } else { self.at(Reach::NO, Reach::YES) };
        [both, left, entered].into_iter().flatten().reduce(Opened::or)
    }

    /// What it opens at a server that the old side and the new one reach or not.
    fn at(&mut self, old_reaches: Reach, new_reaches: Reach) -> Option<Opened> {
        let (granted, grants) = (rules(self.old, old_reaches.surely), rules(self.new, new_reaches.perhaps));
        let mut exceptions: Vec<&Rule> = Vec::new();
        for rule in grants.iter().filter(|rule| rule.effect == Effect::Allow) {
            let is_allow = |earlier: &&Rule| earlier.effect == Effect::Allow;
            if !granted.iter().filter(is_allow).any(|earlier| self.comparison.covers(earlier, rule)) {
                if rule.break_glass.is_none() {
                    let why = format!("rule {:?} allows what this policy did not allow before", rule.name);
                    return Some(Opened::for_good(why));
                }
                exceptions.push(rule);
            }
        }
        let (refused, refuses) = (rules(self.old, old_reaches.perhaps), rules(self.new, new_reaches.surely));
        for rule in refused.iter().filter(|rule| rule.effect != Effect::Allow) {
            let narrows = |later: &&Rule| later.effect == rule.effect || later.effect == Effect::Deny;
            if !refuses.iter().filter(narrows).any(|later| self.comparison.covers(later, rule)) {
                let why = format!("rule {:?} would not refuse any more all that it refused before", rule.name);
                return Some(Opened::for_good(why));
            }
        }
        let first = exceptions.first()?;
        // One after the other they would be for good.
        let all: Vec<&Rule> = grants.iter().filter(|rule| rule.break_glass.is_some()).collect();
        if spans_more_than_one(&all) {
            return Some(Opened::for_good("the rules with breakGlass hold for more than 24 hours together".to_owned()));
        }
        let why = format!("rule {:?} allows what this policy did not allow before", first.name);
        Some(Opened { right: Right::BreakGlass, why })
    }
}

/// Whether there are more than [`resolve::LONGEST_BREAK_GLASS`] seconds between the beginning of the first of these rules and the
/// end of the last.
fn spans_more_than_one(exceptions: &[&Rule]) -> bool {
    let from = exceptions.iter().map(|rule| rule.not_before.unwrap_or(i64::MIN)).min().unwrap_or_default();
    let until = exceptions.iter().map(|rule| rule.not_after.unwrap_or(i64::MAX)).max().unwrap_or_default();
    until.saturating_sub(from) > resolve::LONGEST_BREAK_GLASS
}

/// What of a policy decides at a server.
fn rules(policy: &Policy, reaches: bool) -> &[Rule] {
    if reaches && policy.mode == Mode::Enforce { &policy.rules } else { &[] }
}
