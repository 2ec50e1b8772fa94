//! Whom rules speak of: whoever is what an entry asks for and nothing more, and whoever is several of them at once.
//!
//! Invariant: what an entry matches of all callers is what one of its someones is part of; and nobody is here who cannot be,
//! such as a ServiceAccount in a group of people. An actor is one of the token's own issuer.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::generated::policy::{ActorMatch, Effect, PrincipalMatch, shown_client};
use crate::identity::principal::{Actor, Groups, Kind, Principal};
use crate::policy::index::PrincipalKeys;
use crate::policy::rule::{Rule, subject};

/// A subject that no rule names: rules name people, and this has a control character.
const NOBODY: &str = "\0somebody";

/// How an entry is read (design 3): what it leaves out must be absent where a match widens what is allowed, and may be
/// anything elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Widens,
    Narrows,
}

/// Whoever is what a matcher asks for, and nothing more.
#[derive(Clone, Debug)]
pub(super) struct Someone {
    /// `user:alice+group:dev@corp`, and so on.
    pub(super) name: String,
    pub(super) principal: Principal,
    pub(super) keys: PrincipalKeys,
    /// Whether a particular subject is meant.
    particular: bool,
    reading: Reading,
}

/// What an entry can name of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    User,
    Client,
    Account,
    Group,
    Actor,
}

/// What tells one someone from another.
pub(super) type Id = (String, Option<Box<str>>, Option<Box<str>>);

/// A rule and everybody that it speaks of: found out when somebody asks, since most rules do not matter to a question.
pub(super) struct Voice {
    pub(super) rule: Arc<Rule>,
    accepted: Accepted,
    people: OnceCell<Vec<Someone>>,
    excepted: OnceCell<Vec<Someone>>,
    cut: Cell<bool>,
}

/// How many somebodies are made of one side of a rule. An entry is about every combination of its fields' values.
const MOST: usize = 4096;

/// The authorities whose tokens are accepted: nobody else gets as far as a rule.
pub(super) type Accepted = Arc<BTreeSet<String>>;

impl Voice {
    pub(super) fn of(rule: Arc<Rule>, accepted: &Accepted) -> Self {
        let accepted = Arc::clone(accepted);
        Self { rule, accepted, people: OnceCell::new(), excepted: OnceCell::new(), cut: Cell::new(false) }
    }

    /// Whether it spoke of more than could be looked at.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Whom the rule is about.
    pub(super) fn people(&self) -> &[Someone] {
        let widens = self.rule.effect == Effect::Allow;
        self.people.get_or_init(|| self.everybody(&self.rule.source().principals, widens))
    }

    /// Whom it excepts.
    pub(super) fn excepted(&self) -> &[Someone] {
        let widens = self.rule.effect != Effect::Allow;
        self.excepted.get_or_init(|| self.everybody(&self.rule.source().except, widens))
    }

    fn everybody(&self, entries: &[PrincipalMatch], widens: bool) -> Vec<Someone> {
        let reading = if widens { Reading::Widens } else { Reading::Narrows };
        let mut people = Vec::new();
        for entry in entries {
            let meant = |name: &&String| entry.authority.as_ref().is_none_or(|only| only == *name);
            let authorities = self.accepted.iter().filter(meant);
            for authority in authorities {
                if people.len() + Someone::count(entry) > MOST {
                    self.cut.set(true);
                    return people;
                }
                people.extend(Someone::all_of(entry, authority, reading));
            }
        }
        people
    }
}

impl Someone {
    /// How many combinations the fields' entries have, at least.
    fn count(entry: &PrincipalMatch) -> usize {
        let actors = match &entry.actor {
            Some(ActorMatch::Subjects(subjects)) => subjects.len(),
            Some(ActorMatch::Any) | None => 1,
        };
        let lists = [entry.users.len() + entry.clients.len(), entry.groups.len(), entry.via.len(), actors];
        lists.into_iter().map(|length| length.max(1)).fold(1, usize::saturating_mul)
    }

    /// One for every combination of the fields' entries.
    fn all_of(entry: &PrincipalMatch, authority: &str, reading: Reading) -> Vec<Self> {
        let mut subjects: Vec<(Kind, Option<String>)> =
            entry.users.iter().map(|u| (Kind::User, Some(u.clone()))).collect();
        subjects.extend(entry.clients.iter().map(|c| (Kind::Client, Some(c.clone()))));
        subjects.extend(entry.service_account.iter().map(|account| (Kind::ServiceAccount, Some(subject(account)))));
        if subjects.is_empty() {
            subjects.push((Kind::User, None));
        }
        let actors: Vec<Option<&str>> = match &entry.actor {
            None => vec![None],
            Some(ActorMatch::Any) => vec![Some("*")],
            Some(ActorMatch::Subjects(subjects)) => subjects.iter().map(|s| Some(s.as_str())).collect(),
        };
        let mut people = Vec::new();
        for (kind, subject) in &subjects {
            for group in or_none(&entry.groups) {
                for via in or_none(&entry.via) {
                    for actor in &actors {
                        let subject = subject.as_deref().map(|subject| (*kind, subject));
                        people.extend(Self::new(authority, subject, group, via, *actor, reading));
                    }
                }
            }
        }
        people
    }

