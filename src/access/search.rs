//! Who gets more from one side than from another, without asking everybody who could be: there are too many combinations of
//! groups, clients and actors.
//!
//! Invariant: complete within its budget. Whoever gets more on the second side includes somebody that is found, who gets as
//! little on the first and as much on the second. Proof: be P somebody who gets more. A grant of the second side is about P,
//! so P includes somebody of its entries; begin there. While that somebody gets less than P on the second side, a rule that
//! narrows is about them and not about P, which excepts P: one of its exceptions is in P; add it. While they get more than P
//! on the first side, either a rule that narrows is about P and not yet about them, or a grant that is about them excepts P:
//! add that. Each step adds a part of P, so it ends. A rule that is the same on both sides never explains a difference by
//! narrowing. Conditions are left open, and so is what they make of it.

use std::collections::HashSet;

use super::Answer;
use super::cast::{Id, Someone, Voice};
use super::side::{Side, counts};
use super::targets::Asked;
use crate::generated::policy::Effect;
use crate::policy::request::Facts;
use crate::policy::rule::Rule;
use crate::policy::tri::Tri;

/// Deny, then what a condition or an approval decides, then Allow.
pub(super) fn grade(answer: Answer) -> u8 {
    match answer {
        Answer::Deny => 0,
        Answer::Depends | Answer::RequireApproval => 1,
        Answer::Allow => 2,
    }
}

/// Somebody for whom the sides differ.
pub(super) struct Found {
    pub(super) someone: Someone,
    pub(super) before: Answer,
    pub(super) after: Answer,
}

impl Found {
    /// Whether this tells all that `other` does.
    pub(super) fn explains(&self, other: &Self) -> bool {
        grade(self.before) <= grade(other.before)
            && grade(self.after) >= grade(other.after)
            && self.someone.is_part_of(&other.someone)
    }
}

/// A side as a search sees it: what is asked of it, and which of its rules the other one has not.
#[derive(Clone, Copy)]
pub(super) struct View<'s> {
    pub(super) side: &'s Side<'s>,
    pub(super) asked: &'s Asked,
    /// By the index of the voice.
    pub(super) changed: &'s [bool],
}

impl<'s> View<'s> {
    /// The enforced rules about the target, with whether the other side has them not.
    fn voices(&self, grants: bool, facts: &Facts) -> Vec<(&'s Voice, bool)> {
        let about = |rule: &Rule| rule.holds_at(facts.now) && rule.about_target(&self.asked.target()) != Tri::No;
        let voices = self.side.voices.iter().zip(self.changed).map(|(voice, changed)| (voice, *changed));
        let mut voices: Vec<_> = voices
            .filter(|(voice, _)| !voice.rule.shadow && (voice.rule.effect == Effect::Allow) == grants)
            .filter(|(voice, _)| about(&voice.rule))
            .collect();
        // Those first that decide more: what is sure before what a condition decides, and a refusal before an approval.
        voices.sort_by_key(|(voice, _)| (voice.rule.effect == Effect::RequireApproval, voice.rule.when.is_some()));
        voices
    }

    pub(super) fn answer(&self, someone: &Someone, facts: &Facts) -> Answer {
        self.side.answer(someone, self.asked, facts)
    }

    pub(super) fn counts(&self, rule: &Rule, someone: &Someone, facts: &Facts) -> bool {
        counts(rule, someone, &self.asked.target(), facts)
    }
}

