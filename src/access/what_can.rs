//! What one principal can do, at every server.
//!
//! Invariant: the rows are those that [`super::who_can`] would have of this principal, and nothing more is known of it than
//! is asked: it is in no further group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::Answer;
use super::cast::{Accepted, Reading, Someone};
use super::side::Side;
use super::targets::{Inventories, MOST_PAIRS, refusing_lock, targets};
use super::who_can::Row;
use crate::fleet::{Fleet, Served};
use crate::generated::policy::Effect;
use crate::identity::principal::Kind;
use crate::policy::request::Facts;
use crate::policy::rule::Rule;

/// Whom the question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whom {
    /// The authority that vouches for it.
    pub authority: String,
    /// Its kind and subject; `None`: whoever is in the groups.
    pub subject: Option<(Kind, String)>,
    /// Its groups.
    pub groups: Vec<String>,
}

/// One thing that somebody can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// `namespace/name` of the server.
    pub server: String,
    /// The rest, as `who-can` says it.
    #[serde(flatten)]
    pub row: Row,
}

/// Everything that somebody can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answers {
    /// What is allowed, needs an approval, or depends on a condition.
    pub grants: Vec<Grant>,
    /// Servers that accept the principal's tokens and refuse every call, with the reason.
    pub refused: BTreeMap<String, String>,
    /// Servers whose tools nobody here knows: patterns stand for them.
    pub unknown: BTreeSet<String>,
    /// Servers with too many patterns to say what is answered where two of them meet.
    pub crowded: BTreeSet<String>,
}

/// Asks every server. Nobody is a ServiceAccount in further groups: there is no answer then.
pub fn what_can(fleet: &Fleet, whom: &Whom, inventories: &Inventories, facts: &Facts) -> Answers {
    let subject = whom.subject.as_ref().map(|(kind, name)| (*kind, name.as_str()));
    let groups = whom.groups.iter().map(String::as_str);
    let someone = Someone::new(&whom.authority, subject, groups, None, None, Reading::Widens);
    let accepted: Accepted = Arc::new(BTreeSet::from([whom.authority.clone()]));
    let mut answers = Answers::default();
    let accepts = |served: &Served<'_>| served.server.authorities.contains(&whom.authority);
    for served in fleet.servers().filter(accepts) {
        let name = served.server.id.display_name();
        let side = Side::of(Some(served), &accepted);
        if let Some(why) = &side.refused {
            answers.refused.insert(name, why.clone());
            continue;
        }
        let rules: Vec<&Rule> = side.rules().filter(|rule| rule.holds_at(facts.now)).collect();
        let inventory = inventories.get(&name).map(Vec::as_slice);
        let people: Vec<Someone> = someone.iter().flat_map(|someone| in_every_way(someone, &side)).collect();
        let targets = targets(&rules, inventory, &[served.server], MOST_PAIRS);
        answers.crowded.extend((!targets.whole).then(|| name.clone()));
        for asked in &targets.asked {
            let rows = people.iter().map(|someone| side.row(someone, asked, facts));
            let mut rows: Vec<Row> = rows.filter(|row| row.answer != Answer::Deny).collect();
            // Through a client or for an actor where that is more than without.
            let alone = rows.iter().find(|row| row.via.is_none() && row.actor.is_none()).map(|row| row.answer);
            rows.retain(|row| row.via.is_none() && row.actor.is_none() || alone.is_none_or(|alone| row.answer < alone));
            answers.grants.extend(rows.into_iter().map(|row| Grant { server: name.clone(), row }));
        }
        if inventory.is_none() && refusing_lock(served.server).is_none() {
            answers.unknown.insert(name);
        }
    }
    answers.grants.sort();
    answers.grants.dedup();
    answers.unknown.retain(|server| answers.grants.iter().any(|grant| grant.server == *server));
    answers
}

/// Somebody alone, and through every client and for every actor of which a grant speaks.
fn in_every_way(someone: &Someone, side: &Side<'_>) -> Vec<Someone> {
    let grants = side.voices.iter().filter(|voice| voice.rule.effect == Effect::Allow);
    let ways = grants.flat_map(|voice| voice.people()).filter_map(|other| someone.acting_as(other));
    std::iter::once(someone.clone()).chain(ways).collect()
}