    /// Whoever is all of this and nothing more, if anybody can be.
    pub(super) fn new<'g>(
        authority: &str,
        subject: Option<(Kind, &str)>,
        groups: impl IntoIterator<Item = &'g str>,
        via: Option<&str>,
        actor: Option<&str>,
        reading: Reading,
    ) -> Option<Self> {
        let mut groups: BTreeSet<Box<str>> = groups.into_iter().map(Box::from).collect();
        let (kind, name) = subject.unwrap_or((Kind::User, NOBODY));
        if kind == Kind::ServiceAccount {
            groups.extend(own_groups(name));
        }
        let client = match kind {
            Kind::Client => Some(name),
            Kind::User | Kind::ServiceAccount => via,
        };
        let principal = Principal {
            authority: authority.into(),
            issuer: "".into(),
            tenant: None,
            subject: name.into(),
            kind,
            client: client.map(Box::from),
            groups: Groups::Known(groups.into_iter().collect()),
            actor: actor.map(|actor| Actor { subject: actor.into(), issuer: None }),
        };
        let agrees = via.is_none() || principal.client.as_deref() == via;
        Self::of(principal, subject.is_some(), reading).filter(|_| agrees)
    }

    fn of(principal: Principal, particular: bool, reading: Reading) -> Option<Self> {
        if principal.kind == Kind::ServiceAccount {
            // It comes through no client, in the groups that Kubernetes gives it.
            let own = own_groups(&principal.subject);
            let Groups::Known(groups) = &principal.groups else { return None };
            if principal.client.is_some() || groups.iter().any(|group| !own.contains(group)) {
                return None;
            }
        }
        let (name, keys) = (name(&principal, particular), PrincipalKeys::of(&principal));
        Some(Self { name, principal, keys, particular, reading })
    }

    /// Whoever is both, if anybody can be. `self` says whether somebody acts; an entry that narrows leaves that open.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        let (a, b) = (&self.principal, &other.principal);
        let agree = |a: &Option<Box<str>>, b: &Option<Box<str>>| a.is_none() || b.is_none() || a == b;
        let one_subject = !(self.particular && other.particular) || a.subject == b.subject && a.kind == b.kind;
        if a.authority != b.authority || !one_subject || !agree(&a.client, &b.client) {
            return None;
        }
        let actor = match (&a.actor, &b.actor) {
            (None, None) => None,
            (Some(actor), None) if other.reading == Reading::Narrows => Some(actor),
            (Some(one), Some(two)) if *two.subject == *"*" || one.subject == two.subject => Some(one),
            (Some(one), Some(two)) if *one.subject == *"*" => Some(two),
            _ => return None,
        };
        let groups = match (&a.groups, &b.groups) {
            (Groups::Known(of_a), Groups::Known(of_b)) => {
                let both: BTreeSet<Box<str>> = of_a.iter().chain(of_b).cloned().collect();
                Groups::Known(both.into_iter().collect())
            }
            // Unknown groups are as good as all of them for what narrows, and as none for what widens.
            (Groups::Unknown, Groups::Known(wanted)) if other.reading == Reading::Widens && !wanted.is_empty() => {
                return None;
            }
            (Groups::Unknown, _) | (_, Groups::Unknown) => Groups::Unknown,
        };
        let who = if self.particular { a } else { b };
        let principal = Principal {
            client: a.client.clone().or_else(|| b.client.clone()),
            groups,
            actor: actor.cloned(),
            ..who.clone()
        };
        Self::of(principal, self.particular || other.particular, self.reading)
    }

    /// The same through the client and for the actor of `other`, where no more than that is asked of them.
    pub(super) fn acting_as(&self, other: &Self) -> Option<Self> {
        let bare = Principal { client: None, actor: None, ..other.principal.clone() };
        if !(Self { principal: bare, ..other.clone() }.is_part_of(self)) {
            return None;
        }
        let client = self.principal.client.clone().or_else(|| other.principal.client.clone());
        let principal = Principal { client, actor: other.principal.actor.clone(), ..self.principal.clone() };
        Self::of(principal, self.particular, self.reading)
    }

    /// The same with groups that nobody knows, unless a group is all that makes it somebody.
    pub(super) fn of_unknown_groups(&self) -> Option<Self> {
        let Groups::Known(groups) = &self.principal.groups else { return None };
        let principal = Principal { groups: Groups::Unknown, ..self.principal.clone() };
        Self::of(principal, self.particular, self.reading).filter(|_| groups.is_empty())
    }

    /// Whether everybody who is `other` is this too, as far as can be said of unknown groups.
    pub(super) fn is_part_of(&self, other: &Self) -> bool {
        let (a, b) = (&self.principal, &other.principal);
        a.authority == b.authority
            && (!self.particular || a.kind == b.kind && a.subject == b.subject)
            && (a.client.is_none() || a.client == b.client)
            && match (&a.actor, &b.actor) {
                (None, None) => true,
                (Some(a), Some(b)) => *a.subject == *"*" || a.subject == b.subject,
                _ => false,
            }
            && match (&a.groups, &b.groups) {
                (_, Groups::Unknown) => true,
                (Groups::Unknown, Groups::Known(_)) => false,
                (Groups::Known(a), Groups::Known(b)) => a.iter().all(|group| b.contains(group)),
            }
    }

    pub(super) fn id(&self) -> Id {
        let actor = self.principal.actor.as_ref().map(|actor| actor.subject.clone());
        (self.name.clone(), self.principal.client.clone(), actor)
    }

    /// What makes somebody who they are, their authority apart.
    pub(super) fn parts(&self) -> Vec<(Part, &str)> {
        let Principal { subject, kind, client, groups, actor, .. } = &self.principal;
        let of_subject = match kind {
            Kind::User => Part::User,
            Kind::Client => Part::Client,
            Kind::ServiceAccount => Part::Account,
        };
        let subject = self.particular.then_some((of_subject, &**subject));
        let account = *kind == Kind::ServiceAccount;
        let groups = match groups {
            Groups::Known(groups) if !account => &**groups,
            Groups::Known(_) | Groups::Unknown => &[],
        };
        let groups = groups.iter().map(|group| (Part::Group, &**group));
        let client = client.as_deref().map(|client| (Part::Client, client));
        let actor = actor.as_ref().map(|actor| &*actor.subject).filter(|subject| *subject != "*");
        subject.into_iter().chain(groups).chain(client).chain(actor.map(|actor| (Part::Actor, actor))).collect()
    }

    /// The client through which it comes, where that is not itself, as people are told it.
    pub(super) fn via(&self) -> Option<&str> {
        let client = self.principal.client.as_deref().filter(|_| self.principal.kind != Kind::Client);
        client.map(shown_client)
    }

    /// The same, perhaps in further groups. A ServiceAccount is in none.
    pub(super) fn perhaps_in_groups(&self) -> Principal {
        match self.principal.kind {
            Kind::ServiceAccount => self.principal.clone(),
            Kind::User | Kind::Client => Principal { groups: Groups::Unknown, ..self.principal.clone() },
        }
    }
}

