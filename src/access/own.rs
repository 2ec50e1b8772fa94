//! What the rules of a server's own namespace name: whoever writes them knows it.
//!
//! Invariant: what only guardrails name is not in it: neither a principal, a group that they except, a client, an actor, nor a
//! time.

use std::collections::BTreeSet;

use super::cast::{Part, Someone};
use super::side::Side;
use crate::generated::policy::{ActorMatch, PrincipalMatch};
use crate::policy::rule::subject;

/// Parts of principals, and times.
pub(super) struct Own {
    parts: BTreeSet<(Part, String)>,
    times: BTreeSet<i64>,
}

impl Own {
    pub(super) fn of(sides: [&Side<'_>; 2]) -> Self {
        let mut own = Self { parts: BTreeSet::new(), times: BTreeSet::new() };
        for rule in sides.iter().flat_map(|side| side.rules()).filter(|rule| !rule.guardrail) {
            let source = rule.source();
            source.principals.iter().chain(&source.except).for_each(|entry| own.entry(entry));
            own.times.extend([source.not_before, source.not_after].into_iter().flatten());
        }
        own
    }

    fn entry(&mut self, entry: &PrincipalMatch) {
        let account = entry.service_account.as_ref().map(subject);
        let subjects = match &entry.actor {
            Some(ActorMatch::Subjects(subjects)) => subjects.as_slice(),
            Some(ActorMatch::Any) | None => &[],
        };
        let lists = [
            (Part::User, entry.users.as_slice()),
            (Part::Client, &entry.clients),
            (Part::Client, &entry.via),
            (Part::Group, &entry.groups),
            (Part::Account, account.as_slice()),
            (Part::Actor, subjects),
        ];
        for (part, names) in lists {
            self.parts.extend(names.iter().map(|name| (part, name.clone())));
        }
    }

    /// Whether all that makes somebody who they are is in a rule of the namespace.
    pub(super) fn names(&self, someone: &Someone) -> bool {
        someone.parts().into_iter().all(|(part, name)| self.parts.contains(&(part, name.to_owned())))
    }

    pub(super) fn has_time(&self, time: i64) -> bool {
        self.times.contains(&time)
    }
}
