//! Every principal that the policies speak of, times every tool, resource and prompt: who can call what, and by which
//! rules.
//!
//! A row stands for whoever is what the row says *and nothing more*: a member of these groups, through this client, for
//! whom this actor acts. Whoever is in further groups may be refused by further rules (`unless`), or be excepted from a
//! refusal: rows for such combinations are added where they can do more. What a condition says of them is left open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::cast::{Accepted, Id, Someone};
use super::except::Except;
use super::search::{Search, View};
use super::side::Side;
use super::targets::{Asked, MOST_PAIRS, Tool, targets};
use super::{Answer, doubts, rule_name};
use crate::fleet::Served;
use crate::policy::request::Facts;
use crate::policy::rule::Rule;

/// How many times somebody is held against a rule, in search of combinations beyond those that the rules name.
const EFFORT: usize = 20_000_000;

/// That patterns are too many to be held against one another.
const CROWDED: &str = "There are too many patterns to show what is answered where two of them meet";

/// The whole table of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// `namespace/name` of the server.
    pub server: String,
    /// Why every call is refused whatever the rules say, if so.
    pub refused: Option<String>,
    /// Who can and who cannot, by principal and target.
    pub rows: Vec<Row>,
    /// Rules that do not hold at this time.
    pub dormant: Vec<Dormant>,
    /// What cannot be said for sure, and what counts meanwhile.
    pub doubts: Vec<String>,
    /// Authorities that rules name and whose tokens the server does not accept: nobody of them gets as far as a rule.
    pub strangers: Vec<String>,
}

/// One principal and one target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Who: `user:alice@corp`, `group:dev@corp`, `client:ci@corp`, `serviceaccount:ns/name@cluster`, `any@corp`.
    pub principal: String,
    /// The client through which the principal presents itself.
    pub via: Option<String>,
    /// The actor of a delegated token.
    pub actor: Option<String>,
    /// `Tool`, `Resource` or `Prompt`.
    pub kind: &'static str,
    /// A name, or a pattern that stands for every name that it matches and that is no exception.
    pub target: String,
    /// What of the pattern the answer does not hold for.
    pub except: Except,
    /// The risk class that the answer presumes; `None`: unclassified, or no rule asks for it.
    pub risk: Option<&'static str>,
    /// The answer.
    pub answer: Answer,
    /// Whether the target is listed for the principal: if not, no rule allows any call to it.
    pub listed: bool,
    /// The rules that decide, as `namespace/policy/rule`.
    pub rules: Vec<String>,
    /// The conditions of those rules.
    pub conditions: Vec<String>,
    /// Unix seconds from which and until which those rules hold, where they say.
    pub windows: Vec<Window>,
    /// Rules that would refuse, or ask for approval, if the principal is in further groups.
    pub unless: Vec<String>,
    /// The answer with Shadow policies enforced, where that differs.
    pub shadow: Option<Answer>,
}

/// When a rule holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Unix seconds from which it holds.
    pub not_before: Option<i64>,
    /// Unix seconds until which, exclusively, it holds.
    pub not_after: Option<i64>,
}

/// A rule that does not hold now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dormant {
    /// `namespace/policy/rule`.
    pub rule: String,
    /// What it does.
    pub effect: Answer,
    /// When it holds.
    pub window: Window,
}

/// Asks for every principal that the rules name and every tool: the given ones; if none are known, those that were
/// reviewed, where a lock refuses all others; else those that the rules name.
pub fn who_can(served: Served<'_>, inventory: Option<&[Tool]>, facts: &Facts) -> Table {
    let accepted: Accepted = Arc::new(served.server.authorities.iter().cloned().collect());
    let side = Side::of(Some(served), &accepted);
    let (current, later): (Vec<&Rule>, Vec<&Rule>) = side.rules().partition(|rule| rule.holds_at(facts.now));
    let people = named(&side, facts);
    let mut rows = BTreeSet::new();
    let mut effort = EFFORT;
    let targets = targets(&current, inventory, &[served.server], MOST_PAIRS);
    for asked in &targets.asked {
        rows.extend(people.values().map(|someone| side.row(someone, asked, facts)));
        let lifted = lifted(&side, asked, facts, &mut effort);
        rows.extend(lifted.iter().map(|someone| side.row(someone, asked, facts)));
    }
    let dormant = later.iter().map(|rule| Dormant {
        rule: rule_name(&rule.reference),
        effect: rule.effect.into(),
        window: Window::of(rule),
    });
    let mut doubts = doubts(served);
    if effort == 0 {
        doubts.push("There are too many combinations of exceptions to show all of them".to_owned());
    }
    if !targets.whole {
        doubts.push(CROWDED.to_owned());
    }
    Table {
        server: served.server.id.display_name(),
        refused: side.refused.clone(),
        rows: rows.into_iter().collect(),
        dormant: dormant.collect(),
        doubts,
        strangers: strangers(&current, &accepted),
    }
}

/// Everybody of whom the rules that hold speak.
fn named<'s>(side: &'s Side<'_>, facts: &Facts) -> BTreeMap<Id, &'s Someone> {
    let current = side.voices.iter().filter(|voice| voice.rule.holds_at(facts.now));
    let people = current.flat_map(|voice| voice.people().iter().chain(voice.excepted()));
    people.map(|someone| (someone.id(), someone)).collect()
}

/// Those who can do something, and more than whoever of them is less: by what rules that narrow except.
fn lifted(side: &Side<'_>, asked: &Asked, facts: &Facts, effort: &mut usize) -> Vec<Someone> {
    let nobody = Side::of(None, &Accepted::default());
    let changed = vec![true; side.voices.len()];
    let first = View { side: &nobody, asked, changed: &[] };
    let found = Search::run((first, View { side, asked, changed: &changed }), facts, true, false, effort);
    Search::least(found).into_iter().map(|found| found.someone).collect()
}

/// Authorities that rules name and whose tokens are not accepted.
fn strangers(rules: &[&Rule], accepted: &BTreeSet<String>) -> Vec<String> {
    let entries = rules.iter().flat_map(|rule| rule.source().principals.iter().chain(&rule.source().except));
    let named: BTreeSet<&String> = entries.filter_map(|entry| entry.authority.as_ref()).collect();
    named.into_iter().filter(|authority| !accepted.contains(*authority)).cloned().collect()
}

/// Whether somebody can do something.
pub fn anybody_can(table: &Table) -> bool {
    table.rows.iter().any(|row| row.answer != Answer::Deny)
}

impl Window {
    pub(super) fn of(rule: &Rule) -> Self {
        Self { not_before: rule.source().not_before, not_after: rule.source().not_after }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.not_before.is_some() || self.not_after.is_some()
    }
}