/// The groups that a ServiceAccount is in by itself.
fn own_groups(subject: &str) -> Vec<Box<str>> {
    let namespace = subject.split(':').nth(2).unwrap_or_default();
    match Groups::of_service_account(namespace) {
        Groups::Known(groups) => groups.into(),
        Groups::Unknown => Vec::new(),
    }
}

fn or_none(names: &[String]) -> Vec<Option<&str>> {
    if names.is_empty() { vec![None] } else { names.iter().map(|name| Some(name.as_str())).collect() }
}

/// `user:alice+group:dev@corp`, and so on.
fn name(principal: &Principal, particular: bool) -> String {
    let mut parts = Vec::new();
    if particular {
        parts.push(match principal.kind {
            Kind::User => format!("user:{}", principal.subject),
            Kind::Client => format!("client:{}", principal.subject),
            Kind::ServiceAccount => {
                let account = principal.subject.trim_start_matches("system:serviceaccount:").replace(':', "/");
                format!("serviceaccount:{account}")
            }
        });
    }
    match &principal.groups {
        Groups::Known(groups) => {
            let is_account = particular && principal.kind == Kind::ServiceAccount;
            let own = if is_account { own_groups(&principal.subject) } else { Vec::new() };
            parts.extend(groups.iter().filter(|group| !own.contains(group)).map(|group| format!("group:{group}")));
        }
        Groups::Unknown => parts.push("group:?".to_owned()),
    }
    if parts.is_empty() {
        parts.push("any".to_owned());
    }
    format!("{}@{}", parts.join("+"), principal.authority)
}