/// One search, at one target and time.
pub(super) struct Search<'s> {
    first: View<'s>,
    second: View<'s>,
    facts: &'s Facts,
    refused_by: Vec<(&'s Voice, bool)>,
    granted_by: Vec<(&'s Voice, bool)>,
    narrowed_by: Vec<(&'s Voice, bool)>,
    /// How many times somebody may still be held against a rule.
    budget: &'s mut usize,
    seen: HashSet<Id>,
    found: Vec<Found>,
}

impl<'s> Search<'s> {
    /// Everybody who gets more on the second side, and everybody for whom a condition or an approval decides on both.
    /// `everything`: the sides differ in more than their rules. `doubtful`: those count too whose groups nobody knows.
    pub(super) fn run(
        (first, second): (View<'s>, View<'s>),
        facts: &'s Facts,
        everything: bool,
        doubtful: bool,
        budget: &'s mut usize,
    ) -> Vec<Found> {
        let refused_by = first.voices(false, facts);
        let refused_anew = refused_by.iter().any(|(_, changed)| *changed);
        let mut search = Self {
            first,
            second,
            facts,
            refused_by,
            granted_by: first.voices(true, facts),
            narrowed_by: second.voices(false, facts),
            budget,
            seen: HashSet::new(),
            found: Vec::new(),
        };
        let grants = second.voices(true, facts);
        let matter = grants.iter().filter(|(_, changed)| *changed || refused_anew || everything);
        let beginnings: Vec<&Someone> = matter.flat_map(|(voice, _)| voice.people()).collect();
        let doubtful = beginnings.iter().filter(|_| doubtful).filter_map(|someone| someone.of_unknown_groups());
        // A list of its own instead of recursion: how deep that goes is up to whoever writes the rules.
        let mut waiting: Vec<Someone> =
            doubtful.chain(beginnings.iter().map(|someone| Someone::clone(someone))).collect();
        while let Some(someone) = waiting.pop() {
            search.visit(someone, &mut waiting);
        }
        search.found
    }

    /// Without those of whom another one tells everything.
    pub(super) fn least(found: Vec<Found>) -> Vec<Found> {
        let told = |(index, one): (usize, &Found)| {
            found.iter().enumerate().any(|(other, another)| other != index && another.explains(one))
        };
        let told: Vec<bool> = found.iter().enumerate().map(told).collect();
        found.into_iter().zip(told).filter(|(_, told)| !told).map(|(found, _)| found).collect()
    }

    fn visit(&mut self, someone: Someone, waiting: &mut Vec<Someone>) {
        if *self.budget == 0 || !self.seen.insert(someone.id()) {
            return;
        }
        let (before, after) = (self.first.answer(&someone, self.facts), self.second.answer(&someone, self.facts));
        let (little, much) = (grade(before), grade(after));
        let further = if little == 0 && much == 2 { Vec::new() } else { self.steps(&someone, little, much) };
        if much > little || much == little && much == 1 {
            self.found.push(Found { someone, before, after });
        }
        let looked_at = self.refused_by.len() + self.granted_by.len() + self.narrowed_by.len();
        *self.budget = self.budget.saturating_sub(1 + looked_at + further.len());
        waiting.extend(further);
    }

    /// Everybody who includes somebody, and may get less on the first side or more on the second.
    fn steps(&self, someone: &Someone, little: u8, much: u8) -> Vec<Someone> {
        let on_first = |rule: &Rule| self.first.counts(rule, someone, self.facts);
        let on_second = |rule: &Rule| self.second.counts(rule, someone, self.facts);
        let mut more: Vec<&Someone> = Vec::new();
        if much < 2 {
            let refuses = self.narrowed_by.iter().find(|(voice, _)| on_second(&voice.rule));
            more.extend(refuses.into_iter().flat_map(|(voice, _)| voice.excepted()));
        }
        if little > 0 {
            let changed = || self.refused_by.iter().filter(|(_, changed)| *changed);
            // One that is about them already is enough, unless there is a surer one.
            let some = changed().any(|(voice, _)| on_first(&voice.rule));
            let surer = |rule: &Rule| little == 2 || rule.effect == Effect::Deny && rule.when.is_none();
            let further = changed().filter(|(voice, _)| !some && !on_first(&voice.rule) || surer(&voice.rule));
            more.extend(further.flat_map(|(voice, _)| voice.people()));
            let grants = self.granted_by.iter().find(|(voice, _)| on_first(&voice.rule));
            more.extend(grants.into_iter().flat_map(|(voice, _)| voice.excepted()));
        }
        more.into_iter().filter_map(|other| someone.and(other)).collect()
    }
}
